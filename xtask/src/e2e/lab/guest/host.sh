# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2034,SC2154

# The emulated host: KVM, machines that run on it, and what its kernel counts of
# them. What happens there follows behind this; /settings says how.
#
# All machines share one processor, which is emulated. So what only waits does
# it without starting programs.

. /settings
mkdir -p /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug || fail "mounting debugfs"
mount -t tracefs tracefs /sys/kernel/tracing || fail "mounting tracefs"
[ -c /dev/kvm ] || fail "no /dev/kvm"
# What comes there is only to interrupt.
stty -echo </dev/console
say "the host is up, with /dev/kvm"
cd /run || fail "no /run"
# For the memory of a VM: each page of it that is touched is an exit, and exits are
# what takes time here.
echo 128 >/proc/sys/vm/nr_hugepages
mkfifo nothing
exec 9<>nothing
return=$(printf '\r')
# How many seconds mean that something hangs. Nothing takes a tenth of them on a
# machine that has nothing else to do.
PATIENCE=300

# open_logs: a machine's input is NAME.in, its output NAME.log, which goes to a
# serial port of the host, too. There are three, to be read as 3, 4 and 5.
open_logs() {
    for name in backend frontend peer; do
        mkfifo $name.in
        : >$name.log
    done
    tail -f backend.log >/dev/ttyS1 &
    tail -f frontend.log >/dev/ttyS2 &
    tail -f peer.log >/dev/ttyS3 &
    exec 3<backend.log 4<frontend.log 5<peer.log
}

# nap: a moment, without a program.
nap() {
    read -r -t 0.1 _ <&9
}

# clock: seconds since the start, as $now.
clock() {
    read -r now _ </proc/uptime
    now=${now%.*}
}

# alive PROCESS: also tells a zombie from it, which kill does not.
alive() {
    read -r _ _ state _ 2>/dev/null <"/proc/$1/stat" && [ "$state" != Z ]
}

# next_line NAME: the next line of a log, as $line, if it is whole.
next_line() {
    case $1 in
    backend)
        if IFS= read -r line <&3; then
            line=$backend_part$line
            line=${line%"$return"}
            backend_part=
        else
            backend_part=$backend_part$line
            false
        fi
        ;;
    frontend)
        if IFS= read -r line <&4; then
            line=$frontend_part$line
            line=${line%"$return"}
            frontend_part=
        else
            frontend_part=$frontend_part$line
            false
        fi
        ;;
    peer)
        if IFS= read -r line <&5; then
            line=$peer_part$line
            line=${line%"$return"}
            peer_part=
        else
            peer_part=$peer_part$line
            false
        fi
        ;;
    esac
}

# look NAME PATTERN: reads a log on, up to a line with the pattern: $line then.
look() {
    while next_line "$1"; do
        # shellcheck disable=SC2254
        case $line in
        *"e2e: failed"*) fail "$1: ${line#*e2e: failed: }" ;;
        *"e2e: count "*) say "${line#*e2e: }" ;;
        *$2*) return 0 ;;
        esac
    done
    return 1
}

# await NAME PATTERN SECONDS PROCESS: reads a log on, up to a line with the
# pattern. It is a failure if it does not come, or if the process ends without.
await() {
    clock
    deadline=$((now + $3))
    until look "$1" "$2"; do
        if ! alive "$4"; then
            wait "$4"
            code=$?
            look "$1" "$2" || fail "$1 has ended with $code and not said '$2'"
            return
        fi
        clock
        [ "$now" -lt $deadline ] || fail "$1 has not said '$2' within $3 s"
        nap
    done
}

# await_end NAME PROCESS: a VMM ends with its guest, by itself.
await_end() {
    clock
    deadline=$((now + PATIENCE))
    while alive "$2"; do
        clock
        [ "$now" -lt $deadline ] || fail "$1 does not end with its guest"
        nap
    done
    wait "$2" || fail "$1 has ended with $?"
}

# await_socket PATH PROCESS
await_socket() {
    clock
    deadline=$((now + PATIENCE))
    until [ -S "$1" ]; do
        alive "$2" || fail "the process that had to make $1 has ended"
        clock
        [ "$now" -lt $deadline ] || fail "nobody has made $1"
        nap
    done
}

# start_frontend ROLES [OPTION [OPTION]]: a stock VM, whose disk is disk.sock, with an
# option for the socket and one for the disk. It has what a kernel would only spend
# time on left out; that would look for devices on 256 buses.
start_frontend() {
    memory=,hugetlb=on,hugetlbsize=2M socket=$2 disk=$3
    documented_qemu -machine sata=off,smbus=off,i8042=off,vmport=off \
        -L /usr/share/qemu -L /usr/share/seabios \
        -append "console=ttyS0 panic=-1 quiet pci=lastbus=0 roles=$1 count=$COUNT" \
        <>frontend.in >>frontend.log 2>&1 &
    frontend=$!
}

# heard TEXT: what the frontend's guest says behind it, as $line.
heard() {
    await frontend "e2e: $1" $PATIENCE $frontend
    line=${line#*e2e: "$1"}
    line=${line# }
}

end_frontend() {
    await frontend "e2e: done" $PATIENCE $frontend
    wait $frontend || fail "QEMU: $?"
}

# trace SIGN: counts events by thread (nothing), or does so no more (!).
trace() {
    while read -r event filter; do
        echo "$1hist:keys=common_pid $filter" >"/sys/kernel/tracing/events/$event/trigger" ||
            fail "tracing $event"
    done <<EOF
raw_syscalls/sys_enter
kvm/kvm_userspace_exit
kvm/kvm_mmio if type == 0
kvm/kvm_msi_set_irq if data == $KICK_DATA
EOF
}

# traced EVENT PID
traced() {
    awk -v pid="$2" '/hitcount/ { gsub(/[{}:,]/, " "); if ($2 == pid) { print $4; found = 1 } }
        END { if (!found) print 0 }' "/sys/kernel/tracing/events/$1/hist"
}

# The data of the message that the backend's guest lets kicks be sent as.
KICK_DATA=242

# all_sleep VMM: whether no thread of a VMM is busy, but for its vCPU.
all_sleep() {
    for task in "/proc/$1/task/"*; do
        read -r name <"$task/comm"
        read -r _ _ state _ <"$task/stat"
        case $name:$state in
        vcpu*:* | *:S) ;;
        *) return 1 ;;
        esac
    done
}

# no_spare VMM: those of the device's threads that have nothing to do have ended, as
# they do after a second.
no_spare() {
    for task in "/proc/$1/task/"*; do
        read -r name <"$task/comm" || continue
        case $name in
        vhost-guest-fd | vhost-guest-mem | vhost-guest-map | vhost-guest-sig | vhost-guest-res)
            return 1
            ;;
        esac
    done
}

# snapshot WHEN VMM: all that the kernel can tell of a VMM, while it is traced;
# before or after something. Exits are counted within the time in which reads of
# registers are, so that no read can be taken for another exit.
snapshot() {
    case $1 in
    before)
        until all_sleep "$2" && no_spare "$2"; do nap; done
        order="register_reads userspace_exits"
        ;;
    *) order="userspace_exits register_reads" ;;
    esac
    for task in "/proc/$2/task/"*; do
        id=${task##*/}
        read -r name <"$task/comm"
        name=${name%% *}.$id
        awk -v name="$name" -v when="$1" '/ctxt_switches/ { sub(":", "", $1); print "e2e: count", when, "thread." name "." $1, $2 }' \
            "$task/status"
        say "count $1 thread.$name.system_calls $(traced raw_syscalls/sys_enter "$id")"
        for counter in $order; do
            case $counter in
            register_reads) event=kvm/kvm_mmio ;;
            *) event=kvm/kvm_userspace_exit ;;
            esac
            say "count $1 thread.$name.$counter $(traced $event "$id")"
        done
    done
    say "count $1 host.kicks $(awk '/Hits:/ { print $2 }' /sys/kernel/tracing/events/kvm/kvm_msi_set_irq/hist)"
    for name in exits mmio_exits signal_exits; do
        for file in /sys/kernel/debug/kvm/"$2"-*/$name; do
            [ -e "$file" ] && read -r value <"$file" && say "count $1 kvm.$name $value"
        done
    done
}

# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The emulated host: KVM, a VMM with the guest that serves the disk, and stock
# QEMUs that use it. /settings says how.

. /settings
mkdir -p /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug || fail "mounting debugfs"
mount -t tracefs tracefs /sys/kernel/tracing || fail "mounting tracefs"
[ -c /dev/kvm ] || fail "no /dev/kvm"
say "the host is up, with /dev/kvm"
cd /run || fail "no /run"

# follow NAME TTY: what NAME's log gets goes to a serial port of the host too.
follow() {
    mkfifo "$1.in"
    : >"$1.log"
    tail -f "$1.log" >"/dev/$2" &
}

# has LOG TEXT FROM: whether LOG has TEXT, behind its line FROM.
has() {
    tail -n "+$(($3 + 1))" "$1.log" | grep -q "$2"
}

lines() {
    wc -l <"$1.log"
}

now() {
    read -r seconds _ </proc/uptime
    echo "${seconds%.*}"
}

# await LOG TEXT SECONDS FROM PROCESS: waits until LOG has TEXT, but not if its
# process has ended without.
await() {
    deadline=$(($(now) + $3))
    until has "$1" "$2" "$4"; do
        has "$1" "e2e: failed" "$4" && fail "$1: $(grep 'e2e: failed' "$1.log" | tail -n 1)"
        if ! kill -0 "$5" 2>/dev/null; then
            wait "$5"
            code=$?
            has "$1" "$2" "$4" || fail "$1 has ended with $code and not said '$2'"
        fi
        [ "$(now)" -lt $deadline ] || fail "$1 has not said '$2' within $3 s"
        usleep 50000
    done
}

# start_backend [OPTION]: with an option for the VMM.
start_backend() {
    backend_from=$(lines backend)
    case "$BACKEND" in
    kvm)
        kvm --kernel /lab/vmlinuz --initramfs /lab/backend.initramfs --memory 256M \
            --cmdline "quiet $CMDLINE" --vhost-guest socket=disk.sock,queues=1,window=1G \
            "$@" <>backend.in >>backend.log 2>&1 &
        backend=$!
        await backend "backend: serving" 60 "$backend_from" $backend
        ;;
    *)
        truncate -s 32M /tmp/disk.img
        qemu-storage-daemon --blockdev driver=file,node-name=disk,filename=/tmp/disk.img \
            --export "type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path=disk.sock" \
            >>backend.log 2>&1 &
        backend=$!
        left=200
        until [ -S disk.sock ]; do
            left=$((left - 1))
            [ $left -gt 0 ] || fail "qemu-storage-daemon does not listen"
            usleep 50000
        done
        ;;
    esac
}

# start_frontend ROLE
start_frontend() {
    frontend_from=$(lines frontend)
    qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 256 -L /usr/share/qemu -L /usr/share/seabios \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio \
        -object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
        -chardev socket,id=disk,path=disk.sock -device vhost-user-blk-pci,chardev=disk,num-queues=1 \
        -kernel /lab/vmlinuz -initrd /lab/frontend.initramfs \
        -append "console=ttyS0 panic=-1 quiet role=$1 count=$COUNT" \
        <>frontend.in >>frontend.log 2>&1 &
    frontend=$!
}

end_frontend() {
    await frontend "e2e: done" 90 "$frontend_from" $frontend
    wait $frontend || fail "QEMU: $?"
}

# heard PATTERN: the last thing that the frontend's guest has said like this.
heard() {
    tail -n "+$((frontend_from + 1))" frontend.log | tr -d '\r' | grep "e2e: $1" | tail -n 1
}

# What the backend has counted, when it is asked.
ask_backend() {
    from=$(lines backend)
    echo >backend.in
    # The line is whole when something follows its last number.
    await backend "backend: frontends=.* interrupts=[0-9]*[^0-9]" 20 "$from" $backend
    tail -n "+$((from + 1))" backend.log | tr -d '\r' | sed -n 's/.*backend: frontends=/frontends=/p' |
        tr ' =' '\n ' | while read -r name value; do
        say "count $1 backend.$name $value"
    done
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

# All that the host can tell of the backend's VMM.
snapshot() {
    for task in /proc/$backend/task/*; do
        name="$(cat "$task/comm").${task##*/}"
        id=${task##*/}
        awk -v name="$name" -v when="$1" '/ctxt_switches/ { sub(":", "", $1); print "e2e: count", when, "thread." name "." $1, $2 }' \
            "$task/status"
        say "count $1 thread.$name.system_calls $(traced raw_syscalls/sys_enter "$id")"
        say "count $1 thread.$name.register_reads $(traced kvm/kvm_mmio "$id")"
        say "count $1 thread.$name.userspace_exits $(traced kvm/kvm_userspace_exit "$id")"
    done
    say "count $1 host.kicks $(awk '/Hits:/ { print $2 }' /sys/kernel/tracing/events/kvm/kvm_msi_set_irq/hist)"
    for name in exits mmio_exits signal_exits; do
        for file in /sys/kernel/debug/kvm/$backend-*/$name; do
            [ -e "$file" ] && say "count $1 kvm.$name $(cat "$file")"
        done
    done
}

# measure NAME: requests one by one, between two snapshots.
measure() {
    start_frontend measure
    await frontend "e2e: ready" 90 "$frontend_from" $frontend
    ask_backend before
    trace ''
    usleep 300000
    snapshot before
    echo go >frontend.in
    await frontend "e2e: over" 120 "$frontend_from" $frontend
    snapshot after
    trace '!'
    ask_backend after
    echo go >frontend.in
    end_frontend
    tail -n "+$((frontend_from + 1))" frontend.log | tr -d '\r' | grep -o 'e2e: count.*'
    say "$1"
}

follow backend ttyS1
follow frontend ttyS2
start_backend
say "the backend serves"

start_frontend fill
end_frontend
written=$(heard sum)
[ -n "$written" ] || fail "the frontend's guest said no sum"
say "filled ${written##* }"

start_frontend verify
end_frontend
found=$(heard sum)
[ "$written" = "$found" ] || fail "the frontend's guest wrote '$written' and found '$found'"
say "verified ${found##* }"

if [ "$BACKEND" = kvm ]; then
    measure measured

    timeout 60 /lab/truncate disk.sock >truncate.log 2>&1 || fail "the truncating frontend: $(cat truncate.log)"
    say "$(cat truncate.log)"
    await backend "frontend" 10 "$backend_from" $backend
    kill -0 $backend || fail "the backend's VMM has ended"
    start_frontend verify
    end_frontend
    found=$(heard sum)
    [ "$written" = "$found" ] || fail "the frontend's guest wrote '$written' and found '$found'"
    say "verified again ${found##* }"

    # The guest has no say in this: it is as if the power went.
    kill $backend
    wait $backend
    rm -f disk.sock
    start_backend --no-ioeventfd
    measure "control measured"
fi

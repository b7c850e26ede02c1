# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# What happens on the emulated host: two stock VMs have network cards, which testpmd
# connects; first here, as a control, and then in a guest.

# start_backend: what has the sockets of the cards.
start_backend() {
    case $way in
    control)
        start_testpmd testpmd.in >>backend.log 2>&1
        backend=$testpmd
        ;;
    guest)
        rm -f card?.sock
        politely kvm --kernel /lab/vmlinuz --initramfs /lab/backend.initramfs --memory 384M --cmdline quiet \
            --vhost-guest socket=card0.sock,queues=4 \
            --vhost-guest socket=card1.sock,queues=4 <>backend.in >>backend.log 2>&1 &
        backend=$!
        ;;
    esac
    connected
}

# connected: there is a backend for each card.
connected() {
    for number in 0 1; do
        case $way in
        control) await_socket card$number.sock $backend ;;
        guest) await backend "a backend is connected" $PATIENCE $backend ;;
        esac
    done
}

# testpmd COMMAND ANSWER
testpmd() {
    case $way in
    control) echo "$1" >testpmd.in ;;
    guest) echo "testpmd $1" >backend.in ;;
    esac
    await backend "$2" $PATIENCE $backend
}

# forward: what one card sends goes to the other, from now on.
forward() {
    testpmd start "packet forwarding - "
}

# restart: kills the backend, and waits for the next.
restart() {
    case $way in
    control)
        kill -9 $backend
        wait $backend
        start_backend
        ;;
    guest)
        echo restart >backend.in
        connected
        ;;
    esac
    forward
}

# start_card NAME NUMBER ADDRESS [OPTION...]: a stock VM, whose card comes back when its
# backend does. Its process is $NAME, and it has a monitor.
start_card() {
    name=$1
    socket=card$2.sock
    address=$3
    shift 3
    monitor=$name.$((monitors += 1))
    mkfifo $monitor.in $monitor.out
    cat $monitor.out >$monitor.log &
    documented_card -machine sata=off,smbus=off,i8042=off,vmport=off -smp 2 \
        -L /usr/share/qemu -L /usr/share/seabios \
        -chardev pipe,id=monitor,path=$monitor -mon chardev=monitor,mode=readline \
        -append "console=ttyS0 panic=-1 quiet pci=lastbus=0 maxcpus=1 address=$address" \
        "$@" <>"$name.in" >>"$name.log" 2>&1 &
    eval "$name=$! ${name}_monitor=$monitor"
}

# monitor NAME COMMAND
monitor() {
    eval "echo '$2' >\$${1}_monitor.in"
}

# hear NAME TEXT: what a guest says behind it, as $line.
hear() {
    eval "await $1 'e2e: $2' $PATIENCE \$$1"
    line=${line#*e2e: "$2"}
    line=${line# }
}

# order NAME TEXT ANSWER
order() {
    echo "$2" >"$1.in"
    hear "$1" "$3"
}

# count WHEN: what runs while the relay has to sleep.
count() {
    [ $way = guest ] || return
    if [ "$1" = before ]; then
        until no_spare $backend; do nap; done
    fi
    echo "count $1" >backend.in
    await backend "e2e: counted" $PATIENCE $backend
    for task in "/proc/$backend/task/"*; do
        read -r name <"$task/comm"
        case $name in
        vhost-guest*)
            awk -v name="thread.vhost-guest.${task##*/}" -v when="$1" '/ctxt_switches/ { n += $2 }
                END { print "e2e: count", when, name ".switches", n }' "$task/status"
            ;;
        esac
    done
}

# step TEXT
step() {
    clock
    say "step $way $((now - last)) s: $1"
    last=$now
}

# quietly TEXT COMMAND...: a step of which the relay knows nothing.
quietly() {
    what=$1
    shift
    order frontend reach reached
    count before
    "$@"
    count after
    [ $way = control ] || say "slept"
    step "$what"
}

ping_through() {
    order frontend "ping $1" answered
}

# transfer FROM TO
transfer() {
    order "$2" receive listening
    order "$1" send sent
    sent=$line
    hear "$2" received
    [ "$line" = "$sent" ] || fail "$1 sent $sent and $2 received $line"
}

# Either queue of a guest has to have got something.
ping_queues() {
    order peer "interrupts before" counted
    ping_through 56
    order peer "interrupts after" counted
    say "queues"
}

check_mtu() {
    for name in frontend peer; do
        order $name mtu mtu
        [ "$line" = "$MTU" ] || fail "the MTU is $line"
    done
    testpmd "show port info 0" "MTU: "
    [ "${line#*MTU: }" = "$MTU" ] || fail "testpmd knows another MTU: $line"
    # Without the headers of IP and ICMP.
    ping_through $((MTU - 28))
}

change_link() {
    monitor frontend "set_link net off"
    order frontend "carrier 0" "carrier 0"
    order peer silence silence
    monitor frontend "set_link net on"
    order frontend "carrier 1" "carrier 1"
}

change_port() {
    testpmd stop "Done."
    testpmd "port stop 0" "Done"
    order peer silence silence
    testpmd "port start 0" "Done"
    forward
}

# walk WAY: all that a network card has to do.
walk() {
    way=$1
    clock
    last=$now
    start_backend
    step "testpmd has two cards"
    start_card frontend 0 1
    start_card peer 1 2
    hear frontend ready
    hear peer ready
    forward
    step "two VMs have booted"
    quietly "both answer, through two pairs of queues" ping_queues
    quietly "frames of $MTU bytes, as testpmd was told" check_mtu
    quietly "16 MiB by TCP, one way" transfer frontend peer
    quietly "16 MiB by TCP, the other way" transfer peer frontend
    change_link
    quietly "link down and up" ping_through 56
    change_port
    quietly "testpmd's port stopped and started" ping_through 56
    kill -9 $frontend
    wait $frontend
    start_card frontend 0 1
    hear frontend ready
    quietly "frontend killed, and another one" ping_through 56
    restart
    quietly "testpmd killed, and another one" ping_through 56
    kill -9 $frontend $peer
    wait $frontend $peer
    case $way in
    guest)
        echo end >backend.in
        await backend "the relay has ended" $PATIENCE $backend
        ;;
    esac
    kill -9 $backend
    wait $backend
}

# All VMs that there are at a time, and one that was killed and may not be gone yet.
echo 256 >/proc/sys/vm/nr_hugepages
open_logs
mkfifo testpmd.in
monitors=0
for way in $WAYS; do
    walk "$way"
done

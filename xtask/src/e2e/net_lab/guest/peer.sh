# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# A guest with a network card; its kernel's command line says which of the two it
# is. The host says on the console what is to happen.

own=$(sed -n 's/.*address=\([0-9]*\).*/\1/p' /proc/cmdline)
other=$((3 - own))
card=/sys/class/net/eth0
mkfifo /nothing

# until_now CONDITION...: waits for it.
until_now() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 6000 ] || fail "not $*"
        usleep 20000
    done
}

# carrier STATE: whether the card has a carrier (1) or not (0).
carrier() {
    read -r state <$card/carrier && [ "$state" = "$1" ]
}

# answers SIZE: whether the other guest answers.
answers() {
    ping -q -c 1 -W 1 -s "$1" 10.9.0.$other >/dev/null
}

# interrupts WHEN: what each of the card's queues has raised.
interrupts() {
    awk -v when="$1" '/virtio[0-9]+-(in|out)put/ {
        sum = 0
        for (field = 2; $field ~ /^[0-9]+$/; field++) sum += $field
        sub(/.*-/, "", $NF)
        print "e2e: count", when, "card." $NF, sum
    }' /proc/interrupts
}

# listening: whether something waits for a connection at port 5000.
listening() {
    grep -q ':1388 0*:0000 0A' /proc/net/tcp /proc/net/tcp6
}

# A processor for each pair of queues. Two would take their time to boot where one has
# to play both.
rmmod virtio_net
echo 1 >/sys/devices/system/cpu/cpu1/online || fail "no second processor"
insmod /modules/virtio_net.ko || fail "insmod virtio_net"
until_now [ -e $card ]
ip link set lo up
ip address add 10.9.0.$own/24 dev eth0
ip link set eth0 up || fail "no eth0"
dd if=/dev/urandom of=/data bs=1M count=16 2>/dev/null
sent=$(sha256sum </data)

stty -echo </dev/console
say "ready"
while read -r order argument; do
    case $order in
    mtu)
        read -r mtu <$card/mtu
        say "mtu $mtu"
        ;;
    carrier)
        until_now carrier "$argument"
        say "carrier $argument"
        ;;
    reach)
        until_now answers 56
        say "reached"
        ;;
    ping)
        # From either processor, and so through either pair of queues.
        for processors in 1 2; do
            lost=$(taskset $processors ping -q -c 10 -A -s "$argument" 10.9.0.$other |
                sed -n 's/.* \([0-9]*\)% packet loss.*/\1/p')
            [ "$lost" = 0 ] || fail "lost $lost % of the packets"
        done
        say "answered"
        ;;
    silence)
        answers 56 && fail "the other guest answers"
        say "silence"
        ;;
    receive)
        # As long as its input is open, it does not end before the sender.
        { say "received $(nc -l -p 5000 <>/nothing | sha256sum)"; } &
        until_now listening
        say "listening"
        ;;
    send)
        nc 10.9.0.$other 5000 </data || fail "sending: $?"
        say "sent $sent"
        ;;
    interrupts)
        interrupts "$argument"
        say "counted"
        ;;
    esac
done </dev/console

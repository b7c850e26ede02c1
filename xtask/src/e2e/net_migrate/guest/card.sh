# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# A guest with a network card; its kernel's command line says which of the two it
# is: the first one is migrated, the second one sends to it. The host says on the
# console what is to happen.
#
# Two streams go to the first one. Nobody takes the bytes of the "held" one until the
# host says so: they stay where the backend has written them. The "flow" goes on until
# it is stopped.

own=$(sed -n 's/.*address=\([0-9]*\).*/\1/p' /proc/cmdline)
other=$((3 - own))
card=/sys/class/net/eth0
mkfifo /nothing /held /summed

# until_now CONDITION...: waits for it.
until_now() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 3000 ] || fail "not $*"
        usleep 20000
    done
}

# answers: whether the other guest answers.
answers() {
    ping -q -c 1 -W 1 10.9.0.$other >/dev/null
}

# listening PORT: whether something waits for a connection there.
listening() {
    grep -q "$(printf ':%04X 0*:0000 0A' "$1")" /proc/net/tcp /proc/net/tcp6
}

# queued: whether all that is to be held is in the socket's queue.
queued() {
    bytes=$(awk '$2 ~ /:1388$/ && $4 == "01" { sub(/.*:/, "", $5); print $5 }' \
        /proc/net/tcp /proc/net/tcp6)
    [ -n "$bytes" ] && [ $((0x$bytes)) -ge "$HELD" ]
}

# Keeps memory changing, so that a migration does not end before the host lets it.
make_dirty() {
    while :; do
        dd if=/bin/busybox of=/dirt bs=64K conv=notrunc 2>/dev/null
        usleep 10000
    done
}

# The flow; /flowed has how many MiB of it there have been. It leaves the processor
# to others.
make_flow() {
    piece=0
    while [ ! -e /stop ]; do
        dd if=/data bs=64K skip=$((piece % 128)) count=1 2>/dev/null
        piece=$((piece + 1))
        [ $((piece % 16)) != 0 ] || echo $((piece / 16)) >/flowed
        usleep 5000
    done
}

# flowed MIB: whether there have been so many.
flowed() {
    read -r mib </flowed && [ "$mib" -ge "$1" ]
}

# summed: the sum of what comes in, and nothing else.
summed() {
    sum=$(sha256sum)
    echo "${sum%% *}"
}

# receive: as long as its input is open, nc does not end before the sender.
receive() {
    make_dirty &
    nc -l -p 5000 <>/nothing >/held &
    exec 3</held
    { say "flow received $(nc -l -p 5001 <>/nothing | summed)"; } &
    until_now listening 5000
    until_now listening 5001
}

send() {
    echo 0 >/flowed
    nc 10.9.0.$other 5000 </data &
    summed </summed >/sum &
    {
        make_flow | tee /summed | nc 10.9.0.$other 5001
        until_now [ -s /sum ]
        say "flow sent $(cat /sum)"
    } &
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
dd if=/dev/urandom of=/data bs=1M count=8 2>/dev/null
# What is held has room in a socket's queue from the beginning.
echo 8388608 8388608 8388608 >/proc/sys/net/ipv4/tcp_rmem
rarp_listen eth0 &

stty -echo </dev/console
say "ready"
while read -r order; do
    case $order in
    reach)
        until_now answers
        say "reached"
        ;;
    receive)
        receive
        say "listening"
        ;;
    send)
        send
        say "sends $(head -c "$HELD" /data | summed) $(summed </data)"
        ;;
    held)
        until_now queued
        say "held"
        ;;
    flow)
        read -r mib </flowed
        until_now flowed $((mib + 3))
        say "flows"
        ;;
    first)
        say "first $(dd bs=4096 count=$((HELD / 4096)) iflag=fullblock <&3 2>/dev/null |
            tee /first | summed)"
        ;;
    rest)
        say "all $(cat /first - <&3 | summed)"
        ;;
    stop)
        : >/stop
        ;;
    esac
done </dev/console

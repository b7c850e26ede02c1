# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The guest that uses the disk; its kernel's command line says for what.

wait_for_disk
roles=$(sed -n 's/.*roles=\([a-z,]*\).*/\1/p' /proc/cmdline)
count=$(sed -n 's/.*count=\([0-9]*\).*/\1/p' /proc/cmdline)
mkdir -p /mnt

tree_sum() {
    (cd /mnt && find tree -type f | sort | xargs sha256sum) | sha256sum | cut -d ' ' -f 1
}

# A file system in the first half, a tree in it, and its checksum.
fill() {
    mke2fs /dev/vda 16384 >/dev/null 2>&1 || fail "mke2fs"
    mount -t ext4 /dev/vda /mnt || fail "mounting the new file system"
    text=$(head -n 40 /proc/kallsyms)
    for directory in 1 2 3 4; do
        mkdir -p "/mnt/tree/$directory"
        # Without programs, which take their time on an emulated processor.
        for file in 1 2 3 4 5 6 7 8; do
            echo "$directory $file $text" >"/mnt/tree/$directory/$file" || fail "writing a file"
        done
        text=$text$text$directory
    done
    cp /bin/busybox /mnt/tree/large || fail "writing the large file"
    sync
    say "sum $(tree_sum)"
    umount /mnt || fail "unmounting"
}

# What another VM wrote must be there.
verify() {
    mount -t ext4 -o ro /dev/vda /mnt || fail "mounting the file system"
    say "sum $(tree_sum)"
    umount /mnt || fail "unmounting"
}

# How often this kernel has kicked, and has been called.
counts() {
    kicks=$(awk '$1 == "kick" { print $2 }' /sys/kernel/tracing/kprobe_profile)
    calls=$(awk '/virtio[0-9]+-req/ { print $2 }' /proc/interrupts)
    say "count $1 frontend.kicks $kicks"
    say "count $1 frontend.calls $calls"
}

# One request at a time, past every cache, half of them writes (to the
# second half of the disk); only when told. Messages, too, if there is a vsock.
measure() {
    mount -t tracefs tracefs /sys/kernel/tracing || fail "mounting tracefs"
    echo 'p:kick vp_notify' >/sys/kernel/tracing/kprobe_events || fail "no symbol vp_notify"
    echo 1 >/sys/kernel/tracing/events/kprobes/kick/enable || fail "counting kicks"
    dd if=/dev/vda of=/block bs=4096 count=1 iflag=direct 2>/dev/null || fail "reading a block"
    # Nothing may be under way.
    usleep 300000
    counts before
    say "ready"
    read -r _ </dev/console
    dd if=/dev/vda of=/dev/null bs=4096 count=$((count / 2)) iflag=direct 2>/dev/null ||
        fail "reading"
    dd if=/dev/zero of=/dev/vda bs=4096 seek=4096 count=$((count / 2)) oflag=direct \
        conv=notrunc 2>/dev/null || fail "writing"
    [ ! -e /dev/vsock ] || send $((count / 4))
    say "over"
    read -r _ </dev/console
    counts after
}

# Writes blocks of the second half and reads them back, past every cache, until
# it is told to end.
forever() {
    (
        read -r _ </dev/console
        : >/over
    ) &
    say "running"
    round=0
    while [ ! -e /over ]; do
        round=$((round + 1))
        yes "round $round" | dd of=/block bs=4096 count=8 iflag=fullblock 2>/dev/null
        place=$((4096 + round % 128 * 8))
        dd if=/block of=/dev/vda bs=4096 seek=$place count=8 oflag=direct conv=notrunc \
            2>/dev/null || fail "writing in round $round"
        dd if=/dev/vda of=/found bs=4096 skip=$place count=8 iflag=direct 2>/dev/null ||
            fail "reading in round $round"
        if ! cmp /block /found; then
            [ -n "$may_lose" ] || fail "round $round is not what was written"
            may_lose=
        fi
        [ $((round % 10)) != 0 ] || say "again $round"
    done
}

# send MESSAGES: to the other end of the vsock, which sends them back.
send() {
    echo_bytes check 2:1234 "$1" || fail "sending over the vsock"
}

# Sends back what comes over the vsock from now on (4294967295 is any address).
listen() {
    echo_bytes listen 4294967295:1024 || fail "listening on the vsock"
    send 30
    say "sent"
}

# The same on a disk that is lost once, with what was just written.
survive() {
    may_lose=yes
    forever
}

# rounds WRITER: writes to 16 places of its own, in turn, until it is told to end,
# and reads each back. In the end, each place has to have what was last written.
rounds() {
    number=0
    while [ ! -e /over ]; do
        yes "writer $1 round $number" | dd of="/block$1" bs=32768 count=1 iflag=fullblock 2>/dev/null
        place=$((512 + 16 * $1 + number % 16))
        dd if="/block$1" of=/dev/vda bs=32768 seek=$place count=1 oflag=direct conv=notrunc \
            2>/dev/null || fail "writer $1 in round $number"
        cp "/block$1" "/last$1.$place"
        dd if=/dev/vda of="/found$1" bs=32768 skip=$place count=1 iflag=direct 2>/dev/null ||
            fail "reader $1 in round $number"
        cmp "/block$1" "/found$1" || fail "writer $1: round $number is not what was written"
        number=$((number + 1))
        [ $((number % 4)) != 0 ] || say "again $1"
    done
    for last in "/last$1".*; do
        dd if=/dev/vda of="/found$1" bs=32768 skip="${last##*.}" count=1 iflag=direct 2>/dev/null ||
            fail "reader $1"
        cmp "$last" "/found$1" || fail "writer $1: $last was lost, or written twice"
    done
}

# Several at once, so that there are always requests under way.
storm() {
    say "running"
    for writer in 0 1 2 3; do
        rounds $writer &
    done
    read -r _ </dev/console
    : >/over
    wait
}

[ -n "$roles" ] || fail "no roles"
for role in $(echo "$roles" | tr , ' '); do
    case $role in
    fill | verify | measure | forever | survive | storm | listen) $role ;;
    *) fail "no role $role" ;;
    esac
done

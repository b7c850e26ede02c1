# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# Two writers at work, one on each CPU and so on each queue, while the host
# migrates the VM and says on the console what is to be done beside it.

# Writes numbered blocks, over and over, and reads each back; past every cache.
write_and_read() {
    number=$2
    while [ ! -e /stop ]; do
        at=$((number % BLOCKS))
        yes "block $number of run $SEED" | head -c 4096 >"/written$2"
        taskset "$1" dd if="/written$2" of=/dev/vda bs=4096 seek=$at count=1 \
            oflag=direct conv=notrunc,fsync 2>/dev/null || fail "writing block $number"
        taskset "$1" dd if=/dev/vda of="/found$2" bs=4096 skip=$at count=1 \
            iflag=direct 2>/dev/null || fail "reading block $number"
        cmp -s "/written$2" "/found$2" || fail "block $number is not what was written"
        say "flushed $number"
        number=$((number + 2))
    done
    echo $number >"/next$2"
}

# Keeps memory changing, so that a migration does not end before the host lets it.
make_dirty() {
    while [ ! -e /stop ]; do
        dd if=/bin/busybox of=/dirt bs=64K conv=notrunc 2>/dev/null
        usleep 10000
    done
}

# Takes $1 pages from the reader below.
take() {
    dd bs=4096 count="$1" iflag=fullblock <&3 2>/dev/null
}

pages=$((HELD / 4096))

# The reader has one buffer, for two parts of the disk in turn. It holds the
# first one when this is over, and is stuck: nobody takes it.
prepare() {
    mkfifo /held || fail "making a pipe"
    dd if=/dev/vda of=/held bs="$HELD" skip="$1" count=2 iflag=direct 2>/dev/null &
    reader=$!
    exec 3</held
    take 1 >/dev/null || fail "reading a first time"
    say "prepared"
}

# Now it holds the second one. Only the device has written to the buffer since,
# and it is beyond what a pipe has room for.
read_into_memory() {
    take $((pages - 1)) >/dev/null || fail "taking what was read"
    take 1 >/first || fail "reading a second time"
    say "read"
}

# What it holds.
check() {
    sum=$(cat /first - <&3 | sha256sum)
    exec 3<&-
    wait $reader || fail "the reader failed"
    rm /held
    say "held ${sum%% *}"
}

# What the writers have come to, and what the whole disk holds.
stop() {
    : >/stop
    # shellcheck disable=SC2086
    wait $children
    say "next $(cat /next0) $(cat /next1)"
    sum=$(dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | sha256sum)
    say "disk ${sum%% *}"
}

stty -echo
children=
if [ "$WRITERS" = 2 ]; then
    write_and_read 1 0 &
    children="$children $!"
    write_and_read 2 1 &
    children="$children $!"
fi
make_dirty &
children="$children $!"
say "ready"
while [ ! -e /stop ] && read -r command argument; do
    case "$command" in
    prepare) prepare "$argument" ;;
    read) read_into_memory ;;
    check) check ;;
    stop) stop ;;
    *) fail "told to $command" ;;
    esac
done

# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The guest with the backends: stock programs behind the relay. The host says on
# the console what is to happen.

mkdir -p /tmp
truncate -s 32M /disk.img

# start_disk [FILE]: the backend, with options for its file.
start_disk() {
    # It is in the way of the next one.
    rm -f /run/disk.sock
    file=${1:-driver=file,filename=/disk.img}
    qemu-storage-daemon --blockdev "$file,node-name=disk" \
        --export type=vhost-user-blk,id=disk,node-name=disk,writable=on,addr.type=unix,addr.path=/run/disk.sock &
    disk=$!
}

# What the frontend's guest sends to port 1234 comes back.
start_vsock() {
    rm -f /run/vsock.sock /run/connect
    vhost-device-vsock --guest-cid 3 --socket /run/vsock.sock --uds-path /run/connect &
    vsock=$!
}

# total WHEN NAME PROCESS: how often its threads ran, and for how long.
total() {
    switches=$(cat "/proc/$3/task/"*/status | awk '/ctxt_switches/ { n += $2 } END { print n }')
    ticks=$(awk '{ print $14 + $15 }' "/proc/$3/stat")
    say "count $1 $2.switches $switches"
    say "count $1 $2.ticks $ticks"
}

start_disk
start_vsock
echo_bytes listen /run/connect_1234 || fail "listening for the vsock"
set -- /dev/vhost-guest/*
vhost-guest-relay --device "${1##*/}" --socket /run/disk.sock --type blk \
    --device "${2##*/}" --socket /run/vsock.sock --type vsock &
relay=$!

stty -echo </dev/console
while read -r order argument; do
    case $order in
    count)
        total "$argument" relay $relay
        total "$argument" disk $disk
        total "$argument" vsock $vsock
        say "counted"
        ;;
    restart-disk)
        kill -9 $disk
        wait $disk
        start_disk
        ;;
    restart-vsock)
        kill -9 $vsock
        wait $vsock
        start_vsock
        ;;
    send)
        echo_bytes check /run/connect:1024 30 || fail "sending over the vsock"
        say "sent"
        ;;
    direct)
        kill -9 $disk
        wait $disk
        # A disk in memory: files in memory cannot be opened so.
        start_disk driver=host_device,filename=/dev/ram0,cache.direct=on
        ;;
    reboot)
        reboot -f
        ;;
    end)
        kill $relay
        wait $relay || fail "the relay ended with $?"
        say "the relay has ended"
        ;;
    esac
done </dev/console

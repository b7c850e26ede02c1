# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The guest that has the driver. Its kernel's command line says what for.

device=$(echo /sys/bus/pci/drivers/vhost_guest/*:*)
device=${device##*/}
[ -c "/dev/vhost-guest/$device" ] || fail "no device"

# What the kernel says from here on is of interest.
dmesg -c >/dev/null

check_kernel() {
    if dmesg | grep -e BUG: -e WARNING: -e 'Call Trace' -e Oops; then
        fail "the kernel complains"
    fi
}

test_driver() {
    seconds=$(sed -n 's/.*seconds=\([0-9]*\).*/\1/p' /proc/cmdline)
    vhost_guest_test "$device" /modules/vhost_guest.ko "$seconds" >/results
    code=$?
    # Not the first of them, which comes last.
    grep -e '^not ok' -e '^Bail' /results | head -n 5
    [ $code = 0 ] || fail "the tests of the driver ended with $code"
    # They have unloaded it.
    insmod /modules/vhost_guest.ko || fail "loading the driver again"
    vhost_guest_peer serve "$device" || fail "the test with a frontend ended with $?"
    check_kernel
    say "$(tail -n 1 /results) tests"
}

# A process that may open the device, and nothing else. What it is asked comes by a
# pipe, since the console says what is to happen to it.
start_disk() {
    su disk -c 'exec /lab/backend --module --disk /disk/image --queues 1' <>/questions &
    backend=$!
}

# It dies in the middle of a request: of a write to a file system that stands still.
kill_disk() {
    fsfreeze --freeze /disk || fail "freezing the file system"
    tries=0
    until read -r _ _ state _ <"/proc/$backend/stat" && [ "$state" = D ]; do
        tries=$((tries + 1))
        [ $tries -lt 6000 ] || fail "the backend writes nothing"
        usleep 10000
    done
    kill -9 $backend
    fsfreeze --unfreeze /disk || fail "thawing the file system"
    wait $backend
}

# After the backend was killed.
check_nothing_left() {
    check_kernel
    if grep 'vhost-guest\[' /proc/interrupts; then
        fail "the backend leaves interrupts"
    fi
    read -r uses </sys/module/vhost_guest/refcnt
    [ "$uses" = 0 ] || fail "the backend leaves $uses uses of the driver"
}

serve_disk() {
    mkdir -p /etc /disk
    mke2fs /dev/ram0 >/dev/null 2>&1 || fail "mke2fs"
    mount -t ext4 /dev/ram0 /disk || fail "mounting the file system of the disk"
    echo 'disk:x:1000:1000::/:/bin/sh' >/etc/passwd
    # Half of it is never written, and the file system is smaller.
    truncate -s 32M /disk/image
    chown disk /disk/image "/dev/vhost-guest/$device"
    mkfifo /questions
    start_disk
    stty -echo </dev/console
    while read -r order; do
        kill -0 $backend || fail "the backend has ended"
        case $order in
        ask)
            echo >/questions
            ;;
        kill)
            kill_disk
            check_nothing_left
            start_disk
            ;;
        esac
    done </dev/console
}

case $(cat /proc/cmdline) in
*test-driver*) test_driver ;;
*) serve_disk ;;
esac

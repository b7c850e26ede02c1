# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The guest that has the driver. Its kernel's command line says what for.

device=$(echo /sys/bus/pci/drivers/vhost_guest/*:*)
device=${device##*/}
[ -c "/dev/vhost-guest/$device" ] || fail "no device"

test_driver() {
    seconds=$(sed -n 's/.*seconds=\([0-9]*\).*/\1/p' /proc/cmdline)
    # What the kernel says from here on is of interest.
    dmesg -c >/dev/null
    vhost_guest_test "$device" /modules/vhost_guest.ko "$seconds" >/results
    code=$?
    # Not the first of them, which comes last.
    grep -e '^not ok' -e '^Bail' /results | head -n 5
    [ $code = 0 ] || fail "the tests of the driver ended with $code"
    if dmesg | grep -e BUG: -e WARNING: -e 'Call Trace' -e Oops; then
        fail "the kernel complains"
    fi
    say "$(tail -n 1 /results) tests"
}

# A process that may open the device, and nothing else.
serve_disk() {
    mkdir -p /etc
    echo 'disk:x:1000:1000::/:/bin/sh' >/etc/passwd
    truncate -s 32M /disk.img
    chown disk /disk.img "/dev/vhost-guest/$device"
    stty -echo </dev/console
    su disk -c 'exec /lab/backend --module --disk /disk.img --queues 1' </dev/console ||
        fail "the backend ended with $?"
}

case $(cat /proc/cmdline) in
*test-driver*) test_driver ;;
*) serve_disk ;;
esac

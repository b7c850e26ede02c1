#!/bin/busybox sh
# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The init of each of the three machines: file systems, modules, and what /role
# says. The host of the test reads the lines that begin with "e2e: ".

export PATH=/bin:/lab:/usr/bin
/bin/busybox mkdir -p /proc /sys /dev /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin

say() {
    echo "e2e: $*"
}

fail() {
    dmesg | tail -n 20
    say "failed: $*"
    sleep 2
    reboot -f
    sleep 60
}

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || fail "insmod $module"
done

wait_for_disk() {
    tries=0
    while [ ! -b /dev/vda ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "no /dev/vda"
        usleep 50000
    done
}

. /role

say "done"
reboot -f
sleep 60

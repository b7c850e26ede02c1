#!/bin/busybox sh
# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

# The init of every guest: it makes the disk appear, does what /role says, and
# powers off. The host reads the lines that begin with "e2e: ".

export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev
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
    poweroff -f
    sleep 60
}

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || fail "insmod $module"
done

. /settings
tries=0
while [ ! -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || fail "no /dev/vda"
    # A guest to try things with may have another device.
    [ -z "$ANY_DEVICE" ] || break
    usleep 50000
done
if [ -n "$ANY_DEVICE" ]; then
    . /role
    poweroff -f
fi

size=$(blockdev --getsize64 /dev/vda)
[ "$size" = "${SIZE:-$size}" ] || fail "the disk has $size bytes and not $SIZE"
queues=$(ls /sys/block/vda/mq | wc -l)
[ "$queues" = "${QUEUES:-$queues}" ] || fail "the disk has $queues queues and not $QUEUES"
say "disk of $size bytes with $queues queues"
# VIRTIO_F_RING_PACKED is bit 34.
say "packed $(cut -c35 /sys/bus/virtio/devices/virtio0/features)"

. /role

# How often each queue's interrupt came: number, one count per CPU, …, name.
while read -r number counts; do
    name=${counts##* }
    case "$name" in
    virtio*-req.*)
        set -- $counts
        say "interrupts $name $(($1 + $2))"
        ;;
    esac
done </proc/interrupts

say "done"
poweroff -f
sleep 60

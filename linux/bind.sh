#!/bin/sh
# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
#
# Gives vhost-guest devices to the driver vhost_guest, wherever they are now:
# those at the addresses that are named (0000:00:05.0), or all. As root.

set -e
cd /sys/bus/pci/devices
if [ $# -eq 0 ]; then
    for device in *; do
        read -r vendor <"$device/vendor"
        read -r id <"$device/device"
        [ "$vendor:$id" != 0x1af4:0x1075 ] || set -- "$@" "$device"
    done
fi
[ $# -gt 0 ] || { echo "there is no vhost-guest device (1af4:1075)" >&2; exit 1; }
[ -d ../drivers/vhost_guest ] || modprobe vhost_guest
for device in "$@"; do
    [ ! -e "../drivers/vhost_guest/$device" ] || continue
    echo vhost_guest >"$device/driver_override"
    [ ! -e "$device/driver" ] || echo "$device" >"$device/driver/unbind"
    echo "$device" >../drivers_probe
    [ -e "../drivers/vhost_guest/$device" ] || { echo "$device: see dmesg" >&2; exit 1; }
done

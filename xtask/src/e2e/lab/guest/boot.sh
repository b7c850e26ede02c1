# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# From the initramfs of the emulated host to its disk.

wait_for_disk
mkdir -p /disk
mount -t ext4 /dev/vda /disk || fail "mounting the disk of the host"
umount /dev /sys /proc
exec switch_root /disk /init

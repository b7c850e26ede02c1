# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# Fills the disk with /pattern, one half from each CPU and so on each queue, with
# direct writes; flushes; and reads everything back, past every cache.

chunk=65536
half=$((SIZE / chunk / 2))

copy() {
    taskset "$1" dd if=/pattern of=/dev/vda bs=$chunk skip=$2 seek=$2 count=$3 \
        oflag=direct conv=notrunc,fsync 2>/dev/null
}

copy 1 0 $half &
first=$!
copy 2 $half $((SIZE / chunk - half)) &
second=$!
wait $first || fail "writing the first half"
wait $second || fail "writing the second half"
say "written"

sync
blockdev --flushbufs /dev/vda || fail "flushing"
echo 3 >/proc/sys/vm/drop_caches
say "flushed"

sum=$(sha256sum </dev/vda)
[ "${sum%% *}" = "$SHA256" ] || fail "read back $sum and not $SHA256"
say "verified"

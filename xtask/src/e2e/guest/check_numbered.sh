# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# Every block whose number is in /numbers must be on the disk; and the disk of a
# killed VM must still be one that can be written.

checked=0
while read -r number; do
    yes "block $number of run $SEED" | head -c 4096 >/expected
    dd if=/dev/vda of=/found bs=4096 skip="$number" count=1 iflag=direct 2>/dev/null ||
        fail "reading block $number"
    cmp -s /expected /found || fail "block $number was flushed and is not on the disk"
    checked=$((checked + 1))
    last=$number
done </numbers

dd if=/found of=/dev/vda bs=4096 seek="$last" count=1 oflag=direct conv=notrunc,fsync \
    2>/dev/null || fail "writing block $last again"
say "checked $checked"

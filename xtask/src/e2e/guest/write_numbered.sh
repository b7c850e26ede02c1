# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# Writes numbered blocks until it is killed: even ones from one CPU, odd ones
# from the other. A number is printed only once its block has been flushed.

write_numbered() {
    number=$2
    while [ $number -lt $((SIZE / 4096)) ]; do
        yes "block $number of run $SEED" | head -c 4096 >"/block$2"
        taskset "$1" dd if="/block$2" of=/dev/vda bs=4096 seek=$number count=1 \
            oflag=direct conv=notrunc,fsync 2>/dev/null || fail "writing block $number"
        say "flushed $number"
        number=$((number + 2))
    done
}

write_numbered 1 0 &
write_numbered 2 1 &
wait

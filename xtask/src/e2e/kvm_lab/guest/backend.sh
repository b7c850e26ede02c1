# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The guest that serves the disk. The disk is in its memory.

echo 1 >/proc/sys/vm/nr_hugepages
truncate -s 32M /disk.img
stty -echo </dev/console
# Looking more often would cost the other machines their processor.
backend --disk /disk.img --queues 1 --device auto --idle 10000 --count-interrupts </dev/console ||
    fail "the backend ended with $?"

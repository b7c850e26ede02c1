# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh

# A shell for whoever tries a device; its end is the guest's.

say "a disk is /dev/vda, a card is eth0, and 'exit' powers off"
setsid cttyhack sh

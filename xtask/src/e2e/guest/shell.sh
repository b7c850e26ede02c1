# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh

# A shell for whoever tries the disk; its end is the guest's.

say "the disk is /dev/vda, and 'exit' powers off"
setsid cttyhack sh

# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The disk must hold what another VM wrote.

sum=$(sha256sum </dev/vda)
[ "${sum%% *}" = "$SHA256" ] || fail "read $sum and not $SHA256"
say "verified"

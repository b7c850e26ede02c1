# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# The guest that has the cards: testpmd, which knows nothing of it, behind the relay.
# The host says on the console what is to happen.

cd /run || fail "no /run"
mkfifo testpmd.in

# switches PROCESS: how often its threads ran.
switches() {
    cat "/proc/$1/task/"*/status | awk '/ctxt_switches/ { n += $2 } END { print n }'
}

# count WHEN: before something, once the relay has nothing to do any more.
count() {
    found=$(switches $relay)
    while [ "$1" = before ]; do
        usleep 300000
        last=$found
        found=$(switches $relay)
        [ "$found" != "$last" ] || break
    done
    say "count $1 relay.switches $found"
    say "count $1 testpmd.switches $(switches $testpmd)"
    say "counted"
}

start_testpmd testpmd.in
set --
number=0
for device in /dev/vhost-guest/*; do
    set -- "$@" --device "${device##*/}" --socket "/run/card$number.sock" --type net
    number=$((number + 1))
done
vhost-guest-relay "$@" &
relay=$!

stty -echo </dev/console
while read -r order argument; do
    case $order in
    testpmd)
        echo "$argument" >testpmd.in
        ;;
    count)
        count "$argument"
        ;;
    restart)
        kill -9 $testpmd
        wait $testpmd
        start_testpmd testpmd.in
        ;;
    end)
        kill $relay
        wait $relay || fail "the relay ended with $?"
        say "the relay has ended"
        ;;
    esac
done </dev/console

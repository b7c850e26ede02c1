# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# What happens on the emulated host: a guest tests the driver, and one serves a
# disk with it, from processes that are killed.

# start_backend TEXT: with a text for its kernel's command line.
start_backend() {
    rm -f disk.sock
    kvm --kernel /lab/vmlinuz --initramfs /lab/backend.initramfs --memory 256M \
        --cmdline "quiet $1" --vhost-guest socket=disk.sock,queues=4,window=1G,migration=16K \
        <>backend.in >>backend.log 2>&1 &
    backend=$!
}

# What the backend has counted, when it is asked.
ask_backend() {
    echo ask >backend.in
    await backend "backend: frontends=" 60 $backend
    for pair in ${line#*backend: }; do
        say "count $1 backend.${pair%=*} ${pair#*=}"
    done
}

# heard_sum: what the frontend's guest has found, as $line; on a busy machine it
# takes its time to boot.
heard_sum() {
    await frontend "e2e: sum" 400 $frontend
    line=${line#*e2e: sum }
}

open_logs
start_backend "test-driver seconds=$SECONDS_OF_RANDOM"
await backend "peer: serving" 600 $backend
timeout $PATIENCE /lab/vhost_guest_peer drive disk.sock >peer.log 2>&1 ||
    fail "the frontend of the test: $(cat peer.log)"
while read -r text; do
    say "$text"
done <peer.log
await backend " tests" 600 $backend
say "the driver passes ${line#*e2e: }"
await_end backend $backend

start_backend
await backend "backend: serving" 400 $backend
start_frontend fill
heard_sum
written=$line
end_frontend
say "filled $written"
# In a packed ring, nothing says what was under way but the record of it.
start_frontend verify,measure,storm ,reconnect=1 ,packed=on
heard_sum
[ "$line" = "$written" ] || fail "the frontend's guest wrote '$written' and found '$line'"
say "verified $written"

# The frontend waits for a word, connected.
heard ready
ask_backend before
read -r -t "$IDLE_SECONDS" _ <&9
ask_backend after
say "idle"
echo go >frontend.in
heard over
echo go >frontend.in

# The process that serves dies with a request under way; the next one finds which, in
# the memory that the frontend keeps for it, or its writer would wait for ever.
heard running
for time in 1 2; do
    for writer in 0 1 2 3; do
        heard "again $writer"
    done
    echo kill >backend.in
    await backend "backend: serving" 400 $backend
    # What was said before.
    while next_line frontend; do :; done
    for writer in 0 1 2 3; do
        heard "again $writer"
    done
    say "all writers go on after kill $time"
done
echo over >frontend.in
end_frontend
say "nothing was lost, or written twice"

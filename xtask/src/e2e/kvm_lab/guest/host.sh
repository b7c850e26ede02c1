# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# What happens on the emulated host: a VMM with the guest that serves the disk,
# and stock VMs that use it.

# start_backend [OPTION...]: with options for the VMM.
start_backend() {
    rm -f disk.sock
    case $BACKEND in
    kvm)
        kvm --kernel /lab/vmlinuz --initramfs /lab/backend.initramfs --memory 256M --cmdline quiet \
            --vhost-guest socket=disk.sock,queues=1,window=1G "$@" <>backend.in >>backend.log 2>&1 &
        backend=$!
        await backend "backend: serving" $PATIENCE $backend
        ;;
    *)
        truncate -s 32M /tmp/disk.img
        qemu-storage-daemon --blockdev driver=file,node-name=disk,filename=/tmp/disk.img \
            --export "type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path=disk.sock" \
            >>backend.log 2>&1 &
        backend=$!
        await_socket disk.sock $backend
        ;;
    esac
}

# What the backend has counted, when it is asked.
ask_backend() {
    echo >backend.in
    await backend "backend: frontends=" $PATIENCE $backend
    for pair in ${line#*backend: }; do
        say "count $1 backend.${pair%=*} ${pair#*=}"
    done
}

# measure NAME: requests one by one, between two snapshots. The frontend waits
# for them.
measure() {
    heard ready
    ask_backend before
    trace ''
    nap
    snapshot before $backend
    echo go >frontend.in
    heard over
    snapshot after $backend
    trace '!'
    ask_backend after
    echo go >frontend.in
    end_frontend
    say "$1"
}

# expect SUM: what the frontend's guest finds.
expect() {
    heard sum
    [ "$line" = "$1" ] || fail "the frontend's guest wrote '$1' and found '$line'"
}

# prove: what the device does to the data path, and what a frontend cannot do.
prove() {
    measure measured

    timeout $PATIENCE /lab/truncate disk.sock >truncate.log 2>&1 ||
        fail "the truncating frontend: $(cat truncate.log)"
    say "$(cat truncate.log)"
    await backend "memory that it shared cannot be accessed" $PATIENCE $backend
    say "the device: ${line#*: }"
    alive $backend || fail "the backend's VMM has ended"
    start_frontend verify
    expect "$written"
    end_frontend
    say "verified again $written"

    # The guest has no say in this: it is as if the power went.
    kill $backend
    wait $backend
    start_backend --no-irqfd --no-ioeventfd
    start_frontend measure
    measure "control measured"
}

open_logs
start_backend
say "the backend serves"

start_frontend fill
heard sum
written=$line
end_frontend
say "filled $written"

case $BACKEND in
kvm) start_frontend verify,measure ;;
*) start_frontend verify ;;
esac
expect "$written"
say "verified $written"
case $BACKEND in
kvm) prove ;;
*) end_frontend ;;
esac

# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# What happens on the emulated host: a VMM with the guest that has the backends, and
# stock VMs that use them.

start_backend() {
    rm -f disk.sock vsock.sock
    kvm --kernel /lab/vmlinuz --initramfs /lab/backend.initramfs --memory 256M --cmdline quiet \
        --vhost-guest socket=disk.sock,queues=1,window=1G \
        --vhost-guest socket=vsock.sock,queues=3,window=1G <>backend.in >>backend.log 2>&1 &
    backend=$!
    await backend "a backend is connected" $PATIENCE $backend
    await backend "a backend is connected" $PATIENCE $backend
}

# start_frontend ROLES: a stock VM, whose disk comes back when its backend does;
# a vsock of QEMU's does not. Its memory is in small pages: of one that was killed
# it may not be free yet.
start_frontend() {
    memory='' socket=,reconnect=1 disk=''
    documented_qemu -machine sata=off,smbus=off,i8042=off,vmport=off \
        -L /usr/share/qemu -L /usr/share/seabios \
        -chardev socket,id=vsock,path=vsock.sock -device vhost-user-vsock-pci,chardev=vsock \
        -append "console=ttyS0 panic=-1 quiet pci=lastbus=0 roles=$1 count=$COUNT" \
        <>frontend.in >>frontend.log 2>&1 &
    frontend=$!
}

# order TEXT: says what is to happen in the backend's guest.
order() {
    echo "$1" >backend.in
}

# count_backend WHEN: what runs in the backend's guest, and how long its vCPU did.
count_backend() {
    order "count $1"
    await backend "e2e: counted" $PATIENCE $backend
    read -r stat <"/proc/$backend/stat"
    # Behind the name: user and system time are the 12th and 13th.
    set -- "$1" ${stat##*) }
    say "count $1 guest.ticks $(($13 + $14))"
}

# expect SUM: what the frontend's guest finds.
expect() {
    heard sum
    [ "$line" = "$1" ] || fail "the frontend's guest wrote '$1' and found '$line'"
}

# both_ways: what is sent over the vsock comes back, whoever has connected.
both_ways() {
    heard sent
    order send
    await backend "e2e: sent" $PATIENCE $backend
    say "what was sent over the vsock came back, both ways"
}

# restart DEVICE BACKEND: kills it, and waits for the next.
restart() {
    order "restart-$2"
    await backend "$1: the backend is gone" $PATIENCE $backend
    await backend "$1: a backend is connected" $PATIENCE $backend
    say "the backend of the $2 was killed and started again"
}

# goes_on: the frontend's guest has done more, from now on.
goes_on() {
    while next_line frontend; do :; done
    # The first one may have been on its way.
    heard again
    heard again
    say "the same frontend goes on: round $line"
}

open_logs
start_backend
say "the backends are behind the relay"

start_frontend fill
heard sum
written=$line
end_frontend
say "filled $written"

# Steady state, and rest.
start_frontend verify,listen,measure
expect "$written"
both_ways
heard ready
count_backend before
echo go >frontend.in
heard over
count_backend after
say "measured"
count_backend before
read -r -t "$IDLE_SECONDS" _ <&9
count_backend after
say "rested"
echo go >frontend.in
end_frontend

# Either side is killed, and starts again.
start_frontend verify,forever
expect "$written"
heard running
kill -9 $frontend
wait $frontend
say "the frontend was killed"
start_frontend verify,forever
expect "$written"
heard running
restart 01.0 disk
goes_on
restart 02.0 vsock
goes_on

echo go >frontend.in
end_frontend

# The disk is in the memory of the backend's guest, and lost with it. The frontend
# has to find the next one.
start_frontend verify,listen,survive
expect "$written"
both_ways
heard running
order reboot
await_end backend $backend
start_backend
say "the backend's guest was started again"
goes_on
echo go >frontend.in
end_frontend

order direct
await backend "O_DIRECT" $PATIENCE $backend
say "refused: ${line#*refused: }"
order end
await backend "the relay has ended" $PATIENCE $backend

# Copyright 2026 The vhost-guest Authors. All rights reserved.
#
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh disable=SC2154

# How testpmd is started, on the emulated host as in the guest of the backend.

mkdir -p /var/run /tmp
# It loads no drivers from below a directory that everybody may write to, and the root
# of an initramfs is one.
chmod 755 /
export HOME=/tmp

# What stdbuf of coreutils does: answers come when they are there, on a terminal or not.
export _STDBUF_O=L

# politely COMMAND...: what polls can wait for everybody else.
politely() {
    exec sh -c 'renice -n 10 -p $$ >/dev/null; exec "$@"' sh "$@"
}

# start_testpmd INPUT: two network cards, with the sockets card0.sock and card1.sock. What
# one sends goes to the other, once it is told to start. It does not
# replace the sockets of one that was killed.
start_testpmd() {
    rm -f card?.sock
    card=queues=2,tso=1,legacy-ol-flags=1
    LD_PRELOAD=/lab/libstdbuf.so politely dpdk-testpmd --no-huge -m 64 --no-pci --no-telemetry --file-prefix=e2e --lcores '0@0,1@0' \
        --log-level lib.vhost.config:warning --log-level lib.vhost.data:warning \
        -d /lab/librte_mempool_ring.so -d /lab/librte_net_vhost.so \
        --vdev "net_vhost0,iface=card0.sock,$card" \
        --vdev "net_vhost1,iface=card1.sock,$card" \
        -- --interactive --portmask=0x3 --nb-cores=1 --rxq=2 --txq=2 --total-num-mbufs=4096 \
        --disable-link-check <>"$1" &
    testpmd=$!
}

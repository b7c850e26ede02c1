// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

/*
 * rarp_listen INTERFACE: says for each RARP request that comes in who has sent it,
 * which is how a virtual machine announces itself where it has been migrated to.
 */

#include <arpa/inet.h>
#include <err.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_RARP),
	};
	unsigned char frame[ETH_FRAME_LEN];
	int fd;

	if (argc != 2)
		errx(2, "usage: rarp_listen INTERFACE");
	address.sll_ifindex = if_nametoindex(argv[1]);
	if (!address.sll_ifindex)
		err(1, "%s", argv[1]);
	fd = socket(AF_PACKET, SOCK_RAW, address.sll_protocol);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "packet socket");
	for (;;) {
		const unsigned char *from = frame + ETH_ALEN;
		ssize_t length = recv(fd, frame, sizeof(frame), 0);

		if (length < 0)
			err(1, "recv");
		if (length < ETH_HLEN)
			continue;
		printf("e2e: rarp %02x:%02x:%02x:%02x:%02x:%02x\n", from[0], from[1],
		       from[2], from[3], from[4], from[5]);
		fflush(stdout);
	}
}

// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * Sends what comes back over a socket, or checks that what comes back is what
 * was sent. An address is a path (a Unix socket), PATH:PORT (a guest's vsock,
 * behind vhost-device-vsock's socket), or CID:PORT (a vsock).
 *
 *     echo_bytes listen ADDRESS              goes on in the background
 *     echo_bytes check ADDRESS MESSAGES
 */
#include <linux/vm_sockets.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Less than a socket holds, so that nobody waits for the other to read. */
#define MOST 16384

static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, " (%m)\n");
	exit(1);
}

static void send_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);

		if (sent < 0)
			fail("send");
		bytes += sent;
		size -= sent;
	}
}

static void receive_all(int fd, uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t received = recv(fd, bytes, size, 0);

		if (received <= 0)
			fail("recv: %zd", received);
		bytes += received;
		size -= received;
	}
}

union address {
	struct sockaddr any;
	struct sockaddr_un path;
	struct sockaddr_vm vsock;
};

/* Returns a socket; *port is one to ask for, or 0. */
static int parse(const char *text, union address *address, unsigned int *port)
{
	const char *colon = strchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : strlen(text);
	int fd;

	memset(address, 0, sizeof(*address));
	*port = colon ? strtoul(colon + 1, NULL, 10) : 0;
	if (text[0] == '/') {
		if (length >= sizeof(address->path.sun_path))
			fail("%s", text);
		address->path.sun_family = AF_UNIX;
		memcpy(address->path.sun_path, text, length);
	} else {
		address->vsock.svm_family = AF_VSOCK;
		address->vsock.svm_cid = strtoul(text, NULL, 10);
		address->vsock.svm_port = *port;
		*port = 0;
	}
	fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	return fd;
}

static socklen_t length_of(const union address *address)
{
	return address->any.sa_family == AF_UNIX ? sizeof(address->path) : sizeof(address->vsock);
}

/* vhost-device-vsock asks for a port, and answers with a line. */
static void ask_for(int fd, unsigned int port)
{
	char line[64];
	uint8_t byte = 0;
	int length = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	send_all(fd, (uint8_t *)line, length);
	receive_all(fd, (uint8_t *)line, 3);
	if (memcmp(line, "OK ", 3))
		fail("port %u is not there", port);
	while (byte != '\n')
		receive_all(fd, &byte, 1);
}

static void check(const char *text, unsigned long messages)
{
	static uint8_t sent[MOST], received[MOST];
	union address address;
	unsigned int port;
	uint32_t state = 1;
	int fd = parse(text, &address, &port);

	if (connect(fd, &address.any, length_of(&address)))
		fail("connect %s", text);
	if (port)
		ask_for(fd, port);
	for (unsigned long message = 0; message < messages; message++) {
		/* All powers of two, from the largest down, again and again. */
		size_t size = MOST >> message % 15;

		for (size_t at = 0; at < size; at++) {
			state ^= state << 13;
			state ^= state >> 17;
			state ^= state << 5;
			sent[at] = state;
		}
		send_all(fd, sent, size);
		receive_all(fd, received, size);
		if (memcmp(sent, received, size))
			fail("message %lu is not what was sent", message);
	}
	close(fd);
}

static void serve(int fd)
{
	static uint8_t bytes[MOST];
	ssize_t received;

	while ((received = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		send_all(fd, bytes, received);
	close(fd);
}

static void listen_at(const char *text)
{
	union address address;
	unsigned int port;
	int fd = parse(text, &address, &port);

	if (bind(fd, &address.any, length_of(&address)) || listen(fd, 8))
		fail("bind %s", text);
	/* Who goes on may connect. */
	if (fork())
		return;
	for (;;) {
		int connection = accept(fd, NULL, NULL);

		if (connection < 0)
			fail("accept");
		serve(connection);
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "listen"))
		listen_at(words[2]);
	else if (count == 4 && !strcmp(words[1], "check"))
		check(words[2], strtoul(words[3], NULL, 10));
	else
		fail("echo_bytes listen ADDRESS | echo_bytes check ADDRESS MESSAGES");
	return 0;
}

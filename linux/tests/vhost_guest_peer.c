// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * Tests of the driver with a frontend: its memory, its kicks, device state
 * (VHOST_GUEST_OPEN_MIGRATION), what is left when a backend is killed, and what a
 * backend still has when its frontend is gone. Two sides:
 *
 *	vhost_guest_peer serve 0000:00:05.0	the backend, in the guest, as root
 *	vhost_guest_peer drive SOCKET		the frontend, on the host
 *
 * The frontend kicks each vring, and saves and loads states, with some of which
 * the backend's process is killed, and another takes its place. Each side checks
 * what it sees, prints what is wrong, and exits with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vhost_guest.h>

#define TYPE		26
#define PAGE		4096
/* What a write and a read of the longest piece take, and not a multiple of it. */
#define STATE_LEN	300007
#define PATIENCE_MS	120000
/* That share memory and leave, within seconds. */
#define FRONTENDS	30
/* The memory of a frontend, which is full of its number. */
#define MEMORY_PAGES	4
#define MEMORY_LEN	(MEMORY_PAGES * PAGE)

/* vhost-user */
#define GET_FEATURES		1
#define SET_OWNER		3
#define SET_MEM_TABLE		5
#define SET_VRING_KICK		12
#define GET_PROTOCOL_FEATURES	15
#define SET_PROTOCOL_FEATURES	16
#define GET_QUEUE_NUM		17
#define SET_DEVICE_STATE_FD	42
#define CHECK_DEVICE_STATE	43
#define F_PROTOCOL		(1ULL << 30 | 1ULL << 32)
/* queue numbers, acknowledgements, device state */
#define F_PROTOCOL_ALL		(1ULL << 0 | 1ULL << 3 | 1ULL << 19)
#define NEED_REPLY		(1U << 3)
#define SAVE			0
#define LOAD			1

/* The first byte of a state that is loaded says what happens then. */
#define PLAIN		0
#define KILL		1
#define END		2

struct message {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
	union {
		uint64_t value;
		struct {
			uint32_t direction;
			uint32_t phase;
		};
	};
} __attribute__((packed));

#define HEADER	12

/* SET_MEM_TABLE of one region */
struct table {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
	uint32_t regions;
	uint32_t padding;
	uint64_t guest_address;
	uint64_t len;
	uint64_t user_address;
	uint64_t mmap_offset;
} __attribute__((packed));

__attribute__((format(printf, 2, 3)))
static void need(bool holds, const char *what, ...)
{
	int error = errno;
	va_list arguments;

	if (holds)
		return;
	printf("wrong: ");
	va_start(arguments, what);
	vprintf(what, arguments);
	va_end(arguments);
	printf(" (errno %d: %s)\n", error, strerror(error));
	fflush(stdout);
	_exit(1);
}

/* A call that has to fail, with this and no other error. */
#define FAILS(call, expected) do {						\
	errno = 0;								\
	need((long)(call) == -1 && errno == (expected), "%s is not %s", #call,	\
	     #expected);							\
} while (0)

static uint8_t byte_of(uint8_t kind, size_t at)
{
	return at ? (uint8_t)((at * 2654435761U) >> 24) : kind;
}

static void check_bytes(const uint8_t *bytes, size_t len, size_t at)
{
	for (size_t i = 0; i < len; i++)
		need(at + i == 0 || bytes[i] == byte_of(0, at + i), "byte %zu of a state",
		     at + i);
}

static short wait_for(int fd, short events)
{
	struct pollfd entry = { .fd = fd, .events = events };

	need(poll(&entry, 1, PATIENCE_MS) == 1, "nothing comes for too long");
	return entry.revents;
}

static short events_of(int fd, short wanted)
{
	struct pollfd entry = { .fd = fd, .events = wanted };

	return poll(&entry, 1, 0) < 0 ? -1 : entry.revents;
}

/* The backend's process. */
struct backend {
	int fd;
	int state;
	uint32_t vrings;
	int kicks[256];
	bool kicked[256];
	uint32_t piece;
	bool loaded;
	/* of the frontend that is there, and of the one that was there before */
	uint8_t *memory;
	uint8_t *stale;
	/* to say that it may be killed, and that all is over */
	int kill_me;
};

/*
 * Waits for the other side to do something; false if it is gone. Nobody has asked
 * for the state of the device then, which says so as well.
 */
static bool wait_for_state(const struct backend *backend, short event)
{
	short events = wait_for(backend->state, event);
	uint8_t byte;

	if (events & event)
		return true;
	need(events == POLLERR, "events %#x", events);
	FAILS(read(backend->state, &byte, 1), EIO);
	need(events_of(backend->fd, POLLPRI) & POLLPRI, "the state of the device is news");
	printf("# the frontend is gone\n");
	return false;
}

/* Writes pieces of many sizes; waits for room where there is none. */
static void save(const struct backend *backend)
{
	static uint8_t piece[1 << 16];
	size_t at = 0, len, waits = 0;
	ssize_t written;

	while (at < STATE_LEN) {
		len = 1 + at * 7919 % backend->piece;
		if (len > STATE_LEN - at)
			len = STATE_LEN - at;
		for (size_t i = 0; i < len; i++)
			piece[i] = byte_of(PLAIN, at + i);
		written = write(backend->state, piece, len);
		if (written < 0) {
			need(errno == EAGAIN || errno == EIO, "a piece of %zu is written", len);
			waits++;
			if (!wait_for_state(backend, POLLOUT))
				return;
			continue;
		}
		need(written == (ssize_t)len, "a piece of %zu is written", len);
		at += len;
	}
	while (write(backend->state, piece, 0) < 0) {
		need(errno == EAGAIN || errno == EIO, "the end is written");
		if (!wait_for_state(backend, POLLOUT))
			return;
	}
	printf("# saved %zu, waited %zu times\n", at, waits);
}

/* Reads a state to its end. */
static void load(struct backend *backend)
{
	static uint8_t piece[1 << 16];
	uint8_t kind = PLAIN, one;
	size_t at = 0, pieces = 0;
	ssize_t got;

	for (;;) {
		if (!wait_for_state(backend, POLLIN))
			return;
		/* It is longer than this, or the end; and it stays, whoever asks. */
		got = read(backend->state, &one, at % 2);
		if (got == 0)
			break;
		if (got < 0) {
			need(errno == EMSGSIZE, "a small buffer is EMSGSIZE");
			need(events_of(backend->state, POLLIN) == POLLIN, "a piece stays");
			FAILS(read(backend->state, (void *)8, 0), EMSGSIZE);
			got = read(backend->state, piece, sizeof(piece));
		} else {
			piece[0] = one;
		}
		need(got > 0 && got <= (ssize_t)backend->piece, "a piece has %zd bytes", got);
		if (!at)
			kind = piece[0];
		check_bytes(piece, got, at);
		at += got;
		if (kind == KILL && ++pieces == 3)
			write(backend->kill_me, "k", 1);
	}
	need(at == 0 || at == STATE_LEN, "the state has %zu bytes", at);
	FAILS(read(backend->state, piece, sizeof(piece)), EAGAIN);
	backend->loaded = true;
	printf("# loaded %zu\n", at);
	if (kind == END)
		write(backend->kill_me, "e", 1);
}

static void reply(const struct backend *backend, struct message *message, uint64_t value)
{
	message->flags = 0x5;
	message->size = 8;
	message->value = value;
	need(write(backend->fd, message, HEADER + 8) == HEADER + 8, "answering");
}

/* The frontend has kicked before it said by what. */
static void expect_kick(const struct backend *backend, uint8_t vring)
{
	uint64_t count;

	need(wait_for(backend->kicks[vring], POLLIN) == POLLIN, "vring %u is kicked", vring);
	need(read(backend->kicks[vring], &count, 8) == 8, "the kick of vring %u", vring);
}

static int set_kick(const struct backend *backend, uint32_t vring, int fd)
{
	struct vhost_guest_eventfd kick = {
		.kind = VHOST_GUEST_KICK, .index = vring, .fd = fd,
	};

	return ioctl(backend->fd, VHOST_GUEST_SET_EVENTFD, &kick);
}

/* How often a vring has interrupted, on all processors. */
static unsigned long count_kicks(uint32_t vring)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char name[16], line[4096], *at, *end;
	unsigned long count = 0, one;

	snprintf(name, sizeof(name), "-kick.%u", vring);
	while (file && fgets(line, sizeof(line), file)) {
		if (!strstr(line, name))
			continue;
		for (at = strchr(line, ':') + 1; one = strtoul(at, &end, 10), end != at; at = end)
			count += one;
	}
	if (file)
		fclose(file);
	return count;
}

/* Has a vring kicked without an eventfd: a kick that waits for the next. */
static void take_eventfd(struct backend *backend, struct message *message)
{
	uint8_t vring = message->value;
	unsigned long before = count_kicks(vring);

	need(before, "the kicks of vring %u are counted", vring);
	need(!set_kick(backend, vring, -1), "vring %u has no eventfd", vring);
	reply(backend, message, 0);
	for (int tries = 0; count_kicks(vring) == before; tries++) {
		need(tries < PATIENCE_MS, "vring %u is kicked again", vring);
		usleep(1000);
	}
}

/* Maps the memory that the frontend shares; returns what it is full of. */
static uint8_t map_memory(struct backend *backend, const struct table *table)
{
	struct vhost_guest_region region = {
		.offset = table->user_address, .size = table->len,
	};
	int file = ioctl(backend->fd, VHOST_GUEST_OPEN_REGION, &region);
	uint8_t number;

	need(table->regions == 1 && table->len == MEMORY_LEN, "a table of one region");
	backend->memory = mmap(NULL, MEMORY_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	need(backend->memory != MAP_FAILED, "the memory is mapped");
	close(file);
	number = backend->memory[0];
	for (size_t at = 0; at < MEMORY_LEN; at++)
		need(number && backend->memory[at] == number, "byte %zu of the memory", at);
	return number;
}

/*
 * A frontend has left, and a reset has taken its memory: what a backend that has not
 * noticed reads and writes is its own.
 */
static void keep_stale(struct backend *backend)
{
	int pipes[2];

	if (!backend->memory)
		return;
	backend->stale = backend->memory;
	backend->memory = NULL;
	need(!pipe2(pipes, O_CLOEXEC), "a pipe");
	/* No zeroes go to a disk. */
	FAILS(write(pipes[1], backend->stale, 1), EFAULT);
	close(pipes[0]);
	close(pipes[1]);
	for (size_t at = 0; at < MEMORY_LEN; at++)
		need(!backend->stale[at], "byte %zu of memory that is gone", at);
	for (size_t page = 0; page < MEMORY_LEN; page += PAGE)
		memset(backend->stale + page, 0xee, PAGE);
	need(backend->stale[0] == 0xee, "memory that is gone can be written");
	printf("# memory that is gone can be touched\n");
}

static void set_memory(struct backend *backend, const struct table *table)
{
	uint8_t number = map_memory(backend, table);

	printf("# memory of frontend %u\n", number);
	for (size_t at = 0; backend->stale && at < MEMORY_LEN; at++)
		need(backend->stale[at] == 0xee, "byte %zu of memory that was given up", at);
	if (backend->stale)
		memset(backend->stale, 0xdd, MEMORY_LEN);
	/* Which the frontend sees, and nothing else. */
	backend->memory[MEMORY_LEN - 1] = number + 0x80;
}

static void answer(struct backend *backend, struct message *message)
{
	uint32_t direction = message->direction;

	switch (message->request) {
	case SET_MEM_TABLE:
		set_memory(backend, (const struct table *)message);
		return reply(backend, message, 0);
	case GET_FEATURES:
		return reply(backend, message, F_PROTOCOL);
	case GET_PROTOCOL_FEATURES:
		return reply(backend, message, F_PROTOCOL_ALL);
	case GET_QUEUE_NUM:
		return reply(backend, message, backend->vrings);
	case SET_VRING_KICK:
		if (backend->kicked[(uint8_t)message->value])
			return take_eventfd(backend, message);
		expect_kick(backend, message->value);
		backend->kicked[(uint8_t)message->value] = true;
		return reply(backend, message, 0);
	case SET_DEVICE_STATE_FD:
		backend->loaded = direction == SAVE;
		reply(backend, message, 0x100);
		return direction == SAVE ? save(backend) : load(backend);
	case CHECK_DEVICE_STATE:
		return reply(backend, message, !backend->loaded);
	}
}

static void be_up(const struct backend *backend)
{
	for (uint32_t vring = 0; vring < backend->vrings; vring++) {
		need(!set_kick(backend, vring, backend->kicks[vring]), "kick %u", vring);
		need(!events_of(backend->kicks[vring], POLLIN), "vring %u has no kick of the last "
		     "frontend's", vring);
	}
	need(!ioctl(backend->fd, VHOST_GUEST_SET_TYPE, TYPE), "the type is set");
	need(!ioctl(backend->fd, VHOST_GUEST_SET_BACKEND_UP, 1), "the backend is up");
}

static void serve_frontends(const char *node, int kill_me)
{
	struct backend backend = { .fd = open(node, O_RDWR | O_CLOEXEC), .kill_me = kill_me };
	union {
		struct message message;
		uint8_t bytes[4096];
	} buffer;
	struct vhost_guest_info info;
	uint32_t state;
	short events;

	need(backend.fd >= 0, "the device can be opened");
	need(!ioctl(backend.fd, VHOST_GUEST_GET_INFO, &info), "information");
	backend.piece = info.max_migration_message_size;
	need(backend.piece >= PAGE, "the device carries state");
	backend.state = ioctl(backend.fd, VHOST_GUEST_OPEN,
			      VHOST_GUEST_OPEN_MIGRATION | VHOST_GUEST_OPEN_NONBLOCK);
	need(backend.state >= 0, "state has a file");
	/* Things that are to be gone when this process is. */
	backend.vrings = info.max_vhost_queues;
	for (uint32_t vring = 0; vring < backend.vrings; vring++)
		backend.kicks[vring] = eventfd(0, EFD_CLOEXEC);
	need(mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, backend.fd, 0) != MAP_FAILED,
	     "a mapping");
	be_up(&backend);
	for (;;) {
		events = wait_for(backend.fd, POLLIN | POLLPRI);
		if (events & POLLPRI) {
			need(!ioctl(backend.fd, VHOST_GUEST_GET_STATE, &state), "the state");
			if (state & VHOST_GUEST_NEEDS_RESET) {
				need(!ioctl(backend.fd, VHOST_GUEST_RESET, 0), "a reset");
				keep_stale(&backend);
				be_up(&backend);
				continue;
			}
		}
		if (!(events & POLLIN))
			continue;
		if (read(backend.fd, &buffer, sizeof(buffer)) < HEADER) {
			need(errno == EIO || errno == EAGAIN, "a message");
			continue;
		}
		answer(&backend, &buffer.message);
	}
}

/* The number that a new eventfd has: the lowest that no other has. */
static int eventfd_number(void)
{
	int fd = eventfd(0, 0), number = -1;
	char name[64], line[128];
	FILE *file;

	snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
	file = fopen(name, "r");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "eventfd-id: %d", &number);
	if (file)
		fclose(file);
	close(fd);
	need(number >= 0, "eventfds have numbers");
	return number;
}

static bool is_in(const char *name, const char *text)
{
	FILE *file = fopen(name, "r");
	bool found = false;
	char line[4096];

	while (file && fgets(line, sizeof(line), file))
		found |= strstr(line, text) != NULL;
	if (file)
		fclose(file);
	return found;
}

/* Nothing is left of a process that had the device. */
static void check_nothing_left(int eventfds)
{
	need(!is_in("/proc/interrupts", "vhost-guest["), "it leaves no interrupts");
	need(eventfd_number() == eventfds, "it leaves no eventfds");
	need(is_in("/sys/module/vhost_guest/refcnt", "0\n"), "it does not use the module");
}

/* Backends, one after the other. */
static int serve(const char *address)
{
	int eventfds = eventfd_number(), killed = 0, pipes[2];
	char node[64], wish = 0;
	pid_t child;

	snprintf(node, sizeof(node), "/dev/vhost-guest/%s", address);
	while (wish != 'e') {
		need(!pipe2(pipes, O_CLOEXEC), "a pipe");
		child = fork();
		if (!child)
			serve_frontends(node, pipes[1]);
		close(pipes[1]);
		if (!killed)
			printf("peer: serving\n");
		need(read(pipes[0], &wish, 1) == 1, "the backend has ended");
		close(pipes[0]);
		/* The frontend keeps it in read(), or is about to. */
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		check_nothing_left(eventfds);
		killed++;
	}
	printf("peer: %d backends were killed and left nothing\n", killed);
	return 0;
}

static int connect_to(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = PATIENCE_MS / 1000 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(name.sun_path, path, sizeof(name.sun_path) - 1);
	need(!connect(fd, (struct sockaddr *)&name, sizeof(name)), "connecting");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void send_bytes(int fd, void *bytes, size_t len, int attached)
{
	struct iovec part = { .iov_base = bytes, .iov_len = len };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	struct cmsghdr *rights;

	if (attached >= 0) {
		header.msg_control = control;
		header.msg_controllen = sizeof(control);
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &attached, sizeof(int));
	}
	need(sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)len, "sending %zu bytes", len);
}

static void send_message(int fd, uint32_t request, const uint64_t *value, int attached)
{
	struct message message = { .request = request, .flags = 1, .size = value ? 8 : 0 };

	if (value)
		message.value = *value;
	if (request == SET_VRING_KICK)
		message.flags |= NEED_REPLY;
	send_bytes(fd, &message, HEADER + message.size, attached);
}

static uint64_t receive_reply(int fd, uint32_t request)
{
	struct message reply;

	need(recv(fd, &reply, HEADER + 8, MSG_WAITALL) == HEADER + 8, "a reply to %u", request);
	need(reply.request == request && reply.flags == 0x5, "the reply to %u", request);
	return reply.value;
}

static uint64_t ask(int fd, uint32_t request, const uint64_t *value, int attached)
{
	send_message(fd, request, value, attached);
	return receive_reply(fd, request);
}

/* A frontend that may transfer state. */
static int begin(const char *path)
{
	uint64_t features = F_PROTOCOL_ALL;
	int fd = connect_to(path);

	send_message(fd, SET_OWNER, NULL, -1);
	need(ask(fd, GET_FEATURES, NULL, -1) & F_PROTOCOL, "protocol features");
	need(ask(fd, GET_PROTOCOL_FEATURES, NULL, -1) == F_PROTOCOL_ALL, "state can be transferred");
	send_message(fd, SET_PROTOCOL_FEATURES, &features, -1);
	return fd;
}

/*
 * A frontend that shares memory, goes, and is followed by another, with other memory:
 * what the backend still does with the first one's is not seen.
 */
static void drive_memory(const char *path, uint8_t number)
{
	struct table table = {
		.request = SET_MEM_TABLE, .flags = 1 | NEED_REPLY, .size = sizeof(table) - HEADER,
		.regions = 1, .len = MEMORY_LEN, .user_address = 0x7f0000000000,
	};
	int fd = begin(path), file = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t *memory;

	need(!ftruncate(file, MEMORY_LEN), "memory");
	need(!fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK), "memory that stays");
	memory = mmap(NULL, MEMORY_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	need(memory != MAP_FAILED, "memory");
	memset(memory, number, MEMORY_LEN);
	send_bytes(fd, &table, sizeof(table), file);
	need(!receive_reply(fd, SET_MEM_TABLE), "the memory is taken");
	for (size_t at = 0; at < MEMORY_LEN - 1; at++)
		need(memory[at] == number, "byte %zu of the frontend's memory", at);
	need(memory[MEMORY_LEN - 1] == number + 0x80, "the backend writes to the memory");
	munmap(memory, MEMORY_LEN);
	close(file);
	close(fd);
}

/* Kicks each vring once, and the first once more, when it has no eventfd any more. */
static void drive_kicks(int fd)
{
	uint64_t vrings = ask(fd, GET_QUEUE_NUM, NULL, -1), one = 1, first = 0;
	int late = eventfd(0, EFD_CLOEXEC);

	for (uint64_t vring = 0; vring < vrings; vring++) {
		int kick = eventfd(0, EFD_CLOEXEC);

		need(write(kick, &one, 8) == 8, "kicking");
		need(!ask(fd, SET_VRING_KICK, &vring, kick), "vring %u", (unsigned int)vring);
		close(kick);
	}
	need(!ask(fd, SET_VRING_KICK, &first, late), "the first vring again");
	need(write(late, &one, 8) == 8, "kicking late");
	close(late);
	printf("%u vrings were kicked\n", (unsigned int)vrings);
}

/* The frontend's end of the pipe. */
static int transfer(int fd, uint64_t direction)
{
	int pipes[2];

	need(!pipe2(pipes, O_CLOEXEC), "a pipe");
	need(ask(fd, SET_DEVICE_STATE_FD, &direction, pipes[direction == SAVE]) == 0x100,
	     "the transfer begins");
	close(pipes[direction == SAVE]);
	return pipes[direction == LOAD];
}

static void drive_save(int fd, size_t most)
{
	static uint8_t bytes[1 << 16];
	int pipe = transfer(fd, SAVE);
	size_t at = 0;
	ssize_t got;

	while (at < most && (got = read(pipe, bytes, sizeof(bytes))) > 0) {
		check_bytes(bytes, got, at);
		at += got;
	}
	need(at >= most || at == STATE_LEN, "%zu bytes were saved", at);
	close(pipe);
}

/* Loads @len bytes of a state; false if nobody reads them. */
static bool drive_load(int fd, uint8_t kind, size_t len)
{
	int pipe = transfer(fd, LOAD);
	uint8_t *bytes = malloc(len + 1);
	size_t at = 0;
	ssize_t put = 0;

	for (size_t i = 0; i < len; i++)
		bytes[i] = byte_of(kind, i);
	while (at < len) {
		put = write(pipe, bytes + at, len - at < 5000 ? len - at : 5000);
		if (put < 0)
			break;
		at += put;
	}
	/* It waits for more, in the middle. */
	if (kind == KILL && put >= 0)
		need(wait_for(pipe, 0) & POLLERR, "the pipe breaks with its reader");
	free(bytes);
	close(pipe);
	return kind != KILL && put >= 0;
}

static int drive(const char *path)
{
	int fd, half;
	char byte;

	signal(SIGPIPE, SIG_IGN);
	for (uint8_t number = 1; number <= FRONTENDS; number++)
		drive_memory(path, number);
	printf("memory is mapped, and what is left of it is nobody else's\n");
	fd = begin(path);
	drive_kicks(fd);
	drive_save(fd, SIZE_MAX);
	need(ask(fd, CHECK_DEVICE_STATE, NULL, -1) == 0, "the state was saved");
	need(drive_load(fd, PLAIN, STATE_LEN), "loading");
	need(ask(fd, CHECK_DEVICE_STATE, NULL, -1) == 0, "the state was loaded");
	need(drive_load(fd, PLAIN, 0), "loading nothing");
	need(ask(fd, CHECK_DEVICE_STATE, NULL, -1) == 0, "nothing was loaded");
	/* It stops reading: the backend need not care. */
	drive_save(fd, 100);
	need(ask(fd, CHECK_DEVICE_STATE, NULL, -1) == 0, "the backend has saved");
	close(fd);
	printf("state is saved and loaded\n");
	for (int i = 0; i < 5; i++) {
		/* The last connection's state is in the queues yet. */
		fd = begin(path);
		drive_load(fd, KILL, STATE_LEN / 2);
		need(recv(fd, &byte, 1, 0) <= 0, "the connection ends with the backend");
		close(fd);
		fd = begin(path);
		need(drive_load(fd, PLAIN, STATE_LEN), "loading into another backend");
		need(ask(fd, CHECK_DEVICE_STATE, NULL, -1) == 0, "another backend has loaded it");
		drive_save(fd, SIZE_MAX);
		need(ask(fd, CHECK_DEVICE_STATE, NULL, -1) == 0, "another backend has saved");
		/* It is the frontend that goes, in the middle of it. */
		half = transfer(fd, i % 2 ? LOAD : SAVE);
		close(fd);
		close(half);
	}
	fd = begin(path);
	drive_load(fd, END, STATE_LEN);
	need(recv(fd, &byte, 1, 0) <= 0, "the last backend ends");
	close(fd);
	printf("backends were killed, and others went on\n");
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "drive"))
		return drive(argv[2]);
	fprintf(stderr, "usage: %s serve ADDRESS | drive SOCKET\n", argv[0]);
	return 2;
}

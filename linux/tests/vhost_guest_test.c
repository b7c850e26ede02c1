// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * Tests of the driver by its userspace interface, against a real (emulated)
 * device without a frontend. Run as root in a virtual machine of its own:
 *
 *	vhost_guest_test 0000:00:05.0 vhost_guest.ko [seconds of random calls]
 *
 * Prints TAP; the exit code is 0 if all tests pass.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <linux/vhost_guest.h>

#define BLOCK_DEVICE	2
#define PAGE		4096UL
#define HUGE_PAGE	(2UL << 20)

static const char *address;
static const char *module;
static char node[64];
static unsigned int tests, failures;
static sigjmp_buf faulted;
/* No address of ours. */
static void *volatile nowhere = (void *)8;

/* One result; the test goes on, so that all of them are seen. */
static void check(bool passed, const char *what, ...)
{
	va_list arguments;
	int error = errno;

	va_start(arguments, what);
	printf("%sok %u - ", passed ? "" : "not ", ++tests);
	vprintf(what, arguments);
	printf(passed ? "\n" : " (errno %d: %s)\n", error, strerror(error));
	va_end(arguments);
	failures += !passed;
}

/* A call that has to fail, with this and no other error. */
#define FAILS(call, expected) do {					\
	errno = 0;							\
	long result = (long)(call);					\
	check(result == -1 && errno == (expected), "%s is %s", #call, #expected); \
} while (0)

#define WORKS(call) do {						\
	errno = 0;							\
	check((long)(call) != -1, "%s works", #call);			\
} while (0)

static void give_up(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_device(int flags)
{
	int fd = open(node, O_RDWR | O_CLOEXEC | flags);

	if (fd < 0)
		give_up(node);
	return fd;
}

static int set_eventfd(int fd, uint32_t kind, uint32_t index, int eventfd)
{
	struct vhost_guest_eventfd which = { .kind = kind, .index = index, .fd = eventfd };

	return ioctl(fd, VHOST_GUEST_SET_EVENTFD, &which);
}

static uint32_t state_of(int fd)
{
	uint32_t state = UINT32_MAX;

	ioctl(fd, VHOST_GUEST_GET_STATE, &state);
	return state;
}

static short events_of(int fd, short wanted)
{
	struct pollfd entry = { .fd = fd, .events = wanted };

	return poll(&entry, 1, 0) < 0 ? -1 : entry.revents;
}

static struct vhost_guest_info info_of(int fd)
{
	struct vhost_guest_info info = { 0 };

	if (ioctl(fd, VHOST_GUEST_GET_INFO, &info))
		give_up("VHOST_GUEST_GET_INFO");
	return info;
}

static void *map(int fd, uint64_t len, uint64_t offset)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
}

static void on_fault(int signal)
{
	siglongjmp(faulted, signal);
}

/* The byte there, or the number of a signal, negative: there is to be none. */
static int load(const volatile uint8_t *at)
{
	int signal = sigsetjmp(faulted, 1);

	return signal ? -signal : *at;
}

/*
 * Whether the window is gone from a mapping: what is there is ours alone, zeroes at
 * first, and a call of the kernel that meets a page we have not touched yet fails.
 */
static bool is_gone(uint8_t *mapping, size_t pages)
{
	int null = open("/dev/zero", O_RDWR | O_CLOEXEC), pipes[2];
	bool gone = !pipe(pipes);

	errno = 0;
	gone &= read(null, mapping, 1) == -1 && errno == EFAULT;
	gone &= write(pipes[1], mapping, 1) == -1 && errno == EFAULT;
	for (size_t page = 0; page < pages; page++)
		gone &= load(mapping + page * PAGE + 1) == 0;
	for (size_t page = 0; page < pages; page++) {
		mapping[page * PAGE] = 1 + page;
		gone &= load(mapping + page * PAGE) == (uint8_t)(1 + page);
	}
	close(pipes[0]);
	close(pipes[1]);
	close(null);
	return gone;
}

/* Writes to a file of sysfs; false with errno. */
static bool tell(const char *what, const char *path, ...)
{
	va_list arguments;
	char name[256];
	ssize_t written;
	int fd, error;

	va_start(arguments, path);
	vsnprintf(name, sizeof(name), path, arguments);
	va_end(arguments);
	fd = open(name, O_WRONLY);
	if (fd < 0)
		return false;
	written = write(fd, what, strlen(what));
	error = errno;
	close(fd);
	errno = error;
	return written == (ssize_t)strlen(what);
}

static bool bind_driver(void)
{
	return tell(address, "/sys/bus/pci/drivers/vhost_guest/bind");
}

static bool unbind_driver(void)
{
	return tell(address, "/sys/bus/pci/drivers/vhost_guest/unbind");
}

/*
 * virtio_pci takes every device of its vendor that it finds, unless it is told
 * that another driver wants it.
 */
static void take_over(void)
{
	if (!access(node, F_OK))
		return;
	tell("vhost_guest", "/sys/bus/pci/devices/%s/driver_override", address);
	tell(address, "/sys/bus/pci/devices/%s/driver/unbind", address);
	tell(address, "/sys/bus/pci/drivers_probe");
}

static bool load_module(void)
{
	int fd = open(module, O_RDONLY | O_CLOEXEC);
	long result;

	if (fd < 0)
		return false;
	result = syscall(SYS_finit_module, fd, "", 0);
	close(fd);
	return !result;
}

static int unload_module(void)
{
	return syscall(SYS_delete_module, "vhost_guest", O_NONBLOCK);
}

/* Whether /proc/interrupts has a line of the driver's. */
static bool has_interrupts(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	bool found = false;
	char line[4096];

	while (file && fgets(line, sizeof(line), file))
		found |= strstr(line, "vhost-guest[") != NULL;
	if (file)
		fclose(file);
	return found;
}

static void test_information(void)
{
	int fd = open_device(0);
	struct vhost_guest_info info = info_of(fd);

	printf("# %u vrings, messages of %u, migration of %u, window of %#llx\n",
	       info.max_vhost_queues, info.max_message_size, info.max_migration_message_size,
	       (unsigned long long)info.window_size);
	check(info.version == VHOST_GUEST_API_VERSION, "the version is that of the header");
	check(info.max_vhost_queues >= 1 && info.max_vhost_queues <= 256, "1 to 256 vrings");
	check(info.max_message_size >= 512 && info.max_message_size <= 4096,
	      "messages of 512 to 4096 bytes");
	check(info.window_size && info.window_size % PAGE == 0, "the window has whole pages");
	check(!info.reserved && !info.reserved2[0] && !info.reserved2[3],
	      "what is reserved is 0");
	FAILS(ioctl(fd, VHOST_GUEST_GET_INFO, nowhere), EFAULT);
	close(fd);
}

static void test_one_opener(void)
{
	int fd;

	FAILS(open(node, O_RDONLY), EACCES);
	FAILS(open(node, O_WRONLY), EACCES);
	fd = open_device(0);
	FAILS(open(node, O_RDWR), EBUSY);
	close(fd);
	fd = open_device(0);
	check(fd >= 0, "it can be opened again");
	check(has_interrupts(), "it has interrupts while it is open");
	close(fd);
	check(!has_interrupts(), "it has none when it is closed");
}

static void test_bad_requests(void)
{
	struct vhost_guest_eventfd reserved = { .fd = -1, .reserved = 1 };
	int fd = open_device(0), event = eventfd(0, 0), null = open("/dev/null", O_RDWR);
	uint32_t vrings = info_of(fd).max_vhost_queues;

	FAILS(ioctl(fd, _IO(VHOST_GUEST_MAGIC, 0x7f), 0), ENOTTY);
	FAILS(ioctl(fd, TCGETS, 0), ENOTTY);
	FAILS(ioctl(fd, VHOST_GUEST_GET_STATE, nowhere), EFAULT);
	FAILS(ioctl(fd, VHOST_GUEST_RESET, 1), EINVAL);
	FAILS(ioctl(fd, VHOST_GUEST_SET_TYPE, 0), EINVAL);
	FAILS(ioctl(fd, VHOST_GUEST_SET_TYPE, 0x10000), EINVAL);
	FAILS(ioctl(fd, VHOST_GUEST_SET_BACKEND_UP, 2), EINVAL);
	FAILS(ioctl(fd, VHOST_GUEST_SET_BACKEND_UP, 1), EINVAL);
	FAILS(ioctl(fd, VHOST_GUEST_SET_EVENTFD, nowhere), EFAULT);
	FAILS(ioctl(fd, VHOST_GUEST_SET_EVENTFD, &reserved), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_LOG + 1, 0, event), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_KICK, vrings, event), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_CALL, vrings, event), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_ERR, UINT32_MAX, event), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_LOG, 1, event), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_KICK, 0, -2), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_KICK, 0, null), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_CALL, 0, fd), EINVAL);
	FAILS(set_eventfd(fd, VHOST_GUEST_CALL, 0, 999), EBADF);
	FAILS(ioctl(fd, VHOST_GUEST_OPEN, 3), EINVAL);
	FAILS(ioctl(fd, VHOST_GUEST_OPEN, 1UL << 30), EINVAL);
	FAILS(lseek(fd, 0, SEEK_SET), ESPIPE);
	FAILS(pread(fd, &vrings, 1, 0), ESPIPE);
	close(null);
	close(event);
	close(fd);
}

static void test_bad_messages(void)
{
	int fd = open_device(O_NONBLOCK), channel;
	static char message[8192];

	FAILS(read(fd, message, sizeof(message)), EAGAIN);
	FAILS(write(fd, message, 11), EINVAL);
	FAILS(write(fd, message, 0), EINVAL);
	FAILS(write(fd, message, sizeof(message)), EMSGSIZE);
	FAILS(write(fd, nowhere, 12), EFAULT);
	channel = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_BACKEND | VHOST_GUEST_OPEN_NONBLOCK);
	check(channel >= 0 && fcntl(channel, F_GETFD) == FD_CLOEXEC, "a channel is close-on-exec");
	FAILS(read(channel, message, sizeof(message)), EAGAIN);
	check(events_of(channel, POLLIN | POLLOUT) == POLLOUT, "a channel has room");
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, channel, 0), ENODEV);
	FAILS(ioctl(channel, VHOST_GUEST_RESET, 0), ENOTTY);
	close(fd);
	FAILS(read(channel, message, sizeof(message)), ENODEV);
	FAILS(write(channel, message, 12), ENODEV);
	check(events_of(channel, POLLIN) & POLLHUP, "a channel hangs up with its device");
	fd = open_device(0);
	FAILS(read(channel, message, sizeof(message)), ENODEV);
	close(channel);
	close(fd);
}

/* Without a frontend: state stays where it is, and none comes. */
static void test_bad_state(void)
{
	int fd = open_device(0), state, written = 0;
	uint32_t piece = info_of(fd).max_migration_message_size;
	static char bytes[1 << 20];

	if (!piece) {
		FAILS(ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_MIGRATION), EOPNOTSUPP);
		close(fd);
		return;
	}
	check(piece <= sizeof(bytes), "pieces of %u bytes", piece);
	state = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_MIGRATION | VHOST_GUEST_OPEN_NONBLOCK);
	check(state >= 0 && fcntl(state, F_GETFD) == FD_CLOEXEC, "state has a file");
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, state, 0), ENODEV);
	FAILS(ioctl(state, VHOST_GUEST_RESET, 0), ENOTTY);
	FAILS(lseek(state, 0, SEEK_SET), ESPIPE);
	FAILS(read(state, bytes, sizeof(bytes)), EAGAIN);
	FAILS(read(state, bytes, 0), EAGAIN);
	FAILS(write(state, bytes, piece + 1), EMSGSIZE);
	FAILS(write(state, nowhere, 1), EFAULT);
	FAILS(write(state, nowhere, piece), EFAULT);
	check(events_of(state, POLLIN | POLLOUT | POLLPRI) == POLLOUT, "there is room for state");
	check(write(state, nowhere, 0) == 0, "the end needs no memory");
	while (written < 1000 && write(state, bytes, 1 + rand() % piece) > 0)
		written++;
	check(errno == EAGAIN && written >= 1 && written < 256, "there is room for %d pieces",
	      written);
	check(events_of(state, POLLIN | POLLOUT) == 0, "poll() says that there is no more");
	FAILS(write(state, bytes, 0), EAGAIN);
	check(events_of(fd, POLLIN | POLLOUT) == POLLOUT, "messages have room all the same");
	WORKS(ioctl(fd, VHOST_GUEST_RESET, 0));
	check(events_of(state, POLLIN | POLLOUT) == POLLOUT, "a reset takes them out");
	check(write(state, bytes, piece) == (ssize_t)piece, "the longest piece can be written");
	close(fd);
	FAILS(read(state, bytes, sizeof(bytes)), ENODEV);
	FAILS(write(state, bytes, 0), ENODEV);
	check(events_of(state, POLLOUT) & POLLHUP, "the file hangs up with its device");
	close(state);
}

static void test_life(void)
{
	int fd = open_device(0);

	check(events_of(fd, POLLPRI) == POLLPRI, "the state is news after open()");
	check(state_of(fd) == 0, "the state is 0 after open()");
	check(events_of(fd, POLLPRI) == 0, "the state is no news any more");
	WORKS(ioctl(fd, VHOST_GUEST_SET_TYPE, BLOCK_DEVICE));
	WORKS(ioctl(fd, VHOST_GUEST_SET_TYPE, BLOCK_DEVICE));
	FAILS(ioctl(fd, VHOST_GUEST_SET_TYPE, BLOCK_DEVICE + 1), EBUSY);
	check(info_of(fd).device_type == BLOCK_DEVICE, "the type is told");
	WORKS(ioctl(fd, VHOST_GUEST_SET_BACKEND_UP, 1));
	check(state_of(fd) == VHOST_GUEST_BACKEND_UP, "the backend is up");
	WORKS(ioctl(fd, VHOST_GUEST_SET_BACKEND_UP, 0));
	WORKS(ioctl(fd, VHOST_GUEST_RESET, 0));
	check(info_of(fd).device_type == 0, "a reset takes the type back");
	check(state_of(fd) == 0, "the state is 0 after a reset");
	close(fd);
}

static void test_eventfds(void)
{
	int fd = open_device(0), event = eventfd(0, EFD_NONBLOCK);
	uint32_t vrings = info_of(fd).max_vhost_queues;
	uint64_t count = 1;

	WORKS(set_eventfd(fd, VHOST_GUEST_CALL, vrings - 1, event));
	WORKS(set_eventfd(fd, VHOST_GUEST_ERR, vrings - 1, event));
	WORKS(set_eventfd(fd, VHOST_GUEST_LOG, 0, event));
	check(write(event, &count, 8) == 8, "an eventfd can be signalled");
	FAILS(read(event, &count, 8), EAGAIN);
	WORKS(set_eventfd(fd, VHOST_GUEST_CALL, vrings - 1, -1));
	WORKS(set_eventfd(fd, VHOST_GUEST_ERR, vrings - 1, -1));
	WORKS(set_eventfd(fd, VHOST_GUEST_LOG, 0, -1));
	check(write(event, &count, 8) == 8 && read(event, &count, 8) == 8,
	      "an eventfd that was taken back is an ordinary one");
	for (uint32_t vring = 0; vring < vrings; vring++) {
		if (set_eventfd(fd, VHOST_GUEST_KICK, vring, event))
			check(false, "kick %u can be set", vring);
	}
	WORKS(set_eventfd(fd, VHOST_GUEST_KICK, 0, -1));
	WORKS(set_eventfd(fd, VHOST_GUEST_CALL, 0, event));
	/* The driver is the only one that knows it now. */
	close(event);
	WORKS(ioctl(fd, VHOST_GUEST_RESET, 0));
	close(fd);
}

static int open_region(int fd, uint64_t offset, uint64_t size)
{
	struct vhost_guest_region region = { .offset = offset, .size = size };

	return ioctl(fd, VHOST_GUEST_OPEN_REGION, &region);
}

static int end_of(pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	return status;
}

static void test_bad_mappings(void)
{
	int fd = open_device(0);
	uint64_t size = info_of(fd).window_size;

	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0), EINVAL);
	FAILS(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0), EPERM);
	FAILS(map(fd, PAGE, size), EINVAL);
	FAILS(map(fd, 2 * PAGE, size - PAGE), EINVAL);
	FAILS(map(fd, PAGE, INT64_MAX - PAGE + 1), EINVAL);
	FAILS(map(fd, PAGE, 0x8000000000000000), EINVAL);
	close(fd);
}

static void test_mappings(void)
{
	int fd = open_device(0), window, second;
	uint64_t size = info_of(fd).window_size;
	uint8_t *own, *given, *part;
	pid_t child;

	window = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_WINDOW);
	check(window >= 0, "the window has a file");
	FAILS(read(window, &size, 8), EINVAL);
	FAILS(ioctl(window, VHOST_GUEST_RESET, 0), ENOTTY);
	own = map(fd, size, 0);
	given = map(window, size, 0);
	part = map(window, PAGE, size - PAGE);
	check(own != MAP_FAILED && given != MAP_FAILED && part != MAP_FAILED, "they can be mapped");
	check(load(own) == 0xff && load(own + size - 1) == 0xff, "nothing reads as all ones");
	check(load(given) == 0xff && load(part + PAGE - 1) == 0xff, "by the other file, too");
	check(mprotect(own, PAGE, PROT_READ | PROT_EXEC) == -1, "it cannot be made executable");
	WORKS(ioctl(fd, VHOST_GUEST_RESET, 0));
	check(load(own) == 0xff, "a mapping of the device survives a reset");
	check(is_gone(given, 3), "one of a file does not");
	/* Mapped from the same file. */
	check(load(part) == 3, "its pages are the file's own");
	FAILS(map(window, PAGE, 0), ENODEV);
	second = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_WINDOW);
	munmap(part, PAGE);
	part = map(second, PAGE, 0);
	check(load(part) == 0xff, "a new file is of use");
	close(fd);
	FAILS(open(node, O_RDWR), EBUSY);
	munmap(own, size);
	check(is_gone(part, 1), "a file ends with the device");
	fd = open_device(0);
	check(load(part) == 1 && load(part + 1) == 0, "and stays so for the next opener");
	child = fork();
	if (!child) {
		/* By a file of its own, nobody sees what others have stored. */
		int other = open_region(fd, 0, PAGE);
		uint8_t *mapping = map(other, PAGE, 0);

		ioctl(fd, VHOST_GUEST_RESET, 0);
		_exit(is_gone(mapping, 1) && load(part) == 1 ? 0 : 1);
	}
	check(end_of(child) == 0, "each file has its own");
	munmap(given, size);
	munmap(part, PAGE);
	close(window);
	close(second);
	close(fd);
}

static void test_regions(void)
{
	int fd = open_device(0), region;
	uint64_t size = info_of(fd).window_size;
	uint8_t *mapping;

	FAILS(ioctl(fd, VHOST_GUEST_OPEN_REGION, nowhere), EFAULT);
	FAILS(open_region(fd, 0, 0), EINVAL);
	FAILS(open_region(fd, 1, PAGE), EINVAL);
	FAILS(open_region(fd, size, PAGE), EINVAL);
	FAILS(open_region(fd, size - PAGE, PAGE + 1), EINVAL);
	FAILS(open_region(fd, UINT64_MAX - PAGE + 1, PAGE), EINVAL);
	FAILS(open_region(fd, PAGE, UINT64_MAX), EINVAL);
	region = open_region(fd, size - 2 * PAGE, PAGE + 1);
	check(region >= 0, "a part of the window has a file");
	FAILS(ioctl(region, VHOST_GUEST_OPEN_REGION, nowhere), ENOTTY);
	FAILS(map(region, 3 * PAGE, 0), EINVAL);
	FAILS(map(region, PAGE, 2 * PAGE), EINVAL);
	mapping = map(region, 2 * PAGE, 0);
	check(load(mapping) == 0xff && load(mapping + 2 * PAGE - 1) == 0xff,
	      "its last page is there as a whole");
	WORKS(ioctl(fd, VHOST_GUEST_RESET, 0));
	check(is_gone(mapping, 2), "it ends with a reset");
	FAILS(map(region, PAGE, 0), ENODEV);
	munmap(mapping, 2 * PAGE);
	close(region);
	close(fd);
}

/* Whether a file looks so, and can be mapped as a program that looks at it does. */
static void check_looks(int file, uint64_t size, uint64_t block)
{
	struct stat look = { 0 };
	uint8_t *mapping;
	bool aligned = true;

	fstat(file, &look);
	check(look.st_size == (off_t)size && lseek(file, 0, SEEK_END) == (off_t)size,
	      "a file of %#lx bytes", size);
	check(look.st_blksize == (blksize_t)block, "and blocks of %#lx", block);
	/* What comes in between would be in the way of what is aligned by chance. */
	for (int i = 0; i < 4; i++) {
		mapping = map(file, size, 0);
		aligned &= mapping != MAP_FAILED && (uintptr_t)mapping % block == 0;
		aligned &= load(mapping + size - 1) == 0xff;
		munmap(mapping, size);
		mmap(NULL, PAGE * (i + 1), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	check(aligned, "it is mapped where its blocks can be");
}

static void test_looks(void)
{
	int fd = open_device(0), file;
	uint64_t size = info_of(fd).window_size;
	char name[64];

	if (size < 4 * HUGE_PAGE)
		give_up("a window that is too small");
	file = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_WINDOW);
	check_looks(file, size, HUGE_PAGE);
	close(file);
	file = open_region(fd, HUGE_PAGE, 2 * HUGE_PAGE);
	check_looks(file, 2 * HUGE_PAGE, HUGE_PAGE);
	FAILS(ftruncate(file, PAGE), EINVAL);
	FAILS(fallocate(file, 0, 0, PAGE), ENODEV);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", file);
	FAILS(truncate(name, PAGE), EINVAL);
	FAILS(open(name, O_RDWR), ENXIO);
	check_looks(file, 2 * HUGE_PAGE, HUGE_PAGE);
	close(file);
	file = open_region(fd, PAGE, 2 * HUGE_PAGE);
	check_looks(file, 2 * HUGE_PAGE, PAGE);
	close(file);
	/* Its last page is there as a whole, for a program that maps whole ones. */
	file = open_region(fd, 0, HUGE_PAGE + 1);
	check_looks(file, HUGE_PAGE + PAGE, PAGE);
	close(file);
	file = open_region(fd, 0, 0x3b10);
	check_looks(file, 0x4000, PAGE);
	close(file);
	close(fd);
}

/* Takes what a backend has; the result is its mapping of a page. */
static uint8_t *have_everything(int fd)
{
	uint32_t vrings = info_of(fd).max_vhost_queues;
	uint8_t *window = map(fd, PAGE, 0);

	for (uint32_t vring = 0; vring < vrings; vring++) {
		set_eventfd(fd, VHOST_GUEST_KICK, vring, eventfd(0, 0));
		set_eventfd(fd, VHOST_GUEST_CALL, vring, eventfd(0, 0));
		set_eventfd(fd, VHOST_GUEST_ERR, vring, eventfd(0, 0));
	}
	ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_BACKEND);
	ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_WINDOW);
	ioctl(fd, VHOST_GUEST_SET_TYPE, BLOCK_DEVICE);
	ioctl(fd, VHOST_GUEST_SET_BACKEND_UP, 1);
	load(window);
	return window;
}

/* A process that has everything, and sleeps in read(). */
static pid_t start_backend(void)
{
	int ready[2];
	char byte;
	pid_t child;

	if (pipe(ready))
		give_up("pipe");
	child = fork();
	if (!child) {
		int fd = open_device(0);
		char buffer[4096];
		uint8_t *mapping;

		mapping = have_everything(fd);
		write(ready[1], "", 1);
		read(fd, buffer, sizeof(buffer));
		_exit(errno == ENODEV && is_gone(mapping, 1) ? 0 : 1);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		give_up("the other process");
	close(ready[0]);
	return child;
}

static void test_death(void)
{
	pid_t child;

	child = start_backend();
	FAILS(open(node, O_RDWR), EBUSY);
	check(has_interrupts(), "a backend has interrupts");
	kill(child, SIGKILL);
	check(WIFSIGNALED(end_of(child)), "it dies while it waits");
	check(!has_interrupts(), "it leaves no interrupts");
	close(open_device(0));
	/* At a random moment of its life, in calls that take long. */
	for (int i = 0; i < 20; i++) {
		child = fork();
		if (!child) {
			for (;;) {
				int fd = open(node, O_RDWR);

				if (fd >= 0)
					have_everything(fd);
				ioctl(fd, VHOST_GUEST_RESET, 0);
				closefrom(3);
			}
		}
		usleep(rand() % 100000);
		kill(child, SIGKILL);
		end_of(child);
		close(open_device(0));
	}
	check(!has_interrupts(), "killed at any moment, it leaves no interrupts");
}

static void test_unbind(void)
{
	int fd = open_device(0), event = eventfd(0, EFD_NONBLOCK), channel, window;
	uint8_t *mapping, *given;
	uint64_t count = 1;
	char message[4096];
	pid_t child;

	mapping = have_everything(fd);
	channel = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_BACKEND);
	window = ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_WINDOW);
	given = map(window, PAGE, 0);
	check(load(mapping) == 0xff && load(given) == 0xff, "the window is there");
	WORKS(set_eventfd(fd, VHOST_GUEST_CALL, 0, event));
	check(unbind_driver(), "the driver can be unbound from a device that is open");
	FAILS(ioctl(fd, VHOST_GUEST_RESET, 0), ENODEV);
	FAILS(ioctl(fd, VHOST_GUEST_GET_INFO, message), ENODEV);
	FAILS(ioctl(fd, VHOST_GUEST_OPEN, VHOST_GUEST_OPEN_WINDOW), ENODEV);
	FAILS(read(fd, message, sizeof(message)), ENODEV);
	FAILS(write(fd, message, 12), ENODEV);
	FAILS(read(channel, message, sizeof(message)), ENODEV);
	FAILS(map(fd, PAGE, 0), ENODEV);
	check(events_of(fd, POLLIN) & POLLHUP, "poll() says so");
	check(is_gone(mapping, 1) && is_gone(given, 1), "the window is gone");
	check(write(event, &count, 8) == 8 && read(event, &count, 8) == 8,
	      "the eventfd is an ordinary one");
	FAILS(open(node, O_RDWR), ENOENT);
	check(bind_driver(), "the driver can be bound again");
	close(open_device(0));
	check(events_of(fd, POLLIN) & POLLHUP, "the old file is of no use");
	munmap(mapping, PAGE);
	munmap(given, PAGE);
	close(fd);
	close(channel);
	close(window);
	close(event);
	/* While somebody sleeps in read(). */
	child = start_backend();
	check(unbind_driver(), "the driver can be unbound under a reader");
	check(end_of(child) == 0, "the reader gets ENODEV, and lives with what it had mapped");
	check(bind_driver(), "the driver can be bound after that");
	close(open_device(0));
}

static void test_function_reset(void)
{
	int fd = open_device(0);
	uint8_t *mapping = have_everything(fd);
	char message[4096];

	state_of(fd);
	check(tell("1", "/sys/bus/pci/devices/%s/reset", address), "the function can be reset");
	check(events_of(fd, POLLPRI) & POLLPRI, "the state is news");
	check(state_of(fd) == VHOST_GUEST_NEEDS_RESET, "the device needs a reset");
	check(is_gone(mapping, 1), "the window is gone");
	FAILS(read(fd, message, sizeof(message)), EIO);
	WORKS(ioctl(fd, VHOST_GUEST_RESET, 0));
	check(load(mapping) == 0xff, "the window is back");
	munmap(mapping, PAGE);
	closefrom(3);
}

/* As when it is unplugged, with a process that has it open, and plugged in. */
static void test_unplug(void)
{
	pid_t child = start_backend();

	check(tell("1", "/sys/bus/pci/devices/%s/remove", address), "the device can be removed");
	check(end_of(child) == 0, "its reader gets ENODEV, and lives with what it had mapped");
	FAILS(open(node, O_RDWR), ENOENT);
	check(tell("1", "/sys/bus/pci/rescan"), "the bus can be scanned");
	take_over();
	close(open_device(0));
	check(true, "the device is back");
}

static void test_unload(void)
{
	int fd = open_device(0), window, path;
	struct stat look = { 0 };
	uint8_t *mapping;
	char name[64];

	window = open_region(fd, PAGE, PAGE);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", window);
	path = open(name, O_PATH);
	mapping = map(window, PAGE, 0);
	close(window);
	FAILS(unload_module(), EAGAIN);
	close(fd);
	/* A mapping by a process that is left over still needs the code. */
	FAILS(unload_module(), EAGAIN);
	check(is_gone(mapping, 1), "there is nothing in it");
	munmap(mapping, PAGE);
	WORKS(unload_module());
	FAILS(open(node, O_RDWR), ENOENT);
	check(!fstat(path, &look) && look.st_size == PAGE, "a path to a file outlives the module");
	close(path);
	check(load_module(), "the module can be loaded again");
	close(open_device(0));
	for (int i = 0; i < 10; i++) {
		if (unload_module() || !load_module())
			check(false, "unloading and loading, time %d", i);
	}
	close(open_device(0));
}

/* A call with arguments that are wrong in most ways. */
static void call_at_random(int fd, int *extra)
{
	static char buffer[8192];
	static const unsigned long requests[] = {
		VHOST_GUEST_GET_INFO, VHOST_GUEST_GET_STATE, VHOST_GUEST_RESET,
		VHOST_GUEST_SET_TYPE, VHOST_GUEST_SET_BACKEND_UP, VHOST_GUEST_SET_EVENTFD,
		VHOST_GUEST_OPEN,
	};
	unsigned long arguments[] = {
		0, 1, 2, -1UL, rand(), (unsigned long)buffer, VHOST_GUEST_OPEN_NONBLOCK | 1,
	};
	struct vhost_guest_eventfd which = {
		.kind = rand() % 5, .index = rand() % 6, .fd = rand() % 40 - 2,
	};
	unsigned long request = requests[rand() % 7], argument = arguments[rand() % 7];
	uint8_t *mapping;
	size_t len;

	switch (rand() % 8) {
	case 0:
		read(fd, buffer, rand() % sizeof(buffer));
		break;
	case 1:
		for (int i = 0; i < 12; i++)
			buffer[i] = rand() % 4 ? 0 : rand();
		write(fd, buffer, rand() % 64);
		break;
	case 2:
		events_of(fd, POLLIN | POLLOUT | POLLPRI);
		break;
	case 3:
		len = PAGE * (1 + rand() % 64);
		mapping = map(fd, len, PAGE * (rand() % 256));
		if (mapping != MAP_FAILED) {
			load(mapping);
			/* Memory of the window as the buffer of a call. */
			if (rand() % 4 == 0)
				read(fd, mapping, PAGE);
			munmap(mapping, len);
		}
		break;
	case 4:
		ioctl(fd, VHOST_GUEST_SET_EVENTFD, &which);
		break;
	case 5:
		close(*extra);
		*extra = ioctl(fd, VHOST_GUEST_OPEN, (rand() % 3) | VHOST_GUEST_OPEN_NONBLOCK);
		read(*extra, buffer, rand() % sizeof(buffer));
		break;
	case 6:
		write(eventfd(rand() % 2, EFD_NONBLOCK), "\1\0\0\0\0\0\0", 8);
		if (rand() % 16 == 0)
			closefrom(8);
		break;
	default:
		/* Pointers into our own memory only. */
		if (request == VHOST_GUEST_GET_INFO || request == VHOST_GUEST_GET_STATE)
			argument = (unsigned long)buffer;
		ioctl(fd, request, argument);
	}
}

static void random_backend(unsigned int seed)
{
	srand(seed);
	for (;;) {
		int fd = open(node, O_RDWR | O_NONBLOCK), extra = -1;

		if (fd < 0) {
			usleep(rand() % 2000);
			continue;
		}
		for (int i = rand() % 400; i > 0; i--)
			call_at_random(fd, &extra);
		closefrom(3);
	}
}

/* Several processes that do anything, while the device comes and goes. */
static void test_random(unsigned int seconds)
{
	time_t end = time(NULL) + seconds;
	pid_t children[3];
	unsigned int rounds = 0;

	fflush(stdout);
	for (int i = 0; i < 3; i++) {
		children[i] = fork();
		if (!children[i])
			random_backend(i);
	}
	for (; time(NULL) < end; rounds++) {
		usleep(rand() % 300000);
		switch (rand() % 4) {
		case 0:
			tell("1", "/sys/bus/pci/devices/%s/reset", address);
			break;
		case 1:
			tell("1", "/sys/bus/pci/devices/%s/remove", address);
			tell("1", "/sys/bus/pci/rescan");
			take_over();
			break;
		case 2:
			if (!unload_module())
				load_module();
			break;
		default:
			if (unbind_driver())
				bind_driver();
		}
		/* One dies, and another is born. */
		kill(children[rounds % 3], SIGKILL);
		end_of(children[rounds % 3]);
		children[rounds % 3] = fork();
		if (!children[rounds % 3])
			random_backend(rounds + 3);
	}
	for (int i = 0; i < 3; i++) {
		kill(children[i], SIGKILL);
		end_of(children[i]);
	}
	check(rounds, "%u rounds of random calls are over", rounds);
	close(open_device(0));
	check(!has_interrupts(), "nothing is left of them");
	WORKS(unload_module());
}

int main(int argc, char **argv)
{
	/* Three for each of 256 vrings, and more than once. */
	const struct rlimit files = { .rlim_cur = 8192, .rlim_max = 8192 };
	struct sigaction action = { .sa_handler = on_fault };

	if (argc < 3) {
		fprintf(stderr, "usage: %s ADDRESS MODULE [SECONDS]\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	address = argv[1];
	module = argv[2];
	snprintf(node, sizeof(node), "/dev/vhost-guest/%s", address);
	sigaction(SIGBUS, &action, NULL);
	if (setrlimit(RLIMIT_NOFILE, &files))
		give_up("setrlimit");
	take_over();
	test_information();
	test_one_opener();
	test_bad_requests();
	test_bad_messages();
	test_bad_state();
	test_life();
	test_eventfds();
	test_bad_mappings();
	test_mappings();
	test_regions();
	test_looks();
	test_death();
	test_unbind();
	test_function_reset();
	test_unplug();
	test_unload();
	test_random(argc > 3 ? atoi(argv[3]) : 5);
	printf("1..%u\n", tests);
	return failures ? 1 : 0;
}

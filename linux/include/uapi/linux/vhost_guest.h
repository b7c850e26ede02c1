/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * Userspace interface of the vhost-guest driver.
 *
 * A vhost-guest device (virtio 53, PCI 1af4:1075) brings the vhost-user
 * protocol into a virtual machine. The driver has a character device for each,
 * /dev/vhost-guest/<PCI address>. A process that may open it can be a
 * vhost-user backend, and needs no other privilege.
 *
 *	fd = open("/dev/vhost-guest/0000:00:05.0", O_RDWR | O_CLOEXEC);
 *	ioctl(fd, VHOST_GUEST_GET_INFO, &info);
 *	ioctl(fd, VHOST_GUEST_SET_TYPE, 2);		(a block device)
 *	ioctl(fd, VHOST_GUEST_SET_BACKEND_UP, 1);
 *	while (poll(...) > 0) {
 *		if (revents & POLLPRI)
 *			ioctl(fd, VHOST_GUEST_GET_STATE, &state);
 *		if (revents & POLLIN)
 *			length = read(fd, message, info.max_message_size);
 *		...
 *		write(fd, reply, length);
 *	}
 *
 * Life of a device. open(O_RDWR) resets the device and initialises it; there is one
 * opener at a time, others get EBUSY. When a frontend is lost, or either side
 * broke a rule, the state has VHOST_GUEST_NEEDS_RESET, and the way back is
 * VHOST_GUEST_RESET. When the last reference to the open file is closed (a
 * mapping of it is one), the device is reset, and has nothing of the process
 * any more. When the device is taken from the driver, each call fails with
 * ENODEV and poll() says POLLHUP.
 *
 * Messages. A message is what vhost-user sends over a socket, header and
 * payload, in the byte order that the information names (VHOST_GUEST_F_BIG_ENDIAN),
 * without descriptors: memory is in the window, and eventfds are set by
 * VHOST_GUEST_SET_EVENTFD. read() and write() take whole messages:
 *
 *	file				read()		write()
 *	character device		virtqueue 0	virtqueue 1
 *	VHOST_GUEST_OPEN_BACKEND	virtqueue 2	virtqueue 3
 *	VHOST_GUEST_OPEN_MIGRATION	virtqueue 5	virtqueue 4
 *
 * Requests of the frontend are read from the character device, and answered
 * there; requests of the backend, after VHOST_USER_SET_BACKEND_REQ_FD, are
 * written to the file for them, and their answers are read there. State that
 * is migrated is no messages, but bytes: read() gives at most
 * max_migration_message_size of them, and 0 when no more will come; write() of
 * 0 bytes says so to the frontend.
 *
 * Both calls block unless O_NONBLOCK is set, and poll() tells POLLIN and
 * POLLOUT; POLLERR without POLLIN means that read() fails with EIO. EMSGSIZE: the
 * buffer is too small for the next message (or piece of state), which stays; or
 * what is written is larger than the device takes. EIO: the device broke the
 * rules of virtio, or needs a reset. What came before is read before that.
 *
 * The window. mmap() of the character device, or of a file by
 * VHOST_GUEST_OPEN_WINDOW, at offset 0 to window_size. A user address in a
 * message is an offset in the window. The mapping has to be MAP_SHARED; it is
 * cached as other memory is. Memory is there from the message that makes it
 * available on; elsewhere, loads give all ones and stores are lost, but vector and
 * atomic instructions may be fatal.
 *
 * During a reset, or for ever when the file is no longer of use or the device is
 * gone, a program that still loads from its mapping and stores to it does no harm and
 * takes none: it sees one page of its file's own in place of all others, zeroes but
 * for what was stored there. A system call (read(), write() and so on) that is given
 * such memory fails with EFAULT, as far as the program has not touched it itself since.
 */
#ifndef _UAPI_LINUX_VHOST_GUEST_H
#define _UAPI_LINUX_VHOST_GUEST_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Version of this interface, in struct vhost_guest_info. It changes when
 * something that a program may rely on does; additions are told by what the
 * program asks for being there or not (ENOTTY, EINVAL).
 */
#define VHOST_GUEST_API_VERSION	1

#define VHOST_GUEST_MAGIC	0xB9

/* Features of the device that matter to a backend. */
#define VHOST_GUEST_F_BIG_ENDIAN	(1U << 0)

/**
 * struct vhost_guest_info - what the device is
 * @version: VHOST_GUEST_API_VERSION
 * @features: VHOST_GUEST_F_*
 * @window_size: bytes of the window
 * @max_vhost_queues: how many vrings the device carries, 1 to 256
 * @max_message_size: longest message that can be read or written
 * @max_migration_message_size: most bytes of migrated state at a time, or 0
 *	if the device does not carry any
 * @device_type: virtio type that the frontend expects, 0 if any will do
 * @reserved: 0
 * @uuid: names the service; all zeroes if it has no name
 * @reserved2: 0
 *
 * Nothing of this changes while the file is open, but for @device_type.
 */
struct vhost_guest_info {
	__u32 version;
	__u32 features;
	__u64 window_size;
	__u32 max_vhost_queues;
	__u32 max_message_size;
	__u32 max_migration_message_size;
	__u16 device_type;
	__u16 reserved;
	__u8 uuid[16];
	__u64 reserved2[4];
};

#define VHOST_GUEST_GET_INFO	_IOR(VHOST_GUEST_MAGIC, 0x00, struct vhost_guest_info)

/*
 * The state, as a combination of these. poll() says POLLPRI from when the
 * state may have changed until it is asked for.
 */
#define VHOST_GUEST_BACKEND_UP	(1U << 0)	/* the device accepts a frontend */
#define VHOST_GUEST_FRONTEND_UP	(1U << 1)	/* a frontend is connected */
#define VHOST_GUEST_NEEDS_RESET	(1U << 2)	/* nothing but a reset helps */

#define VHOST_GUEST_GET_STATE	_IOR(VHOST_GUEST_MAGIC, 0x01, __u32)

/*
 * Resets the device and initialises it again. Memory of the last frontend
 * leaves the window; files by VHOST_GUEST_OPEN_WINDOW are of no use any more,
 * mappings of the character device are, when it returns. All eventfds are
 * unset. The argument is 0.
 */
#define VHOST_GUEST_RESET	_IO(VHOST_GUEST_MAGIC, 0x02)

/*
 * Names the virtio type of the backend, the argument. It is to be done after
 * open() and after each reset, unless device_type already is that type.
 * EBUSY: the device is for another type.
 */
#define VHOST_GUEST_SET_TYPE	_IO(VHOST_GUEST_MAGIC, 0x03)

/*
 * 1: the device accepts a frontend. EINVAL: no type was set. EIO: the device
 * needs a reset. 0: it accepts none; a frontend that is connected is
 * disconnected, and the device needs a reset.
 */
#define VHOST_GUEST_SET_BACKEND_UP	_IO(VHOST_GUEST_MAGIC, 0x04)

/* What an eventfd is for. */
#define VHOST_GUEST_KICK	0	/* signalled when a vring is kicked */
#define VHOST_GUEST_CALL	1	/* to be signalled to call a vring */
#define VHOST_GUEST_ERR		2	/* to be signalled for an error of a vring */
#define VHOST_GUEST_LOG		3	/* to be signalled for the dirty log */

/**
 * struct vhost_guest_eventfd - connects an eventfd with the device
 * @kind: VHOST_GUEST_KICK, _CALL, _ERR, or _LOG
 * @index: the vring, below max_vhost_queues; 0 for the log
 * @fd: the eventfd, or -1 for none, as after open() and after a reset
 * @reserved: 0
 *
 * No process runs between an eventfd and the device: the interrupt of a kick
 * signals its eventfd, and whoever signals the eventfd for a call rings the
 * doorbell. An eventfd takes the place of the one before. A kick that comes
 * while there is none is not lost: it waits for the next one. Kicks may share an
 * interrupt where there are fewer than vrings; then an eventfd is signalled for the
 * kicks of others, too. An eventfd for call, err or log is drained by the driver,
 * and is for nothing else.
 */
struct vhost_guest_eventfd {
	__u32 kind;
	__u32 index;
	__s32 fd;
	__u32 reserved;
};

#define VHOST_GUEST_SET_EVENTFD	_IOW(VHOST_GUEST_MAGIC, 0x05, struct vhost_guest_eventfd)

/*
 * Further files of an open device; the argument is one of these, maybe with
 * VHOST_GUEST_OPEN_NONBLOCK. The result is a descriptor, with FD_CLOEXEC. It
 * does not keep the device open: once that is closed, read() and write() fail
 * with ENODEV and poll() says POLLHUP. EOPNOTSUPP: the device does not migrate.
 *
 * The file for the window can be mapped, and nothing else; so it can be given
 * to a process that is trusted with the memory of the frontend that is
 * connected now, but not with the device.
 */
#define VHOST_GUEST_OPEN_WINDOW		0
#define VHOST_GUEST_OPEN_BACKEND	1
#define VHOST_GUEST_OPEN_MIGRATION	2
#define VHOST_GUEST_OPEN_NONBLOCK	(1U << 31)

#define VHOST_GUEST_OPEN	_IO(VHOST_GUEST_MAGIC, 0x06)

/**
 * struct vhost_guest_region - a part of the window
 * @offset: where it starts in the window, a multiple of the page size
 * @size: bytes of it, not 0
 */
struct vhost_guest_region {
	__u64 offset;
	__u64 size;
};

/*
 * A file as VHOST_GUEST_OPEN_WINDOW gives, for a part of the window: its offset
 * 0 is the start of the part. It is what a program expects that gets the memory of
 * the frontend in files, and maps each of them from its beginning.
 *
 * Of both kinds of files, fstat() and lseek() tell the size, in whole pages: the
 * last one is there as a whole. The block size (st_blksize) is that of a huge page
 * if size and place allow for these, and of a page if not; a mapping starts at a
 * multiple of it unless the program says where.
 */
#define VHOST_GUEST_OPEN_REGION	_IOW(VHOST_GUEST_MAGIC, 0x07, struct vhost_guest_region)

#endif /* _UAPI_LINUX_VHOST_GUEST_H */

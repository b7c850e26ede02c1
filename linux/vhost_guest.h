/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * What the parts of the driver know of each other.
 *
 * Locks, outermost first:
 *
 *	vhost_guest.lock	who has the device open, its registers, eventfds
 *	vg_channel.lock		a pair of virtqueues
 *	(mmap_lock)
 *	vhost_guest.window_lock	whether the window may be mapped
 *	vg_kick.lock		interrupt context
 *
 * No memory of a process is accessed under any of them: a process may have
 * memory that never answers, and its neighbours must not wait for it.
 */
#ifndef VHOST_GUEST_H
#define VHOST_GUEST_H

#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/poll.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <uapi/linux/vhost_guest.h>

struct eventfd_ctx;

#define VG_NAME			"vhost-guest"

/* Kick, call and err messages have 8 bits for the index of a vring. */
#define VG_MAX_VRINGS		256
#define VG_RING_SIZE		16
/* A message has a header at least, and is 4096 bytes at most. */
#define VG_MESSAGE_MIN		12
#define VG_MESSAGE_MAX		4096
/* What the specification promises to be possible. */
#define VG_MESSAGE_PROMISED	512
#define VG_MIGRATION_MAX	16384

/* A structure of the device, mapped. */
struct vg_region {
	void __iomem *base;
	u64 len;
	/* between the addresses of two notifications */
	u32 multiplier;
};

/* The driver's side of a split virtqueue; see virtqueue.c. */
struct vg_queue {
	u16 index;
	bool device_writes;
	u32 buffer_min;
	u32 buffer_len;

	void *memory;
	dma_addr_t dma;
	size_t memory_len;

	u16 size;
	u16 avail_idx;
	u16 used_idx;
	/* buffers that the device has, by descriptor */
	unsigned long available;
	void __iomem *notify;
};

/* A queue in each direction, behind one file. */
struct vg_channel {
	/* for the queues */
	struct mutex lock;
	wait_queue_head_t wait;
	struct vg_queue in;
	struct vg_queue out;
	/* The device has it, and the device is initialised. */
	bool ready;
};

enum vg_channel_index {
	VG_FRONTEND,
	VG_BACKEND,
	VG_MIGRATION,
	VG_CHANNELS,
};

/* The eventfd that a kick signals. */
struct vg_kick {
	/* for what an interrupt looks at */
	spinlock_t lock;
	struct eventfd_ctx *eventfd;
	/* kicked while there was no eventfd */
	bool pending;
	bool mapped;
	/* what it is mapped to */
	u16 vector;
};

/* An eventfd that rings a doorbell. */
struct vg_doorbell {
	struct eventfd_ctx *eventfd;
	wait_queue_entry_t wait;
	poll_table table;
	void __iomem *address;
	u16 index;
};

struct vg_vector {
	struct vhost_guest *vg;
	unsigned int index;
	bool requested;
	/* also for kicks that got no vector of their own */
	bool shared;
	char name[40];
};

/* Bits of vhost_guest.flags */
enum {
	/* taken from the driver: no access to the device any more */
	VG_GONE,
	/* it broke the rules, or was reset by others */
	VG_BROKEN,
	/* DEVICE_NEEDS_RESET was seen */
	VG_NEEDS_RESET,
	/* the state may differ from what was last told */
	VG_STATE_CHANGED,
	/* somebody resets the function */
	VG_FUNCTION_RESET,
};

struct vhost_guest {
	struct device dev;
	struct cdev cdev;
	struct pci_dev *pdev;
	/* carries the mappings of all files, so that they can be taken away */
	struct inode *inode;
	int minor;
	unsigned long flags;

	/* for who has the device open, its registers, and eventfds */
	struct mutex lock;
	bool opened;
	/* counts openers */
	u64 session;

	struct vg_region common;
	struct vg_region notify;
	struct vg_region config;
	struct vg_region doorbells;
	struct vg_region kick_vectors;

	u64 features;
	u16 num_queues;
	u32 max_vrings;
	u32 max_message_size;
	u32 max_migration_message_size;
	u8 uuid[16];

	struct vg_channel channels[VG_CHANNELS];

	struct vg_kick *kicks;
	struct vg_doorbell *ringers;
	struct vg_vector *vectors;
	unsigned int num_vectors;

	phys_addr_t window_start;
	u64 window_len;
	void *window_type;
	struct rw_semaphore window_lock;
	bool window_open;
	/* counts resets */
	u64 generation;
};

/* An open file: the character device, or one of VHOST_GUEST_OPEN. */
struct vg_file {
	struct vhost_guest *vg;
	unsigned int channel;
	bool only_window;
	u64 session;
	u64 generation;
	/* what of the window can be mapped */
	struct vhost_guest_region region;
	/* what is mapped in its place when it is gone */
	struct page *scratch;
};

/* structures.c: where the structures of the device are */
int vg_map_structures(struct vhost_guest *vg);
void vg_unmap_structures(struct vhost_guest *vg);
void __iomem *vg_notification(const struct vg_region *region, u32 index);

/* virtqueue.c */
int vg_queue_alloc(struct vhost_guest *vg, struct vg_queue *queue);
void vg_queue_free(struct vhost_guest *vg, struct vg_queue *queue);
void vg_queue_reset(struct vg_queue *queue, u16 size);
void vg_queue_addresses(const struct vg_queue *queue, u64 *descriptors,
			u64 *available, u64 *used);
void vg_queue_fill(struct vg_queue *queue);
bool vg_queue_has_news(const struct vg_queue *queue);
int vg_queue_has_room(struct vg_queue *queue);
int vg_queue_receive(struct vg_queue *queue, void *data, size_t len);
int vg_queue_send(struct vg_queue *queue, const void *data, size_t len);

/* device.c: the device as a whole, under vhost_guest.lock */
int vg_examine(struct vhost_guest *vg);
int vg_start(struct vhost_guest *vg);
void vg_stop(struct vhost_guest *vg);
int vg_state(struct vhost_guest *vg, u32 *state);
bool vg_needs_reset(struct vhost_guest *vg);
u16 vg_device_type(struct vhost_guest *vg);
int vg_set_type(struct vhost_guest *vg, u16 type);
int vg_set_backend_up(struct vhost_guest *vg, bool up);
void vg_break(struct vhost_guest *vg);
void vg_state_changed(struct vhost_guest *vg);

/* interrupts.c */
int vg_interrupts_alloc(struct vhost_guest *vg);
void vg_interrupts_free(struct vhost_guest *vg);
int vg_request_kick_vector(struct vhost_guest *vg, unsigned int vring);
unsigned int vg_config_vector(const struct vhost_guest *vg);
unsigned int vg_queue_vector(const struct vhost_guest *vg);

/* eventfds.c */
int vg_eventfds_alloc(struct vhost_guest *vg);
int vg_set_eventfd(struct vhost_guest *vg, const struct vhost_guest_eventfd *which);
void vg_unset_eventfds(struct vhost_guest *vg);
void vg_forget_kicks(struct vhost_guest *vg);
void vg_signal_kick(struct vg_kick *kick);

/* window.c */
void vg_window_init(struct vhost_guest *vg);
void vg_window_exit(struct vhost_guest *vg);
void vg_window_open(struct vhost_guest *vg);
void vg_window_close(struct vhost_guest *vg);
void vg_window_describe(const struct vg_file *file, struct inode *inode);
int vg_window_mmap(struct file *file, struct vm_area_struct *vma);

/* channel.c */
ssize_t vg_channel_read(struct file *file, char __user *buffer, size_t len, loff_t *offset);
ssize_t vg_channel_write(struct file *file, const char __user *buffer, size_t len,
			 loff_t *offset);
__poll_t vg_channel_poll(struct file *file, poll_table *table);
void vg_channels_wake(struct vhost_guest *vg);

/* chardev.c */
extern const struct file_operations vg_fops;
int vg_open_file(struct vg_file *opener, unsigned long what);
int vg_open_region(struct vg_file *opener, const struct vhost_guest_region *region);
bool vg_is_open(const struct vg_file *file);

#endif /* VHOST_GUEST_H */

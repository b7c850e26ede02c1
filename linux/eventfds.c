// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * Eventfds of a backend: signalled by the interrupts of kicks, and ringing
 * doorbells for call, err and log. No process runs in between.
 */
#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/io.h>
#include <linux/poll.h>

#include "compat.h"
#include "vhost_guest.h"

int vg_eventfds_alloc(struct vhost_guest *vg)
{
	unsigned int i;

	vg->kicks = kvcalloc(vg->max_vrings, sizeof(*vg->kicks), GFP_KERNEL);
	vg->ringers = kvcalloc(2 * vg->max_vrings + 1, sizeof(*vg->ringers), GFP_KERNEL);
	if (!vg->kicks || !vg->ringers)
		return -ENOMEM;
	for (i = 0; i < vg->max_vrings; i++)
		spin_lock_init(&vg->kicks[i].lock);
	return 0;
}

/* In an interrupt. A kick without an eventfd waits for one. */
void vg_signal_kick(struct vg_kick *kick)
{
	spin_lock(&kick->lock);
	if (kick->eventfd)
		vg_eventfd_signal(kick->eventfd);
	else
		kick->pending = true;
	spin_unlock(&kick->lock);
}

static void vg_replace_kick(struct vg_kick *kick, struct eventfd_ctx *eventfd)
{
	struct eventfd_ctx *old;

	spin_lock_irq(&kick->lock);
	old = kick->eventfd;
	kick->eventfd = eventfd;
	if (eventfd && kick->pending) {
		kick->pending = false;
		vg_eventfd_signal(eventfd);
	}
	spin_unlock_irq(&kick->lock);
	if (old)
		eventfd_ctx_put(old);
}

/*
 * Maps a kick to its vector; one 32-bit write selects and maps (vhost-guest
 * specification, driver auxiliary notifications).
 */
static int vg_map_kick(struct vhost_guest *vg, unsigned int vring)
{
	int vector = vg_request_kick_vector(vg, vring);

	if (vector < 0)
		return vector;
	iowrite32(vring | vector << 16, vg->kick_vectors.base);
	return ioread16(vg->kick_vectors.base + 2) == vector ? 0 : -EIO;
}

/* Takes the reference to @eventfd, unless it fails. */
static int vg_set_kick(struct vhost_guest *vg, unsigned int vring, struct eventfd_ctx *eventfd)
{
	struct vg_kick *kick = &vg->kicks[vring];
	int ret;

	if (eventfd && !kick->mapped) {
		ret = vg_map_kick(vg, vring);
		if (ret)
			return ret;
		kick->mapped = true;
	}
	vg_replace_kick(kick, eventfd);
	return 0;
}

static void vg_ring(struct vg_doorbell *doorbell)
{
	iowrite16(doorbell->index, doorbell->address);
}

/*
 * Somebody signals the eventfd, in whatever context, with the lock of its
 * wait queue held and interrupts off. It is emptied, so that it never gets
 * full; the sum of what was written is of no interest.
 */
static int vg_doorbell_wake(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct vg_doorbell *doorbell = container_of(wait, struct vg_doorbell, wait);
	u64 count;

	if (key_to_poll(key) & EPOLLIN) {
		eventfd_ctx_do_read(doorbell->eventfd, &count);
		vg_ring(doorbell);
	}
	return 0;
}

static void vg_doorbell_queue(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	struct vg_doorbell *doorbell = container_of(table, struct vg_doorbell, table);

	add_wait_queue(head, &doorbell->wait);
}

static void vg_unset_doorbell(struct vg_doorbell *doorbell)
{
	u64 count;

	if (!doorbell->eventfd)
		return;
	/* The hook does not run any more when this returns. */
	eventfd_ctx_remove_wait_queue(doorbell->eventfd, &doorbell->wait, &count);
	eventfd_ctx_put(doorbell->eventfd);
	doorbell->eventfd = NULL;
}

/* Takes the reference to @eventfd; @file is its file. */
static void vg_set_doorbell(struct vhost_guest *vg, unsigned int index, struct file *file,
			    struct eventfd_ctx *eventfd)
{
	struct vg_doorbell *doorbell = &vg->ringers[index];

	vg_unset_doorbell(doorbell);
	if (!eventfd)
		return;
	doorbell->index = index;
	doorbell->address = vg_notification(&vg->doorbells, index);
	doorbell->eventfd = eventfd;
	init_waitqueue_func_entry(&doorbell->wait, vg_doorbell_wake);
	init_poll_funcptr(&doorbell->table, vg_doorbell_queue);
	/* What was signalled before it was set counts. */
	if (vfs_poll(file, &doorbell->table) & EPOLLIN)
		vg_ring(doorbell);
}

static int vg_connect(struct vhost_guest *vg, const struct vhost_guest_eventfd *which,
		      struct file *file, struct eventfd_ctx *eventfd)
{
	unsigned int vrings = vg->max_vrings;

	switch (which->kind) {
	case VHOST_GUEST_KICK:
		return vg_set_kick(vg, which->index, eventfd);
	case VHOST_GUEST_CALL:
		vg_set_doorbell(vg, which->index, file, eventfd);
		return 0;
	case VHOST_GUEST_ERR:
		vg_set_doorbell(vg, vrings + which->index, file, eventfd);
		return 0;
	default:
		vg_set_doorbell(vg, 2 * vrings, file, eventfd);
		return 0;
	}
}

int vg_set_eventfd(struct vhost_guest *vg, const struct vhost_guest_eventfd *which)
{
	u32 limit = which->kind == VHOST_GUEST_LOG ? 1 : vg->max_vrings;
	struct eventfd_ctx *eventfd = NULL;
	struct file *file = NULL;
	int ret;

	if (which->kind > VHOST_GUEST_LOG || which->index >= limit || which->reserved ||
	    which->fd < -1)
		return -EINVAL;
	if (test_bit(VG_BROKEN, &vg->flags))
		return -EIO;
	if (which->fd >= 0) {
		file = eventfd_fget(which->fd);
		if (IS_ERR(file))
			return PTR_ERR(file);
		eventfd = eventfd_ctx_fileget(file);
		if (IS_ERR(eventfd)) {
			fput(file);
			return PTR_ERR(eventfd);
		}
	}
	ret = vg_connect(vg, which, file, eventfd);
	if (ret && eventfd)
		eventfd_ctx_put(eventfd);
	if (file)
		fput(file);
	return ret;
}

/* A reset comes next, or has been: the device has no vectors of kicks then. */
void vg_unset_eventfds(struct vhost_guest *vg)
{
	unsigned int i;

	for (i = 0; i < vg->max_vrings; i++) {
		vg_replace_kick(&vg->kicks[i], NULL);
		vg->kicks[i].mapped = false;
	}
	for (i = 0; i < 2 * vg->max_vrings + 1; i++)
		vg_unset_doorbell(&vg->ringers[i]);
}

/* After a reset: a kick that waits for an eventfd was the last frontend's. */
void vg_forget_kicks(struct vhost_guest *vg)
{
	unsigned int i;

	for (i = 0; i < vg->max_vrings; i++) {
		spin_lock_irq(&vg->kicks[i].lock);
		vg->kicks[i].pending = false;
		spin_unlock_irq(&vg->kicks[i].lock);
	}
}

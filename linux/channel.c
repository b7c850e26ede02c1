// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * read(), write() and poll() of whole messages. They are copied through memory
 * of the kernel's, outside of all locks: the device may change its buffers at
 * any time, and a process may have memory that never answers.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vhost_guest.h"

/* Whether the file is of use, with the lock of its channel. */
static int vg_channel_check(const struct vg_file *file)
{
	struct vhost_guest *vg = file->vg;

	if (!vg_is_open(file))
		return -ENODEV;
	if (test_bit(VG_BROKEN, &vg->flags))
		return -EIO;
	return vg->channels[file->channel].ready ? 0 : -EAGAIN;
}

/*
 * There is no message, or no room, with the lock of the channel: nothing comes
 * from a device that needs a reset. Who waits is told so, whether or not somebody
 * has asked for the state.
 */
static int vg_nothing(const struct vg_file *file)
{
	return vg_needs_reset(file->vg) ? -EIO : -EAGAIN;
}

/* Takes a message from the device (@in), or gives it one. */
static int vg_move(const struct vg_file *file, bool in, void *data, size_t len)
{
	struct vg_channel *channel = &file->vg->channels[file->channel];
	int ret;

	if (mutex_lock_interruptible(&channel->lock))
		return -ERESTARTSYS;
	ret = vg_channel_check(file);
	if (!ret) {
		ret = in ? vg_queue_receive(&channel->in, data, len) :
			   vg_queue_send(&channel->out, data, len);
		if (ret == -EIO)
			vg_break(file->vg);
		else if (ret == -EAGAIN)
			ret = vg_nothing(file);
	}
	mutex_unlock(&channel->lock);
	return ret;
}

static __poll_t vg_channel_events(const struct vg_file *file)
{
	struct vg_channel *channel = &file->vg->channels[file->channel];
	__poll_t events = 0;
	int ret;

	mutex_lock(&channel->lock);
	ret = vg_channel_check(file);
	if (!ret) {
		if (vg_queue_has_news(&channel->in))
			events |= EPOLLIN | EPOLLRDNORM;
		else if (vg_nothing(file) == -EIO)
			events |= EPOLLERR;
		ret = vg_queue_has_room(&channel->out);
		if (ret > 0)
			events |= EPOLLOUT | EPOLLWRNORM;
		else if (ret < 0)
			vg_break(file->vg);
	}
	mutex_unlock(&channel->lock);
	if (ret == -EIO)
		events |= EPOLLERR;
	return events;
}

/* Sleeps until the channel should be looked at again, if the file may sleep. */
static int vg_sleep(struct file *file, wait_queue_entry_t *wait)
{
	if (file->f_flags & O_NONBLOCK)
		return -EAGAIN;
	if (signal_pending(current))
		return -ERESTARTSYS;
	wait_woken(wait, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
	return 0;
}

/* The same, when there is a message, or room for it. */
static int vg_move_or_wait(struct file *file, bool in, void *data, size_t len)
{
	const struct vg_file *opener = file->private_data;
	struct vg_channel *channel = &opener->vg->channels[opener->channel];
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	int ret;

	add_wait_queue(&channel->wait, &wait);
	do {
		ret = vg_move(opener, in, data, len);
	} while (ret == -EAGAIN && !(ret = vg_sleep(file, &wait)));
	remove_wait_queue(&channel->wait, &wait);
	return ret;
}

static size_t vg_limit(const struct vg_file *file)
{
	return file->channel == VG_MIGRATION ? file->vg->max_migration_message_size :
					       file->vg->max_message_size;
}

ssize_t vg_channel_read(struct file *file, char __user *buffer, size_t len, loff_t *offset)
{
	const struct vg_file *opener = file->private_data;
	void *data;
	int ret;

	/* The device may write a whole buffer, whatever it takes itself. */
	data = kvmalloc(opener->vg->channels[opener->channel].in.buffer_len, GFP_KERNEL);
	if (!data)
		return -ENOMEM;
	ret = vg_move_or_wait(file, true, data, len);
	if (ret > 0 && copy_to_user(buffer, data, ret))
		ret = -EFAULT;
	kvfree(data);
	return ret;
}

ssize_t vg_channel_write(struct file *file, const char __user *buffer, size_t len,
			 loff_t *offset)
{
	const struct vg_file *opener = file->private_data;
	void *data;
	int ret;

	if (len > vg_limit(opener))
		return -EMSGSIZE;
	if (opener->channel != VG_MIGRATION && len < VG_MESSAGE_MIN)
		return -EINVAL;
	data = vmemdup_user(buffer, len);
	if (IS_ERR(data))
		return PTR_ERR(data);
	ret = vg_move_or_wait(file, false, data, len);
	kvfree(data);
	return ret ?: len;
}

__poll_t vg_channel_poll(struct file *file, poll_table *table)
{
	struct vg_file *opener = file->private_data;
	struct vhost_guest *vg = opener->vg;
	__poll_t events;

	poll_wait(file, &vg->channels[opener->channel].wait, table);
	if (!vg_is_open(opener))
		return EPOLLHUP | EPOLLERR;
	events = vg_channel_events(opener);
	if (opener->channel == VG_FRONTEND && test_bit(VG_STATE_CHANGED, &vg->flags))
		events |= EPOLLPRI;
	return events;
}

/* Something happened that is no message. */
void vg_channels_wake(struct vhost_guest *vg)
{
	unsigned int i;

	for (i = 0; i < VG_CHANNELS; i++)
		wake_up_interruptible_poll(&vg->channels[i].wait,
					   EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLERR | EPOLLHUP);
}

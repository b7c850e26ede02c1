// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * The driver's side of a split virtqueue (virtio 1.2 2.7), with one buffer for
 * each descriptor.
 *
 * The device can write all of this memory. So nothing is ever read back from
 * it but what the device is to write, the used ring and the buffers; and each
 * value is read once, checked, and then used.
 */
#include <linux/bitops.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/log2.h>
#include <linux/virtio_ring.h>

#include "vhost_guest.h"

/* The rings are in the first page, for the largest size. */
#define VG_AVAILABLE	1024
#define VG_USED		2048
#define VG_BUFFERS	4096

struct vg_descriptor {
	__le64 address;
	__le32 len;
	__le16 flags;
	__le16 next;
};

struct vg_available {
	__le16 flags;
	__le16 idx;
	__le16 ring[VG_RING_SIZE];
};

struct vg_used {
	__le16 flags;
	__le16 idx;
	struct {
		__le32 id;
		__le32 len;
	} ring[VG_RING_SIZE];
};

static struct vg_available *vg_available(const struct vg_queue *queue)
{
	return queue->memory + VG_AVAILABLE;
}

static struct vg_used *vg_used(const struct vg_queue *queue)
{
	return queue->memory + VG_USED;
}

static size_t vg_buffer(const struct vg_queue *queue, u16 id)
{
	return VG_BUFFERS + (size_t)id * queue->buffer_len;
}

int vg_queue_alloc(struct vhost_guest *vg, struct vg_queue *queue)
{
	queue->memory_len = vg_buffer(queue, VG_RING_SIZE);
	queue->memory = dma_alloc_coherent(&vg->pdev->dev, queue->memory_len, &queue->dma,
					   GFP_KERNEL);
	return queue->memory ? 0 : -ENOMEM;
}

void vg_queue_free(struct vhost_guest *vg, struct vg_queue *queue)
{
	if (queue->memory)
		dma_free_coherent(&vg->pdev->dev, queue->memory_len, queue->memory, queue->dma);
	queue->memory = NULL;
}

/* Empties the queue, for a device that does not have it. */
void vg_queue_reset(struct vg_queue *queue, u16 size)
{
	memset(queue->memory, 0, queue->memory_len);
	queue->size = size;
	queue->avail_idx = 0;
	queue->used_idx = 0;
	queue->available = 0;
	/* What was sent is of no interest until there is no room. */
	if (!queue->device_writes)
		vg_available(queue)->flags = cpu_to_le16(VRING_AVAIL_F_NO_INTERRUPT);
}

void vg_queue_addresses(const struct vg_queue *queue, u64 *descriptors, u64 *available,
			u64 *used)
{
	*descriptors = queue->dma;
	*available = queue->dma + VG_AVAILABLE;
	*used = queue->dma + VG_USED;
}

/* Makes a buffer available to the device. */
static void vg_queue_offer(struct vg_queue *queue, u16 id, u32 len)
{
	struct vg_descriptor *descriptor = queue->memory;
	struct vg_available *available = vg_available(queue);

	descriptor += id;
	descriptor->address = cpu_to_le64(queue->dma + vg_buffer(queue, id));
	descriptor->len = cpu_to_le32(len);
	descriptor->flags = cpu_to_le16(queue->device_writes ? VRING_DESC_F_WRITE : 0);
	descriptor->next = 0;
	available->ring[queue->avail_idx & (queue->size - 1)] = cpu_to_le16(id);
	__set_bit(id, &queue->available);
	queue->avail_idx++;
	/* The entry before the index. */
	dma_wmb();
	WRITE_ONCE(available->idx, cpu_to_le16(queue->avail_idx));
}

static void vg_queue_notify(struct vg_queue *queue)
{
	/* The index before the wish of the device. */
	mb();
	if (!(le16_to_cpu(READ_ONCE(vg_used(queue)->flags)) & VRING_USED_F_NO_NOTIFY))
		iowrite16(queue->index, queue->notify);
}

/* Gives the device all buffers that it may write. */
void vg_queue_fill(struct vg_queue *queue)
{
	u16 id;

	for (id = 0; id < queue->size; id++)
		vg_queue_offer(queue, id, queue->buffer_len);
	vg_queue_notify(queue);
}

/* Whether there is a used buffer. Anybody may ask, and be told nonsense. */
bool vg_queue_has_news(const struct vg_queue *queue)
{
	return le16_to_cpu(READ_ONCE(vg_used(queue)->idx)) != READ_ONCE(queue->used_idx);
}

/* Looks at the next used buffer: 1 if there is one, 0, or -EIO. */
static int vg_queue_used(const struct vg_queue *queue, u16 *id, u32 *len)
{
	struct vg_used *used = vg_used(queue);
	u16 slot = queue->used_idx & (queue->size - 1);
	u16 count = le16_to_cpu(READ_ONCE(used->idx)) - queue->used_idx;
	u32 found;

	if (!count)
		return 0;
	if (count > hweight_long(queue->available))
		return -EIO;
	/* The index before the entry. */
	dma_rmb();
	found = le32_to_cpu(READ_ONCE(used->ring[slot].id));
	*len = le32_to_cpu(READ_ONCE(used->ring[slot].len));
	if (found >= queue->size || !test_bit(found, &queue->available))
		return -EIO;
	if (queue->device_writes && (*len > queue->buffer_len || *len < queue->buffer_min))
		return -EIO;
	*id = found;
	return 1;
}

static void vg_queue_take(struct vg_queue *queue, u16 id)
{
	__clear_bit(id, &queue->available);
	WRITE_ONCE(queue->used_idx, queue->used_idx + 1);
}

/*
 * Takes what the device wrote: its length, or -EAGAIN if there is nothing,
 * -EMSGSIZE if it is longer than @len (and stays), -EIO if the device broke
 * the rules.
 */
int vg_queue_receive(struct vg_queue *queue, void *data, size_t len)
{
	u32 found;
	u16 id;
	int ret;

	ret = vg_queue_used(queue, &id, &found);
	if (ret <= 0)
		return ret ?: -EAGAIN;
	if (found > len)
		return -EMSGSIZE;
	memcpy(data, queue->memory + vg_buffer(queue, id), found);
	vg_queue_take(queue, id);
	vg_queue_offer(queue, id, queue->buffer_len);
	vg_queue_notify(queue);
	return found;
}

/* Takes back what the device has read: 1 if there is room then, 0, or -EIO. */
static int vg_queue_reclaim(struct vg_queue *queue)
{
	u32 len;
	u16 id;
	int ret;

	while ((ret = vg_queue_used(queue, &id, &len)) > 0)
		vg_queue_take(queue, id);
	if (ret < 0)
		return ret;
	return hweight_long(queue->available) < queue->size;
}

/* As vg_queue_reclaim(); if there is no room, an interrupt tells of it. */
int vg_queue_has_room(struct vg_queue *queue)
{
	struct vg_available *available = vg_available(queue);
	int ret;

	ret = vg_queue_reclaim(queue);
	if (!ret) {
		WRITE_ONCE(available->flags, 0);
		/* One may have come back before the device saw the wish. */
		mb();
		ret = vg_queue_reclaim(queue);
	}
	if (ret > 0)
		WRITE_ONCE(available->flags, cpu_to_le16(VRING_AVAIL_F_NO_INTERRUPT));
	return ret;
}

/* Gives the device a message: 0, -EAGAIN if there is no room, or -EIO. */
int vg_queue_send(struct vg_queue *queue, const void *data, size_t len)
{
	u16 id;
	int ret;

	if (len > queue->buffer_len)
		return -EMSGSIZE;
	ret = vg_queue_has_room(queue);
	if (ret <= 0)
		return ret ?: -EAGAIN;
	id = find_first_zero_bit(&queue->available, queue->size);
	memcpy(queue->memory + vg_buffer(queue, id), data, len);
	vg_queue_offer(queue, id, len);
	vg_queue_notify(queue);
	return 0;
}

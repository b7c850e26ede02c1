// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * The device as a whole: reset, initialisation (virtio 1.2 3.1.1), and its
 * configuration. All under vhost_guest.lock, but for what only sets flags.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/log2.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "vhost_guest.h"

#define VG_F_BIG_ENDIAN		BIT_ULL(0)
#define VG_FEATURES		(VG_F_BIG_ENDIAN | BIT_ULL(VIRTIO_F_VERSION_1) | \
				 BIT_ULL(VIRTIO_F_ACCESS_PLATFORM))

/* Fields of the device configuration. */
#define VG_CONFIG_MAX_VRINGS		0
#define VG_CONFIG_MAX_MESSAGE		4
#define VG_CONFIG_MAX_MIGRATION		8
#define VG_CONFIG_UUID			16
#define VG_CONFIG_TYPE			32
#define VG_CONFIG_STATUS		34
#define VG_STATUS_BACKEND_UP		BIT(0)
#define VG_STATUS_FRONTEND_UP		BIT(1)

/* Registers that read so belong to a device that is not there. */
#define VG_NO_DEVICE		0xff
#define VG_RESET_TIMEOUT	(5 * HZ)
/* A configuration that never holds still is not worth waiting for. */
#define VG_GENERATION_TRIES	64

/* Which virtqueues are a channel's; the names are the channel's view. */
static const struct {
	u16 in;
	u16 out;
} vg_queues[VG_CHANNELS] = {
	[VG_FRONTEND] = { .in = 0, .out = 1 },
	[VG_BACKEND] = { .in = 2, .out = 3 },
	[VG_MIGRATION] = { .in = 5, .out = 4 },
};

static u8 vg_status(struct vhost_guest *vg)
{
	return ioread8(vg->common.base + VIRTIO_PCI_COMMON_STATUS);
}

static void vg_set_status(struct vhost_guest *vg, u8 status)
{
	iowrite8(status, vg->common.base + VIRTIO_PCI_COMMON_STATUS);
}

static void vg_add_status(struct vhost_guest *vg, u8 status)
{
	vg_set_status(vg, vg_status(vg) | status);
}

/* Resets the device, which may take its time (virtio 1.2 2.4). */
static int vg_reset(struct vhost_guest *vg)
{
	unsigned long deadline = jiffies + VG_RESET_TIMEOUT;
	u8 status;

	vg_set_status(vg, 0);
	while ((status = vg_status(vg)) != 0) {
		if (status == VG_NO_DEVICE && !pci_device_is_present(vg->pdev))
			return -ENODEV;
		if (time_after(jiffies, deadline)) {
			dev_err(&vg->pdev->dev, "the device does not finish its reset\n");
			return -ETIMEDOUT;
		}
		usleep_range(200, 1000);
	}
	return 0;
}

static int vg_negotiate(struct vhost_guest *vg)
{
	void __iomem *common = vg->common.base;
	u64 features;

	iowrite32(0, common + VIRTIO_PCI_COMMON_DFSELECT);
	features = ioread32(common + VIRTIO_PCI_COMMON_DF);
	iowrite32(1, common + VIRTIO_PCI_COMMON_DFSELECT);
	features |= (u64)ioread32(common + VIRTIO_PCI_COMMON_DF) << 32;
	features &= VG_FEATURES;
	iowrite32(0, common + VIRTIO_PCI_COMMON_GFSELECT);
	iowrite32(lower_32_bits(features), common + VIRTIO_PCI_COMMON_GF);
	iowrite32(1, common + VIRTIO_PCI_COMMON_GFSELECT);
	iowrite32(upper_32_bits(features), common + VIRTIO_PCI_COMMON_GF);
	vg_add_status(vg, VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(features & BIT_ULL(VIRTIO_F_VERSION_1)) ||
	    !(vg_status(vg) & VIRTIO_CONFIG_S_FEATURES_OK)) {
		dev_err(&vg->pdev->dev, "the device does not accept features %#llx\n", features);
		return -EIO;
	}
	vg->features = features;
	return 0;
}

static int vg_read_uuid(struct vhost_guest *vg, u8 *uuid)
{
	void __iomem *generation = vg->common.base + VIRTIO_PCI_COMMON_CFGGENERATION;
	unsigned int try, i;
	__le32 word;
	u8 before;

	for (try = 0; try < VG_GENERATION_TRIES; try++) {
		before = ioread8(generation);
		for (i = 0; i < sizeof(vg->uuid); i += sizeof(word)) {
			word = cpu_to_le32(ioread32(vg->config.base + VG_CONFIG_UUID + i));
			memcpy(uuid + i, &word, sizeof(word));
		}
		if (ioread8(generation) == before)
			return 0;
	}
	dev_err(&vg->pdev->dev, "the configuration does not hold still\n");
	return -EIO;
}

/* The first half of an initialisation, up to what the device says of itself. */
static int vg_introduce(struct vhost_guest *vg)
{
	int ret;

	ret = vg_reset(vg);
	if (ret)
		return ret;
	vg_add_status(vg, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vg_add_status(vg, VIRTIO_CONFIG_S_DRIVER);
	ret = vg_negotiate(vg);
	if (ret)
		return ret;
	return vg_read_uuid(vg, vg->uuid);
}

/* Reads what is to hold for as long as the driver has the device. */
int vg_examine(struct vhost_guest *vg)
{
	void __iomem *config = vg->config.base;
	u32 max_migration;
	int ret;

	ret = vg_introduce(vg);
	if (ret)
		goto out;
	vg->max_vrings = ioread32(config + VG_CONFIG_MAX_VRINGS);
	vg->max_message_size = ioread32(config + VG_CONFIG_MAX_MESSAGE);
	max_migration = ioread32(config + VG_CONFIG_MAX_MIGRATION);
	vg->num_queues = ioread16(vg->common.base + VIRTIO_PCI_COMMON_NUMQ);
	ret = -EIO;
	if (!vg->max_vrings || vg->max_vrings > VG_MAX_VRINGS)
		dev_err(&vg->pdev->dev, "impossible number of vrings: %u\n", vg->max_vrings);
	else if (vg->max_message_size < VG_MESSAGE_PROMISED)
		dev_err(&vg->pdev->dev, "impossible size of messages: %u\n",
			vg->max_message_size);
	else if (vg->num_queues < 4)
		dev_err(&vg->pdev->dev, "too few virtqueues: %u\n", vg->num_queues);
	else if (!vg_notification(&vg->doorbells, 1) ||
		 !vg_notification(&vg->doorbells, 2 * vg->max_vrings))
		dev_err(&vg->pdev->dev, "the doorbells are not where they can be\n");
	else
		ret = 0;
	vg->max_message_size = min_t(u32, vg->max_message_size, VG_MESSAGE_MAX);
	vg->num_queues = vg->num_queues >= 6 && max_migration ? 6 : 4;
	if (vg->num_queues == 6)
		vg->max_migration_message_size = min_t(u32, max_migration, VG_MIGRATION_MAX);
out:
	if (vg_reset(vg) && !ret)
		ret = -EIO;
	return ret;
}

/* A device that is another after a reset than it was before is none of ours. */
static int vg_check_unchanged(struct vhost_guest *vg)
{
	if (ioread32(vg->config.base + VG_CONFIG_MAX_VRINGS) == vg->max_vrings &&
	    ioread32(vg->config.base + VG_CONFIG_MAX_MESSAGE) >= vg->max_message_size &&
	    ioread16(vg->common.base + VIRTIO_PCI_COMMON_NUMQ) >= vg->num_queues)
		return 0;
	dev_err(&vg->pdev->dev, "the device has changed in a reset\n");
	return -EIO;
}

static int vg_give_queue(struct vhost_guest *vg, struct vg_queue *queue)
{
	void __iomem *common = vg->common.base;
	u64 descriptors, available, used;
	u16 size, vector;

	iowrite16(queue->index, common + VIRTIO_PCI_COMMON_Q_SELECT);
	size = min_t(u16, ioread16(common + VIRTIO_PCI_COMMON_Q_SIZE), VG_RING_SIZE);
	if (!size || ioread16(common + VIRTIO_PCI_COMMON_Q_ENABLE))
		goto unusable;
	size = rounddown_pow_of_two(size);
	queue->notify = vg_notification(&vg->notify,
					ioread16(common + VIRTIO_PCI_COMMON_Q_NOFF));
	if (!queue->notify)
		goto unusable;
	vector = vg_queue_vector(vg);
	iowrite16(vector, common + VIRTIO_PCI_COMMON_Q_MSIX);
	if (ioread16(common + VIRTIO_PCI_COMMON_Q_MSIX) != vector)
		goto unusable;
	vg_queue_reset(queue, size);
	vg_queue_addresses(queue, &descriptors, &available, &used);
	iowrite16(size, common + VIRTIO_PCI_COMMON_Q_SIZE);
	iowrite32(lower_32_bits(descriptors), common + VIRTIO_PCI_COMMON_Q_DESCLO);
	iowrite32(upper_32_bits(descriptors), common + VIRTIO_PCI_COMMON_Q_DESCHI);
	iowrite32(lower_32_bits(available), common + VIRTIO_PCI_COMMON_Q_AVAILLO);
	iowrite32(upper_32_bits(available), common + VIRTIO_PCI_COMMON_Q_AVAILHI);
	iowrite32(lower_32_bits(used), common + VIRTIO_PCI_COMMON_Q_USEDLO);
	iowrite32(upper_32_bits(used), common + VIRTIO_PCI_COMMON_Q_USEDHI);
	iowrite16(1, common + VIRTIO_PCI_COMMON_Q_ENABLE);
	return 0;

unusable:
	dev_err(&vg->pdev->dev, "virtqueue %u of the device is unusable\n", queue->index);
	return -EIO;
}

/* How many channels the device has. */
static unsigned int vg_channels(const struct vhost_guest *vg)
{
	return vg->num_queues == 6 ? VG_CHANNELS : VG_MIGRATION;
}

static int vg_give_channels(struct vhost_guest *vg)
{
	struct vg_channel *channel;
	unsigned int i;
	int ret;

	for (i = 0; i < vg_channels(vg); i++) {
		channel = &vg->channels[i];
		mutex_lock(&channel->lock);
		channel->in.index = vg_queues[i].in;
		channel->out.index = vg_queues[i].out;
		ret = vg_give_queue(vg, &channel->in);
		if (!ret)
			ret = vg_give_queue(vg, &channel->out);
		mutex_unlock(&channel->lock);
		if (ret)
			return ret;
	}
	return 0;
}

static void vg_start_channels(struct vhost_guest *vg)
{
	struct vg_channel *channel;
	unsigned int i;

	for (i = 0; i < vg_channels(vg); i++) {
		channel = &vg->channels[i];
		mutex_lock(&channel->lock);
		vg_queue_fill(&channel->in);
		channel->ready = true;
		mutex_unlock(&channel->lock);
	}
	vg_channels_wake(vg);
}

static void vg_stop_channels(struct vhost_guest *vg)
{
	unsigned int i;

	for (i = 0; i < VG_CHANNELS; i++) {
		mutex_lock(&vg->channels[i].lock);
		vg->channels[i].ready = false;
		mutex_unlock(&vg->channels[i].lock);
	}
	vg_channels_wake(vg);
}

static int vg_initialise(struct vhost_guest *vg)
{
	void __iomem *common = vg->common.base;
	u16 vector = vg_config_vector(vg);
	int ret;

	ret = vg_introduce(vg);
	if (!ret)
		ret = vg_check_unchanged(vg);
	if (ret)
		return ret;
	iowrite16(vector, common + VIRTIO_PCI_COMMON_MSIX);
	if (ioread16(common + VIRTIO_PCI_COMMON_MSIX) != vector) {
		dev_err(&vg->pdev->dev, "the device takes no interrupt vector\n");
		return -EIO;
	}
	ret = vg_give_channels(vg);
	if (ret)
		return ret;
	vg_add_status(vg, VIRTIO_CONFIG_S_DRIVER_OK);
	return 0;
}

/* Resets and initialises the device; it has nothing of anybody's then. */
int vg_start(struct vhost_guest *vg)
{
	int ret;

	if (test_bit(VG_FUNCTION_RESET, &vg->flags))
		return -EBUSY;
	vg_stop(vg);
	pci_set_master(vg->pdev);
	ret = vg_initialise(vg);
	if (ret) {
		vg_add_status(vg, VIRTIO_CONFIG_S_FAILED);
		pci_clear_master(vg->pdev);
		vg_break(vg);
		return ret;
	}
	clear_bit(VG_BROKEN, &vg->flags);
	clear_bit(VG_NEEDS_RESET, &vg->flags);
	vg_window_open(vg);
	vg_start_channels(vg);
	vg_state_changed(vg);
	return 0;
}

/*
 * Takes everything from the device and from whoever has it open. The device
 * reaches no memory when this returns, even one that does not do its reset:
 * it is off the bus.
 */
void vg_stop(struct vhost_guest *vg)
{
	/* Who is told that it is over finds nothing in the window any more. */
	vg_window_close(vg);
	vg_stop_channels(vg);
	vg_unset_eventfds(vg);
	vg_reset(vg);
	vg_forget_kicks(vg);
	pci_clear_master(vg->pdev);
}

/* The device is not to be used before the next reset. */
void vg_break(struct vhost_guest *vg)
{
	set_bit(VG_BROKEN, &vg->flags);
	vg_state_changed(vg);
}

void vg_state_changed(struct vhost_guest *vg)
{
	set_bit(VG_STATE_CHANGED, &vg->flags);
	vg_channels_wake(vg);
}

/* Without DRIVER_OK, it is not as we left it. */
static bool vg_wants_reset(u8 status)
{
	return status & VIRTIO_CONFIG_S_NEEDS_RESET || !(status & VIRTIO_CONFIG_S_DRIVER_OK);
}

/*
 * Whether the device needs a reset, under the lock of a channel that is ready. The
 * register is read only if the state may have changed since it was last asked for.
 */
bool vg_needs_reset(struct vhost_guest *vg)
{
	if (test_bit(VG_STATE_CHANGED, &vg->flags) && vg_wants_reset(vg_status(vg)))
		set_bit(VG_NEEDS_RESET, &vg->flags);
	return test_bit(VG_NEEDS_RESET, &vg->flags);
}

int vg_state(struct vhost_guest *vg, u32 *state)
{
	u16 config;
	u8 status;

	clear_bit(VG_STATE_CHANGED, &vg->flags);
	/* Whatever changes after the registers are read is told again. */
	smp_mb__after_atomic();
	*state = 0;
	if (test_bit(VG_BROKEN, &vg->flags)) {
		*state = VHOST_GUEST_NEEDS_RESET;
		return 0;
	}
	status = vg_status(vg);
	config = ioread16(vg->config.base + VG_CONFIG_STATUS);
	if (status == VG_NO_DEVICE && !pci_device_is_present(vg->pdev))
		return -ENODEV;
	if (vg_wants_reset(status)) {
		*state |= VHOST_GUEST_NEEDS_RESET;
		set_bit(VG_NEEDS_RESET, &vg->flags);
		vg_channels_wake(vg);
	}
	if (config & VG_STATUS_BACKEND_UP)
		*state |= VHOST_GUEST_BACKEND_UP;
	if (config & VG_STATUS_FRONTEND_UP)
		*state |= VHOST_GUEST_FRONTEND_UP;
	return 0;
}

u16 vg_device_type(struct vhost_guest *vg)
{
	return ioread16(vg->config.base + VG_CONFIG_TYPE);
}

int vg_set_type(struct vhost_guest *vg, u16 type)
{
	if (!vg_device_type(vg))
		iowrite16(type, vg->config.base + VG_CONFIG_TYPE);
	return vg_device_type(vg) == type ? 0 : -EBUSY;
}

int vg_set_backend_up(struct vhost_guest *vg, bool up)
{
	void __iomem *status = vg->config.base + VG_CONFIG_STATUS;

	if (test_bit(VG_BROKEN, &vg->flags))
		return -EIO;
	if (up && !vg_device_type(vg))
		return -EINVAL;
	iowrite16(up ? VG_STATUS_BACKEND_UP : 0, status);
	/* It may be lost already, with its frontend; then it needs a reset. */
	if (up && !(ioread16(status) & VG_STATUS_BACKEND_UP))
		return -EIO;
	return 0;
}

// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * Driver for vhost-guest devices: lets a process be the backend of a
 * virtio device in another virtual machine. See include/uapi/linux/vhost_guest.h.
 */
#include <linux/dma-mapping.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pci.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>

#include "compat.h"
#include "vhost_guest.h"

#define VG_MINORS	256
/* "vhgu" */
#define VG_FS_MAGIC	0x76686775

static struct class *vg_class;
static struct vfsmount *vg_mount;
static dev_t vg_devt;
static DEFINE_IDA(vg_minors);

static ssize_t uuid_show(struct device *dev, struct device_attribute *attribute, char *buffer)
{
	struct vhost_guest *vg = container_of(dev, struct vhost_guest, dev);

	return sysfs_emit(buffer, "%pUb\n", vg->uuid);
}
static DEVICE_ATTR_RO(uuid);

static ssize_t max_vhost_queues_show(struct device *dev, struct device_attribute *attribute,
				     char *buffer)
{
	struct vhost_guest *vg = container_of(dev, struct vhost_guest, dev);

	return sysfs_emit(buffer, "%u\n", vg->max_vrings);
}
static DEVICE_ATTR_RO(max_vhost_queues);

static struct attribute *vg_attrs[] = {
	&dev_attr_uuid.attr,
	&dev_attr_max_vhost_queues.attr,
	NULL
};
ATTRIBUTE_GROUPS(vg);

/* The last one who knew the device has forgotten it. */
static void vg_free(struct device *dev)
{
	struct vhost_guest *vg = container_of(dev, struct vhost_guest, dev);

	iput(vg->inode);
	ida_free(&vg_minors, vg->minor);
	kvfree(vg->kicks);
	kvfree(vg->ringers);
	kfree(vg);
}

/* From here on, put_device() frees it. */
static struct vhost_guest *vg_new(struct pci_dev *pdev)
{
	struct vhost_guest *vg;
	unsigned int i;
	int ret;

	vg = kzalloc(sizeof(*vg), GFP_KERNEL);
	if (!vg)
		return ERR_PTR(-ENOMEM);
	vg->minor = ida_alloc_max(&vg_minors, VG_MINORS - 1, GFP_KERNEL);
	if (vg->minor < 0) {
		ret = vg->minor;
		kfree(vg);
		return ERR_PTR(ret);
	}
	vg->inode = alloc_anon_inode(vg_mount->mnt_sb);
	if (IS_ERR(vg->inode)) {
		ret = PTR_ERR(vg->inode);
		ida_free(&vg_minors, vg->minor);
		kfree(vg);
		return ERR_PTR(ret);
	}
	vg->pdev = pdev;
	mutex_init(&vg->lock);
	init_rwsem(&vg->window_lock);
	for (i = 0; i < VG_CHANNELS; i++) {
		mutex_init(&vg->channels[i].lock);
		init_waitqueue_head(&vg->channels[i].wait);
	}
	device_initialize(&vg->dev);
	vg->dev.parent = &pdev->dev;
	vg->dev.class = vg_class;
	vg->dev.groups = vg_groups;
	vg->dev.devt = MKDEV(MAJOR(vg_devt), vg->minor);
	vg->dev.release = vg_free;
	return vg;
}

static int vg_alloc_queue(struct vhost_guest *vg, struct vg_queue *queue, bool device_writes,
			  bool messages)
{
	queue->device_writes = device_writes;
	queue->buffer_min = messages ? VG_MESSAGE_MIN : 0;
	queue->buffer_len = messages ? VG_MESSAGE_MAX : vg->max_migration_message_size;
	return vg_queue_alloc(vg, queue);
}

static int vg_alloc_queues(struct vhost_guest *vg)
{
	struct vg_channel *channel;
	unsigned int i;
	int ret;

	for (i = 0; i < VG_CHANNELS; i++) {
		if (i == VG_MIGRATION && !vg->max_migration_message_size)
			break;
		channel = &vg->channels[i];
		ret = vg_alloc_queue(vg, &channel->in, true, i != VG_MIGRATION);
		if (!ret)
			ret = vg_alloc_queue(vg, &channel->out, false, i != VG_MIGRATION);
		if (ret)
			return ret;
	}
	return 0;
}

static void vg_free_queues(struct vhost_guest *vg)
{
	unsigned int i;

	for (i = 0; i < VG_CHANNELS; i++) {
		vg_queue_free(vg, &vg->channels[i].in);
		vg_queue_free(vg, &vg->channels[i].out);
	}
}

static int vg_set_up(struct vhost_guest *vg)
{
	int ret;

	ret = vg_map_structures(vg);
	if (ret)
		return ret;
	ret = vg_examine(vg);
	if (!ret)
		ret = vg_eventfds_alloc(vg);
	if (!ret)
		ret = vg_alloc_queues(vg);
	if (ret) {
		vg_free_queues(vg);
		vg_unmap_structures(vg);
		return ret;
	}
	vg_window_init(vg);
	return 0;
}

static void vg_tear_down(struct vhost_guest *vg)
{
	vg_window_exit(vg);
	vg_free_queues(vg);
	vg_unmap_structures(vg);
}

static int vg_announce(struct vhost_guest *vg)
{
	int ret;

	cdev_init(&vg->cdev, &vg_fops);
	vg->cdev.owner = THIS_MODULE;
	/* A directory in /dev, by addresses in it. */
	ret = dev_set_name(&vg->dev, VG_NAME "!%s", pci_name(vg->pdev));
	if (ret)
		return ret;
	return cdev_device_add(&vg->cdev, &vg->dev);
}

static int vg_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vhost_guest *vg;
	int ret;

	vg = vg_new(pdev);
	if (IS_ERR(vg))
		return PTR_ERR(vg);
	ret = pci_enable_device_mem(pdev);
	if (ret)
		goto err_put;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		goto err_disable;
	ret = pci_request_regions(pdev, VG_NAME);
	if (ret)
		goto err_disable;
	ret = vg_set_up(vg);
	if (ret)
		goto err_regions;
	pci_set_drvdata(pdev, vg);
	ret = vg_announce(vg);
	if (ret)
		goto err_tear_down;
	return 0;

err_tear_down:
	vg_tear_down(vg);
err_regions:
	pci_release_regions(pdev);
err_disable:
	pci_disable_device(pdev);
err_put:
	put_device(&vg->dev);
	return ret;
}

/* The device goes, whoever has it open. */
static void vg_remove(struct pci_dev *pdev)
{
	struct vhost_guest *vg = pci_get_drvdata(pdev);

	cdev_device_del(&vg->cdev, &vg->dev);
	mutex_lock(&vg->lock);
	set_bit(VG_GONE, &vg->flags);
	vg_stop(vg);
	vg_interrupts_free(vg);
	mutex_unlock(&vg->lock);
	vg_tear_down(vg);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
	put_device(&vg->dev);
}

/*
 * Somebody resets the function, which takes the memory of the frontend away
 * and forgets the queues.
 */
static void vg_reset_prepare(struct pci_dev *pdev)
{
	struct vhost_guest *vg = pci_get_drvdata(pdev);

	mutex_lock(&vg->lock);
	set_bit(VG_FUNCTION_RESET, &vg->flags);
	vg_stop(vg);
	vg_break(vg);
	mutex_unlock(&vg->lock);
}

static void vg_reset_done(struct pci_dev *pdev)
{
	struct vhost_guest *vg = pci_get_drvdata(pdev);

	clear_bit(VG_FUNCTION_RESET, &vg->flags);
	vg_state_changed(vg);
}

static const struct pci_error_handlers vg_error_handlers = {
	.reset_prepare = vg_reset_prepare,
	.reset_done = vg_reset_done,
};

static const struct pci_device_id vg_ids[] = {
	/* 0x1040 and the virtio device ID, 53 */
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1075) },
	{ 0 }
};
MODULE_DEVICE_TABLE(pci, vg_ids);

static struct pci_driver vg_driver = {
	.name = "vhost_guest",
	.id_table = vg_ids,
	.probe = vg_probe,
	.remove = vg_remove,
	.err_handler = &vg_error_handlers,
};

static int vg_init_fs_context(struct fs_context *context)
{
	return init_pseudo(context, VG_FS_MAGIC) ? 0 : -ENOMEM;
}

/*
 * Nobody sees it: a place for the inodes that carry mappings. It has no owner,
 * or the module could not be unloaded; its inodes belong to devices.
 */
static struct file_system_type vg_fs = {
	.name = "vhost_guest",
	.init_fs_context = vg_init_fs_context,
	.kill_sb = kill_anon_super,
};

static int __init vg_init(void)
{
	int ret;

	vg_mount = kern_mount(&vg_fs);
	if (IS_ERR(vg_mount))
		return PTR_ERR(vg_mount);
	ret = alloc_chrdev_region(&vg_devt, 0, VG_MINORS, VG_NAME);
	if (ret)
		goto err_mount;
	vg_class = vg_class_create("vhost_guest");
	if (IS_ERR(vg_class)) {
		ret = PTR_ERR(vg_class);
		goto err_devt;
	}
	ret = pci_register_driver(&vg_driver);
	if (ret)
		goto err_class;
	return 0;

err_class:
	class_destroy(vg_class);
err_devt:
	unregister_chrdev_region(vg_devt, VG_MINORS);
err_mount:
	kern_unmount(vg_mount);
	return ret;
}
module_init(vg_init);

static void __exit vg_exit(void)
{
	pci_unregister_driver(&vg_driver);
	class_destroy(vg_class);
	unregister_chrdev_region(vg_devt, VG_MINORS);
	kern_unmount(vg_mount);
	ida_destroy(&vg_minors);
}
module_exit(vg_exit);

MODULE_DESCRIPTION("Backends of virtio devices in a virtual machine (vhost-guest)");
MODULE_AUTHOR("The vhost-guest Authors");
MODULE_LICENSE("Dual BSD/GPL");
MODULE_VERSION("0.1.0");

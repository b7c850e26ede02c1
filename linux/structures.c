// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * Finds the structures of the device by its PCI capabilities (virtio 1.2
 * 4.1.4; vhost-guest specification, PCI layout). Nothing that a capability
 * says is believed: each structure has to lie in its BAR, and to be as large
 * as its use needs.
 */
#include <linux/io.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/virtio_pci.h>

#include "vhost_guest.h"

/* Structures that vhost-guest adds to those of virtio 1.2. */
#define VG_CAP_DEVICE_AUX	6	/* doorbells */
#define VG_CAP_DRIVER_AUX	7	/* kick vectors */
#define VG_CAP_SHARED_MEMORY	8

/* Offset in a capability for shared memory: which memory it is. */
#define VG_CAP_ID		5

/* No notification of ours is farther away. */
#define VG_NOTIFICATIONS_MAX	SZ_1M

struct vg_location {
	u8 bar;
	u64 offset;
	u64 len;
	u32 multiplier;
};

/* Reads a capability; false if it is no good. */
static bool vg_read_cap(struct pci_dev *pdev, u8 at, u8 type, struct vg_location *found)
{
	u32 offset, len, high;
	u8 cap_len, id;

	pci_read_config_byte(pdev, at + VIRTIO_PCI_CAP_LEN, &cap_len);
	pci_read_config_byte(pdev, at + VIRTIO_PCI_CAP_BAR, &found->bar);
	pci_read_config_byte(pdev, at + VG_CAP_ID, &id);
	pci_read_config_dword(pdev, at + VIRTIO_PCI_CAP_OFFSET, &offset);
	pci_read_config_dword(pdev, at + VIRTIO_PCI_CAP_LENGTH, &len);
	found->offset = offset;
	found->len = len;
	found->multiplier = 0;
	if (cap_len < 16 || at + cap_len > PCI_CFG_SPACE_SIZE)
		return false;
	switch (type) {
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
	case VG_CAP_DEVICE_AUX:
		if (cap_len < 20)
			return false;
		pci_read_config_dword(pdev, at + VIRTIO_PCI_NOTIFY_CAP_MULT, &found->multiplier);
		break;
	case VG_CAP_SHARED_MEMORY:
		if (cap_len < 24 || id != 0)
			return false;
		pci_read_config_dword(pdev, at + 16, &high);
		found->offset |= (u64)high << 32;
		pci_read_config_dword(pdev, at + 20, &high);
		found->len |= (u64)high << 32;
		break;
	}
	return true;
}

/* Finds the first usable capability of a type, as virtio 1.2 4.1.4 wants it. */
static int vg_find(struct vhost_guest *vg, u8 wanted, u64 len_min, const char *name,
		   struct vg_location *found)
{
	struct pci_dev *pdev = vg->pdev;
	u64 bar_len;
	u8 at, type;

	/* The PCI core has a limit for lists that go round in circles. */
	for (at = pci_find_capability(pdev, PCI_CAP_ID_VNDR); at;
	     at = pci_find_next_capability(pdev, at, PCI_CAP_ID_VNDR)) {
		pci_read_config_byte(pdev, at + VIRTIO_PCI_CAP_CFG_TYPE, &type);
		if (type != wanted || !vg_read_cap(pdev, at, type, found))
			continue;
		if (found->bar >= PCI_STD_NUM_BARS)
			continue;
		if (!(pci_resource_flags(pdev, found->bar) & IORESOURCE_MEM))
			continue;
		bar_len = pci_resource_len(pdev, found->bar);
		if (found->len >= len_min && found->offset <= bar_len &&
		    found->len <= bar_len - found->offset && IS_ALIGNED(found->offset, 4))
			return 0;
	}
	dev_err(&pdev->dev, "no usable capability for the %s\n", name);
	return -ENODEV;
}

static int vg_map(struct vhost_guest *vg, u8 type, u64 len_min, u64 len_max, const char *name,
		  struct vg_region *region)
{
	struct vg_location found;
	int ret;

	ret = vg_find(vg, type, len_min, name, &found);
	if (ret)
		return ret;
	region->len = min(found.len, len_max);
	region->multiplier = found.multiplier;
	region->base = pci_iomap_range(vg->pdev, found.bar, found.offset, region->len);
	return region->base ? 0 : -ENOMEM;
}

int vg_map_structures(struct vhost_guest *vg)
{
	struct vg_location window;
	int ret;

	ret = vg_map(vg, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_COMMON_Q_USEDHI + 4,
		     VIRTIO_PCI_COMMON_Q_USEDHI + 4, "common configuration", &vg->common);
	if (!ret)
		ret = vg_map(vg, VIRTIO_PCI_CAP_NOTIFY_CFG, 2, VG_NOTIFICATIONS_MAX,
			     "queue notifications", &vg->notify);
	if (!ret)
		ret = vg_map(vg, VIRTIO_PCI_CAP_DEVICE_CFG, 36, 36, "device configuration",
			     &vg->config);
	if (!ret)
		ret = vg_map(vg, VG_CAP_DEVICE_AUX, 2, VG_NOTIFICATIONS_MAX, "doorbells",
			     &vg->doorbells);
	if (!ret)
		ret = vg_map(vg, VG_CAP_DRIVER_AUX, 4, 4, "kick vectors", &vg->kick_vectors);
	if (!ret)
		ret = vg_find(vg, VG_CAP_SHARED_MEMORY, PAGE_SIZE, "shared memory", &window);
	if (ret)
		goto err;
	vg->window_start = pci_resource_start(vg->pdev, window.bar) + window.offset;
	vg->window_len = round_down(window.len, PAGE_SIZE);
	if (!PAGE_ALIGNED(vg->window_start)) {
		dev_err(&vg->pdev->dev, "the shared memory is not aligned to a page\n");
		ret = -ENODEV;
		goto err;
	}
	return 0;
err:
	vg_unmap_structures(vg);
	return ret;
}

void vg_unmap_structures(struct vhost_guest *vg)
{
	struct vg_region *regions[] = {
		&vg->common, &vg->notify, &vg->config, &vg->doorbells, &vg->kick_vectors,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(regions); i++) {
		if (regions[i]->base)
			pci_iounmap(vg->pdev, regions[i]->base);
		regions[i]->base = NULL;
	}
}

/* The address of a notification, 16 bits wide; NULL if it has none. */
void __iomem *vg_notification(const struct vg_region *region, u32 index)
{
	u64 offset = (u64)index * region->multiplier;

	if (!IS_ALIGNED(offset, 2) || offset + 2 > region->len)
		return NULL;
	return region->base + offset;
}

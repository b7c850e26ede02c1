// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * MSI-X vectors: one for changes of the configuration, one for all message
 * queues, and one for each kick. Where there are fewer, they are shared: the
 * last ones by kicks, a single one by everything.
 *
 * The vector of a kick is requested when the kick gets its first eventfd: a
 * frontend that uses one vring of 256 costs one interrupt.
 */
#include <linux/interrupt.h>

#include "vhost_guest.h"

#define VG_EVENT_VECTORS	2

unsigned int vg_config_vector(const struct vhost_guest *vg)
{
	return 0;
}

unsigned int vg_queue_vector(const struct vhost_guest *vg)
{
	return min(1U, vg->num_vectors - 1);
}

static unsigned int vg_first_kick_vector(const struct vhost_guest *vg)
{
	return min_t(unsigned int, VG_EVENT_VECTORS, vg->num_vectors - 1);
}

static unsigned int vg_kick_vectors(const struct vhost_guest *vg)
{
	return vg->num_vectors - vg_first_kick_vector(vg);
}

unsigned int vg_kick_vector(const struct vhost_guest *vg, unsigned int vring)
{
	return vg_first_kick_vector(vg) + vring % vg_kick_vectors(vg);
}

/* Tells whoever waits for messages, or for room, if there is any. */
static void vg_queues_interrupt(struct vhost_guest *vg)
{
	struct vg_channel *channel;
	__poll_t events;
	unsigned int i;

	for (i = 0; i < VG_CHANNELS; i++) {
		channel = &vg->channels[i];
		events = 0;
		if (!channel->in.memory)
			continue;
		if (vg_queue_has_news(&channel->in))
			events |= EPOLLIN | EPOLLRDNORM;
		if (vg_queue_has_news(&channel->out))
			events |= EPOLLOUT | EPOLLWRNORM;
		if (events)
			wake_up_interruptible_poll(&channel->wait, events);
	}
}

static irqreturn_t vg_interrupt(int irq, void *data)
{
	struct vg_vector *vector = data;
	struct vhost_guest *vg = vector->vg;
	unsigned int vring;

	if (vector->index == vg_config_vector(vg))
		vg_state_changed(vg);
	if (vector->index == vg_queue_vector(vg))
		vg_queues_interrupt(vg);
	if (vector->index < vg_first_kick_vector(vg))
		return IRQ_HANDLED;
	for (vring = vector->index - vg_first_kick_vector(vg); vring < vg->max_vrings;
	     vring += vg_kick_vectors(vg))
		vg_signal_kick(&vg->kicks[vring]);
	return IRQ_HANDLED;
}

int vg_request_vector(struct vhost_guest *vg, unsigned int index)
{
	struct vg_vector *vector = &vg->vectors[index];
	int ret;

	if (vector->requested)
		return 0;
	vector->vg = vg;
	vector->index = index;
	snprintf(vector->name, sizeof(vector->name), "%s[%s]-%u", VG_NAME, pci_name(vg->pdev),
		 index);
	ret = request_irq(pci_irq_vector(vg->pdev, index), vg_interrupt, 0, vector->name, vector);
	vector->requested = !ret;
	return ret;
}

/* For an opener; until vg_interrupts_free(). */
int vg_interrupts_alloc(struct vhost_guest *vg)
{
	int wanted = VG_EVENT_VECTORS + vg->max_vrings;
	int ret;

	/* Asking for less helps if there are not so many left. */
	do {
		ret = pci_alloc_irq_vectors(vg->pdev, 1, wanted, PCI_IRQ_MSIX);
		wanted /= 2;
	} while (ret < 0 && wanted);
	if (ret < 0)
		return ret;
	vg->num_vectors = ret;
	vg->vectors = kvcalloc(vg->num_vectors, sizeof(*vg->vectors), GFP_KERNEL);
	if (!vg->vectors) {
		pci_free_irq_vectors(vg->pdev);
		return -ENOMEM;
	}
	ret = vg_request_vector(vg, vg_config_vector(vg));
	if (!ret)
		ret = vg_request_vector(vg, vg_queue_vector(vg));
	if (ret)
		vg_interrupts_free(vg);
	return ret;
}

void vg_interrupts_free(struct vhost_guest *vg)
{
	unsigned int i;

	if (!vg->vectors)
		return;
	for (i = 0; i < vg->num_vectors; i++) {
		if (vg->vectors[i].requested)
			free_irq(pci_irq_vector(vg->pdev, i), &vg->vectors[i]);
	}
	pci_free_irq_vectors(vg->pdev);
	kvfree(vg->vectors);
	vg->vectors = NULL;
}

// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * MSI-X vectors: one for changes of the configuration, one for all message
 * queues, and one for each kick. Where there are fewer, they are shared: the
 * last ones by kicks, a single one by everything.
 *
 * The vector of a kick is requested when the kick gets its first eventfd: a
 * frontend that uses one vring of 256 costs one interrupt. If the machine has no
 * interrupt left then, the kick shares one: an x86 processor has about 200.
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

/* Which of the kicks that share it was meant, an interrupt does not say. */
static void vg_kicks_interrupt(const struct vg_vector *vector)
{
	struct vhost_guest *vg = vector->vg;
	unsigned int first = vg_first_kick_vector(vg);
	unsigned int vring;

	if (vector->index >= first) {
		for (vring = vector->index - first; vring < vg->max_vrings;
		     vring += vg_kick_vectors(vg))
			vg_signal_kick(&vg->kicks[vring]);
	}
	if (!READ_ONCE(vector->shared))
		return;
	for (vring = 0; vring < vg->max_vrings; vring++) {
		if (READ_ONCE(vg->kicks[vring].vector) == vector->index)
			vg_signal_kick(&vg->kicks[vring]);
	}
}

static irqreturn_t vg_interrupt(int irq, void *data)
{
	const struct vg_vector *vector = data;
	struct vhost_guest *vg = vector->vg;

	if (vector->index == vg_config_vector(vg))
		vg_state_changed(vg);
	if (vector->index == vg_queue_vector(vg))
		vg_queues_interrupt(vg);
	vg_kicks_interrupt(vector);
	return IRQ_HANDLED;
}

/* What /proc/interrupts calls it: after the vring if it is for a kick, with "+" if shared. */
static void vg_name_vector(const struct vhost_guest *vg, struct vg_vector *vector)
{
	unsigned int first = vg_first_kick_vector(vg);
	unsigned int vring = vector->index - first;
	const char *device = pci_name(vg->pdev);
	size_t len = sizeof(vector->name);

	if (vector->index == vg_config_vector(vg))
		snprintf(vector->name, len, "%s[%s]-config%s", VG_NAME, device,
			 vector->index < first ? "" : "+");
	else if (vector->index == vg_queue_vector(vg))
		snprintf(vector->name, len, "%s[%s]-messages%s", VG_NAME, device,
			 vector->index < first ? "" : "+");
	else
		snprintf(vector->name, len, "%s[%s]-kick.%u%s", VG_NAME, device, vring,
			 vring + vg_kick_vectors(vg) < vg->max_vrings ? "+" : "");
}

static int vg_request_vector(struct vhost_guest *vg, unsigned int index)
{
	struct vg_vector *vector = &vg->vectors[index];
	int ret;

	if (vector->requested)
		return 0;
	vector->vg = vg;
	vector->index = index;
	vg_name_vector(vg, vector);
	ret = request_irq(pci_irq_vector(vg->pdev, index), vg_interrupt, 0, vector->name, vector);
	vector->requested = !ret;
	return ret;
}

/* A vector that was requested, for a kick that does not get its own. */
static unsigned int vg_shared_vector(const struct vhost_guest *vg, unsigned int vring)
{
	unsigned int vectors, index;

	for (vectors = vg_kick_vectors(vg) / 2; vectors; vectors /= 2) {
		index = vg_first_kick_vector(vg) + vring % vectors;
		if (vg->vectors[index].requested)
			return index;
	}
	return vg_queue_vector(vg);
}

/*
 * The vector that a kick is to be mapped to, or an error. The kick says so before
 * it is mapped: then it may come any time.
 */
int vg_request_kick_vector(struct vhost_guest *vg, unsigned int vring)
{
	unsigned int index = vg_first_kick_vector(vg) + vring % vg_kick_vectors(vg);
	int ret;

	ret = vg_request_vector(vg, index);
	if (ret == -ENOSPC) {
		index = vg_shared_vector(vg, vring);
		dev_info_once(&vg->pdev->dev, "no interrupt is left for vring %u: it shares one\n",
			      vring);
		WRITE_ONCE(vg->vectors[index].shared, true);
	} else if (ret) {
		return ret;
	}
	WRITE_ONCE(vg->kicks[vring].vector, index);
	return index;
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

// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * The window, mapped to processes: shared memory of the device, in which the
 * memory of the frontend appears. The kernel itself never looks at it.
 *
 * It is RAM of another virtual machine, and is mapped as RAM is: write-back.
 * On x86 the type of a page is that of the range it lies in (PAT), which is
 * uncached for a BAR unless somebody has asked for another. memremap() asks;
 * what it returns is not used. It does not get it where firmware has said that
 * the range is uncached (MTRR), as it does of addresses below 4 GiB.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sizes.h>

#ifdef CONFIG_X86
#include <asm/pgtable_types.h>
#endif

#include "compat.h"
#include "vhost_guest.h"

/* What one fault maps around its address: what one table of pages holds. */
#define VG_FAULT_AROUND		PMD_SIZE

/* Whether a mapping of the kernel's is write-back. */
static bool vg_is_cached(void *mapping)
{
#ifdef CONFIG_X86
	unsigned int level;
	pte_t *entry;

	if (!mapping)
		return false;
	entry = lookup_address((unsigned long)mapping, &level);
	/* All other types have one of these in Linux' table of them. */
	return entry && !(pte_flags(*entry) & (_PAGE_PCD | _PAGE_PWT));
#else
	return mapping;
#endif
}

void vg_window_init(struct vhost_guest *vg)
{
	vg->window_type = memremap(vg->window_start, vg->window_len, MEMREMAP_WB);
	if (!vg_is_cached(vg->window_type))
		dev_warn(&vg->pdev->dev,
			 "the window is uncached and slow (%pa): it should be above 4 GiB\n",
			 &vg->window_start);
}

void vg_window_exit(struct vhost_guest *vg)
{
	if (vg->window_type)
		memunmap(vg->window_type);
	vg->window_type = NULL;
}

void vg_window_open(struct vhost_guest *vg)
{
	down_write(&vg->window_lock);
	vg->window_open = true;
	up_write(&vg->window_lock);
	/* What stood in for it while it was closed. */
	unmap_mapping_range(vg->inode->i_mapping, 0, 0, 1);
}

/* Takes the window from all who have mapped it. */
void vg_window_close(struct vhost_guest *vg)
{
	down_write(&vg->window_lock);
	vg->window_open = false;
	vg->generation++;
	up_write(&vg->window_lock);
	unmap_mapping_range(vg->inode->i_mapping, 0, 0, 1);
}

/*
 * What a program sees of a file before it maps it. It is mapped in pages, so its size
 * is in whole ones, and a program that rounds up what it maps stays within it: to
 * pages, or to the block size, which is that of a huge page only where file, memory
 * and length all allow for one.
 */
void vg_window_describe(const struct vg_file *file, struct inode *inode)
{
	u64 start = file->vg->window_start + file->region.offset;
	u64 size = PAGE_ALIGN(file->region.size);

	i_size_write(inode, size);
	inode->i_blkbits = IS_ALIGNED(start | size, PMD_SIZE) ? PMD_SHIFT : PAGE_SHIFT;
}

/* Whether a file may be mapped now, under the lock. */
static bool vg_window_is_open(const struct vg_file *file)
{
	const struct vhost_guest *vg = file->vg;

	if (!vg->window_open || file->session != vg->session)
		return false;
	return !file->only_window || file->generation == vg->generation;
}

/* Maps what a fault asks for, and its neighbours. */
static vm_fault_t vg_insert_window(const struct vg_file *file, struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long address, end, start;
	unsigned long first, frame;
	vm_fault_t ret;

	address = vmf->address & PAGE_MASK;
	start = max(round_down(address, VG_FAULT_AROUND), vma->vm_start);
	end = min(round_down(address, VG_FAULT_AROUND) + VG_FAULT_AROUND, vma->vm_end);
	/* vmf->pgoff was checked by mmap(). */
	frame = PHYS_PFN(file->vg->window_start + file->region.offset) + vmf->pgoff;
	first = frame - ((address - start) >> PAGE_SHIFT);

	ret = vmf_insert_pfn(vma, address, frame);
	/* The neighbours are a favour; pages that are there stay. */
	for (address = start; ret == VM_FAULT_NOPAGE && address < end; address += PAGE_SIZE) {
		if (vmf_insert_pfn(vma, address, first) != VM_FAULT_NOPAGE)
			break;
		first++;
	}
	return ret;
}

/*
 * The window is gone, and the program has not noticed: beside its frontend it would
 * have kept what it mapped. It sees a page of zeroes in place of each page that it
 * touches, and what it stores there itself: one page for all, which belongs to the
 * file, so that it costs no more and neither another file nor the next frontend ever
 * sees it. A system call that meets memory which is gone fails instead: it would write
 * zeroes to a disk where the frontend's data should be.
 */
static vm_fault_t vg_insert_scratch(const struct vg_file *file, struct vm_fault *vmf)
{
	if (!(vmf->flags & FAULT_FLAG_USER))
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address & PAGE_MASK, page_to_pfn(file->scratch));
}

static vm_fault_t vg_window_fault(struct vm_fault *vmf)
{
	const struct vg_file *file = vmf->vma->vm_file->private_data;
	struct vhost_guest *vg = file->vg;
	vm_fault_t ret;

	down_read(&vg->window_lock);
	ret = vg_window_is_open(file) ? vg_insert_window(file, vmf) : vg_insert_scratch(file, vmf);
	up_read(&vg->window_lock);
	return ret;
}

static const struct vm_operations_struct vg_window_ops = {
	.fault = vg_window_fault,
};

int vg_window_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vg_file *opener = file->private_data;
	struct vhost_guest *vg = opener->vg;
	u64 pages = PAGE_ALIGN(opener->region.size) >> PAGE_SHIFT;
	bool open;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	/* Another machine writes there. */
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	if (vma->vm_pgoff > pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	down_read(&vg->window_lock);
	open = vg_window_is_open(opener);
	up_read(&vg->window_lock);
	if (!open)
		return -ENODEV;
	vm_flags_mod(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	vma->vm_ops = &vg_window_ops;
	return 0;
}

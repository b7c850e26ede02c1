// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/*
 * Copyright 2026 The vhost-guest Authors. All rights reserved.
 *
 * The character device, and the further files of VHOST_GUEST_OPEN.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vhost_guest.h"

/* Whether the file belongs to the one who has the device open. */
bool vg_is_open(const struct vg_file *file)
{
	const struct vhost_guest *vg = file->vg;

	return !test_bit(VG_GONE, &vg->flags) && READ_ONCE(vg->opened) &&
	       READ_ONCE(vg->session) == file->session;
}

static struct vg_file *vg_file_alloc(struct vhost_guest *vg, bool has_window)
{
	struct vg_file *file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);

	if (!file)
		return NULL;
	file->vg = vg;
	if (!has_window)
		return file;
	file->scratch = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (file->scratch)
		return file;
	kfree(file);
	return NULL;
}

/* Nothing of it is mapped. */
static void vg_file_free(struct vg_file *file)
{
	if (file->scratch)
		__free_page(file->scratch);
	kfree(file);
}

/* Gives the device to a new opener. */
static int vg_begin(struct vhost_guest *vg)
{
	int ret;

	if (test_bit(VG_GONE, &vg->flags))
		return -ENODEV;
	if (vg->opened)
		return -EBUSY;
	ret = vg_interrupts_alloc(vg);
	if (ret)
		return ret;
	WRITE_ONCE(vg->session, vg->session + 1);
	WRITE_ONCE(vg->opened, true);
	ret = vg_start(vg);
	if (ret) {
		WRITE_ONCE(vg->opened, false);
		vg_interrupts_free(vg);
	}
	return ret;
}

static int vg_open(struct inode *inode, struct file *file)
{
	struct vhost_guest *vg = container_of(inode->i_cdev, struct vhost_guest, cdev);
	struct vg_file *opener;
	int ret;

	/* There is nothing that a reader or a writer alone could do. */
	if (!(file->f_mode & FMODE_READ) || !(file->f_mode & FMODE_WRITE))
		return -EACCES;
	opener = vg_file_alloc(vg, true);
	if (!opener)
		return -ENOMEM;
	ret = mutex_lock_killable(&vg->lock);
	if (!ret) {
		ret = vg_begin(vg);
		opener->session = vg->session;
		mutex_unlock(&vg->lock);
	}
	if (ret) {
		vg_file_free(opener);
		return ret;
	}
	opener->channel = VG_FRONTEND;
	opener->region.size = vg->window_len;
	file->private_data = opener;
	file->f_mapping = vg->inode->i_mapping;
	return stream_open(inode, file);
}

/* The last reference is closed, and nothing is mapped. */
static int vg_release(struct inode *inode, struct file *file)
{
	struct vg_file *opener = file->private_data;
	struct vhost_guest *vg = opener->vg;

	mutex_lock(&vg->lock);
	WRITE_ONCE(vg->opened, false);
	if (!test_bit(VG_GONE, &vg->flags)) {
		vg_stop(vg);
		vg_interrupts_free(vg);
	}
	mutex_unlock(&vg->lock);
	vg_file_free(opener);
	return 0;
}

static int vg_get_info(struct vhost_guest *vg, void __user *argument)
{
	struct vhost_guest_info info = {
		.version = VHOST_GUEST_API_VERSION,
		.window_size = vg->window_len,
		.max_vhost_queues = vg->max_vrings,
		.max_message_size = vg->max_message_size,
		.max_migration_message_size = vg->max_migration_message_size,
	};
	int ret;

	ret = mutex_lock_interruptible(&vg->lock);
	if (ret)
		return ret;
	if (test_bit(VG_GONE, &vg->flags)) {
		ret = -ENODEV;
	} else {
		info.device_type = vg_device_type(vg);
		info.features = vg->features & VHOST_GUEST_F_BIG_ENDIAN;
		memcpy(info.uuid, vg->uuid, sizeof(info.uuid));
	}
	mutex_unlock(&vg->lock);
	if (!ret && copy_to_user(argument, &info, sizeof(info)))
		ret = -EFAULT;
	return ret;
}

/* Requests without a result but for the state, under the lock. */
static int vg_control(struct vhost_guest *vg, unsigned int request, unsigned long argument,
		      const struct vhost_guest_eventfd *eventfd, u32 *state)
{
	switch (request) {
	case VHOST_GUEST_GET_STATE:
		return vg_state(vg, state);
	case VHOST_GUEST_RESET:
		return argument ? -EINVAL : vg_start(vg);
	case VHOST_GUEST_SET_TYPE:
		return argument && argument <= U16_MAX ? vg_set_type(vg, argument) : -EINVAL;
	case VHOST_GUEST_SET_BACKEND_UP:
		return argument <= 1 ? vg_set_backend_up(vg, argument) : -EINVAL;
	case VHOST_GUEST_SET_EVENTFD:
		return vg_set_eventfd(vg, eventfd);
	default:
		return -ENOTTY;
	}
}

static long vg_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
	struct vg_file *opener = file->private_data;
	void __user *pointer = (void __user *)argument;
	struct vhost_guest *vg = opener->vg;
	struct vhost_guest_eventfd eventfd;
	struct vhost_guest_region region;
	u32 state;
	int ret;

	if (request == VHOST_GUEST_GET_INFO)
		return vg_get_info(vg, pointer);
	if (request == VHOST_GUEST_OPEN)
		return vg_open_file(opener, argument);
	if (request == VHOST_GUEST_OPEN_REGION)
		return copy_from_user(&region, pointer, sizeof(region)) ?
			-EFAULT : vg_open_region(opener, &region);
	if (request == VHOST_GUEST_SET_EVENTFD &&
	    copy_from_user(&eventfd, pointer, sizeof(eventfd)))
		return -EFAULT;
	ret = mutex_lock_interruptible(&vg->lock);
	if (ret)
		return ret;
	if (test_bit(VG_GONE, &vg->flags))
		ret = -ENODEV;
	else
		ret = vg_control(vg, request, argument, &eventfd, &state);
	mutex_unlock(&vg->lock);
	if (!ret && request == VHOST_GUEST_GET_STATE && put_user(state, (u32 __user *)pointer))
		ret = -EFAULT;
	return ret;
}

const struct file_operations vg_fops = {
	.owner = THIS_MODULE,
	.open = vg_open,
	.release = vg_release,
	.read = vg_channel_read,
	.write = vg_channel_write,
	.poll = vg_channel_poll,
	.get_unmapped_area = thp_get_unmapped_area,
	.mmap = vg_window_mmap,
	.unlocked_ioctl = vg_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static int vg_release_file(struct inode *inode, struct file *file)
{
	struct vg_file *opener = file->private_data;

	put_device(&opener->vg->dev);
	vg_file_free(opener);
	return 0;
}

static loff_t vg_window_seek(struct file *file, loff_t offset, int whence)
{
	return fixed_size_llseek(file, offset, whence, i_size_read(file_inode(file)));
}

static const struct file_operations vg_window_fops = {
	.owner = THIS_MODULE,
	.release = vg_release_file,
	.llseek = vg_window_seek,
	.get_unmapped_area = thp_get_unmapped_area,
	.mmap = vg_window_mmap,
};

static const struct file_operations vg_channel_fops = {
	.owner = THIS_MODULE,
	.release = vg_release_file,
	.read = vg_channel_read,
	.write = vg_channel_write,
	.poll = vg_channel_poll,
};

static const struct file_operations vg_neighbour_fops = {
	.owner = THIS_MODULE,
};

/*
 * A file with an inode of its own, which has a size and a block size: programs look
 * at both. It lies where the kernel has its anonymous inodes, and not in the file
 * system of this module: a path to it (O_PATH, /proc/PID/fd) can be held by a
 * process after the file is closed, and the module unloaded.
 */
static struct file *vg_new_window_file(const struct vg_file *further, const char *name, int flags)
{
	struct file *neighbour, *file;
	struct inode *inode;

	neighbour = anon_inode_getfile(name, &vg_neighbour_fops, NULL, O_RDWR);
	if (IS_ERR(neighbour))
		return neighbour;
	inode = alloc_anon_inode(file_inode(neighbour)->i_sb);
	if (IS_ERR(inode)) {
		file = ERR_CAST(inode);
		goto out;
	}
	vg_window_describe(further, inode);
	file = alloc_file_pseudo(inode, neighbour->f_path.mnt, name, flags, &vg_window_fops);
	if (IS_ERR(file))
		iput(inode);
	else
		__module_get(THIS_MODULE);
out:
	fput(neighbour);
	return file;
}

/* A file that knows the device, but does not keep it open. */
static struct file *vg_new_file(struct vg_file *opener, const char *name, unsigned int what,
				const struct vhost_guest_region *region, int flags)
{
	struct vhost_guest *vg = opener->vg;
	struct vg_file *further;
	struct file *file;

	further = vg_file_alloc(vg, what == VHOST_GUEST_OPEN_WINDOW);
	if (!further)
		return ERR_PTR(-ENOMEM);
	further->session = opener->session;
	further->only_window = what == VHOST_GUEST_OPEN_WINDOW;
	further->channel = what == VHOST_GUEST_OPEN_MIGRATION ? VG_MIGRATION : VG_BACKEND;
	further->region = *region;
	down_read(&vg->window_lock);
	further->generation = vg->generation;
	up_read(&vg->window_lock);
	if (further->only_window)
		file = vg_new_window_file(further, name, flags);
	else
		file = anon_inode_getfile(name, &vg_channel_fops, further, flags);
	if (IS_ERR(file)) {
		vg_file_free(further);
		return file;
	}
	get_device(&vg->dev);
	file->private_data = further;
	file->f_mapping = vg->inode->i_mapping;
	return file;
}

/* Gives the process a descriptor of a new file. */
static int vg_open_new(struct vg_file *opener, unsigned int what,
		       const struct vhost_guest_region *region, int flags)
{
	static const char * const names[] = {
		[VHOST_GUEST_OPEN_WINDOW] = "[vhost-guest-window]",
		[VHOST_GUEST_OPEN_BACKEND] = "[vhost-guest-backend]",
		[VHOST_GUEST_OPEN_MIGRATION] = "[vhost-guest-migration]",
	};
	struct file *file;
	int fd;

	if (what >= ARRAY_SIZE(names))
		return -EINVAL;
	if (what == VHOST_GUEST_OPEN_MIGRATION && !opener->vg->max_migration_message_size)
		return -EOPNOTSUPP;
	if (!vg_is_open(opener))
		return -ENODEV;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = vg_new_file(opener, names[what], what, region, O_RDWR | flags);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}

int vg_open_file(struct vg_file *opener, unsigned long what)
{
	const unsigned long nonblock = VHOST_GUEST_OPEN_NONBLOCK;

	if (what > U32_MAX)
		return -EINVAL;
	return vg_open_new(opener, what & ~nonblock, &opener->region,
			   what & nonblock ? O_NONBLOCK : 0);
}

int vg_open_region(struct vg_file *opener, const struct vhost_guest_region *region)
{
	u64 len = opener->vg->window_len;

	if (!region->size || !PAGE_ALIGNED(region->offset))
		return -EINVAL;
	if (region->offset > len || region->size > len - region->offset)
		return -EINVAL;
	return vg_open_new(opener, VHOST_GUEST_OPEN_WINDOW, region, 0);
}

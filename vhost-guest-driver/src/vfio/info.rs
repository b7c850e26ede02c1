// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What VFIO says about a device and its IOMMU. What comes from here is sound:
//! inside of what it is part of, apart from each other, and not too much.

use std::mem::{offset_of, size_of};
use std::ops::Range;

use vfio_bindings::bindings::vfio::{
    vfio_device_info, vfio_info_cap_header, vfio_iommu_type1_info,
    vfio_iommu_type1_info_cap_iova_range, vfio_iova_range, vfio_irq_info, vfio_region_info,
    vfio_region_info_cap_sparse_mmap, vfio_region_sparse_mmap_area, VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_FLAGS_RESET, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

use super::abi::{Argument, Request};
use super::kernel::Calls;
use super::VfioError;
use crate::vectors::MAX_VECTORS;

/// Regions of a PCI function that are BARs.
pub const BARS: u32 = 6;
/// Bytes of configuration space that a function has at least.
const CONFIG_SIZE: u64 = 256;
/// What mappings begin at. Larger pages are the kernel's to insist on.
const PAGE: u64 = 4096;
/// The largest page that memory for the queues is aligned to.
const LARGEST_PAGE: u64 = 2 << 20;
/// Where memory for the queues goes if the kernel does not tell what is free:
/// not to address 0, and below the addresses of interrupts on x86.
const USUAL_RANGE: Range<u64> = 1 << 20..0xfee0_0000;

fn malformed(what: &'static str) -> VfioError {
    VfioError::Malformed(what)
}

/// A part of the device's file, which is a BAR or configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length, 0 if there is none.
    pub size: u64,
    /// Which parts of it can be mapped.
    pub mappable: Vec<Range<u64>>,
}

impl Region {
    fn overlaps(&self, other: &Self) -> bool {
        // Both end inside of the file.
        self.offset < other.offset + other.size && other.offset < self.offset + self.size
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub can_reset: bool,
    pub bars: [Region; BARS as usize],
    pub config: Region,
    /// MSI-X vectors, no more than the driver tells apart.
    pub vectors: u16,
}

impl Function {
    pub fn ask(calls: &dyn Calls) -> Result<Self, VfioError> {
        let mut info = Argument::new();
        let asked = calls.device(Request::DeviceInfo, &mut info);
        asked.map_err(VfioError::call("VFIO_DEVICE_GET_INFO"))?;
        let field = |at| info.u32(at).unwrap_or_default();
        let flags = field(offset_of!(vfio_device_info, flags));
        if flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(VfioError::NotPci);
        }
        let regions = field(offset_of!(vfio_device_info, num_regions));
        if regions <= VFIO_PCI_CONFIG_REGION_INDEX {
            return Err(malformed("a function without configuration space"));
        }
        let mut bars: [Region; BARS as usize] = Default::default();
        for (index, bar) in (0..).zip(&mut bars) {
            *bar = region(calls, index)?;
        }
        let config = region(calls, VFIO_PCI_CONFIG_REGION_INDEX)?;
        if config.size < CONFIG_SIZE {
            return Err(malformed("configuration space of less than 256 bytes"));
        }
        if any_overlap(bars.iter().chain([&config])) {
            return Err(malformed("regions that overlap"));
        }
        let irqs = field(offset_of!(vfio_device_info, num_irqs));
        let vectors = match irqs > VFIO_PCI_MSIX_IRQ_INDEX {
            true => vectors(calls)?,
            false => 0,
        };
        Ok(Self {
            can_reset: flags & VFIO_DEVICE_FLAGS_RESET != 0,
            bars,
            config,
            vectors,
        })
    }
}

fn any_overlap<'a>(regions: impl Iterator<Item = &'a Region> + Clone) -> bool {
    let mut rest = regions.filter(|region| region.size != 0);
    std::iter::from_fn(|| {
        let region = rest.next()?;
        Some(rest.clone().any(|other| region.overlaps(other)))
    })
    .any(|overlaps| overlaps)
}

fn region(calls: &dyn Calls, index: u32) -> Result<Region, VfioError> {
    let mut info = Argument::new();
    info.set(offset_of!(vfio_region_info, index), index.to_ne_bytes());
    let asked = calls.device(Request::RegionInfo, &mut info);
    asked.map_err(VfioError::call("VFIO_DEVICE_GET_REGION_INFO"))?;
    let flags = info.u32(offset_of!(vfio_region_info, flags));
    let flags = flags.unwrap_or_default();
    let long = |at| info.u64(at).unwrap_or_default();
    let offset = long(offset_of!(vfio_region_info, offset));
    let size = long(offset_of!(vfio_region_info, size));
    let both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    if size == 0 || flags & both != both {
        return Ok(Region::default());
    }
    // Offsets in files are signed.
    let end = offset.checked_add(size);
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(malformed("a region that does not end"));
    }
    let mut region = Region {
        offset,
        size,
        mappable: Vec::new(),
    };
    if flags & VFIO_REGION_INFO_FLAG_MMAP != 0 {
        region.mappable.push(0..size);
        if flags & VFIO_REGION_INFO_FLAG_CAPS != 0 {
            let first = info.u32(offset_of!(vfio_region_info, cap_offset));
            let id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
            if let Some(at) = capability(&info, first, id)? {
                region.mappable = sparse_areas(&info, at)?;
            }
        }
    }
    let sound = |area: &Range<u64>| {
        let start = offset.checked_add(area.start);
        let aligned = |value: u64| value.is_multiple_of(PAGE);
        start.is_some_and(aligned)
            && area.start < area.end
            && area.end <= size
            && (aligned(area.end) || area.end == size)
    };
    match region.mappable.iter().all(sound) {
        true => Ok(region),
        false => Err(malformed(
            "mappable areas outside of their region, or not of pages",
        )),
    }
}

/// What can be mapped of a region that has a capability about that.
fn sparse_areas(info: &Argument, at: usize) -> Result<Vec<Range<u64>>, VfioError> {
    let start = at + size_of::<vfio_region_info_cap_sparse_mmap>();
    let count = at + offset_of!(vfio_region_info_cap_sparse_mmap, nr_areas);
    let areas = array(
        info,
        start,
        count,
        size_of::<vfio_region_sparse_mmap_area>(),
    )?;
    areas
        .map(|at| {
            let offset = info.u64(at + offset_of!(vfio_region_sparse_mmap_area, offset))?;
            let size = info.u64(at + offset_of!(vfio_region_sparse_mmap_area, size))?;
            Some(offset..offset.checked_add(size)?)
        })
        .collect::<Option<_>>()
        .ok_or(malformed("mappable areas that do not end"))
}

/// Where the elements of an array are whose length is at `count`.
fn array(
    info: &Argument,
    start: usize,
    count: usize,
    element: usize,
) -> Result<impl Iterator<Item = usize>, VfioError> {
    let count = info
        .u32(count)
        .and_then(|count| usize::try_from(count).ok());
    let end = count.and_then(|count| start.checked_add(count.checked_mul(element)?));
    // The last byte is there: of the array, or of what is before it.
    let last = end.and_then(|end| end.checked_sub(1));
    let inside = end.filter(|_| last.is_some_and(|last| info.get::<1>(last).is_some()));
    let end = inside.ok_or(malformed("a list that is longer than what there is"))?;
    Ok((start..end).step_by(element))
}

/// Where the first capability `id` is. In the kernel's lists, each one is
/// behind the one before, so that none is a loop.
fn capability(info: &Argument, first: Option<u32>, id: u32) -> Result<Option<usize>, VfioError> {
    const END: &str = "a capability outside of what there is";
    let mut next = first.unwrap_or_default() as usize;
    let mut last = 0;
    while next != 0 {
        if next <= last {
            return Err(malformed("a loop of capabilities"));
        }
        last = next;
        let found = next
            .checked_add(offset_of!(vfio_info_cap_header, id))
            .and_then(|at| info.u16(at));
        if u32::from(found.ok_or(malformed(END))?) == id {
            return Ok(Some(next));
        }
        let header = next + offset_of!(vfio_info_cap_header, next);
        next = info.u32(header).ok_or(malformed(END))? as usize;
    }
    // What did not fit is not in the list: nothing, or all of it.
    match info.get::<1>(info.wanted().saturating_sub(1)) {
        Some(_) => Ok(None),
        None => Err(malformed("too many capabilities")),
    }
}

fn vectors(calls: &dyn Calls) -> Result<u16, VfioError> {
    let mut info = Argument::new();
    let index = VFIO_PCI_MSIX_IRQ_INDEX.to_ne_bytes();
    info.set(offset_of!(vfio_irq_info, index), index);
    let asked = calls.device(Request::IrqInfo, &mut info);
    asked.map_err(VfioError::call("VFIO_DEVICE_GET_IRQ_INFO"))?;
    let field = |at| info.u32(at).unwrap_or_default();
    let count = field(offset_of!(vfio_irq_info, count));
    Ok(
        match field(offset_of!(vfio_irq_info, flags)) & VFIO_IRQ_INFO_EVENTFD {
            0 => 0,
            _ => count.min(MAX_VECTORS.into()) as u16,
        },
    )
}

/// An IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// What addresses and lengths are multiples of.
    pub page: u64,
    /// Where memory can be: a range that is long enough.
    pub address: u64,
}

impl Iommu {
    /// Asks for a place for `len` bytes.
    pub fn ask(calls: &dyn Calls, len: u64) -> Result<Self, VfioError> {
        let mut info = Argument::new();
        let asked = calls.iommu(Request::IommuInfo, &mut info);
        asked.map_err(VfioError::call("VFIO_IOMMU_GET_INFO"))?;
        let flags = info.u32(offset_of!(vfio_iommu_type1_info, flags));
        let flags = flags.unwrap_or_default();
        let mut page = PAGE;
        if flags & VFIO_IOMMU_INFO_PGSIZES != 0 {
            let sizes = info.u64(offset_of!(vfio_iommu_type1_info, iova_pgsizes));
            let sizes = sizes.filter(|sizes| *sizes != 0);
            let smallest = sizes.map(|sizes| 1 << sizes.trailing_zeros());
            let smallest = smallest.ok_or(malformed("an IOMMU that has no pages"))?;
            page = page.max(smallest);
        }
        if page > LARGEST_PAGE {
            return Err(malformed("an IOMMU whose pages are too large"));
        }
        let mut ranges = vec![USUAL_RANGE];
        if flags & VFIO_IOMMU_INFO_CAPS != 0 {
            let first = info.u32(offset_of!(vfio_iommu_type1_info, cap_offset));
            let id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
            if let Some(at) = capability(&info, first, id)? {
                ranges = iova_ranges(&info, at)?;
            }
        }
        let place = |range: &Range<u64>| {
            let start = range.start.max(USUAL_RANGE.start);
            let start = start.checked_next_multiple_of(page)?;
            let end = start.checked_add(len.checked_next_multiple_of(page)?)?;
            (end <= range.end).then_some(start)
        };
        let address = ranges.iter().find_map(place);
        let address = address.ok_or(VfioError::NoRange)?;
        Ok(Self { page, address })
    }
}

/// Where devices find memory, and nothing else.
fn iova_ranges(info: &Argument, at: usize) -> Result<Vec<Range<u64>>, VfioError> {
    let start = at + size_of::<vfio_iommu_type1_info_cap_iova_range>();
    let count = at + offset_of!(vfio_iommu_type1_info_cap_iova_range, nr_iovas);
    let ranges = array(info, start, count, size_of::<vfio_iova_range>())?;
    ranges
        .map(|at| {
            let start = info.u64(at + offset_of!(vfio_iova_range, start))?;
            // The last address, which may be the very last that there is.
            let end = info.u64(at + offset_of!(vfio_iova_range, end))?;
            Some(start..end.saturating_add(1))
        })
        .collect::<Option<_>>()
        .ok_or(malformed("address ranges outside of what there is"))
}

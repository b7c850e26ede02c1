// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend for the `vhost` crate that only takes note of what it is asked.

use std::fs::File;

use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
};
use vhost_guest_msg::{
    Config, DeviceState, FrontendRequest as Q, Inflight, Invalid, LogArea, LogBase, MemRegion,
    MemTable, OnlyFd, ProtocolFeatures, Region, RemMemReg, SetInflight, Transfer, VirtioFeatures,
    VringAddr, VringBase, VringEnable, VringFd, VringNum, VringSelect,
};

/// The last request, in the words of this project.
#[derive(Default)]
pub struct Recorder {
    pub seen: Seen,
}

/// What a request was.
#[derive(Debug, Default, PartialEq)]
pub enum Seen {
    /// There was none.
    #[default]
    Nothing,
    /// One with these values.
    Values(Q<()>),
    /// One with values that no value of ours can have.
    Inexpressible,
}

impl Recorder {
    fn note(&mut self, request: Q<()>) -> Result<()> {
        self.seen = Seen::Values(request);
        Ok(())
    }

    fn note_if(&mut self, request: Option<Q<()>>) -> Result<()> {
        self.seen = request.map_or(Seen::Inexpressible, Seen::Values);
        Ok(())
    }
}

fn region(region: &VhostUserMemoryRegion) -> std::result::Result<Region, Invalid> {
    Region::new(
        region.guest_phys_addr,
        region.memory_size,
        region.user_addr,
        region.mmap_offset,
    )
}

fn inflight(inflight: &VhostUserInflight) -> Option<Inflight> {
    let VhostUserInflight {
        mmap_size,
        mmap_offset,
        num_queues,
        queue_size,
    } = *inflight;
    Inflight::new(mmap_size, mmap_offset, num_queues, queue_size).ok()
}

fn index(index: u32) -> Option<u8> {
    index.try_into().ok()
}

impl VhostUserBackendReqHandlerMut for Recorder {
    fn set_owner(&mut self) -> Result<()> {
        self.note(Q::SetOwner)
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.note(Q::ResetOwner)
    }

    fn reset_device(&mut self) -> Result<()> {
        self.note(Q::ResetDevice)
    }

    fn get_features(&mut self) -> Result<u64> {
        self.note(Q::GetFeatures)?;
        Ok(!0)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.note(Q::SetFeatures(VirtioFeatures::from_bits_retain(features)))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        assert_eq!(regions.len(), files.len());
        let entries = regions.iter().map(|r| Ok((region(r)?, ())));
        let table = entries
            .collect::<std::result::Result<_, Invalid>>()
            .and_then(MemTable::new);
        self.note_if(table.ok().map(Q::SetMemTable))?;
        Ok(None)
    }

    fn set_vring_num(&mut self, ring: u32, num: u32) -> Result<()> {
        let num = u16::try_from(num).ok();
        let set = index(ring).zip(num).map(|(i, n)| VringNum::new(i, n));
        self.note_if(set.and_then(|set| set.ok()).map(Q::SetVringNum))
    }

    fn set_vring_addr(
        &mut self,
        ring: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let addr = |index| VringAddr {
            index,
            log_used: flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG),
            descriptor,
            used,
            available,
            log,
        };
        self.note_if(index(ring).map(addr).map(Q::SetVringAddr))
    }

    fn set_vring_base(&mut self, ring: u32, base: u32) -> Result<()> {
        let set = index(ring).map(|index| VringBase { index, base });
        self.note_if(set.map(Q::SetVringBase))
    }

    fn get_vring_base(&mut self, ring: u32) -> Result<VhostUserVringState> {
        let select = index(ring).map(|index| VringSelect { index });
        self.note_if(select.map(Q::GetVringBase))?;
        Ok(VhostUserVringState::new(ring, 0))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = fd.map(drop);
        self.note(Q::SetVringKick(VringFd { index, fd }))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = fd.map(drop);
        self.note(Q::SetVringCall(VringFd { index, fd }))
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = fd.map(drop);
        self.note(Q::SetVringErr(VringFd { index, fd }))
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        self.note(Q::GetProtocolFeatures)?;
        Ok(VhostUserProtocolFeatures::all())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let features = ProtocolFeatures::from_bits_retain(features);
        self.note(Q::SetProtocolFeatures(features))
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        self.note(Q::GetQueueNum)?;
        Ok(1)
    }

    fn set_vring_enable(&mut self, ring: u32, enable: bool) -> Result<()> {
        let set = index(ring).map(|index| VringEnable { index, enable });
        self.note_if(set.map(Q::SetVringEnable))
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        // What the request has for contents is not shown.
        let contents = vec![0; size as usize];
        let config = Config::new(offset, flags.bits(), contents.clone());
        self.note_if(config.ok().map(Q::GetConfig))?;
        Ok(contents)
    }

    fn set_config(&mut self, offset: u32, buf: &[u8], flags: VhostUserConfigFlags) -> Result<()> {
        let config = Config::new(offset, flags.bits(), buf.to_vec());
        self.note_if(config.ok().map(Q::SetConfig))
    }

    fn set_backend_req_fd(&mut self, _: Backend) {
        self.seen = Seen::Values(Q::SetBackendReqFd(OnlyFd { fd: () }));
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        self.note_if(None)
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        self.note_if(None)?;
        Err(Error::InvalidOperation("nothing is shared"))
    }

    fn get_inflight_fd(
        &mut self,
        request: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        self.note_if(inflight(request).map(Q::GetInflightFd))?;
        Ok((*request, File::open("/dev/null").unwrap()))
    }

    fn set_inflight_fd(&mut self, request: &VhostUserInflight, _: File) -> Result<()> {
        let set = inflight(request).and_then(|inflight| SetInflight::new(inflight, ()).ok());
        self.note_if(set.map(Q::SetInflightFd))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        self.note(Q::GetMaxMemSlots)?;
        Ok(1)
    }

    fn add_mem_region(
        &mut self,
        added: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        let add = region(added).map(|region| MemRegion { region, fd: () });
        self.note_if(add.ok().map(Q::AddMemReg))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, removed: &VhostUserSingleMemoryRegion) -> Result<()> {
        let remove = region(removed).map(|region| RemMemReg { region });
        self.note_if(remove.ok().map(Q::RemMemReg))
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        let direction = match direction {
            VhostTransferStateDirection::SAVE => Transfer::Save,
            VhostTransferStateDirection::LOAD => Transfer::Load,
        };
        let state = DeviceState { direction, fd: () };
        self.note(Q::SetDeviceStateFd(state))?;
        Ok(None)
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.note(Q::CheckDeviceState)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.note_if(None)?;
        Ok(VhostUserShMemConfig::default())
    }

    fn set_log_base(&mut self, log: &VhostUserLog, _: File) -> Result<()> {
        let area = LogArea::new(log.mmap_size, log.mmap_offset).ok();
        let shared = area.map(|area| LogBase::Shared { area, fd: () });
        self.note_if(shared.map(Q::SetLogBase))
    }
}

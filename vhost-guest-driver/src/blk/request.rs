// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests (virtio 1.2 §5.2.6).
//!
//! | offset | type | field | |
//! |---|---|---|---|
//! | 0 | le32 | type | device-readable |
//! | 8 | le64 | sector | device-readable |
//! | 16 | u8\[\] | data | either way |
//! | last | u8 | status | device-writable |

use std::io;

use super::config::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, SEG_MAX, SIZE_MAX};
use super::image::Image;
use super::{Blk, SECTOR_SIZE};
use crate::vring::Chain;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// The request may unmap what it zeroes. It need not.
const WRITE_ZEROES_UNMAP: u32 = 1;

/// Data passes through a buffer of at most so much: a request may have more.
const BUFFER_LEN: usize = 256 * 1024;

/// The longest request that segments of the announced number and size make.
/// How many they are is not looked at: buffers may be cut anyhow (virtio 1.2
/// §2.7.4.1).
pub(super) const MAX_DATA_LEN: u64 = SIZE_MAX as u64 * SEG_MAX as u64;

/// What becomes of a request, as its status byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

impl From<io::Error> for Status {
    fn from(_: io::Error) -> Self {
        Self::IoError
    }
}

struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn read(chain: &mut Chain<'_>) -> Option<Self> {
        let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = chain.read_array()?;
        Some(Self {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        })
    }
}

impl Blk {
    /// Carries out a request and sets its status; returns how many bytes
    /// were written from the first writable one on.
    pub(super) fn handle(&mut self, chain: &mut Chain<'_>) -> u32 {
        let Some(data_len) = chain.writable_len().checked_sub(1) else {
            // No room for a status: the driver cannot be told anything.
            return 0;
        };
        let status = match Header::read(chain) {
            Some(header) => self.carry_out(&header, chain, data_len),
            None => Err(Status::IoError),
        };
        // The status is the last byte, wherever the request stopped.
        chain.skip_writable(chain.writable_len().saturating_sub(1));
        match status {
            Ok(data) => {
                chain.write(&[Status::Ok as u8]);
                if data == data_len {
                    data + 1
                } else {
                    data
                }
            }
            Err(status) => {
                chain.write(&[status as u8]);
                u32::from(data_len == 0)
            }
        }
    }

    /// Carries out a request; returns how many bytes of data it wrote.
    fn carry_out(
        &mut self,
        header: &Header,
        chain: &mut Chain<'_>,
        data_len: u32,
    ) -> Result<u32, Status> {
        match header.kind {
            T_IN => self.read(header.sector, chain, data_len).map(|()| data_len),
            T_OUT => self.write(header.sector, chain).map(|()| 0),
            T_FLUSH => self.image.sync().map(|()| 0).map_err(Status::from),
            T_GET_ID => {
                let len = self.id.len().min(data_len as usize);
                let id = self.id.get(..len).unwrap_or(&[]);
                Ok(chain.write(id) as u32)
            }
            T_DISCARD if !self.read_only => self.discard(chain).map(|()| 0),
            T_WRITE_ZEROES if !self.read_only => self.write_zeroes(chain).map(|()| 0),
            _ => Err(Status::Unsupported),
        }
    }

    /// Where `len` bytes of data at `sector` are in the file.
    fn position(&self, sector: u64, len: u64) -> Result<u64, Status> {
        let position = self.image.position(sector, len);
        position.ok_or(Status::IoError)
    }

    /// The same for a request that moves the data, which must not last long.
    pub(super) fn position_of_data(&self, sector: u64, len: u64) -> Result<u64, Status> {
        match len <= MAX_DATA_LEN {
            true => self.position(sector, len),
            false => Err(Status::IoError),
        }
    }

    /// A part of the buffer, as long as the next piece of `rest` bytes.
    fn piece(buffer: &mut Vec<u8>, rest: u64) -> &mut [u8] {
        let len = rest.min(BUFFER_LEN as u64) as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        buffer.get_mut(..len).unwrap_or(&mut [])
    }

    fn read(&mut self, sector: u64, chain: &mut Chain<'_>, len: u32) -> Result<(), Status> {
        let mut rest = u64::from(len);
        let mut position = self.position_of_data(sector, rest)?;
        while rest > 0 {
            let data = Self::piece(&mut self.buffer, rest);
            self.image.read(data, position)?;
            chain.write(data);
            rest -= data.len() as u64;
            position += data.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, chain: &mut Chain<'_>) -> Result<(), Status> {
        let mut rest = u64::from(chain.readable_len());
        let mut position = self.position_of_data(sector, rest)?;
        if self.read_only {
            return Err(Status::IoError);
        }
        while rest > 0 {
            let data = Self::piece(&mut self.buffer, rest);
            chain.read(data);
            self.image.write(data, position)?;
            rest -= data.len() as u64;
            position += data.len() as u64;
        }
        self.settle()
    }

    /// A driver that cannot flush must find each write on stable storage
    /// (virtio 1.2 §5.2.6.2).
    fn settle(&self) -> Result<(), Status> {
        if !self.flushes {
            self.image.sync()?;
        }
        Ok(())
    }

    /// The one segment of a request to discard or to zero, which is what the
    /// configuration allows (virtio 1.2 §5.2.6):
    ///
    /// | offset | type | field |
    /// |---|---|---|
    /// | 0 | le64 | sector |
    /// | 8 | le32 | num_sectors |
    /// | 12 | le32 | flags |
    fn segment(&self, chain: &mut Chain<'_>, most: u32, flags: u32) -> Result<Segment, Status> {
        if chain.readable_len() != 16 {
            return Err(Status::IoError);
        }
        let Some([s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3]) =
            chain.read_array()
        else {
            return Err(Status::IoError);
        };
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let set = u32::from_le_bytes([f0, f1, f2, f3]);
        if set & !flags != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > most {
            return Err(Status::IoError);
        }
        let len = u64::from(sectors) * SECTOR_SIZE;
        Ok(Segment {
            position: self.position(sector, len)?,
            len,
            flags: set,
        })
    }

    /// What is read there later is of no matter, so that nothing need be done
    /// if nothing can be.
    fn discard(&mut self, chain: &mut Chain<'_>) -> Result<(), Status> {
        let Segment { position, len, .. } = self.segment(chain, MAX_DISCARD_SECTORS, 0)?;
        if len > 0 {
            self.cleared += len;
            self.image.clear(position, len, false)?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, chain: &mut Chain<'_>) -> Result<(), Status> {
        let most = MAX_WRITE_ZEROES_SECTORS;
        let segment = self.segment(chain, most, WRITE_ZEROES_UNMAP)?;
        let (position, len) = (segment.position, segment.len);
        let keep = segment.flags & WRITE_ZEROES_UNMAP == 0;
        if len == 0 {
            return Ok(());
        }
        self.cleared += len;
        if !self.image.clear(position, len, keep)? {
            let zeroes = Self::piece(&mut self.buffer, len);
            zeroes.fill(0);
            write_repeatedly(&mut self.image, zeroes, position, len)?;
        }
        self.settle()
    }
}

/// A part of the disk that is discarded or zeroed.
struct Segment {
    position: u64,
    len: u64,
    flags: u32,
}

fn write_repeatedly(image: &mut Image, data: &[u8], mut position: u64, len: u64) -> io::Result<()> {
    let end = position + len;
    while position < end {
        let rest = usize::try_from(end - position).unwrap_or(usize::MAX);
        let part = data.get(..rest.min(data.len())).unwrap_or(data);
        image.write(part, position)?;
        position += part.len() as u64;
    }
    Ok(())
}

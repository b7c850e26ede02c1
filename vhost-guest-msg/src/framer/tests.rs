// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::HeaderFlags;

fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let header = Header {
        code,
        flags: HeaderFlags::empty(),
        size: u32::try_from(body.len()).unwrap(),
    };
    [header.emit(Endian::Little).as_slice(), body].concat()
}

/// Number, payload, count of descriptors.
type Seen = (u32, Vec<u8>, usize);

fn framer() -> Framer<u8> {
    Framer::new(Endian::Little, &Limits::default())
}

/// Feeds `bytes` in reads of at most `chunk`, `fds` with the first.
fn feed(
    framer: &mut Framer<u8>,
    mut bytes: &[u8],
    chunk: usize,
    mut fds: Fds<u8>,
) -> Result<Vec<Seen>, FrameError<u8>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let space = framer.space();
        let count = space.len().min(chunk).min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        match framer.advance(count, core::mem::take(&mut fds))? {
            Progress::More => {}
            Progress::Frame(Frame { header, body, fds }) => {
                frames.push((header.code, body.to_vec(), fds.len()));
            }
        }
    }
    Ok(frames)
}

#[test]
fn cuts_the_same_at_every_chunk_size() {
    let bytes = [message(1, &[]), message(2, &[7; 8]), message(3, &[])].concat();
    for chunk in 1..=bytes.len() {
        let frames = feed(&mut framer(), &bytes, chunk, (0..2).collect()).unwrap();
        let expected = [(1, vec![], 2), (2, vec![7; 8], 0), (3, vec![], 0)];
        assert_eq!(frames, expected);
    }
}

#[test]
fn wants_the_header_then_the_payload() {
    let mut framer = framer();
    assert_eq!(framer.space().len(), 12);
    framer.space().copy_from_slice(&message(5, &[0; 100])[..12]);
    assert!(!framer.is_inside_message());
    framer.advance(12, Fds::new()).unwrap();
    assert_eq!(framer.space().len(), 100);
    assert!(framer.is_inside_message());
}

#[test]
fn rejects_descriptors_in_the_middle_and_returns_all() {
    let bytes = message(5, &[0; 8]);
    for at in 1..bytes.len() {
        let mut framer = framer();
        feed(&mut framer, &bytes[..at], 64, Fds::one(1)).unwrap();
        let error = framer.advance(0, Fds::one(2)).unwrap_err();
        assert_eq!(error.reason(), FrameReason::LateFds);
        assert_eq!(error.into_fds().as_slice(), [1, 2]);
    }
}

#[test]
fn rejects_a_wrong_header_and_returns_the_descriptors() {
    let mut bytes = message(1, &[]);
    bytes[4] = 2;
    let error = feed(&mut framer(), &bytes, 12, Fds::one(1)).unwrap_err();
    assert!(matches!(error.reason(), FrameReason::Header(_)));
    assert_eq!(error.into_fds().len(), 1);
}

#[test]
fn accepts_the_largest_message_and_no_larger() {
    let largest = message(5, &[0; 4084]);
    assert_eq!(
        feed(&mut framer(), &largest, 4096, Fds::new())
            .unwrap()
            .len(),
        1
    );
    for size in [4085, u32::MAX] {
        let mut bytes = message(5, &[]);
        bytes[8..].copy_from_slice(&size.to_le_bytes());
        let error = feed(&mut framer(), &bytes, 12, Fds::new()).unwrap_err();
        assert_eq!(error.reason(), FrameReason::TooLarge { code: 5, size });
        assert!(decode_whole(&bytes, Endian::Little, &Limits::default()).is_err());
    }
}

#[test]
fn a_count_beyond_the_space_is_not_believed() {
    let mut framer = framer();
    framer.space().copy_from_slice(&message(5, &[0; 8])[..12]);
    assert!(matches!(
        framer.advance(usize::MAX, Fds::new()),
        Ok(Progress::More)
    ));
    assert_eq!(framer.space().len(), 8);
}

#[test]
fn a_queue_buffer_holds_exactly_one_message() {
    let limits = Limits::default();
    let bytes = message(2, &[3; 8]);
    let frame = decode_whole(&bytes, Endian::Little, &limits).unwrap();
    assert_eq!((frame.header.code, frame.body), (2, &[3; 8][..]));
    for len in 0..bytes.len() {
        let error = decode_whole(&bytes[..len], Endian::Little, &limits).unwrap_err();
        assert_eq!(error, FrameReason::Truncated(len));
    }
    let longer = [&bytes[..], &[0]].concat();
    let error = decode_whole(&longer, Endian::Little, &limits).unwrap_err();
    assert_eq!(error, FrameReason::Trailing(1));
}

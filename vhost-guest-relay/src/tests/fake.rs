// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device that is a bundle of sockets, and a service on it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::{
    sendmsg, socketpair, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType,
};
use vhost_guest_driver::module::Notification;
use vhost_guest_driver::Status;
use vhost_guest_msg::{
    decode_whole, Context, Endian, Fds, Frame, FrontendRequest, Header, Inflight, Limits, Message,
    ProtocolFeatures, Reply, ReplyShape, VirtioFeatures, HEADER_SIZE,
};

use super::wire::{datagram, encode, receive, until_full, wait};
use crate::device::Device;
use crate::peer::Peer;
use crate::service::Service;

const QUEUES: u16 = 8;

/// What was written to an eventfd since it was read.
pub fn count_of(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(eventfd, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::AGAIN);
            0
        }
    }
}

/// All eventfds share an inode: only what is written tells them apart.
pub fn is_same_eventfd(one: &OwnedFd, other: &OwnedFd) -> bool {
    count_of(one);
    count_of(other);
    rustix::io::write(one, &1u64.to_ne_bytes()).unwrap();
    count_of(other) == 1
}

/// A device file whose other side is the test. Datagrams are messages.
struct Fake {
    messages: OwnedFd,
    requests: OwnedFd,
    state: OwnedFd,
    news: OwnedFd,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    status: Mutex<(bool, bool)>,
    resets: AtomicU64,
    reads: AtomicU64,
    connected: Mutex<HashMap<String, Option<OwnedFd>>>,
    rung: Mutex<Vec<String>>,
    regions: Mutex<Vec<(u64, u64)>>,
    log: Mutex<Vec<String>>,
}

impl Device for Fake {
    fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    fn news(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.news.as_fd(), PollFlags::IN)
    }

    fn read(&self, message: &mut [u8]) -> io::Result<usize> {
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        Ok(rustix::io::read(&self.messages, message)?)
    }

    fn write(&self, message: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.messages, message)?)
    }

    fn status(&self) -> io::Result<Status> {
        let (backend_up, needs_reset) = *self.shared.status.lock().unwrap();
        Ok(Status {
            needs_reset,
            backend_up,
            frontend_up: backend_up && !needs_reset,
        })
    }

    fn reset(&self) -> io::Result<()> {
        // What was under way is lost, as in virtqueues.
        let mut buffer = [0; 8];
        while rustix::io::read(&self.messages, &mut buffer).is_ok() {}
        let _ = rustix::io::read(&self.news, &mut buffer);
        *self.shared.status.lock().unwrap() = (false, false);
        self.shared.resets.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn set_device_type(&self, device_type: u16) -> io::Result<()> {
        assert_eq!(device_type, 2);
        Ok(())
    }

    fn set_backend_up(&self, up: bool) -> io::Result<()> {
        self.shared.status.lock().unwrap().0 = up;
        Ok(())
    }

    fn connect(&self, what: Notification, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let eventfd = eventfd.map(|fd| fd.try_clone_to_owned()).transpose()?;
        // What was signalled before is heard, as in the kernel driver.
        if eventfd.as_ref().is_some_and(|fd| count_of(fd) > 0) {
            self.shared.rung.lock().unwrap().push(format!("{what:?}"));
        }
        let mut connected = self.shared.connected.lock().unwrap();
        connected.insert(format!("{what:?}"), eventfd);
        Ok(())
    }

    fn open_region(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        self.shared.regions.lock().unwrap().push((offset, size));
        let file = memfd_create("region", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size)?;
        Ok(file)
    }

    fn open_backend(&self) -> io::Result<File> {
        Ok(self.requests.try_clone()?.into())
    }

    fn open_state(&self) -> io::Result<Option<File>> {
        Ok(Some(self.state.try_clone()?.into()))
    }

    fn max_queues(&self) -> u16 {
        QUEUES
    }

    fn max_message_size(&self) -> usize {
        Limits::default().max_message_size
    }

    fn state_piece(&self) -> usize {
        4096
    }

    fn device_type(&self) -> u16 {
        0
    }
}

fn datagrams() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap()
}

/// A service in a thread, with all that it is connected to.
pub struct Rig {
    messages: OwnedFd,
    requests: OwnedFd,
    state: OwnedFd,
    news: OwnedFd,
    shared: Arc<Shared>,
    listener: UnixListener,
    path: PathBuf,
    backend: UnixStream,
    context: Context,
    stop: Option<UnixStream>,
    service: Option<JoinHandle<()>>,
}

impl Rig {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vhost-guest-relay-{}-{count}.socket", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let ((messages, ours), (requests, of_backend), (state, of_state)) =
            (datagrams(), datagrams(), datagrams());
        let news = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let shared = Arc::new(Shared::default());
        let fake = Fake {
            messages,
            requests,
            state,
            news: news.try_clone().unwrap(),
            shared: shared.clone(),
        };
        let (stop, stopped) = UnixStream::pair().unwrap();
        let peer = Peer::Connect(path.clone());
        let logged = shared.clone();
        let service = thread::spawn(move || {
            let service = Service {
                device: &fake,
                peer: &peer,
                device_type: Some(2),
                // Another test's file, since the backend is this process.
                allow_direct: true,
                stop: stopped.as_fd(),
                log: &|line| logged.log.lock().unwrap().push(line.to_owned()),
            };
            service.run().unwrap();
        });
        let (backend, _) = listener.accept().unwrap();
        Self {
            messages: ours,
            requests: of_backend,
            state: of_state,
            news,
            shared,
            listener,
            path,
            backend,
            context: Context::default(),
            stop: Some(stop),
            service: Some(service),
        }
    }

    /// The backend of the session after this one.
    pub fn next_session(&mut self) {
        // The relay waits for the end of the last one, and says before that
        // nothing comes any more.
        while (&self.backend)
            .read(&mut [0; 4096])
            .is_ok_and(|read| read > 0)
        {}
        self.backend_ends();
        self.backend = self.listener.accept().unwrap().0;
        self.context = Context::default();
    }

    /// Lets both sides know that some features were negotiated.
    pub fn negotiate(&mut self, features: ProtocolFeatures) {
        let acked = VirtioFeatures::PROTOCOL_FEATURES;
        self.frontend_sends(&FrontendRequest::SetFeatures(acked));
        self.frontend_sends(&FrontendRequest::SetProtocolFeatures(features));
        for _ in 0..2 {
            let (request, _) = self.backend_receives();
            self.context.observe(&request);
        }
    }

    pub fn frontend_sends(&mut self, request: &FrontendRequest<()>) {
        self.frontend_sends_bytes(&request.to_vec(false, Endian::NATIVE));
    }

    pub fn frontend_sends_bytes(&mut self, bytes: &[u8]) {
        wait(&self.messages, PollFlags::OUT);
        rustix::io::write(&self.messages, bytes).unwrap();
    }

    /// Sends as often as the device, the relay and the socket take it while
    /// nobody reads.
    pub fn frontend_sends_until_full(&mut self, request: &FrontendRequest<()>) -> u64 {
        let bytes = request.to_vec(false, Endian::NATIVE);
        until_full(|| rustix::io::write(&self.messages, &bytes).is_ok())
    }

    pub fn frontend_receives(&mut self, code: u32) -> Reply {
        self.frontend_receives_as(code, ReplyShape::U64)
    }

    pub fn frontend_receives_config(&mut self, size: usize) -> Reply {
        self.frontend_receives_as(24, ReplyShape::Config { size })
    }

    pub fn frontend_receives_base(&mut self) -> Reply {
        self.frontend_receives_as(11, ReplyShape::VringBase)
    }

    pub fn frontend_receives_inflight(&mut self) -> Inflight {
        match self.frontend_receives_as(31, ReplyShape::Inflight) {
            Reply::Inflight(inflight) => inflight,
            other => panic!("{other:?}"),
        }
    }

    fn frontend_receives_as(&mut self, code: u32, shape: ReplyShape) -> Reply {
        let limits = Limits::default();
        let bytes = datagram(&self.messages);
        let frame = decode_whole(&bytes, Endian::NATIVE, &limits).unwrap();
        assert_eq!(frame.header.code, code);
        Reply::decode(shape, frame.body, Endian::NATIVE, &limits).unwrap()
    }

    pub fn frontend_ends(&mut self) {
        self.shared.status.lock().unwrap().1 = true;
        rustix::io::write(&self.news, &1u64.to_ne_bytes()).unwrap();
    }

    /// The next request and its descriptors.
    pub fn backend_receives(&mut self) -> (FrontendRequest<()>, Vec<OwnedFd>) {
        let (message, fds) = self.backend_receives_message();
        (message.request, fds)
    }

    /// The next request, and whether it wants to be acknowledged.
    pub fn backend_receives_flagged(&mut self) -> (FrontendRequest<()>, bool) {
        let (message, _) = self.backend_receives_message();
        (message.request, message.need_reply)
    }

    fn backend_receives_message(&mut self) -> (Message<FrontendRequest<()>>, Vec<OwnedFd>) {
        let mut header = [0; HEADER_SIZE];
        let fds = receive(&self.backend, &mut header);
        let header = Header::parse(&header, Endian::NATIVE).unwrap();
        let mut body = vec![0; header.size as usize];
        (&self.backend).read_exact(&mut body).unwrap();
        let frame = Frame {
            header,
            body: &body,
            fds: fds.into_iter().collect::<Fds<OwnedFd>>(),
        };
        let decoded =
            FrontendRequest::decode(frame, Endian::NATIVE, &Limits::default(), &self.context);
        let Message {
            request,
            need_reply,
        } = decoded.unwrap();
        let (request, fds) = request.detach();
        let message = Message {
            request,
            need_reply,
        };
        (message, fds.into_iter().collect())
    }

    pub fn backend_replies(&mut self, code: u32, reply: &Reply) {
        self.backend_replies_with(code, reply, &[]);
    }

    pub fn backend_replies_with(&mut self, code: u32, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let bytes = encode(code, reply);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = sendmsg(
            &self.backend,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent, Ok(bytes.len()));
    }

    pub fn backend_sends_bytes(&mut self, bytes: &[u8]) {
        self.backend.write_all(bytes).unwrap();
    }

    pub fn backend_ends(&mut self) {
        // It may have ended before.
        let _ = self.backend.shutdown(std::net::Shutdown::Both);
    }

    /// Whether the relay leaves the backend, which then ends the connection, too;
    /// it sends nothing before.
    pub fn backend_was_left(&mut self) -> bool {
        let left = self.backend_is_told_to_end();
        self.backend_ends();
        left
    }

    /// Whether the relay says that nothing comes any more.
    pub fn backend_is_told_to_end(&mut self) -> bool {
        wait(&self.backend, PollFlags::IN);
        (&self.backend).read(&mut [0]).unwrap() == 0
    }

    /// That nothing comes, after the relay had every chance to send it: it has
    /// passed on another thing since.
    pub fn backend_has_nothing(&mut self) -> bool {
        self.device_answers_nothing_for_a_while();
        let mut fds = [PollFd::new(&self.backend, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 0
    }

    fn device_answers_nothing_for_a_while(&self) {
        let reads = self.device_reads();
        for _ in 0..1000 {
            if self.device_reads() != reads {
                return;
            }
            thread::yield_now();
        }
    }

    pub fn device_takes_backend_request(&mut self) -> Vec<u8> {
        datagram(&self.requests)
    }

    pub fn device_answers_backend(&mut self, reply: &[u8]) {
        rustix::io::write(&self.requests, reply).unwrap();
    }

    pub fn device_gives_state(&mut self, piece: &[u8]) {
        rustix::io::write(&self.state, piece).unwrap();
    }

    pub fn device_takes_state(&mut self) -> Vec<u8> {
        datagram(&self.state)
    }

    pub fn regions_opened(&self) -> Vec<(u64, u64)> {
        self.shared.regions.lock().unwrap().clone()
    }

    pub fn connected(&self, what: Notification) -> Option<OwnedFd> {
        let connected = self.shared.connected.lock().unwrap();
        let found = connected
            .get(&format!("{what:?}"))
            .expect("never connected");
        found.as_ref().map(|fd| fd.try_clone().unwrap())
    }

    /// The doorbells that were rung since the last question.
    pub fn rung(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.rung.lock().unwrap())
    }

    /// What the log said since the last question.
    pub fn logged(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.log.lock().unwrap())
    }

    /// Gives the backend a channel for requests of its own: its end.
    pub fn opens_channel(&mut self) -> UnixStream {
        let request = FrontendRequest::SetBackendReqFd(vhost_guest_msg::OnlyFd { fd: () });
        self.frontend_sends(&request);
        self.backend_receives().1.remove(0).into()
    }

    pub fn is_backend_up(&self) -> bool {
        self.shared.status.lock().unwrap().0
    }

    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::Relaxed)
    }

    pub fn device_reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop = None;
        // The relay waits for its end.
        let _ = self.backend.shutdown(std::net::Shutdown::Both);
        let ended = self.service.take().unwrap().join();
        std::fs::remove_file(&self.path).unwrap();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

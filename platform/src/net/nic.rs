//! Frames to and from the virtio-net device (virtio 1.2, section 5.1).
//!
//! Every buffer holds one frame behind the device's header and takes one descriptor. A buffer is either
//! with the device (`receiving`, `sending`, by token) or here. Nothing the device writes is trusted: a token
//! that is not in flight ends the device, a length that is impossible drops the frame.

use alloc::boxed::Box;
use alloc::vec::Vec;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, Transport as _};

use super::OpenError;
use crate::virtio::{DmaHal, Transport};

const QUEUE_SIZE: usize = 256;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Feature bits (virtio 1.2, 5.1.3 and 6). No offloads: QEMU's user network has none, and they would trust
/// the device with checksums.
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_VERSION_1: u64 = 1 << 32;

/// `struct virtio_net_hdr`; all zero means: nothing special.
const HEADER_BYTES: usize = 12;
pub(super) const ETHERNET_HEADER_BYTES: usize = 14;
/// Largest IP packet.
pub(super) const IP_MTU: usize = 1500;
pub(super) const FRAME_BYTES_MAX: usize = ETHERNET_HEADER_BYTES + IP_MTU;

/// Largest frame and header, rounded up so that no buffer crosses a page.
const BUFFER_BYTES: usize = 2048;
type FrameMemory = Box<[u8; BUFFER_BYTES]>;

/// A frame that came in; give it back with [`Nic::recycle`].
pub(super) struct Received {
    memory: FrameMemory,
    end: usize,
}

impl Received {
    pub(super) fn frame(&self) -> &[u8] {
        self.memory.get(HEADER_BYTES..self.end).unwrap_or_default()
    }
}

#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub(super) struct Nic {
    transport: Transport,
    mac: [u8; 6],
    receive: VirtQueue<DmaHal, QUEUE_SIZE>,
    transmit: VirtQueue<DmaHal, QUEUE_SIZE>,
    /// Buffers with the device, by token.
    receiving: Vec<Option<FrameMemory>>,
    /// With the length of header and frame.
    sending: Vec<Option<(FrameMemory, usize)>>,
    /// Buffers to send with.
    free: Vec<FrameMemory>,
    /// Whether the device has to be told of new buffers.
    notify_receive: bool,
    notify_transmit: bool,
    /// Whether somebody was refused a buffer to send with, and waits for one.
    starved: bool,
    gone: bool,
}

fn buffer() -> Result<FrameMemory, OpenError> {
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(BUFFER_BYTES)
        .map_err(|_| OpenError::OutOfMemory)?;
    memory.resize(BUFFER_BYTES, 0);
    memory
        .into_boxed_slice()
        .try_into()
        .map_err(|_| OpenError::OutOfMemory)
}

impl Nic {
    /// Sets up the device. `seed` makes an address for one that has none.
    pub(super) fn new(mut transport: Transport, seed: [u64; 2]) -> Result<Self, OpenError> {
        use DeviceStatus as Status;
        transport.set_status(Status::empty());
        transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
        let features = transport.read_device_features() & (FEATURE_MAC | FEATURE_VERSION_1);
        if features & FEATURE_VERSION_1 == 0 {
            return Err(OpenError::Broken);
        }
        transport.write_driver_features(features);
        transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK);
        if !transport.get_status().contains(Status::FEATURES_OK) {
            return Err(OpenError::Broken);
        }
        let mac = if features & FEATURE_MAC != 0 {
            transport
                .read_config_space::<[u8; 6]>(0)
                .map_err(|_| OpenError::Broken)?
        } else {
            let mut mac = [0x02; 6]; // locally administered
            for (place, byte) in mac
                .iter_mut()
                .skip(1)
                .zip(seed.into_iter().flat_map(u64::to_be_bytes))
            {
                *place = byte;
            }
            mac
        };
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(OpenError::Broken);
        }
        let queue = |transport: &mut Transport, index| {
            VirtQueue::new(transport, index, false, false).map_err(|error| match error {
                virtio_drivers::Error::DmaError => OpenError::OutOfMemory,
                _ => OpenError::Broken,
            })
        };
        let receive = queue(&mut transport, RECEIVE)?;
        let transmit = queue(&mut transport, TRANSMIT)?;
        transport.finish_init();

        let mut nic = Self {
            transport,
            mac,
            receive,
            transmit,
            receiving: (0..QUEUE_SIZE).map(|_| None).collect(),
            sending: (0..QUEUE_SIZE).map(|_| None).collect(),
            free: (0..QUEUE_SIZE)
                .map(|_| buffer())
                .collect::<Result<_, _>>()?,
            notify_receive: false,
            notify_transmit: false,
            starved: false,
            gone: false,
        };
        // Sent buffers are looked for when the next one is wanted; see `wants_buffer`.
        nic.transmit.set_dev_notify(false);
        for _ in 0..QUEUE_SIZE {
            let memory = buffer()?;
            nic.recycle(Received { memory, end: 0 });
        }
        nic.notify();
        Ok(nic)
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The next frame that came in.
    pub(super) fn receive(&mut self) -> Option<Received> {
        while !self.gone {
            let token = self.receive.peek_used()?;
            let Some(mut memory) = self
                .receiving
                .get_mut(usize::from(token))
                .and_then(Option::take)
            else {
                self.end_device();
                return None;
            };
            // SAFETY: `recycle` added the same memory when it got this token.
            let popped = unsafe {
                self.receive
                    .pop_used(token, &[], &mut [memory.as_mut_slice()])
            };
            let Ok(len) = popped else {
                core::mem::forget(memory); // whose it is, is not known any more
                self.end_device();
                return None;
            };
            let end = len as usize;
            let received = Received { memory, end };
            if (HEADER_BYTES + ETHERNET_HEADER_BYTES..=BUFFER_BYTES).contains(&end) {
                return Some(received);
            }
            self.recycle(received);
        }
        None
    }

    /// Gives a buffer back to the device to receive with.
    pub(super) fn recycle(&mut self, received: Received) {
        if self.gone {
            return;
        }
        let mut memory = received.memory;
        // SAFETY: the memory goes into `receiving` and stays there untouched until the token is popped.
        let added = unsafe { self.receive.add(&[], &mut [memory.as_mut_slice()]) };
        let place = added
            .ok()
            .and_then(|token| self.receiving.get_mut(usize::from(token)));
        if let Some(place) = place {
            *place = Some(memory);
            self.notify_receive = true;
        } else {
            core::mem::forget(memory);
            self.end_device();
        }
    }

    /// Stops or lets through interrupts for frames that come in. When letting them through, look for frames
    /// once more: one may have come before.
    pub(super) fn interrupt_on_receive(&mut self, enable: bool) {
        self.receive.set_dev_notify(enable);
    }

    /// Whether there is something to receive.
    pub(super) fn has_received(&self) -> bool {
        !self.gone && self.receive.can_pop()
    }

    /// How many frames could be sent now.
    pub(super) fn sendable(&mut self) -> usize {
        if self.free.len() < QUEUE_SIZE / 2 {
            self.reclaim();
        }
        self.free.len()
    }

    /// Somebody has a frame and no buffer: interrupt when one comes back.
    pub(super) fn wants_buffer(&mut self) {
        self.starved = true;
        self.transmit.set_dev_notify(true);
        self.reclaim(); // one may have come back before
    }

    /// Whether somebody waits for a buffer and there is one.
    pub(super) fn relieved(&mut self) -> bool {
        if !self.starved {
            return false;
        }
        self.reclaim();
        if self.free.len() < QUEUE_SIZE / 4 && !self.gone {
            return false;
        }
        self.starved = false;
        self.transmit.set_dev_notify(false);
        true
    }

    /// Takes back buffers that were sent.
    fn reclaim(&mut self) {
        while !self.gone
            && let Some(token) = self.transmit.peek_used()
        {
            let Some((memory, end)) = self
                .sending
                .get_mut(usize::from(token))
                .and_then(Option::take)
            else {
                self.end_device();
                return;
            };
            let sent = memory.get(..end).unwrap_or_default();
            // SAFETY: `send` added the same memory when it got this token.
            let popped = unsafe { self.transmit.pop_used(token, &[sent], &mut []) };
            if popped.is_err() {
                core::mem::forget(memory);
                self.end_device();
                return;
            }
            self.free.push(memory);
        }
    }

    /// Sends a frame of `len` bytes that `fill` writes. Without a buffer ([`sendable`](Self::sendable)) the
    /// frame is lost, as frames may be.
    pub(super) fn send<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let len = len.min(FRAME_BYTES_MAX);
        let mut scratch;
        let Some(mut memory) = (if self.gone { None } else { self.free.pop() }) else {
            scratch = [0; FRAME_BYTES_MAX];
            return fill(scratch.get_mut(..len).unwrap_or_default());
        };
        let end = HEADER_BYTES + len;
        let result = match memory.get_mut(..end) {
            Some(bytes) => {
                let (header, frame) = bytes.split_at_mut(HEADER_BYTES);
                header.fill(0);
                fill(frame)
            }
            None => fill(&mut []),
        };
        let sent = memory.get(..end).unwrap_or_default();
        // SAFETY: the memory goes into `sending` and stays there untouched until the token is popped.
        let added = unsafe { self.transmit.add(&[sent], &mut []) };
        match added
            .ok()
            .and_then(|token| self.sending.get_mut(usize::from(token)))
        {
            Some(place) => {
                *place = Some((memory, end));
                self.notify_transmit = true;
            }
            None => self.end_device(),
        }
        result
    }

    /// Tells the device of everything that was sent and recycled.
    pub(super) fn notify(&mut self) {
        if self.gone {
            return;
        }
        if core::mem::take(&mut self.notify_receive) && self.receive.should_notify() {
            self.transport.notify(RECEIVE);
        }
        if core::mem::take(&mut self.notify_transmit) && self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
    }

    /// The device broke the rules: it is reset, and there is no network any more.
    fn end_device(&mut self) {
        self.gone = true;
        self.transport.set_status(DeviceStatus::empty());
        crate::println!("the network device broke the virtio rules and was reset: no network");
    }
}

//! Lines to the operator, and one thing back: Ctrl-C.
//!
//! What ArceOS's runtime prints while it boots is kept aside and shown only if the boot fails; the operator
//! sees what Siltstone itself says.

use core::fmt::{self, Write};
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Poll, Waker};

use crate::arch;
use crate::interrupt::{self, OneCore};

/// End of text: what a terminal sends for Ctrl-C.
const CTRL_C: u8 = 0x03;
/// Bytes of the runtime's own messages that are kept.
const BOOT_LOG_BYTES: usize = 2048;

static RUNNING: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WAITER: OneCore<Option<Waker>> = OneCore::new(None);
static BOOT_LOG: spin::Mutex<BootLog> = spin::Mutex::new(BootLog::new());

/// The last bytes the runtime wrote before the system ran.
struct BootLog {
    bytes: [u8; BOOT_LOG_BYTES],
    written: usize,
}

impl BootLog {
    const fn new() -> Self {
        Self {
            bytes: [0; BOOT_LOG_BYTES],
            written: 0,
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.written % BOOT_LOG_BYTES) {
            *slot = byte;
        }
        self.written += 1;
    }

    fn show(&self) {
        for position in self.written.saturating_sub(BOOT_LOG_BYTES)..self.written {
            if let Some(&byte) = self.bytes.get(position % BOOT_LOG_BYTES) {
                write_byte(byte);
            }
        }
    }
}

/// Messages of ArceOS: held back while it boots, shown from then on (it then only speaks when it panics).
pub(crate) fn write_from_runtime(bytes: &[u8]) {
    if RUNNING.load(Ordering::Relaxed) {
        bytes.iter().copied().for_each(write_byte);
    } else if let Some(mut log) = BOOT_LOG.try_lock() {
        bytes.iter().copied().for_each(|byte| log.push(byte));
    }
}

/// Shows what was held back, for a boot that failed.
pub(crate) fn show_boot_log() {
    if !RUNNING.load(Ordering::Relaxed)
        && let Some(log) = BOOT_LOG.try_lock()
    {
        log.show();
    }
}

pub(crate) fn init() {
    arch::uart_listen();
    interrupt::listen_to_console();
    RUNNING.store(true, Ordering::Relaxed);
}

fn write_byte(byte: u8) {
    if byte == b'\n' {
        arch::uart_write(b'\r');
    }
    arch::uart_write(byte);
}

/// Called by the interrupt handler.
pub(crate) fn drain_input() {
    while let Some(byte) = arch::uart_read() {
        if byte == CTRL_C {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    }
}

/// Called by the executor after the console's interrupt.
pub(crate) fn wake_waiter() {
    if INTERRUPTED.load(Ordering::Relaxed)
        && let Some(waker) = WAITER.with(Option::take)
    {
        waker.wake();
    }
}

/// Completes when the operator has pressed Ctrl-C since the system started. For one task.
pub fn interrupt() -> impl Future<Output = ()> {
    poll_fn(|context| {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        WAITER.with(|waiter| *waiter = Some(context.waker().clone()));
        Poll::Pending
    })
}

/// Writes formatted text; see [`println!`](crate::println).
pub fn print(text: fmt::Arguments<'_>) {
    struct Console;
    impl Write for Console {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.bytes().for_each(write_byte);
            Ok(())
        }
    }
    // `Console` never fails; a `Display` that does has nobody to report to.
    let _ = Console.write_fmt(text);
}

/// Prints a line on the console. Waits for the UART: for the few lines an operator should see.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($arg)*)))
    };
}

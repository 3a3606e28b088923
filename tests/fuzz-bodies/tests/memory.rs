//! How much memory images take that somebody made to take much.
//!
//! Invariants: whatever is on a disk, mounting it, reading it, writing to it, checking, dumping and repairing it take no more than
//! [`BYTES_MAX`] at once, and ask for no more than [`REQUEST_BYTES_MAX`] in one piece: what numbers on the disk say is no reason to ask
//! for memory. The simulated disk, which is 2.5 MiB large and remembers what it was before, is counted, too.
//!
//! The only test of its program: another one at the same time would be counted as well.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use fuzz_bodies::{fsck, mount};
use lfs::sim::Damage;
use tests::seed;

const BYTES_MAX: usize = 12 << 20;
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Scripts of damage of each kind, for each body.
const SCRIPTS: usize = 200;

/// What is done with an input.
type Body = fn(&[u8]);

/// The allocator of the system, and what is asked of it.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is handed on to the system's allocator as it came, which keeps the contract; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Also what is then refused was asked for.
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's layout, of which the caller vouches that it is not empty.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
            PEAK.fetch_max(now, Ordering::Relaxed);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller got it from `alloc` with this layout, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What something takes beyond what was taken before: bytes at once, and in one piece.
fn cost_of(body: impl FnOnce()) -> (usize, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    LARGEST.store(0, Ordering::Relaxed);
    body();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    (peak, LARGEST.load(Ordering::Relaxed))
}

#[test]
fn an_image_takes_no_more_memory_because_it_says_so() {
    let mut rng = seed::rng();
    let bodies: [(&str, Body); 2] = [
        ("fsck", |input| {
            fsck::run(input);
        }),
        ("mount", |input| {
            // Refused or not, it is the way there that counts.
            let _ = mount::run(input);
        }),
    ];
    for (name, body) in bodies {
        // The first time the disk in use is made, too.
        body(&[1]);
        let sound = cost_of(|| body(&[1]));
        let mut most = (0, 0);
        let mut examine = |input: &[u8]| {
            let (peak, largest) = cost_of(|| body(input));
            assert!(
                peak <= BYTES_MAX && largest <= REQUEST_BYTES_MAX,
                "{name}: {peak} bytes, {largest} in one piece: {input:?}"
            );
            most = (most.0.max(peak), most.1.max(largest));
        };
        // Large numbers wherever there can be one in the superblock and in the heads of both checkpoints.
        for block in [0_u8, 16, 23] {
            for offset in (0_u16..504).step_by(4) {
                let [high, low] = offset.to_be_bytes();
                for power in [31, 45] {
                    examine(&[3, 0, 0, 0, block * 8, 0, high, low, power, 0, 0, 0]);
                }
            }
        }
        for kind in [1, 2, 3] {
            for _ in 0..SCRIPTS {
                let steps = rng.usize(1..6);
                let mut script = vec![0; 1 + steps * Damage::BYTES];
                rng.fill(&mut script);
                script[0] = kind;
                for step in script[1..].chunks_exact_mut(Damage::BYTES) {
                    // Mostly bytes, and half of them in the head of the disk.
                    if rng.u8(..) < 220 {
                        step[0] = 0;
                    }
                    if rng.bool() {
                        step[1..3].fill(0);
                    }
                }
                examine(&script);
            }
        }
        for _ in 0..20 {
            let mut noise = vec![0; rng.usize(1..100_000)];
            rng.fill(&mut noise);
            noise[0] = 0;
            examine(&noise);
        }
        println!("{name}: {sound:?} bytes of a sound image, {most:?} of a damaged one");
    }
}

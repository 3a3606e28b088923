//! Making checksums right again after damage, so that only sense can catch it.

use std::sync::OnceLock;

use lfs::BLOCK_SIZE;

/// Makes the checksums of all structures right, and those that name them.
pub(crate) fn forge(disk: &mut [u8]) {
    for at in (0..disk.len()).step_by(BLOCK_SIZE) {
        let rest = disk.get_mut(at..).unwrap_or_default();
        match rest.get(..4) {
            Some(b"SiTb") => set_checksum(rest, 4, 8..BLOCK_SIZE),
            Some(b"SiGr" | b"SiSv") => {
                let (data, records) = (number(rest, 68), number(rest, 76));
                let data = 160..160_usize.saturating_add(data);
                let records = data.end..data.end.saturating_add(records);
                set_checksum(rest, 72, data);
                set_checksum(rest, 84, records);
                set_checksum(rest, 4, 8..160);
            }
            _ => {}
        }
    }
    // Nodes are named with their checksums, up to the checkpoint.
    for _ in 0..6 {
        let mut renamed = Vec::new();
        for at in (0..disk.len()).step_by(BLOCK_SIZE) {
            let node = disk.get_mut(at..at + BLOCK_SIZE).unwrap_or_default();
            if !node.starts_with(b"SiTn") {
                continue;
            }
            let mut name = ((at / BLOCK_SIZE) as u64).to_le_bytes().to_vec();
            let mut new = name.clone();
            name.extend_from_slice(node.get(4..8).unwrap_or_default());
            set_checksum(node, 4, 8..BLOCK_SIZE);
            new.extend_from_slice(node.get(4..8).unwrap_or_default());
            if name != new {
                renamed.push((name, new));
            }
        }
        if renamed.is_empty() {
            break;
        }
        for block in disk.chunks_exact_mut(BLOCK_SIZE) {
            if !(block.starts_with(b"SiTn") || block.starts_with(b"SiCp")) {
                continue;
            }
            for (name, new) in &renamed {
                let found = block.windows(12).position(|window| window == name);
                if let Some(target) = found.and_then(|at| block.get_mut(at..at + 12)) {
                    target.copy_from_slice(new);
                }
            }
        }
    }
    for at in (0..disk.len()).step_by(BLOCK_SIZE) {
        let rest = disk.get_mut(at..).unwrap_or_default();
        match rest.get(..8) {
            Some(b"SILTSTON") => set_checksum(rest, 8, 12..512),
            Some(head) if head.starts_with(b"SiCp") => {
                let end = 240_usize.saturating_add(number(rest, 40));
                set_checksum(rest, 4, 8..end);
            }
            _ => {}
        }
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

fn set_checksum(bytes: &mut [u8], at: usize, range: std::ops::Range<usize>) {
    let Some(covered) = bytes.get(range) else {
        return;
    };
    let sum = crc32(covered).to_le_bytes();
    if let Some(target) = bytes.get_mut(at..at + 4) {
        target.copy_from_slice(&sum);
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    static TABLE: OnceLock<[u32; 256]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|at| {
            (0..8).fold(u32::try_from(at).unwrap_or(0), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
            })
        })
    });
    !bytes.iter().fold(!0, |crc, &byte| {
        let index = (crc ^ u32::from(byte)) & 0xFF;
        table.get(index as usize).copied().unwrap_or(0) ^ (crc >> 8)
    })
}

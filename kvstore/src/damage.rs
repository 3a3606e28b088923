//! What the newest scrub found damaged and could not repair.

use alloc::vec::Vec;

use lfs::Finding;

/// Findings that are kept at most.
const FINDINGS_MAX: usize = 128;
/// Bytes that the paths of those take at most: names on a disk may be anybody's.
const PATH_BYTES_MAX: usize = 256 << 10;

/// What the newest scrub found damaged and could not repair, as it was found: up to 128 findings with up to 256 KiB of paths.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Damage {
    /// The first of what was found.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub left_out: u64,
    path_bytes: usize,
}

impl Damage {
    pub(crate) fn note(&mut self, finding: &Finding) {
        let path_bytes = finding.path.as_ref().map_or(0, Vec::len);
        let all = self.path_bytes.saturating_add(path_bytes);
        // The first that is left out is the end: what is kept has no gaps.
        let full = self.left_out > 0 || self.findings.len() >= FINDINGS_MAX;
        if full || all > PATH_BYTES_MAX || self.findings.try_reserve(1).is_err() {
            self.left_out += 1;
            return;
        }
        self.path_bytes = all;
        self.findings.push(finding.clone());
    }
}

#[cfg(test)]
mod tests {
    use lfs::{CheckedPart, Problem, Severity};

    use super::*;

    fn finding(path_bytes: usize) -> Finding {
        Finding {
            severity: Severity::Error,
            part: CheckedPart::Data,
            problem: Problem::DataDamaged,
            block: None,
            inode: None,
            path: Some(alloc::vec![b'x'; path_bytes]),
            bytes: None,
            repair: None,
        }
    }

    #[test]
    fn no_more_than_so_many_findings_and_bytes_are_kept() {
        let mut damage = Damage::default();
        for _ in 0..FINDINGS_MAX + 5 {
            damage.note(&finding(10));
        }
        assert_eq!((damage.findings.len(), damage.left_out), (FINDINGS_MAX, 5));

        let mut damage = Damage::default();
        damage.note(&finding(PATH_BYTES_MAX - 1));
        damage.note(&finding(1));
        damage.note(&finding(1));
        damage.note(&finding(0));
        assert_eq!((damage.findings.len(), damage.left_out), (2, 2));
    }
}

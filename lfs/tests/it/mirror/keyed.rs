//! What holds of a mirror holds of one with a key, whichever cipher it has.
//!
//! The mirror itself knows no key: it copies, compares and mends what is sealed.

use super::*;

fn with_each_cipher(test: fn()) {
    for suite in [Suite::XChaCha20Poly1305, Suite::Aes256GcmSiv] {
        println!("{suite:?}");
        crate::common::key::choose(Some(suite));
        test();
    }
}

#[test]
fn a_blank_disk_becomes_the_mirror_of_the_other() {
    with_each_cipher(
        super::a_blank_disk_becomes_the_mirror_of_the_other_and_gets_only_what_is_in_use,
    );
}

#[test]
fn either_disk_is_lost_and_gets_what_it_lacks_when_it_is_back() {
    with_each_cipher(super::a_disk_alone_takes_writes_and_the_other_one_gets_them_when_it_is_back);
}

#[test]
fn either_disk_fails_while_running_and_comes_back() {
    with_each_cipher(super::a_disk_may_fail_at_any_request_and_comes_back_while_running);
}

#[test]
fn a_resync_is_cut_short_and_goes_on() {
    with_each_cipher(super::a_resync_that_is_cut_short_goes_on_and_its_disk_is_of_no_use_alone);
}

#[test]
fn what_rots_on_one_disk_is_read_from_the_other_and_written_again() {
    with_each_cipher(super::what_rots_on_one_disk_is_read_from_the_other_and_written_again);
}

#[test]
fn what_is_damaged_on_both_disks_is_put_together() {
    with_each_cipher(mending::what_is_damaged_on_both_disks_in_different_places_is_put_together);
    with_each_cipher(mending::an_extent_is_mended_unit_by_unit);
    with_each_cipher(mending::an_object_is_mended_block_by_block);
    with_each_cipher(mending::a_group_is_put_together_at_replay);
}

/// Only the copies of the key slots on the disk that leads were looked at.
#[test]
fn key_slots_that_rot_on_one_disk_are_mended_from_the_other() {
    const KEY_SLOTS: [BlockIndex; 2] = [BlockIndex(1), BlockIndex(14)];
    with_each_cipher(|| {
        let base = pair(180);
        for rotten in [0, 1] {
            let disks = snapshots(&base, 181);
            for block in KEY_SLOTS {
                disks[rotten].flip_bit(block, 500 * 8);
            }
            let mut machine = Machine::boot(&disks, 182).unwrap();
            let status = machine.scrub();
            assert_eq!(status.unrepairable, 0, "{status:?}");
            machine.shutdown();
            assert_each_has(&disks, 0, "mended");
        }
    });
}

//! Accounts between which money is moved: whatever happens, all together they hold nothing, and every transfer was counted twice.

use fastrand::Rng;

use crate::data::Key;
use crate::engine::Engine;

/// Bytes of an account's value, as those of small values.
const VALUE_BYTES: usize = 100;

/// Bytes of keys and values that a transfer writes.
pub const TRANSFER_BYTES: u64 = 2 * (size_of::<Key>() + VALUE_BYTES) as u64;

/// Accounts of a commit while they are opened.
const OPENED_AT_ONCE: usize = 1000;

/// What keys of accounts begin with; no other key does, and all others are smaller.
const PREFIX: u8 = b'~';

pub fn is_account(key: &[u8]) -> bool {
    key.first() == Some(&PREFIX)
}

/// Opens `count` accounts, or empties them.
pub async fn open<E: Engine + ?Sized>(engine: &E, count: u64) {
    let empty = |account| (key(account), encode(0, 0));
    let accounts = (0..count).map(empty).collect::<Vec<_>>();
    for accounts in accounts.chunks(OPENED_AT_ONCE) {
        engine.put(accounts).await;
    }
}

/// Moves something from one of `count` accounts to another; how many attempts it took.
pub async fn transfer<E: Engine + ?Sized>(engine: &E, count: u64, rng: &mut Rng) -> u64 {
    let from = rng.u64(..count);
    let to = (from + rng.u64(1..count)) % count;
    let amount = rng.i64(1..100);
    let mut change = |values: &mut [Vec<u8>; 2]| {
        for (value, amount) in values.iter_mut().zip([-amount, amount]) {
            let (balance, transfers) = decode(value);
            *value = encode(balance + amount, transfers + 1);
        }
    };
    engine.update(&[key(from), key(to)], &mut change).await
}

/// Checks that `transfers` between `count` accounts were carried out once each.
pub async fn check<E: Engine + ?Sized>(engine: &E, count: u64, transfers: u64) {
    let (mut balance, mut counted) = (0, 0);
    let mut value = Vec::new();
    for account in 0..count {
        assert!(
            engine.get(&key(account), &mut value).await,
            "account {account} is gone"
        );
        let (own_balance, own_transfers) = decode(&value);
        balance += own_balance;
        counted += own_transfers;
    }
    assert_eq!(balance, 0, "money came from nowhere, or is gone");
    assert_eq!(counted, 2 * transfers, "transfers were lost, or repeated");
}

fn key(account: u64) -> Key {
    let text = format!("{}account{account:08x}", char::from(PREFIX));
    text.into_bytes().try_into().expect("the length of a key")
}

fn encode(balance: i64, transfers: u64) -> Vec<u8> {
    let mut value = [balance.to_le_bytes(), transfers.to_le_bytes()].concat();
    value.resize(VALUE_BYTES, 0);
    value
}

fn decode(value: &[u8]) -> (i64, u64) {
    assert_eq!(value.len(), VALUE_BYTES, "an account");
    let word = |at: usize| value[at..at + 8].try_into().expect("8 bytes");
    (i64::from_le_bytes(word(0)), u64::from_le_bytes(word(8)))
}

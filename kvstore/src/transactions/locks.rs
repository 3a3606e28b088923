//! LOCK: exclusive locks of keys, in the order in which they were asked for, and deadlocks found at once.
//!
//! A lock is *held* by the transaction that asked for it with LOCK until it ends. Writers respect it: a commit that would write a locked key waits in the same queue; when
//! its turn comes it holds the key with a *turn*, so that nobody overtakes it while it is tried again. A turn is not a promise to anybody: where turns take part in a cycle of waiters,
//! they are taken back (the writer waits anew), so that only cycles of real locks are deadlocks, and a commit that holds no lock never is in one. Of several turns
//! the one of the youngest owner is taken: the oldest writer loses none to other writers, so it comes to its end, and then the next oldest; else they could take them from
//! each other for ever.
//!
//! Each owner waits for one key at most. So the graph of who waits for whom has one edge for each owner, and to look for a cycle is to follow it: O(length).
//! At most 65,536 keys held and waiters, together.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Bound;
use core::task::{Poll, Waker};

use crate::Key;

/// Keys that are held and owners that wait, together.
pub const LOCKS_MAX: usize = 65_536;

/// Memory that they may take, keys included, about.
const BYTES_MAX: usize = 16 << 20;

/// Memory of a held key or a waiter beyond the key's bytes: its share of three maps.
const LOCK_BYTES: usize = 160;

/// Who holds locks or waits for them: a transaction, or a commit that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner(pub u64);

/// A place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Clients, each of which waits for the key, which the next one holds; the first one is held by the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle(pub Vec<(u64 /* client */, Key)>);

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Locked {
    /// It is the owner's; of a check: nobody else holds anything of it.
    Taken,
    /// Wait with [`LockTable::poll`], then ask again.
    Wait(Ticket),
    /// Waiting would never end. Nothing has changed.
    Deadlock(Cycle),
    /// There are too many locks. Nothing has changed.
    TooMany,
}

/// All locks.
pub struct LockTable {
    locks: BTreeMap<Key, Lock>,
    owners: BTreeMap<Owner, State>,
    waiters: BTreeMap<Ticket, Waiter>,
    tickets: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Default for LockTable {
    fn default() -> Self {
        Self {
            locks: BTreeMap::new(),
            owners: BTreeMap::new(),
            waiters: BTreeMap::new(),
            tickets: 0,
            bytes: 0,
            bytes_max: BYTES_MAX,
        }
    }
}

/// A key that is held.
struct Lock {
    owner: Owner,
    kind: Kind,
    /// Who comes next.
    queue: VecDeque<Ticket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Held,
    Turn,
}

/// An owner that holds or waits for something.
struct State {
    client: u64,
    held: BTreeSet<Key>,
    waits: Option<Ticket>,
}

struct Waiter {
    owner: Owner,
    key: Key,
    /// What it gets.
    kind: Kind,
    waker: Option<Waker>,
}

impl LockTable {
    /// Locks `key` for `owner`, of `client`.
    ///
    /// An owner that waits already gives up its place first.
    pub fn lock(&mut self, owner: Owner, client: u64, key: &[u8]) -> Locked {
        self.stop_waiting(owner);
        let Some((key, holder)) = self.locks.get_key_value(key) else {
            if self.is_full(key.len()) {
                return Locked::TooMany;
            }
            let key = Key::from(key);
            self.bytes += LOCK_BYTES + key.len();
            self.hold(owner, client, key, Kind::Held, VecDeque::new());
            return Locked::Taken;
        };
        let key = Key::clone(key);
        if holder.owner == owner {
            if let Some(lock) = self.locks.get_mut(&key) {
                lock.kind = Kind::Held;
            }
            return Locked::Taken;
        }
        match self.wait(owner, client, key, Kind::Held) {
            // It was a turn that was taken back.
            None => Locked::Taken,
            Some(locked) => locked,
        }
    }

    /// Whether `owner` may write `keys` and delete `ranges` (start, end not included): nobody else holds any of it.
    ///
    /// If it may, that holds for this step; nothing was locked. When it has waited it holds turns, until [`release_all`](Self::release_all),
    /// which whoever asked must call in the end, however it ends.
    pub fn check_write(
        &mut self,
        owner: Owner,
        client: u64,
        keys: &mut dyn Iterator<Item = &[u8]>,
        ranges: &[(Key, Key)],
    ) -> Locked {
        if self.locks.is_empty() {
            return Locked::Taken;
        }
        self.stop_waiting(owner);
        let in_keys = Iterator::find_map(&mut { keys }, |key| {
            let (key, lock) = self.locks.get_key_value(key)?;
            (lock.owner != owner).then(|| Key::clone(key))
        });
        let in_ranges = || {
            ranges.iter().find_map(|(start, end)| {
                let behind = (Bound::Included(&**start), Bound::Unbounded);
                let mut locks = self.locks.range::<[u8], _>(behind);
                let found = locks.find(|(key, lock)| *key >= end || lock.owner != owner)?;
                (found.0 < end).then(|| Key::clone(found.0))
            })
        };
        match in_keys.or_else(in_ranges) {
            None => Locked::Taken,
            Some(key) => match self.wait(owner, client, key, Kind::Turn) {
                // A turn that was in the way is this owner's now. There may be other keys: it is to ask again at once.
                None => Locked::Wait(self.next_ticket()),
                Some(locked) => locked,
            },
        }
    }

    /// Ready when the ticket's turn has come, or never will (it was given up, its owner ended): ask again.
    pub fn poll(&mut self, ticket: Ticket, waker: &Waker) -> Poll<()> {
        match self.waiters.get_mut(&ticket) {
            None => Poll::Ready(()),
            Some(waiter) => {
                match &mut waiter.waker {
                    Some(registered) => registered.clone_from(waker),
                    none => *none = Some(waker.clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Whoever holds `ticket` no longer waits. What it got meanwhile it keeps.
    pub fn give_up(&mut self, ticket: Ticket) {
        let Some(waiter) = self.waiters.remove(&ticket) else {
            return;
        };
        self.bytes -= LOCK_BYTES + waiter.key.len();
        if let Some(lock) = self.locks.get_mut(&waiter.key) {
            lock.queue.retain(|queued| *queued != ticket);
        }
        if let Some(state) = self.owners.get_mut(&waiter.owner) {
            state.waits = None;
        }
        self.forget_if_idle(waiter.owner);
        // Who ends somebody else's wait wakes it.
        if let Some(waker) = waiter.waker {
            waker.wake();
        }
    }

    /// `owner` has ended: what it holds passes to those who are next, and it waits for nothing.
    pub fn release_all(&mut self, owner: Owner) {
        self.stop_waiting(owner);
        while let Some(key) = self.owners.get(&owner).and_then(|state| state.held.first()) {
            let key = Key::clone(key);
            self.pass_on(&key);
        }
    }

    /// Whether somebody holds `key`.
    pub fn is_held(&self, key: &[u8]) -> bool {
        self.locks.contains_key(key)
    }

    /// Whether `owner` waits.
    pub fn waits(&self, owner: Owner) -> bool {
        let state = self.owners.get(&owner);
        state.is_some_and(|state| state.waits.is_some())
    }

    /// Whether nothing is held, and so nobody waits.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys `owner` holds.
    pub fn held_by(&self, owner: Owner) -> usize {
        self.owners.get(&owner).map_or(0, |state| state.held.len())
    }

    /// Sets what it may take, 16 MiB at most.
    pub fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes.min(BYTES_MAX);
    }

    /// Whether there is no room for one more, of a key of so many bytes.
    fn is_full(&self, key_bytes: usize) -> bool {
        let bytes = self.bytes + LOCK_BYTES + key_bytes;
        self.locks.len() + self.waiters.len() >= LOCKS_MAX || bytes > self.bytes_max
    }

    fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Queues for `key`, which somebody else holds. `None`: it became the owner's at once.
    fn wait(&mut self, owner: Owner, client: u64, key: Key, kind: Kind) -> Option<Locked> {
        if self.is_full(key.len()) {
            return Some(Locked::TooMany);
        }
        // A cycle with a turn in it is no deadlock: the turn is taken back. Each time around there is one turn less.
        while let Some((cycle, turn)) = self.cycle(owner, client, &key) {
            let Some(turn) = turn else {
                return Some(Locked::Deadlock(cycle));
            };
            self.pass_on(&turn);
            // Else somebody was waiting for it longer, or it was another key's turn.
            if !self.locks.contains_key(&key) {
                self.bytes += LOCK_BYTES + key.len();
                self.hold(owner, client, key, kind, VecDeque::new());
                return None;
            }
        }
        let ticket = self.next_ticket();
        self.bytes += LOCK_BYTES + key.len();
        if let Some(lock) = self.locks.get_mut(&key) {
            lock.queue.push_back(ticket);
        }
        self.state(owner, client).waits = Some(ticket);
        let waiter = Waiter {
            owner,
            key,
            kind,
            waker: None,
        };
        self.waiters.insert(ticket, waiter);
        Some(Locked::Wait(ticket))
    }

    /// The cycle that `owner` would close by waiting for `key`; and of its keys that are held by turns, if there are any, the one of the youngest owner.
    fn cycle(&self, owner: Owner, client: u64, key: &Key) -> Option<(Cycle, Option<Key>)> {
        let (mut cycle, mut turn) = (Vec::new(), None::<(Owner, &Key)>);
        let (mut client, mut key) = (client, key);
        loop {
            cycle.push((client, Key::clone(key)));
            let lock = self.locks.get(key)?;
            if lock.kind == Kind::Turn {
                turn = turn.max(Some((lock.owner, key)));
            }
            if lock.owner == owner {
                return Some((Cycle(cycle), turn.map(|(_, key)| Key::clone(key))));
            }
            let holder = self.owners.get(&lock.owner)?;
            client = holder.client;
            key = &self.waiters.get(&holder.waits?)?.key;
        }
    }

    /// The holder of `key` lets it go: it is the next one's, or nobody's.
    fn pass_on(&mut self, key: &Key) {
        let Some(lock) = self.locks.remove(key) else {
            return;
        };
        self.bytes -= LOCK_BYTES + key.len();
        if let Some(state) = self.owners.get_mut(&lock.owner) {
            state.held.remove(key);
        }
        self.forget_if_idle(lock.owner);
        let mut queue = lock.queue;
        while let Some(ticket) = queue.pop_front() {
            let Some(waiter) = self.waiters.remove(&ticket) else {
                continue;
            };
            // The waiter's share of the memory is the lock's now.
            let client = match self.owners.get_mut(&waiter.owner) {
                Some(state) => {
                    state.waits = None;
                    state.client
                }
                None => 0,
            };
            self.hold(waiter.owner, client, waiter.key, waiter.kind, queue);
            if let Some(waker) = waiter.waker {
                waker.wake();
            }
            return;
        }
    }

    fn hold(&mut self, owner: Owner, client: u64, key: Key, kind: Kind, queue: VecDeque<Ticket>) {
        let state = self.state(owner, client);
        state.held.insert(Key::clone(&key));
        self.locks.insert(key, Lock { owner, kind, queue });
    }

    fn state(&mut self, owner: Owner, client: u64) -> &mut State {
        self.owners.entry(owner).or_insert_with(|| State {
            client,
            held: BTreeSet::new(),
            waits: None,
        })
    }

    fn stop_waiting(&mut self, owner: Owner) {
        if let Some(ticket) = self.owners.get(&owner).and_then(|state| state.waits) {
            self.give_up(ticket);
        }
    }

    fn forget_if_idle(&mut self, owner: Owner) {
        let idle = |state: &State| state.held.is_empty() && state.waits.is_none();
        if self.owners.get(&owner).is_some_and(idle) {
            self.owners.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::sync::atomic::{AtomicUsize, Ordering};

    use lfs::sim::Random;

    use super::*;
    use crate::testing::random;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_ready(table: &mut LockTable, ticket: Ticket) -> bool {
        table.poll(ticket, Waker::noop()).is_ready()
    }

    fn key(text: &str) -> Key {
        Key::from(text.as_bytes())
    }

    fn wait(locked: Locked) -> Ticket {
        match locked {
            Locked::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn write(table: &mut LockTable, owner: Owner, keys: &[&str]) -> Locked {
        let mut keys = keys.iter().map(|key| key.as_bytes());
        table.check_write(owner, owner.0 + 100, &mut keys, &[])
    }

    fn lock(table: &mut LockTable, owner: Owner, key: &str) -> Locked {
        table.lock(owner, owner.0 + 100, key.as_bytes())
    }

    const A: Owner = Owner(1);
    const B: Owner = Owner(2);
    const C: Owner = Owner(3);

    #[test]
    fn who_came_first_is_served_first() {
        let mut table = LockTable::default();
        assert_eq!(lock(&mut table, A, "k"), Locked::Taken);
        assert_eq!(lock(&mut table, A, "k"), Locked::Taken);
        let second = wait(lock(&mut table, B, "k"));
        let third = wait(write(&mut table, C, &["j", "k"]));
        assert!(!is_ready(&mut table, second) && !is_ready(&mut table, third));
        table.release_all(A);
        assert!(is_ready(&mut table, second) && !is_ready(&mut table, third));
        table.release_all(B);
        assert!(is_ready(&mut table, third));
        // Who comes now waits for the commit whose turn it is.
        let fourth = wait(lock(&mut table, A, "k"));
        assert_eq!(write(&mut table, C, &["j", "k"]), Locked::Taken);
        table.release_all(C);
        assert!(is_ready(&mut table, fourth));
        assert_eq!(table.held_by(A), 1);
        table.release_all(A);
        assert!(table.is_empty());
        assert_eq!(table.memory_bytes(), 0);
    }

    #[test]
    fn a_deadlock_names_all_who_are_in_it() {
        let mut table = LockTable::default();
        for (owner, name) in [(A, "a"), (B, "b"), (C, "c")] {
            assert_eq!(lock(&mut table, owner, name), Locked::Taken);
        }
        let first = wait(lock(&mut table, A, "b"));
        // A commit that waits is in it like others.
        let second = wait(write(&mut table, B, &["x", "c"]));
        let cycle = [(103, key("a")), (101, key("b")), (102, key("c"))];
        assert_eq!(
            lock(&mut table, C, "a"),
            Locked::Deadlock(Cycle(cycle.to_vec()))
        );
        // The victim is rolled back; the others go on.
        table.release_all(C);
        assert!(is_ready(&mut table, second) && !is_ready(&mut table, first));
        assert_eq!(write(&mut table, B, &["x", "c"]), Locked::Taken);
        table.release_all(B);
        assert!(is_ready(&mut table, first));
    }

    #[test]
    fn a_commit_without_locks_is_in_no_deadlock() {
        let mut table = LockTable::default();
        let writer = Owner(9);
        assert_eq!(lock(&mut table, A, "a"), Locked::Taken);
        assert_eq!(lock(&mut table, B, "b"), Locked::Taken);
        let ticket = wait(write(&mut table, writer, &["a", "b"]));
        table.release_all(A);
        assert!(is_ready(&mut table, ticket));
        // Its turn for a, and it waits for b.
        let ticket = wait(write(&mut table, writer, &["a", "b"]));
        assert_eq!(table.held_by(writer), 1);
        // B holds b and wants a: the turn is taken back rather than anybody told of a deadlock.
        assert_eq!(lock(&mut table, B, "a"), Locked::Taken);
        table.release_all(B);
        assert!(is_ready(&mut table, ticket));
        assert_eq!(write(&mut table, writer, &["a", "b"]), Locked::Taken);
        table.release_all(writer);
        assert!(table.is_empty());

        // The same, and it is the writer that would close the cycle.
        assert_eq!(lock(&mut table, A, "a"), Locked::Taken);
        let ticket = wait(write(&mut table, writer, &["a", "b"]));
        assert_eq!(lock(&mut table, B, "b"), Locked::Taken);
        table.release_all(A);
        assert!(is_ready(&mut table, ticket));
        let blocked = wait(lock(&mut table, B, "a"));
        let ticket = wait(write(&mut table, writer, &["a", "b"]));
        assert!(is_ready(&mut table, blocked) && !is_ready(&mut table, ticket));
        assert_eq!(table.held_by(writer), 0);
    }

    #[test]
    fn writers_of_the_same_keys_took_turns_from_each_other_for_ever() {
        const WRITERS: u64 = 5;
        let mut random = random(14);
        for _ in 0..200 {
            let mut table = LockTable::default();
            for key in ["a", "b", "c", "d"] {
                assert_eq!(lock(&mut table, Owner(100), key), Locked::Taken);
            }
            let mut writers = Vec::new();
            for owner in 1..=WRITERS {
                let mut keys = alloc::vec!["a", "b", "c", "d"];
                let first = random.index(keys.len());
                keys.rotate_left(first);
                if random.one_in(2) {
                    keys.reverse();
                }
                keys.truncate(2 + random.index(3));
                let ticket = wait(write(&mut table, Owner(owner), &keys));
                writers.push((Owner(owner), keys, ticket));
            }
            table.release_all(Owner(100));
            let mut asked = 0;
            while !writers.is_empty() {
                let mut ready: Vec<_> = (0..writers.len()).collect();
                ready.retain(|place| is_ready(&mut table, writers[*place].2));
                let place = ready[random.index(ready.len())];
                let (owner, keys, ticket) = &mut writers[place];
                match write(&mut table, *owner, keys) {
                    Locked::Wait(next) => *ticket = next,
                    Locked::Taken => {
                        table.release_all(*owner);
                        writers.swap_remove(place);
                    }
                    other => panic!("{other:?}"),
                }
                asked += 1;
                assert!(asked < 1000, "{writers:?} go round in circles");
            }
            assert_eq!(table.memory_bytes(), 0);
        }
    }

    #[test]
    fn ranges_wait_for_any_key_in_them() {
        let mut table = LockTable::default();
        assert_eq!(lock(&mut table, A, "b"), Locked::Taken);
        assert_eq!(lock(&mut table, B, "c"), Locked::Taken);
        let mut check = |owner, start, end| {
            let range = (key(start), key(end));
            table.check_write(owner, 0, &mut core::iter::empty(), &[range])
        };
        assert_eq!(check(C, "a", "b"), Locked::Taken);
        assert_eq!(check(C, "bb", "c"), Locked::Taken);
        assert_eq!(check(A, "a", "c"), Locked::Taken);
        let _ = wait(check(C, "a", "bb"));
        // A's own b is not in the way, B's c is.
        let _ = wait(check(A, "a", "d"));
    }

    #[test]
    fn whoever_waits_for_an_owner_that_ended_or_gave_up_goes_on() {
        let mut table = LockTable::default();
        assert_eq!(lock(&mut table, A, "k"), Locked::Taken);
        let second = wait(lock(&mut table, B, "k"));
        let third = wait(lock(&mut table, C, "k"));
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(table.poll(second, &waker).is_pending());
        // B is ended while it waits: it learns of it.
        table.release_all(B);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(is_ready(&mut table, second));
        table.give_up(third);
        table.release_all(A);
        assert!(table.is_empty());
        assert_eq!(table.memory_bytes(), 0);
    }

    #[test]
    fn locks_and_waiters_are_bounded() {
        let mut table = LockTable::default();
        for number in 0..LOCKS_MAX as u64 - 1 {
            let taken = table.lock(A, 1, &number.to_be_bytes());
            assert_eq!(taken, Locked::Taken);
        }
        let _ = wait(table.lock(B, 2, &0_u64.to_be_bytes()));
        assert_eq!(table.lock(C, 3, &0_u64.to_be_bytes()), Locked::TooMany);
        assert_eq!(table.lock(C, 3, b"new"), Locked::TooMany);
        assert_eq!(write(&mut table, C, &["free"]), Locked::Taken);
        table.release_all(A);
        table.release_all(B);
        assert_eq!((table.memory_bytes(), table.owners.len()), (0, 0));
    }

    /// Of a key the holder, whether by a turn, and who waits, in order.
    type Of = (Owner, bool, Vec<(Owner, bool)>);

    /// What everybody holds and waits for, kept plainly. Owners are numbered, each waits in one queue at most.
    #[derive(Default)]
    struct Model {
        keys: BTreeMap<Key, Of>,
    }

    impl Model {
        fn holder(&self, key: &Key) -> Option<(Owner, bool)> {
            self.keys.get(key).map(|(owner, turn, _)| (*owner, *turn))
        }

        /// Every way from `from` to `to` along "waits for a key that is held by", as the keys on it; without a memory of where it was.
        fn paths(&self, from: Owner, to: Owner, steps: usize) -> Vec<Vec<Key>> {
            let mut paths = Vec::new();
            for (key, (holder, _, queue)) in &self.keys {
                if !queue.iter().any(|(waiter, _)| *waiter == from) {
                    continue;
                }
                if *holder == to {
                    paths.push(alloc::vec![Key::clone(key)]);
                } else if steps > 0 {
                    for mut path in self.paths(*holder, to, steps - 1) {
                        path.insert(0, Key::clone(key));
                        paths.push(path);
                    }
                }
            }
            paths
        }

        fn pass_on(&mut self, key: &Key) {
            let (_, _, mut queue) = self.keys.remove(key).unwrap();
            if !queue.is_empty() {
                let (owner, turn) = queue.remove(0);
                self.keys.insert(Key::clone(key), (owner, turn, queue));
            }
        }

        fn leave(&mut self, owner: Owner) {
            for (_, _, queue) in self.keys.values_mut() {
                queue.retain(|(waiter, _)| *waiter != owner);
            }
        }

        fn release_all(&mut self, owner: Owner) {
            self.leave(owner);
            let held = self.keys.iter().filter(|(_, lock)| lock.0 == owner);
            for key in held.map(|(key, _)| Key::clone(key)).collect::<Vec<_>>() {
                self.pass_on(&key);
            }
        }
    }

    /// Owners lock, write, give up and end at random; the model finds cycles by going every way there is.
    #[test]
    fn agrees_with_a_model_that_goes_every_way() {
        let mut random = random(6);
        let (mut deadlocks, mut taken_back) = (0, 0);
        for _ in 0..300 {
            let owners = 2 + random.below(6);
            let keys: Vec<Key> = (0..2 + random.below(5))
                .map(|number| Key::from(&number.to_be_bytes()[7..]))
                .collect();
            let mut table = LockTable::default();
            let mut model = Model::default();
            let mut tickets: BTreeMap<Owner, (Ticket, Arc<Count>)> = BTreeMap::new();
            for _ in 0..200 {
                let owner = Owner(random.below(owners));
                let client = owner.0 + 100;
                match random.below(10) {
                    0..=5 => {
                        let turn = random.one_in(3);
                        let wanted = some_of(&mut random, &keys, if turn { 3 } else { 1 });
                        let asked = if turn {
                            let mut wanted = wanted.iter().map(|key| &**key);
                            table.check_write(owner, client, &mut wanted, &[])
                        } else {
                            table.lock(owner, client, &wanted[0])
                        };
                        model.leave(owner);
                        let foreign = |key: &&Key| {
                            model.holder(key).is_some_and(|(holder, _)| holder != owner)
                        };
                        let blocking = wanted.iter().find(foreign).cloned();
                        let expected =
                            expect(&mut model, owner, blocking.as_ref(), &mut taken_back);
                        match (&asked, blocking, expected) {
                            (Locked::Taken, None, _) if turn => {}
                            (Locked::Taken, None, _) => {
                                let queue = model.keys.remove(&wanted[0]).map(|lock| lock.2);
                                let lock = (owner, false, queue.unwrap_or_default());
                                model.keys.insert(Key::clone(&wanted[0]), lock);
                            }
                            (Locked::Taken, Some(key), Expected::Free) if !turn => {
                                model.keys.insert(key, (owner, false, Vec::new()));
                            }
                            (Locked::Wait(ticket), Some(key), Expected::Free) if turn => {
                                assert!(is_ready(&mut table, *ticket));
                                model.keys.insert(key, (owner, true, Vec::new()));
                            }
                            (Locked::Wait(ticket), Some(key), Expected::Queue) => {
                                model.keys.get_mut(&key).unwrap().2.push((owner, turn));
                                let woken = Arc::new(Count::default());
                                let waker = Waker::from(Arc::clone(&woken));
                                assert!(table.poll(*ticket, &waker).is_pending());
                                tickets.insert(owner, (*ticket, woken));
                            }
                            (Locked::Deadlock(cycle), Some(key), Expected::Deadlock(path)) => {
                                deadlocks += 1;
                                let named = cycle.0.iter().map(|(_, key)| Key::clone(key));
                                let way = [&[key], &path[..]].concat();
                                assert_eq!(named.collect::<Vec<_>>(), way);
                                assert_eq!(cycle.0[0].0, client);
                                for pair in cycle.0.windows(2) {
                                    let (holder, turn) = model.holder(&pair[0].1).unwrap();
                                    assert_eq!((holder.0 + 100, turn), (pair[1].0, false));
                                }
                            }
                            (_, blocking, expected) => {
                                panic!("{asked:?}, but {blocking:?} is in the way: {expected:?}")
                            }
                        }
                    }
                    6 => {
                        if let Some((ticket, _)) = tickets.get(&owner) {
                            table.give_up(*ticket);
                            model.leave(owner);
                        }
                    }
                    _ => {
                        table.release_all(owner);
                        model.release_all(owner);
                    }
                }
                compare(&mut table, &model, &mut tickets);
            }
            for owner in 0..owners {
                table.release_all(Owner(owner));
            }
            assert!(table.is_empty() && table.waiters.is_empty() && table.owners.is_empty());
            assert_eq!(table.memory_bytes(), 0);
        }
        assert!(
            deadlocks > 100 && taken_back > 10,
            "{deadlocks}, {taken_back}"
        );
    }

    #[derive(Debug)]
    enum Expected {
        Free,
        Queue,
        Deadlock(Vec<Key>),
    }

    /// What has to come of waiting for `key`; turns that are in the way are taken back.
    fn expect(
        model: &mut Model,
        owner: Owner,
        key: Option<&Key>,
        taken_back: &mut usize,
    ) -> Expected {
        let Some(key) = key else {
            return Expected::Free;
        };
        loop {
            let Some((holder, _)) = model.holder(key) else {
                return Expected::Free;
            };
            let paths = model.paths(holder, owner, 8);
            let Some(path) = paths.first() else {
                return Expected::Queue;
            };
            assert_eq!(paths.len(), 1, "each waits for one key");
            let turns = path.iter().chain([key]);
            let turns = turns.filter(|key| model.holder(key).unwrap().1);
            match turns
                .max_by_key(|key| model.holder(key).unwrap().0)
                .cloned()
            {
                None => return Expected::Deadlock(path.clone()),
                Some(turn) => {
                    *taken_back += 1;
                    model.pass_on(&turn);
                }
            }
        }
    }

    fn some_of(random: &mut Random, keys: &[Key], most: u64) -> Vec<Key> {
        let count = 1 + random.below(most);
        let some = (0..count).map(|_| Key::clone(&keys[random.index(keys.len())]));
        some.collect()
    }

    /// The same holders and queues; nobody waits in a circle; who waits is pending, all others were woken.
    fn compare(
        table: &mut LockTable,
        model: &Model,
        tickets: &mut BTreeMap<Owner, (Ticket, Arc<Count>)>,
    ) {
        assert_eq!(table.locks.len(), model.keys.len());
        for (key, (owner, turn, queue)) in &model.keys {
            let lock = &table.locks[key];
            assert_eq!((lock.owner, lock.kind == Kind::Turn), (*owner, *turn));
            let queued = lock.queue.iter().map(|ticket| {
                let waiter = &table.waiters[ticket];
                (waiter.owner, waiter.kind == Kind::Turn)
            });
            assert_eq!(queued.collect::<Vec<_>>(), *queue);
            for (waiter, _) in queue {
                assert!(model.paths(*waiter, *waiter, 8).is_empty(), "a circle");
            }
        }
        let waits = |owner: &Owner| {
            let mut queues = model.keys.values();
            queues.any(|(_, _, queue)| queue.iter().any(|(waiter, _)| waiter == owner))
        };
        tickets.retain(|owner, (ticket, woken)| {
            let waits = waits(owner) && table.owners[owner].waits == Some(*ticket);
            let count = woken.0.load(Ordering::Relaxed);
            assert_eq!(
                count,
                usize::from(!waits),
                "woken once, when it no longer waits"
            );
            waits
        });
    }
}

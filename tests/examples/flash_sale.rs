//! A flash sale: 100 items, 1,000 buyers at once. All items are sold, none twice.
//!
//!     cargo run -p tests --example flash_sale -- 127.0.0.1:6379 [buyers]
//!
//! Needs any Siltstone; it takes keys that begin with `sale:`. There is a connection for each buyer, so it sets the server's `maxclients` to what that takes, if it is less. Three ways to the same end:
//!
//! - `BEGIN` … `COMMIT`, and from the start again after `-CONFLICT`: nobody waits, and when many want the same thing, many come in vain;
//! - `LOCK`: who wants the same thing stands in line, and nobody comes in vain;
//! - `WATCH`, `MULTI`, `EXEC`, as with Redis: like the first, in fewer requests.
#![allow(
    clippy::unwrap_used,
    reason = "an example says what went wrong by panicking"
)]

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use redis::{Connection, RedisResult, cmd};

const ITEMS: usize = 100;
const STOCK: &str = "sale:stock";
const STACK_BYTES: usize = 256 << 10;

/// A way to buy an item: whether one was had, or else how often it has to be tried again.
type Way = fn(&mut Connection, &str) -> RedisResult<Bought>;

enum Bought {
    Item,
    SoldOut,
    /// Another buyer was faster.
    Again,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    let buyers = arguments
        .next()
        .map_or(1000, |buyers| buyers.parse().expect("a number"));
    run(&address, buyers);
}

/// Runs it, in all three ways.
///
/// # Panics
/// If the store breaks its promise, or cannot be reached.
pub fn run(address: &str, buyers: usize) {
    make_room(&mut connect(address), buyers);
    let ways: [(&str, Way); 3] = [
        ("SERIALIZABLE, with retry", by_retry),
        ("LOCK", by_lock),
        ("WATCH, MULTI, EXEC", by_watch),
    ];
    for (name, way) in ways {
        sell(address, buyers, name, way);
    }
}

fn connect(address: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    client
        .get_connection()
        .unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn make_room(connection: &mut Connection, buyers: usize) {
    let get: (String, usize) = cmd("CONFIG")
        .arg(&["GET", "maxclients"])
        .query(connection)
        .unwrap();
    let wanted = buyers + 50;
    if get.1 < wanted {
        cmd("CONFIG")
            .arg("SET")
            .arg("maxclients")
            .arg(wanted)
            .exec(connection)
            .unwrap();
    }
}

fn sell(address: &str, buyers: usize, name: &str, way: Way) {
    let mut connection = connect(address);
    cmd("DELRANGE")
        .arg("sale:")
        .arg("sale:~")
        .exec(&mut connection)
        .unwrap();
    cmd("SET")
        .arg(STOCK)
        .arg(ITEMS)
        .exec(&mut connection)
        .unwrap();
    let (sold, again) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Barrier::new(buyers);
    let started = Instant::now();
    thread::scope(|scope| {
        for buyer in 0..buyers {
            let (start, sold, again) = (&start, &sold, &again);
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            let buy = move || {
                let mut connection = connect(address);
                let receipt = format!("sale:receipt:{buyer:06}");
                start.wait();
                loop {
                    match way(&mut connection, &receipt).unwrap() {
                        Bought::Item => sold.fetch_add(1, Ordering::Relaxed),
                        Bought::Again => {
                            again.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        Bought::SoldOut => 0,
                    };
                    break;
                }
            };
            thread.spawn_scoped(scope, buy).unwrap();
        }
    });
    let (sold, again) = (sold.into_inner(), again.into_inner());
    let stock: usize = cmd("GET").arg(STOCK).query(&mut connection).unwrap();
    let receipts: usize = cmd("COUNTRANGE")
        .arg("sale:receipt:")
        .arg("sale:receipt:~")
        .query(&mut connection)
        .unwrap();
    println!(
        "{name}: {buyers} buyers, {sold} items sold, {stock} left, {receipts} receipts; {again} times in vain; {:?}",
        started.elapsed()
    );
    assert_eq!((sold, receipts), (ITEMS.min(buyers), ITEMS.min(buyers)));
    assert_eq!(stock, ITEMS - sold);
}

fn by_retry(connection: &mut Connection, receipt: &str) -> RedisResult<Bought> {
    cmd("BEGIN").exec(connection)?;
    take_one(connection, receipt)
}

fn by_lock(connection: &mut Connection, receipt: &str) -> RedisResult<Bought> {
    cmd("BEGIN").exec(connection)?;
    cmd("LOCK").arg(STOCK).exec(connection)?;
    take_one(connection, receipt)
}

/// The rest of a transaction that has begun.
fn take_one(connection: &mut Connection, receipt: &str) -> RedisResult<Bought> {
    let stock: usize = cmd("GET").arg(STOCK).query(connection)?;
    if stock == 0 {
        cmd("ROLLBACK").exec(connection)?;
        return Ok(Bought::SoldOut);
    }
    cmd("SET").arg(STOCK).arg(stock - 1).exec(connection)?;
    cmd("SET").arg(receipt).arg("paid").exec(connection)?;
    match cmd("COMMIT").exec(connection) {
        Ok(()) => Ok(Bought::Item),
        Err(error) if error.code() == Some("CONFLICT") => Ok(Bought::Again),
        Err(error) => Err(error),
    }
}

fn by_watch(connection: &mut Connection, receipt: &str) -> RedisResult<Bought> {
    cmd("WATCH").arg(STOCK).exec(connection)?;
    let stock: usize = cmd("GET").arg(STOCK).query(connection)?;
    if stock == 0 {
        cmd("UNWATCH").exec(connection)?;
        return Ok(Bought::SoldOut);
    }
    let done: Option<(usize, String)> = redis::pipe()
        .atomic()
        .cmd("DECR")
        .arg(STOCK)
        .cmd("SET")
        .arg(receipt)
        .arg("paid")
        .query(connection)?;
    Ok(if done.is_some() {
        Bought::Item
    } else {
        Bought::Again
    })
}

//! INFO: names as Redis has them where the thing is the same, own names where it is not.

use alloc::string::String;
use core::fmt::Write as _;

use lfs::MemberState;

use crate::command::is;
use crate::config::{Limit, name_of};
use crate::env::{Engine, Env};
use crate::{REDIS_VERSION, VERSION};

type Section = fn(&Env, &dyn Engine, &mut String) -> core::fmt::Result;

/// Sections in the order shown; whether they belong to the default.
const SECTIONS: [(&str, bool, Section); 13] = [
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Transactions", true, transactions),
    ("Engine", true, tables),
    ("Replication", true, replication),
    ("Commandstats", false, command_stats),
    ("Errorstats", true, error_stats),
    ("Files", true, files),
    ("Mirror", true, mirror),
    ("Keyspace", true, keyspace),
];

/// The text of INFO for the sections named; none named means the default ones.
pub(crate) fn text<'a>(
    env: &Env,
    engine: &dyn Engine,
    names: &(impl Iterator<Item = &'a [u8]> + Clone),
) -> String {
    let all = names
        .clone()
        .any(|name| is(name, "all") || is(name, "everything"));
    let default = names.clone().next().is_none() || names.clone().any(|name| is(name, "default"));
    let mut text = String::new();
    for (title, in_default, write) in SECTIONS {
        if all || (default && in_default) || names.clone().any(|name| is(name, title)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a String cannot fail.
            let _ = write!(text, "# {title}\r\n");
            let _ = write(env, engine, &mut text);
        }
    }
    text
}

fn server(env: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let uptime = engine.now_us().saturating_sub(env.started_us) / 1_000_000;
    write!(
        out,
        "redis_version:{REDIS_VERSION}\r\nsiltstone_version:{VERSION}\r\nredis_mode:standalone\r\n\
         arch_bits:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nserver_time_usec:{}\r\nuptime_in_seconds:{uptime}\r\n\
         uptime_in_days:{}\r\n",
        usize::BITS,
        env.run_id,
        env.config().limit(Limit::Port),
        engine.unix_us(),
        uptime / 86_400,
    )
}

fn clients(env: &Env, _: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let all = env.clients.all();
    let blocked = all.iter().filter(|client| client.blocked.get()).count();
    write!(
        out,
        "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:{blocked}\r\nclients_buffer_bytes:{}\r\n",
        all.len(),
        env.config().limit(Limit::MaxClients),
        env.clients.buffer_bytes(),
    )
}

fn memory(_: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let store = engine.store_stats();
    let (used, cache) = (store.memory, store.cache);
    write!(
        out,
        "used_memory:{}\r\nused_memory_dataset:{}\r\nused_memory_memtables:{}\r\nused_memory_cache:{}\r\n\
         used_memory_transactions:{}\r\nused_memory_nodes:{}\r\nmem_clients_normal:{}\r\nmaxmemory:{}\r\n\
         maxmemory_policy:noeviction\r\nmem_pool_chunks_used:{}\r\nmem_pool_chunks_free:{}\r\n\
         cache_policy:{}\r\ncache_entries:{}\r\ncache_hits:{}\r\ncache_misses:{}\r\ncache_evicted:{}\r\n",
        store.memory_bytes,
        used.memtables + used.cache,
        used.memtables,
        used.cache,
        used.transactions,
        used.nodes,
        used.connections,
        store.memory_bytes_max,
        store.pool_chunks_in_use,
        store.pool_chunks_free,
        name_of(store.cache_policy),
        cache.entries,
        cache.rows.hits + cache.chunks.hits + cache.values.hits,
        cache.rows.misses + cache.chunks.misses + cache.values.misses,
        cache.evicted,
    )
}

fn persistence(env: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let store = engine.store_stats();
    let status = if store.read_only { "err" } else { "ok" };
    write!(
        out,
        "loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\nrdb_last_save_time:{}\r\n\
         rdb_last_bgsave_status:{status}\r\naof_enabled:1\r\naof_rewrite_in_progress:0\r\n\
         aof_last_bgrewrite_status:ok\r\naof_last_write_status:{status}\r\nlog_commits:{}\r\nlog_groups:{}\r\n\
         log_committed:{}\r\nlog_durable:{}\r\nlog_checkpoints:{}\r\nlog_replayed_commits:{}\r\nlog_runs:{}\r\n\
         disk_flushes:{}\r\ndisk_bytes_written:{}\r\ndisk_bytes_read:{}\r\ndisk_bytes_used:{}\r\n\
         disk_bytes_max:{}\r\ndisk_bytes_taken:{}\r\n",
        env.last_save_secs.get(),
        store.commits,
        store.groups,
        store.committed.0,
        store.durable.0,
        store.checkpoints,
        store.replayed_commits,
        store.runs,
        store.flushes,
        store.device_bytes_written,
        store.device_bytes_read,
        store.disk_bytes,
        store.disk_bytes_max,
        store.disk_bytes_taken,
    )
}

fn stats(env: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let store = engine.store_stats();
    let errors: u64 = env.stats.errors().iter().map(|(_, count)| count).sum();
    write!(
        out,
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_net_input_bytes:{}\r\n\
         total_net_output_bytes:{}\r\nrejected_connections:{}\r\nexpired_keys:{}\r\nevicted_keys:0\r\n\
         keys_estimated:{}\r\nsnapshots:{}\r\ntotal_error_replies:{errors}\r\nclient_query_buffer_limit_disconnections:{}\r\n\
         client_output_buffer_limit_disconnections:{}\r\n",
        env.clients.received.get(),
        env.stats.total_calls(),
        env.stats.input_bytes.get(),
        env.stats.output_bytes.get(),
        env.clients.rejected.get(),
        store.expired_keys,
        store.keys_estimated,
        store.snapshots,
        env.stats.query_limit_closed.get(),
        env.stats.output_limit_closed.get(),
    )
}

fn transactions(_: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let transactions = engine.store_stats().transactions;
    write!(
        out,
        "transactions_open:{}\r\ntransactions_begun:{}\r\ntransactions_committed:{}\r\n\
         transactions_conflicts:{}\r\ntransactions_deadlocks:{}\r\ntransactions_expired:{}\r\n\
         transactions_bytes:{}\r\n",
        transactions.open,
        transactions.begun,
        transactions.committed,
        transactions.conflicts,
        transactions.deadlocks,
        transactions.expired,
        transactions.bytes,
    )
}

fn tables(_: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let store = engine.store_stats();
    let status = if store.compaction_fails { "err" } else { "ok" };
    write!(
        out,
        "engine_runs:{}\r\nengine_run_bytes:{}\r\nengine_versions:{}\r\nengine_tombstones:{}\r\n\
         engine_history_bytes:{}\r\nengine_history_bytes_max:{}\r\nengine_history_floor:{}\r\nengine_dropped_bytes:{}\r\nengine_compaction_status:{status}\r\n\
         engine_bytes_written:{}\r\nengine_write_amplification:",
        store.runs,
        store.run_bytes,
        store.versions,
        store.tombstones,
        store.history_bytes,
        store.history_bytes_max,
        store.floor.0,
        store.dropped_bytes,
        store.written_bytes,
    )?;
    hundredths(store.device_bytes_written, store.written_bytes, out)?;
    out.push_str("engine_space_amplification:");
    hundredths(store.disk_bytes_taken, store.disk_bytes, out)
}

/// `part` by `whole`, to the hundredth; 0.00 of nothing.
fn hundredths(part: u64, whole: u64, out: &mut String) -> core::fmt::Result {
    let hundredths = u128::from(part) * 100 / u128::from(whole.max(1));
    let hundredths = if whole == 0 { 0 } else { hundredths };
    write!(out, "{}.{:02}\r\n", hundredths / 100, hundredths % 100)
}

fn replication(env: &Env, _: &dyn Engine, out: &mut String) -> core::fmt::Result {
    write!(
        out,
        "role:master\r\nconnected_slaves:0\r\nmaster_replid:{}\r\nmaster_repl_offset:0\r\n",
        env.run_id
    )
}

fn command_stats(env: &Env, _: &dyn Engine, out: &mut String) -> core::fmt::Result {
    for (name, counters) in env.stats.commands() {
        let (calls, rejected, failed) = (
            counters.calls.get(),
            counters.rejected.get(),
            counters.failed.get(),
        );
        if calls + rejected + failed > 0 {
            write!(
                out,
                "cmdstat_{name}:calls={calls},rejected_calls={rejected},failed_calls={failed}\r\n"
            )?;
        }
    }
    Ok(())
}

fn error_stats(env: &Env, _: &dyn Engine, out: &mut String) -> core::fmt::Result {
    for (code, count) in env.stats.errors() {
        write!(
            out,
            "errorstat_{}:count={count}\r\n",
            String::from_utf8_lossy(&code)
        )?;
    }
    Ok(())
}

fn files(_: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let files = engine.store_stats().files;
    write!(
        out,
        "fs_size_bytes:{}\r\nfs_size_bytes_max:{}\r\nfs_device_bytes:{}\r\nfs_capacity_bytes:{}\r\nfs_live_bytes:{}\r\nfs_snapshots:{}\r\nfs_segments_cleaned:{}\r\n\
         fs_cleaned_bytes_read:{}\r\nfs_cleaned_bytes_written:{}\r\nfs_compression:{}\r\n\
         fs_cold_bytes_saved:{}\r\n",
        files.size_bytes,
        files.size_bytes_max,
        files.device_bytes,
        files.capacity_bytes,
        files.live_bytes,
        files.snapshots,
        files.segments_cleaned,
        files.cleaned_bytes_read,
        files.cleaned_bytes_written,
        files.compression,
        files.cold_bytes_saved,
    )
}

fn mirror(_: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let Some(mirror) = engine.store_stats().mirror else {
        return write!(out, "mirror_enabled:0\r\n");
    };
    let name = |state| match state {
        MemberState::Absent => "absent",
        MemberState::In => "in",
        MemberState::Out => "out",
        MemberState::Resync => "resync",
    };
    let [first, second] = mirror.members;
    let [first_bytes, second_bytes] = mirror.member_bytes;
    let state = match mirror.members {
        [MemberState::In, MemberState::In] => "whole",
        [MemberState::Resync, _] | [_, MemberState::Resync] => "resync",
        _ => "degraded",
    };
    write!(
        out,
        "mirror_enabled:1\r\nmirror_state:{state}\r\nmirror_disk1:{}\r\nmirror_disk2:{}\r\n\
         mirror_disk1_bytes:{}\r\nmirror_disk2_bytes:{}\r\n\
         mirror_behind_bytes:{}\r\nmirror_resynced_bytes:{}\r\nmirror_repaired:{}\r\nmirror_failures:{}\r\n\
         mirror_unread_blocks:{}\r\n",
        name(first),
        name(second),
        first_bytes,
        second_bytes,
        mirror.behind_bytes,
        mirror.resynced_bytes,
        mirror.repaired,
        mirror.failures,
        mirror.unread_blocks,
    )
}

fn keyspace(_: &Env, engine: &dyn Engine, out: &mut String) -> core::fmt::Result {
    let store = engine.store_stats();
    for (index, (keys, expires)) in store.keys.iter().zip(&store.keys_with_expiry).enumerate() {
        if *keys > 0 {
            write!(out, "db{index}:keys={keys},expires={expires},avg_ttl=0\r\n")?;
        }
    }
    Ok(())
}

//! Configuration: every limit by the name Redis gives it, or a like one where Redis has none.
//!
//! `PARAMETERS` is the one list: name, meaning, default, bounds. Values live in memory; what the binary
//! passes at start and what `CONFIG SET` changes is not kept over a restart (`CONFIG REWRITE` says so).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kvstore::{CachePolicy, MEMORY_BYTES_MIN, TransactionLimits};

use crate::glob;
use crate::number;

/// When a reply may leave, relative to the durability of the commit it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFsync {
    /// Once the commit is durable.
    Always,
    /// At once; commits become durable once a second.
    EverySec,
    /// At once; commits become durable when the log writes of itself, at the latest every half minute.
    No,
}

impl AppendFsync {
    const NAMES: [(&'static str, Self); 3] = [
        ("everysec", Self::EverySec),
        ("always", Self::Always),
        ("no", Self::No),
    ];
}

/// Names of what decides what leaves the cache.
const CACHE_POLICIES: [(&str, CachePolicy); 3] = [
    ("s3-fifo", CachePolicy::S3Fifo),
    ("lru", CachePolicy::Lru),
    ("lfu", CachePolicy::Lfu),
];

/// The name of one of them.
pub(crate) fn name_of(policy: CachePolicy) -> &'static str {
    let named = CACHE_POLICIES.iter().find(|(_, named)| *named == policy);
    named.map_or("", |(name, _)| name)
}

/// A number among the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `client-output-buffer-limit`, class `normal`, hard.
    ClientOutputBytes,
    /// `client-output-queue-limit`.
    ClientOutputQueueBytes,
    /// `client-output-stall-timeout`.
    ClientOutputStallSecs,
    /// `client-query-buffer-limit`.
    ClientQueryBytes,
    /// `maxclients`.
    MaxClients,
    /// `maxmemory`.
    MaxMemory,
    /// `maxmemory-clients`.
    MaxMemoryClients,
    /// `multi-queue-limit`.
    MultiQueueBytes,
    /// `port`.
    Port,
    /// `proto-inline-max-len`.
    InlineBytes,
    /// `proto-max-bulk-len`.
    BulkBytes,
    /// `proto-max-multibulk-len`.
    MultibulkCount,
    /// `scrub-rate`.
    ScrubBytesPerSecond,
    /// `shutdown-timeout`.
    ShutdownSecs,
    /// `tcp-keepalive`.
    TcpKeepaliveSecs,
    /// `timeout`.
    IdleSecs,
    /// `watch-max-age`.
    WatchMaxAgeSecs,
    /// `transaction-max-age`.
    TransactionAgeSecs,
    /// `transaction-max-bytes`.
    TransactionBytes,
    /// `transaction-max-idle`.
    TransactionIdleSecs,
    /// `commit-token-retention`.
    CommitTokenSecs,
    /// `garbage-max-percent`.
    GarbagePercent,
    /// `history-retention`.
    HistorySecs,
    /// `history-max-bytes`.
    HistoryBytes,
    /// `large-value-threshold`.
    LargeValueBytes,
}

const LIMIT_COUNT: usize = Limit::LargeValueBytes as usize + 1;

/// How a parameter's text is read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A number between bounds.
    Number {
        limit: Limit,
        default: u64,
        min: u64,
        max: u64,
    },
    /// An amount of memory such as `64mb`, between bounds.
    Memory {
        limit: Limit,
        default: u64,
        min: u64,
        max: u64,
    },
    /// Redis's list of `class hard soft seconds`.
    OutputLimits {
        default: u64,
    },
    AppendFsync,
    CachePolicy,
    Password,
    Bind,
    /// What this server always does. Setting it to the same is accepted, anything else refused.
    Always(&'static str),
}

/// One configuration parameter.
#[derive(Debug, Clone, Copy)]
struct Parameter {
    name: &'static str,
    kind: Kind,
    /// Only at start.
    immutable: bool,
}

const fn number(name: &'static str, limit: Limit, default: u64, min: u64, max: u64) -> Parameter {
    Parameter {
        name,
        kind: Kind::Number {
            limit,
            default,
            min,
            max,
        },
        immutable: false,
    }
}

const fn memory(name: &'static str, limit: Limit, default: u64, min: u64, max: u64) -> Parameter {
    Parameter {
        name,
        kind: Kind::Memory {
            limit,
            default,
            min,
            max,
        },
        immutable: false,
    }
}

const fn always(name: &'static str, value: &'static str) -> Parameter {
    Parameter {
        name,
        kind: Kind::Always(value),
        immutable: false,
    }
}

const fn immutable(mut parameter: Parameter) -> Parameter {
    parameter.immutable = true;
    parameter
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Buffers stay well below what 32-bit places in a request can address.
const BUFFER_MAX: u64 = 1 << 30;
const YEARS: u64 = 100_000_000;

/// All parameters, in the order of their names.
const PARAMETERS: [Parameter; 35] = [
    // When replies to writes leave. `always` (default), `everysec`, `no`.
    Parameter {
        name: "appendfsync",
        kind: Kind::AppendFsync,
        immutable: false,
    },
    // The log is the store; it cannot be switched off.
    always("appendonly", "yes"),
    // Address the binary listens on.
    Parameter {
        name: "bind",
        kind: Kind::Bind,
        immutable: true,
    },
    // What decides what of that which was read stays in memory.
    Parameter {
        name: "cache-policy",
        kind: Kind::CachePolicy,
        immutable: false,
    },
    // Output of one client that is not yet sent, replies being built included; beyond it the connection is
    // closed. 0: no limit but `maxmemory-clients`. Only class `normal` exists; soft limits must be 0.
    Parameter {
        name: "client-output-buffer-limit",
        kind: Kind::OutputLimits { default: 32 * MIB },
        immutable: false,
    },
    // Output of one client beyond which its next commands wait until it has taken replies.
    memory(
        "client-output-queue-limit",
        Limit::ClientOutputQueueBytes,
        256 * KIB,
        KIB,
        BUFFER_MAX,
    ),
    // Seconds after which a client that takes nothing of its replies is closed; 0: never.
    number(
        "client-output-stall-timeout",
        Limit::ClientOutputStallSecs,
        60,
        0,
        YEARS,
    ),
    // Input of one client that is not yet executed: bounds one request.
    memory(
        "client-query-buffer-limit",
        Limit::ClientQueryBytes,
        64 * MIB,
        64 * KIB,
        BUFFER_MAX,
    ),
    // Number of key spaces.
    immutable(always("databases", "16")),
    // Connections at the same time.
    number("maxclients", Limit::MaxClients, 512, 1, 1_000_000),
    // Memory of data and clients; 0 means what the machine's size suggests (half of it).
    memory(
        "maxmemory",
        Limit::MaxMemory,
        0,
        MEMORY_BYTES_MIN as u64,
        u64::MAX,
    ),
    // Input and output buffers of all clients together; 0: no limit.
    memory(
        "maxmemory-clients",
        Limit::MaxMemoryClients,
        64 * MIB,
        0,
        u64::MAX,
    ),
    // Nothing is ever evicted: at the limit writes that grow the data get an error.
    always("maxmemory-policy", "noeviction"),
    // Bytes a client may queue between MULTI and EXEC.
    memory(
        "multi-queue-limit",
        Limit::MultiQueueBytes,
        16 * MIB,
        KIB,
        BUFFER_MAX,
    ),
    // Port the binary listens on.
    immutable(number("port", Limit::Port, 6379, 0, 65_535)),
    // Longest inline request.
    memory(
        "proto-inline-max-len",
        Limit::InlineBytes,
        64 * KIB,
        KIB,
        MIB,
    ),
    // Longest bulk string, and longest value; the log's commit size bounds it further.
    memory(
        "proto-max-bulk-len",
        Limit::BulkBytes,
        4 * MIB,
        KIB,
        BUFFER_MAX / 2,
    ),
    // Most arguments of one request.
    number(
        "proto-max-multibulk-len",
        Limit::MultibulkCount,
        1_048_576,
        16,
        1_048_576,
    ),
    // A password that clients must give; empty: none.
    Parameter {
        name: "requirepass",
        kind: Kind::Password,
        immutable: false,
    },
    // There are no snapshots on a schedule: every commit goes to the log.
    always("save", ""),
    // What a scrub reads in a second at most; 0: as fast as the disks go. Others go first in any case.
    memory(
        "scrub-rate",
        Limit::ScrubBytesPerSecond,
        64 * MIB,
        0,
        u64::MAX,
    ),
    // Seconds that clients get at shutdown to take their replies.
    number("shutdown-timeout", Limit::ShutdownSecs, 10, 0, YEARS),
    // Seconds between probes of idle connections, where the host's network can; 0: none.
    number("tcp-keepalive", Limit::TcpKeepaliveSecs, 300, 0, 65_535),
    // Seconds after which an idle client is closed; 0: never.
    number("timeout", Limit::IdleSecs, 0, 0, YEARS),
    // Seconds without a command after which a transaction between BEGIN and COMMIT is ended.
    number(
        "transaction-max-idle",
        Limit::TransactionIdleSecs,
        60,
        1,
        YEARS,
    ),
    // Seconds after which it is ended in any case.
    number(
        "transaction-max-age",
        Limit::TransactionAgeSecs,
        600,
        1,
        YEARS,
    ),
    // What it may have written and read.
    memory(
        "transaction-max-bytes",
        Limit::TransactionBytes,
        4 * MIB,
        1 << 10,
        64 * MIB,
    ),
    // Seconds for which tokens of COMMIT are known.
    number(
        "commit-token-retention",
        Limit::CommitTokenSecs,
        86_400,
        1,
        YEARS,
    ),
    // Of what lives, how much may be garbage although there is room.
    number("garbage-max-percent", Limit::GarbagePercent, 20, 0, 100_000),
    // Seconds for which what was overwritten is kept, for AS OF and HISTORY.
    number("history-retention", Limit::HistorySecs, 0, 0, YEARS),
    // What that may take of the disk before the oldest goes; 0: a quarter of what it can hold.
    memory("history-max-bytes", Limit::HistoryBytes, 0, 0, u64::MAX),
    // Values from this size on are kept where their commit wrote them.
    number(
        "large-value-threshold",
        Limit::LargeValueBytes,
        512,
        256,
        4096,
    ),
    // WATCH holds nothing any more that it could let go of; accepted for those who set it.
    number("watch-max-age", Limit::WatchMaxAgeSecs, 300, 1, YEARS),
    always("cluster-enabled", "no"),
    always("protected-mode", "no"),
];

/// The values of all parameters.
#[derive(Debug, Clone)]
pub struct Config {
    limits: [u64; LIMIT_COUNT],
    appendfsync: AppendFsync,
    cache_policy: CachePolicy,
    requirepass: Vec<u8>,
    bind: String,
    /// What `maxmemory 0` stands for.
    machine_maxmemory: usize,
    /// Longest value that fits into a commit of the log.
    store_value_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            limits: [0; LIMIT_COUNT],
            appendfsync: AppendFsync::Always,
            cache_policy: CachePolicy::default(),
            requirepass: Vec::new(),
            bind: "127.0.0.1".to_owned(),
            machine_maxmemory: usize::MAX,
            store_value_bytes_max: u64::MAX,
        };
        for parameter in &PARAMETERS {
            match parameter.kind {
                Kind::Number { limit, default, .. } | Kind::Memory { limit, default, .. } => {
                    config.set_limit(limit, default);
                }
                Kind::OutputLimits { default } => {
                    config.set_limit(Limit::ClientOutputBytes, default);
                }
                _ => {}
            }
        }
        config
    }
}

/// What the store is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreSettings {
    pub(crate) transactions: TransactionLimits,
    pub(crate) history_ms: i64,
    pub(crate) history_bytes: u64,
    pub(crate) garbage_percent_max: u32,
    pub(crate) large_value_bytes: usize,
    pub(crate) cache_policy: CachePolicy,
}

/// Why a parameter was not set; the text is an error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(crate) Vec<u8>);

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// The defaults for a machine with so many bytes of memory: half of it for data and clients, an eighth at most of it for
    /// clients' buffers.
    pub fn for_machine(memory_bytes: usize) -> Self {
        let machine_maxmemory = (memory_bytes / 2).max(MEMORY_BYTES_MIN);
        let mut config = Self {
            machine_maxmemory,
            ..Self::default()
        };
        config.set_limit(Limit::MaxMemory, machine_maxmemory as u64);
        let buffers = config
            .limit(Limit::MaxMemoryClients)
            .min((memory_bytes / 8) as u64);
        config.set_limit(Limit::MaxMemoryClients, buffers);
        config
    }

    /// Bounds `proto-max-bulk-len` by what a commit of the log can hold.
    pub(crate) fn limit_values(&mut self, bytes_max: usize) {
        self.store_value_bytes_max = bytes_max as u64;
        let bytes = self.limit(Limit::BulkBytes).min(self.store_value_bytes_max);
        self.set_limit(Limit::BulkBytes, bytes);
    }

    /// What `maxmemory 0` stands for.
    pub(crate) fn machine_maxmemory(&self) -> usize {
        self.machine_maxmemory
    }

    /// The value of a number.
    pub fn limit(&self, limit: Limit) -> u64 {
        self.limits.get(limit as usize).copied().unwrap_or_default()
    }

    /// The value of a number as a size in memory.
    pub fn limit_usize(&self, limit: Limit) -> usize {
        usize::try_from(self.limit(limit)).unwrap_or(usize::MAX)
    }

    /// For how long what was overwritten is kept, as a store is to be opened with it.
    pub fn history_ms(&self) -> i64 {
        self.limit_ms(Limit::HistorySecs)
    }

    /// A number of seconds, in milliseconds.
    fn limit_ms(&self, limit: Limit) -> i64 {
        i64::try_from(self.limit(limit).saturating_mul(1000)).unwrap_or(i64::MAX)
    }

    /// What the store is told of it.
    pub(crate) fn store_settings(&self) -> StoreSettings {
        StoreSettings {
            transactions: TransactionLimits {
                idle_ms: self.limit_ms(Limit::TransactionIdleSecs),
                age_ms: self.limit_ms(Limit::TransactionAgeSecs),
                bytes: self.limit_usize(Limit::TransactionBytes),
            },
            history_ms: self.history_ms(),
            history_bytes: self.limit(Limit::HistoryBytes),
            garbage_percent_max: u32::try_from(self.limit(Limit::GarbagePercent))
                .unwrap_or(u32::MAX),
            large_value_bytes: self.limit_usize(Limit::LargeValueBytes),
            cache_policy: self.cache_policy,
        }
    }

    /// A limit where 0 stands for "none".
    pub(crate) fn limit_or_none(&self, limit: Limit) -> usize {
        match self.limit_usize(limit) {
            0 => usize::MAX,
            some => some,
        }
    }

    /// When replies to writes may leave.
    pub fn appendfsync(&self) -> AppendFsync {
        self.appendfsync
    }

    /// The password; empty when none is needed.
    pub(crate) fn requirepass(&self) -> &[u8] {
        &self.requirepass
    }

    /// Address and port the binary listens on, for clients that ask.
    pub(crate) fn local_address(&self) -> String {
        format!("{}:{}", self.bind, self.limit(Limit::Port))
    }

    /// Sets a parameter at start, immutable ones too.
    ///
    /// # Errors
    /// When there is no such parameter, or the value is not one it can have.
    pub fn set_at_start(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let parameter = find(name.as_bytes()).ok_or_else(|| unknown(name.as_bytes()))?;
        self.apply(parameter, value.as_bytes())
            .map_err(|why| failed(name.as_bytes(), &why))
    }

    /// Sets parameters, given as name, value, name, value, ...: all or none.
    pub(crate) fn set_all<'a>(
        &mut self,
        mut pairs: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), ConfigError> {
        let mut changed = self.clone();
        let mut seen: Vec<&str> = Vec::new();
        let mut values = Vec::new();
        // Like Redis, all names are looked at before any value.
        while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
            let parameter = find(name).ok_or_else(|| unknown(name))?;
            if parameter.immutable {
                return Err(failed(name, "can't set immutable config"));
            }
            if seen.contains(&parameter.name) {
                return Err(failed(name, "duplicate parameter"));
            }
            seen.push(parameter.name);
            values.push((parameter, name, value));
        }
        for (parameter, name, value) in values {
            changed
                .apply(parameter, value)
                .map_err(|why| failed(name, &why))?;
        }
        *self = changed;
        Ok(())
    }

    /// Names and values of the parameters that any of the glob patterns matches, each once.
    pub(crate) fn get_matching<'a>(
        &self,
        patterns: &(impl Iterator<Item = &'a [u8]> + Clone),
    ) -> Vec<(&'static str, Vec<u8>)> {
        PARAMETERS
            .iter()
            .filter(|parameter| {
                patterns
                    .clone()
                    .any(|pattern| glob::matches(pattern, parameter.name.as_bytes(), true))
            })
            .map(|parameter| (parameter.name, self.show(parameter)))
            .collect()
    }

    fn set_limit(&mut self, limit: Limit, value: u64) {
        if let Some(place) = self.limits.get_mut(limit as usize) {
            *place = value;
        }
    }

    fn show(&self, parameter: &Parameter) -> Vec<u8> {
        match parameter.kind {
            Kind::Number { limit, .. } | Kind::Memory { limit, .. } => {
                self.limit(limit).to_string().into_bytes()
            }
            Kind::OutputLimits { .. } => {
                format!("normal {} 0 0", self.limit(Limit::ClientOutputBytes)).into_bytes()
            }
            Kind::AppendFsync => AppendFsync::NAMES
                .iter()
                .find(|(_, value)| *value == self.appendfsync)
                .map_or(Vec::new(), |(name, _)| name.as_bytes().to_vec()),
            Kind::CachePolicy => name_of(self.cache_policy).as_bytes().to_vec(),
            Kind::Password => self.requirepass.clone(),
            Kind::Bind => self.bind.clone().into_bytes(),
            Kind::Always(value) => value.as_bytes().to_vec(),
        }
    }

    fn apply(&mut self, parameter: &Parameter, value: &[u8]) -> Result<(), String> {
        match parameter.kind {
            Kind::Number {
                limit, min, max, ..
            } => {
                let number = number::parse_i64(value)
                    .ok_or("argument couldn't be parsed into an integer")?;
                let number = u64::try_from(number)
                    .ok()
                    .filter(|n| (min..=max).contains(n));
                self.set_limit(limit, number.ok_or_else(|| between(min, max))?);
            }
            Kind::Memory {
                limit, min, max, ..
            } => {
                let bytes = number::parse_memory(value).ok_or("argument must be a memory value")?;
                let max = match limit {
                    Limit::BulkBytes => max.min(self.store_value_bytes_max),
                    _ => max,
                };
                match limit {
                    // What suits the machine.
                    Limit::MaxMemory if bytes == 0 => {}
                    Limit::MaxMemory if bytes < min => {
                        return Err(format!("argument must be 0 or at least {min}"));
                    }
                    _ if !(min..=max).contains(&bytes) => return Err(between(min, max)),
                    _ => {}
                }
                self.set_limit(limit, bytes);
            }
            Kind::OutputLimits { .. } => {
                let bytes = parse_output_limits(value)?;
                if let Some(bytes) = bytes {
                    self.set_limit(Limit::ClientOutputBytes, bytes);
                }
            }
            Kind::AppendFsync => {
                self.appendfsync = AppendFsync::NAMES
                    .iter()
                    .find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes()))
                    .map(|(_, value)| *value)
                    .ok_or("argument(s) must be one of the following: everysec, always, no")?;
            }
            Kind::CachePolicy => {
                self.cache_policy = CACHE_POLICIES
                    .iter()
                    .find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes()))
                    .map(|(_, policy)| *policy)
                    .ok_or("argument(s) must be one of the following: s3-fifo, lru, lfu")?;
            }
            Kind::Password => self.requirepass = value.to_vec(),
            Kind::Bind => self.bind = String::from_utf8_lossy(value).into_owned(),
            Kind::Always(only) => {
                if !value.eq_ignore_ascii_case(only.as_bytes()) {
                    return Err(format!("this server only knows '{only}'"));
                }
            }
        }
        Ok(())
    }
}

fn find(name: &[u8]) -> Option<&'static Parameter> {
    PARAMETERS
        .iter()
        .find(|parameter| name.eq_ignore_ascii_case(parameter.name.as_bytes()))
}

fn between(min: u64, max: u64) -> String {
    format!("argument must be between {min} and {max} inclusive")
}

/// `normal hard soft seconds`, other classes too, several in a row. The hard limit of `normal` if it is there.
fn parse_output_limits(value: &[u8]) -> Result<Option<u64>, String> {
    let words: Vec<&[u8]> = value
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .collect();
    let (classes, []) = words.as_chunks::<4>() else {
        return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
    };
    let mut normal = None;
    for [class, hard, soft, seconds] in classes {
        let numbers = (
            number::parse_memory(hard),
            number::parse_memory(soft),
            number::parse_i64(seconds),
        );
        let (Some(hard), Some(soft), Some(0..)) = numbers else {
            return Err(
                "Error in hard, soft or soft_seconds setting in buffer limit configuration."
                    .to_owned(),
            );
        };
        if class.eq_ignore_ascii_case(b"normal") {
            if soft != 0 {
                return Err(
                    "soft limits are not supported: client-output-stall-timeout closes \
                            clients that do not take their replies"
                        .to_owned(),
                );
            }
            normal = Some(hard.min(BUFFER_MAX));
        } else if ![b"slave".as_slice(), b"replica", b"pubsub"]
            .iter()
            .any(|known| class.eq_ignore_ascii_case(known))
        {
            return Err("Invalid client class specified in buffer limit configuration.".to_owned());
        }
    }
    Ok(normal)
}

fn unknown(name: &[u8]) -> ConfigError {
    let mut text = b"ERR Unknown option or number of arguments for CONFIG SET - '".to_vec();
    text.extend_from_slice(name);
    text.push(b'\'');
    ConfigError(text)
}

fn failed(name: &[u8], why: &str) -> ConfigError {
    let mut text = b"ERR CONFIG SET failed (possibly related to argument '".to_vec();
    text.extend_from_slice(name);
    text.extend_from_slice(b"') - ");
    text.extend_from_slice(why.as_bytes());
    ConfigError(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(config: &mut Config, pairs: &[&str]) -> Result<(), String> {
        config
            .set_all(pairs.iter().map(|text| text.as_bytes()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_within_their_bounds() {
        let config = Config::default();
        for parameter in &PARAMETERS {
            let shown = config.show(parameter);
            let mut copy = config.clone();
            copy.apply(parameter, &shown)
                .unwrap_or_else(|why| panic!("{}: {why}", parameter.name));
            assert_eq!(copy.show(parameter), shown);
        }
    }

    #[test]
    fn every_parameter_and_its_default_are_documented() {
        let text = include_str!("../CONFIG.md");
        let config = Config::default();
        let rows: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        assert_eq!(rows.len(), PARAMETERS.len());
        for parameter in &PARAMETERS {
            let start = format!("| `{}` | ", parameter.name);
            let row = rows.iter().find_map(|row| row.strip_prefix(&start));
            let row = row.unwrap_or_else(|| panic!("{} is not documented", parameter.name));
            let default = String::from_utf8(config.show(parameter)).unwrap();
            let of_the_machine =
                parameter.name.starts_with("maxmemory") && row.contains("of the machine");
            let written = if default.is_empty() {
                "empty |".into()
            } else {
                format!("`{default}` |")
            };
            assert!(
                of_the_machine || row.starts_with(&written),
                "{}: {default}",
                parameter.name
            );
        }
    }

    #[test]
    fn several_are_set_all_or_none() {
        let mut config = Config::default();
        set(&mut config, &["timeout", "5", "MAXMEMORY", "10mb"]).unwrap();
        assert_eq!(config.limit(Limit::IdleSecs), 5);
        assert_eq!(config.limit(Limit::MaxMemory), 10 << 20);
        let error = set(&mut config, &["timeout", "6", "maxmemory", "x"]).unwrap_err();
        assert_eq!(
            error,
            "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value"
        );
        assert_eq!(config.limit(Limit::IdleSecs), 5);
        let error = set(&mut config, &["maxmemory", "1mb"]).unwrap_err();
        assert!(
            error.ends_with("argument must be 0 or at least 2097152"),
            "{error}"
        );
        let error = set(&mut config, &["cache-policy", "mru"]).unwrap_err();
        assert!(error.ends_with("s3-fifo, lru, lfu"), "{error}");
        set(&mut config, &["cache-policy", "LFU", "maxmemory", "0"]).unwrap();
        assert_eq!(config.store_settings().cache_policy, CachePolicy::Lfu);
        let error = set(&mut config, &["timeout", "6", "timeout", "7"]).unwrap_err();
        assert!(error.ends_with("duplicate parameter"), "{error}");
        let error = set(&mut config, &["nope", "6"]).unwrap_err();
        assert_eq!(
            error,
            "ERR Unknown option or number of arguments for CONFIG SET - 'nope'"
        );
        let error = set(&mut config, &["port", "6"]).unwrap_err();
        assert!(error.ends_with("can't set immutable config"), "{error}");
    }

    #[test]
    fn output_limits_as_redis_spells_them() {
        let mut config = Config::default();
        let name = "client-output-buffer-limit";
        set(&mut config, &[name, "normal 1mb 0 0 slave 1 2 3"]).unwrap();
        assert_eq!(config.limit(Limit::ClientOutputBytes), 1 << 20);
        for wrong in [
            "normal 1",
            "x 1 2 3",
            "normal a 0 0",
            "normal 1mb 1 0",
            "normal 1mb 0 -1",
        ] {
            assert!(set(&mut config, &[name, wrong]).is_err(), "{wrong}");
        }
        assert_eq!(config.limit(Limit::ClientOutputBytes), 1 << 20);
    }

    #[test]
    fn globs_find_names() {
        let config = Config::default();
        let found = config.get_matching(&[b"max*".as_slice(), b"maxclients"].into_iter());
        let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "maxclients",
                "maxmemory",
                "maxmemory-clients",
                "maxmemory-policy"
            ]
        );
    }
}

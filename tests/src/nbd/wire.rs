//! The NBD protocol as a server speaks it: fixed newstyle negotiation of one nameless export, then
//! simple replies. Numbers as in the protocol document of the Network Block Device project.
//!
//! It knows nothing of disks; the caller answers requests.

use std::io::{self, Read, Write};

const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
const HANDSHAKE_NO_ZEROES: u16 = 2;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Flags are present, and FLUSH and TRIM are served.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 5;

/// Longest option and longest write a client may send.
const OPTION_BYTES_MAX: u32 = 64 << 10;
const WRITE_BYTES_MAX: u32 = 32 << 20;

/// What the client asks of the disk.
#[derive(Debug)]
pub enum Command {
    /// Send this many bytes.
    Read(u32),
    /// Store these bytes.
    Write(Vec<u8>),
    /// Make completed writes durable.
    Flush,
    /// Forget this many bytes.
    Trim(u32),
    /// A command this server does not know.
    Unknown,
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Echoed in the reply.
    pub handle: u64,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// What to do there.
    pub command: Command,
}

/// An error as the protocol numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ReplyError {
    /// Input/output error.
    Io = 5,
    /// A request that makes no sense.
    Invalid = 22,
}

/// Negotiates until the client enters transmission; false when it leaves instead.
///
/// # Errors
/// When the client breaks the protocol or the connection.
pub fn negotiate(stream: &mut (impl Read + Write), export_bytes: u64) -> io::Result<bool> {
    let flags = HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES;
    let mut hello = Vec::new();
    hello.extend(SERVER_MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(flags.to_be_bytes());
    stream.write_all(&hello)?;
    let client_flags = read_u32(stream)?;
    loop {
        check(read_u64(stream)? == OPTION_MAGIC, "option magic")?;
        let option = read_u32(stream)?;
        let length = read_u32(stream)?;
        check(length <= OPTION_BYTES_MAX, "option length")?;
        io::copy(&mut stream.take(length.into()), &mut io::sink())?;
        match option {
            OPTION_EXPORT_NAME => {
                let mut export = Vec::new();
                export.extend(export_bytes.to_be_bytes());
                export.extend(TRANSMISSION_FLAGS.to_be_bytes());
                if client_flags & u32::from(HANDSHAKE_NO_ZEROES) == 0 {
                    export.extend([0; 124]);
                }
                stream.write_all(&export)?;
                return Ok(true);
            }
            OPTION_INFO | OPTION_GO => {
                let mut export = Vec::new();
                export.extend(INFO_EXPORT.to_be_bytes());
                export.extend(export_bytes.to_be_bytes());
                export.extend(TRANSMISSION_FLAGS.to_be_bytes());
                reply_option(stream, option, REPLY_INFO, &export)?;
                let mut sizes = Vec::new();
                sizes.extend(INFO_BLOCK_SIZE.to_be_bytes());
                for size in [512, 4096, WRITE_BYTES_MAX] {
                    sizes.extend(size.to_be_bytes());
                }
                reply_option(stream, option, REPLY_INFO, &sizes)?;
                reply_option(stream, option, REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                reply_option(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => reply_option(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

/// The next request; none when the client leaves.
///
/// # Errors
/// When the client breaks the protocol or the connection.
pub fn read_request(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let magic = match read_u32(stream) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    check(magic == REQUEST_MAGIC, "request magic")?;
    let [_, _, kind_high, kind_low] = read_u32(stream)?.to_be_bytes();
    let handle = read_u64(stream)?;
    let offset = read_u64(stream)?;
    let bytes = read_u32(stream)?;
    let command = match u16::from_be_bytes([kind_high, kind_low]) {
        0 => Command::Read(bytes),
        1 => {
            check(bytes <= WRITE_BYTES_MAX, "write length")?;
            let mut data = vec![0; bytes as usize];
            stream.read_exact(&mut data)?;
            Command::Write(data)
        }
        2 => return Ok(None),
        3 => Command::Flush,
        4 => Command::Trim(bytes),
        _ => Command::Unknown,
    };
    Ok(Some(Request {
        handle,
        offset,
        command,
    }))
}

/// Answers a request; `data` follows a read that succeeded.
///
/// # Errors
/// When the connection breaks.
pub fn write_reply(
    stream: &mut impl Write,
    handle: u64,
    result: Result<Vec<u8>, ReplyError>,
) -> io::Result<()> {
    let error = result.as_ref().err().map_or(0, |error| *error as u32);
    let mut reply = Vec::new();
    reply.extend(REPLY_MAGIC.to_be_bytes());
    reply.extend(error.to_be_bytes());
    reply.extend(handle.to_be_bytes());
    reply.extend(result.unwrap_or_default());
    stream.write_all(&reply)
}

fn reply_option(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut reply = Vec::new();
    reply.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend(length.to_be_bytes());
    reply.extend(data);
    stream.write_all(&reply)
}

fn read_u32(stream: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn check(condition: bool, what: &str) -> io::Result<()> {
    if condition {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("NBD client: bad {what}"),
    ))
}

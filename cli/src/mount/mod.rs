//! `siltstone mount`: an image as a directory of the host.
//!
//! fuser's thread takes the kernel's requests and hands them over ([`bridge`]); the executor runs one task for each
//! ([`volume`]), and counts them: no more than [`TASKS_MAX`] are at work, the rest waits. The end comes from
//! outside (`umount`) or by a signal. Then what the kernel still holds in its cache is written, the directory is
//! unmounted, everything is made durable, and the image closed.

mod attributes;
mod bridge;
mod errno;
mod volume;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use lfs::host::{Access, interrupted};
use rustix::mount::{UnmountFlags, unmount};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

use self::bridge::{Bridge, Job};
use self::volume::Mounted;
use crate::arguments::{Mount, MountSwitch};
use crate::error::{About as _, Outcome, complain};
use crate::image::{Image, end_at_second_signal};

/// Requests that wait for the executor.
const JOBS_MAX: usize = 64;

/// Requests at work, each with at most a mebibyte of data.
const TASKS_MAX: u32 = 64;

/// How long requests that were begun may go on after the mount was abandoned.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) async fn mount(arguments: Mount) -> Outcome<()> {
    let name = &arguments.image.name;
    let switches = arguments.options.as_slice();
    let read_only = arguments.read_only || last(switches, MountSwitch::Ro, MountSwitch::Rw, false);
    let read_only = read_only || name.snapshot.is_some();
    let access = if read_only {
        Access::Read
    } else {
        Access::Write
    };
    let image = Image::open(&name.path, access).await?;
    let tree = image.tree(name.snapshot.as_deref())?;
    let mounted = Rc::new(Mounted::new(Rc::clone(image.volume()), tree, read_only));

    let (sender, jobs) = channel(JOBS_MAX);
    let options = options(&name.to_string(), switches, read_only);
    let shown = arguments.directory.display();
    let outcome = match Mountpoint::new(Bridge::new(sender), &arguments.directory, &options) {
        Ok(mountpoint) => {
            end_at_second_signal();
            // Whoever waited for it may have gone; others use the mount.
            let _ = writeln!(io::stdout(), "siltstone: {name} is mounted on {shown}");
            serve(&mounted, jobs, mountpoint).await.about(&shown)
        }
        Err(error) => Err(error).about(&shown),
    };
    mounted.forget_all();
    if !read_only {
        drop(mounted);
        image.close().await?;
    }
    outcome
}

/// What the kernel is to do.
fn options(source: &str, switches: &[MountSwitch], read_only: bool) -> Config {
    use MountSwitch::{Dev, Exec, Nodev, Noexec, Nosuid, Suid};
    let either = |yes, no, default, on, off| {
        if last(switches, yes, no, default) {
            on
        } else {
            off
        }
    };
    let mut config = Config::default();
    config.acl = if rustix::process::geteuid().is_root() {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.mount_options = vec![
        MountOption::FSName(source.to_owned()),
        MountOption::Subtype("siltstone".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        if read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
        either(Suid, Nosuid, false, MountOption::Suid, MountOption::NoSuid),
        either(Dev, Nodev, false, MountOption::Dev, MountOption::NoDev),
        either(Exec, Noexec, true, MountOption::Exec, MountOption::NoExec),
    ];
    config
}

/// Which of two opposite switches was given last.
fn last(switches: &[MountSwitch], yes: MountSwitch, no: MountSwitch, default: bool) -> bool {
    let mut given = switches.iter().rev();
    let found = given.find(|switch| **switch == yes || **switch == no);
    found.map_or(default, |switch| *switch == yes)
}

/// Serves the kernel until it has unmounted, or nobody can reach the mount any more.
async fn serve(
    mounted: &Rc<Mounted>,
    mut jobs: Receiver<Job>,
    mut mountpoint: Mountpoint,
) -> io::Result<()> {
    let tasks = Arc::new(Semaphore::new(TASKS_MAX as usize));
    let stop = interrupted();
    tokio::pin!(stop);
    let mut leaving: Option<JoinHandle<Left>> = None;
    let mut abandoned = false;
    loop {
        tokio::select! {
            next = next_job(&mut jobs, &tasks) => {
                // Without a sender there is no session any more.
                let Some((job, permit)) = next else { break };
                let work = job(Rc::clone(mounted));
                tokio::task::spawn_local(async move {
                    work.await;
                    drop(permit);
                });
            }
            () = &mut stop, if mountpoint.is_ours() => {
                // Unmounting makes requests, which this loop serves meanwhile.
                leaving = mountpoint.leave();
            }
            left = async { leaving.as_mut()?.await.ok() }, if leaving.is_some() => {
                leaving = None;
                match left {
                    // The session ends by itself.
                    Some(Left::Unmounted) => {}
                    Some(Left::Detached) | None => {
                        complain("the mount is still in use; what is open there fails from now on");
                        abandoned = true;
                        break;
                    }
                }
            }
        }
    }
    jobs.close();
    // All that was begun comes to its end; what nobody can get the answer of any more, if it does so soon.
    let ended = tasks.acquire_many(TASKS_MAX);
    if abandoned {
        let _ = tokio::time::timeout(GRACE, ended).await;
        Ok(())
    } else {
        let _ = ended.await;
        mountpoint.outcome().await
    }
}

async fn next_job(
    jobs: &mut Receiver<Job>,
    tasks: &Arc<Semaphore>,
) -> Option<(Job, OwnedSemaphorePermit)> {
    let permit = Arc::clone(tasks).acquire_owned().await.ok()?;
    Some((jobs.recv().await?, permit))
}

/// The place where an image is mounted, and the thread that listens to the kernel.
struct Mountpoint {
    directory: PathBuf,
    unmounter: Option<SessionUnmounter>,
    ended: oneshot::Receiver<io::Result<()>>,
}

/// How a mount was left.
enum Left {
    /// Nobody used it.
    Unmounted,
    /// It is not reachable any more, but somebody has files open.
    Detached,
}

impl Mountpoint {
    fn new(bridge: Bridge, directory: &std::path::Path, options: &Config) -> io::Result<Self> {
        let directory = directory.canonicalize()?;
        if !directory.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut session = Session::new(bridge, &directory, options)?;
        let unmounter = session.unmount_callable();
        let (sender, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("kernel".to_owned())
            .spawn(move || {
                // Nobody listens when the mount was abandoned.
                let _ = sender.send(session.run());
            })?;
        Ok(Self {
            directory,
            unmounter: Some(unmounter),
            ended,
        })
    }

    /// Whether nobody has begun to unmount it here.
    fn is_ours(&self) -> bool {
        self.unmounter.is_some()
    }

    /// Unmounts on a thread that may wait for the executor.
    fn leave(&mut self) -> Option<JoinHandle<Left>> {
        let mut unmounter = self.unmounter.take()?;
        let directory = self.directory.clone();
        Some(tokio::task::spawn_blocking(move || {
            // What programs wrote through mappings may still be in the kernel's cache only.
            if let Ok(root) = File::open(&directory) {
                let _ = rustix::fs::syncfs(&root);
            }
            if unmounter.unmount().is_ok() {
                return Left::Unmounted;
            }
            let _ = unmount(&directory, UnmountFlags::DETACH);
            Left::Detached
        }))
    }

    /// How the session ended.
    async fn outcome(self) -> io::Result<()> {
        let unheard = |_| Err(io::Error::other("the kernel's requests are not heard"));
        end_of(self.ended.await.unwrap_or_else(unheard))
    }
}

/// How a session ended, by what its last read gave.
fn end_of(read: io::Result<()>) -> io::Result<()> {
    match read {
        // The kernel was just handing a request over when it unmounted. Otherwise it says that there is no device, which counts as the end already.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_switch_counts() {
        use MountSwitch::{Nosuid, Ro, Rw, Suid};
        assert!(!last(&[], Ro, Rw, false));
        assert!(last(&[Ro], Ro, Rw, false));
        assert!(!last(&[Ro, Suid, Rw], Ro, Rw, false));
        assert!(last(&[Nosuid, Suid], Suid, Nosuid, false));
    }

    /// A tool that had done all it should said that its connection was aborted.
    #[test]
    fn a_request_that_was_just_handed_over_is_no_failure_of_the_unmount() {
        let of = |kind: io::ErrorKind| end_of(Err(kind.into())).map_err(|error| error.kind());
        assert_eq!(of(io::ErrorKind::ConnectionAborted), Ok(()));
        assert!(end_of(Ok(())).is_ok());
        for kind in [io::ErrorKind::InvalidData, io::ErrorKind::PermissionDenied] {
            assert_eq!(of(kind), Err(kind));
        }
    }

    #[test]
    fn nothing_on_an_image_gains_privileges_unless_asked() {
        let has = |switches: &[MountSwitch], option| {
            options("disk", switches, false)
                .mount_options
                .contains(&option)
        };
        assert!(has(&[], MountOption::NoSuid));
        assert!(has(&[], MountOption::NoDev));
        assert!(has(&[], MountOption::DefaultPermissions));
        assert!(has(&[MountSwitch::Suid], MountOption::Suid));
    }
}

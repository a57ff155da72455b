//! A worker without a plugin: locks itself down as for one, tries what no plugin may do, and says in one line of
//! JSON what came of it. For `doctor` and for tests; nothing that it tries does harm where it succeeds.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::{net::UnixStream, process::CommandExt},
    process::Command,
    thread,
};

use super::{WORKER_ARGUMENT, lockdown::Lockdown};
use crate::model::{
    Limits,
    lockdown::{Attempt, AttemptOutcome, Piece, Probe},
};

/// The third argument of a process that was started only to be started.
const NOTHING: &str = "nothing";
/// The third argument of what ran instead of a probe that could run another program; the report so far follows.
const EXECUTED: &str = "executed";
/// More memory than any worker gets, in MiB.
const MUCH: usize = 1024;

/// How much of the lock-down holds while a probe tries its walls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walls {
    /// Nothing: shows that an attempt would succeed.
    None,
    /// What is taken before the source is read: Landlock and no_new_privs.
    First,
    /// Everything, as for a plugin.
    All,
}

impl Walls {
    /// As the third argument of a worker.
    pub(super) fn argument(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::First => "first",
            Self::All => "all",
        }
    }

    fn parse(argument: &str) -> Option<Self> {
        [Self::None, Self::First, Self::All].into_iter().find(|walls| walls.argument() == argument)
    }
}

/// The name of the abstract socket that listens beside a TCP port.
pub(super) fn abstract_name(port: u16) -> String {
    format!("jarvis-bridge-probe-{port}")
}

/// Runs a probe; `bridge` is its parent's id, `told` the port on which that listens, or the report so far.
/// Gives the process's exit code.
pub(super) fn run(bridge: u32, walls: &str, told: Option<&str>) -> i32 {
    let told = told.unwrap_or_default();
    match (walls, Walls::parse(walls)) {
        (NOTHING, _) => 0,
        (EXECUTED, _) => match serde_json::from_str(told) {
            Ok(probe) => report(executed(probe)),
            Err(error) => refuse(&error),
        },
        (_, Some(walls)) => match lock(bridge, walls) {
            Ok(probe) => report(explore(probe, bridge, told.parse().unwrap_or(0))),
            Err(error) => refuse(&error),
        },
        (_, None) => refuse(&"a worker has no such walls"),
    }
}

fn lock(bridge: u32, walls: Walls) -> Result<Probe, super::child::ChildError> {
    super::child::settle()?;
    let mut probe = Probe { lacks: Vec::new(), landlock: 0, attempts: Vec::new(), memory: 0 };
    if walls == Walls::None {
        probe.lacks = Piece::ALL.to_vec();
        return Ok(probe);
    }
    let lockdown = Lockdown::begin(bridge)?;
    probe.landlock = lockdown.landlock;
    if walls == Walls::All {
        probe.lacks = lockdown.finish(Limits::default().memory)?;
    }
    Ok(probe)
}

/// Tries everything; running another program comes last, since it would be the end of this one.
fn explore(mut probe: Probe, bridge: u32, port: u16) -> Probe {
    probe.memory = memory();
    let mut attempts = vec![
        attempt("open /etc/passwd", fs::File::open("/etc/passwd")),
        attempt("open /proc/self/environ", fs::File::open("/proc/self/environ")),
        attempt("list /", fs::read_dir("/")),
    ];
    attempts.extend(write_in_tmp());
    attempts.extend(reach_out(port));
    attempts.extend(touch_processes(bridge));
    probe.attempts.extend(attempts);
    probe.attempts.push(attempt("run another program", execute(bridge, &probe)));
    probe.attempts.push(attempt("be traced", nix::sys::ptrace::traceme()));
    probe
}

/// What this process does once it runs as another program.
fn executed(mut probe: Probe) -> Probe {
    probe.attempts.push(attempt("run another program", Ok::<_, io::Error>(())));
    probe.attempts.push(attempt("be traced", nix::sys::ptrace::traceme()));
    probe
}

/// Writes, makes and removes under names that are nobody's.
fn write_in_tmp() -> Vec<Attempt> {
    let name = format!("/tmp/jarvis-bridge-probe-{}", std::process::id());
    let directory = format!("{name}.d");
    vec![
        attempt("write a file", fs::write(&name, "x")),
        attempt("remove a file", fs::remove_file(&name)),
        attempt("make a directory", fs::create_dir(&directory)),
        attempt("remove a directory", fs::remove_dir(&directory)),
    ]
}

fn reach_out(port: u16) -> Vec<Attempt> {
    let abstract_socket = || {
        use std::os::linux::net::SocketAddrExt;
        UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(abstract_name(port))?)
    };
    vec![
        attempt("connect over TCP", TcpStream::connect((Ipv4Addr::LOCALHOST, port))),
        attempt("listen on a TCP port", TcpListener::bind((Ipv4Addr::LOCALHOST, 0))),
        attempt("make a UDP socket", UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))),
        attempt("connect to an abstract socket", abstract_socket()),
        attempt("make a socket pair", UnixStream::pair()),
    ]
}

fn touch_processes(bridge: u32) -> Vec<Attempt> {
    let child = || {
        // Inherited files, so that nothing has to be opened first.
        let started =
            Command::new("/proc/self/exe").args([WORKER_ARGUMENT, &bridge.to_string(), NOTHING]).spawn();
        started.and_then(|mut child| child.wait())
    };
    let bridge = i32::try_from(bridge).ok().and_then(rustix::process::Pid::from_raw);
    let signal = || {
        let bridge = bridge.ok_or(io::ErrorKind::InvalidInput)?;
        // It makes only those go on that had been stopped.
        rustix::process::kill_process(bridge, rustix::process::Signal::CONT).map_err(io::Error::from)
    };
    let trace = || {
        let bridge = bridge.ok_or(io::ErrorKind::InvalidInput)?;
        let bridge = nix::unistd::Pid::from_raw(bridge.as_raw_nonzero().get());
        // Does not stop the other, and ends with this process.
        nix::sys::ptrace::seize(bridge, nix::sys::ptrace::Options::empty()).map_err(io::Error::from)
    };
    vec![
        attempt("start a process", child()),
        attempt("start a thread", thread::Builder::new().spawn(|| ()).map(|thread| thread.join().is_ok())),
        attempt("send a signal to the bridge", signal()),
        attempt("trace the bridge", trace()),
    ]
}

/// Comes back only where it fails.
fn execute(bridge: u32, so_far: &Probe) -> io::Result<()> {
    let so_far = serde_json::to_string(so_far).map_err(io::Error::other)?;
    let bridge = bridge.to_string();
    Err(Command::new("/proc/self/exe").args([WORKER_ARGUMENT, &bridge, EXECUTED, &so_far]).exec())
}

/// How many MiB this process gets, up to `MUCH`; gives them back.
fn memory() -> usize {
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(MUCH);
    while taken.len() < MUCH {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(1 << 20).is_err() {
            break;
        }
        taken.push(piece);
    }
    taken.len()
}

fn attempt<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> Attempt {
    let outcome = match result.map_err(Into::into) {
        Ok(_) => AttemptOutcome::Done,
        Err(error) if is_refusal(&error) => AttemptOutcome::Refused,
        Err(error) => AttemptOutcome::Failed(error.to_string()),
    };
    Attempt { what: what.into(), outcome }
}

/// Want of permission, or a limit: no further descriptor, no further process. Anything else proves nothing.
fn is_refusal(error: &io::Error) -> bool {
    use nix::libc::{EACCES, EAGAIN, EMFILE, EPERM};
    matches!(error.raw_os_error(), Some(EPERM | EACCES | EMFILE | EAGAIN))
}

fn report(probe: Probe) -> i32 {
    match serde_json::to_writer(io::stdout().lock(), &probe) {
        Ok(()) => 0,
        Err(error) => refuse(&error),
    }
}

fn refuse(reason: &dyn std::fmt::Display) -> i32 {
    eprintln!("worker: {reason}");
    1
}

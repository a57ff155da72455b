//! What a probe tries: files, sockets, processes, signals, tracing, other programs.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::Command,
    thread,
};

use nix::{
    libc::{EACCES, EAGAIN, EMFILE, EPERM},
    sys::ptrace,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{DIRECTORY, EXECUTED, FILE, NOTHING, Targets, abstract_name};
use crate::{
    model::lockdown::{Attempt, AttemptOutcome, Probe},
    worker::WORKER_ARGUMENT,
};

/// Tries everything. Running another program comes last, since it would be the end of this one.
pub(super) fn all(probe: &mut Probe, targets: &Targets) {
    let Targets { bridge, port, place } = targets;
    probe.attempts = [read_files(), change_files(place), reach_out(*port), touch_processes(*bridge)].concat();
    let run = attempt("run another program", execute(*bridge, probe));
    probe.attempts.extend([run, attempt("be traced", ptrace::traceme())]);
}

/// The rest, tried by the other program.
pub(super) fn executed(probe: &mut Probe) {
    let run = attempt("run another program", Ok::<_, io::Error>(()));
    probe.attempts.extend([run, attempt("be traced", ptrace::traceme())]);
}

fn read_files() -> Vec<Attempt> {
    vec![
        attempt("open /etc/passwd", fs::File::open("/etc/passwd")),
        attempt("open /proc/self/environ", fs::File::open("/proc/self/environ")),
        attempt("list /", fs::read_dir("/")),
    ]
}

/// Makes what is not there and follows no link; removes what was put there for that.
fn change_files(place: &Path) -> Vec<Attempt> {
    vec![
        attempt("write a file", fs::File::create_new(place.join("new"))),
        attempt("remove a file", fs::remove_file(place.join(FILE))),
        attempt("make a directory", fs::create_dir(place.join("new.d"))),
        attempt("remove a directory", fs::remove_dir(place.join(DIRECTORY))),
    ]
}

fn reach_out(port: u16) -> Vec<Attempt> {
    let abstract_socket = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(abstract_name(port))?);
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
    let bridge = i32::try_from(bridge).ok().and_then(Pid::from_raw);
    let signal = || {
        let bridge = bridge.ok_or(io::ErrorKind::InvalidInput)?;
        // It makes only those go on that had been stopped.
        kill_process(bridge, Signal::CONT).map_err(io::Error::from)
    };
    let trace = || {
        let bridge = bridge.ok_or(io::ErrorKind::InvalidInput)?;
        let bridge = nix::unistd::Pid::from_raw(bridge.as_raw_nonzero().get());
        // Does not stop the other, and ends with this process.
        ptrace::seize(bridge, ptrace::Options::empty()).map_err(io::Error::from)
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
    matches!(error.raw_os_error(), Some(EPERM | EACCES | EMFILE | EAGAIN))
}

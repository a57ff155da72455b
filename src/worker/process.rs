//! Starting, reading, writing and ending one worker process. Knows bytes and frames, not calls.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::oneshot,
};

use super::{
    WORKER_ARGUMENT,
    ending::Ending,
    frames::{self, FrameError},
};
use crate::model::frame::FromWorker;

/// A buffer that grew beyond this for one large frame is given back.
const KEPT_BUFFER: usize = 64 * 1024;
/// The buffer grows by this, or doubles, but never beyond the frame that is on its way: a header that promises much
/// costs nothing until the bytes come.
const CHUNK: usize = 16 * 1024;
/// How long a worker whose pipe has closed may take to end by itself, so that its own reason is the one that is told.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a killed worker is waited for. One that is stuck in the kernel is reaped later.
const DEATHBED: Duration = Duration::from_secs(2);

/// Starts and reaps workers on a thread of its own: the parent-death signal of a worker fires when the
/// *thread* that started it ends, so that thread must live as long as the bridge. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spawner {
    orders: std_mpsc::Sender<Order>,
    /// Whether it was said what of the lock-down does not hold: true of all workers, so said once.
    warned: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Order {
    /// With these arguments after those of every worker.
    Spawn(Vec<String>, oneshot::Sender<io::Result<Child>>),
    End(Dying),
}

/// A worker on its way out.
#[derive(Debug)]
struct Dying {
    child: Child,
    /// When it is killed; nothing once it was.
    kill_at: Option<Instant>,
    killed: bool,
    reply: Option<oneshot::Sender<Dead>>,
}

/// A worker that has ended.
#[derive(Debug)]
struct Dead {
    status: ExitStatus,
    /// Whether it lived until it was killed for that.
    killed: bool,
}

impl Spawner {
    /// Starts the thread. `executable` must call [`super::enter`] first in its `main`; without one, this
    /// process's own executable is used.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start(executable: Option<PathBuf>) -> io::Result<Self> {
        // `current_exe` names a deleted file after an upgrade in place; this link does not.
        let own = || match cfg!(target_os = "linux") {
            true => Ok(PathBuf::from("/proc/self/exe")),
            false => std::env::current_exe(),
        };
        let executable = executable.map_or_else(own, Ok)?;
        let (orders, queue) = std_mpsc::channel();
        std::thread::Builder::new()
            .name("spawner".into())
            .stack_size(256 * 1024)
            .spawn(move || serve(&executable, &queue))?;
        Ok(Self { orders, warned: Arc::default() })
    }

    pub(super) async fn spawn(&self) -> io::Result<Process> {
        self.spawn_with(Vec::new()).await
    }

    pub(super) async fn spawn_with(&self, arguments: Vec<String>) -> io::Result<Process> {
        let (reply, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts workers has ended");
        self.orders.send(Order::Spawn(arguments, reply)).map_err(|_| gone())?;
        Process::over(child.await.map_err(|_| gone())??, self.clone())
    }

    fn warns_first(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}

/// The thread's loop. It never waits for a worker: one that takes its time to die is asked again, and starting one
/// waits only until the kernel has taken up our own executable, before any code of a plugin is there.
fn serve(executable: &PathBuf, queue: &std_mpsc::Receiver<Order>) {
    let mut dying: Vec<Dying> = Vec::new();
    loop {
        let order = match dying.is_empty() {
            true => queue.recv().map_err(|_| std_mpsc::RecvTimeoutError::Disconnected),
            false => queue.recv_timeout(Duration::from_millis(2)),
        };
        match order {
            Ok(Order::Spawn(arguments, reply)) => {
                // Whoever asked and went away gets no worker: the child is dropped and reaped.
                if let Err(Ok(child)) = reply.send(start(executable, &arguments)) {
                    dying.push(Dying::new(child, Instant::now(), None));
                }
            }
            Ok(Order::End(worker)) => dying.push(worker),
            Err(std_mpsc::RecvTimeoutError::Timeout) => {}
            Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
        }
        dying.retain_mut(Dying::lives);
    }
}

impl Dying {
    fn new(child: Child, kill_at: Instant, reply: Option<oneshot::Sender<Dead>>) -> Self {
        Self { child, kill_at: Some(kill_at), killed: false, reply }
    }

    /// Looks after it once. False where there is nothing left to do.
    fn lives(&mut self) -> bool {
        let ended = has_ended(&self.child);
        if !ended && self.kill_at.is_some_and(|kill_at| Instant::now() < kill_at) {
            return true;
        }
        if self.kill_at.take().is_some() {
            // Also where it has ended: it may have left children, and its number is taken until it is reaped.
            self.kill();
            self.killed = !ended;
        }
        match self.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                let dead = Dead { status, killed: self.killed };
                // Who asked may have given up.
                let _ = self.reply.take().map(|reply| reply.send(dead));
                false
            }
            Err(_) => false,
        }
    }

    /// Kills it with all that it started: each worker leads a process group of its own.
    fn kill(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // Both fail only where nobody is left.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.kill();
    }
}

/// Whether a child has ended, without reaping it.
fn has_ended(child: &Child) -> bool {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error means that there is no such child any more.
    waitid(WaitId::Pid(Pid::from_child(child)), options).map_or(true, |status| status.is_some())
}

fn start(executable: &PathBuf, arguments: &[String]) -> io::Result<Child> {
    Command::new(executable)
        .arg0("jarvis-worker")
        .arg(WORKER_ARGUMENT)
        .arg(std::process::id().to_string())
        .args(arguments)
        .env_clear()
        .current_dir("/")
        // Ctrl-C in a terminal goes to the whole process group; workers must live for their `on_shutdown`. The
        // session stays the bridge's: see the lock-down's `NICE`.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// One worker process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    id: u32,
    child: Option<Child>,
    deathbed: Option<Deathbed>,
    spawner: Spawner,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

/// A worker whose end is waited for.
#[derive(Debug)]
struct Deathbed {
    dead: oneshot::Receiver<Dead>,
    words: Option<std::process::ChildStderr>,
    until: Instant,
}

impl Process {
    fn over(mut child: Child, spawner: Spawner) -> io::Result<Self> {
        let missing = || io::Error::other("a worker without its pipes");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        Ok(Self {
            id: child.id(),
            reader: Reader::over(pipe::Receiver::from_owned_fd(output.into())?),
            writer: Writer::over(pipe::Sender::from_owned_fd(input.into())?),
            child: Some(child),
            deathbed: None,
            spawner,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether nobody has warned of the lock-down yet in this run.
    pub(super) fn warns_first(&self) -> bool {
        self.spawner.warns_first()
    }

    /// Whether it is known to end, so that nothing more reaches it.
    pub(super) fn is_ending(&self) -> bool {
        self.child.is_none() || self.writer.is_broken()
    }

    /// Kills it. That it has died is the spawner's business; nobody waits for it here.
    pub(super) fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            // It fails only where the bridge is about to end, and its workers with it.
            let _ = self.spawner.orders.send(Order::End(Dying::new(child, Instant::now(), None)));
        }
    }

    /// Lets it end by itself, now that its pipe is closed, and says how it did; nothing where it had to be killed.
    /// Cancel-safe.
    pub(super) async fn ended(&mut self) -> Option<Ending> {
        if let Some(mut child) = self.child.take() {
            let (words, kill_at) = (child.stderr.take(), Instant::now() + PATIENCE);
            let (reply, dead) = oneshot::channel();
            let _ = self.spawner.orders.send(Order::End(Dying::new(child, kill_at, Some(reply))));
            self.deathbed = Some(Deathbed { dead, words, until: kill_at + DEATHBED });
        }
        let Some(Deathbed { dead, words, until }) = &mut self.deathbed else {
            return Some(Ending::unknown());
        };
        // One that is killed and stuck in the kernel is not waited for; it is reaped when it ends.
        let Ok(Ok(Dead { status, killed })) = tokio::time::timeout_at((*until).into(), dead).await else {
            return None;
        };
        (!killed).then(|| Ending::of(status, &words.take().map(read_words).unwrap_or_default()))
    }
}

/// What a dead worker has left on its standard error. Nobody reads that pipe while it lives: once full, it holds up
/// the worker alone. A child that it left behind may still hold the other end, so this takes what is there and does
/// not wait for more.
fn read_words(mut pipe: std::process::ChildStderr) -> String {
    if rustix::io::ioctl_fionbio(&pipe, true).is_err() {
        return String::new();
    }
    let mut text = Vec::new();
    let _ = pipe.by_ref().take(64 * 1024).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The worker's output, frame by frame.
#[derive(Debug)]
pub(super) struct Reader {
    pipe: pipe::Receiver,
    buffer: BytesMut,
}

/// Why there is no further frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("its pipe was closed")]
    Closed,
    #[error("it sent {0}")]
    Garbage(#[from] FrameError),
}

impl Reader {
    fn over(pipe: pipe::Receiver) -> Self {
        Self { pipe, buffer: BytesMut::new() }
    }

    /// All that comes until its end; for what speaks no frames.
    pub(super) async fn rest(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        (&mut self.pipe).take(most).read_to_end(&mut text).await?;
        Ok(text)
    }

    /// The next frame, of at most so many bytes. Cancel-safe: bytes that were read stay in the buffer.
    pub(super) async fn next(&mut self, most: usize) -> Result<FromWorker, ReadError> {
        loop {
            if let Some((frame, used)) = frames::decode_within(&self.buffer, most)? {
                self.buffer.advance(used);
                if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER {
                    self.buffer = BytesMut::new();
                }
                return Ok(frame);
            }
            self.grow();
            match self.pipe.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(ReadError::Closed),
                Ok(_) => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.buffer.capacity()
    }

    /// Makes room for what is still missing of the frame, in steps.
    fn grow(&mut self) {
        let step = self.buffer.len().max(CHUNK);
        let more = frames::missing(&self.buffer).clamp(frames::HEADER, step);
        if self.buffer.capacity() - self.buffer.len() < more {
            self.buffer.reserve(more);
        }
    }
}

/// The worker's input. What it does not take stays here; nothing waits for it.
#[derive(Debug)]
pub(super) struct Writer {
    pipe: pipe::Sender,
    pending: BytesMut,
    pushed: u64,
    broken: bool,
}

impl Writer {
    fn over(pipe: pipe::Sender) -> Self {
        Self { pipe, pending: BytesMut::new(), pushed: 0, broken: false }
    }

    /// Adds a frame to what is to be written; gives its place, for [`Writer::has_written`].
    pub(super) fn push(&mut self, frame: &impl Serialize) -> Result<u64, FrameError> {
        let mut bytes = Vec::new();
        frames::encode(frame, &mut bytes)?;
        self.pending.extend_from_slice(&bytes);
        self.pushed += bytes.len() as u64;
        Ok(self.pushed)
    }

    /// How many bytes the worker has not taken yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether the pipe has taken the frame of this place whole.
    pub(super) fn has_written(&self, place: u64) -> bool {
        self.pushed - self.pending.len() as u64 >= place
    }

    /// Whether the worker has closed its input.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Writes as much as the pipe takes at once. Cancel-safe: a write happens whole or not at all. A broken
    /// pipe is not an error here: answers that came before may still have to be read.
    pub(super) async fn progress(&mut self) {
        match self.pipe.write(&self.pending).await {
            Ok(written) => self.pending.advance(written),
            Err(_) => {
                self.pending.clear();
                self.broken = true;
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > KEPT_BUFFER {
            self.pending = BytesMut::new();
        }
    }
}

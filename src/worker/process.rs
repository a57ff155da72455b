//! Starting, reading, writing and ending one worker process. Knows bytes and frames, not calls.

use std::{
    io::{self, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    time::Duration,
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
    frames::{self, FrameError},
};
use crate::model::frame::FromWorker;

/// A buffer that grew beyond this for one large frame is given back.
const KEPT_BUFFER: usize = 64 * 1024;

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
    Reap(Child, oneshot::Sender<ExitStatus>),
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

/// The thread's loop. It never waits for a worker: one that takes its time to die is asked again.
fn serve(executable: &PathBuf, queue: &std_mpsc::Receiver<Order>) {
    let mut dying: Vec<(Child, Option<oneshot::Sender<ExitStatus>>)> = Vec::new();
    loop {
        let order = match dying.is_empty() {
            true => queue.recv().map_err(|_| std_mpsc::RecvTimeoutError::Disconnected),
            false => queue.recv_timeout(Duration::from_millis(2)),
        };
        match order {
            Ok(Order::Spawn(arguments, reply)) => {
                // Whoever asked and went away gets no worker: the child is dropped and reaped.
                if let Err(Ok(child)) = reply.send(start(executable, &arguments)) {
                    dying.push((kill(child), None));
                }
            }
            Ok(Order::Reap(child, reply)) => dying.push((kill(child), Some(reply))),
            Err(std_mpsc::RecvTimeoutError::Timeout) => {}
            Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
        }
        dying.retain_mut(|(child, reply)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                let _ = reply.take().map(|reply| reply.send(status));
                false
            }
            Err(_) => false,
        });
    }
}

fn kill(mut child: Child) -> Child {
    // It fails only where the child has ended already.
    let _ = child.kill();
    child
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
    spawner: Spawner,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

impl Process {
    fn over(mut child: Child, spawner: Spawner) -> io::Result<Self> {
        let missing = || io::Error::other("a worker without its pipes");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        Ok(Self {
            id: child.id(),
            reader: Reader { pipe: pipe::Receiver::from_owned_fd(output.into())?, buffer: BytesMut::new() },
            writer: Writer { pipe: pipe::Sender::from_owned_fd(input.into())?, pending: BytesMut::new() },
            child: Some(child),
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

    /// Kills it where it still lives, and says in a few words how it ended.
    pub(super) async fn end(&mut self) -> String {
        let Some(mut child) = self.child.take() else { return "it has ended before".into() };
        let mut last_words = child.stderr.take();
        let (reply, status) = oneshot::channel();
        if self.spawner.orders.send(Order::Reap(child, reply)).is_err() {
            return "nobody knows how it ended".into();
        }
        let Ok(status) = status.await else { return "nobody knows how it ended".into() };
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => format!("signal {signal}"),
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "no exit code".into(),
        };
        match last_words.as_mut().map(last_line) {
            Some(text) if !text.is_empty() => format!("{how}: {text}"),
            _ => how,
        }
    }
}

/// What a dead worker has left on its standard error, at most one line of it. The pipe's other end is
/// closed, so this does not wait.
fn last_line(pipe: &mut std::process::ChildStderr) -> String {
    let mut text = Vec::new();
    let _ = pipe.take(64 * 1024).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
    line.chars().filter(|character| !character.is_control()).take(300).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let (reply, _) = oneshot::channel();
            let _ = self.spawner.orders.send(Order::Reap(child, reply));
        }
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
    /// All that comes until its end; for what speaks no frames.
    pub(super) async fn rest(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        (&mut self.pipe).take(most).read_to_end(&mut text).await?;
        Ok(text)
    }

    /// The next frame. Cancel-safe: bytes that were read stay in the buffer.
    pub(super) async fn next(&mut self) -> Result<FromWorker, ReadError> {
        loop {
            if let Some((frame, used)) = frames::decode(&self.buffer)? {
                self.buffer.advance(used);
                if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER {
                    self.buffer = BytesMut::new();
                }
                return Ok(frame);
            }
            self.buffer.reserve(4096);
            match self.pipe.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(ReadError::Closed),
                Ok(_) => {}
            }
        }
    }
}

/// The worker's input. What it does not take stays here; nothing waits for it.
#[derive(Debug)]
pub(super) struct Writer {
    pipe: pipe::Sender,
    pending: BytesMut,
}

impl Writer {
    /// Adds a frame to what is to be written.
    pub(super) fn push(&mut self, frame: &impl Serialize) -> Result<(), FrameError> {
        let mut bytes = Vec::new();
        frames::encode(frame, &mut bytes)?;
        self.pending.extend_from_slice(&bytes);
        Ok(())
    }

    /// How many bytes the worker has not taken yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Writes as much as the pipe takes at once. Cancel-safe: a write happens whole or not at all. A broken
    /// pipe is not an error here; the reader learns of the end too.
    pub(super) async fn progress(&mut self) {
        match self.pipe.write(&self.pending).await {
            Ok(written) => self.pending.advance(written),
            Err(_) => self.pending.clear(),
        }
        if self.pending.is_empty() && self.pending.capacity() > KEPT_BUFFER {
            self.pending = BytesMut::new();
        }
    }
}

//! The worker's side of the pipe: reads frames, runs the plugin's VM, writes frames. One thread, blocking; knows
//! nothing of what its requests do.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    mem::ManuallyDrop,
    os::fd::AsFd,
    rc::Rc,
    thread,
};

use serde_json::value::RawValue;

use super::{
    frames::{FrameError, decode, encode},
    lockdown::{LockError, Lockdown},
};
use crate::{
    lua::{Link, Vm},
    model::{
        ErrorCode, Failure,
        frame::{FromWorker, Load, Loaded, LogLine, Refusal, Request, ToWorker},
        lockdown::Piece,
    },
};

/// What Lua's deepest nesting of calls may take: 200 levels, each through a function of ours.
pub(super) const STACK: usize = 8 * 1024 * 1024;
/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// A buffer that grew beyond this for one large frame gives the rest back: it counts among the worker's memory.
const KEPT_BUFFER: usize = 256 * 1024;

/// Why a worker ended before its pipe did.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChildError {
    #[error("the pipe to the bridge broke: {0}")]
    Pipe(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the bridge sent {0}, which has no place here")]
    Unexpected(&'static str),
    #[error("the pipe ended within a frame")]
    Truncated,
    #[error("the pipe ended while a call waited for an answer")]
    Gone,
}

/// Runs a worker on standard input and output until its input ends; `bridge` is the id of the process that
/// started it.
///
/// Gives the process's exit code; a reason to end early is a line on standard error.
#[must_use]
pub fn run(bridge: u32) -> i32 {
    match settle().and_then(|()| serve_stdio(bridge)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("worker: {error}");
            1
        }
    }
}

/// A name. Else `ps` shows the link that it was started by.
pub(super) fn settle() -> Result<(), ChildError> {
    #[cfg(target_os = "linux")]
    rustix::thread::set_name(c"jarvis-worker").map_err(io::Error::from)?;
    Ok(())
}

/// Runs in this thread where its stack is large enough, so that the process has one thread and its CPU time is
/// the VM's; else in a thread with such a stack.
fn with_stack(work: impl FnOnce() -> Result<(), ChildError> + Send + 'static) -> Result<(), ChildError> {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_STACK);
    if limit.is_ok_and(|(current, _)| current >= STACK as u64) {
        return work();
    }
    let thread = thread::Builder::new().name("plugin".into()).stack_size(STACK).spawn(work)?;
    thread.join().unwrap_or(Err(ChildError::Unexpected("what made the plugin's thread panic")))
}

/// What is taken first is taken while there is one thread, and the plugin's inherits it.
fn serve_stdio(bridge: u32) -> Result<(), ChildError> {
    let lockdown = Lockdown::begin(bridge)?;
    with_stack(move || {
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        serve(input, output, |heap| lockdown.finish(heap))
    })
}

/// Loads the plugin of the first frame and answers calls until the input ends. `lock` takes the rest of the
/// system away for a Lua heap of that many bytes, before anything of the plugin is looked at.
fn serve(
    input: impl Read + 'static,
    output: impl Write + 'static,
    lock: impl FnOnce(usize) -> Result<Vec<Piece>, LockError>,
) -> Result<(), ChildError> {
    let pipe = Rc::new(Pipe(RefCell::new(Ends::new(Box::new(input), Box::new(output)))));
    let load = match pipe.next()? {
        None => return Ok(()),
        Some(ToWorker::Load(load)) => load,
        Some(other) => return Err(unexpected(&other)),
    };
    let lacks = lock(load.limits.memory)?;
    if !lacks.is_empty() {
        pipe.send(&FromWorker::Lacks(lacks))?;
    }
    let Some(vm) = load_plugin(*load, &pipe)? else { return Ok(()) };
    while let Some(frame) = pipe.next()? {
        match frame {
            ToWorker::Snapshot(snapshot) => vm.restore(snapshot),
            ToWorker::Call(call) => {
                let done = vm.call(&call);
                pipe.check()?;
                pipe.send(&FromWorker::Done(done))?;
            }
            ToWorker::Load(_) | ToWorker::Answer(_) => return Err(unexpected(&frame)),
        }
    }
    Ok(())
}

/// Runs the source and says so. Gives nothing where no VM could be made: the bridge ends such a worker.
fn load_plugin(load: Load, pipe: &Rc<Pipe>) -> Result<Option<ManuallyDrop<Vm>>, ChildError> {
    let plugin = load.about.id.clone();
    match Vm::build(load, Rc::clone(pipe) as Rc<dyn Link>) {
        Ok((vm, source)) => {
            // Closing a state runs what a hostile plugin left in it; the end of the process does not.
            let vm = ManuallyDrop::new(vm);
            let loaded = vm.load(&source);
            pipe.check()?;
            pipe.send(&FromWorker::Loaded(loaded))?;
            Ok(Some(vm))
        }
        Err(error) => {
            let failure = Failure::new(ErrorCode::Unavailable, format!("plugin `{plugin}`: {error}"));
            pipe.send(&FromWorker::Loaded(Loaded { hooks: Vec::new(), result: Err(failure) }))?;
            Ok(None)
        }
    }
}

fn unexpected(frame: &ToWorker) -> ChildError {
    ChildError::Unexpected(match frame {
        ToWorker::Load(_) => "a second source",
        ToWorker::Snapshot(_) => "a snapshot before the source",
        ToWorker::Call(_) => "a call before the source",
        ToWorker::Answer(_) => "an answer that nobody waits for",
    })
}

/// Both ends of the pipe to the bridge.
struct Pipe(RefCell<Ends>);

struct Ends {
    input: Box<dyn Read>,
    output: Box<dyn Write>,
    /// What was read and not yet taken; `taken` bytes of it were.
    read: Vec<u8>,
    taken: usize,
    chunk: Box<[u8]>,
    written: Vec<u8>,
    /// Frames that came while a request waited. The bridge bounds them: it writes only a few calls ahead.
    queue: VecDeque<ToWorker>,
    /// What broke while plugin code ran; told once it has ended.
    broken: Option<ChildError>,
}

impl Pipe {
    /// The next frame, or nothing at the end of the input.
    fn next(&self) -> Result<Option<ToWorker>, ChildError> {
        let mut ends = self.0.borrow_mut();
        match ends.queue.pop_front() {
            Some(frame) => Ok(Some(frame)),
            None => ends.read_frame(),
        }
    }

    fn send(&self, frame: &FromWorker) -> Result<(), ChildError> {
        self.0.borrow_mut().write_frame(frame)
    }

    /// Fails where the pipe broke while plugin code ran.
    fn check(&self) -> Result<(), ChildError> {
        self.0.borrow_mut().broken.take().map_or(Ok(()), Err)
    }
}

impl Link for Pipe {
    fn ask(&self, request: Request) -> Result<Box<RawValue>, Refusal> {
        let mut ends = self.0.borrow_mut();
        ends.ask(request).unwrap_or_else(|error| {
            ends.broken.get_or_insert(error);
            Err(Refusal::Mistake("the bridge does not answer any more".into()))
        })
    }

    fn log(&self, line: LogLine) {
        let mut ends = self.0.borrow_mut();
        if let Err(error) = ends.write_frame(&FromWorker::Log(line)) {
            ends.broken.get_or_insert(error);
        }
    }
}

impl Ends {
    fn new(input: Box<dyn Read>, output: Box<dyn Write>) -> Self {
        Self {
            input,
            output,
            read: Vec::new(),
            taken: 0,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            written: Vec::new(),
            queue: VecDeque::new(),
            broken: None,
        }
    }

    fn ask(&mut self, request: Request) -> Result<Result<Box<RawValue>, Refusal>, ChildError> {
        if self.broken.is_some() {
            return Ok(Err(Refusal::Mistake("the bridge does not answer any more".into())));
        }
        let number = request.number;
        self.write_frame(&FromWorker::Request(request))?;
        loop {
            match self.read_frame()?.ok_or(ChildError::Gone)? {
                ToWorker::Answer(answer) if answer.number == number => return Ok(answer.result),
                frame @ (ToWorker::Call(_) | ToWorker::Snapshot(_)) => self.queue.push_back(frame),
                frame @ (ToWorker::Answer(_) | ToWorker::Load(_)) => return Err(unexpected(&frame)),
            }
        }
    }

    fn read_frame(&mut self) -> Result<Option<ToWorker>, ChildError> {
        loop {
            if let Some((frame, bytes)) = decode(self.read.get(self.taken..).unwrap_or_default())? {
                self.taken += bytes;
                if self.taken > KEPT_BUFFER {
                    self.drop_taken();
                    self.read.shrink_to(KEPT_BUFFER);
                }
                return Ok(Some(frame));
            }
            self.drop_taken();
            match self.input.read(&mut self.chunk) {
                Ok(0) if self.read.is_empty() => return Ok(None),
                Ok(0) => return Err(ChildError::Truncated),
                Ok(bytes) => self.read.extend_from_slice(self.chunk.get(..bytes).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn drop_taken(&mut self) {
        self.read.drain(..self.taken);
        self.taken = 0;
    }

    fn write_frame(&mut self, frame: &FromWorker) -> Result<(), ChildError> {
        encode(frame, &mut self.written)?;
        let sent = self.output.write_all(&self.written).and_then(|()| self.output.flush());
        self.written.clear();
        self.written.shrink_to(KEPT_BUFFER);
        Ok(sent?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeReader, PipeWriter, Read, Write, pipe},
        thread::JoinHandle,
    };

    use serde_json::{Value, json};

    use super::{ChildError, Ends, KEPT_BUFFER, serve};
    use crate::{
        model::frame::{FromWorker, LogLine, ToWorker},
        worker::frames::{decode, encode},
    };

    /// The bridge's ends of a worker that runs in a thread.
    struct Bridge {
        to: Option<PipeWriter>,
        from: PipeReader,
        read: Vec<u8>,
        worker: JoinHandle<Result<(), ChildError>>,
    }

    impl Bridge {
        fn start(source: &str) -> Self {
            let (input, to) = pipe().unwrap();
            let (from, output) = pipe().unwrap();
            let worker = std::thread::Builder::new()
                .stack_size(8 << 20)
                .spawn(move || serve(input, output, |_| Ok(Vec::new())))
                .unwrap();
            let mut bridge = Self { to: Some(to), from, read: Vec::new(), worker };
            bridge.send(&load(source));
            bridge
        }

        fn send(&mut self, frame: &Value) {
            let mut bytes = Vec::new();
            encode(frame, &mut bytes).unwrap();
            self.to.as_ref().unwrap().write_all(&bytes).unwrap();
        }

        fn receive(&mut self) -> Value {
            loop {
                if let Some((frame, bytes)) = decode::<Value>(&self.read).unwrap() {
                    self.read.drain(..bytes);
                    return frame;
                }
                let mut chunk = [0; 4096];
                let bytes = self.from.read(&mut chunk).unwrap();
                assert!(bytes > 0, "the worker ended");
                self.read.extend_from_slice(&chunk[..bytes]);
            }
        }

        fn end(mut self) -> Result<(), ChildError> {
            self.to = None;
            self.worker.join().unwrap()
        }
    }

    fn load(source: &str) -> Value {
        json!({"load": {
            "about": {"id": "p", "name": "P", "version": "1.0.0", "author": "A", "description": "D"},
            "chunk": "p.lua", "source": source, "permissions": [], "timezone": "UTC", "base_topic": "jarvis",
            "limits": {
                "cpu_ms": 250, "wall_ms": 5000, "total_ms": 60000, "memory": 16 << 20, "result": 262_144, "depth": 32,
                "nodes": 20000, "outputs": 64, "http": 32, "requests": 1000, "logs_per_second": 50, "state": 1 << 20, "handlers": 64, "timers": 64,
                "mailbox": 256, "backlog": 10000
            },
            "snapshot": {"state": {"a": 1}, "config": {}, "overrides": {}}
        }})
    }

    fn call(number: u64, hook: &str, input: &Value) -> Value {
        json!({"call": {"number": number, "target": {"hook": hook}, "input": {"value": input}}})
    }

    #[test]
    fn a_plugin_is_loaded_and_called_until_the_pipe_ends() {
        let mut bridge =
            Bridge::start("jarvis.log('up') function on_chat(m) return {m.n, jarvis.state.get('a')} end");
        assert_eq!(bridge.receive(), json!({"log": {"level": "info", "message": "up"}}));
        assert_eq!(bridge.receive(), json!({"loaded": {"hooks": ["on_chat"], "result": {"Ok": []}}}));
        bridge.send(&call(1, "on_chat", &json!({"n": 7})));
        let done = bridge.receive();
        assert_eq!(done["done"]["outcome"], json!({"value": [7, 1]}));
        bridge.send(&json!({"snapshot": {"state": {"a": 2}, "config": {}, "overrides": {}}}));
        bridge.send(&call(2, "on_chat", &json!({"n": 8})));
        bridge.send(&call(3, "on_command", &json!({})));
        assert_eq!(bridge.receive()["done"]["outcome"], json!({"value": [8, 2]}));
        let done = bridge.receive();
        assert_eq!((&done["done"]["call"], &done["done"]["outcome"]), (&json!(3), &json!("missing")));
        assert!(bridge.end().is_ok());
    }

    #[test]
    fn calls_wait_behind_a_call_that_waits() {
        let mut bridge = Bridge::start("function on_chat(m) if m.wait then jarvis.sleep(1) end return m end");
        bridge.receive();
        bridge.send(&call(1, "on_chat", &json!({"wait": true})));
        assert_eq!(
            bridge.receive(),
            json!({"request": {"call": 1, "number": 1, "operation": {"sleep": 1000}}})
        );
        bridge.send(&call(2, "on_chat", &json!({"n": 2})));
        bridge.send(&call(3, "on_chat", &json!({"n": 3})));
        bridge.send(&json!({"answer": {"number": 1, "result": {"Ok": null}}}));
        for number in 1..=3 {
            assert_eq!(bridge.receive()["done"]["call"], number);
        }
        assert!(bridge.end().is_ok());
    }

    #[test]
    fn a_source_that_fails_says_why() {
        let mut bridge = Bridge::start("error('no')");
        let loaded = bridge.receive();
        let message = &loaded["loaded"]["result"]["Err"]["message"];
        assert_eq!(message, "plugin `p`: loading failed: p.lua:1: no");
        assert!(bridge.end().is_ok());
    }

    #[test]
    fn what_has_no_place_ends_the_worker() {
        let end = |frame: Value, expect: &str| {
            let mut bridge = Bridge::start("function on_chat() jarvis.sleep(1) return {} end");
            bridge.receive();
            bridge.send(&frame);
            let error = bridge.end().unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        end(json!({"answer": {"number": 1, "result": {"Ok": null}}}), "an answer that nobody waits for");
        end(load(""), "a second source");
        end(json!({"nonsense": 1}), "not understood");
        // The pipe ends while a call waits: nobody is there to take its result.
        end(call(1, "on_chat", &json!({})), "while a call waited");
    }

    #[test]
    fn an_answer_to_another_question_ends_the_worker() {
        let mut bridge = Bridge::start("function on_chat() return jarvis.command('x') end");
        bridge.receive();
        bridge.send(&call(1, "on_chat", &json!({})));
        bridge.receive();
        bridge.send(&json!({"answer": {"number": 9, "result": {"Ok": null}}}));
        let error = bridge.end().unwrap_err().to_string();
        assert!(error.contains("an answer that nobody waits for"), "{error}");
    }

    #[test]
    fn a_large_frame_leaves_no_large_buffer() {
        let mut bytes = Vec::new();
        let answer = |text: String| json!({"answer": {"number": 1, "result": {"Ok": text}}});
        encode(&answer("x".repeat(4 << 20)), &mut bytes).unwrap();
        encode(&answer("small".into()), &mut bytes).unwrap();
        let mut ends = Ends::new(Box::new(std::io::Cursor::new(bytes)), Box::new(std::io::sink()));
        for length in [4 << 20, 5] {
            let Ok(Some(ToWorker::Answer(answer))) = ends.read_frame() else { unreachable!() };
            assert_eq!(answer.result.unwrap().get().len(), length + 2);
            assert!(ends.read.capacity() <= KEPT_BUFFER, "{}", ends.read.capacity());
        }
        assert!(ends.read_frame().unwrap().is_none());
        let line = json!({"level": "info", "message": "x".repeat(4 << 20)});
        let line: LogLine = serde_json::from_value(line).unwrap();
        ends.write_frame(&FromWorker::Log(line)).unwrap();
        assert!(ends.written.capacity() <= KEPT_BUFFER, "{}", ends.written.capacity());
    }
}

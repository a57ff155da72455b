//! Puts hostile plugins beside a well-behaved one and sees what becomes of them all. Knows no single trick.

use std::{
    fmt::Write as _,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, PATIENCE, Publish, Setup, difference, plugin_source};

/// One hostile plugin: what it tries, what sets it off, and what must come of it.
pub(super) struct Case {
    /// Its id and its command.
    name: String,
    header: String,
    top: String,
    body: String,
    trigger: Trigger,
    end: End,
}

/// What sets a plugin off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Its command.
    Command,
    /// An event that bears its name.
    Event,
    /// A timer of its own.
    Timer,
    /// A message of a filter of its own.
    Message,
    /// Its file's top level; it never becomes ready.
    Load,
    /// Its `on_startup`; it never becomes ready.
    Startup,
}

/// What must come of it. Whatever it is, the plugin answers its next command.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// Its time is up, in place, on the line that bears `-- here`: the same VM goes on.
    Stopped,
    /// Its time is up, and only a kill can have ended it: the next VM is a fresh one.
    Killed,
    /// Its time is up, one way or the other.
    TimedOut,
    /// Its memory is up: the next VM is a fresh one.
    Exhausted,
    /// Its time or its memory is up, whichever came first.
    Ended,
    /// It fails like any mistake, with this code and this part of the sentence: the same VM goes on.
    Fails(&'static str, &'static str),
    /// It does nobody any harm, and its result has this JSON.
    Answers(&'static str),
    /// Whatever it is, as long as somebody answers.
    Bounded,
}

/// A plugin whose command runs `body`.
pub(super) fn case(name: &str, end: End, body: &str) -> Case {
    let [header, top] = [const { String::new() }; 2];
    Case { name: name.into(), header, top, body: body.into(), trigger: Trigger::Command, end }
}

impl Case {
    /// With code at the file's top level.
    pub(super) fn top(mut self, code: &str) -> Self {
        self.top = code.into();
        self
    }

    /// With one more line in its header.
    pub(super) fn header(mut self, line: &str) -> Self {
        self.header = format!("{}-- {line}\n", self.header);
        self
    }

    /// Set off by something else than its command.
    pub(super) fn on(mut self, trigger: Trigger) -> Self {
        self.trigger = trigger;
        self
    }

    /// `on_command` stands first, so that nothing the plugin does to its globals keeps us from asking it.
    fn source(&self) -> String {
        let Self { name, header, top, body, .. } = self;
        let attack = match self.trigger {
            Trigger::Command => format!("function attack(cmd)\n{body}\nend"),
            Trigger::Event => format!("jarvis.events.on('{name}', function(data, event)\n{body}\nend)"),
            Trigger::Timer => {
                format!("function attack() jarvis.timer.after(0, function()\n{body}\nend) return {{}} end")
            }
            Trigger::Message => format!("function on_mqtt(m)\n{body}\nend"),
            Trigger::Load => body.clone(),
            Trigger::Startup => format!("function on_startup()\n{body}\nend"),
        };
        let filter = if self.trigger == Trigger::Message {
            format!("-- @subscribe hit/{name}\n")
        } else {
            String::new()
        };
        plugin_source(
            name,
            &format!(
                "-- @commands {name}\n{header}{filter}local attack\nlocal calls = 0\nfunction on_command(cmd)\n  \
                 if cmd.name ~= '{name}' then return nil end\n  calls = calls + 1\n  if cmd.args.probe then return {{ calls = calls }} end\n  return attack(cmd)\n\
                 end\n{top}\n{attack}\n"
            ),
        )
    }

    /// The places that bear `-- here`, as an error names them.
    fn marked(&self) -> Vec<String> {
        let source = self.source();
        let lines = (1..).zip(source.lines()).filter(|(_, line)| line.contains("-- here"));
        lines.map(|(number, _)| format!("{}.lua:{number}", self.name)).collect()
    }

    /// What is wrong with the envelope of its command.
    fn envelope_fault(&self, envelope: &Value) -> Option<String> {
        if let End::Answers(data) = self.end {
            let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{data}: {error}"));
            return difference(envelope, &json!({ "status": "ok", "data": data }));
        }
        if matches!(self.end, End::Bounded) {
            return None;
        }
        let (code, error) = (envelope["code"].as_str(), envelope["error"].as_str());
        let (Some(code), Some(error)) = (code, error) else { return Some("it does not fail".into()) };
        if error.contains('\n') {
            return Some("has several lines for who asked".into());
        }
        self.failure_fault(Some(code), error)
    }

    /// What is wrong with the code and the sentence that it failed with.
    fn failure_fault(&self, code: Option<&str>, error: &str) -> Option<String> {
        let (codes, part): (&[&str], &str) = match self.end {
            End::Stopped | End::Killed | End::TimedOut => (&["timeout"], "limits.hook_"),
            End::Exhausted => (&["memory_limit"], "limits.memory"),
            End::Ended => (&["timeout", "memory_limit"], "limits."),
            End::Fails(code, part) => (&[code], part),
            End::Answers(_) | End::Bounded => (&[], ""),
        };
        let wrong_code = code.is_some_and(|code| !codes.contains(&code));
        let unnamed = !matches!(self.end, End::Fails(..)) && !error.contains(&format!("`{}`", self.name));
        let places = self.marked();
        let unplaced = !places.is_empty() && !places.iter().any(|place| error.contains(place.as_str()));
        if wrong_code || unnamed || unplaced || !error.contains(part) {
            return Some(format!("wants {codes:?}, `{part}`, its name, one of {places:?}"));
        }
        is_forged(error).then(|| "has control characters in its error".into())
    }

    /// How many calls its VM must have seen after the next one; nothing where both ends are good.
    fn calls(&self) -> Option<u64> {
        match self.end {
            End::Stopped | End::Fails(..) | End::Answers(_) => Some(2),
            End::Killed | End::Exhausted => Some(1),
            End::TimedOut | End::Ended | End::Bounded => None,
        }
    }
}

/// Held by whoever measures time, so that the other tests of this folder do not run meanwhile; the others share it.
static QUIET: RwLock<()> = RwLock::new(());

/// A bridge with the hostile and the good.
pub(super) struct Stage {
    pub(super) jarvis: Bridge,
    /// How often the good one was asked, and has answered in order.
    asked: u64,
    _quiet: Quiet,
}

/// A place in that lock until this is dropped.
enum Quiet {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// Counts what it is asked.
pub(super) const GOOD: &str = "
-- @commands count
local calls = 0
function on_command(cmd)
    if cmd.name ~= 'count' then return nil end
    calls = calls + 1
    return { calls = calls, kept = jarvis.state.incr('n'), tag = cmd.args.tag, response = ('x'):upper() }
end
";

/// Starts a bridge with these plugins and the good one.
pub(super) fn start(cases: &[Case]) -> Stage {
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let setup =
        cases.iter().fold(setup, |setup, case| setup.file(&format!("{}.lua", case.name), &case.source()));
    Stage::of(setup)
}

/// Runs each of these cases beside the good plugin, and sees afterwards that nobody else came to harm.
pub(super) fn run(cases: &[Case]) {
    let mut stage = start(cases);
    let faults: Vec<String> = cases.iter().filter_map(|case| stage.run(case)).collect();
    stage.unharmed();
    let ready = cases.iter().filter(|case| !matches!(case.trigger, Trigger::Load | Trigger::Startup));
    for case in ready {
        assert_eq!(stage.info(&case.name)["state"], "ready", "{}", case.name);
    }
    assert!(faults.is_empty(), "{} of {} cases fail:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

impl Stage {
    /// The same with what else a setup has; the good plugin must be in it.
    pub(super) fn of(setup: Setup) -> Self {
        let guard = QUIET.read().unwrap_or_else(PoisonError::into_inner);
        Self { jarvis: setup.start(), asked: 0, _quiet: Quiet::Shared { _guard: guard } }
    }

    /// The same while no other stage stands.
    pub(super) fn undisturbed(setup: Setup) -> Self {
        let guard = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        Self { jarvis: setup.start(), asked: 0, _quiet: Quiet::Alone { _guard: guard } }
    }

    /// Sets one plugin off while the good one goes on answering; says what is wrong.
    fn run(&mut self, case: &Case) -> Option<String> {
        let mut fault = String::new();
        let seen = match case.trigger {
            Trigger::Command | Trigger::Timer => self.run_command(case),
            Trigger::Event | Trigger::Message => self.run_callback(case),
            Trigger::Load | Trigger::Startup => return self.refused(case),
        };
        if let Err(what) = seen {
            _ = write!(fault, "{}: {what}", case.name);
        }
        self.ask_good();
        let probe = self.attack(&case.name, json!({ "probe": true }));
        let calls = probe.as_ref().and_then(|probe| probe["data"]["calls"].as_u64());
        if calls.is_none() || case.calls().is_some_and(|wanted| calls != Some(wanted)) {
            let wanted = case.calls();
            _ = write!(fault, "{}: afterwards {calls:?} calls, not {wanted:?}: {probe:?}", case.name);
        }
        (!fault.is_empty()).then_some(fault)
    }

    fn run_command(&mut self, case: &Case) -> Result<(), String> {
        let envelope = self.attack(&case.name, json!({})).ok_or("nobody answers")?;
        if case.trigger == Trigger::Timer {
            return self.failed_later(case);
        }
        let size = envelope.to_string().len();
        if size > 1024 * 1024 {
            return Err(format!("an envelope of {size} bytes"));
        }
        let fault = case.envelope_fault(&envelope);
        fault.map_or(Ok(()), |fault| Err(format!("{fault}\n    in {envelope:.600}")))
    }

    fn run_callback(&mut self, case: &Case) -> Result<(), String> {
        self.attack(&case.name, json!({ "probe": true })).ok_or("nobody answers beforehand")?;
        match case.trigger {
            Trigger::Event => self.jarvis.publish(&format!("jarvis/event/request/{}", case.name), "{}"),
            _ => self.jarvis.publish(&format!("hit/{}", case.name), "{}"),
        }
        self.failed_later(case)
    }

    /// Waits for the failure of a callback that nobody is answered for.
    fn failed_later(&mut self, case: &Case) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            self.ask_good();
            let info = self.info(&case.name);
            if let Some(error) = info["last_error"].as_str() {
                let fault = case.failure_fault(None, error);
                return fault.map_or(Ok(()), |fault| Err(format!("{fault}\n    in {error}")));
            }
            last = Some(info);
        }
        Err(format!("no error is shown: {last:?}"))
    }

    fn refused(&mut self, case: &Case) -> Option<String> {
        self.ask_good();
        let info = self.info(&case.name);
        let fault = match info["last_error"].as_str() {
            Some(error) if info["state"] == "error" => case.failure_fault(None, error),
            _ => Some("it is not refused".into()),
        };
        fault.map(|fault| format!("{}: {fault}\n    in {info}", case.name))
    }

    /// Sends a command, asks the good plugin until it is answered, and gives the envelope.
    pub(super) fn attack(&mut self, name: &str, args: Value) -> Option<Value> {
        let topic = format!("jarvis/reply/attack/{name}");
        let mut publish = Publish::new(&format!("jarvis/command/request/{name}"), args);
        publish.properties.response_topic = Some(topic.clone());
        self.jarvis.send(publish);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.ask_good();
            if let Some(answer) = self.jarvis.next_within(Duration::from_millis(20), &topic) {
                return Some(answer.json());
            }
        }
        None
    }

    /// The good plugin answers, once for each question and in order.
    #[track_caller]
    pub(super) fn ask_good(&mut self) {
        self.asked += 1;
        let answer = self.jarvis.run("count", json!({ "tag": self.asked }));
        let expected = json!({ "calls": self.asked, "kept": self.asked, "tag": self.asked, "response": "X" });
        assert_eq!(answer, expected, "the good plugin came to harm");
    }

    /// Sees that the bridge and the good plugin are what they were. The harness never starts a bridge twice:
    /// one that answers is the one that was started.
    #[track_caller]
    pub(super) fn unharmed(&mut self) {
        self.ask_good();
        let info = self.info("good");
        let expected = json!({
            "state": "ready", "last_error": null, "health": { "errors": 0, "timeouts": 0 },
        });
        assert_eq!(difference(&info, &expected), None);
        let log = self.jarvis.log.text();
        assert!(!log.contains("panicked"), "a part of the bridge has panicked");
        let highest = memory(self.jarvis.process_id(), "VmHWM");
        assert!(highest < 256 * 1024, "the bridge took {highest} kB at most");
    }

    /// What the bridge says of a plugin.
    #[track_caller]
    pub(super) fn info(&self, id: &str) -> Value {
        self.jarvis.ask("bridge/request/plugin/info", id)["data"].take()
    }
}

/// A figure of a process's memory in kB, as `/proc/<id>/status` names it.
pub(super) fn memory(process: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Whether a text could draw on a terminal, or pass for several. A traceback has lines of its own.
pub(super) fn is_forged(text: &str) -> bool {
    text.chars().any(|character| character.is_control() && character != '\n')
}

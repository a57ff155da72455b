//! How long a well-behaved plugin's answers take while two others attack at once, on the same cores.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    cpu::Usage,
    stage::{GOOD, Stage},
};
use crate::harness::{Broker, Client, PATIENCE, Setup, say, workers_of};

/// What an answer may take longer than all but the slowest of a hundred alone.
const MORE: Duration = Duration::from_millis(50);
/// Questions alone, and twice as many beside the attackers, in each round.
const QUESTIONS: usize = 400;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
/// One round in which every answer is in time shows that the bridge can do it; what it cannot do, it cannot do in
/// any. A machine that does something else for a moment spoils a round and not the test.
const ROUNDS: usize = 6;
/// A machine of which others take more than this part says little about the slowest answer.
const CROWDED: f64 = 0.15;

/// Stopped in place, again and again. Every fourth call ends well: else its circuit breaker would spare us.
const HOG: &str = "
-- @commands hog
local calls = 0
function on_command(cmd)
    if cmd.name ~= 'hog' then return nil end
    calls = calls + 1
    if calls % 4 == 0 then return {} end
    while true do end
end
";
/// A crowd of timers, each of which takes nearly all the CPU it may.
const TIMERS: &str = "
local function busy()
    local began = jarvis.time.ms()
    while jarvis.time.ms() - began < 200 do end
end
for i = 1, 16 do jarvis.timer.every(0.1, busy) end
";
/// Plugins that hang until they are killed: three kills would switch one off.
const HANGING: usize = 40;

fn hangs(number: usize) -> String {
    format!(
        "-- @commands hang{number}\nfunction on_command(cmd) if cmd.name == 'hang{number}' then \
         ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40)) end end"
    )
}

/// Times of answers, sorted.
struct Times(Vec<Duration>);

impl Times {
    /// Asks the good plugin one question after another.
    fn measure(stage: &mut Stage, questions: usize) -> Self {
        let mut times = Vec::with_capacity(questions);
        for _ in 0..questions {
            let began = Instant::now();
            stage.ask_good();
            times.push(began.elapsed());
            thread::sleep(PAUSE);
        }
        times.sort_unstable();
        Self(times)
    }

    fn percent(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100) - 1]
    }

    fn show(&self) -> String {
        format!("p50 {:?}, p99 {:?}, at most {:?}", self.percent(50), self.percent(99), self.percent(100))
    }
}

/// One round: alone, then beside the attackers.
struct Round {
    alone: Times,
    beside: Times,
    /// The part of the machine that others took meanwhile.
    others: f64,
}

impl Round {
    fn run(stage: &mut Stage, attacked: impl FnOnce(&mut Stage) -> Times) -> Self {
        let alone = Times::measure(stage, QUESTIONS);
        let before = Usage::read(&stage.jarvis);
        let beside = attacked(stage);
        let others = Usage::read(&stage.jarvis).others_since(&before);
        Self { alone, beside, others }
    }

    fn bound(&self) -> Duration {
        self.alone.percent(99) + MORE
    }

    fn holds(&self, percent: usize) -> bool {
        self.beside.percent(percent) <= self.bound()
    }

    fn show(&self, what: &str) {
        let ratio = self.beside.percent(99).as_secs_f64() / self.alone.percent(99).as_secs_f64();
        say(&format!(
            "{what}: alone {}; beside two attackers {}, the p99 {ratio:.1} times as long; others took {:.0}% of the \
             machine",
            self.alone.show(),
            self.beside.show(),
            self.others * 100.0
        ));
    }
}

/// Runs rounds until one holds. Where the machine was crowded in all of them, 99 answers of a hundred must be in time.
#[track_caller]
fn holds(what: &str, mut round: impl FnMut() -> Round) {
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS {
        let done = round();
        done.show(what);
        if done.holds(100) {
            return;
        }
        rounds.push(done);
    }
    let crowded = rounds.iter().all(|round| round.others > CROWDED);
    assert!(
        crowded && rounds.iter().any(|round| round.holds(99)),
        "{what}: an answer is late in each of {ROUNDS} rounds"
    );
}

/// Sends commands, each as soon as the last one is answered, until it is told to stop.
struct Attacker {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Attacker {
    /// Takes the commands in turn; `next` is where it goes on, and counts them.
    fn start(port: u16, names: Vec<String>, next: &Arc<AtomicUsize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, next) = (stop.clone(), next.clone());
        let thread = thread::spawn(move || {
            let client = Client::v5(port);
            while !stopped.load(Ordering::Relaxed) {
                let name = &names[next.fetch_add(1, Ordering::Relaxed) % names.len()];
                client.publish(&format!("jarvis/command/request/{name}"), json!({}));
                let answer = client.next_within(PATIENCE, &format!("jarvis/command/response/{name}"));
                let code = answer.map(|answer| answer.json()["code"].clone());
                assert!(
                    code.is_some_and(|code| code == "timeout" || code.is_null()),
                    "the attack on `{name}` is over"
                );
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn beside_two_attackers(broker: &Broker, what: &str) {
    let setup = Setup::new(broker).plugin("good", GOOD).plugin("hog", HOG);
    let setup =
        (0..HANGING).fold(setup, |setup, number| setup.plugin(&format!("hangs{number}"), &hangs(number)));
    let mut stage = Stage::undisturbed(setup);
    Times::measure(&mut stage, QUESTIONS / 4);
    let (hogged, hung) = (Arc::default(), Arc::default());
    holds(what, || {
        Round::run(&mut stage, |stage| {
            let port = stage.jarvis.port;
            let hog = Attacker::start(port, vec!["hog".into()], &hogged);
            let hang =
                Attacker::start(port, (0..HANGING).map(|number| format!("hang{number}")).collect(), &hung);
            let times = Times::measure(stage, 2 * QUESTIONS);
            hog.stop();
            hang.stop();
            times
        })
    });
    stage.unharmed();
    assert!(hogged.load(Ordering::Relaxed) > 2 && hung.load(Ordering::Relaxed) > 2, "there was no attack");
}

#[test]
fn answers_beside_a_loop_and_a_hang() {
    beside_two_attackers(&Broker::Embedded, "latency");
}

#[test]
fn answers_beside_a_loop_and_a_hang_through_mosquitto() {
    if let Some(broker) = Broker::mosquitto() {
        beside_two_attackers(&broker, "latency through mosquitto");
    }
}

/// Timers hog without anybody's asking. The file that brings them comes and goes.
#[test]
fn answers_beside_hogging_timers() {
    let mut stage = Stage::undisturbed(Setup::new(&Broker::Embedded).plugin("good", GOOD));
    let heard = |stage: &Stage, kind: &str| {
        for id in ["timers_one", "timers_two"] {
            stage.jarvis.expect("jarvis/bridge/event", json!({ "type": kind, "data": { "id": id } }));
        }
    };
    Times::measure(&mut stage, QUESTIONS / 4);
    holds("latency beside timers", || {
        Round::run(&mut stage, |stage| {
            for id in ["timers_one", "timers_two"] {
                stage.jarvis.write_plugin(id, TIMERS);
            }
            heard(stage, "plugin_loaded");
            let times = Times::measure(stage, 2 * QUESTIONS);
            for id in ["timers_one", "timers_two"] {
                std::fs::remove_file(stage.jarvis.setup().plugins().join(format!("{id}.lua"))).unwrap();
            }
            heard(stage, "plugin_unloaded");
            times
        })
    });
    stage.unharmed();
}

/// What makes the figures above hold on a machine with one core, too: the kernel gives the bridge the CPU first, and
/// takes memory from a worker first.
#[test]
fn workers_come_after_the_bridge() {
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD).plugin("hog", HOG);
    let mut stage = Stage::of(setup);
    stage.ask_good();
    // proc(5): `nice` is the nineteenth field, the seventeenth after the name.
    let nice = |id: u32| -> i64 {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
    };
    let sacrifice = |id: u32| -> i64 {
        let text = std::fs::read_to_string(format!("/proc/{id}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let bridge = stage.jarvis.process_id();
    for worker in workers_of(&stage.jarvis) {
        assert!(nice(worker) > nice(bridge), "{} is no lower priority than {}", nice(worker), nice(bridge));
        assert!(sacrifice(worker) > sacrifice(bridge), "the bridge would be taken before its worker");
    }
    stage.unharmed();
}

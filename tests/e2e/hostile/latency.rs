//! How long a well-behaved plugin's answers take while two others attack at once, on two cores.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::stage::{GOOD, Stage};
use crate::harness::{Broker, Client, PATIENCE, Setup, say};

/// What an answer may take longer than the slowest of a hundred alone.
const MORE: Duration = Duration::from_millis(50);
/// Questions in one measurement.
const QUESTIONS: usize = 600;
/// Between two questions, as a client of flesh has it; without it one slow hook's window would be full at once.
const PAUSE: Duration = Duration::from_millis(2);

/// Stopped in place, again and again.
const HOG: &str = "-- @commands hog\nfunction on_command(cmd) if cmd.name == 'hog' then while true do end end end";
/// A crowd of timers, each of which takes all the CPU it may.
const TIMERS: &str = "for i = 1, 16 do jarvis.timer.every(0.1, function() while true do end end) end";

/// A plugin that hangs until it is killed. Three kills would switch one off, so there are many.
fn hangs(number: usize) -> String {
    format!("-- @commands hang{number}\nfunction on_command(cmd) if cmd.name == 'hang{number}' then ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40)) end end")
}

/// Times of answers, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
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

/// One question, and beside it what the machine itself makes of a message there and back at the same moment.
struct Pair {
    answer: Duration,
    echo: Duration,
}

/// An echo over TCP between two threads of this process: no part of the bridge, but the same cores, at the same
/// priority as the client.
struct Echo(TcpStream);

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    fn time(&mut self) -> Duration {
        let began = Instant::now();
        self.0.write_all(&[1]).unwrap();
        self.0.read_exact(&mut [0]).unwrap();
        began.elapsed()
    }
}

/// Asks the good plugin one question after another, for as long as `go_on` says.
fn measure(stage: &mut Stage, echo: &mut Echo, mut go_on: impl FnMut(usize) -> bool) -> Vec<Pair> {
    let mut pairs = Vec::new();
    while go_on(pairs.len()) {
        // The machine is asked before and after: whoever keeps the cores from us during an answer does so there.
        let before = echo.time();
        let began = Instant::now();
        stage.ask_good();
        let answer = began.elapsed();
        pairs.push(Pair { answer, echo: before.max(echo.time()) });
        thread::sleep(PAUSE);
    }
    pairs
}

fn answers(pairs: &[Pair]) -> Times {
    Times::of(pairs.iter().map(|pair| pair.answer).collect())
}

/// Keeps a plugin busy until it is told to stop: its next command goes out as soon as the last is answered.
fn attack(port: u16, names: Vec<String>, stop: Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let client = Client::v5(port);
        let mut ended = 0;
        for name in names.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
            client.publish(&format!("jarvis/command/request/{name}"), "");
            let answer = client.next_within(PATIENCE, &format!("jarvis/command/response/{name}"));
            ended += usize::from(answer.is_some_and(|answer| answer.json()["code"] == "timeout"));
            // What nobody else takes would pile up in this client.
            drop(client.waiting("jarvis/command/response/count"));
        }
        ended
    })
}

fn stage(broker: &Broker, hanging: usize, more: &[(&str, &str)]) -> Stage {
    let setup = Setup::new(broker).plugin("good", GOOD).plugin("hog", HOG);
    let setup = (0..hanging).fold(setup, |setup, number| setup.plugin(&format!("hangs{number}"), &hangs(number)));
    Stage::of(more.iter().fold(setup, |setup, (id, code)| setup.plugin(id, code)))
}

/// The bound: each answer within 50 ms plus the p99 alone. The machine's own delay at that very moment is granted as
/// well, but no more than one in a hundred may need it: else the machine is too busy to say anything, and that is
/// a failure, too.
#[track_caller]
fn within_bounds(what: &str, alone: &[Pair], beside: &[Pair]) {
    let (quiet, loud) = (answers(alone), answers(beside));
    let ratio = loud.percent(99).as_secs_f64() / quiet.percent(99).as_secs_f64();
    let echoes = Times::of(beside.iter().map(|pair| pair.echo).collect());
    say(&format!(
        "{what}: alone {}; beside two attackers {} over {} answers, p99 {ratio:.1} times as long; the machine's own echo then {}",
        quiet.show(), loud.show(), beside.len(), echoes.show()
    ));
    let bound = quiet.percent(99) + MORE;
    let late: Vec<&Pair> = beside.iter().filter(|pair| pair.answer > bound).collect();
    let excused = late.iter().filter(|pair| pair.answer <= bound + pair.echo).count();
    assert_eq!(late.len(), excused, "{} of {} answers took longer than {bound:?}", late.len(), beside.len());
    assert!(excused * 100 <= beside.len(), "the machine itself was late {excused} times");
}

fn beside_two_attackers(broker: &Broker, name: &str) {
    let hanging = 24;
    let mut stage = stage(broker, hanging, &[]);
    let mut echo = Echo::start();
    measure(&mut stage, &mut echo, |done| done < QUESTIONS / 4);
    let alone = measure(&mut stage, &mut echo, |done| done < QUESTIONS);
    let stop = Arc::new(AtomicBool::new(false));
    let hog = attack(stage.jarvis.port, vec!["hog".into()], stop.clone());
    let kill = attack(stage.jarvis.port, (0..hanging).map(|number| format!("hang{number}")).collect(), stop.clone());
    let beside = measure(&mut stage, &mut echo, |done| done < 2 * QUESTIONS);
    stop.store(true, Ordering::Relaxed);
    let (hogged, killed) = (hog.join().unwrap(), kill.join().unwrap());
    stage.unharmed();
    within_bounds(name, &alone, &beside);
    assert!(hogged > 0 && killed > 2, "there was no attack: {hogged} stops, {killed} kills");
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

/// Timers hog without anybody's asking.
#[test]
fn answers_beside_hogging_timers() {
    let mut quiet = stage(&Broker::Embedded, 0, &[]);
    let mut echo = Echo::start();
    measure(&mut quiet, &mut echo, |done| done < QUESTIONS / 4);
    let alone = measure(&mut quiet, &mut echo, |done| done < QUESTIONS);
    drop(quiet);
    let mut loud = stage(&Broker::Embedded, 0, &[("timers_one", TIMERS), ("timers_two", TIMERS)]);
    loud.jarvis.log.expect("plugin=timers_one hook=");
    loud.jarvis.log.expect("plugin=timers_two hook=");
    let beside = measure(&mut loud, &mut echo, |done| done < QUESTIONS);
    loud.unharmed();
    within_bounds("latency beside timers", &alone, &beside);
}

/// As fast as one client can ask: while one hook runs, hundreds of questions are answered.
#[test]
fn answers_in_a_row_beside_a_loop() {
    let mut stage = stage(&Broker::Embedded, 0, &[]);
    stage.jarvis.publish("jarvis/command/request/hog", json!({}));
    let mut slowest = Duration::ZERO;
    while stage.jarvis.waiting("jarvis/command/response/hog").is_empty() {
        let began = Instant::now();
        stage.ask_good();
        slowest = slowest.max(began.elapsed());
    }
    stage.unharmed();
    say(&format!("latency in a row beside one loop: at most {slowest:?}"));
    assert!(slowest < Duration::from_millis(150), "an answer took {slowest:?}, as long as the loop itself");
}

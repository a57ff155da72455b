//! Sends requests and counts the answers: as fast as a window allows (closed loop), or at a fixed rate whatever
//! the answers do (open loop).

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;

use crate::wire::{self, Packet, Received};

/// Silence after which what is unanswered counts as lost.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a load sends at most.
const LONGEST: Duration = Duration::from_secs(20);
/// How long somebody may take to answer for the first time.
const START: Duration = Duration::from_secs(20);
/// An answer has its id and what proves it within this many bytes.
const HEAD: usize = 160;

/// Who is asked, and for what.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) request: String,
    pub(crate) response: String,
    /// What follows `{"id":…` in a request.
    pub(crate) rest: String,
    /// What a good answer has in its head.
    pub(crate) proof: &'static str,
}

/// How much, how fast.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) qos: u8,
    pub(crate) pace: Pace,
    pub(crate) messages: usize,
}

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// So many requests are unanswered at any time.
    Closed { in_flight: usize },
    /// So many requests are sent each second.
    Open { per_second: u32 },
}

/// What a load came to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Answers per second, the first tenth left out.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) sent: usize,
    pub(crate) faults: Faults,
}

/// What should not happen; only QoS 0 may lose.
#[derive(Default, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) disordered: usize,
    pub(crate) failed: usize,
}

/// What is known of the requests of one load. The thread that sends and the one that receives share it.
struct Book {
    question: Question,
    qos: u8,
    /// The id of the first request; no two loads share one.
    first_id: u64,
    started: Instant,
    /// Nanoseconds after the start.
    sent_at: Vec<AtomicU64>,
    sent: AtomicU64,
    answers: Vec<AtomicU64>,
}

/// What the receiving side counts.
#[derive(Default)]
struct Tally {
    answered: usize,
    highest: usize,
    warm: Option<(usize, Instant)>,
    last: Option<Instant>,
    latencies: Vec<u64>,
    faults: Faults,
}

/// Asks until there is an answer, so that what follows meets somebody who listens.
pub(crate) fn wait_until_answered(address: &str, question: &Question) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut stream = wire::connect(address, &format!("bench-probe-{}", fresh_id()))?;
    wire::subscribe(&mut stream, &question.response, 0)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut received = Received::default();
    while started.elapsed() < START {
        let mut out = Vec::new();
        let payload = format!("{{\"id\":{}{}", fresh_id(), question.rest);
        wire::publish(&mut out, &question.request, None, payload.as_bytes());
        stream.write_all(&out)?;
        if received.fill(&mut stream)?.is_some() && received.next().is_some() {
            return Ok(());
        }
    }
    anyhow::bail!("nobody answers on `{}`", question.response)
}

/// Runs one load.
pub(crate) fn run(address: &str, question: &Question, load: Load) -> anyhow::Result<Outcome> {
    let book = Arc::new(Book::new(question, load));
    let mut receiving = wire::connect(address, &format!("bench-receiver-{}", book.first_id))?;
    wire::subscribe(&mut receiving, &question.response, load.qos)?;
    receiving.set_read_timeout(Some(SILENCE))?;
    // Two connections, so that no acknowledgement of the broker's delays an answer.
    let sending = wire::connect(address, &format!("bench-sender-{}", book.first_id))?;
    let drain = drain(sending.try_clone()?);
    let tally = match load.pace {
        Pace::Closed { in_flight } => closed(&book, &mut receiving, &sending, in_flight)?,
        Pace::Open { per_second } => open(&book, &mut receiving, sending.try_clone()?, per_second)?,
    };
    sending.shutdown(std::net::Shutdown::Both)?;
    drain.join().ok().context("the thread that reads acknowledgements panicked")?;
    Ok(tally.outcome(&book))
}

/// Takes the broker's acknowledgements, which nobody needs.
fn drain(mut stream: TcpStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 16 * 1024];
        while stream.set_read_timeout(None).and_then(|()| stream.read(&mut chunk)).is_ok_and(|read| read > 0)
        {
        }
    })
}

fn closed(
    book: &Book,
    receiving: &mut TcpStream,
    mut sending: &TcpStream,
    in_flight: usize,
) -> anyhow::Result<Tally> {
    let (mut tally, mut received) = (Tally::default(), Received::default());
    let (mut requests, mut acks) = (Vec::new(), Vec::new());
    (0..in_flight).for_each(|_| book.ask(&mut requests));
    sending.write_all(&requests)?;
    while tally.answered < book.sent() && received.fill(receiving)?.is_some() {
        requests.clear();
        acks.clear();
        while let Some(packet) = received.next() {
            if tally.take(book, packet, &mut acks) && book.started.elapsed() < LONGEST {
                book.ask(&mut requests);
            }
        }
        receiving.write_all(&acks)?;
        sending.write_all(&requests)?;
    }
    Ok(tally)
}

fn open(
    book: &Arc<Book>,
    receiving: &mut TcpStream,
    mut sending: TcpStream,
    per_second: u32,
) -> anyhow::Result<Tally> {
    let (mut tally, mut received, mut acks) = (Tally::default(), Received::default(), Vec::new());
    let sender = {
        let book = book.clone();
        thread::spawn(move || -> std::io::Result<()> {
            let mut request = Vec::new();
            for tick in 0..u32::try_from(book.sent_at.len()).unwrap_or(u32::MAX) {
                let due = book.started + Duration::from_secs(1) * tick / per_second;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                request.clear();
                book.ask(&mut request);
                sending.write_all(&request)?;
            }
            Ok(())
        })
    };
    while tally.answered < book.answers.len() && received.fill(receiving)?.is_some() {
        acks.clear();
        while let Some(packet) = received.next() {
            tally.take(book, packet, &mut acks);
        }
        receiving.write_all(&acks)?;
    }
    sender.join().ok().context("the sending thread panicked")??;
    Ok(tally)
}

impl Book {
    fn new(question: &Question, load: Load) -> Self {
        let zeros = || std::iter::repeat_with(AtomicU64::default).take(load.messages).collect();
        Self {
            question: question.clone(),
            qos: load.qos,
            first_id: fresh_id(),
            started: Instant::now(),
            sent_at: zeros(),
            sent: AtomicU64::new(0),
            answers: zeros(),
        }
    }

    /// Appends the next request, where one is left.
    fn ask(&self, out: &mut Vec<u8>) {
        let index = self.sent();
        let Some(sent_at) = self.sent_at.get(index) else { return };
        let payload = format!("{{\"id\":{}{}", self.first_id + index as u64, self.question.rest);
        let packet_id = u16::try_from(index % 65_535 + 1).ok().filter(|_| self.qos > 0);
        wire::publish(out, &self.question.request, packet_id, payload.as_bytes());
        // A request counts from its own sending, not from when it was due: if this thread was woken late,
        // that is not the fault of who answers. Nothing here waits for answers, so none can hide either.
        sent_at.store(self.now(), Ordering::Relaxed);
        self.sent.store(index as u64 + 1, Ordering::Release);
    }

    fn sent(&self) -> usize {
        usize::try_from(self.sent.load(Ordering::Acquire)).unwrap_or(usize::MAX)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Tally {
    /// Takes note of a packet; says whether it was the first answer to a request.
    fn take(&mut self, book: &Book, packet: Packet<'_>, acks: &mut Vec<u8>) -> bool {
        let Packet::Publish { packet_id, payload } = packet else { return false };
        if let Some(packet_id) = packet_id {
            wire::acknowledge(acks, packet_id);
        }
        let head = payload.get(..HEAD).unwrap_or(payload);
        let index = id_of(head).and_then(|id| usize::try_from(id.checked_sub(book.first_id)?).ok());
        let Some((index, answers)) = index.and_then(|index| Some((index, book.answers.get(index)?))) else {
            // An answer to a probe, or to a load before this one.
            return false;
        };
        if answers.fetch_add(1, Ordering::Relaxed) > 0 {
            self.faults.duplicated += 1;
            return false;
        }
        let proof = book.question.proof.as_bytes();
        self.faults.failed += usize::from(!head.windows(proof.len()).any(|window| window == proof));
        self.faults.disordered += usize::from(index < self.highest);
        self.highest = self.highest.max(index);
        self.answered += 1;
        let now = Instant::now();
        self.last = Some(now);
        if self.warm.is_none() && self.answered > book.answers.len() / 10 {
            self.warm = Some((self.answered, now));
        }
        if let Some(sent_at) = book.sent_at.get(index) {
            self.latencies.push(book.now().saturating_sub(sent_at.load(Ordering::Relaxed)));
        }
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
    fn outcome(mut self, book: &Book) -> Outcome {
        let sent = book.sent();
        self.faults.lost = sent - self.answered.min(sent);
        self.latencies.sort_unstable();
        let percentile = |percent: usize| {
            let index = (self.latencies.len() * percent).div_ceil(100).saturating_sub(1);
            Duration::from_nanos(self.latencies.get(index).copied().unwrap_or(0))
        };
        let rate = match (self.warm, self.last) {
            (Some((count, since)), Some(last)) if last > since => {
                (self.answered - count) as f64 / (last - since).as_secs_f64()
            }
            _ => 0.0,
        };
        Outcome { rate, p50: percentile(50), p99: percentile(99), sent, faults: self.faults }
    }
}

/// Microseconds since 1970: no load sends more than one request in each.
fn fresh_id() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// The integer behind `{"id":`.
fn id_of(payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_prefix(b"{\"id\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

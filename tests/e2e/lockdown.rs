//! What the kernel keeps a worker from: tried from inside, and read off a running one from outside.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, on_each_broker, workers_of};

on_each_broker!(
    a_running_worker_is_locked_down,
    the_cap_follows_the_plugins_memory,
    a_worker_that_meets_its_cap_is_out_of_memory_and_nobody_else,
);

/// What a worker finds out about its walls.
struct Probe(Value);

impl Probe {
    fn new(walls: &str) -> Self {
        Self::within(walls, &place())
    }

    fn within(walls: &str, place: &tempfile::TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = SocketAddr::from_abstract_name(format!("jarvis-bridge-probe-{port}")).unwrap();
        let _abstract_listener = UnixListener::bind_addr(&name).unwrap();
        let place = place.path().to_str().unwrap();
        let output = worker(std::process::id(), &[walls, &port.to_string(), place]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice(&output.stdout);
        Self(report.unwrap_or_else(|_| panic!("{}: {error}", output.status)))
    }

    #[track_caller]
    fn check(&self, what: &str, outcome: impl Into<Value>) {
        let attempts = self.0["attempts"].as_array().unwrap();
        let attempt = attempts.iter().find(|attempt| attempt["what"] == what);
        let attempt = attempt.unwrap_or_else(|| panic!("`{what}` was not tried: {:#}", self.0));
        assert_eq!(attempt["outcome"], outcome.into(), "{what}");
    }

    fn landlock(&self) -> u64 {
        self.0["landlock"].as_u64().unwrap()
    }
}

/// A directory with something in it to remove.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    fs::create_dir(place.path().join("directory")).unwrap();
    place
}

/// Runs the program as a worker of that process.
fn worker(bridge: u32, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jarvis-bridge"));
    command.args(["--serve-one-plugin", &bridge.to_string()]).args(arguments).env_clear();
    command.stdin(Stdio::null()).output().unwrap()
}

/// What each attempt needs to be refused by Landlock alone; those with nothing are for seccomp.
const ATTEMPTS: [(&str, Option<u64>); 18] = [
    ("open /etc/passwd", Some(1)),
    ("open /proc/self/environ", Some(1)),
    ("list /", Some(1)),
    ("write a file", Some(1)),
    ("remove a file", Some(1)),
    ("make a directory", Some(1)),
    ("remove a directory", Some(1)),
    ("connect over TCP", Some(4)),
    ("listen on a TCP port", Some(4)),
    ("make a UDP socket", None),
    ("connect to an abstract socket", Some(6)),
    ("make a socket pair", None),
    ("start a process", None),
    ("start a thread", None),
    ("send a signal to the bridge", Some(6)),
    ("trace the bridge", Some(1)),
    ("run another program", Some(1)),
    ("be traced", None),
];

#[test]
fn from_inside_everything_is_refused() {
    let probe = Probe::new("all");
    for (what, _) in ATTEMPTS {
        probe.check(what, "refused");
    }
    assert_eq!(probe.0["attempts"].as_array().unwrap().len(), ATTEMPTS.len());
}

/// Without this the test above would pass where nothing can be done anyway.
#[test]
fn without_the_lock_down_all_of_it_can_be_done() {
    let probe = Probe::new("none");
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    for (what, _) in ATTEMPTS {
        // Yama, where it is on, lets nobody trace a parent.
        if what != "trace the bridge" || matches!(yama.trim(), "" | "0") {
            probe.check(what, "done");
        }
    }
    assert!(probe.0["memory"].as_u64().unwrap() > 200, "{:#}", probe.0);
}

/// `doctor` may be run by root, and where nothing holds the probe can do what root can.
#[test]
fn a_probe_follows_no_link_and_overwrites_nothing() {
    let (place, elsewhere) = (place(), tempfile::tempdir().unwrap());
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, place.path().join("new")).unwrap();
    let probe = Probe::within("none", &place);
    probe.check("write a file", json!({ "failed": "File exists (os error 17)" }));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

/// The version that the kernel offers, asked for without our own code.
fn landlock_of_the_kernel() -> u64 {
    use landlock::{ABI, Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr};
    // It restricts the thread that asks, and no other.
    let ask = || {
        let ruleset =
            Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).unwrap().create().unwrap();
        match ruleset.restrict_self().unwrap().landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi.to_string().parse().unwrap(),
            _ => 0,
        }
    };
    std::thread::spawn(ask).join().unwrap()
}

/// Two walls, one behind the other: this is the second one by itself.
#[test]
fn landlock_alone_refuses_files_network_and_other_processes() {
    let probe = Probe::new("first");
    assert_eq!(probe.landlock(), landlock_of_the_kernel());
    for (what, version) in ATTEMPTS {
        if version.is_some_and(|version| version <= probe.landlock()) {
            probe.check(what, "refused");
        }
    }
}

#[test]
fn the_memory_of_the_whole_worker_is_capped() {
    let memory = Probe::new("all").0["memory"].as_u64().unwrap();
    assert!((32..=64).contains(&memory), "it got {memory} MiB with a heap of 16 MiB");
}

#[test]
fn a_worker_whose_bridge_has_ended_does_nothing() {
    let output = worker(1, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the bridge has ended"), "{output:?}");
}

fn field(text: &str, name: &str) -> Vec<String> {
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect()
}

/// What the kernel says of one of a worker's files below /proc.
fn of(worker: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{worker}/{file}")).unwrap()
}

fn a_running_worker_is_locked_down(broker: &Broker) {
    // A file that the bridge inherits by somebody's mistake, and would hand on.
    let mut leaked = tempfile::tempfile().unwrap();
    leaked.write_all(b"secret").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let jarvis = Bridge::start(broker, &[("any", "function on_command() return { fine = true } end")]);
    assert_eq!(jarvis.run("x", json!({})), json!({ "fine": true }));
    let worker = workers_of(&jarvis)[0];
    let status = of(worker, "status");
    assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
    assert_eq!(field(&status, "Seccomp"), ["2"], "a filter");
    assert_eq!(field(&status, "Threads"), ["1"]);
    let limits = of(worker, "limits");
    for (name, most) in [
        ("Max data size", "67108864"),
        ("Max stack size", "8388608"),
        ("Max core file size", "0"),
        ("Max file size", "0"),
        ("Max open files", "0"),
        ("Max processes", "0"),
        ("Max address space", "603979776"),
    ] {
        assert_eq!(field(&limits, name)[..2], [most, most], "{name}");
    }
    assert_eq!(of(worker, "oom_score_adj").trim(), "1000");
    let nice = |process: u32| -> i32 {
        let stat = of(process, "stat");
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
    };
    assert!(nice(worker) > nice(jarvis.process_id()));
    let open = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let open = open.map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string());
    let others: Vec<String> = open.filter(|target| !target.starts_with("pipe:")).collect();
    assert!(others.is_empty(), "{others:?}");
}

fn the_cap_follows_the_plugins_memory(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("big", "-- @memory 64MB\nfunction on_command() return {} end")]);
    let limits = of(workers_of(&jarvis)[0], "limits");
    let cap: u64 = 2 * 64_000_000 + (32 << 20);
    assert_eq!(field(&limits, "Max data size")[0], cap.to_string());
}

/// No plugin gets there by itself, which is what the cap is for; so it is lowered under a running one.
fn a_worker_that_meets_its_cap_is_out_of_memory_and_nobody_else(broker: &Broker) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let code = r#"
function on_command(cmd)
    if not cmd.name:starts_with(jarvis.plugin.id) then return end
    local kept = {}
    for i = 1, 8 do kept[i] = string.rep(tostring(i), 1024 * 1024) end
    return { kept = #kept }
end
"#;
    let jarvis = Bridge::start(broker, &[("one", code)]);
    let [first] = workers_of(&jarvis)[..] else { panic!("one worker for one plugin") };
    jarvis.write_plugin("two", code);
    jarvis.log.expect("plugin loaded plugin=two");
    let small = Rlimit { current: Some(2 << 20), maximum: Some(2 << 20) };
    prlimit(Pid::from_raw(first.cast_signed()), Resource::Data, small).unwrap();
    jarvis.check(
        "command/request",
        "one",
        json!({ "status": "error", "code": "memory_limit", "error": "~plugin `one`: on_command " }),
    );
    assert_eq!(jarvis.run("two", json!({})), json!({ "kept": 8 }), "another worker is not concerned");
    assert_eq!(jarvis.run("one", json!({})), json!({ "kept": 8 }), "a fresh worker has the whole cap");
}

/// Where the stack that a process gets is small, the plugin runs in a thread: all of it must hold there too.
#[test]
fn a_plugin_in_a_thread_is_locked_down_as_well() {
    use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
    let jarvis =
        Bridge::start(&Broker::Embedded, &[("any", "function on_command() return { fine = true } end")]);
    let id = |process: u32| Pid::from_raw(process.cast_signed());
    let small = Rlimit { current: Some(1 << 20), maximum: None };
    prlimit(id(jarvis.process_id()), Resource::Stack, small).unwrap();
    kill_process(id(workers_of(&jarvis)[0]).unwrap(), Signal::KILL).unwrap();
    jarvis.log.expect("a plugin has a fresh worker plugin=any");
    assert_eq!(jarvis.run("x", json!({})), json!({ "fine": true }));
    let worker = workers_of(&jarvis)[0];
    let threads = fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    let threads: Vec<String> =
        threads.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect();
    assert_eq!(threads.len(), 2);
    for status in threads {
        assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
        assert_eq!(field(&status, "Seccomp"), ["2"]);
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(crate) mod without {
    //! A kernel or a container without a piece: a filter of system calls plays it.

    use std::collections::BTreeMap;

    use nix::libc;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::*;

    /// Runs where these system calls do not exist.
    pub(crate) fn in_a_world_without(calls: &[libc::c_long], test: impl FnOnce() + Send + 'static) {
        let rules: BTreeMap<i64, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture).unwrap();
        let filter: BpfProgram = filter.try_into().unwrap();
        // Only this thread and what it starts.
        let thread = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    fn plugins_run_with_one_warning(names: &[&str]) {
        let setup = Setup::new(&Broker::Embedded)
            .plugin("one", "-- @commands one\nfunction on_command() return { n = 1 } end")
            .plugin("two", "-- @commands two\nfunction on_command() return { n = 2 } end");
        let jarvis = setup.start();
        assert_eq!(jarvis.run("one", json!({})), json!({ "n": 1 }));
        assert_eq!(jarvis.run("two", json!({})), json!({ "n": 2 }));
        let log = jarvis.log.text();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("less lock-down")).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        for name in names {
            assert!(warnings[0].contains(name), "{name}: {}", warnings[0]);
        }
    }

    pub(crate) const LANDLOCK: [libc::c_long; 3] =
        [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];

    #[test]
    fn landlock_the_rest_holds_and_one_line_says_so() {
        in_a_world_without(&LANDLOCK, || {
            plugins_run_with_one_warning(&["Landlock for files", "Landlock for TCP", "5.13"]);
            let probe = Probe::new("all");
            assert_eq!(probe.0["lacks"], json!(["files", "network", "scopes"]));
            for (what, _) in ATTEMPTS {
                probe.check(what, "refused");
            }
        });
    }

    #[test]
    fn seccomp_the_rest_holds_and_one_line_says_so() {
        // An older kernel lacks some of the other pieces as well; this one is found last.
        let mut lacks = Probe::new("all").0["lacks"].as_array().unwrap().clone();
        lacks.push(json!("system_calls"));
        in_a_world_without(&[libc::SYS_seccomp], move || {
            plugins_run_with_one_warning(&["seccomp", "CONFIG_SECCOMP_FILTER"]);
            let probe = Probe::new("all");
            assert_eq!(probe.0["lacks"], json!(lacks));
            for (what, version) in ATTEMPTS {
                if version.is_some_and(|version| version <= probe.landlock()) {
                    probe.check(what, "refused");
                }
            }
        });
    }
}

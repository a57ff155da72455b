//! `doctor`: what it finds, on brokers and systems that lack something, and how it ends.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Client, Mosquitto, Setup, free_port, on_each_broker};

on_each_broker!(where_all_is_well_nothing_is_to_be_done, a_running_bridge_is_in_nobodys_way);

/// The report and the exit code.
fn doctor(output: &Output) -> (Value, Option<i32>) {
    let report = serde_json::from_slice(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (report.unwrap_or_else(|_| panic!("{error}")), output.status.code())
}

/// The checks of one kind.
fn checks<'report>(report: &'report Value, name: &str) -> Vec<&'report Value> {
    let checks = report["checks"].as_array().unwrap().iter();
    let found: Vec<&Value> = checks.filter(|check| check["check"] == name).collect();
    assert!(!found.is_empty(), "no check of `{name}`: {report:#}");
    found
}

#[track_caller]
fn expect(report: &Value, name: &str, status: &str, text: &str) {
    let check = checks(report, name)[0];
    assert_eq!(check["status"], status, "{check:#}");
    let said = format!("{} {}", check["message"], check["do"]);
    assert!(said.contains(text), "`{text}` is not in {check:#}");
}

fn where_all_is_well_nothing_is_to_be_done(broker: &Broker) {
    let setup = Setup::new(broker).plugin("any", "function on_command() return {} end");
    let (report, code) = doctor(&setup.call(&["doctor", "--json"]));
    assert_eq!(code, Some(0), "{report:#}");
    expect(&report, "broker", "ok", "speaks MQTT 5");
    expect(&report, "broker limits", "ok", "retained messages yes");
    expect(&report, "one connection", "ok", " ms ");
    expect(&report, "queue", "ok", "at least 1100");
    expect(&report, "plugins", "ok", "1 `.lua` files");
    expect(&report, "data", "ok", "will be made");
    assert!(!setup.path().join("data").exists(), "it only looks");
    assert_eq!(checks(&report, "lock-down").len(), 9);
    let text = setup.call(&["doctor"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.lines().any(|line| line.starts_with("ok    broker ")), "{text}");
}

/// What it publishes stays below a topic of its own, and nothing of it stays.
fn a_running_bridge_is_in_nobodys_way(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("any", "function on_command() return { fine = true } end")]);
    let (report, code) = doctor(&jarvis.call(&["doctor", "--json"]));
    assert_eq!(code, Some(0), "{report:#}");
    expect(&report, "queue", "ok", "at least 1100");
    expect(&report, "data", "ok", "can be written to");
    assert_eq!(jarvis.run("x", json!({})), json!({ "fine": true }));
    let heard = jarvis.all_waiting();
    let strange = heard.iter().find(|message| !message.topic.starts_with("jarvis/"));
    assert!(strange.is_none(), "{strange:?}");
    assert!(heard.iter().any(|message| message.topic.starts_with("jarvis/doctor/")));
    let late = Client::v5(jarvis.port);
    late.settle();
    let kept = late.all_waiting().into_iter().find(|message| message.topic.contains("doctor"));
    assert!(kept.is_none(), "{kept:?}");
}

#[test]
fn a_stock_mosquitto_stalls_and_forgets() {
    let start = || Mosquitto::start_with(free_port(), |_| "allow_anonymous true\n".into());
    let Some(mosquitto) = Broker::mosquitto().and_then(|_| start()) else { return };
    let (report, code) = doctor(&Setup::beside(&mosquitto).call(&["doctor", "--json"]));
    assert_eq!((code, &report["status"]), (Some(0), &json!("warn")), "{report:#}");
    expect(&report, "broker", "ok", "mosquitto version");
    expect(&report, "one connection", "warn", "set_tcp_nodelay true");
    expect(&report, "queue", "warn", "max_queued_messages");
}

/// The bridge itself publishes elsewhere, so an access list that keeps the check-up out is no failure.
#[test]
fn a_broker_that_cannot_be_examined_is_a_warning() {
    let check = |rules: &'static str, reason: &str| {
        let start = |directory: &std::path::Path| {
            std::fs::write(directory.join("rules"), rules).unwrap();
            format!("allow_anonymous true\nacl_file {}/rules\n", directory.display())
        };
        let Some(mosquitto) = Broker::mosquitto().and_then(|_| Mosquitto::start_with(free_port(), start))
        else {
            return;
        };
        let (report, code) = doctor(&Setup::beside(&mosquitto).call(&["doctor", "--json"]));
        assert_eq!((code, &report["status"]), (Some(0), &json!("warn")), "{report:#}");
        expect(&report, "broker", "ok", "speaks MQTT 5: mosquitto version");
        expect(&report, "broker limits", "ok", "QoS 2");
        expect(&report, "one connection", "warn", reason);
        expect(&report, "one connection", "warn", "`jarvis/doctor/#`");
    };
    check("topic read $SYS/#\ntopic read jarvis/+/request/#\n", "refuses this user's publishes");
    check("topic read $SYS/#\ntopic write jarvis/#\n", "does not let this user hear");
}

/// What nobody asked for is no answer, and no reason to go on waiting for one.
#[test]
fn a_broker_that_only_talks_is_given_up() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        assert!(client.read(&mut [0; 4096]).unwrap() > 0);
        // CONNACK, and then messages at QoS 0 on `t` until the client is gone.
        client.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        while client.write_all(&[0x30, 5, 0, 1, b't', 0, b'x'].repeat(1_000)).is_ok() {}
    });
    let (report, code) =
        doctor(&Setup::new(&Broker::Embedded).set("MQTT__URL", &url).call(&["doctor", "--json"]));
    assert_eq!(code, Some(1), "{report:#}");
    expect(&report, "broker", "ok", "speaks MQTT 5");
    expect(&report, "one connection", "fail", "did not answer within 10 s");
}

#[test]
fn a_broker_that_takes_small_packets_only_is_told_of() {
    let check = |size: u32, status: &str, words: &str| {
        let start = |_: &std::path::Path| format!("allow_anonymous true\nmax_packet_size {size}\n");
        let Some(mosquitto) = Broker::mosquitto().and_then(|_| Mosquitto::start_with(free_port(), start))
        else {
            return;
        };
        let (report, code) = doctor(&Setup::beside(&mosquitto).call(&["doctor", "--json"]));
        assert_eq!(code, Some(i32::from(status == "fail")), "{report:#}");
        expect(&report, "broker limits", status, words);
    };
    check(100, "fail", "no `max_packet_size`, or at least 266240");
    check(100_000, "warn", "no `max_packet_size`, or at least 266240");
    check(266_240, "ok", "packets of 266240 bytes");
}

#[test]
fn what_stops_a_bridge_is_a_failure() {
    let nobody = format!("mqtt://127.0.0.1:{}", free_port());
    let setup = Setup::new(&Broker::Embedded).set("MQTT__URL", &nobody);
    std::fs::write(setup.path().join("data"), "in the way").unwrap();
    let (report, code) = doctor(&setup.call(&["doctor", "--json"]));
    assert_eq!((code, &report["status"]), (Some(1), &json!("fail")), "{report:#}");
    expect(&report, "broker", "fail", "nothing listens");
    expect(&report, "data", "fail", "data is a file");
    // The rest is looked at all the same.
    expect(&report, "walls", "ok", "18");
}

/// As after a first start by another user, `sudo` above all.
#[cfg(target_os = "linux")]
#[test]
fn data_that_another_user_has_made_is_a_failure() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    without_power_over_files(|| {
        let setup = Setup::new(&Broker::Embedded);
        let data = setup.path().join("data");
        fs::create_dir(&data).unwrap();
        for name in ["lock", "state.db", "state.db-wal", "state.db-shm"] {
            let file = data.join(name);
            fs::write(&file, "").unwrap();
            let (report, code) = doctor(&setup.call(&["doctor", "--json"]));
            assert_eq!(code, Some(0), "{report:#}");
            expect(&report, "data", "ok", "can be written to");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
            let (report, code) = doctor(&setup.call(&["doctor", "--json"]));
            assert_eq!(code, Some(1), "{report:#}");
            expect(&report, "data", "fail", &format!("data/{name} cannot be read and written"));
            expect(&report, "data", "fail", "chown -R <user> ");
            fs::remove_file(&file).unwrap();
        }
    });
}

/// Runs where the modes of files hold for root as for anybody else.
#[cfg(target_os = "linux")]
fn without_power_over_files(test: impl FnOnce() + Send + 'static) {
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
    // Only this thread and what it starts.
    let thread = std::thread::spawn(|| {
        for power in [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH] {
            let removed = remove_capability_from_bounding_set(power);
            assert!(removed.is_ok() || !rustix::process::geteuid().is_root(), "{removed:?}");
        }
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_directory_without_plugins_is_a_warning() {
    let setup = Setup::new(&Broker::Embedded);
    std::fs::remove_dir(setup.plugins()).unwrap();
    let (report, code) = doctor(&setup.call(&["doctor", "--json"]));
    assert_eq!(code, Some(0), "{report:#}");
    expect(&report, "plugins", "warn", "does not exist");
}

/// What was put there for the probe goes again, and where it cannot be put the walls are tried all the same.
#[cfg(target_os = "linux")]
#[test]
fn nothing_of_the_probe_stays() {
    let setup = Setup::new(&Broker::Embedded);
    let ours = setup.path().join("temporary");
    std::fs::create_dir(&ours).unwrap();
    for place in [ours.as_path(), std::path::Path::new("/proc/nowhere")] {
        let mut command = setup.bare_command(&["doctor", "--json"]);
        command.env("TMPDIR", place).env("JARVIS__BROKER__LISTEN", "127.0.0.1:0");
        let (report, _) = doctor(&command.output().unwrap());
        expect(&report, "walls", "ok", "18");
    }
    assert_eq!(std::fs::read_dir(&ours).unwrap().count(), 0);
}

/// What the other pieces refuse without it is not called a hole.
#[cfg(target_os = "linux")]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[test]
fn a_system_without_seccomp_is_a_warning() {
    use crate::lockdown::without::in_a_world_without;
    in_a_world_without(&[nix::libc::SYS_seccomp], || {
        let (report, code) = doctor(&Setup::new(&Broker::Embedded).call(&["doctor", "--json"]));
        assert_eq!((code, &report["status"]), (Some(0), &json!("warn")), "{report:#}");
        let [walls] = checks(&report, "walls")[..] else { panic!("nothing is unproved: {report:#}") };
        let said = walls["message"].as_str().unwrap();
        assert!(said.contains("start a thread, be traced"), "{said}");
        let landlock = !checks(&report, "kernel")[0]["message"].as_str().unwrap().contains("no Landlock");
        assert_eq!(landlock, !said.contains("remove"), "{said}");
    });
}

#[cfg(target_os = "linux")]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[test]
fn a_system_without_landlock_is_a_warning() {
    use crate::lockdown::without::{LANDLOCK, in_a_world_without};
    in_a_world_without(&LANDLOCK, || {
        let (report, code) = doctor(&Setup::new(&Broker::Embedded).call(&["doctor", "--json"]));
        assert_eq!((code, &report["status"]), (Some(0), &json!("warn")), "{report:#}");
        expect(&report, "kernel", "ok", "no Landlock");
        let lacking: Vec<&Value> = checks(&report, "lock-down");
        let lacking = lacking.iter().filter(|check| check["status"] == "warn");
        assert_eq!(lacking.clone().count(), 3, "{report:#}");
        assert!(lacking.clone().all(|check| check["do"].as_str().unwrap().contains("Landlock")));
        expect(&report, "walls", "ok", "18");
    });
}

//! More than a plugin may have, and texts that are none: each is refused with what to do instead, and one line a second
//! in the log says so.

use super::{Bench, check, check_fails, load, outcome, with_stack};
use crate::model::{
    Limits,
    frame::{Level, Load, Outcome},
};

/// A plugin whose `on_command` has this body, and so much time that a slow machine does not matter.
fn patient(body: &str) -> Bench {
    let plugin = load(&format!("function on_command(cmd) {body} end"));
    let limits = Limits { cpu_ms: 30_000, wall_ms: 60_000, ..plugin.limits.clone() };
    Bench::start(Load { limits, ..plugin })
}

#[test]
fn requests_are_counted_per_call() {
    with_stack(|| {
        let plugin = load(
            "function on_command(cmd)
               local url = 'http://api.example.com/'
               for i = 1, cmd.http do jarvis.http.get(url) end
               for i = 1, cmd.sleeps do jarvis.sleep(0) end
               return {done = true}
             end",
        );
        let limits = Limits { http: 2, requests: 5, ..plugin.limits.clone() };
        let bench = Bench::start(Load { limits, ..plugin });
        let call = |http: u32, sleeps: u32| {
            let response = r#"{"status":200,"headers":{},"body":""}"#;
            bench.bridge.answers.borrow_mut().clear();
            bench.answers((0..http.min(2)).map(|_| Ok(response)));
            outcome(&bench.hook("on_command", &format!(r#"{{"http":{http},"sleeps":{sleeps}}}"#)))
        };
        assert_eq!(call(2, 3), r#"{"done":true}"#);
        let refused = call(3, 0);
        assert!(
            refused.contains("weather.lua:3: at most 2 http requests in one hook call (limits.http)"),
            "{refused}"
        );
        let refused = call(2, 4);
        assert!(refused.contains("weather.lua:4: at most 5 requests of all kinds"), "{refused}");
        assert!(refused.contains("(limits.requests)"), "{refused}");
        // Each call begins anew, and what was refused never reached the bridge.
        bench.bridge.operations.borrow_mut().clear();
        assert_eq!(call(2, 3), r#"{"done":true}"#);
        call(9, 9);
        assert_eq!(bench.bridge.operations.borrow().len(), 5 + 2);
    });
}

#[test]
fn publishing_now_counts_as_a_request_and_an_output() {
    with_stack(|| {
        let plugin = load(
            "function on_command() for i = 1, 9 do jarvis.mqtt.publish('lights/a/set', '', {now = true}) end end",
        );
        let with = |requests, outputs| {
            let limits = Limits { requests, outputs, ..plugin.limits.clone() };
            Bench::start(Load { limits, ..load(&plugin.source) }).command()
        };
        assert_eq!(with(9, 9), "nil");
        assert!(with(8, 9).contains("(limits.requests)"));
        assert!(with(9, 8).contains("(limits.outputs)"));
    });
}

#[test]
fn what_lies_outside_the_heap_is_bounded() {
    with_stack(|| {
        let full = patient("for i = 1, 10001 do jarvis.state.set('k' .. i, 1) end").command();
        assert!(full.contains("the effects of one hook call would take more than 4 MiB"), "{full}");
        // Over several calls the keys run out.
        let bench = patient("for i = 1, 4000 do jarvis.state.set(cmd.n .. '-' .. i, 1) end");
        let call = |n: u32| outcome(&bench.hook("on_command", &format!(r#"{{"n":{n}}}"#)));
        assert_eq!((call(1), call(2)), ("nil".into(), "nil".into()));
        let full = call(3);
        assert!(full.contains("jarvis.state has 10000 keys, and may have no more"), "{full}");
        // One that is there can still be written.
        assert_eq!(call(2), "nil");

        check_fails(
            "for i = 1, 9 do jarvis.timer.after(1, print, {data = ('x'):rep(200000)}) end",
            "the data of all timers of one plugin would take more than 1 MiB",
        );
        check(
            "for i = 1, 15 do jarvis.timer.after(1, print, {name = 'same', data = ('x'):rep(200000)}) end return {done = true}",
            r#"{"done":true}"#,
        );
        // A list that names one large string a thousand times.
        let list = "local s, l = ('x'):rep(1000000), {} for i = 1, 1000 do l[i] = s end";
        let get = "jarvis.http.get('http://api.example.com/'";
        check_fails(
            &format!("{list} {get}, {{query = {{a = l}}}})"),
            "wants at most 8 KiB in `query`, got 1000001000",
        );
        check_fails(&format!("{list} {get}, {{headers = {{a = l}}}})"), "wants at most 32 KiB in `headers`");
        check_fails(&format!("{list} {get}, {{form = {{a = l}}}})"), "wants at most 1024 KiB in `form`");
        check_fails(
            &format!("local l = {{}} for i = 1, 100000 do l[i] = i end {get}, {{query = {{a = l}}}})"),
            "at most 1000",
        );
        check_fails("jarvis.events.emit(('x'):rep(2000000))", "wants at most 1 MiB as the event's name");
    });
}

#[test]
fn one_line_a_second_says_what_was_refused() {
    with_stack(|| {
        let bench =
            Bench::of_body("for i = 1, 5000 do pcall(jarvis.events.emit, 'e', i) end return {done = true}");
        assert_eq!(bench.command(), r#"{"done":true}"#);
        assert_eq!(bench.command(), r#"{"done":true}"#);
        let logs = bench.bridge.logs.borrow();
        // Seconds may pass in between on a slow machine.
        assert!((1..20).contains(&logs.len()), "{}", logs.len());
        assert_eq!(logs[0].level, Level::Warn);
        assert!(
            logs[0]
                .message
                .starts_with("refused: at most 64 emits and publishes in one hook call (limits.outputs)"),
            "{}",
            logs[0].message
        );
        // A mistake is none of the log's business.
        let bench = Bench::of_body("for i = 1, 100 do pcall(jarvis.events.emit, 'bad name') end");
        bench.command();
        assert!(bench.bridge.logs.borrow().is_empty());
    });
}

#[test]
fn names_keys_and_topics_are_checked() {
    with_stack(|| {
        for name in ["", "a b", "a/b", "é", "a\\0", "a\\n", "$x", "a#", "+"] {
            check_fails(
                &format!("jarvis.events.emit('{name}')"),
                "an event's name is 1 to 64 of A-Z a-z 0-9 _ . : -",
            );
        }
        check_fails("jarvis.events.emit(('e'):rep(65))", "an event's name is 1 to 64");
        check_fails("jarvis.events.emit('\\xff')", "wants UTF-8 text as the event's name");
        check_fails("jarvis.events.on('a\\0*', print)", "cannot listen to `a *`");

        for set in ["jarvis.state.set", "jarvis.state.incr", "jarvis.config.set"] {
            for key in ["a\\0b", "a\\nb", "\\27[31m", "\\u{85}"] {
                check_fails(&format!("{set}('{key}', 1)"), "wants a key without control characters");
            }
            check_fails(&format!("{set}('', 1)"), "wants a key of 1 to 256 bytes, got 0");
            check_fails(&format!("{set}(('k'):rep(257), 1)"), "wants a key of 1 to 256 bytes, got 257");
            check_fails(&format!("{set}('\\xff', 1)"), "wants UTF-8 text as the key");
        }
        check_fails("jarvis.state.update('a\\nb', function() return 1 end)", "without control characters");
        check(
            "jarvis.state.set('é ключ 🏠', 1) jarvis.state.delete('a\\nb') return {jarvis.state.get('é ключ 🏠')}",
            "[1]",
        );

        let publish = |topic: &str, expect: &str| {
            check_fails(&format!("jarvis.mqtt.publish({topic}, '')"), expect);
        };
        publish("''", "it is empty");
        publish("'a/+/b'", "`+` and `#` are wildcards, they cannot be published to");
        publish("'lights/#'", "`+` and `#` are wildcards");
        publish("'$SYS/x'", "topics that begin with `$` belong to the broker");
        for control in ["\\0", "\\n", "\\127", "\\u{80}", "\\u{9f}"] {
            publish(&format!("'a{control}b'"), "it has a control character");
        }
        publish("'a\\u{fffe}b'", "it has a character that is none");
        publish("'a\\u{fdd0}b'", "it has a character that is none");
        publish("'a\\xffb'", "wants UTF-8 text as the topic");
        publish("('a'):rep(65536)", "it is longer than 65,535 bytes");
        publish("('a/'):rep(200)", "it has more than 200 levels");
        let subscribe = |filter: &str, expect: &str| {
            check_fails(&format!("jarvis.mqtt.subscribe({filter}, print)"), expect);
        };
        subscribe("''", "it is empty");
        subscribe("'a#'", "`#` must be the whole last level, as in `a/#`");
        subscribe("'a+/b'", "`+` must be a whole level, as in `a/+/b`");
        subscribe("'$share/g/sensors/#'", "topics that begin with `$` belong to the broker");
        subscribe("'a\\0'", "it has a control character");
    });
}

#[test]
fn texts_are_checked() {
    with_stack(|| {
        check_fails("jarvis.say('')", "wants a text of 1 to 262144 bytes");
        check_fails("jarvis.say(('x'):rep(262143))", "wants a text of 1 to 262144 bytes");
        check_fails("jarvis.say('\\27[31mred')", "wants a text without control characters");
        check_fails("jarvis.say('\\xff')", "wants UTF-8 text as the text");
        check_fails(
            "jarvis.say('x', {user = 'a\\nb'})",
            "wants the option `user` without control characters",
        );
        check_fails("jarvis.say('x', {site = ''})", "wants 1 to 256 bytes as the option `site`");
        check("jarvis.say('two\\nlines\\tand a tab') return {done = true}", r#"{"done":true}"#);

        for name in ["a b", "a//b", "/a", "a/", "a#", "$a b", "a\\nb", "a\\0"] {
            check_fails(
                &format!("jarvis.command('{name}')"),
                "a command's name is letters, digits, `_`, `.` and `-`",
            );
        }
        check_fails("jarvis.command('')", "wants a name of 1 to 128 bytes, got 0");
        check_fails("jarvis.command(('x'):rep(129))", "wants a name of 1 to 128 bytes, got 129");
        check_fails(
            "jarvis.timer.after(1, print, {name = 'a\\0'})",
            "wants the option `name` without control",
        );

        let bench = Bench::of_body("jarvis.log('a\\27[31m\\nb\\0\\u{202e}c\\xff' .. ('é'):rep(3000))");
        let done = bench.hook("on_command", "{}");
        assert!(matches!(done.outcome, Outcome::Nothing), "{}", outcome(&done));
        let logs = bench.bridge.logs.borrow();
        let message = &logs[0].message;
        assert!(message.starts_with("a [31m b  c\u{fffd}é") && message.ends_with("é…"), "{message:.40}");
        assert!(message.len() <= 4096 + 8, "{}", message.len());
    });
}

//! The table of conversions, both ways.

use super::{Bench, check, load, outcome, with_stack};
use crate::model::{Limits, frame::Load};

#[test]
fn results_become_json() {
    with_stack(|| {
        check("return {}", "{}");
        check("return jarvis.json.array()", "[]");
        check("return jarvis.json.array({1, 2})", "[1,2]");
        check("return {a = 1, }", r#"{"a":1}"#);
        check("return {1, 2.0, -0.5, 1e300, 2^53}", "[1,2.0,-0.5,1e+300,9007199254740992.0]");
        check("return {math.maxinteger, math.mininteger}", "[9223372036854775807,-9223372036854775808]");
        check("return {true, false, jarvis.json.null}", "[true,false,null]");
        check(r#"return {s = "é\n\"\0"}"#, r#"{"s":"é\n\"\u0000"}"#);
        check("local t = {} for i = 5, 1, -1 do t[i] = i end return t", "[1,2,3,4,5]");
        check("local t = {1,2,3} t[#t] = nil return t", "[1,2]");
        check("return {x = {y = {z = {}}}}", r#"{"x":{"y":{"z":{}}}}"#);
        check(
            "local t = setmetatable({1}, {__index = error, __pairs = error, __len = error}) return t",
            "[1]",
        );
        check("local s = {1} return {s, s}", "[[1],[1]]");
    });
}

#[test]
fn what_cannot_be_sent_is_named_with_its_place() {
    with_stack(|| {
        let check = |body: &str, expect: &str| {
            let found = Bench::of_body(body).command();
            let expect = format!("invalid_result: plugin `weather`: the result of on_command{expect}");
            assert_eq!(found, expect, "{body}");
        };
        check(
            "return {results = {temps = {1, 2, print}}}",
            ": `results.temps[3]` is a function, which cannot be sent",
        );
        check("return {a = coroutine.create(print)}", ": `a` is a thread, which cannot be sent");
        check("return {a = 0/0}", ": `a` is not a number (NaN)");
        check("return {a = 1/0}", ": `a` is infinite");
        check(r#"return {["a b"] = {"\xff"}}"#, r#": `["a b"][1]` is a string that is not UTF-8"#);
        check(r#"return {["\xff"] = 1}"#, ": `[\"\u{fffd}\"]` is a string that is not UTF-8");
        check(
            "return {1, 2, x = 3}",
            " mixes numbers and names as keys: it can be a list or an object, not both",
        );
        check(
            "return {l = {1, nil, 3}}",
            ": `l[2]` is missing in a list: fill it with jarvis.json.null, or use strings as keys",
        );
        check(
            "return {[1000000] = 1}",
            ": `[1]` is missing in a list: fill it with jarvis.json.null, or use strings as keys",
        );
        check("return {[0] = 1}", " has the key 0: a list counts from 1, and an object's keys are strings");
        check("return {[1.5] = 1}", " has a number as a key: use names, or 1, 2, 3 … for a list");
        check("return {[true] = 1}", " has a boolean as a key: use names, or 1, 2, 3 … for a list");
        check("local t = {} t.me = {t} return t", ": `me[1]` contains itself");
        check(
            "local t = jarvis.json.array() t.x = 1 return t",
            " mixes numbers and names as keys: it can be a list or an object, not both",
        );
        let deep = format!(": `{}` is nested deeper than 32 (limits.depth)", vec!["d"; 32].join("."));
        check("local t = {} for i = 1, 32 do t = {d = t} end return t", &deep);
    });
}

#[test]
fn results_are_bounded() {
    with_stack(|| {
        let check = |body: &str, expect: &str| {
            let found = Bench::of_body(body).command();
            assert!(found.starts_with("too_large: ") && found.contains(expect), "{body} gave {found}");
        };
        check("return {s = ('x'):rep(300000)}", "`s` makes it larger than 262144 bytes (limits.result)");
        // 300,000 bytes of text that need six bytes each.
        check("return {s = ('\\1'):rep(100000)}", "larger than 262144 bytes");
        check(
            "local t = {} for i = 1, 20000 do t[i] = i end return t",
            "more than 20000 values (limits.nodes)",
        );
        // Shared tables: 2^30 values in 30 tables.
        check("local t = {} for i = 1, 30 do t = {t, t} end return t", "more than 20000 values");
        check("return {[('k'):rep(300000)] = 1}", "larger than 262144 bytes");
    });
}

#[test]
fn inputs_come_back_as_they_went_in() {
    with_stack(|| {
        let bench = Bench::new("function on_command(c) return c end");
        for same in [
            r#"{"a":1}"#,
            "[]",
            r#"{"tags":[]}"#,
            "[1,2.5,true,\"x\"]",
            "[null,1,null]",
            r#"{"n":9223372036854775807}"#,
            r#"{"f":1.0}"#,
            r#"{"":0}"#,
            "[[],{}]",
        ] {
            assert_eq!(outcome(&bench.hook("on_command", same)), same);
        }
        let check = |input: &str, expect: &str| assert_eq!(outcome(&bench.hook("on_command", input)), expect);
        check(r#"{"a":null}"#, "{}");
        check(r#"{"a":1,"a":null}"#, "{}");
        check(r#"[18446744073709551615]"#, "[1.8446744073709552e+19]");
        check("null", "nil");
    });
}

#[test]
fn a_small_node_limit_counts_every_value() {
    with_stack(|| {
        let plugin = load("function on_command() return {1, {2}} end");
        let with = |nodes| Load { limits: Limits { nodes, ..plugin.limits.clone() }, ..load(&plugin.source) };
        assert_eq!(Bench::start(with(4)).command(), "[1,[2]]");
        assert!(Bench::start(with(3)).command().starts_with("too_large: "));
    });
}

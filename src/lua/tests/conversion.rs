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
fn numbers_are_exact() {
    with_stack(|| {
        check(
            "return {3.0, 1e15, -0.0, 0.1, 2^63, -2^63}",
            "[3.0,1000000000000000.0,-0.0,0.1,9.223372036854776e+18,-9.223372036854776e+18]",
        );
        check(
            "return {2^53 | 0, (2^53 | 0) + 1, 1e15 // 1 | 0}",
            "[9007199254740992,9007199254740993,1000000000000000]",
        );
        check("return {5e-324, 1.7976931348623157e308}", "[5e-324,1.7976931348623157e+308]");
        check(
            "return {math.mininteger, math.maxinteger + 1 == math.mininteger}",
            "[-9223372036854775808,true]",
        );
        // A float that is whole is an integer as a key (Lua 5.4 manual §2.1).
        check("return {[1.0] = 'a', [2^1] = 'b'}", r#"["a","b"]"#);
        let bench = Bench::new("function on_command(c) return {a = c.a, kind = math.type(c.a)} end");
        for (number, kind) in
            [("1", "integer"), ("1.0", "float"), ("-9223372036854775808", "integer"), ("0.1", "float")]
        {
            let expect = format!(r#"{{"a":{number},"kind":"{kind}"}}"#);
            let found = bench.hook("on_command", &format!(r#"{{"a":{number}}}"#));
            let found: serde_json::Value = serde_json::from_str(&outcome(&found)).unwrap();
            assert_eq!(found, serde_json::from_str::<serde_json::Value>(&expect).unwrap());
        }
    });
}

#[test]
fn texts_are_exact() {
    with_stack(|| {
        check(
            r#"return {"\0\1\127\u{80}\u{2028}\u{10ffff}"}"#,
            "[\"\\u0000\\u0001\u{7f}\u{80}\u{2028}\u{10ffff}\"]",
        );
        check(r#"return {["\0"] = 1}"#, r#"{"\u0000":1}"#);
        check(r#"return {[""] = ""}"#, r#"{"":""}"#);
        check("return {#jarvis.json.encode({[('k'):rep(10000)] = 1})}", "[10006]");
        // No surrogates, nothing beyond Unicode, no overlong forms.
        for bad in [r"\xed\xa0\x80", r"\u{110000}", r"\xc0\x80", r"a\xc3"] {
            let found = Bench::of_body(&format!(r#"return {{s = "{bad}"}}"#)).command();
            assert!(found.ends_with("`s` is a string that is not UTF-8"), "{bad} gave {found}");
        }
        let path = Bench::of_body("return {[('k'):rep(10000)] = print}").command();
        assert!(path.contains(&format!(r#"`["{}…"]` is a function"#, "k".repeat(40))), "{path}");
    });
}

#[test]
fn limits_are_met_exactly() {
    with_stack(|| {
        let deep = |levels: u32| {
            Bench::of_body(&format!("local t = {{1}} for i = 2, {levels} do t = {{t}} end return t"))
                .command()
        };
        assert_eq!(deep(32), format!("{}1{}", "[".repeat(32), "]".repeat(32)));
        assert!(deep(33).ends_with("is nested deeper than 32 (limits.depth)"), "{}", deep(33));
        // The table itself counts.
        let wide = |values: u32| {
            Bench::of_body(&format!("local t = {{}} for i = 1, {values} do t[i] = 1 end return t")).command()
        };
        assert_eq!(wide(19_999).matches('1').count(), 19_999);
        assert!(
            wide(20_000).contains("`[20000]` has more than 20000 values (limits.nodes)"),
            "{}",
            wide(20_000)
        );
        let long = |bytes: u32| Bench::of_body(&format!("return {{('x'):rep({bytes})}}")).command();
        // Two brackets and two quotes.
        assert_eq!(long(262_140).len(), 262_144);
        assert!(long(262_141).starts_with("too_large: "), "{:.200}", long(262_141));
    });
}

#[test]
fn what_is_no_plain_table_is_read_raw_or_refused() {
    with_stack(|| {
        let check_refused = |body: &str, expect: &str| {
            let found = Bench::of_body(body).command();
            assert!(found.starts_with("invalid_result: ") && found.ends_with(expect), "{body} gave {found}");
        };
        check_refused("return jarvis", "the result of on_command is `jarvis` itself, which cannot be sent");
        check_refused("return {a = {string}}", "`a[1]` is `string` itself, which cannot be sent");
        check_refused("return {log = jarvis.log}", "`log` is `jarvis.log` itself, which cannot be sent");
        check_refused("return {f = string.rep}", "`f` is a function, which cannot be sent");
        check_refused("return {t = coroutine.running()}", "`t` is a thread, which cannot be sent");
        check_refused("return {[print] = 1}", "has a function as a key: use names, or 1, 2, 3 … for a list");
        check_refused("return {[{}] = 1}", "has a table as a key: use names, or 1, 2, 3 … for a list");
        check_refused(
            "return {[jarvis.json.null] = 1}",
            "has a null as a key: use names, or 1, 2, 3 … for a list",
        );
        check_refused(
            "return {[2^53] = 1}",
            "`[1]` is missing in a list: fill it with jarvis.json.null, or use strings as keys",
        );
        check_refused(
            "return {[-1] = 1}",
            "has the key -1: a list counts from 1, and an object's keys are strings",
        );
        check_refused(
            "return {[math.maxinteger] = 1}",
            "`[1]` is missing in a list: fill it with jarvis.json.null, or use strings as keys",
        );
        check_refused("local a = {} a.b = {c = {a}} return a", "`b.c[1]` contains itself");
        check_refused(
            "local t = {} for i = 1, 40 do t = {t} end return {x = t}",
            "is nested deeper than 32 (limits.depth)",
        );
        // Every metamethod would fail or never end.
        let wild = "local m = {} for _, n in ipairs{'__index', '__newindex', '__pairs', '__len', '__call', '__tostring', '__eq', '__close'} do m[n] = function() while true do end end end m.__name = {} m.__metatable = {} m.__mode = 'kv'";
        check(&format!("{wild} return setmetatable({{a = 1}}, m)"), r#"{"a":1}"#);
        check(&format!("{wild} return {{setmetatable({{}}, m)}}"), "[{}]");
        check("return {1, jarvis.json.null, 3}", "[1,null,3]");
        check("return {a = jarvis.json.null}", r#"{"a":null}"#);
        check("local t = {} t[3], t[2], t[1] = 3, 2, 1 return t", "[1,2,3]");
        check("local t = {1, 2, 3} t[2] = nil t[3] = nil return t", "[1]");
        // Two results: the second is a reason where the first is nil, and else nobody's business.
        check("return {1}, 'reason', print", "[1]");
        check("return nil, nil, 'x'", "nil");
        check("return", "nil");
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
        check("local t = {} for i = 1, 30 do t = {a = t, b = t} end return t", "more than 20000 values");
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

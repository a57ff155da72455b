//! Every shape that a hook can return: delivered exactly, or refused with the path of the field that offends.

use super::stage::{
    End::{Answers, Bounded, Fails},
    case, run,
};

#[test]
fn shapes_that_are_delivered() {
    let deep = "local t = {} local top = t for i = 1, 31 do t.a = {} t = t.a end return top";
    let tricks = [
        (
            "integers",
            r#"{ "max": 9223372036854775807, "min": -9223372036854775808, "zero": 0 }"#,
            "return { max = math.maxinteger, min = math.mininteger, zero = 0 }",
        ),
        (
            "floats",
            r#"{ "a": 1.5, "b": 1e300, "c": 9007199254740992.0 }"#,
            "return { a = 1.5, b = 1e300, c = 2.0 ^ 53 }",
        ),
        ("float_keys", r#"["a", "b"]"#, "return { [1.0] = 'a', [2.0] = 'b' }"),
        ("backwards", r#"["a", "b", "c"]"#, "local t = {} t[3] = 'c' t[2] = 'b' t[1] = 'a' return t"),
        ("list", "[1, 2, 3]", "return { 1, 2, 3 }"),
        ("nested", r#"{ "a": [{ "b": [] }, {}] }"#, "return { a = { { b = jarvis.json.array() }, {} } }"),
        ("empty", "{}", "return {}"),
        ("empty_array", "[]", "return jarvis.json.array()"),
        ("null_inside", r#"{ "a": null, "b": 1 }"#, "return { a = jarvis.json.null, b = 1 }"),
        ("null_in_list", "[1, null, 3]", "return { 1, jarvis.json.null, 3 }"),
        ("shared", r#"{ "a": { "x": 1 }, "b": { "x": 1 } }"#, "local s = { x = 1 } return { a = s, b = s }"),
        (
            "texts",
            r#"{ "nul": "a\u0000b", "line": "a\nb", "emoji": "☀️", "quote": "\"\\" }"#,
            "return { nul = 'a\\0b', line = 'a\\nb', emoji = '☀️', quote = '\"\\\\' }",
        ),
        (
            "odd_keys",
            r#"{ "": 1, "a b": 2, "__index": 3, "1": 4 }"#,
            "return { [''] = 1, ['a b'] = 2, __index = 3, ['1'] = 4 }",
        ),
        ("booleans", r#"{ "yes": true, "no": false }"#, "return { yes = true, no = false }"),
        (
            "metatable_ignored",
            r#"{ "a": 1, "b": null }"#,
            "return setmetatable({ a = 1 }, { __index = { b = 2 }, __pairs = function() return next, { c = 3 } end })",
        ),
        ("more_values", r#"{ "a": 1 }"#, "return { a = 1 }, 'ignored', print"),
        ("as_deep_as_allowed", "{}", deep),
        ("as_many_as_allowed", "*", "local t = {} for i = 1, 19999 do t[i] = i end return t"),
        ("as_large_as_allowed", "*", "return { x = ('x'):rep(262000) }"),
        ("trickster_number", r#"{ "a": -0.0 }"#, "return { a = -0.0 }"),
    ];
    let quoted = |json: &'static str| if json == "*" { "\"*\"" } else { json };
    run(&tricks.map(|(name, json, body)| case(&format!("gives_{name}"), Answers(quoted(json)), body)));
}

#[test]
fn shapes_that_are_refused() {
    let invalid = [
        ("cycle", "a.b", "local t = { a = {} } t.a.b = t return t"),
        ("cycle_of_one", "me", "local t = {} t.me = t return t"),
        ("cycle_in_list", "[2]", "local t = { 1 } t[2] = t return t"),
        ("function", "a.f", "return { a = { f = print } }"),
        ("function_in_list", "list[2]", "return { list = { 1, print } }"),
        ("thread", "co", "return { co = coroutine.create(print) }"),
        ("nan", "temps[3]", "return { temps = { 1, 2, 0 / 0 } }"),
        ("infinity", "x", "return { x = math.huge }"),
        ("minus_infinity", "x", "return { x = -math.huge }"),
        ("not_utf8", "a[1].name", "return { a = { { name = '\\xff\\xfe' } } }"),
        ("half_utf8", "x", "return { x = '\\xe2\\x98' }"),
        ("surrogate", "x", "return { x = '\\xed\\xa0\\x80' }"),
        ("not_utf8_key", "", "return { a = { ['\\xff'] = 1 } }"),
        ("mixed", "a", "return { a = { 1, 2, x = 3 } }"),
        ("mixed_at_the_top", "mixes", "return { 1, response = 'x' }"),
        ("hole", "a[2]", "return { a = { 1, nil, 3 } }"),
        ("sparse", "a", "return { a = { [1] = 1, [1000000] = 2 } }"),
        ("sparse_huge", "a", "return { a = { [math.maxinteger] = 1 } }"),
        ("zero_index", "a", "return { a = { [0] = 1 } }"),
        ("negative_index", "a", "return { a = { [-1] = 1 } }"),
        ("fraction_index", "a", "return { a = { [1.5] = 1 } }"),
        ("boolean_key", "a", "return { a = { [true] = 1 } }"),
        ("table_key", "a", "return { a = { [{}] = 1 } }"),
        ("function_key", "a", "return { a = { [print] = 1 } }"),
        ("list_of_functions", "[1]", "return { print }"),
        ("too_deep", "a.a", "local t = {} local top = t for i = 1, 40 do t.a = {} t = t.a end return top"),
        (
            "deep_as_the_sea",
            "a.a",
            "local t = {} local top = t for i = 1, 20000 do t.a = {} t = t.a end return top",
        ),
        ("text", "table", "return 'hello'"),
        ("number", "table", "return 42"),
        ("true", "table", "return true"),
        ("false", "table", "return false"),
        ("itself", "table", "return attack or print"),
        ("coroutine", "table", "return coroutine.running()"),
        ("library", "", "return string.upper"),
    ];
    run(&invalid.map(|(name, part, body)| case(&format!("bad_{name}"), Fails("invalid_result", part), body)));
}

#[test]
fn sizes_that_are_refused() {
    run(&[
        case(
            "too_many",
            Fails("too_large", "limits.nodes"),
            "local t = {} for i = 1, 20001 do t[i] = 0 end return t",
        ),
        case(
            "too_many_in_all",
            Fails("too_large", "limits.nodes"),
            "local t = {} for i = 1, 200 do t[i] = {} for j = 1, 200 do t[i][j] = 0 end end return t",
        ),
        case("too_large", Fails("too_large", "limits.result"), "return { x = ('x'):rep(262145) }"),
        case(
            "too_large_in_all",
            Fails("too_large", "limits.result"),
            "local t = {} for i = 1, 300 do t[i] = ('x'):rep(1000) end return { list = t }",
        ),
        case("too_large_by_key", Fails("too_large", "limits.result"), "return { [('x'):rep(300000)] = 1 }"),
    ]);
}

#[test]
fn failures_that_plugins_choose() {
    run(&[
        case("own_code", Fails("no_milk", "none left"), "error{ message = 'none left', code = 'no_milk' }"),
        case("own_reason", Fails("hook_error", "none left"), "return nil, 'none left'"),
        case(
            "own_reason_and_code",
            Fails("no_milk", "none left"),
            "return nil, { message = 'none left', code = 'no_milk' }",
        ),
        case("code_of_ours", Fails("timeout", "x"), "error{ message = 'x', code = 'timeout' }"),
        case("code_with_spaces", Fails("a b c", "x"), "error{ message = 'x', code = 'a b\\nc' }"),
        case("code_of_megabytes", Bounded, "error{ message = 'x', code = ('x'):rep(1000000) }"),
        case("message_of_lines", Fails("hook_error", "a b"), "error('a\\nb\\27[31m\\0', 0)"),
        case("message_not_utf8", Fails("hook_error", ""), "error('\\xff\\xfe', 0)"),
        case("message_of_bidi", Fails("hook_error", "txt"), "error('\u{202e}txt', 0)"),
        case("reason_is_function", Fails("hook_error", "function"), "return nil, print"),
        case("message_missing", Fails("hook_error", "table"), "error{ code = 'x' }"),
        case(
            "message_is_number",
            Fails("hook_error", "error object is a table value"),
            "error{ message = 42 }",
        ),
    ]);
}

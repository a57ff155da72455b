//! What holds for every value on its way between JSON and Lua.

use std::panic::AssertUnwindSafe;

use serde_json::Value;

use super::{Bench, outcome, with_stack};
use crate::model::{
    Limits,
    dice::{Dice, SHORT},
    is_deceptive,
    json::parse,
};

/// What a value becomes on its way through Lua: a null is nil, so an object loses it and a list keeps it, and
/// what no integer of Lua's can hold is a float.
fn through_lua(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, through_lua(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(through_lua).collect(),
        #[expect(clippy::cast_precision_loss, reason = "as Lua does it")]
        Value::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            number.as_u64().map_or(Value::Null, |number| (number as f64).into())
        }
        other => other,
    }
}

#[test]
fn fuzz_conversion_of_json() {
    with_stack(|| {
        let bench = AssertUnwindSafe(Bench::new(
            "function on_command(c) return c end
             function on_automation(c) return { jarvis.json.decode(jarvis.json.encode(c)) } end",
        ));
        bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
            let sent = Value::Array(vec![Dice::of(bytes).json(8)]);
            let expect = through_lua(sent.clone());
            let back = outcome(&bench.hook("on_command", &sent.to_string()));
            assert_eq!(parse(&back).unwrap(), expect, "{sent}");
            let back = outcome(&bench.hook("on_automation", &sent.to_string()));
            assert_eq!(parse(&back).unwrap()[0], expect, "{sent}");
        });
    });
}

/// In Lua, and by its own means: whether a value can be sent. Gives up on what is large.
const REFERENCE: &str = r#"
local function sendable(v, depth, open, count)
  count.n = count.n + 1
  if count.n > 4000 then error(count, 0) end
  local kind = math.type(v) or type(v)
  if v == nil or v == jarvis.json.null or kind == "boolean" or kind == "integer" then return true end
  if kind == "float" then return v == v and v ~= 1/0 and v ~= -1/0 end
  if kind == "string" then return utf8.len(v) ~= nil end
  if kind ~= "table" or open[v] or depth > 32 then return false end
  open[v] = true
  local ints, names, fine = 0, 0, true
  for k, x in next, v do
    if math.type(k) == "integer" then ints = ints + 1
    elseif type(k) == "string" then names = names + 1; fine = fine and utf8.len(k) ~= nil
    else fine = false end
    fine = fine and sendable(x, depth + 1, open, count)
  end
  for i = 1, ints do fine = fine and rawget(v, i) ~= nil end
  open[v] = nil
  return fine and (ints == 0 or names == 0) and not (lists[v] and names > 0)
end
"#;

const KEYS: [&str; 14] = [
    "1",
    "2",
    "3",
    "0",
    "-1",
    "1.5",
    "math.maxinteger",
    "'a'",
    "'b c'",
    "''",
    "'\\xff'",
    "true",
    "2^53",
    "jarvis.json.null",
];
const VALUES: [&str; 18] = [
    "1",
    "-0.0",
    "2^63",
    "0/0",
    "1/0",
    "math.mininteger",
    "'text'",
    "'\\xff\\xfe'",
    "'\\u{D800}'",
    "'\\0\\n\"'",
    "true",
    "nil",
    "print",
    "coroutine.create(print)",
    "jarvis.json.null",
    "jarvis.json.array()",
    "{}",
    "{1, 2, {3}}",
];
const METHODS: [&str; 6] = ["__index", "__newindex", "__pairs", "__len", "__tostring", "__eq"];

/// A body that knots some tables into each other and returns one of them.
fn body(dice: &mut Dice<'_>) -> String {
    let mut body = String::from("lists = {}\nlocal t = {}\nfor i = 1, 4 do t[i] = {} end\n");
    let table = |dice: &mut Dice<'_>| format!("t[{}]", 1 + dice.below(4));
    for _ in 0..dice.below(16) {
        let (one, other) = (table(dice), table(dice));
        body += &match dice.below(12) {
            0 => {
                let method = dice.one_of(&METHODS);
                format!("pcall(setmetatable, {one}, {{{method} = function() while true do end end}})\n")
            }
            1 => format!("lists[{one}] = pcall(jarvis.json.array, {one}) or lists[{one}]\n"),
            2 => format!("for i = 1, {} do {one} = {{{one}}} end\n", dice.below(40)),
            3..=5 => format!("rawset({one}, {}, {other})\n", dice.one_of(&KEYS)),
            _ => format!("rawset({one}, {}, {})\n", dice.one_of(&KEYS), dice.one_of(&VALUES)),
        };
    }
    body + "t = t[1]\n"
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[test]
fn fuzz_conversion_of_lua() {
    with_stack(|| {
        bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
            let body = body(&mut Dice::of(bytes));
            let judged = format!(
                "{body}local known, fine = pcall(sendable, t, 1, {{}}, {{n = 0}})
                 return {{ verdict = not known and 'large' or fine and 'fine' or 'bad' }}"
            );
            let source = format!(
                "{REFERENCE}\nfunction on_command() {body} return t end\nfunction on_automation() {judged} end"
            );
            let bench = Bench::new(&source);
            let judged = outcome(&bench.hook("on_automation", "{}"));
            let found = bench.command();
            let limits = Limits::default();
            assert!(found.len() <= limits.result);
            match parse(&found) {
                Ok(value) => {
                    assert_ne!(judged, r#"{"verdict":"bad"}"#, "{found}\n{body}");
                    assert!(depth(&value) <= limits.depth, "{found}");
                }
                Err(_) => {
                    assert_ne!(judged, r#"{"verdict":"fine"}"#, "{found}\n{body}");
                    let expect = "plugin `weather`: the result of on_command";
                    let named = ["invalid_result: ", "too_large: "].iter().any(|code| {
                        found.strip_prefix(code).is_some_and(|sentence| sentence.starts_with(expect))
                    });
                    assert!(named && found.len() < 2_000, "{found}");
                    assert!(!found.chars().any(is_deceptive), "{found:?}");
                }
            }
        });
    });
}

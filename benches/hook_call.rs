//! One hook call through a worker process beside a bare mlua call of the same function in this process, with the
//! same JSON text in and out; then one `state.get` from Lua, and one load of a plugin. All pinned to one core, so
//! that the code is measured and not the waking of a second core.
//!
//! `cargo bench --bench hook_call`; with `-- --quick` a moment of it.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to the person who runs it")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use jarvis_bridge::{
    effects::Cause,
    model::frame::Input,
    plugin::{PluginManager, Registry},
};
use mlua::{Function, Lua, Table, Value as LuaValue};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Map, Value, value::RawValue};

/// Answers a small table, as most commands do.
const SOURCE: &str = r#"
function on_command(cmd)
  return { response = "The " .. cmd.args.room .. " is at " .. cmd.args.level, level = cmd.args.level }
end

function on_automation(a)
  local get, value = jarvis.state.get, nil
  for _ = 1, a.count do value = get("key") end
  return { value = value }
end

function on_chat(m)
  local get, value = function() return "value" end, nil
  for _ = 1, m.count do value = get("key") end
  return { value = value }
end

function on_startup()
  jarvis.state.set("key", "value")
end
"#;
const HEADER: &str =
    "-- @id bench\n-- @name Bench\n-- @version 1.0.0\n-- @author bench\n-- @description Answers\n";
const INPUT: &str = r#"{"id":1764050000000123,"name":"bench","args":{"room":"hall","level":42}}"#;

/// How long it all takes.
struct Plan {
    rounds: usize,
    calls: u32,
    loads: u32,
}

const FULL: Plan = Plan { rounds: 9, calls: 20_000, loads: 20 };
const QUICK: Plan = Plan { rounds: 3, calls: 500, loads: 3 };
/// Effect calls in one hook call: far below what its time limit allows.
const EFFECTS: u32 = 1_000;

fn main() -> anyhow::Result<()> {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    let quick = flags.iter().any(|flag| flag == "--quick") || !flags.iter().any(|flag| flag == "--bench");
    // Before any thread is there: threads and workers inherit it.
    let pinned = pin();
    let place = if pinned { "pinned to one core" } else { "NOT pinned: run it under `taskset -c 0`" };
    println!("hook call, {place}");
    if cfg!(debug_assertions) {
        println!("this is a debug build: the figures say nothing");
    }
    let plan = if quick { QUICK } else { FULL };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&plan))
}

/// Lets this process run on the first core it may run on, and on no other.
fn pin() -> bool {
    let Ok(allowed) = sched_getaffinity(None) else { return false };
    let Some(first) = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)) else { return false };
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).is_ok()
}

async fn measure(plan: &Plan) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("bench.lua"), format!("{HEADER}{SOURCE}"))?;
    let manager = manager(directory.path()).await?;
    let registry = manager.registry();
    let bare = Bare::load().map_err(|error| sendable(&error))?;
    // As values: Lua gives a table's fields in no order.
    let result: Value = serde_json::from_str(&bare.call(INPUT).map_err(|error| sendable(&error))?)?;
    let other: Value = serde_json::from_str(&through_worker(registry, "on_command", INPUT).await?)?;
    ensure!(result == other, "the bare call gives {result}, the worker {other}");

    let (mut alone, mut worker, mut effect, mut load) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        alone.push(bare.time(plan.calls)?);
        worker.push(time_worker(registry, plan.calls).await?);
        effect.push(time_effect(registry).await?);
        load.push(time_load(&manager, plan.loads).await?);
    }
    alone.push(bare.time(plan.calls)?);
    let [alone, worker] = [median(&mut alone), median(&mut worker)];
    println!("  bare mlua call, JSON in and out   {alone:8.2} µs");
    println!("  through the worker                {worker:8.2} µs");
    println!("  difference                        {:8.2} µs   target ≤ 12", worker - alone);
    println!("  ratio                             {:8.2}", worker / alone);
    println!("  state.get from Lua                {:8.2} µs   target ≤ 20", median(&mut effect));
    println!("  load of a plugin                  {:8.2} ms   target ≤ 2", median(&mut load) / 1e3);
    manager.stop().await;
    Ok(())
}

async fn manager(directory: &Path) -> anyhow::Result<PluginManager> {
    let executable = env!("CARGO_BIN_EXE_jarvis-bridge");
    let manager = PluginManager::builder(directory).worker_executable(executable).build().await?;
    manager.scan().await?;
    Ok(manager)
}

/// Calls a hook in the plugin's worker and gives its result as JSON text.
async fn through_worker(registry: &Registry, hook: &'static str, input: &str) -> anyhow::Result<String> {
    let input = Input::Value(RawValue::from_string(input.to_owned())?);
    let step = registry.call("bench", hook, input, &Cause::none()).await?;
    Ok(step.outcome?.context("nothing came back")?.get().to_owned())
}

async fn time_worker(registry: &Registry, calls: u32) -> anyhow::Result<f64> {
    let started = Instant::now();
    for _ in 0..calls {
        through_worker(registry, "on_command", INPUT).await?;
    }
    Ok(microseconds(started.elapsed(), calls))
}

/// A hook that calls an effect many times, less one that calls a function of its own as often.
async fn time_effect(registry: &Registry) -> anyhow::Result<f64> {
    let input = format!(r#"{{"count":{EFFECTS}}}"#);
    let mut times = [Duration::ZERO; 2];
    for (time, hook) in times.iter_mut().zip(["on_automation", "on_chat"]) {
        let started = Instant::now();
        let result = through_worker(registry, hook, &input).await?;
        *time = started.elapsed();
        ensure!(result == r#"{"value":"value"}"#, "{hook} returned {result}");
    }
    let [effects, own] = times;
    Ok(microseconds(effects.saturating_sub(own), EFFECTS))
}

/// A fresh worker, the source, `on_startup`, and its taking over.
async fn time_load(manager: &PluginManager, loads: u32) -> anyhow::Result<f64> {
    let started = Instant::now();
    for _ in 0..loads {
        manager.reload("bench").await?;
    }
    Ok(microseconds(started.elapsed(), loads))
}

fn microseconds(elapsed: Duration, times: u32) -> f64 {
    elapsed.as_secs_f64() * 1e6 / f64::from(times)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The same function in a VM of this process, without sandbox or limits.
struct Bare {
    lua: Lua,
    hook: Function,
}

impl Bare {
    fn load() -> mlua::Result<Self> {
        let lua = Lua::new();
        lua.load(SOURCE).exec()?;
        let hook = lua.globals().get("on_command")?;
        Ok(Self { lua, hook })
    }

    fn call(&self, input: &str) -> mlua::Result<String> {
        let argument = self.to_lua(&serde_json::from_str(input).map_err(mlua::Error::external)?)?;
        let result: LuaValue = self.hook.call(argument)?;
        serde_json::to_string(&to_json(&result)?).map_err(mlua::Error::external)
    }

    fn time(&self, calls: u32) -> anyhow::Result<f64> {
        let started = Instant::now();
        for _ in 0..calls {
            self.call(INPUT).map_err(|error| sendable(&error))?;
        }
        Ok(microseconds(started.elapsed(), calls))
    }

    fn to_lua(&self, value: &Value) -> mlua::Result<LuaValue> {
        Ok(match value {
            Value::Null => LuaValue::Nil,
            Value::Bool(value) => LuaValue::Boolean(*value),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => LuaValue::Integer(integer),
                None => LuaValue::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => LuaValue::String(self.lua.create_string(text)?),
            Value::Array(values) => {
                let values =
                    values.iter().map(|value| self.to_lua(value)).collect::<mlua::Result<Vec<_>>>()?;
                LuaValue::Table(self.lua.create_sequence_from(values)?)
            }
            Value::Object(fields) => {
                let table = self.lua.create_table_with_capacity(0, fields.len())?;
                for (key, value) in fields {
                    table.raw_set(key.as_str(), self.to_lua(value)?)?;
                }
                LuaValue::Table(table)
            }
        })
    }
}

/// As much of it as the hook's result needs.
fn to_json(value: &LuaValue) -> mlua::Result<Value> {
    Ok(match value {
        LuaValue::Integer(number) => Value::from(*number),
        LuaValue::String(text) => Value::from(&*text.to_str()?),
        LuaValue::Table(table) => Value::Object(object(table)?),
        other => return Err(mlua::Error::runtime(format!("the hook returned a {}", other.type_name()))),
    })
}

fn object(table: &Table) -> mlua::Result<Map<String, Value>> {
    let mut fields = Map::new();
    for pair in table.pairs::<String, LuaValue>() {
        let (key, value) = pair?;
        fields.insert(key, to_json(&value)?);
    }
    Ok(fields)
}

/// mlua's errors stay in their thread.
fn sendable(error: &mlua::Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

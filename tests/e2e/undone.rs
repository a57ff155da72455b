//! A store that fails now and then: what builds on a change that was not kept is not kept either.

use std::path::Path;

use jarvis_bridge::{
    effects::{Effects, http},
    model::Topic,
    plugin::PluginManager,
    store::Store,
};
use serde_json::{Value, json};

use crate::harness::plugin_source;

/// Counts; a bad call makes the count a thousand more in a commit that fails.
const CODE: &str = r#"
function on_chat(m)
  local n = jarvis.state.get("n", 0) + (m.bad and 1000 or 1)
  jarvis.state.set("n", n)
  if m.bad then jarvis.state.set("bad", true) end
  return { n = n }
end
"#;

/// A manager with one plugin, loaded, on a store that refuses the key `bad`.
async fn manager(directory: &Path, code: &str) -> PluginManager {
    let database = directory.join("state.db");
    drop(Store::open(&database).unwrap());
    let full = "CREATE TRIGGER full BEFORE INSERT ON state WHEN NEW.key = 'bad'
        BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    rusqlite::Connection::open(&database).unwrap().execute_batch(full).unwrap();
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    std::fs::write(plugins.join("counter.lua"), plugin_source("counter", code)).unwrap();
    let store = Store::open(&database).unwrap();
    let effects = Effects::without_bus(store, http::Config::default(), Topic::default());
    let builder = PluginManager::builder(&plugins).effects(effects);
    let manager = builder.worker_executable(env!("CARGO_BIN_EXE_jarvis-bridge")).build().await.unwrap();
    manager.scan().await.unwrap();
    manager
}

#[test]
fn what_builds_on_a_failed_change_never_happened() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manager = manager(directory.path(), CODE).await;
        let ask = |bad: bool| {
            let sandbox = manager.sandbox();
            async move { sandbox.call_hook("counter", "on_chat", json!({ "bad": bad })).await }
        };
        // They are written to the worker at once, so those behind the bad one have run when its commit fails.
        let (one, bad, two, three) = tokio::join!(ask(false), ask(true), ask(false), ask(false));
        assert_eq!(one, Ok(json!({ "n": 1 })));
        let failure = bad.unwrap_err();
        assert_eq!(failure.code.to_string(), "unavailable");
        assert!(failure.message.contains("plugin `counter`: nothing was changed: "), "{}", failure.message);
        for built in [two, three] {
            let kept = built.as_ref().map_or(0, |value: &Value| value["n"].as_u64().unwrap());
            assert!(kept < 1000, "{built:?}");
        }
        // The fresh worker goes on from what was kept.
        let next = ask(false).await.unwrap()["n"].as_u64().unwrap();
        assert!((2..=4).contains(&next), "{next}");
        manager.stop().await;
    });
}

#[test]
fn a_plugin_that_cannot_write_still_answers_what_only_reads() {
    let code = r#"
function on_chat(m)
  if m.bad then jarvis.state.set("bad", true) end
  return { n = jarvis.state.get("n", 7) }
end
"#;
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manager = manager(directory.path(), code).await;
        let sandbox = manager.sandbox();
        for _ in 0..8 {
            let failure = sandbox.call_hook("counter", "on_chat", json!({ "bad": true })).await.unwrap_err();
            assert!(failure.message.contains("nothing was changed"), "{}", failure.message);
            let read = sandbox.call_hook("counter", "on_chat", json!({})).await;
            assert_eq!(read, Ok(json!({ "n": 7 })));
        }
        manager.stop().await;
    });
}

#[test]
fn a_start_that_cannot_be_kept_is_tried_again() {
    let code = "function on_startup() jarvis.state.set('bad', 7) end
function on_chat() return { bad = jarvis.state.get('bad') } end";
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manager = manager(directory.path(), code).await;
        let sandbox = manager.sandbox();
        let ask = || sandbox.call_hook("counter", "on_chat", json!({}));
        let failure = ask().await.unwrap_err();
        assert!(failure.message.contains("what its start changes cannot be kept: "), "{}", failure.message);
        let database = rusqlite::Connection::open(directory.path().join("state.db")).unwrap();
        database.execute_batch("DROP TRIGGER full").unwrap();
        manager.scan().await.unwrap();
        assert_eq!(ask().await, Ok(json!({ "bad": 7 })));
        manager.stop().await;
    });
}

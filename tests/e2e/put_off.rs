//! What cannot be loaded for a reason that is not the file's: it is tried again, and what ran goes on until its file goes.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use jarvis_bridge::plugin::{Notice, PluginManager};
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot};

use crate::harness::plugin_source;

/// A manager whose workers can be taken away, as a full process table takes them.
struct Stage {
    place: tempfile::TempDir,
    manager: PluginManager,
    notices: broadcast::Receiver<Notice>,
}

impl Stage {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("plugins")).unwrap();
        let executable = place.path().join("worker");
        let builder = PluginManager::builder(place.path().join("plugins")).worker_executable(&executable);
        let manager = builder.build().await.unwrap();
        let notices = manager.notices();
        let stage = Self { place, manager, notices };
        stage.let_workers_start();
        stage
    }

    fn worker(&self) -> std::path::PathBuf {
        self.place.path().join("worker")
    }

    fn let_workers_start(&self) {
        symlink(env!("CARGO_BIN_EXE_jarvis-bridge"), self.worker()).unwrap();
    }

    fn let_no_worker_start(&self) {
        fs::remove_file(self.worker()).unwrap();
    }

    fn directory(&self) -> &Path {
        self.manager.directory()
    }

    fn write(&self, file: &str, version: &str) {
        let code = format!("function on_chat() return {{ version = '{version}' }} end");
        fs::write(self.directory().join(file), plugin_source("lamp", &code)).unwrap();
    }

    /// Waits for a notice of this kind with these words.
    async fn heard(&mut self, kind: &str, words: &str) {
        let wanted = async {
            loop {
                let notice = self.notices.recv().await.unwrap();
                if notice.kind == kind && notice.data.to_string().contains(words) {
                    return;
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(30), wanted).await;
        assert!(heard.is_ok(), "no {kind} with `{words}`");
    }

    async fn ask(&self) -> Result<Value, String> {
        let answer = self.manager.sandbox().call_hook("lamp", "on_chat", json!({})).await;
        answer.map_err(|failure| failure.code.to_string())
    }
}

#[test]
fn what_cannot_be_loaded_now_is_tried_again_and_what_ran_keeps_its_id() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stage = Stage::new().await;
        let (_stop, stopped) = oneshot::channel();
        stage.manager.watch(stopped);
        stage.write("lamp.lua", "one");
        stage.heard("plugin_loaded", "lamp").await;
        stage.let_no_worker_start();
        stage.write("lamp.lua", "two");
        stage.heard("plugin_error", "no worker could be started").await;
        stage.write("a.lua", "another's");
        stage.heard("plugin_error", "a.lua: `@id lamp` is the id of `lamp.lua` already").await;
        assert_eq!(stage.ask().await, Ok(json!({ "version": "one" })));
        // Nothing moves in the directory from here on.
        stage.let_workers_start();
        stage.heard("plugin_reloaded", "lamp").await;
        assert_eq!(stage.ask().await, Ok(json!({ "version": "two" })));
        stage.manager.stop().await;
    });
}

#[test]
fn what_could_not_be_loaded_goes_with_its_file() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stage = Stage::new().await;
        let (_stop, stopped) = oneshot::channel();
        stage.manager.watch(stopped);
        stage.write("lamp.lua", "one");
        stage.heard("plugin_loaded", "lamp").await;
        stage.let_no_worker_start();
        stage.write("lamp.lua", "two");
        stage.heard("plugin_error", "no worker could be started").await;
        fs::remove_file(stage.directory().join("lamp.lua")).unwrap();
        stage.heard("plugin_unloaded", "lamp").await;
        assert_eq!(stage.ask().await, Err("unknown_plugin".into()));
        stage.manager.stop().await;
    });
}

#[test]
fn a_reload_that_was_asked_for_in_vain_is_tried_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = Stage::new().await;
        stage.write("lamp.lua", "one");
        stage.manager.scan().await.unwrap();
        stage.let_no_worker_start();
        stage.write("lamp.lua", "two");
        let refused = stage.manager.reload("lamp").await.unwrap_err();
        assert_eq!(refused.code.to_string(), "unavailable");
        assert_eq!(stage.ask().await, Ok(json!({ "version": "one" })));
        stage.let_workers_start();
        stage.manager.scan().await.unwrap();
        assert_eq!(stage.ask().await, Ok(json!({ "version": "two" })));
        stage.manager.stop().await;
    });
}

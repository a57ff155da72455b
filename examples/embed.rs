//! The bridge's plugins in a program of your own: load a directory, call a hook, reload, unload.
//!
//! `cargo run --example embed` in the source tree. This executable is started again for each plugin, as its
//! worker; that is what the first line of `main` is for.

use jarvis_bridge::plugin::PluginManager;
use serde_json::json;

fn main() -> anyhow::Result<()> {
    jarvis_bridge::worker::enter();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(embed())
}

#[expect(clippy::print_stdout, reason = "an example speaks to the person who runs it")]
async fn embed() -> anyhow::Result<()> {
    let manager = PluginManager::new("./plugins").await?;
    let sandbox = manager.sandbox();

    for plugin in manager.list_plugins() {
        sandbox.load_plugin(&plugin).await?;
        println!("loaded {} {}", plugin.manifest.id, plugin.manifest.version);
    }

    let result =
        sandbox.call_hook("welcome", "on_chat", json!({ "role": "user", "content": "Hello" })).await?;
    println!("welcome says {result}");

    manager.unload("welcome")?;
    // … change the file …
    let plugin = manager.get_plugin("welcome")?;
    sandbox.load_plugin(&plugin).await?;
    println!("welcome is back");

    manager.stop().await;
    Ok(())
}

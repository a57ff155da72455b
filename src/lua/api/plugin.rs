//! `jarvis.plugin`: what the plugin's header says.

use mlua::{Lua, Table};

use crate::model::frame::About;

pub(super) fn build(lua: &Lua, about: &About) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("id", about.id.as_str())?;
    table.raw_set("name", about.name.as_str())?;
    table.raw_set("version", about.version.as_str())?;
    table.raw_set("author", about.author.as_str())?;
    table.raw_set("description", about.description.as_str())?;
    Ok(table)
}

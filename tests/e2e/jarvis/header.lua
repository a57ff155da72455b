-- @id unique_plugin_id
-- @name Plugin Display Name
-- @version 1.0.0
-- @author Your Name
-- @description What this plugin does

-- Rest of plugin code...

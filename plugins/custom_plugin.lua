-- @id custom
-- @name Custom
-- @version 1.0.0
-- @author Your name
-- @description A template: every hook, commented. Copy it, change @id and @name, delete what you do not need
-- @license MIT
-- @config answer = 42

-- The file runs once when it is saved. It is the place for tables and functions; what must survive a reload
-- or a restart belongs into jarvis.state.

-- More that the header above can say, one line each:
--     commands      weather, forecast                commands that go to this plugin alone
--     permissions   http:api.example.com, mqtt.publish:lights/+/set, mqtt.subscribe:sensors/#
--     subscribe     sensors/+/temperature            messages for on_mqtt; the permission is included
--     emits         frost                            events that this plugin is known for
--     priority      10                               lower is asked first
--     timeout       2s                               a limit of its own

-- Called once after loading. An error here keeps the plugin from starting, with the reason in the log.
function on_startup()
    jarvis.log.debug("custom plugin ready", { answer = jarvis.config.get("answer") })
    -- jarvis.events.on("automation_ran", function(data, event) jarvis.log(data.name) end)
    -- jarvis.timer.every("5m", function() jarvis.log("still here") end)
    return { ready = true }
end

-- Called when the file is changed or deleted, and when the bridge stops.
function on_shutdown()
    return { ok = true }
end

-- Called for every chat message: { id, role = "user" | "assistant", content, timestamp, ... }.
-- Return a table; its `response` is the answer. Return nothing to stay silent.
function on_chat(message)
    if message.role == "user" and message.content:lower():find("answer to everything", 1, true) then
        return { response = "It is " .. jarvis.config.get("answer") .. "." }
    end
end

-- Called for commands that no plugin declares: { id, name, args }. Return nothing where it is not yours.
function on_command(cmd)
    if cmd.name == "echo" then
        return { response = cmd.args.text or "", args = cmd.args }
    end
end

-- Called when an automation ran elsewhere: { id, name, type, status, ... }.
function on_automation(automation)
    return nil
end

-- function filter_message(message)    change what users write before anybody sees it, or `return false`
-- function filter_response(response)  change an answer before the user sees it
-- function on_mqtt(m)                 a message of a @subscribe filter: { topic, payload, json, levels, ... }

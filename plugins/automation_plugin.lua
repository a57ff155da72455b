-- @id automations
-- @name Automations
-- @version 1.0.0
-- @author The jarvis-bridge authors
-- @description Counts how often each automation ran and tells the other plugins
-- @license MIT
-- @emits automation_ran

function on_automation(automation)
    -- A state write, an event and the answer happen together, or not at all.
    local runs = jarvis.state.incr("runs/" .. automation.name)
    jarvis.log(("automation %s: %s (run %d)"):format(automation.name, automation.status or "ran", runs))
    jarvis.events.emit("automation_ran", {
        name = automation.name,
        status = automation.status,
        runs = runs,
    })
    return { success = true, runs = runs }
end

-- @id commands
-- @name Commands
-- @version 1.0.0
-- @author The jarvis-bridge authors
-- @description The commands help, status and about
-- @license MIT
-- @commands help, status, about

-- A command that a plugin declares in its header goes to that plugin alone.
local ANSWERS = {
    help = "Commands: /help, /status, /about",
    status = "Jarvis is running! ✅",
    about = "jarvis-bridge: your assistant, your home and your own Lua plugins, over MQTT.",
}

function on_command(cmd)
    local answer = ANSWERS[cmd.name]
    if answer then
        return { response = answer }
    end
end

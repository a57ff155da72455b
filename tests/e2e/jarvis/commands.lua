-- @id commands
-- @name Commands
-- @version 1.0.0
-- @author Team
-- @description Custom commands

function on_command(cmd)
    if cmd.name == "help" then
        return {
            response = "Commands: /help, /status, /about"
        }
    end

    if cmd.name == "status" then
        return {
            response = "Jarvis is running! ✅"
        }
    end
end

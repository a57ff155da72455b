-- @id welcome
-- @name Welcome
-- @version 1.0.0
-- @author Team
-- @description Greet new users

function on_chat(message)
    if message.role == "user" then
        jarvis.log("👋 User message: " .. message.content)
        return { greeting_sent = true }
    end
    return { ok = true }
end

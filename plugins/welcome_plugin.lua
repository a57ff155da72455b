-- @id welcome
-- @name Welcome
-- @version 1.0.0
-- @author The jarvis-bridge authors
-- @description Greets whoever says hello
-- @license MIT
-- @config greeting = "Hello! Type /help to see what I can do."

-- Words that count as a greeting, in lower case.
local GREETINGS = { hello = true, hi = true, hey = true, bonjour = true, salut = true, hallo = true }

function on_chat(message)
    if message.role ~= "user" then
        return { ok = true }
    end
    jarvis.log("👋 User message: " .. message.content)
    local first = message.content:lower():match("^%s*(%a+)")
    if first and GREETINGS[first] then
        return { greeting_sent = true, response = jarvis.config.get("greeting") }
    end
    return { greeting_sent = false }
end

-- Called when chat message received
function on_chat(message)
    -- message = {
    --   id: string,
    --   role: "user" | "assistant",
    --   content: string,
    --   timestamp: datetime
    -- }
    return { status = "ok" }
end

-- Called for custom commands
function on_command(cmd)
    -- cmd = {
    --   name: string,
    --   args: table
    -- }
    if cmd.name == "weather" then
        return { response = "Sunny ☀️" }
    end
end

-- Called when automation executed
function on_automation(automation)
    -- automation = {
    --   name: string,
    --   type: string,
    --   status: string
    -- }
    return { success = true }
end

-- Called at startup
function on_startup()
    jarvis.log("Plugin started!")
    return { ready = true }
end

-- Called at shutdown
function on_shutdown()
    jarvis.log("Plugin shutting down")
    return { ok = true }
end

-- Filter messages before processing
function filter_message(message)
    -- Modify message before Jarvis sees it
    message.content = string.trim(message.content)
    return message
end

-- Filter AI responses before sending
function filter_response(response)
    -- Modify response before sending to user
    response.content = string.upper(response.content)
    return response
end

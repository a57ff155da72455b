-- @id filters
-- @name Filters
-- @version 1.0.0
-- @author Team
-- @description Message/response filters

function filter_message(message)
    -- Convert to lowercase
    message.content = string.lower(message.content)

    -- Remove extra spaces
    message.content = string.gsub(message.content, "%s+", " ")

    return message
end

function filter_response(response)
    -- Add emoji to responses
    response.content = response.content .. " 🤖"
    return response
end

-- @id filters
-- @name Filters
-- @version 1.0.0
-- @author The jarvis-bridge authors
-- @description Tidies what users write and marks what the assistant answers
-- @license MIT
-- @priority 10

-- Of the shipped examples this is the only one that changes a chat message: it trims what users write and
-- folds runs of spaces, and puts a robot behind every answer. Delete the file to get both as they were.

function filter_message(message)
    message.content = string.trim(message.content)
    message.content = string.gsub(message.content, "%s+", " ")
    return message
end

function filter_response(response)
    response.content = response.content .. " 🤖"
    return response
end

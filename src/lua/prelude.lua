-- Runs once in every VM before the plugin's source. `raw` holds the functions of the API, each returning
-- `problem, value, why`.
local raw = ...

local error, getmetatable, next, pairs, rawget = error, getmetatable, next, pairs, rawget
local ipairs, select, tonumber, tostring, type = ipairs, select, tonumber, tostring, type
local pcall0, setmetatable0, rawset0, collectgarbage0 = pcall, setmetatable, rawset, collectgarbage
local create0, resume0, close0 = coroutine.create, coroutine.resume, coroutine.close
local position, caught, describe = raw.position, raw.caught, raw.describe
local sub, math_type, tointeger = string.sub, math.type, math.tointeger

-- Raises at the nearest line of the plugin: with a level instead, a tail call would hide it.
local function fail(message)
  error(position() .. message, 0)
end

-- Errors ------------------------------------------------------------------------------------------------------
-- A stop is an error like any other, so whatever catches errors raises again once the call was stopped.

local function after(ok, ...)
  if ok then
    return ok, ...
  end
  local stopped, problem = caught((...))
  if stopped then
    error("stopped", 0)
  end
  return false, problem
end

local function handled(handler, ok, ...)
  if ok then
    return ok, ...
  end
  local _, problem = after(pcall0(handler, ...))
  return false, problem
end

function pcall(f, ...)
  return after(pcall0(f, ...))
end

-- The handler runs after unwinding, under the limits like any other code.
function xpcall(f, handler, ...)
  return handled(handler, after(pcall0(f, ...)))
end

-- Raises an error again, at the plugin's line.
local function raise(problem)
  if type(problem) == "string" and problem ~= "not enough memory" then
    fail(problem)
  end
  error(problem, 0)
end

local chunk = raw.chunk .. ":"

-- For functions of C that are given a Lua face here: their errors shall name the plugin's line, not ours. What a
-- metamethod of the plugin's raised names it already.
local function outcome(ok, ...)
  if ok then
    return ...
  end
  local _, problem = after(false, ...)
  if type(problem) == "string" and sub(problem, 1, #chunk) == chunk then
    error(problem, 0)
  end
  raise(problem)
end

local libraries = { string = string, table = table, math = math, utf8 = utf8, coroutine = coroutine }

local function copy(t)
  local result = {}
  for key, value in next, t do
    result[key] = value
  end
  return result
end

-- Here Lua looks for the names of its own functions where their caller does not tell them, for its error texts.
for name, library in next, libraries do
  raw.loaded[name] = copy(library)
end
raw.loaded._G = copy(_G)

function coroutine.resume(thread, ...)
  return after(resume0(thread, ...))
end

function coroutine.close(thread)
  return after(outcome(pcall0(close0, thread)))
end

local function unwrapped(thread, ok, ...)
  if ok then
    return ...
  end
  after(close0(thread))
  raise((...))
end

function coroutine.wrap(f)
  local made, thread = pcall0(create0, f)
  if not made then
    fail(thread)
  end
  return function(...)
    return unwrapped(thread, after(resume0(thread, ...)))
  end
end

-- Metatables --------------------------------------------------------------------------------------------------

local locked = setmetatable0({}, { __mode = "k" })

-- A table that shows another and lets nobody write to it.
local function lock(name, real, call)
  local proxy = {}
  locked[proxy] = name
  return setmetatable0(proxy, {
    -- Tells them from the plugin's own tables where one is to be sent.
    __locked = name,
    __name = name,
    __index = real,
    __call = call,
    __metatable = false,
    __newindex = function()
      fail("`" .. name .. "` is read-only")
    end,
    __pairs = function()
      local key
      return function()
        local value
        key, value = next(real, key)
        return key, value
      end
    end,
  })
end

-- A finalizer would run where no limit reaches it.
function setmetatable(t, metatable)
  if type(metatable) == "table" and rawget(metatable, "__gc") ~= nil then
    fail("`__gc` cannot be set in plugins")
  end
  return (outcome(pcall0(setmetatable0, t, metatable)))
end

function rawset(t, key, value)
  if locked[t] then
    fail("`" .. locked[t] .. "` is read-only")
  end
  return (outcome(pcall0(rawset0, t, key, value)))
end

function collectgarbage(what)
  if what ~= "count" then
    fail('plugins may only ask collectgarbage("count"): Lua collects by itself')
  end
  return collectgarbage0("count")
end

-- Libraries ---------------------------------------------------------------------------------------------------

for _, name in ipairs({ "load", "loadstring", "loadfile", "dofile", "require", "package", "os", "io", "debug", "warn" }) do
  _G[name] = nil
end
string.dump = nil

-- C counts as far as it is told, and no limit reaches it there. So no count may be larger than what the heap could
-- hold, and where a metatable of the plugin's may have a say, it is Lua that counts, which can be stopped. The
-- parentheses keep a function on the stack, for tracebacks.

local MOST = raw.most
local rep0, concat0, move0, unpack0 = string.rep, table.concat, table.move, table.unpack
-- Called without a net, because they are called often: their names stand in their errors, and the line of ours before
-- them is taken off where errors are caught.
local insert, remove, sort = table.insert, table.remove, table.sort

local function check_count(name, first, last)
  first, last = tonumber(first), tonumber(last)
  if first and last and last + 0.0 - first >= MOST then
    fail(name .. ": more than " .. MOST .. " values, which the plugin's memory could not hold (limits.memory)")
  end
end

-- The length, asked for once: `__len` may answer otherwise the next time.
local function length(name, t)
  local n = #t
  if math_type(n) ~= "integer" then
    fail("object length is not an integer")
  end
  check_count(name, 1, n)
  return n
end

-- Also where `__metatable` hides it.
local function is_smart(t)
  return getmetatable(t) ~= nil and type(t) == "table"
end

function string.rep(s, n, sep)
  local count = tonumber(n)
  if count and count > 0 and type(s) == "string" and (sep == nil or type(sep) == "string") then
    local size = #s + (sep and #sep or 0)
    if size == 0 then
      return ""
    end
    if size * (count + 0.0) > raw.memory then
      fail("string.rep: the result would be larger than the memory of the plugin (limits.memory)")
    end
  end
  return (outcome(pcall0(rep0, s, n, sep)))
end

function table.concat(t, sep, i, j)
  if is_smart(t) and j == nil then
    j = length("table.concat", t)
  end
  if j ~= nil then
    check_count("table.concat", i or 1, j)
  end
  return (outcome(pcall0(concat0, t, sep, i, j)))
end

function table.move(a, f, e, t, ...)
  check_count("table.move", f, e)
  return (outcome(pcall0(move0, a, f, e, t, ...)))
end

function table.unpack(t, i, j)
  if is_smart(t) and j == nil then
    j = length("table.unpack", t)
  end
  if j ~= nil then
    check_count("table.unpack", i or 1, j)
  end
  return outcome(pcall0(unpack0, t, i, j))
end

function table.insert(t, ...)
  if getmetatable(t) == nil then
    insert(t, ...)
    return
  end
  local count = select("#", ...)
  local n = length("table.insert", t)
  if count == 1 then
    t[n + 1] = (...)
    return
  end
  if count ~= 2 then
    fail("wrong number of arguments to 'insert'")
  end
  local at, value = ...
  at = tointeger(tonumber(at))
  if not at or at < 1 or at > n + 1 then
    fail("bad argument #2 to 'insert' (position out of bounds)")
  end
  for i = n + 1, at + 1, -1 do
    t[i] = t[i - 1]
  end
  t[at] = value
end

function table.remove(t, ...)
  if getmetatable(t) == nil then
    return (remove(t, ...))
  end
  local n = length("table.remove", t)
  local at = n
  if select("#", ...) > 0 then
    at = tointeger(tonumber((...)))
    if not at or (at ~= n and (at < 1 or at > n + 1)) then
      fail("bad argument #2 to 'remove' (position out of bounds)")
    end
  end
  local value = t[at]
  for i = at, n - 1 do
    t[i] = t[i + 1]
  end
  t[at > n and at or n] = nil
  return value
end

function table.sort(t, before)
  if not is_smart(t) then
    sort(t, before)
    return
  end
  local n = length("table.sort", t)
  local values = {}
  for i = 1, n do
    values[i] = t[i]
  end
  sort(values, before)
  for i = 1, n do
    t[i] = values[i]
  end
end

-- The API -----------------------------------------------------------------------------------------------------

-- The face of a raw function: raises its problem, gives its value or `nil, why`.
local function face(f)
  return function(...)
    local problem, value, why = f(...)
    if problem then
      fail(problem)
    end
    if why == nil then
      return value
    end
    return value, why
  end
end

local function faces(functions)
  local result = {}
  for name, f in pairs(functions) do
    result[name] = face(f)
  end
  return result
end

for name, f in pairs(raw.string) do
  string[name] = face(f)
end

local function textual(value)
  if type(value) == "string" then
    return value
  end
  if type(value) == "table" then
    local metatable = getmetatable(value)
    if type(metatable) ~= "table" or not rawget(metatable, "__tostring") then
      return describe(value)
    end
  end
  return tostring(value)
end

local function logger(level)
  local log = face(raw.log)
  return function(message, fields)
    log(level, textual(message), fields)
  end
end

local info = logger("info")

function print(...)
  local parts = { ... }
  for i = 1, select("#", ...) do
    parts[i] = textual(parts[i])
  end
  info(concat0(parts, "\t"))
end

local levels = { debug = logger("debug"), info = info, warn = logger("warn"), error = logger("error") }

local state = faces(raw.state)
function state.update(key, f)
  if type(f) ~= "function" then
    fail("jarvis.state.update wants a function as its second argument, got " .. type(f))
  end
  local value = f(state.get(key))
  state.set(key, value)
  return value
end

local json = faces(raw.json)
json.null = raw.null

local request = face(raw.http)
local function ask(method, url, data, options)
  local response, why = request(method, url, data, options)
  if not response then
    return nil, why
  end
  function response.json()
    return json.decode(response.body)
  end
  return response
end

local http = {
  get = function(url, options)
    return ask("GET", url, nil, options)
  end,
  post = function(url, data, options)
    return ask("POST", url, data, options)
  end,
  request = function(options)
    if type(options) ~= "table" then
      fail('jarvis.http.request wants a table, as in { method = "PUT", url = "https://…", json = {} }')
    end
    return ask(rawget(options, "method") or "GET", rawget(options, "url"), rawget(options, "body"), options)
  end,
}

local jarvis = {
  log = lock("jarvis.log", levels, function(_, message, fields)
    info(message, fields)
  end),
  http = lock("jarvis.http", http),
  state = lock("jarvis.state", state),
  json = lock("jarvis.json", json),
  plugin = lock("jarvis.plugin", raw.plugin),
}
for _, name in ipairs({ "config", "events", "mqtt", "timer", "time" }) do
  jarvis[name] = lock("jarvis." .. name, faces(raw[name]))
end
for name, f in pairs(raw.top) do
  jarvis[name] = face(f)
end
_G.jarvis = lock("jarvis", jarvis)

local strings = getmetatable("")
strings.__index = string
strings.__metatable = false

for name, library in pairs(libraries) do
  _G[name] = lock(name, library)
end

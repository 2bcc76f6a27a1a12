--[[
The prompt. It runs beside the guest: a line is a task of the scheduler, so that it may wait and sleep, while
machines run, sockets are served and the guest's serial output is printed above the prompt.

    2 + 2            a bare expression prints its values; so does = 2 + 2
    vm.cpus[1].rip   vm is the machine made last; machines() lists them
    for i = 1, 3 do  an unfinished piece goes on in the next line; Ctrl-C drops it
    /machines/       an object path, completed with Tab

On a terminal lines come through the editor (vmlua.core.edit); from a pipe they are read as they are, without
prompts, and the first error ends the session with status 1 only when all input has been read.
]]
local pretty = require "vmlua.pretty"
local text = require "vmlua.text"

local repl = {}

-- ---- compiling ------------------------------------------------------------------------------------

--- Turns typed text into a function. Answers nil, "incomplete" when more lines are needed.
---@param source string
---@param env table
---@return function? chunk
---@return string? message
function repl.compile(source, env)
  local name = "=prompt"
  local expression = source:match("^%s*=(.*)$")
  local body = expression or source
  local path = body:match("^%s*(/[%w_%-%./%[%]]*)%s*$")
  if path then body = ("object(%q)"):format(path) end
  local chunk = load("return " .. body, name, "t", env)
  if chunk then return chunk end
  local message
  if expression then
    chunk, message = load("return " .. body, name, "t", env)
  else
    chunk, message = load(body, name, "t", env)
  end
  if chunk then return chunk end
  if message:match("near <eof>$") or message:match("near '?<eof>'?$") or message:find("unfinished long", 1, true) then
    return nil, "incomplete"
  end
  return nil, message
end

-- ---- completing -------------------------------------------------------------------------------------

local function member_names(value)
  local out = {}
  if type(value) == "table" then
    for k in next, value do
      if type(k) == "string" then out[k] = type(rawget(value, k)) end
    end
    local mt = getmetatable(value)
    local index = type(mt) == "table" and rawget(mt, "__index")
    if type(index) == "table" and index ~= value then
      for k, v in pairs(member_names(index)) do out[k] = out[k] or v end
    end
  elseif type(value) == "userdata" then
    local ok, api = pcall(require, "vmlua.core.api")
    local members = ok and api.is_object(value) and api.members(value)
    if members then
      for k, what in pairs(members) do out[k] = what == "method" and "function" or what end
    else
      local mt = debug.getmetatable(value)
      local name = mt and rawget(mt, "__name")
      for _, d in ipairs(ok and api.list() or {}) do
        if d.name == name then
          for _, f in ipairs(d.functions) do out[f.name] = "function" end
          for _, f in ipairs(d.fields) do out[f.name] = "field" end
        end
      end
    end
  elseif type(value) == "string" then
    for k in pairs(string) do out[k] = "function" end
  end
  return out
end

-- Follows "a.b[1].c" without calling a function that a script wrote.
local function resolve(expression, env)
  local value = env
  local rest = expression
  local first = true
  while rest ~= "" do
    local name, after = rest:match("^[%.:]?([%a_][%w_]*)(.*)$")
    local key = name
    if not name then
      local number
      number, after = rest:match("^%[(%d+)%](.*)$")
      key = math.tointeger(tonumber(number))
      if not key then
        key, after = rest:match('^%[%s*"([^"]*)"%s*%](.*)$')
      end
    end
    if key == nil then return nil end
    local ok, got = pcall(function() return value[key] end)
    if first and (not ok or got == nil) then
      ok, got = pcall(function() return env[key] end)
    end
    if not ok or got == nil then return nil end
    value, rest, first = got, after, false
  end
  return value
end

local function complete_path(prefix)
  local ok, qom = pcall(require, "vmlua.core.qom")
  if not ok then return {} end
  local parent, part = prefix:match("^(.*)/([^/]*)$")
  local got, obj = pcall(qom.resolve, parent == "" and "/" or parent)
  if not got or not obj then return {} end
  local out = {}
  local listed, children = pcall(qom.children, obj)
  for _, child in ipairs(listed and children or {}) do
    local name = child.name
    if name and name:sub(1, #part) == part then out[#out + 1] = parent .. "/" .. name end
  end
  table.sort(out)
  return out
end

--- Words that may replace the end of the text before the cursor.
---@param before string
---@param env table
---@return string[] words each begins with the piece that it replaces
---@return string piece
function repl.complete(before, env)
  local path = before:match('["\']?(/[%w_%-%./%[%]]*)$')
  if path and (before:match('["\']/[^"\']*$') or before:match("^%s*/")) then return complete_path(path), path end
  local chain = before:match("([%a_][%w_%.:%[%]\"]*)$") or ""
  local head, sep, part = chain:match("^(.*)([%.:])([%w_]*)$")
  local names, out
  if head then
    local value = resolve(head, env)
    if value == nil then return {}, chain end
    names = member_names(value)
  else
    head, sep, part = "", "", chain
    names = member_names(env)
    for k, v in pairs(member_names(_G)) do names[k] = names[k] or v end
    for w in ("and break do else elseif end false for function goto if in local nil not or repeat return then true until while")
      :gmatch("%a+") do names[w] = names[w] or "keyword" end
  end
  out = {}
  for name, what in pairs(names) do
    if name:sub(1, #part) == part and name:match("^[%a_][%w_]*$") and (part:sub(1, 1) == "_" or name:sub(1, 2) ~= "__")
      and (sep ~= ":" or what == "function") then
      out[#out + 1] = head .. sep .. name
    end
  end
  table.sort(out)
  return out, chain
end

-- ---- the environment ----------------------------------------------------------------------------------

local function all_machines()
  local ok, machine = pcall(require, "vmlua.machine")
  return ok and machine.list() or {}
end

-- What many a prompt is left by.
local leaving = setmetatable({}, {
  __tostring = function() return "Ctrl-D leaves the prompt, os.exit() ends the program" end,
  __call = function(self) print(tostring(self)) end,
})

--- The names that a prompt knows besides Lua's own.
---@param extra? table
---@return table
function repl.environment(extra)
  local env = {}
  -- Loaded when a source is first used elsewhere; here help(vm.pio) and completion are to know them at once.
  require "vmlua.event"
  local dynamic = {
    vm = function()
      local list = all_machines()
      return list[#list]
    end,
  }
  local base = {
    machines = all_machines,
    help = function(x) return require("vmlua.help").show(x) end,
    object = function(path) return require("vmlua.core.qom").resolve(path) end,
    pp = function(x, opts) print(pretty.format(x, opts)) end,
    hex = function(bytes, addr) print(pretty.hexdump(bytes, addr)) end,
    exit = leaving, quit = leaving,
  }
  for name, module in pairs { vmlua = "vmlua", qom = "vmlua.qom", sched = "vmlua.sched", machine = "vmlua.machine" } do
    dynamic[name] = function()
      local ok, value = pcall(require, module)
      return ok and value or nil
    end
  end
  for k, v in pairs(extra or {}) do base[k] = v end
  for k in pairs(dynamic) do
    if base[k] == nil then base[k] = nil end
  end
  return setmetatable(env, {
    __index = function(_, key)
      local value = base[key]
      if value ~= nil then return value end
      if dynamic[key] then return dynamic[key]() end
      return rawget(_G, key)
    end,
    __names = function()
      local out = {}
      for k in pairs(base) do out[#out + 1] = k end
      for k in pairs(dynamic) do out[#out + 1] = k end
      return out
    end,
  })
end

-- ---- evaluating ----------------------------------------------------------------------------------------

--- Text of an error value with the useful part of its traceback.
---@param e any
---@return string
function repl.error_text(e)
  local message = type(e) == "string" and e or tostring(e)
  if message:find("\nstack traceback:", 1, true) then return message end
  local lines = {}
  for line in debug.traceback("", 2):gmatch("[^\n]+") do
    if line:find("vmlua/repl.lua", 1, true) or line:find("in function 'xpcall'", 1, true) then break end
    lines[#lines + 1] = line
  end
  -- Where the only frame is the line that was typed, the message says it all.
  if text.script_frames(lines) <= 2 then return message end
  return message .. "\n" .. table.concat(lines, "\n")
end

--- Runs a compiled line and prints what it answers.
---@param chunk function
---@param env table
---@param write fun(text: string)
---@param source? string what was typed: the last name in it says how a number reads best
---@return boolean ok
function repl.evaluate(chunk, env, write, source)
  local results = table.pack(xpcall(chunk, repl.error_text))
  if not results[1] then
    write(tostring(results[2]) .. "\n")
    return false
  end
  if results.n > 1 then
    env._ = results[2]
    local out = {}
    local name = source and source:match("%.([%a_][%w_]*)%s*$")
    for i = 2, results.n do
      local ok, shown = pcall(pretty.format, results[i], { width = repl.width and repl.width() or 100, name = name })
      out[#out + 1] = ok and shown or "(cannot be shown: " .. tostring(shown) .. ")"
    end
    write(table.concat(out, "\t") .. "\n")
  end
  return true
end

---@class Session
---@field env table
---@field failed boolean a line raised an error
local Session = {}
Session.__index = Session

--- One conversation: feed it lines, it answers through `write`.
---@param env table
---@param write fun(text: string)
---@return Session
function repl.session(env, write)
  return setmetatable({ env = env, write = write, pending = nil, failed = false }, Session)
end

--- Takes one line. Answers a function to run (it may yield), or nil: nothing to run, or more lines are needed.
---@param line string
---@return function?
function Session:feed(line)
  local source = self.pending and self.pending .. "\n" .. line or line
  if not self.pending and line:match("^%s*$") then return nil end
  local chunk, message = repl.compile(source, self.env)
  if chunk then
    self.pending = nil
    return function()
      if not repl.evaluate(chunk, self.env, self.write, source) then self.failed = true end
    end
  end
  if message == "incomplete" then
    self.pending = source
    return nil
  end
  self.pending = nil
  self.failed = true
  self.write(message .. "\n")
  return nil
end

--- Drops an unfinished piece; answers whether there was one.
---@return boolean
function Session:cancel()
  local had = self.pending ~= nil
  self.pending = nil
  return had
end

--- What the prompt shows before the next line.
---@return string
function Session:prompt() return self.pending and ">> " or "> " end

return repl

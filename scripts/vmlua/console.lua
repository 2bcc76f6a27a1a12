--[[
The prompt on a terminal, on a pipe, or on a socket: everything of the REPL that touches the outside.

Whatever prints while a line is being edited goes through `console.say`, which takes the prompt off the screen,
prints, and puts it back. A piece without an end of line stays where it is: the next piece goes on behind it.

Everything here runs shielded: Ctrl-C ends the line that was typed, a task of its own, and never the prompt.
]]
local edit = require "vmlua.core.edit"
local fs = require "vmlua.core.fs"
local log = require "vmlua.core.log"
local loop = require "vmlua.core.loop"
local repl = require "vmlua.repl"
local sched = require "vmlua.sched"
local text = require "vmlua.text"

local console = {}

local shielded = loop.shielded

local editing = false -- the prompt is on the screen
local column = 0 -- where the last piece that said no end of line left the cursor; 0: at a line's start
local real_print, real_write = print, io.write

local function width()
  local n = math.tointeger(tonumber(os.getenv "COLUMNS" or ""))
  return n and n > 20 and n or 80
end
repl.width = width

local function track(s)
  local tail = s:match("^.*\n(.*)$")
  if tail then column = 0 else tail = s end
  tail = tail:gsub("\27%[[%d;]*%a", "")
  for c in tail:gmatch(utf8.charpattern) do
    if c == "\r" then column = 0 elseif c == "\b" then column = math.max(0, column - 1) elseif c >= " " then column = column + 1 end
  end
end

local waiting, timer = {}, nil -- pieces that are printed together, so that a guest's single bytes do not flicker

local function flush()
  if timer then timer:cancel() end
  timer = nil
  local s = table.concat(waiting):gsub("\r\n", "\n")
  waiting = {}
  if s == "" then return end
  if not editing then
    track(s)
    io.stdout:write(s)
    io.stdout:flush()
    return
  end
  edit.hide()
  if column > 0 then
    -- The cursor goes back behind the piece that ended without a line feed.
    io.stdout:write(("\27[A\27[%dC"):format(column % width()))
  end
  track(s)
  io.stdout:write(s, column > 0 and "\n" or "")
  io.stdout:flush()
  edit.show()
end

--- Prints above the prompt.
---@param s string
function console.say(s)
  waiting[#waiting + 1] = s
  if not editing or #waiting > 200 then return flush() end
  timer = timer or loop.timer(10000000, shielded(flush))
end

local function say_values(...)
  local parts = table.pack(...)
  for i = 1, parts.n do parts[i] = tostring(parts[i]) end
  console.say(table.concat(parts, "\t") .. "\n")
end

local function take_output()
  _G.print = say_values
  rawset(io, "write", function(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    console.say(table.concat(parts))
    return io.stdout
  end)
  log.sink(shielded(function(_, line) console.say(line .. "\n") end))
  loop.on_error(shielded(function(message) console.say(message .. "\n") end))
end

local function give_output_back()
  _G.print = real_print
  rawset(io, "write", real_write)
  log.sink(nil)
  loop.on_error(nil)
end

-- ---- history ----------------------------------------------------------------------------------------

local function history_file()
  local name = os.getenv "VMLUA_HISTORY"
  if name then return name ~= "" and name or nil end
  local base = os.getenv "XDG_STATE_HOME"
  if not base or base == "" then
    local home = os.getenv "HOME"
    if not home or home == "" then return nil end
    base = home .. "/.local/state"
  end
  return base .. "/vmlua/history"
end

local loaded = false

local function load_history()
  local path = not loaded and history_file()
  loaded = true
  if path and fs.stat(path) then edit.history_load(path) end
end

local function save_history()
  local path = history_file()
  if not path then return end
  local dir = path:match("^(.*)/[^/]*$")
  if dir and dir ~= "" and not fs.stat(dir) and not fs.mkdir(dir) then return end
  edit.history_save(path, 2000)
end

-- ---- lines as tasks -----------------------------------------------------------------------------------

local function first_line(message) return tostring(message):match "^[^\n]*" end

-- Runs one function at a time, each as a task; its `done` is called after it, with the error that ended it if one did.
local function new_executor()
  local self = { task = nil }
  local queue = {}
  local next_one
  function next_one()
    if self.task or #queue == 0 then return end
    local item = table.remove(queue, 1)
    local task = sched.spawn(item.run)
    self.task = task
    task:on_end(function()
      self.task = nil
      loop.answered()
      item.done(task.status == "failed" and first_line(task.results[1]) or nil)
      if #queue > 0 then loop.later(shielded(next_one)) end
    end)
  end
  function self.run(fn, done)
    queue[#queue + 1] = { run = fn, done = done }
    next_one()
  end
  -- Ends what waits; false: what runs at the moment cannot be ended from here.
  function self.cancel()
    local task = self.task
    if not task then return true end
    if coroutine.status(task.thread) ~= "suspended" then return false end
    sched.cancel(task)
    return true
  end
  function self.busy() return self.task ~= nil or #queue > 0 end
  return self
end

-- ---- terminal -------------------------------------------------------------------------------------------

local function machines_running()
  local out = {}
  for _, vm in ipairs(require("vmlua.machine").list()) do
    if vm.status == "running" then out[#out + 1] = tostring(vm) end
  end
  return out
end

--- Starts a prompt on the terminal, or on standard input when that is a pipe. It lives in the main loop; the
--- answer's `ended` says that the user has left it, `failed` that a line of a pipe raised an error.
---@param env table
---@param opts? { escape?: fun(key: string) } who is told of a key after Ctrl-A, on a terminal
---@return { ended: boolean, failed: boolean, stop: fun() }
function console.start(env, opts)
  local session = repl.session(env, console.say)
  local executor = new_executor()
  local self = { ended = false, failed = false }
  local terminal = fs.isatty(0) and fs.isatty(1)
  local warned = false

  if terminal then
    local on_line
    local told = opts and opts.escape
    local escape = told and shielded(function(key) loop.later(shielded(function() told(key) end)) end)
    local function complete(word, line, start)
      local words, piece = repl.complete(line:sub(1, start - 1) .. word, env)
      local skip = #piece - #word
      if skip == 0 then return words end
      local out = {}
      for _, w in ipairs(words) do
        if skip > 0 then out[#out + 1] = w:sub(skip + 1) else out[#out + 1] = word:sub(1, -skip) .. w end
      end
      return out
    end
    local function begin(err)
      if self.ended then return end
      if err then console.say(err .. "\n") end
      flush()
      if column > 0 then
        io.stdout:write("\n")
        column = 0
      end
      io.stdout:flush()
      edit.start(session:prompt(), on_line, complete, escape)
      editing = true
    end
    local function finish()
      if editing then
        editing = false
        edit.stop()
        flush()
      end
    end
    -- Runs outside the editor's own callback, where it can be stopped.
    local function take(line)
      finish()
      if line == nil then
        local running = machines_running()
        if #running > 0 and not warned then
          warned = true
          console.say(("\n%s still runs; Ctrl-D again ends it\n"):format(table.concat(running, " and ")))
          return begin()
        end
        console.say "\n"
        self.ended = true
        return
      end
      warned = false
      if line:match("%S") then edit.history_add(line) end
      local run = session:feed(line)
      if run then executor.run(run, begin) else begin() end
    end
    on_line = shielded(function(line) loop.later(shielded(function() take(line) end)) end)
    take_output()
    load_history()
    local sigint = loop.on_sigint(function()
      if executor.task then
        -- A line that asks for rounds of the loop itself gets the error from the one it is in.
        if coroutine.status(executor.task.thread) ~= "suspended" then return true end
        console.say "\ninterrupted\n"
        executor.cancel()
      elseif editing then
        session:cancel()
        edit.cancel(session:prompt())
      end
    end)
    local winch = loop.on_signal("winch", shielded(edit.resized))
    begin()
    function self.stop()
      if self.stopped then return end
      self.stopped, self.ended = true, true
      finish()
      executor.cancel()
      give_output_back()
      loop.on_sigint(sigint)
      loop.on_signal("winch", winch)
      save_history()
    end
    return self
  end

  local at_end, watch = false, nil
  local function leave()
    if at_end and not executor.busy() then
      if session.pending then
        local chunk, message = load(session.pending, "=prompt", "t", env)
        if not chunk then
          console.say(tostring(message) .. "\n")
          session.failed = true
        end
        session.pending = nil
      end
      self.failed = session.failed
      self.ended = true
    end
  end
  local lines = {}
  local split, rest = text.line_splitter(function(line) lines[#lines + 1] = line end)
  local function feed()
    while #lines > 0 and not executor.busy() do
      local run = session:feed(table.remove(lines, 1))
      if run then
        executor.run(run, function(err)
          if err then
            session.failed = true
            console.say(err .. "\n")
          end
          loop.later(shielded(feed))
        end)
      end
    end
    if #lines == 0 then leave() end
  end
  watch = loop.watch(0, "r", shielded(function()
    local data = fs.read(0, 65536)
    if not data or data == "" then
      watch:remove()
      local last = rest()
      if last ~= "" then lines[#lines + 1] = last end
      at_end = true
    else
      split(data)
    end
    feed()
  end))
  function self.stop()
    watch:remove()
    executor.cancel()
    self.ended = true
  end
  return self
end

--- A back end for a serial port whose output shows above the prompt.
---@return chardev
function console.serial()
  return assert(require("vmlua.core.chardev").script(function(bytes) console.say(bytes) end))
end

--- A prompt without a line editor: bytes in, text out.
---@param env table
---@param write fun(text: string)
---@param prompts boolean
---@return { start: fun(), take: fun(bytes: string) }
function console.conversation(env, write, prompts)
  local own = setmetatable({}, { __index = env, __newindex = env })
  function own.print(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    write(table.concat(parts, "\t") .. "\n")
  end
  local session, executor = repl.session(own, write), new_executor()
  local function prompt(err) write((err and err .. "\n" or "") .. (prompts and session:prompt() or "")) end
  local self, returned = { start = prompt }, false
  local split, rest = text.line_splitter(function(line)
    executor.run(function()
      local run = session:feed(line)
      if run then run() end
    end, prompt)
  end, 65536)
  function self.take(bytes)
    if bytes:find("\3", 1, true) then
      rest()
      if executor.task then
        write "interrupted\n"
        if not executor.cancel() then write "(it does not wait: it goes on)\n" end
      else
        session:cancel()
        write "\n"
        prompt()
      end
      return
    end
    if returned and bytes:sub(1, 1) == "\n" then bytes = bytes:sub(2) end -- the end of one line, in two pieces
    returned = bytes:sub(-1) == "\r"
    split((bytes:gsub("\r\n?", "\n")))
  end
  return self
end

--- A prompt for whoever connects to a chardev: `-monitor tcp:127.0.0.1:4444,server,wait=off`. The device's end of the
--- chardev is a device of the machine, so that it goes with it.
---@param vm machine
---@param spec string
---@param env table
function console.listen(vm, spec, env)
  local qom = require "vmlua.core.qom"
  if not qom.class "lua-monitor" then
    qom.type {
      name = "lua-monitor", parent = "device", doc = "A Lua prompt behind a chardev", user_creatable = false,
      properties = { chardev = { "link", type = "chardev", doc = "who types" } },
      realize = function(dev)
        local data = dev.data
        local talk
        data.start = function()
          talk = console.conversation(data.env, function(said) data.front:write((said:gsub("\n", "\r\n"))) end, true)
          talk.start()
        end
        data.front = dev:front(dev.chardev, {
          receive = shielded(function(_, bytes)
            if talk then talk.take(bytes) end
          end),
          event = shielded(function(_, what)
            if what == "opened" and data.env then data.start() end
          end),
        })
      end,
    }
  end
  local machine = require "vmlua.machine"
  local chr = machine.chardev(spec, vm, "monitor")
  local dev = vm:device("lua-monitor", { chardev = chr })
  dev.data.env = env
  if chr.open then dev.data.start() end
end

--- `vmlua` without arguments. Answers the exit status.
---@param stop fun(): integer? says that a signal wants the end
---@return integer
console.main = shielded(function(stop)
  local terminal = fs.isatty(0) and fs.isatty(1)
  if terminal then
    io.stdout:write("vmlua ", require("vmlua.launcher").version, ", ", _VERSION,
      "; help() tells more, Ctrl-D leaves\n")
  end
  local session = console.start(repl.environment())
  local status
  while not session.ended and not status do
    loop.iterate(true)
    status = stop()
  end
  local failed = session.failed
  session.stop()
  return status or (failed and 1 or 0)
end)

return console

--[[
Tests: `local test = require "vmlua.test"`, then

    test("a sentence that says what holds", function(t)
      local vm = t.machine("bare", { kernel = "guest.bin" })
      vm:start()
      t.eq(vm:wait { rt = 10 }, "shutdown")
    end)

A test is a coroutine: it may wait, sleep and expect as any script. Whatever it made through `t` is closed
on every way out: return, error, time-out, Ctrl-C. `vmlua test` runs each file in a process of its own (see
vmlua.testrunner); this file is what runs inside that process.
]]
local pretty = require "vmlua.pretty"
local strict = require "vmlua.strict"

local registered = {}

---@class TestOptions
---@field timeout? number seconds of wall time this test may take
---@field long? boolean runs only with --long
---@field skip? string reason not to run it
---@field no_torture? string why its machines cannot be saved and restored at its waits

local test = {}

local Skip = { __tostring = function(e) return "skipped: " .. e.reason end }
local Failure = { __tostring = function(e) return e.message end }

-- ---- comparing --------------------------------------------------------------------------------

local function same(a, b, seen)
  if type(a) ~= type(b) then return false end
  if type(a) == "number" then return a == b and math.type(a) == math.type(b) end
  if rawequal(a, b) then return true end
  if type(a) ~= "table" then return a == b end
  if getmetatable(a) and getmetatable(a).__eq then return a == b end
  seen = seen or {}
  if seen[a] == b then return true end
  seen[a] = b
  for k, v in pairs(a) do
    if not same(v, b[k], seen) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

local SHOWN = 2000 -- bytes of a value that a message has room for

local function show(v)
  local shown = pretty.format(v, { width = 90 })
  if #shown <= SHOWN then return shown end
  return ("%s … %s (%d bytes)"):format(shown:sub(1, SHOWN // 2), shown:sub(-SHOWN // 2), #shown)
end

-- What stands before a failure's own words.
local function prefix(message, ...)
  if not message then return "" end
  return (select("#", ...) > 0 and message:format(...) or message) .. ": "
end

-- Where two long strings begin to differ, and what stands there in each.
local function difference(got, expected)
  local low, high = 0, math.min(#got, #expected) -- so many are equal; no more than so many can be
  while low < high do
    local middle = (low + high + 1) // 2
    if got:sub(1, middle) == expected:sub(1, middle) then low = middle else high = middle - 1 end
  end
  local from = math.max(1, low - 20)
  return ("%d and %d bytes that differ at byte %d: expected …%s…, got …%s…"):format(#expected, #got, low + 1,
    show(expected:sub(from, low + 60)), show(got:sub(from, low + 60)))
end

-- Frames of this file say nothing about the test.
local function trace(thread, level)
  local out = {}
  local text_of = thread and debug.traceback(thread) or debug.traceback("", level + 1)
  for line in text_of:gmatch("[^\n]+") do
    if not line:find("vmlua/test.lua", 1, true) and not line:find("in function 'xpcall'", 1, true)
      and not line:find("in function 'error'", 1, true) then out[#out + 1] = line end
  end
  return #out > 2 and table.concat(out, "\n") or ""
end

local function fail(level, format, ...)
  local message = select("#", ...) > 0 and format:format(...) or format
  local info = debug.getinfo(level + 1, "Sl")
  local where = info and info.currentline > 0 and ("%s:%d: "):format(info.short_src, info.currentline) or ""
  error(setmetatable({ message = where .. message, traceback = trace(nil, level + 1) }, Failure), 0)
end

-- ---- t ----------------------------------------------------------------------------------------

--- What a test is given.
---@class T
local function new_t(entry, env)
  local t = { name = entry.name, file = entry.file }
  local state = { cleanups = {}, machines = {}, allowed = {}, log = env.log }

  --- Fails unless `value` is true; returns it.
  function t.ok(value, message, ...)
    if not value then fail(2, message or "expected a true value, got " .. tostring(value), ...) end
    return value
  end

  --- Fails unless both are equal; tables are compared by content. `message`, here and below, may be a format.
  function t.eq(got, expected, message, ...)
    if not same(got, expected) then
      local long = type(got) == "string" and type(expected) == "string" and math.max(#got, #expected) > SHOWN
      fail(2, "%s%s", prefix(message, ...),
        long and difference(got, expected) or ("expected %s, got %s"):format(show(expected), show(got)))
    end
    return got
  end

  --- Fails when both are equal.
  function t.ne(got, other, message, ...)
    if same(got, other) then fail(2, "%sexpected something else than %s", prefix(message, ...), show(other)) end
    return got
  end

  --- Fails unless the numbers differ by at most `epsilon`.
  function t.near(got, expected, epsilon, message, ...)
    if type(got) ~= "number" or math.abs(got - expected) > epsilon then
      fail(2, "%sexpected %s ± %s, got %s", prefix(message, ...), expected, epsilon, show(got))
    end
    return got
  end

  --- Fails unless the text matches the Lua pattern; returns the captures.
  function t.match(s, pattern, message, ...)
    if type(s) ~= "string" or not s:find(pattern) then
      fail(2, "%sexpected text that matches %s, got %s", prefix(message, ...), show(pattern), show(s))
    end
    return s:match(pattern)
  end

  --- Fails unless fn(...) raises an error whose text matches the pattern; returns the text.
  function t.raises(pattern, fn, ...)
    local results = table.pack(pcall(fn, ...))
    if results[1] then fail(2, "expected an error that matches %s, none was raised", show(pattern)) end
    local err = results[2]
    if type(err) == "table" and (getmetatable(err) == Failure or getmetatable(err) == Skip) then error(err, 0) end
    local message = tostring(err)
    if not message:find(pattern) then
      fail(2, "expected an error that matches %s, got %s", show(pattern), show(message))
    end
    return message
  end

  --- Fails unless fn(...) answers nil and a message that matches the pattern; returns the message.
  function t.refuses(pattern, fn, ...)
    local value, message = fn(...)
    if value then fail(2, "expected a refusal that matches %s, got %s", show(pattern), show(value)) end
    if type(message) ~= "string" or not message:find(pattern) then
      fail(2, "expected a refusal that matches %s, got %s", show(pattern), show(message))
    end
    return message
  end

  --- Fails the test.
  function t.fail(message, ...) fail(2, message or "failed", ...) end

  --- Ends the test as skipped; skips are counted and the reason is shown.
  function t.skip(reason) error(setmetatable({ reason = reason or "no reason given" }, Skip), 0) end

  --- Skips the test where this accelerator does not work (none named: where no one does); answers what is known of it.
  function t.accel(name)
    local reason
    for _, accel in ipairs(require("vmlua.core.machine").accels()) do
      if not name or accel.name == name then
        if accel.available then return accel end
        reason = accel.reason
      end
    end
    t.skip(reason or name and "built without " .. name or "no accelerator works here")
  end

  --- Notes something that is shown when the test fails.
  function t.log(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = type(parts[i]) == "string" and parts[i] or show(parts[i]) end
    state.log(table.concat(parts, " "))
  end

  --- Runs `fn` when the test is over, last added first.
  function t.cleanup(fn)
    state.cleanups[#state.cleanups + 1] = fn
    return fn
  end

  --- A fresh folder, removed with all that is in it when the test is over.
  function t.tmpdir()
    local path = env.mkdtemp()
    t.cleanup(function() env.rmtree(path) end)
    return path
  end

  --- Writes a file (into a fresh folder unless the name has one) and returns its path.
  function t.file(name, content)
    local path = name:find("/", 1, true) and name or t.tmpdir() .. "/" .. name
    local f = assert(io.open(path, "wb"))
    f:write(content)
    f:close()
    return path
  end

  --- A machine that is closed when the test is over, and looked at when the test fails. Takes the name or
  --- class of a board and settings, or one table: settings with the board at [1], or a board definition.
  function t.machine(board, conf)
    local machine = require "vmlua.machine"
    if type(board) == "table" and conf == nil and not machine.is_class(board) then
      if board.init then
        local definition = {}
        for k, v in pairs(board) do definition[k] = v end
        env.anonymous = (env.anonymous or 0) + 1
        definition.name = definition.name or ("test-board-%d"):format(env.anonymous)
        board, conf = machine.define(definition), {}
      else
        conf = {}
        for k, v in pairs(board) do conf[k] = v end
        board = table.remove(conf, 1)
      end
    end
    local ok, vm = pcall(machine.new, board, conf or {})
    if not ok then error(vm, 0) end
    return t.watch(vm)
  end

  --- Takes a machine made otherwise under this test's care.
  function t.watch(vm)
    state.machines[#state.machines + 1] = vm
    return vm
  end

  --- Says that this machine may end up in the "error" state: the test looks at that itself.
  function t.may_fail(vm)
    state.allowed[vm] = true
    return vm
  end

  --- Waits so many seconds.
  function t.sleep(seconds) return env.sleep(seconds) end

  --- Waits until fn() is true, looking again after each event; fails after so many seconds (10).
  function t.wait_for(fn, seconds, message)
    local deadline = env.now() + (seconds or 10)
    if env.wait_begins then env.wait_begins() end
    while true do
      local value = fn()
      if value then return value end
      if env.now() > deadline then fail(2, "%s", (message or "it did not become true") .. (" within %g seconds"):format(seconds or 10)) end
      env.nap(0.005)
    end
  end

  --- Runs this program with other arguments, as a process of its own. `input` is written to its standard input.
  ---@return { status?: integer, signal?: integer, out: string, err: string }
  function t.vmlua(argv)
    return env.vmlua(argv, t)
  end

  return t, state
end

-- ---- what is shown of machines when a test fails ------------------------------------------------

local function try(fn, ...)
  local ok, value = pcall(fn, ...)
  if ok then return value end
  return nil
end

local function describe_machine(vm, out)
  local function say(format, ...) out(select("#", ...) > 0 and format:format(...) or format) end
  local status = try(function() return vm.status end) or "gone"
  local reason = try(function() return vm.reason end)
  say("machine %s: %s%s", try(function() return vm.path end) or "?", status, reason and reason ~= "" and " (" .. reason .. ")" or "")
  if status == "gone" or status == "closed" then return end
  try(function() vm:pause("the test failed") end)
  for i, port in ipairs(try(function() return vm.serial end) or {}) do
    local log = try(function() return port:history() end)
    if type(log) == "string" and #log > 0 then
      say("serial %d, last %d of %d bytes:", i, math.min(#log, 2000), #log)
      for line in (log:sub(-2000) .. "\n"):gmatch("([^\n]*)\n") do
        if line ~= "" then say("  | %s", (line:gsub("[%c\127-\255]", "."))) end
      end
    end
  end
  for i, cpu in ipairs(try(function() return vm.cpus end) or {}) do
    local dump = try(function() return cpu:dump() end)
    if dump then
      say("cpu %d:", i)
      for line in dump:gmatch("[^\n]+") do say("  %s", line) end
    end
    local exits = try(function() return cpu.last_exits end)
    if exits and #exits > 0 then
      say("cpu %d, last exits, oldest first:", i)
      for _, x in ipairs(exits) do
        say("  %-10s %s%s", x.kind, x.addr and ("0x%x "):format(x.addr) or "",
          x.size and x.size > 0 and ("%s %d bytes 0x%x"):format(x.write and "write" or "read", x.size, x.value or 0) or "")
      end
    end
  end
end

-- ---- running one file ---------------------------------------------------------------------------

-- Seconds that a test may take to clean up.
local CLEANUP_TIME = 10

local function close_all(state, env, problems)
  env.limit(CLEANUP_TIME, ("cleaning up took longer than %g seconds"):format(CLEANUP_TIME))
  for i = #state.cleanups, 1, -1 do
    local co = coroutine.create(state.cleanups[i]) -- what a test gave can be ended, unlike what runs the tests
    local ok, err = coroutine.resume(co)
    if not ok then problems[#problems + 1] = "cleanup failed: " .. debug.traceback(co, tostring(err)) end
    coroutine.close(co)
  end
  for i = #state.machines, 1, -1 do
    local vm = state.machines[i]
    local ok, err = pcall(function()
      if vm.status ~= "closed" then vm:close() end
    end)
    if not ok and not tostring(err):find("is gone", 1, true) then
      problems[#problems + 1] = "closing a machine failed: " .. tostring(err)
    end
  end
  env.limit(0)
end

local function broken_machine(state)
  for _, vm in ipairs(state.machines) do
    if not state.allowed[vm] and try(function() return vm.status end) == "error" then
      return vm, try(function() return vm.reason end) or "no reason known"
    end
  end
  return nil
end

-- A test's own error, with where it came from.
local function on_error(e)
  if type(e) == "table" and (getmetatable(e) == Failure or getmetatable(e) == Skip) then return e end
  return setmetatable({ message = tostring(e), traceback = trace(nil, 2) }, Failure)
end

-- What is called before each wait under --torture: saves, spoils and restores the machines of the test. `state.tortured`
-- counts.
local function torturer(state, kind)
  state.tortured = 0
  return function(vm)
    local all = { vm }
    for _, other in ipairs(state.machines) do
      if other ~= vm then all[#all + 1] = other end
    end
    for _, m in ipairs(all) do
      if not m.gone and m.status ~= "closed" then
        local done, err = m:_torture(kind)
        if done == nil then error(("torture: %s"):format(err), 0) end
        if done then state.tortured = state.tortured + 1 end
      end
    end
  end
end

-- Waits until the task is over, its time is, its machine is broken, or `stop` says so. Answers what is to be reported.
local function watch(task, state, env, limit, message)
  local deadline = env.now() + limit
  while not task.results do
    local left = deadline - env.now()
    if left <= 0 then return { message = message, traceback = trace(task.thread) } end
    local vm, reason = broken_machine(state)
    if vm then return { message = ("machine %s failed: %s"):format(tostring(vm), reason), traceback = trace(task.thread) } end
    if env.stop() then return { message = "interrupted", traceback = trace(task.thread) } end
    env.step(math.min(left, 1))
  end
  return nil
end

--- Runs one registered test, from shielded code (loop.shielded). env gives log, mkdtemp, rmtree, spawn, cancel, now
--- (seconds), step (one round of the main loop, at most so many seconds), limit and ended_by (those of the loop) and stop
--- (true: a signal wants the end). Answers "ok", "skip" or "fail" and a list of lines.
---@return string outcome
---@return string[] lines
function test.run_one(entry, env, timeout)
  if entry.options.skip then return "skip", { entry.options.skip } end
  if env.torture and entry.options.no_torture then return "skip", { "not to be tortured: " .. entry.options.no_torture } end
  local t, state = new_t(entry, env)
  local outcome, lines = nil, {}
  local done, result = false, nil
  local limit = entry.options.timeout or timeout
  local message = ("timed out after %g seconds"):format(limit)
  env.ended_by()
  env.wait_begins = env.torture and torturer(state, env.torture) or nil
  env.before_wait(env.wait_begins)
  -- A test that waits is ended by the loop below; one that never gets there, by an error where it is.
  env.limit(limit + 0.5, message .. " without a pause")
  local task = env.spawn(function()
    local ok, err = xpcall(entry.fn, on_error, t)
    done, result = true, not ok and err or nil
  end)
  task.quiet = true
  local over = watch(task, state, env, limit, message)
  env.limit(0)
  env.before_wait(nil)
  env.tortured = (env.tortured or 0) + (state.tortured or 0)
  if over then
    result = setmetatable(over, Failure)
  elseif not done then
    -- It caught the first error and was ended by the next ones.
    local why, where = env.ended_by()
    result = setmetatable({ message = why or tostring(task.error), traceback = where or "" }, Failure)
    done = true
  end
  if not done then env.cancel(task) end
  if not result then
    local vm, reason = broken_machine(state)
    if vm then
      result = setmetatable({ message = ("machine %s failed: %s"):format(tostring(vm), reason) }, Failure)
    end
  end
  local problems = {}
  if result and getmetatable(result) == Skip then
    outcome, lines = "skip", { result.reason }
  elseif result then
    outcome = "fail"
    for line in tostring(result.message):gmatch("[^\n]+") do lines[#lines + 1] = line end
    for line in (result.traceback or ""):gmatch("[^\n]+") do lines[#lines + 1] = line end
    for _, vm in ipairs(state.machines) do
      local ok, err = pcall(describe_machine, vm, function(line) lines[#lines + 1] = line end)
      if not ok then lines[#lines + 1] = "(the machine could not be described: " .. tostring(err) .. ")" end
    end
  end
  close_all(state, env, problems)
  if #problems > 0 and outcome ~= "fail" then
    outcome, lines = "fail", {}
  end
  for _, p in ipairs(problems) do
    for line in p:gmatch("[^\n]+") do lines[#lines + 1] = line end
  end
  return outcome or "ok", lines
end

--- Declares a test. The name is a sentence that says what holds.
---@param name string
---@param opts TestOptions|fun(t: T)
---@param fn? fun(t: T)
function test.add(name, opts, fn)
  if type(opts) == "function" then opts, fn = {}, opts end
  if type(name) ~= "string" or name == "" or name:find("\n") then error("a test needs a name of one line", 3) end
  if type(fn) ~= "function" then error(("test %q has no function"):format(name), 3) end
  strict.check(("test %q"):format(name), opts, { timeout = "number", long = "boolean", skip = "string", no_torture = "string" }, 3)
  for _, other in ipairs(registered) do
    if other.name == name then error(("two tests are named %q"):format(name), 3) end
  end
  registered[#registered + 1] = { name = name, options = opts, fn = fn }
end

--- What the file that was loaded has declared.
---@return table[]
function test.registered() return registered end

return setmetatable(test, { __call = function(_, ...) test.add(...) end })

--[[
Tasks: coroutines that wait for callbacks of the main loop. Waiting is written here, once; nothing in C yields.

    local task = sched.spawn(function() sched.sleep(0.5) return 42 end)
    print(task:join())                 -- 42

Everything that waits does it through `sched.suspend`. In a task it yields; in the main chunk of a script it
runs the main loop until it is woken; inside a callback from the engine it is an error, as there the engine
itself would have to wait.

Ctrl-C ends what a task runs, never the scheduler in the middle of a step: what the loop calls here is shielded.
]]
local loop = require "vmlua.core.loop"

local sched = {}

local shielded = loop.shielded

local tasks = setmetatable({}, { __mode = "k" }) -- thread -> task
local alive = {} -- tasks that have not ended: they belong to the scheduler, not to the garbage collector
local Cancelled = { __tostring = function() return "the task was cancelled" end }
local cancelled = setmetatable({}, Cancelled)

---@class Task
---@field thread thread
---@field name string
---@field status "ready"|"running"|"waiting"|"done"|"failed"|"cancelled"
local Task = {}
Task.__index = Task
Task.__tostring = function(t) return ("task %s (%s)"):format(t.name, t.status) end

--- Told of each error that ends a task nobody joins; the default writes it to standard error.
---@param message string
---@param task Task
function sched.on_error(message, task)
  require("vmlua.core.log").error(("%s: %s"):format(task.name, message))
end

local function text_of(e, thread)
  local ok, message = pcall(tostring, e)
  message = ok and message or ("(error object is a %s value)"):format(type(e))
  return thread and debug.traceback(thread, message) or message
end

local function finish(task, status, ...)
  task.status, task.results = status, table.pack(...)
  task.stop = nil
  alive[task] = nil
  local joiners = task.joiners
  task.joiners = nil
  for _, wake in ipairs(joiners or {}) do wake() end
  if status == "failed" and not joiners and not task.quiet then
    local ok, err = pcall(sched.on_error, task.results[1], task)
    if not ok then io.stderr:write("error in sched.on_error: ", tostring(err), "\n", tostring(task.results[1]), "\n") end
  end
end

local function resumed(task, ok, ...)
  if coroutine.status(task.thread) == "suspended" then
    if task.stop ~= nil then
      task.status = "waiting"
      return
    end
    -- A yield that is no wait: nobody would ever resume it.
    local message = text_of("coroutine.yield in a task: nothing goes on from there (sched.yield lets others run)", task.thread)
    task.error, task.stray = message, true
    coroutine.close(task.thread)
    finish(task, "failed", message)
    return
  end
  if ok then
    finish(task, "done", ...)
  elseif ... == cancelled then
    finish(task, "cancelled", "cancelled")
  else
    local err = ...
    task.error = err
    finish(task, "failed", text_of(err, task.thread))
    coroutine.close(task.thread)
  end
end

local function step(task, ...)
  if task.results then return end
  task.status = "running"
  resumed(task, coroutine.resume(task.thread, ...))
end

--- Starts a function as a task; it begins to run at the next turn of the main loop.
---@param fn function
---@param ... any its arguments
---@return Task
function sched.spawn(fn, ...)
  if type(fn) ~= "function" then error(("sched.spawn: a function expected, got %s"):format(type(fn)), 2) end
  local info = debug.getinfo(fn, "S")
  local task = setmetatable({
    thread = coroutine.create(fn), status = "ready", name = ("%s:%d"):format(info.short_src, info.linedefined),
  }, Task)
  tasks[task.thread] = task
  alive[task] = true
  local args = table.pack(...)
  loop.later(shielded(function() step(task, table.unpack(args, 1, args.n)) end))
  return task
end

--- Called before each wait, with the machine that is waited on if there is one: how the test runner tortures machines.
---@type fun(vm: machine?)?
sched.before_wait = nil

local function before_wait(vm)
  if sched.before_wait then sched.before_wait(vm) end
end

--- The task that runs; nil outside of tasks.
---@return Task?
function sched.current() return tasks[coroutine.running()] end

--- All tasks that have not ended.
---@return Task[]
function sched.list()
  local out = {}
  for task in pairs(alive) do out[#out + 1] = task end
  return out
end

--- Waits: calls arm(wake), and returns what `wake` is given, whoever calls it, from whatever callback. `arm` may
--- return a function that undoes it; that is called when the task is cancelled before it was woken.
---@param arm fun(wake: fun(...)): function?
---@return any ...
function sched.suspend(arm)
  local thread = coroutine.running()
  local task = tasks[thread]
  local values, waiting
  local function wake(...)
    if values then return end
    values = table.pack(...)
    if task and waiting then
      task.stop = nil
      loop.later(shielded(function() step(task) end))
    end
  end
  if not task and not loop.may_wait() then
    error("waiting is refused inside a callback from the engine: start a task with sched.spawn that waits", 2)
  end
  local undo = arm(wake)
  if values then return table.unpack(values, 1, values.n) end
  if task and coroutine.isyieldable() then
    task.stop, waiting = undo or false, true
    coroutine.yield()
    if not values then error(cancelled, 0) end
    return table.unpack(values, 1, values.n)
  end
  local _ <close> = setmetatable({}, { __close = function()
    if not values and undo then undo() end
  end })
  while not values do loop.iterate(true) end
  return table.unpack(values, 1, values.n)
end

--- Ends a task where it waits: its to-be-closed variables are closed, whoever joined it gets nil, "cancelled".
---@param task Task
---@return boolean whether there was something to end
function sched.cancel(task)
  if getmetatable(task) ~= Task then error(("sched.cancel: a task expected, got %s"):format(type(task)), 2) end
  if task.results then return false end
  if task.thread == coroutine.running() then error(cancelled, 0) end
  if coroutine.status(task.thread) ~= "suspended" then
    error(("%s cannot be cancelled by what it called"):format(task), 2)
  end
  local stop = task.stop
  task.stop = nil
  task.results = table.pack(nil, "cancelled") -- a wake that is on its way finds it ended
  if stop then stop() end
  local ok, err = coroutine.close(task.thread)
  task.results = nil
  if ok or err == cancelled then
    finish(task, "cancelled", "cancelled")
  else
    finish(task, "failed", text_of(err))
  end
  return true
end
Task.cancel = sched.cancel

--- Calls fn(task) when the task has ended, however; at once when it has. Its error is then fn's to tell.
---@param fn fun(task: Task)
function Task:on_end(fn)
  self.quiet = true
  if self.results then return fn(self) end
  self.joiners = self.joiners or {}
  table.insert(self.joiners, function() fn(self) end)
end

--- Waits for a task to end and returns what it returned. An error of the task is raised here; a cancelled one
--- answers nil, "cancelled"; with rt, nil, "timeout" after so many seconds.
---@param opts? { rt?: number }
---@return any ...
function Task:join(opts)
  self.quiet = true
  if not self.results then
    local late = sched.suspend(function(wake)
      self.joiners = self.joiners or {}
      local timer
      local function ended()
        if timer then timer:cancel() end
        wake(false)
      end
      table.insert(self.joiners, ended)
      local function forget()
        if timer then timer:cancel() end
        for i, w in ipairs(self.joiners or {}) do
          if w == ended then table.remove(self.joiners, i) break end
        end
      end
      if opts and opts.rt then
        timer = loop.timer(sched.ns(opts.rt), shielded(function()
          forget()
          wake(true)
        end))
      end
      return forget
    end)
    if late then
      self.quiet = nil
      return nil, "timeout"
    end
  end
  local r = self.results
  if self.status == "failed" then error(r[1], 0) end
  if self.status == "cancelled" then return nil, "cancelled" end
  return table.unpack(r, 1, r.n)
end

--- Runs a function as a task and the main loop until it has ended; returns what it returns.
---@param fn function
---@return any ...
function sched.run(fn, ...) return sched.spawn(fn, ...):join() end

--- Nanoseconds from seconds, checked.
---@param seconds number
---@return integer
function sched.ns(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    error(("a time of 0 or more seconds expected, got %s"):format(tostring(seconds)), 3)
  end
  return seconds >= 9e9 and math.maxinteger // 4 or math.floor(seconds * 1e9)
end

--- Waits for so many seconds: of real time, or of a machine's time.
---@param seconds number
---@param vm? machine
function sched.sleep(seconds, vm)
  local ns = sched.ns(seconds)
  if vm then return sched.await { vm = vm, arm = function(done)
    local timer = loop.timer(ns, shielded(function() done(true) end), vm)
    return function() timer:cancel() end
  end } end
  before_wait(nil)
  return sched.nap(seconds)
end

--- Waits for so many seconds of real time, on the way of a wait of its own: to look again and again.
---@param seconds number
function sched.nap(seconds)
  local ns = sched.ns(seconds)
  sched.suspend(function(wake)
    local timer = loop.timer(ns, shielded(function() wake(true) end))
    return function() timer:cancel() end
  end)
  return true
end

--- Lets everything else run once.
function sched.yield()
  sched.suspend(function(wake) loop.later(wake) end)
end

---@class Await
---@field arm fun(done: fun(...)): function? sets the wait up; what it returns undoes it
---@field vm? machine the wait ends with nil, "restored" or nil, "closed" when that happens to it
---@field t? number seconds of the machine's time until nil, "timeout"
---@field rt? number seconds of real time until nil, "timeout"

--- A wait with limits, as every source of events has it.
---@param spec Await
---@return any ...
function sched.await(spec)
  local vm = spec.vm
  if spec.t and not vm then error("sched.await: t needs a machine", 2) end
  local t, rt = spec.t and sched.ns(spec.t), spec.rt and sched.ns(spec.rt)
  local waiters
  if vm then
    before_wait(vm)
    if vm.gone then return nil, "closed" end
    waiters = sched.waiters(vm)
  end
  return sched.suspend(function(wake)
    local timers, undo, over = {}, nil, false
    local function clean()
      if over then return end
      over = true
      for _, timer in ipairs(timers) do timer:cancel() end
      if waiters then waiters[timers] = nil end
      if undo then undo() end
    end
    local function done(...)
      clean()
      wake(...)
    end
    local timeout = shielded(function() done(nil, "timeout") end)
    if waiters then waiters[timers] = done end
    undo = spec.arm(done)
    if over then -- it happened at once
      if undo then undo() end
      return nil
    end
    if t then timers[#timers + 1] = loop.timer(t, timeout, vm) end
    if rt then timers[#timers + 1] = loop.timer(rt, timeout) end
    return clean
  end)
end

--- The pending waits on a machine: functions that end them.
---@param vm machine
---@return table<any, fun(...)>
function sched.waiters(vm)
  local data = require("vmlua.core.api").data(vm)
  if not data.waiters then
    data.waiters = {}
    vm:notify(shielded(function(status)
      if status == "closed" then sched.interrupt(vm, "closed") end
    end))
  end
  return data.waiters
end

--- Ends all pending waits on a machine with nil, why.
---@param vm machine
---@param why "restored"|"closed"
function sched.interrupt(vm, why)
  local pending = {}
  for _, done in pairs(require("vmlua.core.api").data(vm).waiters or {}) do pending[#pending + 1] = done end
  for _, done in ipairs(pending) do done(nil, why) end
end

return sched

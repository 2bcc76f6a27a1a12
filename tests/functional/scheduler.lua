-- Tasks: waiting, joining, cancelling, errors.
local loop = require "vmlua.core.loop"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

test("a task runs at the next turn of the loop and its results are joined", function(t)
  local ran = false
  local task = sched.spawn(function(a, b)
    ran = true
    return a + b, nil, "end"
  end, 2, 3)
  t.eq(ran, false)
  t.eq(table.pack(task:join()), { 5, nil, "end", n = 3 })
  t.eq(task.status, "done")
  t.eq(task:join(), 5, "a second join")
end)

test("sleeping takes at least its time, and others run meanwhile", function(t)
  local order = {}
  local a = sched.spawn(function() sched.sleep(0.03) order[#order + 1] = "slow" end)
  local b = sched.spawn(function() sched.sleep(0.001) order[#order + 1] = "fast" end)
  local before = loop.now()
  a:join()
  b:join()
  t.eq(order, { "fast", "slow" })
  t.ok(loop.now() - before >= 30000000)
end)

test("a thousand tasks take turns", function(t)
  local n, tasks = 0, {}
  for i = 1, 1000 do
    tasks[i] = sched.spawn(function() for _ = 1, 5 do sched.yield() n = n + 1 end end)
  end
  for i = 1, 1000 do tasks[i]:join() end
  t.eq(n, 5000)
end)

test("an error of a task is raised where it is joined, with its traceback", function(t)
  local task = sched.spawn(function()
    sched.sleep(0.001)
    error "boo"
  end)
  local message = t.raises("boo", function() task:join() end)
  t.match(message, "stack traceback")
  t.eq(task.status, "failed")
end)

test("an error that nobody joins is told to sched.on_error, whatever value it is", function(t)
  local former, told = sched.on_error, {}
  t.cleanup(function() sched.on_error = former end)
  sched.on_error = function(message) told[#told + 1] = message end
  sched.spawn(function() error "plain" end)
  sched.spawn(function() error({}) end)
  sched.spawn(function() error(setmetatable({}, { __tostring = function() return "a value of its own" end })) end)
  sched.spawn(function() error(nil) end)
  sched.sleep(0.005)
  t.eq(#told, 4)
  t.match(told[1], "plain")
  t.match(told[3], "a value of its own")
end)

test("cancelling closes what the task holds and undoes its wait", function(t)
  local closed, undone = false, false
  local task = sched.spawn(function()
    local _ <close> = setmetatable({}, { __close = function() closed = true end })
    sched.suspend(function() return function() undone = true end end)
  end)
  sched.yield()
  sched.yield()
  t.eq(task.status, "waiting")
  t.eq(sched.cancel(task), true)
  t.eq({ closed, undone, task.status }, { true, true, "cancelled" })
  t.eq(table.pack(task:join()), { nil, "cancelled", n = 2 })
  t.eq(sched.cancel(task), false, "a second time")
end)

test("a task that was cancelled after it was woken does not go on", function(t)
  local wake, went_on
  local task = sched.spawn(function()
    sched.suspend(function(w) wake = w end)
    went_on = true
  end)
  while not wake do sched.yield() end
  wake()
  sched.cancel(task)
  sched.sleep(0.002)
  t.eq(went_on, nil)
end)

test("joining with a limit answers timeout and leaves the task alone", function(t)
  local task = sched.spawn(function() sched.sleep(0.02) return "late" end)
  t.eq(table.pack(task:join { rt = 0.001 }), { nil, "timeout", n = 2 })
  t.eq(task:join(), "late")
end)

test("the first of several wakes counts", function(t)
  t.eq(sched.suspend(function(wake)
    wake(1)
    wake(2)
  end), 1)
  t.eq(sched.suspend(function(wake)
    loop.later(function() wake "later" wake "twice" end)
  end), "later")
end)

test("waiting inside a plain coroutine of a task works", function(t)
  local co = coroutine.wrap(function()
    sched.sleep(0.001)
    coroutine.yield "slept"
    return "over"
  end)
  t.eq(co(), "slept")
  t.eq(co(), "over")
end)

test("a time that is no time is refused", function(t)
  t.raises("0 or more seconds", sched.sleep, -1)
  t.raises("0 or more seconds", sched.sleep, "soon")
  t.raises("0 or more seconds", sched.sleep, 0 / 0)
  t.raises("a function expected", sched.spawn, 3)
  t.raises("a task expected", sched.cancel, {})
end)

test("await ends with the real-time limit and undoes what was set up", function(t)
  local undone = 0
  t.eq(table.pack(sched.await { rt = 0.002, arm = function() return function() undone = undone + 1 end end }), { nil, "timeout", n = 2 })
  t.eq(undone, 1)
  t.eq(sched.await { rt = 1, arm = function(done) done "at once" return function() undone = undone + 1 end end }, "at once")
  t.eq(undone, 2)
end)

test("a task that yields to nobody fails instead of hanging", function(t)
  local task = sched.spawn(function() coroutine.yield(1) end)
  t.raises("coroutine.yield in a task", task.join, task)
  local r = t.vmlua { "-e", "coroutine.yield(1)" }
  t.eq(r.status, 1)
  t.match(r.err, "coroutine.yield in a task")
end)

-- Ctrl-C and budgets: scripts that do not end by themselves.
local fs = require "vmlua.core.fs"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

local program = assert(fs.realpath "/proc/self/exe")

-- Runs code in a vmlua of its own; it prints "ready" when Ctrl-C may come. Answers output, exit code, signal.
local function interrupted(t, code)
  local path = t.file("script.lua", code)
  local out, p = "", nil
  local status, signal = sched.suspend(function(wake)
    p = assert(process.spawn {
      argv = { program, path }, on_exit = wake,
      stdout = function(s)
        out = out .. s
        for _ in s:gmatch "ready" do p:kill(2) end
      end,
      stderr = function(s) out = out .. s end,
    })
    t.cleanup(function() p:kill(9) end)
  end)
  t.log(out)
  return out, status, signal
end

local ready = 'io.write "ready\\n" io.flush() '

test("Ctrl-C ends a script that loops", function(t)
  local out, status = interrupted(t, ready .. "while true do end")
  t.match(out, "interrupted")
  t.eq(status, 130)
end)

test("Ctrl-C ends a script that loops in a coroutine of a coroutine", function(t)
  local out, status = interrupted(t, ready .. [[
    coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end)()]])
  t.match(out, "interrupted")
  t.eq(status, 130)
end)

test("Ctrl-C ends a script that sleeps", function(t)
  local out, status = interrupted(t, 'local sched = require "vmlua.sched" ' .. ready .. "sched.sleep(1000)")
  t.log(out) -- what it says depends on whether it slept yet
  t.eq(status, 130)
end)

test("a second Ctrl-C ends a script that catches the first", function(t)
  local out, status = interrupted(t, [[
    local n = 0
    while true do
      pcall(function()
        n = n + 1
        if n <= 2 then io.write "ready\n" io.flush() end
        while true do end
      end)
    end]])
  t.match(out, "interrupted")
  t.eq(status, 130)
end)

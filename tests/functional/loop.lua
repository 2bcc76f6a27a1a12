-- The main loop, processes, files and the log, as scripts see them.
local api = require "vmlua.core.api"
local fs = require "vmlua.core.fs"
local log = require "vmlua.core.log"
local loop = require "vmlua.core.loop"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

local function run(spec)
  return sched.suspend(function(wake)
    spec.on_exit = function(code, signal) wake(code, signal) end
    local p, err = process.spawn(spec)
    if not p then wake(nil, nil, err) end
  end)
end

test("a timer fires once, a cancelled one never", function(t)
  local fired = 0
  local first = loop.timer(1000000, function() fired = fired + 1 end)
  local second = loop.timer(1000000, function() fired = fired + 100 end)
  t.eq(first.armed, true)
  second:cancel()
  second:cancel()
  t.eq(second.armed, false)
  sched.sleep(0.01)
  t.eq(fired, 1)
  t.eq(first.armed, false)
  first:cancel()
end)

test("a timer that nobody holds fires all the same", function(t)
  local fired = 0
  for _ = 1, 50 do loop.timer(1000000, function() fired = fired + 1 end) end
  collectgarbage()
  collectgarbage()
  sched.sleep(0.01)
  t.eq(fired, 50)
end)

test("wrong arguments are refused", function(t)
  t.raises("at least 0 ns", loop.timer, -1, print)
  t.raises("integer representation", loop.timer, 1.5, print)
  t.raises("function expected", loop.timer, 1, 3)
  t.raises("machine expected", loop.timer, 1, print, {})
  t.raises("function expected", loop.later, nil)
  t.raises("invalid option", loop.watch, 0, "x", print)
  t.raises("fd", loop.watch, -1, "r", print)
  t.raises("invalid option", loop.now, "yesterday")
end)

test("an error in a callback is told with the place of the callback", function(t)
  local told
  loop.on_error(function(message) told = message end)
  t.cleanup(function() loop.on_error(nil) end)
  loop.later(function() error "in the callback" end)
  sched.sleep(0.002)
  t.match(told, "deferred function at .*loop%.lua:%d+: .*in the callback")
  t.match(told, "stack traceback")
end)

test("a process tells its output and how it ended", function(t)
  local out, err = {}, {}
  local code, signal = run {
    argv = { "sh", "-c", "echo out; echo $WORD >&2; exit 3" }, env = { WORD = "err" },
    stdout = function(s) out[#out + 1] = s end, stderr = function(s) err[#err + 1] = s end,
  }
  t.eq({ table.concat(out), table.concat(err), code, signal }, { "out\n", "err\n", 3 })
end)

test("a process is fed through its standard input", function(t)
  local out, p = {}, nil
  local code = sched.suspend(function(wake)
    p = process.spawn { argv = { "cat" }, stdin = true, stdout = function(s) out[#out + 1] = s end, on_exit = wake }
    p:write "some text"
    p:close_stdin()
  end)
  t.eq({ code, table.concat(out) }, { 0, "some text" })
  t.eq(p.running, false)
  t.refuses("no open standard input", p.write, p, "more")
end)

test("killing a process group ends what the process started", function(t)
  local out, p = "", nil
  local code, signal = sched.suspend(function(wake)
    p = process.spawn {
      argv = { "sh", "-c", "sleep 1000 & echo $!; wait" }, group = true, on_exit = wake,
      stdout = function(s)
        out = out .. s
        p:kill(9)
      end,
    }
  end)
  t.eq({ code, signal }, { nil, 9 })
  local child = tonumber(out)
  for _ = 1, 100 do -- a killed child may be a zombie until its new parent has looked
    local stat = io.open(("/proc/%d/stat"):format(child))
    if not stat then break end
    local state = stat:read("a"):match "%) (%a)"
    stat:close()
    if state == "Z" or state == "X" then break end
    sched.sleep(0.01)
  end
  local left = io.open(("/proc/%d/stat"):format(child))
  t.ok(not left or left:read("a"):match "%) [ZX]", "the child of the process still runs")
end)

test("a program that is not there is refused by name", function(t)
  t.refuses("/no/such/program", process.spawn, { argv = { "/no/such/program" } })
  t.raises("unknown key 'argw'; the nearest is 'argv'", process.spawn, { argw = {} })
  t.raises("argv: a list of strings", process.spawn, {})
  t.raises("stdout: a function expected", process.spawn, { argv = { "true" }, stdout = 1 })
end)

test("a folder made by mkdtemp is removed with all that is in it, no other is", function(t)
  local dir = assert(fs.mkdtemp "vmlua-test")
  assert(fs.mkdir(dir .. "/a/b"))
  assert(io.open(dir .. "/a/file", "w")):close()
  os.execute(("ln -s /etc %s/a/link"):format(dir))
  local names = fs.listdir(dir .. "/a")
  table.sort(names)
  t.eq(names, { "b", "file", "link" })
  t.eq(fs.stat(dir .. "/a").type, "directory")
  t.eq(fs.stat(dir .. "/a/file").size, 0)
  t.ok(fs.rmtree(dir))
  t.refuses("No such file", fs.stat, dir)
  t.ok(fs.stat "/etc/passwd")
  t.raises("was not made by mkdtemp", fs.rmtree, "/tmp")
  t.refuses("No such file", fs.listdir, dir)
end)

test("log lines reach a sink, and only those that are switched on", function(t)
  local lines = {}
  local masks = {}
  for _, m in ipairs(log.masks()) do if m.enabled then masks[#masks + 1] = m.name end end
  t.cleanup(function()
    log.sink(nil)
    log.set(table.concat(masks, ","))
  end)
  log.sink(function(mask, line) lines[#lines + 1] = mask .. ": " .. line end)
  assert(log.set "")
  log.write "not this"
  assert(log.set "script")
  log.write "but this"
  sched.sleep(0.002)
  t.eq(lines, { "script: but this" })
  t.refuses("unknown log item 'scrip'", log.set, "scrip")
end)

test("everything that C declares has a documentation line", function(t)
  for _, d in ipairs(api.list()) do
    for _, f in ipairs(d.functions) do
      if not f.name:match "^__" then
        t.ok(f.doc and #f.doc > 0, ("%s.%s has no documentation"):format(d.name, f.name))
        t.ok(f.sig and f.sig:match "^%(", ("%s.%s has no signature"):format(d.name, f.name))
      end
    end
    for _, f in ipairs(d.fields) do
      t.ok(f.doc and #f.doc > 0 and f.type, ("%s.%s has no documentation"):format(d.name, f.name))
    end
  end
  t.match(api.doc(loop.timer).sig, "ns: integer")
  t.eq(api.doc(function() end), nil)
end)

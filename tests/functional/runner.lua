-- The test runner itself: what it reports about files that pass, fail, hang, crash or do not load.
local test = require "vmlua.test"

-- Writes a test file and runs `vmlua test` on it.
local function run(t, body, ...)
  local path = t.file("case.lua", 'local test = require "vmlua.test"\n' .. body)
  local r = t.vmlua { "test", path, ... }
  t.log(r.out)
  t.log(r.err)
  return r, path
end

local function last_line(s) return s:match("([^\n]*)\n*$") end

test("passing tests end with a line that counts them and status 0", function(t)
  local r = run(t, [[
test("one holds", function(t) t.ok(true) end)
test("two holds", function(t) t.eq({ 1, { a = 2 } }, { 1, { a = 2 } }) end)]])
  t.eq(r.status, 0)
  t.match(r.out, "^TAP version 14\n")
  t.match(r.out, "\nok 1 %- [^\n]*case.lua: one holds\nok 2 %- [^\n]*: two holds\n1%.%.2\n")
  t.eq(last_line(r.out), "2 passed, 0 failed, 0 skipped")
end)

test("a failing test is reported with its place, values, and how to run it again", function(t)
  local r, path = run(t, [[
test("it's right", function(t) t.eq(1, 2) end)
test("it holds", function(t) t.log("only on failure") end)]])
  t.eq(r.status, 1)
  t.match(r.out, "not ok 1 %- [^\n]*: it's right\n")
  t.match(r.out, "case.lua:2: expected 2, got 1")
  t.ok(r.out:find("run it again: ", 1, true))
  t.ok(r.out:find(" test " .. path .. " --filter 'it'\\''s right'", 1, true))
  t.ok(not r.out:find("only on failure", 1, true))
  t.eq(last_line(r.out), "1 passed, 1 failed, 0 skipped")
end)

test("the command that is printed runs exactly that test", function(t)
  local r = run(t, [[
test("first (a+b) holds", function(t) t.fail "first" end)
test("first (a+b) holds too", function(t) t.fail "another" end)
test("second holds", function(t) t.fail "second" end)]])
  local again = t.match(r.out, "run it again: [^\n]*%-%-filter '([^\n]*)'\n")
  t.eq(again, "first (a+b) holds")
  local path = t.match(r.out, "not ok 1 %- ([^\n]*): first")
  local second = t.vmlua { "test", path, "--filter", again }
  t.eq(last_line(second.out), "0 passed, 1 failed, 0 skipped")
end)

test("every comparison fails with the values it saw", function(t)
  local r = run(t, [[
test("eq of tables", function(t) t.eq({ 1, 2 }, { 1, 3 }) end)
test("eq of kinds of numbers", function(t) t.eq(1, 1.0) end)
test("ok", function(t) t.ok(nil) end)
test("near", function(t) t.near(1.0, 2.0, 0.5) end)
test("match", function(t) t.match("abc", "x") end)
test("raises nothing", function(t) t.raises("x", function() end) end)
test("raises something else", function(t) t.raises("quux", function() error "y" end) end)
test("refuses", function(t) t.refuses("x", function() return 1 end) end)
test("ne", function(t) t.ne(1, 1) end)
test("an error of its own", function() local x = nil; x() end)]])
  t.eq(r.status, 1)
  t.match(r.out, "expected { 1, 3 }, got { 1, 2 }")
  t.match(r.out, "expected 2%.0 ± 0%.5, got 1")
  t.match(r.out, 'expected text that matches "x", got "abc"')
  t.match(r.out, 'expected an error that matches "x", none was raised')
  t.match(r.out, 'expected an error that matches "quux", got ')
  t.match(r.out, "attempt to call a nil value %(local 'x'%)")
  t.eq(last_line(r.out), "0 passed, 10 failed, 0 skipped")
end)

test("skipped tests are counted and say why", function(t)
  local r = run(t, [[
test("needs more", function(t) t.skip("no hardware here") end)
test("long one", { long = true }, function(t) t.fail "ran" end)
test("never", { skip = "not today" }, function(t) t.fail "ran" end)
test("soft", function(t) t.eq(t.accel("soft").name, "soft") t.ok(t.accel().available) end)
test("elsewhere", function(t) t.accel "hvf" end)]])
  t.eq(r.status, 0)
  t.match(r.out, "needs more # SKIP no hardware here\n")
  t.match(r.out, "long one # SKIP long test")
  t.match(r.out, "never # SKIP not today\n")
  t.match(r.out, "elsewhere # SKIP built without hvf\n")
  t.eq(last_line(r.out), "1 passed, 0 failed, 4 skipped")
end)

test("long tests run when asked for", function(t)
  local r = run(t, [[test("long one", { long = true }, function(t) t.ok(true) end)]], "--long")
  t.eq(last_line(r.out), "1 passed, 0 failed, 0 skipped")
end)

test("a test that waits too long fails and the next one runs", function(t)
  local r = run(t, [[
test("sleeps", { timeout = 0.2 }, function(t) t.sleep(60) end)
test("goes on", function(t) t.ok(true) end)]])
  t.eq(r.status, 1)
  t.match(r.out, "timed out after 0%.2 seconds")
  t.match(r.out, "case.lua:2: in function")
  t.eq(last_line(r.out), "1 passed, 1 failed, 0 skipped")
end)

test("failures with large values are short, say where they differ, and take no time", { timeout = 60 }, function(t)
  local r = run(t, [[
local big = ("x"):rep(1 << 20)
test("strings", function(t) t.eq(big .. "a" .. big, big .. "b" .. big, "in %s", "case") end)
test("lengths", function(t) t.eq(big, big .. "y") end)
test("tables", function(t) t.eq({ big }, {}) end)
test("patterns", function(t) t.match(big, "^y") end)
test("output", function(t) io.stdout:write(big, big, "\n") io.stderr:write(big, "\n") end)]])
  t.eq(r.status, 1)
  t.match(r.out, "in case: 2097153 and 2097153 bytes that differ at byte 1048577: expected …\"x+bx+\"…, got …\"x+ax+\"…\n")
  t.match(r.out, "1048577 and 1048576 bytes that differ at byte 1048577: expected …\"x+y\"…, got …\"x+\"…\n")
  t.match(r.out, "expected {}, got {\n# +\"x+\"… %(1048576 bytes%)")
  t.match(r.out, "got \"x+ … x+\" %(1048578 bytes%)\n")
  t.eq(last_line(r.out), "1 passed, 4 failed, 0 skipped")
end)

test("a process that dies is reported with its signal, and what it did not reach", function(t)
  local r = run(t, [[
test("lives", function(t) t.ok(true) end)
test("dies", function(t) require("vmlua.testhost").die(9) end)
test("is never reached", function(t) t.ok(true) end)]])
  t.eq(r.status, 1)
  t.match(r.out, "ok 1 %- [^\n]*: lives\n")
  t.match(r.out, "not ok 2 %- [^\n]*: dies\n")
  t.match(r.out, "was killed by signal SIGKILL")
  t.match(r.out, "1 more tests could run")
  t.eq(last_line(r.out), "1 passed, 2 failed, 0 skipped")
end)

test("a script that ends the process early is a failure", function(t)
  local r = run(t, [[test("leaves", function(t) os.exit(0) end)]])
  t.eq(r.status, 1)
  t.match(r.out, "not ok 1 %- [^\n]*: leaves\n")
  t.match(r.out, "ended early with status 0")
end)

test("a loop that never yields is ended and reported", { timeout = 60 }, function(t)
  local r = run(t, [[test("spins", function(t) while true do end end)]], "--timeout", "0.5")
  t.eq(r.status, 1)
  t.match(r.out, "not ok 1 %- [^\n]*: spins\n")
  t.eq(last_line(r.out), "0 passed, 1 failed, 0 skipped")
end)

test("a file with a syntax error is one failure that names the line", function(t)
  local r = run(t, "\ntest('x', function(t) end))")
  t.eq(r.status, 1)
  t.match(r.out, "not ok 1 %- [^\n]*: the file loads\n")
  t.match(r.out, "case.lua:3: ")
end)

test("a file that raises while it loads is one failure", function(t)
  local r = run(t, "error 'not today'")
  t.eq(r.status, 1)
  t.match(r.out, "case.lua:2: not today")
  t.eq(last_line(r.out), "0 passed, 1 failed, 0 skipped")
end)

test("two tests of one name and a test without a function are refused", function(t)
  t.match(run(t, "test('x', function() end) test('x', function() end)").out, 'case.lua:2: two tests are named "x"')
  t.match(run(t, "test('x')").out, 'case.lua:2: test "x" has no function')
  t.match(run(t, "test('x', { tiemout = 1 }, function() end)").out, 'unknown option "tiemout" %(did you mean "timeout"%?%)')
end)

test("cleanups run last to first on every way out", function(t)
  local dir = t.tmpdir()
  for i, way in ipairs { "t.ok(true)", "t.fail 'no'", "error {}", "t.skip 'no'", "t.sleep(60)" } do
    local path = dir .. "/" .. i
    run(t, ([[
test("leaves", { timeout = 0.2 }, function(t)
  local f = io.open(%q, "w")
  t.cleanup(function() f:write("first added"):close() end)
  t.cleanup(function() f:write("last added, ") end)
  %s
end)]]):format(path, way))
    local f = t.ok(io.open(path), "no file for " .. way)
    t.eq(f:read "a", "last added, first added", way)
    f:close()
  end
end)

test("a cleanup that raises fails the test and the others run", function(t)
  local r = run(t, [[
test("cleans", function(t)
  t.cleanup(function() print "the other ran" end)
  t.cleanup(function() error "cannot clean" end)
end)]])
  t.eq(r.status, 1)
  t.match(r.out, "cleanup failed: [^\n]*cannot clean")
  t.match(r.out, "the other ran")
end)

test("temporary folders are gone afterwards", function(t)
  local r = run(t, [[test("makes", function(t) print("dir=" .. t.tmpdir()) t.file("a.txt", "x") t.fail "look" end)]])
  local dir = t.match(r.out, "dir=(%S+)")
  t.ok(not io.open(dir .. "/."), "%s is still there", dir)
end)

test("several files run at a time and are reported in order", function(t)
  local dir = t.tmpdir()
  for i = 1, 6 do
    t.file(("%s/f%d.lua"):format(dir, i), ([[
local test = require "vmlua.test"
test("holds %d", function(t) t.sleep(%s) end)]]):format(i, i == 1 and "0.3" or "0"))
  end
  t.file(dir .. "/_helper.lua", "error 'helpers are no tests'")
  t.file(dir .. "/notes.txt", "no test either")
  local r = t.vmlua { "test", "-j", "4", dir }
  t.log(r.out)
  t.eq(r.status, 0)
  local order = {}
  for n in r.out:gmatch("holds (%d)\n") do order[#order + 1] = n end
  t.eq(order, { "1", "2", "3", "4", "5", "6" })
  t.eq(last_line(r.out), "6 passed, 0 failed, 0 skipped")
end)

test("tests are listed without being run", function(t)
  local r, path = run(t, [[test("one", function(t) t.fail "ran" end) test("two", function(t) t.fail "ran" end)]], "--list")
  t.eq(r.status, 0)
  t.eq(r.out, path .. ": one\n" .. path .. ": two\n")
end)

test("filters take text, patterns, and say when nothing matches", function(t)
  local body = [[test("alpha one", function() end) test("beta (two)", function() end)]]
  t.eq(last_line(run(t, body, "--filter", "beta (two)").out), "1 passed, 0 failed, 0 skipped")
  t.eq(last_line(run(t, body, "--filter", "^alpha").out), "1 passed, 0 failed, 0 skipped")
  t.eq(last_line(run(t, body, "--filter=case.lua").out), "2 passed, 0 failed, 0 skipped")
  local none = run(t, body, "--filter", "gamma")
  t.eq(none.status, 1)
  t.match(none.err, "no test matches")
end)

test("JUnit XML holds results, messages and escaped text", function(t)
  local file = t.tmpdir() .. "/out.xml"
  run(t, [[
test("holds <&>", function(t) end)
test("breaks", function(t) t.fail('a "quoted" <thing>') end)
test("is skipped", function(t) t.skip "later" end)]], "--junit", file)
  local f = t.ok(io.open(file))
  local xml = f:read "a"
  f:close()
  t.match(xml, '<testsuites tests="3" failures="1" skipped="1">')
  t.match(xml, 'name="holds &lt;&amp;&gt;"/>')
  t.match(xml, '<failure message="[^"]*a &quot;quoted&quot; &lt;thing&gt;')
  t.match(xml, '<skipped message="later"/>')
end)

test("wrong use of the runner ends with status 2", function(t)
  for _, case in ipairs {
    { { "test" }, "expected the paths" },
    { { "test", "/nonexistent" }, "/nonexistent: no such file or folder" },
    { { "test", "-j", "0", "x.lua" }, "%-j: expected a number from 1 to 256" },
    { { "test", "--fitler", "x" }, 'did you mean "%-%-filter"' },
    { { "test", "--timeout", "soon", "x.lua" }, "%-%-timeout: expected a number of seconds" },
    { { "test", "--junit" }, "%-%-junit: expected FILE" },
  } do
    local r = t.vmlua(case[1])
    t.eq(r.status, 2, table.concat(case[1], " "))
    t.match(r.err, case[2])
  end
end)

test("an empty folder is no success", function(t)
  local r = t.vmlua { "test", t.tmpdir() }
  t.eq(r.status, 1)
  t.match(r.err, "no test files")
end)

test("what a test prints does not pass for a result", function(t)
  local r = run(t, [[test("prints", function(t) print("not ok 1 - forged") print("1..99") end)]])
  t.eq(r.status, 0)
  t.eq(last_line(r.out), "1 passed, 0 failed, 0 skipped")
end)

test("a failing test shows what its machine was doing", function(t)
  -- mov dx, 0x3f8; mov al, 'K'; out dx, al; hlt
  local r = run(t, [[
test("fails with a machine", function(t)
  local vm = t.machine("bare", { kernel = t.file("g.bin", "\xba\xf8\x03\xb0\x4b\xee\xf4") })
  vm:start()
  t.wait_for(function() return vm.serial[1]:history() == "K" end)
  t.fail "look"
end)]])
  t.eq(r.status, 1)
  t.match(r.out, "case.lua:6: look")
  t.match(r.out, "machine /machines/bare%-0: ")
  t.match(r.out, "serial 1, last 1 of 1 bytes:\n#     | K\n")
  t.match(r.out, "RIP 0000000000007c0")
  t.match(r.out, "last exits, oldest first:\n#     pio +0x3f8 write 1 bytes 0x4b")
end)

test("an error in a callback of a machine fails the test at once", function(t)
  local r = run(t, [[
test("waits for ever", function(t)
  local vm = t.machine("bare", { kernel = t.file("g.bin", "\xe6\x80\xf4") })
  vm:pio { port = 0x80 }:on(function() error "in the callback" end)
  vm:start()
  t.sleep(1000)
end)]])
  t.eq(r.status, 1)
  t.match(r.out, "failed: .*case.lua:4: in the callback")
  t.eq(last_line(r.out), "0 passed, 1 failed, 0 skipped")
end)

test("machines that a test leaves are closed, on every way out", function(t)
  local r = run(t, [[
local machine = require "vmlua.machine"
test("one returns", function(t) t.machine("bare", { idle = true }) end)
test("one fails", function(t) t.machine("bare", { idle = true }) t.fail "no" end)
test("one raises", function(t) t.machine("bare", { idle = true }):start() error "no" end)
test("one waits too long", { timeout = 0.2 }, function(t) t.machine("bare", { idle = true }):start() t.sleep(60) end)
test("none is left", function(t) t.eq(#machine.list(), 0) end)]])
  t.eq(last_line(r.out), "2 passed, 3 failed, 0 skipped")
end)

test("a process that a test leaves behind is ended and reported", function(t)
  local r = run(t, [[
test("leaves one", function(t)
  require("vmlua.core.process").spawn { argv = { "/bin/sleep", "1000" } }
end)]])
  t.eq(r.status, 1)
  t.match(r.out, "not ok 2 %- [^\n]*: no process is left behind\n")
end)

test("a test that loops without a pause is ended where it is, with the machine's report, and the next one runs", function(t)
  local r = run(t, [[
test("it spins", { timeout = 1 }, function(t)
  local vm = t.machine("bare", { idle = true })
  local function spin() while true do end end
  spin()
end)
test("it catches errors", { timeout = 1 }, function()
  while true do pcall(function() while true do end end) end
end)
test("it sleeps where it cannot yield", { timeout = 1 }, function()
  table.sort({ 1, 2 }, function() require("vmlua.sched").sleep(60) end)
end)
test("its cleanup spins", function(t) t.cleanup(function() error "in the cleanup" end) end)
test("the next one holds", function() end)]])
  t.eq(r.status, 1)
  t.match(r.out, "not ok 1 %- [^\n]*it spins\n#   [^\n]*case.lua:4: timed out after 1 seconds without a pause\n")
  t.match(r.out, "case.lua:4: in [^\n]*spin")
  t.match(r.out, "case.lua:5: in function")
  t.match(r.out, "#   machine /machines/bare%-0: paused")
  t.match(r.out, "#   cpu 1:")
  t.match(r.out, "not ok 2 %- [^\n]*it catches errors\n#   timed out after 1 seconds without a pause\n")
  t.match(r.out, "not ok 3 %- [^\n]*it sleeps where it cannot yield\n#   [^\n]*timed out after 1 seconds")
  t.match(r.out, "not ok 4 %- [^\n]*\n#   cleanup failed: [^\n]*in the cleanup\n")
  t.match(r.out, "\nok 5 %- [^\n]*the next one holds\n")
end)

test("a file that loops while it is loaded is ended with what it was", function(t)
  local r = run(t, "while true do end", "--timeout", "1")
  t.eq(r.status, 1)
  t.match(r.out, "case.lua:2: loading took longer than 1 seconds")
end)

test("Ctrl-C ends the tests, and the processes that they started", function(t)
  local path = t.file("case.lua", [[
local test = require "vmlua.test"
test("waits", function(t)
  t.vmlua { t.file("wait.lua", "require('vmlua.sched').sleep(60)") }
end)]])
  local r = t.vmlua { "test", "--verbose", path, on_start = function(child, r)
    -- What a test says is shown when it has ended: the process is looked for instead.
    local fs = require "vmlua.core.fs"
    t.wait_for(function() return #(fs.listdir("/proc/" .. child.pid .. "/task/" .. child.pid) or {}) > 0 end)
    t.wait_for(function()
      local f = io.open(("/proc/%d/task/%d/children"):format(child.pid, child.pid))
      local pids = f and f:read "a" or ""
      if f then f:close() end
      local grandchild = pids:match "%d+"
      local g = grandchild and io.open(("/proc/%s/task/%s/children"):format(grandchild, grandchild))
      r.grandchildren = g and g:read "a" or ""
      if g then g:close() end
      return r.grandchildren:match "%d+"
    end)
    child:kill(2)
  end }
  t.eq(r.status, 130)
  t.match(r.err, "interrupted; 0 passed")
  local pid = t.match(r.grandchildren, "%d+")
  t.wait_for(function()
    local f = io.open("/proc/" .. pid .. "/cmdline")
    local line = f and f:read "a" or ""
    if f then f:close() end
    return not line:find("wait.lua", 1, true)
  end)
end)

test("a test may be silent for as long as its own limit is, beyond the file's", { long = true, timeout = 60 }, function(t)
  local path = t.file("slow.lua", [[
local test = require "vmlua.test"
test("slow", { timeout = 30 }, function(t) t.sleep(13) end)
]])
  local r = t.vmlua { "test", "--timeout", "1", path }
  t.log(r.out)
  t.match(r.out, "ok 1 %- .*slow")
  t.eq(r.status, 0)
end)

local FORGETFUL = [[
local qom = require "vmlua.qom"
qom.type {
  name = "forgetful", parent = "isa-device", state = { kept = "uint8" },
  realize = function(dev)
    dev:pio(0x510, 1, { read = function() return dev.kept end, write = function(_, _, _, v) dev.kept = v end })
    dev:pio(0x511, 1, { read = function() return dev.data.lost end, write = function(_, _, _, v) dev.data.lost = v end })
  end,
  reset = function(dev) dev.kept, dev.data.lost = 0, 0 end,
  post_load = function(dev) if dev.kept == 99 then dev.kept = 98 end end,
}
local function board(t)
  local vm = t.machine { ram = "1M", accel = "soft", init = function(m)
    m.memory:add(0, m.ram)
    m:device("forgetful", { id = "it" })
  end }
  vm.io:write_u8(0x510, 7)
  vm.io:write_u8(0x511, 8)
  return vm
end
test("kept", function(t)
  local vm = board(t)
  local resets = 0
  vm:on_reset(function() resets = resets + 1 end)
  vm.memory:write_u32(0x1000, 0x12345678)
  vm:wait { rt = 1 }
  t.sleep(0.001)
  t.wait_for(function() return true end)
  t.eq({ vm.io:read_u8(0x510), vm.memory:read_u32(0x1000), resets, vm.status }, { 7, 0x12345678, 0, "paused" })
end)
test("lost", function(t)
  local vm = board(t)
  t.sleep(0.001)
  t.eq(vm.io:read_u8(0x511), 8)
end)
test("changed", function(t)
  local vm = board(t)
  vm.io:write_u8(0x510, 99)
  t.sleep(0.001)
end)
test("spared", { no_torture = "it is about the device itself" }, function(t) end)
]]

test("under torture, state that is not saved is lost at each wait, and what loading changes is named", function(t)
  local plain = run(t, FORGETFUL)
  t.eq(last_line(plain.out), "4 passed, 0 failed, 0 skipped")
  for _, how in ipairs { "snapshot", "stream" } do
    local r, path = run(t, FORGETFUL, "--torture", how)
    t.match(r.out, "\nok 1 %- [^\n]*: kept\n")
    t.match(r.out, "\nnot ok 2 %- [^\n]*: lost\n#   [^\n]*expected 8, got 0\n")
    t.match(r.out, "\nnot ok 3 %- [^\n]*: changed\n#   torture: 'forgetful' 0 saved, loaded and saved again differs from byte")
    t.ok(r.out:find(" test " .. path .. " --filter changed --torture " .. how, 1, true)
      or r.out:find(" test " .. path .. " --filter 'changed' --torture " .. how, 1, true))
    t.match(r.out, "\nok 4 %- [^\n]*: spared # SKIP not to be tortured: it is about the device itself\n")
    t.match(r.out, "\n# states saved, spoilt and restored: 3\n")
  end
  t.match(run(t, "", "--torture", "gentle").err, "%-%-torture: snapshot or stream expected, got \"gentle\"")
end)

-- The program as a user meets it: ways in, exit statuses, and what wrong input is answered with.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local talk = dofile(here .. "/../lib/talk.lua")

local function lines(s)
  local out = {}
  for line in s:gmatch("[^\n]+") do out[#out + 1] = line end
  return out
end

local function run(t, ...)
  local r = t.vmlua { ... }
  t.log(r.out)
  t.log(r.err)
  return r
end

test("--version names the program and its version", function(t)
  local r = run(t, "--version")
  t.eq(r.status, 0)
  t.match(r.out, "^vmlua %d+%.%d+%.%d+\n$")
end)

test("-help lists the options, also behind a board with its own", function(t)
  local r = run(t, "-help")
  t.eq(r.status, 0)
  t.match(r.out, "^Usage:\n")
  t.match(r.out, "\n  %-machine, %-M NAME")
  r = run(t, "bare.lua", "-help")
  t.eq(r.status, 0)
  t.match(r.out, "Options of this board:.*%-addr ADDR")
end)

test("help has a topic for each thing that is generated", function(t)
  t.match(run(t, "help", "man").out, "^%.TH VMLUA 1")
  t.match(run(t, "help", "bash").out, "complete .*_vmlua vmlua")
  t.match(run(t, "help", "zsh").out, "^#compdef vmlua")
  t.match(run(t, "help", "reference").out, "^# Script reference")
  t.match(run(t, "help", "luals").out, "^%-%-%-@meta")
  t.match(run(t, "help", "loader.parse").out, "Reads an image out of the bytes of a file")
  -- The names that people give to what they have.
  t.match(run(t, "help", "vm:pio").out, "^machine:pio%(")
  t.match(run(t, "help", "dev:pio").out, "^device:pio%(")
  t.match(run(t, "help", "src:on").out, "^Source:on%(")
  t.match(run(t, "help", "h:remove").out, "^event%-hook:remove%(")
  t.match(run(t, "help", "vm.memory:read").out, "^address%-space:read%(")
  t.match(run(t, "help", "vm.cpus[1]:dump").out, "^x86%-cpu:dump%(")
  t.match(run(t, "help", "cpu.rip").out, "A register")
  t.match(run(t, "help", "vm.status").out, "^machine%.status")
  t.match(run(t, "help", "vm").out, "^class machine")
  local r = run(t, "help", "lodaer")
  t.eq(r.status, 2)
  t.match(r.err, 'unknown name "lodaer" %(did you mean')
end)

test("-e runs a piece of Lua and prints what it answers", function(t)
  local r = run(t, "-e", "6 * 7")
  t.eq(r.out, "42\n")
  t.eq(r.status, 0)
  t.eq(run(t, "-e", "print(#arg, ...)", "a", "b").out, "2\ta\tb\n")
  r = run(t, "-e", "error 'boo'")
  t.eq(r.status, 1)
  t.match(r.err, "^vmlua: %(command line%):1: boo\n")
  r = run(t, "-e")
  t.eq(r.status, 2)
  t.match(r.err, "%-e: expected a piece of Lua")
end)

test("a script that returns nothing is a program with arguments", function(t)
  local path = t.file("prog.lua", "local sched = require 'vmlua.sched' sched.sleep(0.01) print('ran', ...) ")
  local r = run(t, path, "one", "--two")
  t.eq(r.status, 0)
  t.eq(r.out, "ran\tone\t--two\n")
end)

test("a script's integer is the exit status", function(t)
  t.eq(run(t, t.file("prog.lua", "return 7")).status, 7)
  t.eq(run(t, t.file("prog.lua", "return false")).status, 1)
end)

test("a syntax error is one line with file and line", function(t)
  local path = t.file("bad.lua", "local x = 1\nlocal y = = 2\n")
  local r = run(t, path)
  t.eq(r.status, 1)
  local l = lines(r.err)
  t.eq(#l, 1)
  t.match(l[1], "^vmlua: .*bad.lua:2: unexpected symbol near '='$")
end)

test("an error in a script is a message with a traceback and status 1", function(t)
  local path = t.file("bad.lua", "local function inner() error 'deep' end\nlocal function outer() inner() end\nouter()\n")
  local r = run(t, path)
  t.eq(r.status, 1)
  t.match(r.err, "^vmlua: .*bad.lua:1: deep\nstack traceback:.*bad.lua:2: in .*bad.lua:3: in main chunk")
  t.ok(not r.err:find("launcher.lua", 1, true), "the launcher's own frames are shown")
end)

test("an error value that is no string is shown all the same", function(t)
  local r = run(t, t.file("bad.lua", "error({})"))
  t.eq(r.status, 1)
  t.match(r.err, "^vmlua: table: ")
  r = run(t, t.file("bad.lua", "error(nil)"))
  t.eq(r.status, 1)
  t.match(r.err, "^vmlua: nil")
end)

test("a script that is not there is refused with the nearest", function(t)
  local r = run(t, "/nonexistent/board.lua")
  t.eq(r.status, 2)
  t.match(r.err, "^vmlua: /nonexistent/board.lua: no such script\n$")
  r = run(t, "bear.lua")
  t.eq(r.status, 2)
  t.match(r.err, "bear.lua: no such script %(did you mean bare.lua%?%)")
  r = run(t, t.tmpdir())
  t.eq(r.status, 2)
  t.match(r.err, "is a folder")
end)

test("a script that is no text is refused", function(t)
  local r = run(t, t.file("bin.lua", "\27Lua rest"))
  t.eq(r.status, 1)
  t.match(r.err, "attempt to load a binary chunk")
end)

test("wrong options end with status 2 and say what was wrong", function(t)
  for _, case in ipairs {
    { { "bare.lua", "-enabel-kvm" }, 'unknown option "%-enabel%-kvm" %(did you mean "%-enable%-kvm"%?%)' },
    { { "bare.lua", "-vnc", ":1" }, "%-vnc: needs the display subsystem" },
    { { "bare.lua", "-m", "much" }, "%-m: expected a size" },
    { { "bare.lua", "-idle", "-m", "1K" }, "^vmlua: %-m: 1024 bytes are no whole number of 4 KiB pages" },
    { { "-machine", "bare,foo=1", "-idle" }, "^vmlua: %-machine: bare%-0: a 'bare' has no property 'foo'" },
    { { "bare.lua", "-machine", "bare,no-rebot=on", "-idle" }, "did you mean 'no%-reboot'" },
    { { "bare.lua", "-idle", "-device", "isa-serail" }, '^vmlua: %-device: unknown device "isa%-serail" %(did you mean "isa%-serial"' },
    { { "bare.lua", "-idle", "-device", "machine" }, "^vmlua: %-device: 'machine' is no device" },
    { { "bare.lua", "-idle", "-device", "device" }, "'device' is a kind of devices" },
    { { "bare.lua", "-idle", "-device", "isa-serial,iobas=1" }, "did you mean 'iobase'" },
    { { "-device", "machine,help" }, "'machine' is no device" },
    { { "-device", "isa-serail,help" }, 'did you mean "isa%-serial"' },
    { { "bare.lua", "-m" }, "%-m: expected an argument" },
    { { "bare.lua", "-smp", "0" }, "%-smp: cpus: expected a number" },
    { { "bare.lua", "stray" }, '"stray" is not an option' },
    { { "bare.lua", "-machine", "bear" }, '%-machine: .*"bear".*"bare"' },
    { { "-machine", "nosuchboard" }, '%-machine: .*nosuchboard' },
    { { "bare.lua", "-accel", "kmv" }, 'unknown accelerator "kmv"' },
    { { "bare.lua", "-idle", "-d", "gusets" }, "%-d: .*gusets" },
    { { "bare.lua", "-idle", "-D", "/nonexistent/log" }, "%-D: .*No such file" },
    { { "bare.lua", "-idle", "-trace", "no_such_point" }, "%-trace: no trace point matches no_such_point" },
    { { "bare.lua", "-idle", "-serial", "stdio", "-monitor", "stdio" }, "both want the terminal" },
  } do
    local r = run(t, table.unpack(case[1]))
    t.match(r.err, case[2], table.concat(case[1], " "))
    t.eq(r.status, 2, table.concat(case[1], " "))
    t.eq(#lines(r.err), 1, "one line: " .. r.err)
  end
end)

test("lists can be asked for without a machine", function(t)
  t.match(run(t, "-machine", "help").out, "\n  bare +%S")
  t.match(run(t, "-accel", "help").out, "\n  kvm +")
  t.match(run(t, "-cpu", "help").out, "\n  host +")
  t.match(run(t, "-d", "help").out, "\n  guest +")
  t.match(run(t, "-device", "help").out, "\n  isa%-serial +")
  t.match(run(t, "-device", "isa-serial,help").out, "\n  iobase +uint32")
  t.match(run(t, "-object", "help").out, "memory%-backend%-file")
  t.match(run(t, "-machine", "bare,help").out, "%-addr ")
  t.match(run(t, "-trace", "help").out, "serial_write")
  t.match(run(t, "bare.lua", "-version").out, "^vmlua ")
end)

-- Runs a script, sends it a signal as soon as it says "ready", and answers how it ended.
local function signalled(t, number, code)
  local path = t.file("script.lua", "io.write 'ready\\n' io.flush() " .. code)
  local r = t.vmlua { path, on_start = function(child, r)
    t.wait_for(function() return r.out:find "ready" end)
    child:kill(number)
  end }
  t.log(r.err)
  return r
end

for _, case in ipairs {
  { "sleeps", "require('vmlua.sched').sleep(60)" },
  { "spins", "while true do end" },
  { "asks for rounds of the loop itself", "local loop = require 'vmlua.core.loop' while true do loop.iterate(true) end" },
  { "sleeps where it cannot yield", "table.sort({ 1, 2 }, function() require('vmlua.sched').sleep(60) end)" },
} do
  local what, code = case[1], case[2]
  test("Ctrl-C ends a script that " .. what .. " with status 130", function(t)
    local r = signalled(t, 2, code)
    t.eq(r.status, 130)
    t.match(r.err, "^vmlua: interrupted\n$")
  end)

  test("a request to end is status 143 for a script that " .. what, function(t)
    local r = signalled(t, 15, code)
    t.eq(r.status, 143)
    t.match(r.err, "^vmlua: ended by SIGTERM\n$")
  end)
end

test("a request to end ends a script that catches errors in a loop", function(t)
  local r = signalled(t, 15, "while true do pcall(function() while true do end end) end")
  t.eq(r.status, 143)
end)

test("a request to end ends a callback of the loop that spins, and its script", function(t)
  local r = signalled(t, 15, "require('vmlua.core.loop').later(function() while true do end end) require('vmlua.sched').sleep(60)")
  t.eq(r.status, 143)
end)

test("a hangup is status 129", function(t) t.eq(signalled(t, 1, "while true do end").status, 129) end)

test("an error whose text says interrupted is an error like others", function(t)
  local r = run(t, "-e", "error 'the transfer was interrupted'")
  t.eq(r.status, 1)
  t.match(r.err, "the transfer was interrupted")
end)

test("a script that takes SIGTERM itself goes on", function(t)
  local path = t.file("own.lua", [[
    local loop, sched = require "vmlua.core.loop", require "vmlua.sched"
    local told = false
    loop.on_signal("term", function() told = true end)
    io.write "ready\n" io.flush()
    while not told do sched.sleep(0.001) end
    return 3]])
  local r = t.vmlua { path, on_start = function(child, r)
    t.wait_for(function() return r.out:find "ready" end)
    child:kill(15)
  end }
  t.eq(r.status, 3)
end)

-- ---- the prompt on a pipe ---------------------------------------------------------------------------

local function pipe(t, input)
  local r = t.vmlua { input = input, env = { VMLUA_HISTORY = "" } }
  t.log(r.out)
  t.log(r.err)
  return r
end

test("the prompt reads a pipe without prompting", function(t)
  local r = pipe(t, "1 + 1\nx = { 2, a = 1 }\nx\nfor i = 1, 2 do\nprint(i)\nend\n")
  t.eq(r.out, "2\n{ 2, a = 1 }\n1\n2\n")
  t.eq(r.status, 0)
end)

test("a line of a pipe may wait, and the next one runs after it", function(t)
  local r = pipe(t, "sched.sleep(0.05) print 'first'\nprint 'second'")
  t.eq(r.out, "true\nfirst\nsecond\n" == r.out and r.out or "first\nsecond\n")
end)

test("a prompt knows the sources of a machine that was made there", function(t)
  local r = pipe(t, "vm = machine.new('bare', { idle = true })\nvm:pio{ port = 0x80 }\nvm.serial[1]:text 'x'\n")
  t.eq(r.out, "source: pio 0x80\nsource: text \"x\"\n")
  t.eq(r.status, 0)
end)

test("a request to end stops a pipe whose every line spins", function(t)
  local input = "print 'ready' io.flush()\n" .. ("while true do end\n"):rep(20)
  local r = t.vmlua { env = { VMLUA_HISTORY = "" }, on_start = function(child, r)
    child:write(input)
    t.wait_for(function() return r.out:find "ready" end)
    child:kill(15)
  end }
  t.eq(r.status, 143)
end)

test("errors on a pipe are shown, the rest is read, and the status is 1", function(t)
  local r = pipe(t, "error 'boo'\n1 1\nprint 'goes on'\n")
  t.match(r.out, "prompt:1: boo\n")
  t.match(r.out, "prompt:1: unexpected symbol near '1'\n")
  t.match(r.out, "goes on\n$")
  t.eq(r.status, 1)
end)

test("input that ends in the middle of a piece is an error", function(t)
  local r = pipe(t, "for i = 1, 2 do\n")
  t.match(r.out, "'end' expected near <eof>")
  t.eq(r.status, 1)
end)

test("help is there at the prompt", function(t)
  t.match(pipe(t, "help()\n").out, "vm:pause%(%)")
  t.match(pipe(t, "help 'loader.parse'\n").out, "Reads an image out of the bytes of a file")
  t.match(pipe(t, "help(require('vmlua.sched').sleep)\n").out, "sched.sleep%(")
  t.match(pipe(t, "help(require('vmlua.core.fs').stat)\n").out, "fs.stat%(path: string%)")
end)

-- ---- the prompt on a terminal -------------------------------------------------------------------------

local function terminal(t, fn, arguments)
  local history = t.tmpdir() .. "/history"
  local command = "exec " .. require("vmlua.testhost").program .. (arguments and " " .. arguments or "")
  return talk.terminal(t, command, fn, { VMLUA_HISTORY = history }), history
end

test("the prompt on a terminal evaluates, continues and leaves", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "6 * 7\n"
    expect "42"
    expect "> "
    type "for i = 1, 1 do\n"
    expect ">> "
    type "print('in' .. 'side')\nend\n"
    expect "inside"
    type "\4"
  end)
  t.eq(r.status, 0)
end)

test("Ctrl-C at the prompt drops the line, and ends a line that runs", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "garbage that is no Lua"
    expect "no Lua"
    type "\3"
    expect "> "
    type "1 + 1\n"
    expect "\n2"
    expect "> "
    type "print('spin' .. 'ning') while true do end\n"
    expect "spinning"
    type "\3"
    expect "interrupted"
    expect "> "
    type "print('sleep' .. 'ing') sched.sleep(60)\n"
    expect "sleeping"
    type "\3"
    expect "interrupted"
    expect "> "
    type "print('loop' .. 'ing') while true do require('vmlua.core.loop').iterate(true) end\n"
    expect "looping"
    type "\3"
    expect "interrupted"
    expect "> "
    type "print('al' .. 'ive')\n"
    expect "alive"
    expect "> "
    type "\4"
  end)
  t.eq(r.status, 0)
end)

test("any number of Ctrl-C in a row leaves one prompt that works", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    for _ = 1, 20 do
      type "print('sleep' .. 'ing') sched.sleep(60)\n"
      expect "sleeping"
      type "\3"
      expect "interrupted"
      expect "> "
      type "\3"
      expect "> "
    end
    type "6 * 7\n"
    expect "\n42"
    expect "> "
    type "\4"
  end)
  t.eq(r.status, 0)
end)

test("after Ctrl-C the prompt is there once", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "garbage"
    expect "garbage"
    type "\3"
    expect "> "
    type "6 * 7\n"
    expect "\n42"
    expect "> "
    type "\4"
  end)
  local after = t.match(r.out:gsub("\27%[[%d;]*%a", ""), "%^C(.-)6")
  local _, prompts = after:gsub("> ", "")
  t.eq(prompts, 1, after)
end)

test("what is printed while a line of several rows is typed takes all of its rows away first", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "function wait() while not require('vmlua.core.edit').line():find 'EN[D]' do sched.sleep(0.01) end print 'from behind' end\n"
    expect "> "
    type "sched.spawn(wait)\n"
    expect "task"
    expect "> "
    type("local x = '" .. ("y"):rep(300) .. "END")
    expect "from behind"
    expect "END"
    type "' print(#x)\n"
    expect "303"
    expect "> "
    type "\4"
  end)
  t.eq(r.status, 0)
  t.match(r.out, "\27%[3A\r\27%[J[^\n]*from behind")
end)

test("SIGTERM ends a prompt on a terminal and puts the terminal back", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "require('vmlua.core.process').signal(15)\n"
  end)
  t.eq(r.status, 143)
end)

test("Tab completes names at the prompt", function(t)
  terminal(t, function(expect, type)
    expect "> "
    type "string.rever\t('abc')\n"
    expect "\"cba\""
    type "\4"
  end)
end)

test("lines are kept in the history file", function(t)
  local _, file = terminal(t, function(expect, type)
    expect "> "
    type "'remember' .. ' me'\n"
    expect "remember me"
    type "\4"
  end)
  local f = t.ok(io.open(file), "no history file")
  t.match(f:read "a", "remember")
  f:close()
end)

test("what is printed while a line is typed does not break the line", function(t)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "sched.spawn(function() sched.sleep(0.3) print 'from behind' end)\n"
    expect "> "
    type "1 + 2"
    expect "from behind"
    type " + 3\n"
    expect "\n6"
    type "\4"
  end)
  t.eq(r.status, 0)
end)

test("a machine runs beside the prompt, and what its serial port says does not break the line", function(t)
  -- hello: a guest that prints by itself, then stays
  local code = "\xba\xf8\x03\xb0\x48\xee\xb0\x69\xee\xb0\x0d\xee\xb0\x0a\xee\xf4\xeb\xfd" -- "Hi\r\n"; hlt; jmp
  local path = t.file("hi.bin", code)
  local r = terminal(t, function(expect, type)
    expect "> "
    type "vm.status\n"
    expect '"paused"'
    expect "> "
    type "vm:start()\n"
    expect "Hi"
    type "vm.status\n"
    expect '"running"'
    expect "> "
    type "\4"
    expect "still runs"
    expect "> "
    type "\4"
  end, "bare.lua -kernel " .. path .. " -S -monitor stdio")
  t.eq(r.status, 0)
end)

test("a monitor on a socket evaluates what is typed there", function(t)
  local path = t.file("spin.bin", "\xeb\xfe")
  local socket = t.tmpdir() .. "/monitor"
  local r = t.vmlua { "bare.lua", "-kernel", path, "-monitor", "unix:" .. socket .. ",server,wait=off", on_start = function(child)
    talk.socket(t, socket, function(expect, type)
      expect "> "
      type "6 * 7\n"
      expect "42"
      type "vm.status\n"
      expect '"running"'
    end)
    child:kill(15)
  end }
  t.eq(r.status, 143)
end)

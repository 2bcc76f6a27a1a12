-- One terminal for a serial port and the prompt: -serial mon:stdio, -nographic.
local host = require "vmlua.testhost"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local talk = dofile(here .. "/../lib/talk.lua")

-- "Hi\r\n", then every byte that comes is sent back.
local ECHO = "\xba\xf8\x03\xb0\x48\xee\xb0\x69\xee\xb0\x0d\xee\xb0\x0a\xee"
  .. "\xba\xfd\x03\xec\xa8\x01\x74\xf8\xba\xf8\x03\xec\xee\xeb\xf1"

local function terminal(t, options, fn)
  local command = ("%s bare.lua -kernel %s %s; echo left with $?; stty -a"):format(host.program, t.file("echo.bin", ECHO), options)
  local r = talk.terminal(t, command, fn)
  t.match(r.out, "left with %d+.*[^%-]icanon", "the terminal is left as it was")
  return r
end

test("Ctrl-A c changes between the serial port and the prompt, as often as one likes", function(t)
  local r = terminal(t, "-nographic", function(expect, type)
    expect "Hi"
    type "abc"
    expect "abc"
    for i = 1, 3 do
      type "\1c"
      expect "> "
      type(("'p' .. %d * 7\n"):format(i))
      expect(('"p%d"'):format(i * 7))
      expect "> "
      type "\1c"
      -- The port is there again once what is typed comes back from the guest.
      expect "\n"
      t.wait_for(function()
        type "-"
        return pcall(expect, "-")
      end)
      type(("back %d"):format(i))
      expect(("back %d"):format(i))
    end
    type "\1x"
    expect "left with 0"
  end)
  t.eq(r.status, 0)
end)

test("twice Ctrl-A sends one, Ctrl-C is the guest's, and Ctrl-A h lists the keys", function(t)
  terminal(t, "-serial mon:stdio", function(expect, type)
    expect "Hi"
    type "\1h"
    expect "Ctrl-A c   to the prompt"
    type "<\1\1\3>"
    expect "<\1\3>"
    type "\1z."
    expect "."
    type "\1x"
    expect "left with 0"
  end)
end)

test("what the guest says while the prompt is in front is printed above it", function(t)
  terminal(t, "-nographic", function(expect, type)
    expect "Hi"
    type "\1c"
    expect "> "
    type "vm.serial[1]:write 'from the' and nil\n"
    expect "from the"
    type "vm.status\n"
    expect '"running"'
    expect "> "
    type "\1x"
    expect "left with 0"
  end)
end)

test("a break is sent by Ctrl-A b", function(t)
  terminal(t, "-nographic -S", function(expect, type)
    expect "Ctrl-A c is the prompt"
    type "\1b\1c"
    expect "> "
    type "'lsr ' .. (vm.io:read_u8(0x3fd) & 0x10)\n"
    expect '"lsr 16"'
    expect "> "
    type "\1x"
    expect "left with 0"
  end)
end)

test("a guest that reads nothing does not keep the keys from working", function(t)
  terminal(t, "-nographic -S", function(expect, type)
    expect "Ctrl-A c is the prompt"
    -- More than the queue takes; written in pieces that a terminal's own queue takes.
    for _ = 1, 40 do
      type(("x"):rep(2048))
      t.sleep(0)
    end
    type "\1c"
    expect "> "
    type "'still ' .. 'here'\n"
    expect '"still here"'
    expect "> "
    type "\1x"
    expect "left with 0"
  end)
end)

test("a machine that ends while the port is in front ends the program", function(t)
  local path = t.file("exit.bin", "\xb0\x02\xe6\xf4\xf4")
  local r = t.vmlua { "bare.lua", "-kernel", path, "-nographic", input = "" }
  t.eq(r.status, 5)
end)

test("piped input has the same keys, and lines while the prompt is in front", function(t)
  local path = t.file("echo.bin", ECHO)
  local r = t.vmlua { "bare.lua", "-kernel", path, "-serial", "mon:stdio", env = { VMLUA_HISTORY = "" }, on_start = function(child, r)
    talk.pipes(t, r, child, function(expect, type)
      expect "Hi"
      type "abc"
      expect "abc"
      type "\1cprint('six times', 6 * 7)\n"
      expect "six times\t42"
      type "error 'boo'\n"
      expect "prompt:1: boo"
      type "\1cdef"
      expect "def"
      type "\1x"
    end)
  end }
  t.log(r.out)
  t.eq(r.status, 0)
end)

test("the same on a socket", function(t)
  local path = t.file("echo.bin", ECHO)
  local socket = t.tmpdir() .. "/port"
  local r = t.vmlua { "bare.lua", "-kernel", path, "-serial", "mon:unix:" .. socket .. ",server,wait=off", on_start = function()
    talk.socket(t, socket, function(expect, type)
      type "abc"
      expect "abc"
      type "\1c"
      expect "> "
      type "'p' .. 6 * 7\n"
      expect '"p42"'
      type "\1cdef"
      expect "def"
      type "\1x"
    end)
  end }
  t.eq(r.status, 0)
end)

test("two users of one terminal are refused by name", function(t)
  for _, case in ipairs {
    { { "-serial", "mon:stdio", "-monitor", "stdio" }, "%-serial mon:stdio has a monitor on it: %-monitor stdio is a second one" },
    { { "-serial", "mon:stdio", "-serial", "stdio" }, "%-serial stdio and %-serial mon:stdio both want the terminal" },
    { { "-serial", "stdio", "-monitor", "stdio" }, "%-serial stdio and %-monitor stdio both want the terminal" },
    { { "-debugcon", "stdio", "-monitor", "stdio" }, "%-debugcon stdio and %-monitor stdio both want the terminal" },
    { { "-parallel", "stdio,logfile=x", "-nographic" }, "%-serial mon:stdio and %-parallel stdio,logfile=x both want the terminal" },
    { { "-serial", "mon:null", "-serial", "mon:ring" }, "%-serial mon:ring: only one port" },
    { { "-nographic", "-daemonize" }, "%-daemonize leaves no terminal for %-serial mon:stdio" },
  } do
    local r = t.vmlua { "bare.lua", "-idle", table.unpack(case[1]) }
    t.match(r.err, case[2])
    t.eq(r.status, 2)
  end
end)

test("what asks for the terminal has it, and the first serial port does without", function(t)
  -- "D" to the debug console, "S" to the serial port, and the way out
  local path = t.file("say.bin", "\xb0D\xe6\xe9\xba\xf8\x03\xb0S\xee\x31\xc0\xe6\xf4\xf4")
  for _, case in ipairs {
    { "S" }, { "D", "-debugcon", "stdio" }, { "D", "-chardev", "stdio,id=c", "-debugcon", "chardev:c" },
    { "S", "-chardev", "stdio,id=c", "-serial", "chardev:c" },
  } do
    local r = t.vmlua { "bare.lua", "-kernel", path, table.unpack(case, 2) }
    t.eq(r.err, "")
    t.eq(r.out, case[1])
    t.eq(r.status, 1) -- (0 << 1) | 1
  end
end)

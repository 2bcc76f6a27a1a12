-- Wrong input of every kind: a clear message and an exit status, or a machine that is paused and says why.
local fs = require "vmlua.core.fs"
local test = require "vmlua.test"

local EXIT = "\xb0\x00\xe6\xf4\xf4" -- mov al, 0; out 0xf4, al; hlt

local function run(t, ...)
  local r = t.vmlua { ... }
  t.log(r.out)
  t.log(r.err)
  return r
end

local function one_line(t, r, pattern, status)
  t.match(r.err, pattern)
  t.eq(select(2, r.err:gsub("\n", "")), 1, "one line: " .. r.err)
  t.eq(r.status, status or 1)
end

local function board(t, init, more)
  return t.file("board.lua", ([[
local machine = require "vmlua.machine"
return machine.define { name = "b", ram = "1M", %s
  init = function(m)
    m.memory:add(0, m.ram)
    %s
  end }]]):format(more or "", init))
end

-- ---- scripts and files -----------------------------------------------------------------------------------

test("an image that is missing or too large is refused in one line", function(t)
  one_line(t, run(t, "bare.lua", "-kernel", "/nonexistent"), "^vmlua: %-kernel: /nonexistent: No such file or directory\n$")
  local big = t.file("big.bin", ("\0"):rep(2 << 20))
  one_line(t, run(t, "bare.lua", "-kernel", big, "-m", "1"), "image needs 0x200000 bytes at 0x7c00, RAM is 1M\n$")
end)

test("an option that cannot be had is named with what is wrong", function(t)
  one_line(t, run(t, "pc.lua", "-S", "-hda", "/nonexistent"), "^vmlua: %-hda: .*/nonexistent.*: No such file or directory\n$")
  one_line(t, run(t, "pc.lua", "-S", "-drive", "file=/nonexistent"), "^vmlua: %-drive: .*/nonexistent")
  one_line(t, run(t, "pc.lua", "-S", "-serial", "soket"), "^vmlua: %-serial: unknown chardev 'soket'.*socket")
  one_line(t, run(t, "pc.lua", "-S", "-monitor", "nothing"), "^vmlua: %-monitor: unknown chardev 'nothing'")
  one_line(t, run(t, "pc.lua", "-S", "-chardev", "tcp:127.0.0.1:99999,id=a"), "^vmlua: %-chardev a: .*99999 is out of range")
  one_line(t, run(t, "pc.lua", "-S", "-cpu", "nothing"), "^vmlua: %-cpu: unknown model \"nothing\" %(known: .*max")
  one_line(t, run(t, "pc.lua", "-S", "-bios", "/dev/null"), "^vmlua: %-bios: .*/dev/null'?: 0 bytes")
  one_line(t, run(t, "pc.lua", "-S", "-bios", t.file("bios", "x")), "^vmlua: %-bios: .*1 bytes are no whole 64 KiB")
end)

test("a board whose script is wrong names its line", function(t)
  local path = board(t, "m:devcie('isa-serial', {})")
  local r = run(t, path)
  t.eq(r.status, 1)
  t.match(r.err, "board.lua:5: .*devcie")
  t.match(r.err, "device")
end)

test("a device with an unknown property, type or value is refused by name", function(t)
  local r = run(t, board(t, "m:device('isa-serial', { iobsae = 1 })"))
  t.eq(r.status, 1)
  t.match(r.err, "board.lua:5: .*iobsae.*iobase")
  r = run(t, board(t, "m:device('isa-seriel', {})"))
  t.match(r.err, "board.lua:5: .*isa%-seriel.*isa%-serial")
  r = run(t, board(t, "m:device('isa-serial', { iobase = 'there' })"))
  t.match(r.err, "iobase")
  t.match(r.err, "there")
end)

test("the same of -device on the command line is refused in one line", function(t)
  one_line(t, run(t, "bare.lua", "-idle", "-device", "isa-seriel"), "isa%-seriel.*isa%-serial", 2)
  one_line(t, run(t, "bare.lua", "-idle", "-device", "isa-serial,iobsae=1"), "iobsae.*iobase", 2)
  one_line(t, run(t, "bare.lua", "-idle", "-device", "isa-serial,iobase=there"), "iobase.*there", 2)
end)

test("a device that -device adds is there", function(t)
  -- mov dx, 0x2fb; mov al, 0x5a; out dx, al; in al, dx; cmp al, 0x5a; jne fail; exit 0; fail: hlt
  local code = "\xba\xfb\x02\xb0\x5a\xee\x30\xc0\xec\x3c\x5a\x75\x05" .. EXIT .. "\xb0\x01\xe6\xf4\xf4"
  local path = t.file("a.bin", code)
  t.eq(run(t, "bare.lua", "-kernel", path, "-device", "isa-serial,iobase=0x2f8,irq=3").status, 1)
  t.eq(run(t, "bare.lua", "-kernel", path).status, 3, "without it the port is not there")
end)

test("two regions at one place are refused with both names", function(t)
  local r = run(t, board(t, "m:device('isa-serial', { iobase = 0x3f8 }) m:device('isa-serial', { iobase = 0x3fc })"))
  t.eq(r.status, 1)
  t.match(r.err, "isa%-serial%-0")
  t.match(r.err, "isa%-serial%-1")
  t.match(r.err, "0*3f8")
  r = run(t, board(t, "m.memory:add('512K', m:region { kind = 'ram', name = 'more', size = '64K' })"))
  t.eq(r.status, 1)
  t.match(r.err, "more.*ram")
end)

test("impossible amounts are refused", function(t)
  one_line(t, run(t, "bare.lua", "-idle", "-m", "4194304G"), "vmlua: .*")
  one_line(t, run(t, "bare.lua", "-idle", "-smp", "4000"), "at most 255")
  one_line(t, run(t, "bare.lua", "-idle", "-cpu", "hots"), '"hots"')
  one_line(t, run(t, "bare.lua", "-idle", "-cpu", "host,+nosuchfeature"), "nosuchfeature")
  one_line(t, run(t, "bare.lua", "-idle", "-serial", "file:/nonexistent/x"), "/nonexistent/x.*No such file")
  one_line(t, run(t, "bare.lua", "-idle", "-serial", "nosuch:thing"), "nosuch")
  one_line(t, run(t, "bare.lua", "-idle", "-accel", "sfot"), "soft", 2)
end)

test("a board without anything to run is refused", function(t)
  one_line(t, run(t, "bare.lua"), "board bare has nothing to start")
  one_line(t, run(t, t.file("x.lua", "return require('vmlua.machine').define { name = 'x' }")), "board x", 1)
end)

-- ---- callbacks --------------------------------------------------------------------------------------------

test("an error in a callback stops the machine and is told with its place", function(t)
  local r = run(t, board(t, [[
    m:place(0x7c00, "\xe6\x80\xf4") m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    m:pio { port = 0x80 }:on(function() error "no such luck" end)]]))
  t.eq(r.status, 1)
  t.match(r.err, "stopped by an error: .*board.lua:6: no such luck")
  t.match(r.err, "RIP ", "the registers are shown")
end)

test("a callback that loops for ever is ended by its budget", function(t)
  local r = run(t, board(t, [[
    require("vmlua.core.loop").budget(0.3)
    m:place(0x7c00, "\xe6\x80\xf4") m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    m:pio { port = 0x80 }:on(function() while true do end end)]]))
  t.eq(r.status, 1)
  t.match(r.err, "stopped by an error: .*board.lua:7:")
end)

test("a request to end reaches a program whose callback loops", function(t)
  local path = board(t, [[
    require("vmlua.core.loop").budget(2)
    m:place(0x7c00, "\xe6\x80\xf4") m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    m:pio { port = 0x80 }:on(function() print "looping" io.stdout:flush() while true do end end)]])
  local r = t.vmlua { path, on_start = function(child, r)
    t.wait_for(function() return r.out:find "looping" end)
    child:kill(2)
  end }
  t.ok(r.status == 130 or r.status == 1, "status %s", tostring(r.status))
end)

test("a program deaf to requests to end is ended by the third", function(t)
  -- The pattern's cost is exponential, and all of it is in one call of a function in C.
  local path = board(t, [[
    m:place(0x7c00, "\xe6\x80\xf4") m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    m:pio { port = 0x80 }:on(function()
      print "looping" io.stdout:flush()
      return ("a"):rep(80):find(("a-"):rep(16) .. "b")
    end)]])
  local r = t.vmlua { path, on_start = function(child, r)
    t.wait_for(function() return r.out:find "looping" end)
    t.wait_for(function()
      child:kill(2)
      return r.err:find "without waiting"
    end)
  end }
  t.eq(r.status, 130)
end)

test("a device handler that fails stops the machine with its name", function(t)
  local path = t.file("board.lua", [[
local machine, qom = require "vmlua.machine", require "vmlua.core.qom"
qom.type { name = "broken", parent = "isa-device", doc = "fails", realize = function(dev)
  dev:pio(0x80, 1, { write = function() error "cannot" end })
end }
return machine.define { name = "b", ram = "1M", init = function(m)
  m.memory:add(0, m.ram)
  m:device("broken", {})
  m:place(0x7c00, "\xe6\x80\xf4") m.cpus[1]:set { cs = 0, rip = 0x7c00 }
end }]])
  local r = run(t, path)
  t.eq(r.status, 1)
  t.match(r.err, "broken.*board.lua:3: cannot")
end)

-- ---- the host ------------------------------------------------------------------------------------------------

local function as_other(t, script, ...)
  if not fs.stat "/usr/bin/unshare" then t.skip "unshare(1) is not installed" end
  local host = require "vmlua.testhost"
  local r = t.vmlua { argv0 = "/usr/bin/unshare", "-m", "/bin/sh", "-c", script, "sh", host.program, ... }
  t.log(r.err)
  if r.err:find("unshare failed", 1, true) or r.err:find("mount:", 1, true) then t.skip "this user may not change mounts" end
  return r
end

test("a host without /dev/kvm is told so", function(t)
  local r = as_other(t, 'mount -t tmpfs none /dev && exec "$@"', "bare.lua", "-idle", "-accel", "kvm")
  one_line(t, r, "/dev/kvm: No such file or directory")
end)

test("a /dev/kvm that is denied is told so, with the way out", function(t)
  if not fs.stat "/usr/bin/setpriv" then t.skip "setpriv(1) is not installed" end
  local host = require "vmlua.testhost"
  local r = t.vmlua { argv0 = "/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", host.program, "bare.lua", "-idle",
    "-accel", "kvm" }
  t.log(r.err)
  if r.err:find("setpriv:", 1, true) then t.skip "this user may not become another, or the other may not read the program" end
  one_line(t, r, "/dev/kvm: Permission denied")
end)

-- ---- the guest -------------------------------------------------------------------------------------------------

-- lidt [zero]; int3 … with an empty IDT in protected mode every exception ends in a triple fault: ud2
local TRIPLE = "\x0f\x01\x1d\x40\x00\x10\x00\x0f\x0b" .. ("\0"):rep(128)

test("a triple fault ends the machine where it may not reboot", function(t)
  local path = t.file("triple.bin", TRIPLE)
  local r = run(t, "bare.lua", "-kernel", path, "-addr", "1M", "-mode", "protected", "-no-reboot")
  t.ok(r.status == 0 or r.status == 1, "status " .. tostring(r.status))
  local vm = t.machine("bare", { kernel = path, addr = "1M", mode = "protected", on_triple_fault = "pause" })
  vm:start()
  local status, reason = vm:wait { rt = 20 }
  t.eq(status, "paused")
  t.match(reason, "triple fault")
end)

test("a guest that writes to every port and beyond its memory does no harm", function(t)
  -- xor dx, dx; next: cmp dx, 0xf4; jb write; cmp dx, 0xf8; jb skip; write: mov al, dl; out dx, al; in al, dx;
  -- skip: inc dx; jnz next; exit
  local code = "\x31\xd2\x81\xfa\xf4\x00\x72\x06\x81\xfa\xf8\x00\x72\x04\x88\xd0\xee\xec\x42\x75\xed" .. EXIT
  local path = t.file("wild.bin", code)
  local vm = t.machine("bare", { kernel = path })
  vm:start()
  local status, reason = vm:wait { rt = 60 }
  -- Ports 0x64 and 0x92 of a PC reset; this board has neither, so that the loop ends.
  t.eq(status, "shutdown", reason)
  -- In protected mode, over all 4 GiB in steps of 64 KiB from above RAM on:
  -- mov edi, 0x1000000; next: mov [edi], edi; mov eax, [edi]; add edi, 0x10000; jnc next; exit
  code = "\xbf\x00\x00\x00\x01\x89\x3f\x8b\x07\x81\xc7\x00\x00\x01\x00\x73\xf4" .. EXIT
  vm = t.machine("bare", { kernel = t.file("wild.bin", code), addr = "1M", mode = "protected" })
  vm:start()
  status, reason = vm:wait { rt = 120 }
  t.eq(status, "shutdown", reason)
end)

test("a guest that floods the log does not fill the disk", function(t)
  -- next: mov dx, 0x3fd; out dx, al; jmp next: a write to the read-only LSR, which is a mistake of the guest
  local path = t.file("flood.bin", "\xba\xfd\x03\xee\xeb\xfa")
  local file = t.tmpdir() .. "/log"
  local r = t.vmlua { "bare.lua", "-kernel", path, "-d", "guest", "-D", file, on_start = function(child)
    t.wait_for(function() return (fs.stat(file) or {}).size and fs.stat(file).size > 0 end)
    t.sleep(0.5)
    child:kill(15)
  end }
  t.eq(r.status, 143)
  t.ok(fs.stat(file).size < 100000, "the log has %d bytes", fs.stat(file).size)
end)

-- ---- what runs around a machine -----------------------------------------------------------------------------------

test("a pidfile is there while the machine runs, and gone afterwards", function(t)
  local pidfile = t.tmpdir() .. "/pid"
  local path = t.file("spin.bin", "\xeb\xfe")
  local seen
  local r = t.vmlua { "bare.lua", "-kernel", path, "-pidfile", pidfile, on_start = function(child)
    t.wait_for(function()
      local f = io.open(pidfile)
      local line = f and f:read "L"
      if f then f:close() end
      seen = line and line:match "^(%d+)\n$"
      return seen
    end)
    t.eq(tonumber(seen), child.pid)
    child:kill(15)
  end }
  t.eq(r.status, 143)
  t.eq(fs.stat(pidfile), nil)
end)

-- A board whose guest reaches a callback that does not come back.
local function no_way_back(body)
  return ([[
    return require("vmlua.machine").define { name = "no-way-back", ram = "1M", init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, "\xe6\x80\xeb\xfc")
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
      m:pio { port = 0x80 }:on(function() %s end)
    end }]]):format(body)
end

test("a pidfile goes with a process that a script ends, and with one that no longer listens", function(t)
  local pidfile = t.tmpdir() .. "/pid"
  local exits = t.file("exits.lua", no_way_back(("print(io.open(%q):read 'l') io.stdout:flush() os.exit(5)"):format(pidfile)))
  local r = t.vmlua { exits, "-pidfile", pidfile }
  t.eq(r.status, 5)
  t.match(r.out, "^%d+\n$")
  t.eq(fs.stat(pidfile), nil)

  local deaf = t.file("deaf.lua", no_way_back 'print "deaf" io.stdout:flush() local _ = ("a"):rep(40):find(("a-"):rep(40) .. "b")')
  r = t.vmlua { deaf, "-pidfile", pidfile, on_start = function(child, seen)
    t.wait_for(function() return seen.out:find "deaf" end)
    t.ok(fs.stat(pidfile))
    t.wait_for(function()
      child:kill(15)
      return not child.running
    end)
  end }
  t.eq(r.status, 143)
  t.match(r.err, "without waiting for what runs")
  t.eq(fs.stat(pidfile), nil)
end)

test("a daemon answers when its machine is built, or with what went wrong", function(t)
  local pidfile = t.tmpdir() .. "/pid"
  local r = run(t, "bare.lua", "-kernel", t.file("spin.bin", "\xeb\xfe"), "-daemonize", "-pidfile", pidfile)
  t.eq(r.status, 0)
  local f = t.ok(io.open(pidfile))
  local pid = math.tointeger(tonumber(f:read "l"))
  f:close()
  t.ok(fs.stat("/proc/" .. pid), "the daemon is not there")
  os.execute("kill " .. pid)
  t.wait_for(function() return not fs.stat("/proc/" .. pid) or not fs.stat(pidfile) end, 10, "the daemon did not end")
  r = run(t, "bare.lua", "-kernel", "/nonexistent", "-daemonize")
  one_line(t, r, "No such file")
  r = run(t, "bare.lua", "-idle", "-daemonize", "-monitor", "stdio")
  t.eq(r.status, 2)
  t.match(r.err, "%-daemonize leaves no terminal")
end)

test("-runas refuses an unknown user", function(t)
  local r = run(t, "bare.lua", "-idle", "-runas", "nosuchuser0")
  t.match(r.err, "%-runas: nosuchuser0: no such user")
  t.eq(r.status, 2)
end)

test("a memory back end that nothing uses is completed all the same, or refused", function(t)
  local ok = run(t, "bare.lua", "-kernel", t.file("g.bin", EXIT), "-object", "memory-backend-ram,id=m0,size=1M")
  t.eq(ok.status, 1) -- isa-debug-exit: 0 << 1 | 1
  t.eq(ok.err, "")
  one_line(t, run(t, "bare.lua", "-kernel", t.file("h.bin", EXIT), "-object", "memory-backend-ram,id=m0"), "m0: .*size")
  one_line(t, run(t, "bare.lua", "-kernel", t.file("i.bin", EXIT),
    "-object", "memory-backend-file,id=m1,size=1M,mem-path=/nonexistent/x"), "m1: .*/nonexistent/x")
end)

test("an undeclared global is an error that names it, in a script", function(t)
  local r = run(t, t.file("typo.lua", "local x = 1\nprint(xx)\n"))
  t.eq(r.status, 1)
  t.match(r.err, "typo%.lua:2: undeclared global 'xx'")
  r = run(t, t.file("leak.lua", "counter = 1\n"))
  t.eq(r.status, 1)
  t.match(r.err, "leak%.lua:1: assignment to undeclared global 'counter'")
end)

test("what a board puts where no memory is, is refused with the address", function(t)
  local vm = t.machine("bare", { idle = true })
  t.raises("place: memory: nothing is mapped at 0xfffff000", vm.place, vm, 0xfffff000, "abc")
  t.raises("place: memory: nothing is mapped at 0x1000000$", vm.place, vm, 0xfffffe, "abc")
  t.raises("bad_input.lua:%d+: place: expected a size", function() vm:place("x", "abc") end)
  t.raises("bad_input.lua:%d+: place: bytes as a string expected, got table", function() vm:place(0, {}) end)
  t.raises("bad_input.lua:%d+: load: the name of a file", function() vm:load(nil, 0) end)
end)

test("a mistake in the settings of a machine is at the caller's line", function(t)
  local machine = require "vmlua.machine"
  local function make(conf) return function() local vm = machine.new("bare", conf) return vm end end
  t.raises("^[^\n]*bad_input.lua:%d+: ram: 1024 bytes", make { idle = true, ram = "1K" })
  t.raises("^[^\n]*bad_input.lua:%d+: device: unknown device", make { idle = true, device = { { "zork" } } })
  t.raises("^[^\n]*bad_input.lua:%d+: machine: bare", make { idle = true, props = { foo = 1 } })
end)

-- LeakSanitizer stops a process by system calls that the sandbox denies: the program ends without its search.
local function sandboxed(t, ...)
  local options = (os.getenv "ASAN_OPTIONS" or "") .. ":detect_leaks=0"
  local r = t.vmlua { env = { ASAN_OPTIONS = (options:gsub("^:", "")) }, ... }
  t.log(r.out)
  t.log(r.err)
  return r
end

test("-sandbox takes away system calls, in groups", function(t)
  -- The machine's serial port prints what a script in a later callback may still do.
  local path = t.file("board.lua", [[
local machine, process, loop = require "vmlua.machine", require "vmlua.core.process", require "vmlua.core.loop"
return machine.define { name = "b", ram = "1M", init = function(m)
  m.memory:add(0, m.ram)
  loop.timer(1, function()
    local child, why = process.spawn { argv = { "/bin/true" } }
    print("spawn", child and "yes" or why)
    local f = io.open("/proc/self/status"):read "a"
    print("seccomp", f:match "Seccomp:%s*(%d)", "privs", f:match "NoNewPrivs:%s*(%d)")
    m:shutdown "done"
  end)
end }]])
  local r = sandboxed(t, path, "-sandbox", "on")
  t.match(r.out, "spawn\tyes")
  t.match(r.out, "seccomp\t2\tprivs\t1")
  t.eq(r.status, 0)
  r = sandboxed(t, path, "-sandbox", "on,spawn=deny,elevateprivileges=deny,resourcecontrol=deny", "-smp", "2")
  t.match(r.out, "spawn\t[^\n]*Operation not permitted")
  t.eq(r.status, 0)
  r = sandboxed(t, path, "-sandbox", "off")
  t.match(r.out, "seccomp\t0")
end)

test("a machine runs in the sandbox as outside of it", function(t)
  local r = sandboxed(t, "demo.lua", "-sandbox", "on,spawn=deny,elevateprivileges=deny,resourcecontrol=deny")
  t.match(r.out, "the answer is 42")
  t.eq(r.status, 0)
end)

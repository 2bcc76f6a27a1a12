-- Machines that run a guest: run control, callbacks and what goes wrong in them, snapshots, several machines.
local core = require "vmlua.core.machine"
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

local counting = "\xb0\x00\xe6\x80\xfe\xc0\xeb\xfa" -- mov al,0; l: out 0x80,al; inc al; jmp l
local halting = "\xfa\xf4\xeb\xfd"                  -- cli; l: hlt; jmp l
local asking = "\xe4\x90\xe6\x80\xeb\xfa"           -- l: in al,0x90; out 0x80,al; jmp l

-- ThreadSanitizer holds signals back until the thread calls something it knows, which a loop in Lua never does.
local function needs_signals(t)
  local f = assert(io.open "/proc/self/maps")
  local maps = f:read "a"
  f:close()
  if maps:find("libtsan", 1, true) then t.skip "ThreadSanitizer delays signals" end
end

local function guest(name, fn)
  test(name, function(t)
    t.accel()
    fn(t)
  end)
end

local function board(code)
  return {
    ram = "1M", doc = "a test's board",
    init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, code)
      m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    end,
  }
end

-- The machine paused with an error whose text matches.
local function fails_with(t, vm, pattern)
  t.may_fail(vm)
  vm:start()
  local status, reason = vm:wait { rt = 20 }
  t.eq(status, "error", reason)
  return t.match(reason, pattern)
end

guest("a guest whose faults end in faults without an end is paused like any other", function(t)
  -- Nothing is mapped in its reach: each vector reads ffff:ffff, where every instruction crosses the limit of its segment.
  local vm = t.machine {
    ram = "1M",
    init = function(m)
      m.memory:add("1G", m.ram)
      m.cpus[1]:set { cs = 0, ds = 0, ss = 0, rsp = 0x8000, rip = 0x7c00 }
    end,
  }
  vm:start()
  t.eq(table.pack(vm:wait { rt = 0.05 }), { nil, "timeout", n = 2 })
  vm:pause "enough"
  t.eq({ vm.status, vm.reason }, { "paused", "enough" })
end)

guest("a machine without RAM runs, or says why it does not", function(t)
  for _, accel in ipairs(core.accels()) do
    if accel.available then
      local vm = t.machine { ram = "1M", accel = accel.name, init = function(m) m.cpus[1]:set { cs = 0, rip = 0x7c00 } end }
      if accel.name == "kvm" then
        fails_with(t, vm, "this machine has no RAM, and KVM runs nothing without any %(%-accel soft does%) at 0000:7c00")
      else
        vm:start()
        t.eq(table.pack(vm:wait { rt = 0.05 }), { nil, "timeout", n = 2 })
      end
    end
  end
end)

guest("a machine starts, is paused, goes on and is stopped", function(t)
  local vm = t.machine(board(counting))
  t.eq(vm.status, "paused")
  t.eq(vm.cpus[1].rip, 0x7c00)
  vm:start()
  t.eq(vm.status, "running")
  t.eq(table.pack(vm:wait { rt = 0.01 }), { nil, "timeout", n = 2 })
  t.ok(vm:pio { port = 0x80, write = true }:wait { rt = 30 }, "on a loaded host it has not begun yet")
  vm:pause "for a look"
  t.eq({ vm.status, vm.reason }, { "paused", "for a look" })
  local rip = vm.cpus[1].rip
  t.ok(rip >= 0x7c02 and rip < 0x7c08)
  vm:resume()
  vm:stop "enough"
  t.eq({ vm:wait { rt = 10 } }, { "shutdown", "enough" })
  t.raises("reset it to run it again", vm.resume, vm)
  vm:reset()
  t.eq(vm.cpus[1].rip, 0x7c00)
  vm:start()
  t.eq(vm.status, "running")
end)

guest("guest time is limited by guest time, real time by real time", function(t)
  local vm = t.machine(board(halting))
  vm:start()
  local before = vm.time
  t.eq(select(2, vm:wait { t = 0.005 }), "timeout")
  t.ok(vm.time - before >= 5000000)
  vm:pause()
  local now = vm.time
  sched.sleep(0.005)
  t.eq(vm.time, now, "time goes on while paused")
end)

guest("what a board set in its CPU is there again after each reset", function(t)
  local vm = t.machine {
    ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, counting)
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
      m.cpus[1].rbx = 0x1234
    end,
  }
  for _ = 1, 3 do
    t.eq({ vm.cpus[1].rip, vm.cpus[1].rbx }, { 0x7c00, 0x1234 })
    vm.cpus[1].rbx = 5
    vm.memory:write(0x7c00, halting)
    vm:start()
    sched.sleep(0.002)
    vm:reset()
    t.eq(vm.memory:read(0x7c00, #counting), counting)
    vm:pause()
    vm:reset()
  end
end)

guest("registers of a running vCPU are out of reach, in its own callback they are not", function(t)
  local vm = t.machine(board(counting))
  local seen
  vm:pio { port = 0x80, write = true, limit = 1 }:on(function(cpu, x) seen = { cpu.al, x.value, cpu == vm.cpus[1] } end)
  vm:start()
  t.raises("cpu 0 is running", function() return vm.cpus[1].rax end)
  t.raises("cpu 0 is running", function() vm.cpus[1].rax = 1 end)
  while not seen do sched.sleep(0.001) end
  t.eq(seen, { 0, 0, true })
end)

guest("an error in a callback pauses the machine with the callback's name and a traceback", function(t)
  local vm = t.machine(board(counting))
  vm:pio { port = 0x80 }:on(function() error "in the hook" end)
  fails_with(t, vm, "pio hook at .*running%.lua:%d+: .*in the hook\nstack traceback")
end)

guest("whatever value a callback raises is told", function(t)
  for _, value in ipairs { { {}, "error object is a table" }, { false, "error object is a boolean" },
    { setmetatable({}, { __tostring = function() return "with a text" end }), "with a text" } } do
    local vm = t.machine(board(counting))
    vm:pio { port = 0x80 }:on(function() error(value[1]) end)
    fails_with(t, vm, value[2])
    vm:close()
  end
end)

guest("a callback that answers nonsense pauses the machine", function(t)
  local vm = t.machine(board(counting))
  vm:pio { port = 0x80 }:on(function() return 42 end)
  fails_with(t, vm, "pio hook")
end)

guest("a callback may not wait, and says how to", function(t)
  local vm = t.machine(board(counting))
  vm:pio { port = 0x80 }:on(function() sched.sleep(1) end)
  fails_with(t, vm, "waiting is refused inside a callback.*sched%.spawn")
end)

guest("a task started by a callback waits", function(t)
  local vm = t.machine(board(counting))
  local slept
  vm:pio { port = 0x80, limit = 1 }:on(function()
    sched.spawn(function()
      sched.sleep(0.001)
      slept = true
    end)
  end)
  vm:start()
  while not slept do sched.sleep(0.001) end
end)

guest("what a callback was given is of no use after it", function(t)
  local vm = t.machine(board(counting))
  local kept
  vm:pio { port = 0x80, limit = 1 }:on(function(_, x) kept = x end)
  vm:start()
  while not kept do sched.sleep(0.001) end
  sched.sleep(0.002)
  t.raises("callback", function() return kept.value end)
  t.raises("callback", function() kept.value = 1 end)
end)

guest("a callback that loops for ever is ended by its budget", function(t)
  needs_signals(t)
  loop.budget(0.2)
  t.cleanup(function() loop.budget(10) end)
  local vm = t.machine(board(counting))
  vm:pio { port = 0x80 }:on(function() while true do end end)
  fails_with(t, vm, "ran longer than its budget")
  local other = t.machine(board(counting))
  other:pio { port = 0x80 }:on(function() while true do pcall(function() while true do end end) end end)
  fails_with(t, other, "ran longer than its budget")
  local third = t.machine(board(counting))
  third:pio { port = 0x80 }:on(function() coroutine.wrap(function() while true do end end)() end)
  fails_with(t, third, "ran longer than its budget")
end)

guest("Ctrl-C ends a callback that loops", function(t)
  needs_signals(t)
  local path = t.file("script.lua", [[
    local machine = require "vmlua.machine"
    local vm <close> = machine.new { name = "looping", ram = "1M", init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, "\xb0\x00\xe6\x80\xfe\xc0\xeb\xfa")
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    end }
    vm:pio { port = 0x80 }:on(function() io.write "ready\n" io.flush() while true do end end)
    vm:start()
    print(vm:wait { rt = 30 })
  ]])
  local out, p = "", nil
  sched.suspend(function(wake)
    p = assert(process.spawn {
      argv = { fs.realpath "/proc/self/exe", path }, on_exit = wake, stderr = function(s) out = out .. s end,
      stdout = function(s)
        out = out .. s
        if s:find "ready" then p:kill(2) end
      end,
    })
    t.cleanup(function() p:kill(9) end)
  end)
  t.match(out, "error\tpio hook.*interrupted")
end)

guest("a hook survives the garbage collector and ends with remove", function(t)
  local vm = t.machine(board(counting))
  local n = 0
  do vm:pio { port = 0x80, write = true }:on(function() n = n + 1 end) end
  collectgarbage()
  collectgarbage()
  vm:start()
  while n < 10 do sched.sleep(0.001) end
  vm:pause()
  local handle = vm:pio { port = 0x80, write = true }:on(function() end)
  t.eq(handle.how, "port exit")
  local armed = #vm:hooks()
  handle:remove()
  handle:remove()
  t.eq(#vm:hooks(), armed - 1)
end)

guest("a callback answers a read, and the board's devices never see it", function(t)
  local vm = t.machine(board(asking))
  local got
  vm:pio { port = 0x90, write = false }:on(function(_, x)
    x.value = 0x5a
    return true
  end)
  vm:pio { port = 0x80, write = true, limit = 1 }:on(function(_, x) got = x.value end)
  vm:start()
  while not got do sched.sleep(0.001) end
  t.eq(got, 0x5a)
end)

guest("a machine that is paused or closed in its own callback stops as soon as that returns", function(t)
  local vm = t.machine(board(counting))
  vm:pio { port = 0x80 }:on(function() vm:pause "in the callback" end)
  vm:start()
  t.eq({ vm:wait { rt = 10 } }, { "paused", "in the callback" })
  local other = t.machine(board(counting))
  other:pio { port = 0x80, limit = 1 }:on(function() other:close() end)
  other:start()
  t.eq(select(2, other:wait { rt = 10 }), "closed")
  t.eq(other.status, "closed")
end)

guest("a snapshot brings back memory and registers, and ends waits", function(t)
  local vm = t.machine(board(counting))
  vm:start()
  sched.sleep(0.003)
  vm:pause()
  vm.memory:write_u32(0x1000, 0x11111111)
  local before = vm.cpus[1]:get()
  local s = vm:snapshot()
  t.ok(s.device_bytes > 0)
  vm.memory:write_u32(0x1000, 0x22222222)
  vm:start()
  local task = sched.spawn(function() return vm:wait { rt = 10 } end)
  sched.sleep(0.003)
  vm:restore(s)
  t.eq(table.pack(task:join()), { nil, "restored", n = 2 })
  vm:pause()
  vm:restore(s)
  t.eq(vm.memory:read_u32(0x1000), 0x11111111)
  local after = vm.cpus[1]:get()
  for _, name in ipairs { "rax", "rip", "rflags", "cr0" } do t.eq(after[name], before[name], name) end
  s:release()
  t.raises("released", vm.restore, vm, s)
  collectgarbage()
end)

guest("the state of devices goes through a string, and a damaged one is refused", function(t)
  local vm = t.machine(board(counting))
  vm.cpus[1].rbx = 77
  local state = vm:save_devices()
  vm.cpus[1].rbx = 78
  t.ok(vm:load_devices(state))
  t.eq(vm.cpus[1].rbx, 77)
  local damaged = state:sub(1, 100) .. string.char(state:byte(101) ~ 1) .. state:sub(102)
  t.refuses("", vm.load_devices, vm, damaged)
  t.refuses("", vm.load_devices, vm, state:sub(1, -2))
  t.refuses("", vm.load_devices, vm, "")
  t.eq(vm.status, "paused")
  t.eq(vm.cpus[1].rbx, 77)
  t.ok(vm:load_devices(state))
  t.eq(vm.cpus[1].rbx, 77)
end)

guest("settings that the board does not look at are refused", function(t)
  t.raises("does not use kernel", machine.new, board(counting), { kernel = "x" })
  t.raises("0 serial ports, 1 were asked for", machine.new, board(counting), { serial = "null" })
  local left = 0
  for _, m in ipairs(core.list()) do if m.status ~= "closed" then left = left + 1 end end
  t.eq(left, 0, "machines that failed in the making")
end)

guest("an error in a board's init closes what was made", function(t)
  t.raises("in the init", t.machine, { ram = "1M", init = function() error "in the init" end })
  t.raises("unknown", t.machine, { ram = "1M", init = function(m) m:device("isa-seriall", {}) end })
  t.raises("no/such/file", t.machine, { ram = "1M", init = function(m)
    m.memory:add(0, m.ram)
    m:load("/no/such/file", 0)
  end })
  t.eq(#core.list(), 0)
end)

guest("an image that is too large names the file, its size and where it would end", function(t)
  local path = t.file("large.bin", ("x"):rep(2 << 20))
  local message = t.raises("large%.bin", t.machine, { ram = "1M", init = function(m)
    m.memory:add(0, m.ram)
    m:load(path, 0x7c00)
  end })
  t.log(message)
  t.match(message, "2097152")
  t.match(message, "207bff")
end)

guest("two machines live side by side, and close in any order, a hundred times", function(t)
  for i = 1, 100 do
    local a, b = machine.new(board(counting)), machine.new(board(halting))
    local n = 0
    a:pio { port = 0x80, write = true, limit = 3 }:on(function()
      n = n + 1
      b.gsi(b, 4):set(n & 1)
    end)
    a:start()
    b:start()
    if i % 3 == 0 then b:pause() end
    while n < 3 do sched.yield() end
    if i % 2 == 0 then a:close() b:close() else b:close() a:close() end
    t.eq({ a.status, b.status }, { "closed", "closed" })
  end
  t.eq(#core.list(), 0)
end)

guest("vector registers are bytes of the right number, and a state that is full of MSRs takes no more", function(t)
  local cpu = t.machine(board(halting)).cpus[1]
  cpu.xmm1, cpu.st7 = ("x"):rep(16), "0123456789"
  t.eq({ cpu.xmm1, cpu.st7, #cpu.ymm1 }, { ("x"):rep(16), "0123456789", 32 })
  t.raises("st1: a string of 10 bytes is expected, got 1", function() cpu.st1 = "x" end)
  t.raises("ymm15: a string of 32 bytes is expected, got 16", function() cpu.ymm15 = cpu.xmm1 end)
  t.raises("'st8'", function() cpu.st8 = "0123456789" end)
  t.raises("msr:0x200%x+: a state holds 160 MSRs, and this one is full", function()
    for i = 0, 160 do cpu[("msr:0x%x"):format(0x20000 + i)] = i end
  end)
end)

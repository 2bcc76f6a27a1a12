-- Time as a count of instructions: every run is the same, whatever the host does meanwhile.
local core = require "vmlua.core.machine"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

local function hex(s)
  return (s:gsub(";[^\n]*", ""):gsub("%s", ""):gsub("..", function(b) return string.char(tonumber(b, 16)) end))
end

-- Real mode. The PIT ticks at 1 kHz; each tick counts in [0x500] and writes RDTSC to port 0xf9. The main program writes
-- RDRAND to 0xf8, fills memory with REP STOSB, computes for as long as what it computed says, and halts now and then. After 20
-- ticks it ends by port 0xf4.
local one = hex [[
  31c08ed88ec08ed0bc007c c70680007b7c c70682000000      ; segments, stack, vector 0x20
  b011e620 b020e621 b004e621 b001e621 b0fee621          ; PIC
  b034e643 b0a9e640 b004e640 fb                         ; PIT; sti
  660fc7f0 66e7f8 bf0030 b94523 f3aa                    ; again: rdrand eax; out 0xf8,eax; rep stosb
  89d9 81e1ff3f 6669db6d4ec641 6681c339300000           ; cx = bx & 0x3fff; spin: ebx = ebx * a + b
  89de 81e6fe0f 019c0020 e2e6                           ; add [0x2000 + (bx & 0xffe)],bx; loop spin
  f6c307 7501 f4 803e000514 72c4                        ; hlt, one time in eight; until 20 ticks
  fa a00005 e6f4 f4
  6650 6652 fe060005 0f31 66e7f9 b020e620 665a 6658 cf  ; tick
]]

-- Two processors, 32-bit. The first starts the second by INIT and SIPI; each takes a lock 40 times (XCHG, PAUSE while it is
-- taken), writes RDTSC to 0xf9 and its name to 0xf8, changes the memory that both share, lets go and computes on.
local two = hex [[
  31c08ed88ec08ed0bc007cbe8f7cbf0080b91600f3a40f0116407c0f20c00c010f22c0ea467c08000000000000000000ffff0000009bcf00ffff0000
  0093cf001700287c0000b8100000008ed88ec08ed0bb0000e0fec783f0000000ff010000c7831003000000000001c7830003000000450000c7831003
  000000000001c7830003000008460000bdb0000000eb2431c08ed80f0116407c0f20c00c010f22c0eaa57c0800b8100000008ed88ed0bda0000000be
  28000000b80100000087050006000085c07404f390ebed0f31e7f989e8e7f8b9b80b000069db6d4ec64101eb89df81e7fc0f0000019f00200000e2e8
  c705000600000000000089d981e1ff0f000041e2fe4e75b0f0ff050406000081fdb00000007402faf4f390833d040600000272f5b001e6f4f4
]]

local BURN = "while true do end"

-- Runs to the end; the log of port writes with the time of each, how many instructions, and the memory.
local function run(t, code, conf, drive)
  local c = { kernel = t.file("guest.bin", code), accel = "soft", icount = { seed = 7 } }
  for k, v in pairs(conf or {}) do c[k] = v end
  local vm = t.machine("bare", c)
  local log = {}
  vm:pio { port = 0xf8, len = 2, write = true }:on(function(cpu, x)
    log[#log + 1] = ("%d %x %x %d %x"):format(cpu.index, x.addr, x.value, x.time, cpu.rip)
  end)
  vm:start()
  if drive then drive(vm) end
  local status, reason = vm:wait { rt = 60 }
  t.log(reason)
  t.eq(status, "shutdown")
  return table.concat(log, "\n"), vm.stats.accel.icount, vm.memory:read(0x500, 0x6000), #log, vm
end

local function same(t, code, conf, drive)
  local log, count, memory, lines = run(t, code, conf, drive)
  t.ok(lines >= 20, "the guest does something")
  for _ = 1, 2 do
    local log2, count2, memory2 = run(t, code, conf, drive)
    t.eq(count2, count)
    t.ok(log2 == log, "the same log")
    t.ok(memory2 == memory, "the same memory")
  end
  return log, count
end

-- Something that takes the host's processors away, for as long as the test lasts.
local function load_host(t)
  local path = t.file("burn.lua", BURN)
  for _ = 1, 3 do
    local p = assert(process.spawn { argv = { "/proc/self/exe", path }, on_exit = function() end })
    t.cleanup(function() p:kill(9) end)
  end
end

test("two runs of a guest with timer interrupts, RDTSC and RDRAND are the same", function(t)
  local log, count = same(t, one)
  load_host(t)
  local log2, count2 = run(t, one)
  t.eq(count2, count)
  t.ok(log2 == log, "the same log on a busy host")
end)

test("two runs of two processors that share memory are the same", function(t)
  local log, count = same(t, two, { smp = 2 })
  t.match(log, "f8 a0 ")
  t.match(log, "f8 b0 ")
  load_host(t)
  local log2, count2 = run(t, two, { smp = 2 })
  t.eq(count2, count)
  t.ok(log2 == log, "the same log on a busy host")
end)

test("translated and interpreted runs are the same", function(t)
  for _, case in ipairs { { one, {} }, { two, { smp = 2 } } } do
    case[2].translate = false
    local log, count, memory = run(t, case[1], case[2])
    case[2].translate = true
    local log2, count2, memory2 = run(t, case[1], case[2])
    t.eq(count2, count)
    t.ok(log2 == log, "the same log")
    t.ok(memory2 == memory, "the same memory")
  end
end)

test("timers fire at the instruction where they are due", function(t)
  local log = run(t, one, { icount = { shift = 0 } })
  local n, before = 0, nil
  for time in log:gmatch "f9 %x+ (%d+)" do
    n = n + 1
    -- The first one is that of the PIT's start. From the second on a tick is 1193/1193182 s after the one before.
    if n > 2 then
      local off = tonumber(time) - before - 1193 * 1000000000 // 1193182
      t.ok(math.abs(off) < 20, ("tick %d is off by %d instructions"):format(n, off))
    end
    before = tonumber(time)
  end
  t.eq(n, 20)
end)

test("the seed decides what RDRAND answers", function(t)
  local log = run(t, one)
  t.ok(run(t, one, { icount = { seed = 8 } }) ~= log)
end)

test("pauses change nothing", function(t)
  local log, count = run(t, one)
  local log2, count2 = run(t, one, nil, function(vm)
    for _ = 1, 5 do
      sched.sleep(0.002)
      if vm.status ~= "running" then break end
      vm:pause()
      vm:resume()
    end
  end)
  t.eq(count2, count)
  t.ok(log2 == log, "the same log")
end)

test("a script that drives the guest in guest time is part of the run", function(t)
  local function drive(vm)
    for i = 1, 4 do
      vm:pio { port = 0xf9, write = true }:wait { t = 1 }
      vm.memory:write_u32(0x5000 + 4 * i, vm.time)
      vm:pause()
      vm.cpus[1].rbx = vm.cpus[1].rbx + i
      vm:resume()
    end
  end
  local log = same(t, one, nil, drive)
  t.ok(log ~= run(t, one), "what the script did counts")
end)

test("a snapshot goes on the same way each time it is restored", function(t)
  local vm = t.machine("bare", { kernel = t.file("guest.bin", two), accel = "soft", icount = true, smp = 2 })
  local log = {}
  vm:pio { port = 0xf8, len = 2, write = true }:on(function(cpu, x)
    log[#log + 1] = ("%d %x %x %d"):format(cpu.index, x.addr, x.value, x.time)
    if #log == 31 then return "pause" end
  end)
  vm:start()
  t.eq(vm:wait { rt = 60 }, "paused")
  local s = vm:snapshot()
  local count, first = vm.stats.accel.icount, nil
  for _ = 1, 3 do
    vm:restore(s)
    t.eq(vm.stats.accel.icount, count)
    log = { table.unpack(log, 1, 31) }
    log[32] = "restored"
    vm:resume()
    t.eq(vm:wait { rt = 60 }, "shutdown")
    local text = table.concat(log, "\n") .. vm.stats.accel.icount .. vm.memory:read(0x500, 0x6000)
    first = first or text
    t.ok(text == first, "the same end")
  end
end)

test("idle time is skipped, and with sleep=on it passes", function(t)
  local halting = hex "b034e643 b000e640 b000e640 f4" -- interrupts off: nothing ever wakes it
  for _, sleep in ipairs { false, true } do
    local vm = t.machine("bare", { kernel = t.file("guest.bin", halting), icount = { sleep = sleep } })
    t.eq(vm.accel, "soft")
    vm:start()
    t.ok(vm:exit "hlt":wait { rt = 20 })
    local x, why = vm:exit "shutdown":wait { t = sleep and 0.05 or 3600 }
    t.eq(x, nil)
    t.eq(why, "timeout")
    t.ok(vm.time >= (sleep and 50000000 or 3600 * 1000000000))
    vm:stop()
  end
end)

test("only soft counts instructions, and wrong words are refused", function(t)
  local r = t.vmlua { "bare.lua", "-icount", "shift=11" }
  t.match(r.err, "shift: expected a number from 0 to 10")
  r = t.vmlua { "bare.lua", "-icount", "auto" }
  t.match(r.err, "shift=auto")
  r = t.vmlua { "bare.lua", "-accel", "soft,shift=2" }
  t.match(r.err, "icount=on")
  r = t.vmlua { "bare.lua", "-accel", "soft,icount=on,seeds=2" }
  t.match(r.err, "seed")
  for _, a in ipairs(core.accels()) do
    if a.name == "kvm" and a.available then
      t.raises("kvm does not count instructions", t.machine, "bare", { accel = "kvm", icount = true })
    end
  end
  local code = t.file("guest.bin", one)
  local short = t.vmlua { "bare.lua", "-kernel", code, "-icount", "2,sleep=off,seed=0x10" }
  local long = t.vmlua { "bare.lua", "-kernel", code, "-accel", "soft,icount=on,shift=2,seed=16" }
  t.eq(short.status // 4, 10) -- 20 ticks, or one more
  t.eq(long.status, short.status)
end)

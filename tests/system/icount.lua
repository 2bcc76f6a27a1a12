-- Time as a count of instructions, with a real system: two runs of Linux on two processors are the same run.
local process = require "vmlua.core.process"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local PIECE = 1 << 20

-- What the guest wrote to its serial port and when, how many instructions it was, and its memory at the end.
local function run(t)
  local vm = t.machine("pc", {
    kernel = guests.path(t, "linux-amd64/vmlinuz"), initrd = guests.initramfs(t), ram = "192M", smp = 2, accel = "soft",
    icount = { seed = 3 }, rtc = { clock = "vm", base = "2026-01-01T00:00:00" }, vga = "none",
    append = "console=ttyS0 panic=-1 random.trust_cpu=on",
  })
  local log = {}
  vm:pio({ port = 0x3f8, write = true }):on(function(cpu, x) log[#log + 1] = ("%d %x %d"):format(cpu.index, x.value, x.time) end)
  vm:start()
  t.ok(vm.serial[1]:text "ready> ":run_until { rt = 500 })
  local memory = {}
  for at = 0, 192 * PIECE - 1, PIECE do memory[#memory + 1] = vm.memory:read(at, PIECE) end
  local count = vm.stats.accel.icount
  t.log(("%d instructions, %d bytes of output"):format(count, #log))
  vm:close()
  return table.concat(log, "\n"), count, memory
end

test("two boots of Linux with two processors are the same, also on a busy host", { long = true, timeout = 1200 }, function(t)
  local log, count, memory = run(t)
  t.match(log, "^%d")
  local path = t.file("burn.lua", "while true do end")
  local burning, left = {}, 3
  for i = 1, 3 do
    burning[i] = assert(process.spawn { argv = { "/proc/self/exe", path }, on_exit = function() left = left - 1 end })
    t.cleanup(function() burning[i]:kill(9) end)
  end
  local log2, count2, memory2 = run(t)
  for i = 1, 3 do burning[i]:kill(9) end
  t.wait_for(function() return left == 0 end, 30, "the end of what kept the host busy")
  t.eq(count2, count)
  t.ok(log2 == log, "the same output at the same instructions")
  for i = 1, #memory do t.ok(memory2[i] == memory[i], ("the same memory from %d MiB on"):format(i - 1)) end
end)

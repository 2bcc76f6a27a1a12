-- Debian's kernels with time as a count of instructions: translated to host code and interpreted they do the same.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local LETTERS = 2500 -- of the console

-- Every letter with its time and place, and in the end how many instructions it took, memory and registers.
local function run(t, kernel, translate)
  local vm = t.machine("bare", { kernel = kernel, append = "console=ttyS0 panic=-1", ram = "128M", accel = "soft",
    icount = { seed = 3 }, translate = translate })
  local log = {}
  vm:pio { port = 0x3f8, write = true }:on(function(cpu, x)
    log[#log + 1] = ("%d %d %x"):format(x.value, x.time, cpu.rip)
    if #log == LETTERS then return "pause" end
  end)
  vm:start()
  t.eq(vm:wait { rt = 240 }, "paused")
  local sums = {}
  for at = 0, 127 do sums[#sums + 1] = vm.memory:read(at << 20, 1 << 20) end
  local cpu, stats = vm.cpus[1], vm.stats.accel
  log[#log + 1] = ("%d %x %x %x %x"):format(stats.icount, cpu.rip, cpu.rsp, cpu.rflags, cpu.cr3)
  vm:close()
  return log, sums, stats["soft-translated"]
end

-- The second one with --long.
local kinds = { "linux-amd64", os.getenv "VMLUA_LONG" and "linux-686" }
for _, kind in ipairs(kinds) do
  test(kind .. " runs the same translated and interpreted", { timeout = 600 }, function(t)
    local kernel = guests.path(t, kind .. "/vmlinuz")
    local log, memory, none = run(t, kernel, false)
    local log2, memory2, some = run(t, kernel, true)
    t.eq(none, 0)
    t.ok(some > 1000, "much is translated")
    for i = 1, #log do t.eq(log2[i], log[i], "letter " .. i) end
    for i = 1, #memory do t.ok(memory2[i] == memory[i], ("the same memory from %#x on"):format((i - 1) << 20)) end
  end)
end

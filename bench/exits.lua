-- User-mode time per VM exit with Lua in the way, and without: vmlua bench/exits.lua [N]
-- Each row runs the same guest loop N times (out dx, al / in al, dx / mov) and divides the process's CPU time by N. The
-- kernel's share is the same in all rows; the bare floor is build-release/bench/bench-kvm-floor.
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local qom = require "vmlua.qom"

local N = math.tointeger(tonumber(arg and arg[1])) or 50000
local PORT, DONE, MMIO = 0x1e0, 0x1ee, 0xd0000000

qom.type {
  name = "bench-port", parent = "isa-device", doc = "A port and a register that count writes",
  state = { count = "uint64" },
  realize = function(dev)
    local handlers = {
      read = function(d) return d.count & 0xff end,
      write = function(d, _, _, value) d.count = d.count + value end,
    }
    dev:pio(PORT, 1, handlers)
    dev:mmio(MMIO, 0x1000, handlers)
  end,
}

-- mov edx, PORT; mov ecx, N; l: INSN; a32 loop l; mov edx, DONE; out dx, al; hlt
local function guest(insn)
  local mov_edx, mov_ecx, mov_edi = "\x66\xba", "\x66\xb9", "\x66\xbf"
  local body = insn .. "\x67\xe2" .. string.char(256 - (#insn + 3))
  return mov_edx .. ("<I4"):pack(PORT) .. mov_edi .. ("<I4"):pack(MMIO) .. mov_ecx .. ("<I4"):pack(N) .. body
    .. mov_edx .. ("<I4"):pack(DONE) .. "\xee\xf4"
end

local out, inp, store = "\xee", "\xec", "\x67\x88\x07" -- out dx, al; in al, dx; mov [edi], al

machine.define {
  name = "bench-exits", doc = "RAM and a CPU", ram = "1M", accel = "kvm",
  init = function(m) m.memory:add(0, m.ram) end,
}

local function run(insn, setup)
  local vm <close> = machine.new("bench-exits")
  setup(vm)
  vm.memory:write(0x7c00, guest(insn))
  local cpu = vm.cpus[1]
  cpu:set { cs = 0, ds = 0, rip = 0x7c00, rflags = 2 }
  cpu:set { ds = { base = 0, limit = 0xffffffff, g = true } }
  local done = vm:pio { port = DONE, write = true }
  local user0, sys0 = loop.cpu_time()
  local t0 = loop.now()
  assert(done:run_until { rt = 300 })
  local wall = loop.now() - t0
  local user1, sys1 = loop.cpu_time()
  return (user1 - user0) * 1e9 / N, (sys1 - sys0) * 1e9 / N, wall / N
end

local rows = {
  { "unassigned port", out, function() end },
  { "C device port (UART scratch register)", out, function(vm)
    vm:device("isa-serial", { iobase = PORT - 7, index = 3, id = "scratch" })
  end },
  { "filtered-out hook on that port", out, function(vm)
    vm:device("isa-serial", { iobase = PORT - 7, index = 3, id = "scratch" })
    vm:pio { port = PORT, value = 0x100 }:on(function() error "never" end)
  end },
  { "ring in C on that port", out, function(vm)
    vm:device("isa-serial", { iobase = PORT - 7, index = 3, id = "scratch" })
    vm:pio { port = PORT }:trace(64)
  end },
  { "Lua device port, write", out, function(vm) vm:device("bench-port", {}) end },
  { "Lua device port, read", inp, function(vm) vm:device("bench-port", {}) end },
  { "Lua device MMIO, write", store, function(vm) vm:device("bench-port", {}) end },
  { "hook in Lua: vm:pio{}:on, handled", out, function(vm)
    local n = 0
    vm:pio { port = PORT, write = true }:on(function(_, x) n = n + x.value; return true end)
  end },
}

print(("user-mode time per exit, %d exits a row"):format(N))
print(("%-40s %9s %9s %9s"):format("", "user ns", "kernel ns", "wall ns"))
for _, row in ipairs(rows) do
  print(("%-40s %9.0f %9.0f %9.0f"):format(row[1], run(row[2], row[3])))
end

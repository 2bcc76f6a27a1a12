-- The processor by programs that run on it, without firmware: tests/guests/sys. The same images give the same reports on Bochs.
local irqchip = require "vmlua.irqchip"
local machine = require "vmlua.machine"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local sys = here .. "/../guests/sys/"

local programs = {
  { "except", "MODE", { "REAL", "PROT16", "PROT32", "V86", "LONG", "COMPAT" }, "exceptions and their error codes" },
  { "gates", "MODE", { "PROT32", "LONG", "COMPAT" }, "gates, tasks and returns" },
  { "paging", "LEVELS", { "2", "3", "4" }, "the permission matrix of paging" },
  { "tlb", "MODE", { "PROT32", "LONG" }, "what has to forget a translation" },
  { "a20", "MODE", { "REAL", "PROT32", "LONG" }, "the A20 gate" },
  { "misc", "MODE", { "REAL", "PROT32", "LONG" }, "debug registers, changing code, interrupt windows, strings over faults, FPU state" },
}

local function assemble(t, name, define, value)
  local out = ("%s/%s-%s.bin"):format(t.tmpdir(), name, value)
  local r = t.vmlua { argv0 = "/usr/bin/nasm", "-f", "bin", "-I", sys, "-D" .. define .. "=" .. value, sys .. name .. ".asm", "-o", out }
  t.eq(r.status, 0, r.err)
  return out
end

local function kvm_with_hardware(t)
  if not t.accel("kvm").preferred then t.skip "KVM has no hardware under it here" end
end

-- The board: what sys.inc and the guests use, and the two parts of a PC that move the A20 gate.
local function board(image)
  local f = assert(io.open(image, "rb"))
  local bytes = f:read "a"
  f:close()
  return {
    ram = "8M",
    init = function(m)
      local rom = m:region { kind = "rom", name = "bios", size = #bytes, data = bytes }
      m.memory:add(0, m.ram)
      m.memory:add((4 << 30) - #bytes, rom, 1)
      m.memory:add((1 << 20) - #bytes, m:region { kind = "alias", name = "bios-low", of = rom, offset = 0, size = #bytes }, 1)
      irqchip.add(m)
      m:device("port92", {}):connect("a20", 0, m:a20 "port92")
      m:device("i8042", {}):connect("a20", 0, m:a20 "keyboard")
      m.data.debugcon = machine.chardev("ring", m, "debugcon")
      m:device("debugcon", { iobase = 0xe9, chardev = m.data.debugcon })
      m:device("isa-debug-exit", { iobase = 0xf4 })
    end,
  }
end

local function run(t, image, accel)
  local vm = t.machine(board(image), { accel = accel })
  vm:start()
  local status, reason = vm:wait { rt = 60 }
  local report = vm.data.debugcon:history()
  for line in report:gmatch "[^\n]*WANT[^\n]*" do t.log(line) end
  for line in report:gmatch "[^\n]*wrong [^\n]*" do
    if not line:find "wrong 0000" then t.log(line) end
  end
  t.log(reason)
  t.eq(status, "shutdown")
  t.match(report, "0000 failures\n$")
  t.eq(vm.exit_code, 0x21)
  return report
end

for _, p in ipairs(programs) do
  for _, value in ipairs(p[3]) do
    test(("%s, %s=%s"):format(p[4], p[2], value), function(t) run(t, assemble(t, p[1], p[2], value), "soft") end)
    test(("%s, %s=%s, on KVM"):format(p[4], p[2], value), function(t)
      kvm_with_hardware(t)
      run(t, assemble(t, p[1], p[2], value), "kvm")
    end)
  end
end

test("Bochs reports the same", { long = true, timeout = 600 }, function(t)
  if not io.open "/usr/bin/bochs-bin" then t.skip "package bochs is not installed" end
  for _, p in ipairs(programs) do
    for _, value in ipairs(p[3]) do
      local image = assemble(t, p[1], p[2], value)
      local ours = run(t, image, "soft")
      local r = t.vmlua { argv0 = "/bin/bash", sys .. "bochs.sh", image, t.tmpdir() }
      local theirs = r.out:gsub("^.-\n([^\n]*/%d: )", "%1"):gsub("  WANT[^\n]*", "")
      -- Bochs' own words are around the report; MSRs that it does not know read as 0, unless told otherwise.
      for line in ours:gmatch "[^\n]+" do
        if not theirs:find(line, 1, true) then t.fail("%s %s: Bochs does not say %q", p[1], value, line) end
      end
    end
  end
end)

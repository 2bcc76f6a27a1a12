-- System control port A on a machine that runs: bit 0 resets it.
local core = require "vmlua.core.machine"
local test = require "vmlua.test"

-- Counts its starts; writes 1 to the port at the first, ends with what it reads from it at the second.
local guest = "\x31\xc0\x8e\xd8" -- xor ax, ax; mov ds, ax
  .. "\xff\x06\x00\x05"           -- inc word [0x500]
  .. "\x83\x3e\x00\x05\x02"       -- cmp word [0x500], 2
  .. "\x74\x05"                   -- je second
  .. "\xb0\x01\xe6\x92\xf4"       -- mov al, 1; out 0x92, al; hlt
  .. "\xe4\x92\xe6\xf4\xf4"       -- second: in al, 0x92; out 0xf4, al; hlt

local board = {
  ram = "1M",
  init = function(m)
    m.memory:add(0, m.ram)
    m:device("port92", { id = "port92" })
    m:device("isa-debug-exit", {})
    m:place(0x7c00, guest)
    m:on_reset(function() m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 } end)
    m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
  end,
}

test("bit 0 of port 92 resets the machine, and reads 0 after that", function(t)
  local accel, why = core.select_accel { "auto" }
  if not accel then t.skip(why) end
  local vm = t.machine(board)
  vm:start()
  vm:wait()
  t.eq(vm.status, "shutdown")
  t.eq(vm.exit_code, 1) -- (0 << 1) | 1: what the port read after the reset
  t.eq(vm.memory:read_u16(0x500), 2)
end)

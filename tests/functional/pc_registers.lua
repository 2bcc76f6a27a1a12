--[[
Every device of the Standard PC through scripts: reset values, read-back, an interrupt where it has one, state in the middle of something,
a thousand random accesses, and all of it once more after a reset. A device type that is on the board and not here fails the first test.
]]
local qom = require "vmlua.qom"
local test = require "vmlua.test"

-- Answers version and ID register of the local APIC at 0x201000, and sleeps.
local CODE = "\xa1\x30\x00\xe0\xfe\xa3\x00\x10\x20\x00\xa1\x20\x00\xe0\xfe\xa3\x04\x10\x20\x00\xf4\xeb\xfd"

local function board(t, conf)
  local magic, flags, at = 0x1BADB002, 0x10000, 0x200000
  local settings = {
    accel = "soft", ram = "16M", serial = { "null", "null", "null", "null" }, parallel = { "null" }, smp = 2,
    kernel = t.file("kernel", string.pack("<I4I4I4I4I4I4I4I4", magic, flags, -(magic + flags) & 0xffffffff, at, at, 0, 0, at + 32) .. CODE),
    hda = { file = t.file("disk", ("\0"):rep(1 << 20)), format = "raw" },
    device = { { "pci-bridge", id = "bridge", addr = "6.0" }, { "isa-debug-exit", id = "exit", iobase = 0xf4 } },
  }
  for k, v in pairs(conf or {}) do settings[k] = v or nil end
  return t.machine("pc", settings)
end

-- Goes back to what is now, by way of a reset.
local function through_state(vm)
  local s <close> = vm:snapshot()
  vm:reset()
  vm:restore(s)
end

-- IDENTIFY of the drive at these ports: its first word, saved and restored behind it, and its last one.
local function identify(vm, base, drive, command)
  vm.io:write_u8(base + 6, drive)
  vm.io:write_u8(base + 7, command)
  local first = vm.io:read_u16(base)
  through_state(vm)
  for _ = 2, 255 do vm.io:read_u16(base) end
  return first, vm.io:read_u16(base)
end

local function smbus(vm, protocol, address, command, data)
  vm.io:write_u8(0x700, 0x1e)
  vm.io:write_u8(0x704, address)
  vm.io:write_u8(0x703, command)
  if data then vm.io:write_u8(0x705, data) end
  vm.io:write_u8(0x702, 0x40 | protocol << 2)
  return vm.io:read_u8(0x700)
end

-- By type: what is there to see (check), and what the random accesses go to: ports or addresses, { first, length } each.
local devices = {
  ["isa-pit"] = { ports = { { 0x40, 4 } }, check = function(t, vm)
    vm.io:write_u8(0x43, 0x34)
    t.eq(vm:gsi(0).level, 1)
    vm.io:write_u8(0x40, 0x34)
    through_state(vm) -- between the halves of the count
    vm.io:write_u8(0x40, 0x12)
    vm.io:write_u8(0x43, 0xe2)
    t.eq(vm.io:read_u8(0x40) & 0x3f, 0x34)
  end },
  ["isa-pic"] = { ports = { { 0x20, 2 }, { 0xa0, 2 }, { 0x4d0, 2 } }, check = function(t, vm)
    t.eq({ vm.io:read_u8(0x21), vm.io:read_u8(0x4d0) }, { 0, 0 })
    vm.io:write_u8(0x20, 0x11)
    vm.io:write_u8(0x21, 0x20)
    through_state(vm) -- in the middle of the initialization
    vm.io:write_u8(0x21, 4)
    vm.io:write_u8(0x21, 1)
    vm.io:write_u8(0x21, 0xb8)
    vm:gsi(5):raise()
    vm.io:write_u8(0x20, 0x0a)
    t.eq({ vm.io:read_u8(0x21), vm.io:read_u8(0x20) & 0x20 }, { 0xb8, 0x20 })
    vm:gsi(5):lower()
  end },
  ioapic = { memory = { { 0xfec00000, 0x20 } }, check = function(t, vm)
    vm.memory:write_u32(0xfec00000, 1)
    t.eq(vm.memory:read_u32(0xfec00010) & 0xff00ff, 0x170020)
    vm.memory:write_u32(0xfec00000, 0x18)
    t.eq(vm.memory:read_u32(0xfec00010), 0x10000)
    vm.memory:write_u32(0xfec00010, 0x1a951)
    through_state(vm)
    t.eq({ vm.memory:read_u32(0xfec00000), vm.memory:read_u32(0xfec00010) & ~0x5000 }, { 0x18, 0x1a951 & ~0x5000 })
  end },
  apic = { check = function(t, vm)
    vm.memory:write_u32(0x201004, 0xffffffff)
    vm:start()
    t.wait_for(function() return vm.memory:read_u32(0x201004) == 0 end)
    vm:pause()
    t.eq(vm.memory:read_u32(0x201000) & 0xff, 0x14)
    through_state(vm)
  end },
  mc146818rtc = { ports = { { 0x70, 4 } }, check = function(t, vm)
    vm.io:write_u8(0x70, 0x0b)
    t.eq(vm.io:read_u8(0x71) & 0x7e, 2)
    vm.io:write_u8(0x70, 0x50)
    vm.io:write_u8(0x71, 0xa5)
    through_state(vm) -- with a register selected
    t.eq(vm.io:read_u8(0x71), 0xa5)
  end },
  i8042 = { ports = { { 0x60, 1 }, { 0x64, 1 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x64) & 0x03, 0)
    vm.io:write_u8(0x64, 0x60)
    through_state(vm) -- between a command and its byte
    vm.io:write_u8(0x60, 0x45)
    vm.io:write_u8(0x64, 0x20)
    t.eq({ vm.io:read_u8(0x64) & 1, vm.io:read_u8(0x60) }, { 1, 0x45 })
    vm.io:write_u8(0x64, 0xd2)
    vm.io:write_u8(0x60, 0x77)
    t.eq(vm:gsi(1).level, 1)
    t.eq({ vm.io:read_u8(0x60), vm:gsi(1).level }, { 0x77, 0 })
  end },
  ["isa-dma"] = { ports = { { 0x00, 16 }, { 0x81, 15 }, { 0xc0, 32 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x0f) & 15, 15)
    vm.io:write_u8(0x0c, 0)
    vm.io:write_u8(0x02, 0x34)
    through_state(vm) -- between the halves of an address
    vm.io:write_u8(0x02, 0x12)
    vm.io:write_u8(0x0c, 0)
    t.eq(vm.io:read_u8(0x02) | vm.io:read_u8(0x02) << 8, 0x1234)
  end },
  ["isa-fdc"] = { ports = { { 0x3f0, 6 }, { 0x3f7, 1 } }, check = function(t, vm)
    vm.io:write_u8(0x3f2, 0x00)
    vm:start()
    vm.io:write_u8(0x3f2, 0x0c)
    t.wait_for(function() return vm:gsi(6).level == 1 end)
    vm:pause()
    for _ = 1, 4 do
      vm.io:write_u8(0x3f5, 8)
      vm.io:read_u8(0x3f5)
      vm.io:read_u8(0x3f5)
    end
    t.eq(vm.io:read_u8(0x3f4), 0x80)
    vm.io:write_u8(0x3f5, 0x10)
    through_state(vm) -- before a result is taken
    t.eq({ vm.io:read_u8(0x3f4) & 0xd0, vm.io:read_u8(0x3f5) }, { 0xd0, 0x90 })
  end },
  ["isa-pcspk"] = { ports = { { 0x61, 1 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x61) & 0x0f, 0)
    vm.io:write_u8(0x61, 0x03)
    through_state(vm)
    t.eq(vm.io:read_u8(0x61) & 0xcf, 3)
  end },
  hpet = { memory = { { 0xfed00000, 0x400 } }, check = function(t, vm)
    t.eq({ vm.memory:read_u32(0xfed00000), vm.memory:read_u32(0xfed00010) }, { 0x8086a201, 0 })
    vm.memory:write_u64(0xfed000f0, 0x123456789)
    vm.memory:write_u32(0xfed00108, 0xabc)
    through_state(vm)
    t.eq({ vm.memory:read_u64(0xfed000f0), vm.memory:read_u32(0xfed00108) }, { 0x123456789, 0xabc })
  end },
  ["isa-serial"] = { ports = { { 0x3f8, 8 }, { 0x2f8, 8 }, { 0x3e8, 8 }, { 0x2e8, 8 } }, check = function(t, vm)
    for _, base in ipairs { 0x3f8, 0x2f8, 0x3e8, 0x2e8 } do
      t.eq({ vm.io:read_u8(base + 1), vm.io:read_u8(base + 3), vm.io:read_u8(base + 5) }, { 0, 0, 0x60 })
      vm.io:write_u8(base + 3, 0x83)
      vm.io:write_u8(base, 0x21)
    end
    through_state(vm) -- with the divisor in sight
    t.eq({ vm.io:read_u8(0x3f8), vm.io:read_u8(0x2e8), vm.io:read_u8(0x3fb) }, { 0x21, 0x21, 0x83 })
    vm.io:write_u8(0x3fb, 3)
    vm.io:write_u8(0x3fc, 0x08)
    vm.io:write_u8(0x3f9, 0x02)
    t.eq({ vm:gsi(4).level, vm.io:read_u8(0x3fa), vm:gsi(4).level }, { 1, 0x02, 0 })
  end },
  ["isa-parallel"] = { ports = { { 0x378, 3 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x378), 0)
    vm.io:write_u8(0x378, 0x5a)
    vm.io:write_u8(0x37a, 0x1c)
    through_state(vm)
    t.eq({ vm.io:read_u8(0x378), vm.io:read_u8(0x37a) & 0x3f }, { 0x5a, 0x1c })
  end },
  ["isa-post"] = { ports = { { 0x80, 1 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x80), 0)
    vm.io:write_u8(0x80, 0xc7)
    through_state(vm)
    t.eq(vm.io:read_u8(0x80), 0xc7)
  end },
  pvpanic = { ports = { { 0x505, 1 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x505), 3)
    vm:start()
    vm.io:write_u8(0x505, 2) -- a crash kernel goes on
    t.eq(vm.status, "running")
    vm.io:write_u8(0x505, 1)
    t.wait_for(function() return vm.status == "paused" end)
    t.match(vm.reason, "panic")
    through_state(vm)
  end },
  debugcon = { ports = { { 0x402, 1 } }, check = function(t, vm)
    t.eq(vm.io:read_u8(0x402), 0xe9)
    vm.io:write_u8(0x402, 0x21)
    t.eq(vm.data.debugcon:history():sub(-1), "!")
    through_state(vm)
  end },
  fw_cfg = { ports = { { 0x510, 12 } }, check = function(t, vm)
    vm.io:write_u16(0x510, 0)
    t.eq({ vm.io:read_u8(0x511), vm.io:read_u8(0x511) }, { ("Q"):byte(), ("E"):byte() })
    through_state(vm) -- in the middle of an item
    t.eq({ vm.io:read_u8(0x511), vm.io:read_u8(0x511), vm.io:read_u8(0x511) }, { ("M"):byte(), ("U"):byte(), 0 })
  end },
  port92 = { check = function(t, vm) -- no random accesses: bit 0 resets
    t.eq(vm.io:read_u8(0x92), 0)
    vm.io:write_u8(0x92, 2)
    through_state(vm)
    t.eq(vm.io:read_u8(0x92), 2)
  end },
  ["i440fx-pcihost"] = { ports = { { 0xcf8, 1 }, { 0xcfc, 4 } }, check = function(t, vm)
    vm.io:write_u32(0xcf8, 0x80000800)
    through_state(vm) -- with an address that waits for its data
    t.eq({ vm.io:read_u32(0xcf8), vm.io:read_u32(0xcfc) }, { 0x80000800, 0x70008086 })
  end },
  i440fx = { config = true, check = function(t, vm, dev)
    t.eq({ dev:config_read(0), dev:config_read(0x72, 1) }, { 0x12378086, 2 })
    dev:config_write(0x5a, 0x33, 1) -- RAM at 0xc0000
    vm.memory:write_u32(0xc0000, 0x12345678)
    dev:config_write(0x5a, 0x11, 1) -- only to read
    vm.memory:write_u32(0xc0000, 0)
    through_state(vm)
    t.eq({ dev:config_read(0x5a, 1), vm.memory:read_u32(0xc0000) }, { 0x11, 0x12345678 })
  end },
  piix3 = { config = true, check = function(t, vm, dev)
    t.eq({ dev:config_read(0), dev:config_read(0x60) }, { 0x70008086, 0x80808080 })
    dev:config_write(0x60, 0x0b0a0b0a)
    through_state(vm)
    t.eq(dev:config_read(0x60), 0x0b0a0b0a)
  end },
  ["piix4-pm"] = { ports = { { 0x600, 4 }, { 0x608, 4 }, { 0x700, 9 }, { 0xafe0, 4 }, { 0xb2, 2 } }, check = function(t, vm, dev)
    t.eq({ dev:config_read(0), vm.io:read_u16(0x602) }, { 0x71138086, 0 })
    vm.io:write_u16(0x602, 0x100)
    vm.io:write_u8(0xb2, 0xf1) -- ACPI is on
    vm.pm:irq("power-button", 0):pulse()
    through_state(vm) -- with an event that interrupts
    t.eq({ vm.io:read_u16(0x600) & 0x100, vm:gsi(9).level }, { 0x100, 1 })
    vm.io:write_u16(0x600, 0x100)
    t.eq(vm:gsi(9).level, 0)
  end },
  ["smbus-eeprom"] = { check = function(t, vm)
    t.eq(smbus(vm, 2, 0xa2, 7, 0x5a) & 0x1e, 2) -- byte data 7 of the second
    t.eq(smbus(vm, 1, 0xa2, 7) & 0x1e, 2) -- byte: where the next read begins
    through_state(vm)
    t.eq({ smbus(vm, 1, 0xa3, 0) & 0x1e, vm.io:read_u8(0x705) }, { 2, 0x5a })
    t.eq(smbus(vm, 1, 0xb1, 0) & 0x1e, 4) -- nobody there
  end },
  ["piix3-ide"] = { config = true, check = function(t, vm, dev)
    t.eq(dev:config_read(0), 0x70108086)
    dev:config_write(0x20, 0xc000)
    dev:config_write(4, 5, 2)
    t.eq({ vm.io:read_u8(0xc000), vm.io:read_u8(0xc002) }, { 0, 0 })
    vm.io:write_u32(0xc00c, 0x12345678)
    through_state(vm)
    t.eq(vm.io:read_u32(0xc00c), 0x12345678)
  end },
  ["ide-hd"] = { ports = { { 0x1f0, 8 }, { 0x3f6, 1 } }, check = function(t, vm)
    vm.ide:config_write(4, 5, 2)
    t.eq({ vm.io:read_u8(0x1f7), vm.io:read_u8(0x1f4), vm.io:read_u8(0x1f5) }, { 0x50, 0, 0 })
    local first, last = identify(vm, 0x1f0, 0xa0, 0xec)
    t.eq({ first, last & 0xff, vm.io:read_u8(0x1f7) }, { 0x40, 0xa5, 0x50 })
    vm.io:write_u8(0x1f7, 0xec)
    t.eq({ vm:gsi(14).level, vm.io:read_u8(0x1f7), vm:gsi(14).level }, { 1, 0x58, 0 })
  end },
  ["ide-cd"] = { ports = { { 0x170, 8 }, { 0x376, 1 } }, check = function(t, vm)
    vm.ide:config_write(4, 5, 2)
    t.eq({ vm.io:read_u8(0x174), vm.io:read_u8(0x175) }, { 0x14, 0xeb })
    local first, last = identify(vm, 0x170, 0xa0, 0xa1)
    t.eq({ first & 0xff00, last & 0xff }, { 0x8500, 0xa5 })
  end },
  VGA = { ports = { { 0x3b0, 48 }, { 0x1ce, 3 } }, memory = { { 0xa0000, 0x20000 } }, check = function(t, vm, dev)
    t.eq(dev:config_read(0), 0x11111234)
    vm.io:write_u8(0x3c8, 17)
    vm.io:write_u8(0x3c9, 1)
    vm.io:read_u8(0x3da)
    vm.io:write_u8(0x3c0, 0x31)
    through_state(vm) -- in the middle of a colour, and of an attribute
    vm.io:write_u8(0x3c0, 0x2a)
    vm.io:write_u8(0x3c9, 2)
    vm.io:write_u8(0x3c9, 3)
    vm.io:write_u8(0x3c7, 17)
    t.eq({ vm.io:read_u8(0x3c9), vm.io:read_u8(0x3c9), vm.io:read_u8(0x3c9) }, { 1, 2, 3 })
    vm.io:write_u8(0x3c0, 0x31)
    t.eq(vm.io:read_u8(0x3c1), 0x2a)
  end },
  ["pci-bridge"] = { config = true, check = function(t, vm, dev)
    t.eq(dev:config_read(0x0e, 1) & 0x7f, 1)
    dev:config_write(0x18, 0x00040302)
    through_state(vm)
    t.eq(dev:config_read(0x18) & 0xffffff, 0x040302)
  end },
  ["isa-debug-exit"] = { check = function(t, vm) -- no random accesses: it ends the machine
    vm.io:write_u8(0xf4, 5)
    t.wait_for(function() return vm.status ~= "paused" end)
    t.eq({ vm.status, vm.exit_code }, { "shutdown", 11 })
  end },
  ["bios-rom"] = { firmware = true, memory = { { 0xfffc0000, 0x40000 } }, check = function(t, vm)
    t.eq(vm.memory:read_u8(0xfffffff0), 0xea)
    vm.memory:write_u32(0xfffffff0, 0)
    through_state(vm)
    t.eq({ vm.memory:read_u8(0xfffffff0), vm.memory:read_u8(0xffff0) }, { 0xea, 0xea })
  end },
  pflash = { flash = true, memory = { { 0xfffc0000, 0x40000 } }, check = function(t, vm)
    vm.memory:write_u8(0xfffc0010, 0xff) -- array
    vm.memory:write_u8(0xfffc0010, 0x20)
    vm.memory:write_u8(0xfffc0010, 0xd0) -- erase the block
    vm.memory:write_u8(0xfffc0010, 0x40)
    through_state(vm) -- before the byte comes
    vm.memory:write_u8(0xfffc0010, 0x5a)
    t.eq(vm.memory:read_u8(0xfffc0010) & 0x80, 0x80)
    vm.memory:write_u8(0xfffc0010, 0xff)
    t.eq({ vm.memory:read_u8(0xfffc0010), vm.memory:read_u8(0xfffc0011) }, { 0x5a, 0xff })
  end },
}

-- All devices below an object: the first of each type.
local function find(object, found)
  for _, child in ipairs(object:children()) do
    if child:is_a "device" then found[child.type] = found[child.type] or child end
    find(child, found)
  end
  return found
end

local function machine_of(t, spec)
  if spec.firmware and not require("vmlua.core.firmware").find "bios-256k.bin" then t.skip "package seabios is not installed" end
  if spec.flash then return board(t, { kernel = false, pflash = { t.file("flash", ("\xff"):rep(256 << 10)) } }) end
  return board(t, spec.firmware and { kernel = false } or nil)
end

test("every type of device of the board is looked at here", function(t)
  for name in pairs(find(board(t), {})) do t.ok(devices[name], "%s has no entry", name) end
  for name in pairs(devices) do t.ok(qom.class(name), "there is no type %s", name) end
end)

local function hammer(vm, dev, spec, seed)
  local function random(n)
    seed = seed * 6364136223846793005 + 1442695040888963407
    return (seed >> 33) % n
  end
  local reach = {}
  for _, range in ipairs(spec.ports or {}) do reach[#reach + 1] = { vm.io, range } end
  for _, range in ipairs(spec.memory or {}) do reach[#reach + 1] = { vm.memory, range } end
  local sizes = { "u8", "u16", "u32" }
  for _ = 1, #reach > 0 and 1000 or 0 do
    local space, range = table.unpack(reach[random(#reach) + 1])
    local size = random(3) + 1
    local at = range[1] + random(range[2]) & -(1 << size - 1)
    if random(2) == 0 then
      space["read_" .. sizes[size]](space, at)
    else
      space["write_" .. sizes[size]](space, at, seed >> 20 & (1 << (8 << size - 1)) - 1)
    end
  end
  for _ = 1, spec.config and 1000 or 0 do
    if random(2) == 0 then dev:config_read(random(64) * 4) else dev:config_write(random(64) * 4, seed >> 20 & 0xffffffff) end
  end
end

for name, spec in pairs(devices) do
  test(name .. " has its registers, keeps its state, and comes through random accesses", function(t)
    local vm = machine_of(t, spec)
    local dev = find(vm, {})[name]
    t.ok(dev, "the board has none")
    for round = 1, 2 do
      spec.check(t, vm, dev)
      if vm.status == "running" then vm:pause() end
      hammer(vm, dev, spec, round)
      t.ok(vm.status == "paused" or name == "isa-debug-exit", "the machine is %s: %s", vm.status, tostring(vm.reason))
      for _, kind in ipairs { "snapshot", "stream" } do
        local done, why = vm:_torture(kind)
        t.ok(done or name == "isa-debug-exit", "its state after random accesses: %s", tostring(why))
      end
      if round == 1 then vm:reset() end
    end
  end)
end

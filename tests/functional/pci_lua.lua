-- PCI devices in Lua: identity, BARs, interrupts, DMA, state; what is refused; the teaching device "edu" as a driver sees it.
local machine = require "vmlua.machine"
local qom = require "vmlua.qom"
local test = require "vmlua.test"

local MEM, IO = 0xe0000000, 0xc000

local count = 0
local function define(spec)
  count = count + 1
  spec.name = ("pci-test-%d"):format(count)
  spec.parent = spec.parent or "pci-device"
  spec.pci = spec.pci or (spec.parent == "pci-device" and { vendor = 0x1af4, device = 0x1234, class = 0xff0000, pin = "A" } or nil)
  qom.type(spec)
  return spec.name
end

-- A PC that sleeps (or runs `code`, flat 32-bit, at 0x200020), with the device in slot 5.
local function board(t, type, code)
  local magic, flags, at = 0x1BADB002, 0x10000, 0x200000
  local head = string.pack("<I4I4I4I4I4I4I4I4", magic, flags, -(magic + flags) & 0xffffffff, at, at, 0, 0, at + 32)
  local kernel = t.file("sleeper", head .. (code or "\xf4\xeb\xfd"))
  local vm = t.machine("pc", { accel = "soft", ram = "16M", kernel = kernel, device = { { type, id = "dut", addr = "5.0" } } })
  return vm, vm.dut
end

test("a PCI device in Lua is what its type says", function(t)
  local name = define {
    pci = { vendor = 0x1234, device = 0x5678, class = 0x020000, revision = 3, subsystem_vendor = 0xabcd, subsystem = 0xef01, pin = "B" },
  }
  local _, dev = board(t, name)
  t.eq({ dev:config_read(0), dev:config_read(8), dev:config_read(0x2c) }, { 0x56781234, 0x02000003, 0xef01abcd })
  t.eq(dev:config_read(0x3d, 1), 2)
  t.eq({ dev.slot, #dev:bars(), dev.msi_enabled, dev.msix_enabled }, { 5, 0, false, false })
end)

test("a derived type has its parent's identity but for what it changes", function(t)
  local name = define { pci = { vendor = 0x1234, device = 1, class = 0x020000, pin = "C" }, abstract = true }
  local child = define { parent = name, pci = { device = 2 } }
  local _, dev = board(t, child)
  t.eq({ dev:config_read(0), dev:config_read(8), dev:config_read(0x3d, 1) }, { 0x00021234, 0x02000000, 3 })
end)

test("BARs of ports and of memory are where the guest maps them", function(t)
  local log = {}
  local name = define {
    state = { value = "uint32" },
    realize = function(dev)
      dev:bar(0, "memory", 0x1000, { name = "regs",
        read = function(d, off, size) return d.value + off + size end,
        write = function(d, off, size, value) log[#log + 1] = { off, size, value } d.value = value & 0xffffffff end })
      dev:bar(1, "io", 16, { read = function(_, off) return off + 0x40 end })
      dev:bar(2, "prefetchable64", "1G", { read = function(_, off) return off >> 20 end })
    end,
  }
  local vm, dev = board(t, name)
  local bars = dev:bars()
  t.eq({ #bars, bars[1].size, bars[2].kind, bars[3].size }, { 3, 0x1000, "io", 1 << 30 })
  dev:config_write(0x10, 0xffffffff)
  dev:config_write(0x14, 0xffffffff)
  dev:config_write(0x18, 0xffffffff)
  t.eq({ dev:config_read(0x10), dev:config_read(0x14), dev:config_read(0x18) }, { 0xfffff000, 0xfffffff1, 0xc000000c })
  dev:config_write(0x10, MEM)
  dev:config_write(0x14, IO)
  dev:config_write(0x18, 0)
  dev:config_write(0x1c, 0x10)
  t.eq(vm.memory:read_u32(MEM), 0xffffffff)
  dev:config_write(4, 3, 2)
  vm.memory:write_u32(MEM + 8, 100)
  t.eq({ vm.memory:read_u8(MEM + 3), vm.memory:read_u64(MEM) }, { 104, 108 })
  t.eq(log, { { 8, 4, 100 } })
  t.eq({ vm.io:read_u8(IO + 5), vm.io:read_u8(IO + 16) }, { 0x45, 0xff })
  t.eq(vm.memory:read_u32(0x1000000000 + (7 << 20)), 7)
  dev:config_write(4, 0, 2)
  t.eq({ vm.memory:read_u32(MEM), vm.io:read_u8(IO) }, { 0xffffffff, 0xff })
end)

test("a BAR may be RAM, which is saved with the machine", function(t)
  local name = define {
    realize = function(dev) dev:bar(0, "prefetchable", dev.machine:region { kind = "ram", name = "vram", size = "1M" }) end,
  }
  local vm, dev = board(t, name)
  dev:config_write(0x10, MEM)
  dev:config_write(4, 2, 2)
  vm.memory:write(MEM + 0xffffc, "last")
  local s = vm:snapshot()
  vm.memory:write(MEM + 0xffffc, "lost")
  dev:config_write(4, 0, 2)
  vm:restore(s)
  t.eq(vm.memory:read(MEM + 0xffffc, 4), "last")
end)

test("what is wrong with a BAR is an error that refuses the device and says so", function(t)
  local function refused(pattern, fn)
    local name = define { realize = fn }
    t.match(t.raises(pattern, board, t, name), "^.*" .. pattern)
  end
  local h = { read = function() return 0 end }
  refused("a power of two from 16", function(dev) dev:bar(0, "memory", 24, h) end)
  refused("a power of two from 16", function(dev) dev:bar(0, "memory", 8, h) end)
  refused("at most 2147483648", function(dev) dev:bar(0, "memory", "4G", h) end)
  refused("at most 256", function(dev) dev:bar(0, "io", 512, h) end)
  refused("taken already", function(dev) dev:bar(0, "io", 16, h) dev:bar(0, "io", 16, h) end)
  refused("not both free", function(dev) dev:bar(5, "memory64", 16, h) end)
  refused("not both free", function(dev) dev:bar(1, "io", 16, h) dev:bar(0, "memory64", 16, h) end)
  refused("taken already", function(dev) dev:bar(0, "memory64", 16, h) dev:bar(1, "io", 16, h) end)
  refused("BAR", function(dev) dev:bar(6, "io", 16, h) end)
  refused("memory64", function(dev) dev:bar(0, "ports", 16, h) end)
  refused("neither a read nor a write", function(dev) dev:bar(0, "io", 16, {}) end)
  refused("unknown key 'priority'", function(dev) dev:bar(0, "memory", 16, { priority = 1, read = h.read }) end)
  refused("bar of its own", function(dev) dev:bar(1, "io", 16, h) dev:use_msix { bar = 1 } end)
  refused("1 to 2048 vectors", function(dev) dev:use_msix { bar = 1, vectors = 5000 } end)
  refused("8, 16 or 32 vectors", function(dev) dev:use_msi { vectors = 3 } end)
  refused("has MSI already", function(dev) dev:use_msi() dev:use_msi() end)
  refused("use_msi and use_msix make theirs", function(dev) dev:capability(5, "") end)
  refused("no room for capability", function(dev) for _ = 1, 5 do dev:capability(9, ("x"):rep(60)) end end)
  refused("no such luck", function(dev)
    dev:bar(0, "memory64", 16, h)
    dev:use_msix { bar = 2 }
    return nil, "no such luck"
  end)
end)

test("what is wrong with a type is an error that names it", function(t)
  local function bad(pattern, spec)
    spec.name, spec.parent = "pci-test-bad", spec.parent or "pci-device"
    t.raises(pattern, qom.type, spec)
  end
  bad("type 'pci%-test%-bad': pci: a PCI device needs one", {})
  bad("a table expected", { pci = 1 })
  bad("no vendor", { pci = { device = 1 } })
  bad("'device' must be a whole number from 0 to 0xffff", { pci = { vendor = 1, device = 0x10000 } })
  bad("'pin' must be", { pci = { vendor = 1, pin = "E" } })
  bad("unknown key 'vendro'; the nearest is 'vendor'", { pci = { vendro = 1 } })
  bad("for types below 'pci%-device'", { parent = "isa-device", pci = { vendor = 1 } })
  bad("below 'pci%-device'", { parent = "device", config_write = function() end })
end)

test("a device's functions are for its realize, and for devices in Lua", function(t)
  local name = define { pci = { vendor = 1, device = 1 } }
  local vm, dev = board(t, name)
  t.raises("for the device's realize function", dev.bar, dev, 0, "io", 16, {})
  t.raises("no interrupt pin: say pci", dev.set_irq, dev, true)
  t.eq(dev:notify(), false)
  t.raises("is for devices in Lua", vm.pm.bar, vm.pm, 0, "io", 16, {})
  t.raises("only a device in Lua", vm.pm.set_irq, vm.pm, true)
  local loose = qom.new(name)
  t.raises("not realized", loose.set_irq, loose, true)
end)

test("an interrupt pin reaches the line that the router says, and is off by the command register", function(t)
  local vm, dev = board(t, define {})
  vm.piix3:config_write(0x60, 0x0b0b0a0a)
  vm:start()
  dev:set_irq(true)
  t.eq({ vm:gsi(10).level, vm:gsi(11).level, dev:config_read(6, 2) & 8 }, { 1, 0, 8 }) -- slot 5, pin A: PIRQA
  dev:config_write(4, 0x400, 2)
  t.eq(vm:gsi(10).level, 0)
  dev:config_write(4, 0, 2)
  t.eq(vm:gsi(10).level, 1)
  dev:set_irq(false)
  t.eq(vm:gsi(10).level, 0)
end)

-- Switches the local APIC on and copies its requests for vectors 0x40 to 0x5f to 0x201000, for ever.
local WATCH_APIC = "\xc7\x05\xf0\x00\xe0\xfe\xff\x01\x00\x00\xa1\x20\x02\xe0\xfe\xa3\x00\x10\x20\x00\xeb\xf4"

test("MSI and MSI-X vectors are sent when the guest has switched them on", function(t)
  local vm, dev = board(t, define { realize = function(d)
    d:use_msi { vectors = 4, maskable = true }
    d:use_msix { vectors = 3, bar = 4 }
  end }, WATCH_APIC)
  local reached = 0
  vm.memory:write_u32(0x201000, 0xffffffff)
  vm:start()
  t.wait_for(function() return vm.memory:read_u32(0x201000) == 0 end)
  local function arrives(vector)
    reached = reached | 1 << (vector & 31)
    t.wait_for(function() return vm.memory:read_u32(0x201000) == reached end, 10, ("vector %#x did not arrive"):format(vector))
  end
  t.eq(dev:notify(1), false)
  dev:config_write(4, 4, 2) -- a message is a write by the device
  local cap = dev:config_read(0x34, 1)
  while dev:config_read(cap, 1) ~= 5 do cap = dev:config_read(cap + 1, 1) end
  dev:config_write(cap + 4, 0xfee00000)
  dev:config_write(cap + 12, 0x40, 2)
  dev:config_write(cap + 2, 0x21, 2) -- 4 vectors
  t.eq({ dev.msi_enabled, dev:notify(1) }, { true, true })
  arrives(0x41)
  dev:config_write(cap + 16, 4) -- vector 2 is masked: it stays pending
  dev:notify(2)
  t.eq(dev:config_read(cap + 20), 4)
  dev:config_write(cap + 16, 0)
  t.eq(dev:config_read(cap + 20), 0)
  arrives(0x42)
  -- MSI-X, all vectors masked at first.
  cap = dev:config_read(0x34, 1)
  while dev:config_read(cap, 1) ~= 0x11 do cap = dev:config_read(cap + 1, 1) end
  dev:config_write(0x20, MEM)
  dev:config_write(4, 6, 2)
  dev:config_write(cap + 2, 0x8000, 2)
  t.eq({ dev.msix_enabled, dev:notify(2) }, { true, true })
  local pba = MEM + (dev:config_read(cap + 8) & ~7)
  t.eq(vm.memory:read_u32(pba), 4)
  vm.memory:write_u32(MEM + 32, 0xfee00000)
  vm.memory:write_u32(MEM + 40, 0x52)
  vm.memory:write_u32(MEM + 44, 0)
  t.eq(vm.memory:read_u32(pba), 0)
  arrives(0x52)
  t.raises("vector 3: it has 3", dev.notify, dev, 3)
end)

test("DMA needs the bus master bit, and reaches nothing where nothing is", function(t)
  local vm, dev = board(t, define {})
  vm.memory:write(0x100000, "guest")
  t.refuses("nothing answers there", function() return dev.dma:read(0x100000, 5) end)
  t.refuses("nothing answers there", function() return dev.dma:write_u32(0x100000, 1) end)
  dev:config_write(4, 4, 2)
  t.eq(dev.dma:read(0x100000, 5), "guest")
  t.ok(dev.dma:write(0x100000, "GUEST"))
  t.eq({ vm.memory:read(0x100000, 5), dev.dma:read_u8(0x100001) }, { "GUEST", 0x55 })
  t.refuses("nothing answers", function() return dev.dma:read(0xd0000000, 4) end)
end)

test("configuration space has hooks, and a capability of the device's own", function(t)
  local writes = {}
  local at
  local vm, dev = board(t, define {
    state = { secret = "uint8" },
    realize = function(d) at = d:capability(9, "\4ab\0", "\0\0\0\xff") end,
    config_read = function(d, addr, len, value) if addr == 0x40 and len == 1 then return d.secret end return value end,
    config_write = function(d, addr, len, value)
      writes[#writes + 1] = { addr, len, value }
      if addr == 0x40 then d.secret = value & 0xff end
    end,
  })
  t.eq({ dev:config_read(0x34, 1), dev:config_read(at) & 0xffff00ff }, { at, 0x61040009 })
  dev:config_write(at + 4, 0x5a00, 2)
  t.eq(dev:config_read(at + 4, 2), 0x5a62)
  writes = {}
  dev:config_write(0x40, 0x77, 1)
  t.eq({ writes, dev:config_read(0x40, 1) }, { { { 0x40, 1, 0x77 } }, 0x77 })
  vm:snapshot()
end)

test("a hook of configuration space that fails pauses the machine with its name", function(t)
  local vm, dev = board(t, define { config_write = function(_, addr) if addr == 0x40 then error "oops" end end })
  t.may_fail(vm)
  vm:start()
  dev:config_write(0x40, 1, 1)
  t.eq({ vm:wait { rt = 10 } }, { "error", vm.reason })
  t.match(vm.reason, "oops")
end)

test("a device goes, with its BARs, while the guest has them mapped", function(t)
  local vm, dev = board(t, define { realize = function(d)
    d:bar(0, "memory", 0x1000, { read = function() return 1 end })
    d:bar(1, "prefetchable", d.machine:region { kind = "ram", name = "vram", size = "64K" })
    d:use_msix { vectors = 2, bar = 3 }
  end })
  dev:config_write(0x10, MEM)
  dev:config_write(0x14, MEM + 0x10000)
  dev:config_write(0x1c, MEM + 0x20000)
  dev:config_write(4, 2, 2)
  t.eq(vm.memory:read_u32(MEM), 1)
  vm:start()
  dev:unrealize()
  for n = 0, 2 do t.eq(vm.memory:read_u32(MEM + n * 0x10000), 0xffffffff) end
  vm:pause()
  vm:reset()
end)

test("a saved state of another device is refused, and one of the same is taken back with its BARs", function(t)
  local name = define { state = { a = "uint32" }, realize = function(d)
    d:bar(0, "memory", 0x1000, { read = function(x) return x.a end, write = function(x, _, _, v) x.a = v end })
  end }
  local vm, dev = board(t, name)
  dev:config_write(0x10, MEM)
  dev:config_write(4, 2, 2)
  vm.memory:write_u32(MEM, 77)
  local state = vm:save_devices()
  vm:reset()
  t.eq(vm.memory:read_u32(MEM), 0xffffffff)
  t.ok(vm:load_devices(state))
  t.eq(vm.memory:read_u32(MEM), 77)
  local other = board(t, define { state = { b = "uint32" } })
  t.may_fail(other)
  t.ok(not other:load_devices(state))
end)

-- ---- the teaching device --------------------------------------------------------------------------

local function edu(t)
  machine.find "lua-edu"
  local vm, dev = board(t, "edu")
  dev:config_write(0x10, MEM)
  dev:config_write(4, 6, 2)
  return vm, dev, {
    get = function(reg) return vm.memory:read_u32(MEM + reg) end,
    put = function(reg, value) vm.memory:write_u32(MEM + reg, value) end,
    put64 = function(reg, value) vm.memory:write_u64(MEM + reg, value) end,
  }
end

test("edu answers, inverts and works out factorials in time", function(t)
  local vm, _, r = edu(t)
  t.eq(r.get(0), 0x010000ed)
  r.put(4, 0x12345678)
  t.eq(r.get(4), 0xedcba987)
  vm:start()
  r.put(8, 10)
  t.wait_for(function() return r.get(0x20) & 1 == 0 end)
  t.eq(r.get(8), 3628800)
  r.put(8, 0xffffffff)
  t.wait_for(function() return r.get(0x20) & 1 == 0 end)
  t.eq(r.get(8), 0)
  t.eq(vm.memory:read_u8(MEM), 0xff)
end)

test("edu interrupts by its pin, and by a message when that is on", function(t)
  local vm, dev, r = edu(t)
  vm.piix3:config_write(0x60, 0x0b0b0a0a)
  vm:start()
  r.put(0x20, 0x80)
  r.put(8, 5)
  t.wait_for(function() return vm:gsi(10).level == 1 end)
  t.eq({ r.get(8), r.get(0x24) }, { 120, 1 })
  r.put(0x60, 0x20000)
  r.put(0x64, 1)
  t.eq({ vm:gsi(10).level, r.get(0x24) }, { 1, 0x20000 })
  r.put(0x64, 0xffffffff)
  t.eq(vm:gsi(10).level, 0)
  local cap = dev:config_read(0x34, 1)
  dev:config_write(cap + 4, 0xfee00000)
  dev:config_write(cap + 12, 0x40, 2)
  dev:config_write(cap + 2, 1, 2)
  r.put(0x60, 4)
  t.eq({ vm:gsi(10).level, r.get(0x24) }, { 0, 4 })
end)

test("edu moves memory to its buffer and back, and nothing beyond it", function(t)
  local vm, _, r = edu(t)
  vm:start()
  local function run(source, target, n, command)
    r.put64(0x80, source)
    r.put64(0x88, target)
    r.put64(0x90, n)
    r.put64(0x98, command | 1)
    t.wait_for(function() return r.get(0x98) & 1 == 0 end)
  end
  vm.memory:write(0x300000, "some bytes to move")
  run(0x300000, 0x40000 + 100, 18, 0)
  t.eq(vm.memory:read(MEM + 0x40000 + 100, 4), "some")
  run(0x40000 + 105, 0x310000, 5, 2)
  t.eq(vm.memory:read(0x310000, 5), "bytes")
  -- Hostile lengths and places.
  run(0x300000, 0x40000 + 4090, 7, 0)
  run(0x300000, 0x3ffff, 2, 0)
  run(0x300000, 0x40000, -1, 0)
  run(0x40000, 0x310000, 4097, 2)
  run(0x40000 + 4096, 0x310000, 1, 2)
  run(-1, 0x40000, 1, 0)
  t.eq({ vm.memory:read(0x310000, 5), vm.status }, { "bytes", "running" })
end)

test("edu's state is saved in the middle of a transfer", function(t)
  local vm, _, r = edu(t)
  vm.memory:write(0x300000, "abcdefgh")
  r.put64(0x80, 0x300000)
  r.put64(0x88, 0x40000)
  r.put64(0x90, 8)
  r.put64(0x98, 1)
  r.put(8, 6)
  local s = vm:snapshot()
  vm:reset()
  vm:restore(s)
  vm:start()
  t.wait_for(function() return r.get(0x98) & 1 == 0 and r.get(0x20) & 1 == 0 end)
  t.eq({ vm.memory:read(MEM + 0x40000, 8), r.get(8) }, { "abcdefgh", 720 })
end)

test("random accesses of a guest do edu no harm", function(t)
  local vm, _, r = edu(t)
  vm:start()
  local seed = 1
  local function random(n)
    seed = seed * 6364136223846793005 + 1442695040888963407
    return (seed >> 33) % n
  end
  for _ = 1, 20000 do
    local at = random(4) == 0 and random(0x100000) or random(8) * 0x20 + random(8) * 4
    if random(2) == 0 then r.get(at & ~3) else r.put(at & ~3, seed >> 13 & 0xffffffff) end
    if random(8) == 0 then vm.memory:write_u64(MEM + (at & ~7), seed) vm.memory:read_u64(MEM + (at & ~7)) end
  end
  t.eq(vm.status, "running")
end)

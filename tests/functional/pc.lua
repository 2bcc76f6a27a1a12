-- The Standard PC: SeaBIOS on it, its options, what it hands to firmware, its power button, its saved state.
local core = require "vmlua.core.machine"
local firmware = require "vmlua.core.firmware"
local test = require "vmlua.test"

local NOTHING_TO_BOOT = "No bootable device"

local function pc(t, conf)
  local accel, why = core.select_accel { os.getenv "VMLUA_ACCEL" or "soft" }
  if not accel then t.skip(why) end
  if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
  conf = conf or {}
  conf.accel = conf.accel or accel
  return t.machine("pc", conf)
end

local function log_of(vm) return vm.data.debugcon end

local function boot(t, conf)
  local vm = pc(t, conf)
  vm:start()
  t.ok(log_of(vm):text(NOTHING_TO_BOOT):wait { rt = 100 })
  return vm
end

test("SeaBIOS runs until it looks for something to boot", { timeout = 120 }, function(t)
  local vm = pc(t)
  local log = log_of(vm)
  vm:start()
  for _, line in ipairs { "SeaBIOS (version", "Found QEMU fw_cfg", "QEMU fw_cfg DMA interface supported", "Moving pm_base to 0x600",
    "init bdf=00:00.0 id=8086:1237", "init bdf=00:01.3 id=8086:7113", "ACPI: parse DSDT", NOTHING_TO_BOOT } do
    t.ok(log:text(line):wait { rt = 100 }, line)
  end
  t.eq(vm.status, "running")
end)

test("firmware set up the chip set as it does on any board of this kind", { timeout = 120 }, function(t)
  local vm = boot(t)
  local pm = vm.pm
  t.eq(pm:config_read(0x40), 0x601)
  t.eq(pm:config_read(0x80, 1) & 1, 1)
  t.eq(vm.piix3:config_read(0x60), 0x0b0b0a0a)
  t.eq(vm.pci:devices()[1]:config_read(0), 0x12378086)
  -- The BIOS is in shadow RAM, write-protected.
  local host = vm.pci:devices()[1]
  t.eq(host:config_read(0x59, 1) & 0x30, 0x10)
end)

test("RAM is split around the hole below 4 GiB", function(t)
  local vm = pc(t, { ram = "5G" })
  vm.memory:write_u32(0xbffffffc, 0x11223344)
  t.eq(vm.memory:read_u32(0xbffffffc), 0x11223344)
  t.eq(vm.memory:read_u32(0xc0000000), 0xffffffff)
  vm.memory:write_u32(0x17ffffffc, 0x55667788)
  t.eq(vm.memory:read_u32(0x17ffffffc), 0x55667788)
  t.eq(vm.memory:read_u32(0x180000000), 0xffffffff)
  local e820 = vm.fw_cfg:read "etc/e820"
  t.eq({ string.unpack("<i8i8I4i8i8I4", e820) }, { 0, 0xc0000000, 1, 1 << 32, 2 << 30, 1, 41 })
end)

test("max-ram-below-4g moves the split, and nonsense is refused", function(t)
  local vm = pc(t, { ram = "2G", max_ram_below_4g = "1G" })
  t.eq(vm.memory:read_u32(1 << 30), 0xffffffff)
  t.ok(vm.memory:write_u32((4 << 30) + (1 << 30) - 4, 1))
  t.raises("max%-ram%-below%-4g", function() pc(t, { max_ram_below_4g = "5G" }) end)
  t.raises("at least 1 MiB", function() pc(t, { ram = "512K" }) end)
end)

test("-fw_cfg gives firmware files, and says which of them cannot be read", function(t)
  local dir = t.tmpdir()
  local f = assert(io.open(dir .. "/item", "wb"))
  f:write "from a file\0"
  f:close()
  local vm = pc(t, { fw_cfg = { { name = "opt/a", string = "text" }, { name = "opt/b", file = dir .. "/item" } } })
  t.eq(vm.fw_cfg:read "opt/a", "text")
  t.eq(vm.fw_cfg:read "opt/b", "from a file\0")
  t.raises("none", function() pc(t, { fw_cfg = { { name = "opt/c", file = dir .. "/none" } } }) end)
end)

test("a file of fw_cfg may be a function, whose failure pauses the machine with its message", function(t)
  local vm = pc(t)
  local calls = 0
  vm.fw_cfg:add("opt/made", function()
    calls = calls + 1
    return "made " .. calls
  end)
  t.eq(vm.fw_cfg:read "opt/made", "made 1")
  t.eq(vm.fw_cfg:read "opt/made", "made 2")
  vm.fw_cfg:add("opt/bad", function() error "no such luck" end)
  t.raises("no such luck", function() vm.fw_cfg:read "opt/bad" end)
end)

test("the CPU count and the UUID reach firmware", function(t)
  local vm = pc(t, { smp = 3, uuid = "00112233-4455-6677-8899-aabbccddeeff" })
  t.eq(string.unpack("<I2", vm.fw_cfg:read(5)), 3)
  t.eq(vm.fw_cfg:read(2), "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
end)

test("firmware is told to wait where nothing starts, and which sleep states there are", function(t)
  t.eq(string.unpack("<i4", pc(t).fw_cfg:read "etc/boot-fail-wait"), -1)
  t.eq(string.unpack("<i4", pc(t, { boot = { reboot_timeout = 500 } }).fw_cfg:read "etc/boot-fail-wait"), 500)
  t.eq(pc(t).fw_cfg:read "etc/system-states", "\x80\0\0\x81\x82\x80")
end)

test("the power management function knows which ports of old there are", function(t)
  local one = pc(t, { serial = "null", parallel = "none" })
  local two = pc(t, { serial = { "null", "null" } })
  t.eq({ one.pm:config_read(0x5f, 1), one.pm:config_read(0x67, 1) }, { 0x10, 0x08 })
  t.eq({ two.pm:config_read(0x5f, 1), two.pm:config_read(0x67, 1) }, { 0x90, 0x98 })
end)

test("pc is an alias of its newest version", function(t)
  local vm = pc(t)
  t.eq(vm.class.name, "pc-1.0")
end)

test("devices on the PCI bus are found by name, and take bus and addr", function(t)
  local vm = pc(t, { device = { { "pci-bridge", id = "br", addr = "5" }, { "pci-bridge", id = "far", bus = "br", addr = "3.0" } } })
  t.eq(vm.br.slot, 5)
  t.eq(vm.far.pci_bus, vm.br:child "br")
  t.raises("taken by piix3", function() pc(t, { device = { { "pci-bridge", addr = "1" } } }) end)
  t.raises("no bus 'nowhere'", function() pc(t, { device = { { "pci-bridge", bus = "nowhere" } } }) end)
end)

test("the power button sets its event", { timeout = 120 }, function(t)
  local vm = boot(t)
  vm:powerdown()
  t.eq(vm.io:read_u16(0x600) & 0x100, 0x100)
end)

test("writing SLP_EN powers the machine off with status 0", function(t)
  local vm = pc(t)
  vm.pm:config_write(0x40, 0x601)
  vm.pm:config_write(0x80, 1, 1)
  vm:start()
  vm.io:write_u16(0x604, 0x2000)
  t.eq(vm:wait { rt = 20 }, "shutdown")
  t.eq(vm.exit_code, 0)
end)

test("SeaBIOS starts again after a reset by port CF9h", { timeout = 120 }, function(t)
  local vm = boot(t)
  local again = log_of(vm):text("SeaBIOS (version")
  vm:pause()
  vm.io:write_u8(0xcf9, 6)
  vm:resume()
  t.ok(again:wait { rt = 100 })
  t.ok(log_of(vm):text(NOTHING_TO_BOOT):wait { rt = 100 })
end)

test("a snapshot taken in the middle of SeaBIOS goes on where it was", { timeout = 120 }, function(t)
  local vm = pc(t)
  vm:start()
  t.ok(log_of(vm):text("PCI: 32:"):wait { rt = 100 })
  vm:pause()
  local s = vm:snapshot()
  vm:resume()
  t.ok(log_of(vm):text(NOTHING_TO_BOOT):wait { rt = 100 })
  vm:restore(s)
  vm:resume()
  t.ok(log_of(vm):text(NOTHING_TO_BOOT):wait { rt = 100 })
end)

test("random accesses to all ports and to what the PCI bus has leave a board that still boots", { timeout = 240 }, function(t)
  local vm = boot(t, { device = { { "pci-bridge" } } })
  vm:pause()
  local state = 12345
  local function random(n)
    state = (state * 6364136223846793005 + 1442695040888963407)
    return (state >> 33) % n
  end
  for _ = 1, 100000 do
    local port, size, value = random(0x10000), 1 << random(3), random(1 << 31)
    if size == 1 then vm.io:write_u8(port, value & 0xff)
    elseif size == 2 then vm.io:write_u16(port & 0xfffe, value & 0xffff)
    else vm.io:write_u32(port & 0xfffc, value) end
    vm.io:read_u8(port)
  end
  for _ = 1, 50000 do
    local addr = 0x80000000 + random(0x7f000000)
    vm.memory:write_u32(addr & ~3, random(1 << 31))
    vm.memory:read_u8(addr)
  end
  for _, dev in ipairs(vm.pci:devices()) do
    for _, bar in ipairs(dev:bars()) do
      for _ = 1, bar.addr and 20000 or 0 do
        local space, at = bar.kind == "io" and vm.io or vm.memory, bar.addr + (random(math.min(bar.size, 1 << 20)) & ~3)
        space:write_u32(at, random(1 << 31))
        space:read_u32(at)
      end
    end
  end
  local seen = log_of(vm):text(NOTHING_TO_BOOT)
  vm:reset()
  vm:resume()
  t.ok(seen:wait { rt = 100 })
end)

test("bootindex makes the boot order that firmware is given", function(t)
  local vm = pc(t, {
    device = {
      { "pci-bridge", id = "br", addr = "7", bootindex = 2 },
      { "pci-bridge", id = "far", bus = "br", addr = "3.1", bootindex = 1 },
    },
    boot = { strict = true },
  })
  t.eq(vm.fw_cfg:read "bootorder", "/pci@i0cf8/pci-bridge@7/pci-bridge@3,1\n/pci@i0cf8/pci-bridge@7\nHALT\0")
  local disk = pc(t, {
    drive = { { file = t.file("disk", ("\0"):rep(1 << 20)), format = "raw", ["if"] = "none", id = "b" } },
    device = { { "ide-hd", drive = "b", bootindex = 1 } },
  })
  t.eq(disk.fw_cfg:read "bootorder", "/pci@i0cf8/ide@1,1/drive@0/disk@0\0") -- the first free place
  local twice = pc(t, { device = { { "pci-bridge", bootindex = 1 }, { "pci-bridge", bootindex = 1 } } })
  t.raises("bootindex 1", function() twice.fw_cfg:read "bootorder" end)
end)

test("suspended to RAM, no CPU runs until the power button wakes the machine, and firmware knows", { timeout = 120 }, function(t)
  local vm = boot(t)
  vm.io:write_u16(0x604, 0x2400)
  t.ok(vm.suspended)
  t.eq(vm.status, "running")
  local resumed = log_of(vm):text "In resume (status=254)"
  vm:powerdown()
  t.ok(resumed:wait { rt = 100 })
  t.ok(not vm.suspended)
end)

-- The system that firmware goes on with when it is woken: code at 0x9000, by the table that says where.
local function set_waking(vm, code)
  local top = vm.ram_size - 0x10000
  local facs = assert(vm.memory:read(top, 0x10000):find("FACS", 1, true))
  vm.memory:write_u32(top + facs - 1 + 12, 0x9000)
  vm.memory:write(0x9000, code)
end

test("the clock's alarm and a key end suspension to RAM, each as what it is", { timeout = 200 }, function(t)
  local RTC_STS, WAK_STS = 1 << 10, 1 << 15
  for _, way in ipairs { "alarm", "key" } do
    local vm = boot(t, { rtc = { base = "2024-02-29T12:00:00", clock = "vm" } })
    local function cmos(index, value)
      vm.io:write_u8(0x70, index)
      vm.io:write_u8(0x71, value)
    end
    vm:pause()
    for index = 1, 5, 2 do cmos(index, 0xff) end -- whenever the seconds are what they are told to be
    -- The system that firmware goes on with: it writes to port 0x80 and halts.
    set_waking(vm, "\xb0\x55\xe6\x80\xfa\xf4")
    local status
    vm:pio { port = 0x80, write = true, value = 0x55 }:on(function() status = vm.io:read_u16(0x600) end)
    if way == "alarm" then
      vm.io:write_u16(0x602, RTC_STS)
      cmos(11, 0x22)
    end
    vm:resume()
    vm.io:write_u16(0x604, 0x2400)
    if way == "key" then
      t.ok(vm.suspended)
      vm:input():key("a", true)
    end
    t.wait_for(function() return status end, 100, "firmware to go on with the system")
    t.ok(not vm.suspended)
    t.eq(status & (RTC_STS | WAK_STS), way == "alarm" and RTC_STS | WAK_STS or WAK_STS)
    vm:close()
  end
end)

-- SeaBIOS computes what of its shadow RAM it protects when it is woken out of memory that it has given to the system: in the end it
-- protected its own stack, on which it begins when it is woken the next time.
test("firmware wakes a system that uses all the memory it was given, again and again", { timeout = 120 }, function(t)
  local vm = boot(t, { ram = "16M" })
  local host = vm.pci:devices()[1]
  local before = host:config_read(0x5c, 4)
  t.eq(before >> 24, 0x33) -- firmware's stack and variables, from 0xe8000 on
  vm:pause()
  local last = tonumber(t.match(log_of(vm):history(), ": 0000000000100000 %- (%x+) = 1 RAM"), 16)
  t.ok(last > 0xf00000 and last < vm.ram_size)
  vm.memory:write(0x100000, ("\xff"):rep(last - 0x100000))
  set_waking(vm, "\xb0\x55\xe6\x80\xfa\xf4")
  vm:resume()
  for _ = 1, 3 do
    local awake = vm:pio { port = 0x80, write = true, value = 0x55 }
    vm.io:write_u16(0x604, 0x2400)
    vm:powerdown()
    t.ok(awake:wait { rt = 30 }, "it is not woken; firmware said:\n%s", log_of(vm):history():sub(-500))
    t.eq(host:config_read(0x5c, 4), before)
  end
  -- After a reset all is PCI again, and firmware as free as ever.
  vm:pause()
  vm:reset()
  t.eq(host:config_read(0x5c, 4), 0)
  host:config_write(0x5f, 0x33, 1)
  host:config_write(0x5f, 0x11, 1)
  t.eq(host:config_read(0x5f, 1), 0x11)
end)

test("OVMF starts from flash and its variables persist", { long = true, timeout = 600 }, function(t)
  local dir = t.tmpdir()
  local code = firmware.find "OVMF_CODE.fd"
  if not code then t.skip "package ovmf is not installed" end
  local f = assert(io.open((firmware.find "OVMF_VARS.fd"), "rb"))
  local before = f:read "a"
  f:close()
  f = assert(io.open(dir .. "/vars", "wb"))
  f:write(before)
  f:close()
  local vm = pc(t, { ram = "256M", pflash = { { file = code, readonly = true }, dir .. "/vars" } })
  vm:start()
  t.ok(vm.serial[1]:text("Shell> "):wait { rt = 550 })
  vm:close()
  f = assert(io.open(dir .. "/vars", "rb"))
  local after = f:read "a"
  f:close()
  t.eq(#after, #before)
  t.ok(after ~= before, "nothing was written to the variables")
end)

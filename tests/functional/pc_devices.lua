-- The small devices of the Standard PC through scripts: event timers, speaker, DMA, printer; firmware's menu by a key.
local firmware = require "vmlua.core.firmware"
local test = require "vmlua.test"

local HPET = 0xfed00000

-- The board with a CPU that sleeps instead of firmware, or runs this code of 32 bits.
local function board(t, conf, code)
  conf = conf or {}
  conf.accel, conf.ram = "soft", "16M"
  conf.kernel = t.file("sleeper", string.pack("<I4I4I4I4I4I4I4I4", 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000) & 0xffffffff, 0x200000,
    0x200000, 0, 0, 0x200020) .. (code or "") .. "\xf4\xeb\xfd")
  return t.machine("pc", conf)
end

test("a string instruction reaches a port in one exit, and item by item where somebody looks", function(t)
  local code = "\xfc\x66\xba\x10\x05\x66\x31\xc0\x66\xef" -- cld; fw_cfg's item 0
    .. "\x66\xba\x11\x05\xbf\0\0\x30\0\xb9\x10\0\0\0\xf3\x6c" -- 16 bytes of it to 0x300000: rep insb
    .. "\x66\xba\x02\x04\xbe\0\0\x30\0\xb9\4\0\0\0\xf3\x6e" -- and 4 from there to the log: rep outsb
  local function run(hook)
    local vm = board(t, {}, code)
    local seen = hook and vm:pio { port = 0x511, write = false }:on(function() end)
    local done = vm.data.debugcon:text "QEMU"
    vm:start()
    t.ok(done:wait { rt = 20 })
    vm:pause()
    t.eq(vm.memory:read(0x300000, 16), "QEMU" .. ("\0"):rep(12))
    return vm.cpus[1].stats.pio, seen and seen.hits
  end
  t.eq(run(false), 3)
  t.eq({ run(true) }, { 18, 16 })
end)

test("a string of writes to a device's memory is one exit, and item by item where somebody looks", function(t)
  local code = "\xfc\xbf\0\0\x0a\0\xb9\x40\0\0\0\xb8\x11\x22\x33\x44\xf3\xab" -- 64 dwords to 0xa0000: rep stosd
    .. "\xbe\0\x10\x20\0\xb9\x40\0\0\0\xf3\xa4" -- and 64 bytes behind them: rep movsb
    .. "\x66\xba\x02\x04\xb0!\xee"
  local function run(hook)
    local vm = board(t, {}, code)
    vm.memory:write(0x201000, ("abcdefgh"):rep(8))
    for _, r in ipairs { { 0x3ce, 6, 5 }, { 0x3ce, 5, 0 }, { 0x3c4, 2, 15 }, { 0x3c4, 4, 6 } } do -- four planes, no odd and even
      vm.io:write_u8(r[1], r[2])
      vm.io:write_u8(r[1] + 1, r[3])
    end
    local seen = hook and vm:mmio { addr = 0xa0000, len = 0x1000, write = true }:on(function() end)
    local done = vm.data.debugcon:text "!"
    vm:start()
    t.ok(done:wait { rt = 20 })
    vm:pause()
    t.eq(vm.memory:read(0xa0000, 320), ("\x11\x22\x33\x44"):rep(64) .. ("abcdefgh"):rep(8))
    return vm.cpus[1].stats.mmio, seen and seen.hits
  end
  t.eq(run(false), 2)
  t.eq({ run(true) }, { 128, 128 })
end)

test("the event timers interrupt a machine that runs", function(t)
  local vm = board(t)
  t.eq(vm.memory:read_u32(HPET), 0x8086a201)
  vm.memory:write_u32(HPET + 0x120, 1 << 2 | 1 << 1 | 20 << 9) -- timer 1: level, line 20
  vm.memory:write_u32(HPET + 0x10, 1)
  vm:start()
  vm.memory:write_u64(HPET + 0x128, vm.memory:read_u64(HPET + 0xf0) + 1000000)
  t.wait_for(function() return vm:gsi(20).level == 1 end, 20, "no interrupt came")
  t.eq(vm.memory:read_u32(HPET + 0x20), 2)
  vm.memory:write_u32(HPET + 0x20, 2)
  t.eq(vm:gsi(20).level, 0)
end)

test("with legacy replacement the PIT's interrupts come from an event timer", function(t)
  local vm = board(t)
  local edges = 0
  vm:irq(0):on(function() edges = edges + 1 end)
  vm.memory:write_u32(HPET + 0x100, 1 << 2 | 1 << 3 | 1 << 6)
  vm.memory:write_u32(HPET + 0x108, 100000)
  vm.memory:write_u32(HPET + 0x108, 100000)
  vm:start()
  t.sleep(0.01)
  local before = edges
  vm.memory:write_u32(HPET + 0x10, 3)
  t.wait_for(function() return edges > before + 10 end, 20, "no interrupts came")
end)

test("event timers can be left out", function(t)
  local vm = board(t, { no_hpet = true })
  t.eq(vm.memory:read_u32(HPET), 0xffffffff)
  t.eq(vm:resolve "hpet", nil)
end)

test("a snapshot keeps the event timers' counter", function(t)
  local vm = board(t)
  vm.memory:write_u64(HPET + 0xf0, 12345)
  local s = vm:snapshot()
  vm.memory:write_u64(HPET + 0xf0, 1)
  vm:restore(s)
  t.eq(vm.memory:read_u64(HPET + 0xf0), 12345)
end)

test("the speaker's tone is what the guest programmed", function(t)
  local vm = board(t)
  t.eq(vm.speaker.frequency, 0)
  local heard = {}
  vm.speaker:connect("sound", 0, function(level) heard[#heard + 1] = level end)
  vm.io:write_u8(0x43, 0xb6)
  vm.io:write_u8(0x42, 2711 & 0xff)
  vm.io:write_u8(0x42, 2711 >> 8)
  vm.io:write_u8(0x61, 3)
  vm:start()
  t.sleep(0.01)
  t.eq(vm.speaker.frequency, 440)
  vm.io:write_u8(0x61, 0)
  t.eq({ vm.speaker.frequency, heard }, { 0, { 1, 0 } })
end)

test("the DMA controllers are there, with their pages", function(t)
  local vm = board(t)
  vm.io:write_u8(0x0c, 0)
  vm.io:write_u8(0x04, 0x34)
  vm.io:write_u8(0x04, 0x12)
  t.eq(vm.io:read_u8(0x04) | vm.io:read_u8(0x04) << 8, 0x1234)
  vm.io:write_u8(0x81, 0x5a)
  t.eq(vm.io:read_u8(0x81), 0x5a)
  t.eq(vm.io:read_u8(0xde) & 15, 14)
end)

test("what a guest prints arrives in a file, and its interrupt on line 7", function(t)
  local path = t.tmpdir() .. "/out.prn"
  local vm = board(t, { parallel = { "file:" .. path, "null" } })
  vm:start()
  for c in ("Hello, printer\f"):gmatch "." do
    t.wait_for(function() return vm.io:read_u8(0x379) & 0x80 ~= 0 end, 20, "the printer stays busy")
    vm.io:write_u8(0x378, c:byte())
    vm.io:write_u8(0x37a, 0x1d)
    vm.io:write_u8(0x37a, 0x1c)
  end
  t.wait_for(function() return vm:gsi(7).level == 1 end, 20, "no interrupt came")
  vm.io:write_u8(0x278, 0x5a)
  t.eq(vm.io:read_u8(0x278), 0x5a)
  vm:close()
  local f <close> = assert(io.open(path, "rb"))
  t.eq(f:read "a", "Hello, printer\f")
end)

test("there are as many parallel ports as asked for", function(t)
  t.eq(board(t, { parallel = { "none" } }).io:read_u8(0x379), 0xff)
  t.raises("has 3 parallel ports", board, t, { parallel = { "null", "null", "null", "null" } })
end)

test("SeaBIOS' boot menu is opened and answered by keys", { timeout = 120 }, function(t)
  if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
  local boot = "\xba\xf8\x03\xb0\x4d\xee\xb0\x31\xee\xf4\xeb\xfd" -- mov dx, 0x3f8; mov al, 'M'; out; mov al, '1'; out; hlt
  local image = t.file("menu.img", boot .. ("\0"):rep(510 - #boot) .. "\x55\xaa" .. ("\0"):rep(1474560 - 512))
  local vm = t.machine("pc", { accel = "soft", ram = "32M", boot = { menu = true, order = "c" }, fda = { file = image, format = "raw" } })
  vm:start()
  t.ok(vm.screen:text("Press ESC for boot menu"):wait { rt = 60 })
  t.ok(vm.keyboard:combo("esc", { rt = 20 }))
  t.ok(vm.screen:text("1. Floppy [drive A]"):wait { rt = 20 }, "no menu came")
  t.ok(vm.keyboard:type("1", { rt = 20 }))
  t.ok(vm.serial[1]:text("M1"):wait { rt = 20 }, "the disk did not boot")
end)

-- A "BIOS" that plays 440 Hz on the speaker, counts interrupts of line 0 at 0x500 and lets the PIT make 100 of them a second.
local function ticker(t)
  local code = "\xfa\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c" -- cli; segments and stack
    .. "\xc7\x06\x80\x00\x80\x00\xc7\x06\x82\x00\x00\xf0" -- vector 0x20: f000:0080
    .. "\xb0\x11\xe6\x20\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xfe\xe6\x21" -- PIC
    .. "\xb0\xb6\xe6\x43\xb0\x97\xe6\x42\xb0\x0a\xe6\x42\xb0\x03\xe6\x61" -- channel 2: 2711
    .. "\xb0\x34\xe6\x43\xb0\x9c\xe6\x40\xb0\x2e\xe6\x40" -- channel 0: 11932
    .. "\xfb\xf4\xeb\xfd" -- sti; hlt, for ever
  code = code .. ("\0"):rep(0x80 - #code) .. "\xff\x06\x00\x05\xb0\x20\xe6\x20\xcf" -- inc word [0x500]; EOI; iret
  return t.file("ticker.bin", code .. ("\0"):rep(0xfff0 - #code) .. "\xea\x00\x00\x00\xf0" .. ("\0"):rep(11))
end

for _, accel in ipairs { "soft", "kvm" } do
  test("event timers take the PIT's place and give it back, wherever it is: " .. accel, function(t)
    local usable, why = require("vmlua.core.machine").select_accel { accel }
    if not usable then t.skip(why) end
    local vm = t.machine("pc", { accel = accel, ram = "16M", bios = ticker(t) })
    local function ticks() return vm.memory:read_u16(0x500) end
    local function more(n)
      local from = ticks()
      t.wait_for(function() return ticks() >= from + n end, 20, "no interrupts come")
    end
    vm:start()
    more(3)
    t.eq(vm.speaker.frequency, 440)
    local function legacy(on) vm.memory:write_u32(HPET + 0x10, on and 3 or 1) end
    local function silent()
      t.sleep(0.05) -- one may be under way
      local from = ticks()
      t.sleep(0.2)
      t.eq(ticks(), from)
    end
    legacy(true)
    silent()
    local s = vm:snapshot()
    vm.memory:write_u32(HPET + 0x100, 1 << 2 | 1 << 3 | 1 << 6) -- timer 0, each millisecond
    vm.memory:write_u32(HPET + 0x108, 100000)
    vm.memory:write_u32(HPET + 0x108, 100000)
    more(20)
    vm.memory:write_u32(HPET + 0x100, 0)
    legacy(false)
    more(3)
    vm:restore(s)
    silent()
    vm:reset() -- the PIT is its own again, and programmed anew
    more(3)
  end)
end

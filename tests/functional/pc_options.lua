-- Options of the Standard PC that say how it runs: what starts first, what an end ends, and what stands still.
local firmware = require "vmlua.core.firmware"
local test = require "vmlua.test"

-- A Multiboot kernel of this code, flat 32-bit.
local function kernel(t, code)
  local magic, flags, at = 0x1BADB002, 0x10000, 0x200000
  return t.file("kernel", string.pack("<I4I4I4I4I4I4I4I4", magic, flags, -(magic + flags) & 0xffffffff, at, at, 0, 0, at + 32) .. code)
end

local POWER_OFF = "\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef\xf4\xeb\xfd" -- SLP_EN, and sleep
local RESET = "\x66\xba\xf9\x0c\xb0\x06\xee\xf4\xeb\xfd" -- port 0xcf9
local SLEEP = "\xf4\xeb\xfd"

local function pc(t, code, more)
  local argv = { "pc.lua", "-accel", "soft", "-m", "16", "-display", "none", "-kernel", kernel(t, code), input = more.input }
  table.move(more, 1, #more, #argv + 1, argv)
  return t.vmlua(argv)
end

test("a guest that powers off ends the process, with -no-shutdown only the machine", function(t)
  t.eq(pc(t, POWER_OFF, {}).status, 0)
  local r = pc(t, POWER_OFF, { "-no-shutdown", "-monitor", "stdio", input = "vm:wait{rt=20}\n('is %s'):format(vm.status)\n" })
  t.match(r.out, "is shutdown")
end)

test("with -no-reboot a reset ends the process, without it the machine starts again", function(t)
  t.eq(pc(t, RESET, { "-no-reboot" }).status, 0)
  local vm = t.machine("pc", { accel = "soft", ram = "16M", kernel = kernel(t, RESET) })
  local resets = 0
  vm:resets():on(function() resets = resets + 1 end)
  vm:start()
  t.wait_for(function() return resets >= 2 end)
  t.eq(vm.status, "running")
end)

test("with -S nothing runs before somebody says so", function(t)
  local r = pc(t, POWER_OFF, { "-S", "-monitor", "stdio",
    input = "('at %x, %s'):format(vm.cpus[1].rip, vm.status)\nvm:resume()\nvm:wait{rt=20}\n('then %s'):format(vm.status)\n" })
  t.match(r.out, "at 200020, paused")
  t.match(r.out, "then shutdown")
end)

test("-name and -uuid are told where they are asked for", function(t)
  local uuid = "00112233-4455-6677-8899-aabbccddeeff"
  local r = pc(t, SLEEP, { "-S", "-name", "ubuntutest", "-uuid", uuid, "-monitor", "stdio",
    input = "('%s %s'):format(vm.name, (vm.fw_cfg:read(2):gsub('.', function(c) return ('%02x'):format(c:byte()) end)))\n" })
  t.match(r.out, "ubuntutest 00112233445566778899aabbccddeeff")
end)

-- A boot sector that says its name on the first serial port, and resets the machine the first time (a byte of CMOS RAM tells).
local function disk(t, name, size)
  local code = "\xba\xf8\x03\xb0" .. name .. "\xee"
    .. "\xb0\x7f\xe6\x70\xe4\x71\x3c\x5a\x74\x0c\xb0\x5a\xe6\x71" -- al = cmos[7f]; if it is not 5a: 5a, and port cf9
    .. "\xba\xf9\x0c\xb0\x06\xee\x90\x90" .. "\xf4\xeb\xfd"
  return { file = t.file(name .. ".img", code .. ("\0"):rep(510 - #code) .. "\x55\xaa" .. ("\0"):rep(size - 512)), format = "raw" }
end

test("-boot order says which disk starts, and once= which the first time", { timeout = 120 }, function(t)
  if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
  for boot, said in pairs { [{ order = "c" }] = "CC", [{ order = "a" }] = "AA", [{ once = "a", order = "c" }] = "AC" } do
    local vm = t.machine("pc", { accel = "soft", ram = "32M", boot = boot, fda = disk(t, "A", 1474560), hda = disk(t, "C", 1 << 20) })
    vm:start()
    t.wait_for(function() return #vm.serial[1]:history() >= 2 end, 40, "two starts")
    t.eq(vm.serial[1]:history(), said)
    vm:close()
  end
end)

test("the other button is a non-maskable interrupt", function(t)
  -- IDT with a gate for vector 2 at 0x200100; the handler writes to the debug console.
  local code = "\x0f\x01\x1d\x80\x00\x20\x00\xf4\xeb\xfd" -- lidt [0x200080]; hlt
  code = code .. ("\0"):rep(0x40 - #code) .. "\xb0\x4e\xe6\xe9\xeb\xfe" -- 0x200060: 'N' to 0xe9, for ever
  code = code .. ("\0"):rep(0x60 - #code) .. string.pack("<I2I4", 0x1f, 0x200100)
  code = code .. ("\0"):rep(0xe0 + 16 - #code) .. string.pack("<I2I2I2I2", 0x60, 8, 0x8e00, 0x20)
  local vm = t.machine("pc", { accel = "soft", ram = "16M", kernel = kernel(t, code) })
  local seen
  vm:pio { port = 0xe9, write = true }:on(function(_, x) seen = x.value end)
  vm:start()
  t.sleep(0.05)
  t.eq(seen, nil)
  t.ok(vm:nmi())
  t.wait_for(function() return seen == 0x4e end)
end)

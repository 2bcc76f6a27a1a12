-- Options of the Standard PC that say how it runs: what starts first, what an end ends, and what stands still.
local firmware = require "vmlua.core.firmware"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local talk = dofile(here .. "/../lib/talk.lua")

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

test("-action says what a reset, an end and a panic do", function(t)
  t.eq(pc(t, RESET, { "-action", "reboot=shutdown" }).status, 0)
  local r = pc(t, POWER_OFF, { "-action", "shutdown=pause", "-monitor", "stdio", input = "vm:wait{rt=20}\n('is %s'):format(vm.status)\n" })
  t.match(r.out, "is shutdown")
  local panics = "\x66\xba\x05\x05\xb0\x01\xee" .. POWER_OFF
  t.eq(pc(t, panics, { "-action", "panic=none" }).status, 0)
  r = pc(t, panics, { "-monitor", "stdio", "-device", "pvpanic,on-panic=pause", input = "vm:wait{rt=20}\nvm.reason\n" })
  t.match(r.out, "panic")
  r = pc(t, SLEEP, { "-action", "panic=exit" })
  t.eq(r.status, 2)
  t.match(r.err, '%-action: panic: expected none, pause, reset, shutdown, got "exit"')
end)

test("with -no-fd-bootchk a floppy disk needs no signature; -nic none and -name debug-threads= are known", { timeout = 60 }, function(t)
  if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
  local code = "\xba\xf8\x03\xb0!\xee\xba\x04\x06\xb8\x00\x20\xef\xf4"
  local disk = t.file("disk", code .. ("\0"):rep(1474560 - #code))
  local r = t.vmlua { "pc.lua", "-accel", "soft", "-m", "16", "-nic", "none", "-name", "guest=x,debug-threads=on", "-fda", disk,
    "-no-fd-bootchk" }
  t.eq(r.status, 0)
  t.match(r.out, "!")
  t.match(t.vmlua { "pc.lua", "-name", "x,process=y" }.err, 'unknown %-name key "process"')
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

test("-global sets a property of all devices of a type, such as the memory that a picture of 4K needs", function(t)
  local function board(conf)
    conf.accel, conf.ram, conf.kernel = "soft", "16M", kernel(t, SLEEP)
    return t.machine("pc", conf)
  end
  local vm = board { global = { { "VGA", "vgamem_mb", "32" } } }
  local function vbe(index, value)
    vm.io:write_u16(0x1ce, index)
    vm.io:write_u16(0x1cf, value)
  end
  for index, value in ipairs { 3840, 2160, 32 } do vbe(index, value) end
  vbe(4, 0x41)
  t.eq({ vm.screen:size() }, { 3840, 2160 })
  vbe(5, 0x1fa) -- the bank with the picture's last pixel: 3840 * 2160 * 4 - 4 is 4 below 0x1fa4000
  vm.memory:write_u32(0xa0000 + 0x3ffc, 0x123456)
  t.eq(vm.screen:pixel(3839, 2159) & 0xffffff, 0x123456)
  t.raises('-global: unknown device "vgaa" %(did you mean "VGA"', board, { global = { { "vgaa", "x", 1 } } })
  t.raises('unknown property "vgamem"', board, { global = { { "VGA", "vgamem", 1 } } })
  t.raises("vgamem_mb 3 is not a power of two", board, { global = { { "VGA", "vgamem_mb", "3" } } })
end)

test("with -nodefaults there is what was asked for, and the board", function(t)
  local ask = "local n={}; for _,w in ipairs{'vga','com1','lpt1','ide1-cd0','fdc'} do n[#n+1]=tostring(vm:resolve(w)~=nil) end"
    .. " return table.concat(n,' ')\n"
  local function answer(...) return pc(t, SLEEP, { "-S", "-monitor", "stdio", input = ask, ... }).out end
  t.match(answer "-nodefaults", "false false false false true")
  t.match(answer("-nodefaults", "-vga", "std", "-parallel", "null"), "true false true false true")
  t.match(answer(), "true true true true true")
end)

test("a picture stands behind the boot menu", { timeout = 120 }, function(t)
  if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
  local bytes = ("\xc0\x80\x40"):rep(640 * 480)
  local file = t.file("splash.bmp", "BM" .. string.pack("<I4I2I2I4I4i4i4I2I2I4I4i4i4I4I4", 54 + #bytes, 0, 0, 54, 40, 640, 480, 1, 24, 0,
    #bytes, 2835, 2835, 0, 0) .. bytes)
  local vm = t.machine("pc", { accel = "soft", ram = "64M", boot = { menu = true, splash = file, splash_time = 30000 } })
  vm:start()
  t.wait_for(function()
    return select(2, vm.screen:size()) == 480 and vm.screen:pixel(320, 240) & 0xffffff == 0x4080c0
  end, 60, "the picture")
end)

test("what is wrong with an option is said by its name, without a place in our files", function(t)
  local cases = {
    ["-rtc"] = { "base=2024-13-01", "clock=sun", "driftfix=no", "when=now" },
    ["-boot"] = { "order=x", "once=cc", "menu=perhaps", "splash=/etc/hosts" },
    ["-pflash"] = { "/nowhere" }, ["-bios"] = { "/nowhere", "/etc/hosts" }, ["-option-rom"] = { "/nowhere" },
    ["-fw_cfg"] = { "name=x", "x,file=/nowhere" },
    ["-machine"] = { "pc-9.0", "pc,nothing=1" }, ["-global"] = { "VGA", "VGA.vgamem_mb=3", "no.x=1" }, ["-vga"] = { "cirrus" },
    ["-device"] = { "nosuch", "VGA" }, ["-smbios"] = { "type=9" }, ["-acpitable"] = { "file=/etc/hosts" },
    ["-numa"] = { "node,cpus=x", "node,cpus=7" },
    ["-parallel"] = { "nosuch" }, ["-debugcon"] = { "nosuch" }, ["-uuid"] = { "1" }, ["-m"] = { "0" }, ["-smp"] = { "0" },
  }
  for option, values in pairs(cases) do
    for _, value in ipairs(values) do
      local r = t.vmlua { "pc.lua", "-accel", "soft", "-display", "none", option, value }
      t.ok(r.status == 1 or r.status == 2, "%s %s: status %s", option, value, tostring(r.status))
      t.match(r.err, "^vmlua: [^\n]+\n$", option .. " " .. value)
      t.ok(not r.err:find "%.lua:%d", "%s %s: %s", option, value, r.err)
    end
  end
end)

test("a triple fault resets the board", function(t)
  local vm = t.machine("pc", { accel = "soft", ram = "16M", kernel = kernel(t, "\x0f\x01\x1d\0\0\x20\0\x0f\x0b") }) -- lidt of zeroes; ud2
  local resets = 0
  vm:resets():on(function() resets = resets + 1 end)
  vm.memory:write(0x200000, ("\0"):rep(8))
  vm:start()
  t.wait_for(function() return resets >= 2 end)
end)

test("the first serial port and the prompt share a pipe by mon:stdio", function(t)
  local hello = "\x66\xba\xf8\x03\xb0H\xee\xb0i\xee\xb0\n\xee\xf4\xeb\xfd"
  local r = t.vmlua { "pc.lua", "-accel", "soft", "-m", "16", "-kernel", kernel(t, hello), "-serial", "mon:stdio",
    env = { VMLUA_HISTORY = "" }, on_start = function(child, r)
      talk.pipes(t, r, child, function(expect, type)
        expect "Hi"
        type "\1cprint('at', vm.class.name)\n"
        expect "at\tpc-1.0"
        type "\1c\1x"
      end)
    end }
  t.eq(r.status, 0)
end)

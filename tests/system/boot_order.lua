-- What SeaBIOS starts: by -boot order, once and menu, by bootindex, from each drive. Boot sectors of a few bytes say which they are.
local core = require "vmlua.core.machine"
local firmware = require "vmlua.core.firmware"
local test = require "vmlua.test"

local LIMIT = 60

-- Writes its letter to the first serial port, and then resets where it is asked to, else halts.
local function sector(letter, resets)
  local code = "\xba\xf8\x03\xb0" .. letter .. "\xee\xb0\x0a\xee" -- mov dx, 3f8h; mov al, letter; out dx, al; …
    .. (resets and "\xba\xf9\x0c\xb0\x06\xee" or "") .. "\xfa\xf4\xeb\xfc" -- mov dx, 0cf9h; mov al, 6; out dx, al; cli; hlt
  return code .. ("\0"):rep(510 - #code) .. "\x55\xaa"
end

local function disk(t, letter, resets) return t.file(letter .. ".img", sector(letter, resets) .. ("\0"):rep((1 << 20) - 512)) end
local function floppy(t, letter, resets) return t.file(letter .. ".flp", sector(letter, resets) .. ("\0"):rep(1474560 - 512)) end
local function blank(t, name) return t.file(name, ("\0"):rep(1 << 20)) end

-- The least that El Torito knows as a bootable CD: volume descriptors, a catalog of one entry, its sector.
local function cdrom(t, letter)
  local function block(bytes) return bytes .. ("\0"):rep(2048 - #bytes) end
  local check = "\1\0\0\0" .. ("\0"):rep(24) .. "\xaa\x55\x55\xaa"
  local entry = string.pack("<BBI2BBI2I4", 0x88, 0, 0, 0, 0, 1, 20)
  return t.file(letter .. ".iso", ("\0"):rep(16 * 2048) .. block "\1CD001\1"
    .. block("\0CD001\1EL TORITO SPECIFICATION" .. ("\0"):rep(0x47 - 30) .. string.pack("<I4", 19))
    .. block "\xffCD001\1" .. block(check .. entry) .. block(sector(letter)))
end

local function start(t, conf)
  if not core.select_accel { "soft" } then t.skip "this build has no software CPU" end
  if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
  conf.accel, conf.ram, conf.serial = "soft", "16M", "ring"
  local vm = t.machine("pc", conf)
  vm:start()
  return vm
end

local function starts(t, conf, letters)
  local vm = start(t, conf)
  t.ok(vm.serial[1]:text(letters):wait { rt = LIMIT }, "%s did not start: %q", letters, vm.serial[1]:history())
  t.eq(vm.serial[1]:history(), letters)
  vm:close()
end

test("the order of -boot decides between floppy, disk and CD-ROM", { timeout = 300 }, function(t)
  local a, c, d = floppy(t, "A"), disk(t, "C"), cdrom(t, "D")
  for _, case in ipairs { { nil, "C\n" }, { "a", "A\n" }, { "c", "C\n" }, { "d", "D\n" }, { "dc", "D\n" } } do
    starts(t, { fda = a, hda = c, cdrom = d, boot = case[1] }, case[2])
  end
end)

test("a drive without anything to start is passed over", { timeout = 120 }, function(t)
  starts(t, { hda = blank(t, "blank.img"), cdrom = cdrom(t, "D"), boot = "cd" }, "D\n")
end)

test("once holds for the first start only", { timeout = 120 }, function(t)
  starts(t, { fda = floppy(t, "A", true), hda = disk(t, "C"), boot = { order = "c", once = "a" } }, "A\nC\n")
end)

test("bootindex puts a second disk before the first, and a CD-ROM before both", { timeout = 120 }, function(t)
  local function drives(second, cd)
    return {
      drive = {
        { file = disk(t, "C"), ["if"] = "none", id = "c" }, { file = disk(t, "E"), ["if"] = "none", id = "e" },
        { file = cdrom(t, "D"), ["if"] = "none", id = "d", media = "cdrom" },
      },
      device = {
        { "ide-hd", drive = "c", bus = "ide.0", unit = 0 }, { "ide-hd", drive = "e", bus = "ide.0", unit = 1, bootindex = second },
        { "ide-cd", drive = "d", bus = "ide.1", unit = 1, bootindex = cd },
      },
    }
  end
  starts(t, drives(1), "E\n")
  starts(t, drives(2, 1), "D\n")
end)

test("the menu starts the second disk", { timeout = 120 }, function(t)
  local vm = start(t, { hda = disk(t, "C"), hdb = disk(t, "E"), boot = { menu = true } })
  t.ok(vm.screen:text "Press ESC for boot menu":wait { rt = LIMIT })
  vm.keyboard:combo "esc"
  t.ok(vm.screen:text "ata0-1":wait { rt = LIMIT })
  local number = t.match(vm.screen:text(), "(%d)%. ata0%-1")
  vm.keyboard:type(number)
  t.ok(vm.serial[1]:text "E\n":wait { rt = LIMIT })
end)

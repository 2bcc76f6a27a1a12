-- Disks on a PC that boots through SeaBIOS: hard disks, CD-ROMs, media, errors, snapshots.
local machine = require "vmlua.machine"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

local function assemble(t, define)
  if not require("vmlua.core.fs").stat "/usr/bin/nasm" then t.skip "nasm is not installed" end
  local out = t.tmpdir() .. "/guest.bin"
  local r = t.vmlua { argv0 = "/usr/bin/nasm", "-f", "bin", here .. "/../guests/diskboot.asm", "-o", out, define }
  t.eq(r.status, 0, r.err)
  local f <close> = assert(io.open(out, "rb"))
  return f:read "a"
end

local function pc(t, conf)
  if not io.open "/usr/share/seabios/bios-256k.bin" then t.skip "seabios is not installed" end
  conf.accel = "soft"
  conf.ram = conf.ram or "16M"
  conf.device = { { "isa-debug-exit", iobase = 0xf4 } }
  return t.machine(machine.find "pc", conf)
end

local function slurp(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read "a"
end

local function serial(vm)
  return vm.serial[1]:history()
end

for _, how in ipairs { "hda", "hdb", "hdd" } do
  test(("SeaBIOS boots a disk that is %s, and the guest reads and writes it"):format(how), function(t)
    local path = t.file("disk.img", assemble(t))
    local vm = pc(t, { [how] = { file = path, format = "raw" } })
    vm:start()
    vm:wait { rt = 60 }
    t.match(serial(vm), "read from the disk\r\ndone")
    t.eq(vm.drives[how]:stats().write.count, 1)
    t.eq(slurp(path):sub(20 * 512 + 1, 20 * 512 + 20), "written by the guest")
  end)
end

-- The smallest image that El Torito boots: a boot record, a catalogue, four sectors without emulation.
local function el_torito(code)
  local function sector(s) return s .. ("\0"):rep(2048 - #s) end
  local record = "\0CD001\1EL TORITO SPECIFICATION" .. ("\0"):rep(32 + 9) .. string.pack("<I4", 18)
  local primary = "\1CD001\1\0"
  local validation = "\1\0\0\0" .. ("\0"):rep(24) .. "\xaa\x55\x55\xaa"
  local entry = "\x88\0\0\0\0\0" .. string.pack("<I2I4", 4, 19) .. ("\0"):rep(20)
  return ("\0"):rep(16 * 2048) .. sector(primary) .. sector(record) .. sector(validation .. entry) .. code
end

test("SeaBIOS boots an El Torito CD", function(t)
  local path = t.file("cd.iso", el_torito(assemble(t, "-DCD")))
  local vm = pc(t, { cdrom = path, boot = "d" })
  vm:start()
  vm:wait { rt = 60 }
  t.match(serial(vm), "read from the disk\r\ndone")
end)

test("a disk that is written past its end, or read-only, gives the guest an error and nothing else", function(t)
  local image = assemble(t)
  local path = t.file("small.img", image:sub(1, 10 * 512)) -- the guest writes sector 20
  local vm = pc(t, { hda = { file = path, format = "raw" } })
  vm:start()
  vm:wait { rt = 60 }
  t.match(serial(vm), "read from the disk\r\nfailed")
  path = t.file("ro.img", image)
  vm = pc(t, { hda = { file = path, format = "raw", readonly = true } })
  vm:start()
  vm:wait { rt = 60 }
  t.match(serial(vm), "read from the disk\r\nfailed")
  t.eq(slurp(path), image)
end)

test("a guest is saved and restored in the middle of its boot from disk", function(t)
  local path = t.file("disk.img", assemble(t))
  local vm = pc(t, { hda = { file = path, format = "raw" } })
  vm:start()
  local taken
  for n = 1, 2000 do
    t.sleep(0.002)
    if vm.status ~= "running" then break end
    taken = vm:snapshot()
    if n % 3 == 0 then vm:restore(taken) end
  end
  vm:wait { rt = 60 }
  t.match(serial(vm), "read from the disk\r\ndone")
end)

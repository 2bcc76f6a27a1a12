-- Floppy disks through scripts and through the firmware of a PC.
local core = require "vmlua.core.machine"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

-- A disk whose boot sector reads cylinder 1, side 1 through the BIOS and sends the first and the last of its 18 sectors'
-- bytes over the first serial port.
local boot = "\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfb" -- cli; segments and stack; sti
  .. "\xb8\x12\x02\xb9\x01\x01\xba\x00\x01\xbb\x00\x80\xcd\x13"     -- mov ax, 0x212; cx, 0x101; dx, 0x100; bx, 0x8000; int 0x13
  .. "\x73\x02\xeb\xfe"                                             -- jnc $+4; jmp $
  .. "\xa0\x00\x80\xba\xf8\x03\xee\xa0\xff\xa3\xee"                 -- mov al, [0x8000]; mov dx, 0x3f8; out; mov al, [0xa3ff]; out
  .. "\xf4\xeb\xfd"                                                 -- hlt; jmp to it

local function put(image, offset, bytes) return image:sub(1, offset) .. bytes .. image:sub(offset + #bytes + 1) end

local function bootable(first, last)
  local image = put(put(("\0"):rep(1474560), 0, boot), 510, "\x55\xaa")
  return put(put(image, 54 * 512, first), 72 * 512 - 1, last)
end

local boards = 0
local function make(t, conf)
  boards = boards + 1
  return t.machine({
    name = ("floppy-test-%d"):format(boards), ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      local props = { id = "fdc", dma = m:device("isa-dma", { id = "dma" }) }
      for index, entry in pairs(m:drives_of("floppy", 2)) do props[index == 0 and "drive-a" or "drive-b"] = entry.drive end
      m:device("isa-fdc", props)
      m:place(0x7c00, "\xf4\xeb\xfd")
      m.cpus[1]:set { cs = 0, rip = 0x7c00, rflags = 2 }
    end,
  }, conf)
end

-- Drives the controller as a guest does, without DMA; the machine runs, its CPU sleeps.
local function controller(t, vm)
  local c = {}
  local function out(port, value) vm.io:write_u8(port, value) end
  local function inp(port) return vm.io:read_u8(port) end
  function c.command(...)
    for _, byte in ipairs { ... } do
      t.wait_for(function() return inp(0x3f4) & 0xc0 == 0x80 end, 20, "the controller takes no command")
      out(0x3f5, byte)
    end
  end
  function c.results()
    t.wait_for(function() return inp(0x3f4) & 0xd0 == 0xd0 end, 20, "there is no result")
    local r = {}
    while inp(0x3f4) & 0xd0 == 0xd0 do r[#r + 1] = inp(0x3f5) end
    return r
  end
  function c.seek(track)
    c.command(0x0f, 0, track)
    t.wait_for(function() return vm:gsi(6).level == 1 end, 20, "the heads do not arrive")
    c.command(0x08)
    t.eq(c.results(), { 0x20, track })
  end
  function c.read(track, head, sector)
    c.command(0x46, head << 2, track, head, sector, 2, sector, 0x1b, 0xff)
    local bytes = {}
    for i = 1, 512 do
      t.wait_for(function() return inp(0x3f4) & 0xa0 == 0xa0 or inp(0x3f4) & 0xd0 == 0xd0 end, 20, "no byte comes")
      if inp(0x3f4) & 0x20 == 0 then return nil, c.results() end
      bytes[i] = string.char(inp(0x3f5))
    end
    c.results()
    return table.concat(bytes)
  end
  function c.write(track, head, sector, bytes)
    c.command(0x45, head << 2, track, head, sector, 2, sector, 0x1b, 0xff)
    for i = 1, 512 do
      t.wait_for(function() return inp(0x3f4) & 0x80 == 0x80 end, 20, "no byte is taken")
      if inp(0x3f4) & 0x20 == 0 then return c.results() end
      out(0x3f5, bytes:byte(i))
    end
    return c.results()
  end
  function c.changed() return inp(0x3f7) & 0x80 ~= 0 end
  vm:start()
  out(0x3f2, 0x0c)
  t.wait_for(function() return vm:gsi(6).level == 1 end, 20, "no interrupt after reset")
  for i = 0, 3 do
    c.command(0x08)
    t.eq(c.results()[1], 0xc0 | i)
  end
  out(0x3f7, 0)
  c.command(0x03, 0xdf, 0x03)
  out(0x3f2, 0x1c)
  return c
end

test("sectors are read and written, and the file has them", function(t)
  local path = t.file("a.img", put(("\0"):rep(1474560), (5 * 36 + 18 + 2) * 512, "here"))
  local vm = make(t, { fda = { file = path, format = "raw" } })
  t.eq({ vm.fdc["kind-a"], vm.fdc["kind-b"] }, { "1.44M", "none" })
  local c = controller(t, vm)
  c.seek(5)
  t.eq(c.read(5, 1, 3):sub(1, 5), "here\0")
  c.write(5, 1, 4, ("w"):rep(512))
  t.ok(vm.drives.fda:flush())
  local f <close> = assert(io.open(path, "rb"))
  f:seek("set", (5 * 36 + 18 + 3) * 512)
  t.eq(f:read(513), ("w"):rep(512) .. "\0")
end)

test("a script changes the disk, and the guest sees it by the change line", function(t)
  local one = t.file("one.img", "one" .. ("\0"):rep(1474557))
  local two = t.file("two.img", "two" .. ("\0"):rep(1474557))
  local vm = make(t, { fda = { file = one, format = "raw" } })
  local c = controller(t, vm)
  t.eq(c.read(0, 0, 1):sub(1, 3), "one")
  t.eq(c.changed(), false)
  t.ok(vm.drives.fda:change { file = two, format = "raw" })
  t.eq(c.changed(), true)
  c.seek(1)
  c.seek(0)
  t.eq(c.changed(), false)
  t.eq(c.read(0, 0, 1):sub(1, 3), "two")
  t.ok(vm.drives.fda:eject())
  t.eq(c.changed(), true)
  local bytes, status = c.read(0, 0, 1)
  t.eq({ bytes == nil, status[1] & 0xc0 }, { true, 0x40 })
end)

test("a read-only disk is write-protected", function(t)
  local vm = make(t, { fda = { file = t.file("ro.img", ("\0"):rep(1474560)), format = "raw", readonly = true } })
  local c = controller(t, vm)
  local r = c.write(0, 0, 1, ("x"):rep(512))
  t.eq({ r[1] & 0xc0, r[2] }, { 0x40, 0x02 })
end)

test("a snapshot in the middle of a sector goes on with its next byte", function(t)
  local vm = make(t, { fda = { file = t.file("s.img", ("0123456789abcdef"):rep(32) .. ("\0"):rep(1474560 - 512)), format = "raw" } })
  local c = controller(t, vm)
  c.command(0x46, 0, 0, 0, 1, 2, 1, 0x1b, 0xff)
  t.wait_for(function() return vm.io:read_u8(0x3f4) == 0xf0 end, 20, "no byte comes")
  for _ = 1, 20 do vm.io:read_u8(0x3f5) end
  local s = vm:snapshot()
  t.eq(vm.io:read_u8(0x3f5), ("4"):byte())
  t.eq(vm.io:read_u8(0x3f5), ("5"):byte())
  vm:restore(s)
  t.eq(vm.io:read_u8(0x3f5), ("4"):byte())
end)

test("drives that cannot be are refused by name", function(t)
  local vm = make(t)
  t.raises("drive%-c", function() vm:device("isa-fdc", { ["drive-c"] = 1 }) end)
  t.raises("type%-a", function() vm:device("isa-fdc", { iobase = 0x370, ["type-a"] = "1.5M" }) end)
  t.raises("DMA channel 4", function() vm:device("isa-fdc", { iobase = 0x370, dma = vm.dma, ["dma-channel"] = 4 }) end)
end)

test("SeaBIOS boots from a floppy disk and reads across its tracks", function(t)
  if not io.open "/usr/share/seabios/bios-256k.bin" then t.skip "package seabios is not installed" end
  -- A KVM that interprets takes no interrupt in the one instruction that SeaBIOS leaves for it.
  local accels = { "soft" }
  if core.select_accel { "auto" } == "kvm" then accels[2] = "kvm" end
  for _, accel in ipairs(accels) do
    local vm = t.machine("pc", {
      accel = accel, ram = "32M", boot = "a", fda = { file = t.file("boot.img", bootable("A", "Z")), format = "raw" },
    })
    vm:start()
    t.ok(vm.serial[1]:text("AZ"):wait { rt = 50 }, "%s: the boot sector did not run to its end", accel)
    t.eq({ vm.rtc.nvram[0x10], vm.rtc.nvram[0x14] & 0xc1 }, { 0x40, 0x01 })
    vm:close()
  end
end)

test("SeaBIOS boots from a disk that was put in the place of another", function(t)
  if not io.open "/usr/share/seabios/bios-256k.bin" then t.skip "package seabios is not installed" end
  local vm = t.machine("pc", { accel = "soft", ram = "32M", boot = "a",
    fda = { file = t.file("data.img", ("\0"):rep(737280)), format = "raw" },
    fdb = { file = t.file("b.img", bootable("B", "Y")), format = "raw" } })
  t.eq({ vm.fdc["kind-a"], vm.fdc["kind-b"] }, { "1.44M", "1.44M" })
  t.eq(vm.rtc.nvram[0x10], 0x44)
  t.ok(vm.drives.fda:change { file = t.file("a2.img", bootable("C", "X")), format = "raw" })
  vm:start()
  t.ok(vm.serial[1]:text("CX"):wait { rt = 60 })
end)

test("GRUB from its rescue floppy is driven by typed keys and reads a file from our second disk", function(t)
  local rescue = guests.path(t, "grub-rescue/floppy.img")
  if not io.open "/usr/share/seabios/bios-256k.bin" then t.skip "package seabios is not installed" end
  if not os.execute "command -v mformat mcopy >/dev/null" then t.skip "package mtools is not installed" end
  local disk, file = t.tmpdir() .. "/fat.img", t.file("hello.txt", "typed keys found this file\n")
  assert(os.execute(("mformat -C -f 1440 -i %s :: && mcopy -i %s %s ::/HELLO.TXT"):format(disk, disk, file)))
  local vm = t.machine("pc", {
    accel = "soft", ram = "64M", boot = "a",
    fda = { file = rescue, format = "raw", readonly = true }, fdb = { file = disk, format = "raw" },
  })
  vm:start()
  -- There is no hard disk: what its menu wants to start fails twice, and then the menu comes.
  t.ok(vm.screen:text("Press any key"):wait { rt = 50 }, "GRUB did not start")
  t.ok(vm.keyboard:combo("spc", { rt = 20 }))
  t.ok(vm.screen:text("Failed to boot both"):wait { rt = 20 })
  t.ok(vm.keyboard:combo("spc", { rt = 20 }))
  t.ok(vm.screen:text("enter to boot"):wait { rt = 20 }, "GRUB shows no menu")
  t.ok(vm.keyboard:type("c", { rt = 20 }))
  t.ok(vm.screen:text("grub>"):wait { rt = 20 }, "GRUB has no prompt")
  local line = "echo 'The quick brown FOX; 0123456789 ~!@#%^&*()_+-=[]{}|:,.<>?/'"
  t.ok(vm.keyboard:type(line .. "\n", { rt = 20 }))
  t.ok(vm.screen:text("\nThe quick brown FOX; 0123456789 ~!@#%^&*()_+-=[]{}|:,.<>?/"):wait { rt = 20 }, "other text arrived")
  t.ok(vm.keyboard:type("cat (fd1)/hello.txt\n", { rt = 20 }))
  t.ok(vm.screen:text("\ntyped keys found this file"):wait { rt = 20 }, "the file was not read")
end)

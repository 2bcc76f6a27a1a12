-- Boot media and programs of others, unmodified, under SeaBIOS, driven by typed keys and waited for on the screen.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local LIMIT = 120

local function start(t, conf)
  conf.accel, conf.serial, conf.ram = conf.accel or "soft", conf.serial or "null", conf.ram or "64M"
  local vm = t.machine("pc", conf)
  vm:start()
  return vm
end

local function see(t, vm, text, limit)
  if not vm.screen:text(text):wait { rt = limit or LIMIT } then
    t.fail("no %q on the screen:\n%s", text, vm.screen:text() or "(graphics)")
  end
end

-- A copy, since the guest may write to it.
local function copy(t, path, name)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read "a"
  f:close()
  return t.file(name or "copy.img", bytes)
end

for _, medium in ipairs {
  { "a floppy disk", "floppy.img", "fda", "(fd0)" }, { "a CD-ROM", "cdrom.iso", "cdrom", "(cd)" },
  { "an IDE disk", "usb.img", "hda", "(hd0)" },
} do
  test(("GRUB's rescue medium starts from %s and takes commands"):format(medium[1]), { timeout = 200 }, function(t)
    local path = guests.path(t, "grub-rescue/" .. medium[2])
    local vm = start(t, { [medium[3]] = medium[3] == "cdrom" and path or copy(t, path) })
    see(t, vm, "GNU GRUB")
    vm.keyboard:type "c"
    see(t, vm, "grub>")
    vm.keyboard:type "ls\n"
    see(t, vm, medium[4])
    vm.keyboard:type "echo typed=$((6*7)) $root\n"
    vm.keyboard:type "set x=yes; echo $x$x\n"
    see(t, vm, "yesyes")
  end)
end

test("GRUB's rescue medium starts under KVM, with the assist where it has no hardware", { timeout = 1200, long = true }, function(t)
  local path = guests.path(t, "grub-rescue/usb.img")
  t.accel "kvm"
  local vm = start(t, { accel = "kvm", hda = copy(t, path) })
  see(t, vm, "GNU GRUB", 1000)
end)

test("GRUB goes from soft to KVM in its menu, and back at its prompt", { timeout = 1200, long = true }, function(t)
  t.accel "kvm"
  local path, vms = guests.path(t, "grub-rescue/floppy.img"), {}
  for i, accel in ipairs { "soft", "kvm", "soft" } do
    vms[i] = t.machine("pc", { accel = accel, ram = "32M", serial = "null", boot = "a", fda = copy(t, path, i .. ".img") })
  end
  local function move(from, to)
    from:pause()
    to:restore(from:snapshot())
    to:resume()
  end
  vms[1]:start()
  see(t, vms[1], "executed automatically")
  vms[1].keyboard:combo "down" -- ends the countdown, which the other one's time stamp counter would end early
  t.wait_for(function() return not vms[1].screen:text():find("executed automatically", 1, true) end, LIMIT, "the countdown to end")
  move(vms[1], vms[2])
  vms[2].keyboard:type "c"
  see(t, vms[2], "grub>", 1000)
  move(vms[2], vms[3])
  vms[3].keyboard:type "set x=yes; echo $x$x\n"
  see(t, vms[3], "yesyes")
end)

test("GRUB's rescue floppy reads a file from a disk that is given to it", { timeout = 200 }, function(t)
  local floppy = copy(t, guests.path(t, "grub-rescue/floppy.img"))
  local cpio = require "vmlua.cpio"
  local disk = t.file("disk.img", cpio.pack { { "hello", data = "what the file holds\n" } } .. ("\0"):rep(1 << 20))
  local vm = start(t, { fda = floppy, hda = disk, boot = "a" })
  see(t, vm, "GNU GRUB")
  vm.keyboard:type "c"
  see(t, vm, "grub>")
  vm.keyboard:type "insmod newc\ncat (hd0)/hello\n"
  see(t, vm, "what the file holds")
end)

for _, kind in ipairs { "x64", "ia32" } do
  test(("memtest86+ %s tests memory and finds no error"):format(kind), { timeout = 300 }, function(t)
    local vm = start(t, { bios = "bios-256k.bin", kernel = guests.path(t, ("memtest86+/%s.bin"):format(kind)), ram = "8M" })
    see(t, vm, "Status: Testing")
    see(t, vm, "Test #5", 200)
    t.match(vm.screen:text(), "Errors: 0")
  end)
  test(("memtest86+ %s completes a pass"):format(kind), { timeout = 1200, long = true }, function(t)
    local vm = start(t, { bios = "bios-256k.bin", kernel = guests.path(t, ("memtest86+/%s.bin"):format(kind)), ram = "4M" })
    see(t, vm, "Pass:  1 ", 1100)
    t.match(vm.screen:text(), "Errors: 0")
  end)
end

for _, way in ipairs { { "a CD-ROM", "cdrom", "ipxe.iso" }, { "its Linux image, through firmware", "kernel", "ipxe.lkrn" } } do
  test(("iPXE starts from %s to its prompt"):format(way[1]), { timeout = 200 }, function(t)
    local vm = start(t, { [way[2]] = guests.path(t, "ipxe/" .. way[3]), bios = "bios-256k.bin" })
    see(t, vm, "Ctrl-B for the iPXE command line")
    vm.keyboard:combo "ctrl-b"
    see(t, vm, "iPXE>")
    vm.keyboard:type "echo six times seven\n"
    see(t, vm, "\nsix times seven")
  end)
end

test("GNU Mach starts, looks at its devices, and misses its bootstrap module", { timeout = 200 }, function(t)
  local vm = start(t, { kernel = guests.path(t, "gnumach/gnumach"), append = "console=com0", serial = "ring" })
  t.ok(vm.serial[1]:text "GNU Mach 1.8":wait { rt = LIMIT })
  t.ok(vm.serial[1]:text "No bootstrap code loaded with the kernel":wait { rt = LIMIT })
end)

test("OVMF starts from flash to its shell, which runs a script from a disk and turns the machine off", { timeout = 300 }, function(t)
  local firmware = require "vmlua.core.firmware"
  local code = firmware.find "OVMF_CODE.fd"
  local variables = firmware.find "OVMF_VARS.fd"
  if not code or not variables then t.skip "no OVMF (package ovmf)" end
  guests.need(t, "mformat", "mtools")
  local disk = t.tmpdir() .. "/disk.img"
  local script = t.file("startup.nsh", "@echo -off\r\nver\r\nset answer 42\r\necho six times seven: %answer%\r\n"
    .. "smbiosview -t 1\r\ndmem\r\ntype fs0:\\hello.txt\r\ncp fs0:\\hello.txt fs0:\\copy.txt\r\nreset -s\r\n")
  guests.run(t, "truncate -s 16M %s && mformat -i %s -T 32768 :: && mcopy -i %s %s ::startup.nsh && mcopy -i %s %s ::hello.txt",
    disk, disk, disk, script, disk, t.file("hello.txt", "read from the disk\r\n"))
  local vm = start(t, { ram = "256M", serial = "ring", uuid = "00112233-4455-6677-8899-aabbccddeeff", hda = { file = disk, format = "raw" },
    pflash = { { file = code, readonly = true }, { file = copy(t, variables) } } })
  t.ok(vm.serial[1]:text "any other key to continue":wait { rt = LIMIT })
  vm.serial[1]:write "\r"
  for _, line in ipairs { "UEFI Interactive Shell", "six times seven: 42", "read from the disk" } do
    t.ok(vm.serial[1]:text(line):wait { rt = LIMIT }, line)
  end
  t.eq(vm:wait { rt = LIMIT }, "shutdown")
  -- What firmware has made of our tables.
  local said = vm.serial[1]:history():gsub("\27%[[%d;]*%a", ""):gsub("\r", "")
  t.match(said, "ProductName: Standard PC")
  t.match(said, "Dump Uuid\nsize=16:\n00000000: 33 22 11 00 55 44 77 66%-88 99 AA BB CC DD EE FF")
  t.match(said, "ACPI 2.0 Table   %x*[1-9a-fA-F]%x*\n")
  vm:close()
  t.match(guests.run(t, "mtype -i %s ::copy.txt", disk), "read from the disk")
end)

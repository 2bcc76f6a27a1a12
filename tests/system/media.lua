-- Boot media made in the test: Debian's kernel through isolinux, syslinux and GRUB, from CD-ROMs and disks; iPXE from a floppy.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local LIMIT = 240

local need, run = guests.need, guests.run

local function need_file(t, path, package)
  local f = io.open(path, "rb")
  if not f then t.skip(("%s is missing (package %s)"):format(path, package)) end
  f:close()
  return path
end

-- A folder with kernel and initramfs, to make a medium of.
local function tree(t)
  local dir = t.tmpdir()
  run(t, "mkdir -p %s/boot && cp %s %s/boot/vmlinuz && cp %s %s/boot/initrd", dir, guests.path(t, "linux-amd64/vmlinuz"), dir,
    guests.initramfs(t), dir)
  return dir
end

local function to_shell(t, conf)
  conf.accel, conf.ram = "soft", "256M"
  local vm = t.machine("pc", conf)
  vm:start()
  t.ok(vm.serial[1]:text "ready> ":wait { rt = LIMIT })
  t.match(guests.shell(t, vm.serial[1], 60) "cat /proc/cmdline", "from=medium")
end

test("Linux starts through isolinux from a CD-ROM", { timeout = 300 }, function(t)
  need(t, "xorriso", "xorriso")
  local dir, out = tree(t), t.tmpdir()
  run(t, "mkdir -p %s/isolinux && cp %s %s %s/isolinux/", dir, need_file(t, "/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    need_file(t, "/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"), dir)
  t.file(dir .. "/isolinux/isolinux.cfg",
    "default l\nlabel l\nkernel /boot/vmlinuz\nappend initrd=/boot/initrd console=ttyS0 from=medium\n")
  run(t, "xorriso -as mkisofs -quiet -o %s/cd.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 "
    .. "-boot-info-table %s", out, dir)
  to_shell(t, { cdrom = out .. "/cd.iso" })
end)

for _, drive in ipairs { { "a CD-ROM", "cdrom" }, { "a disk", "hda" } } do
  test("Linux starts through GRUB from " .. drive[1], { timeout = 300 }, function(t)
    need(t, "grub-mkrescue", "grub-common")
    need(t, "xorriso", "xorriso")
    need(t, "mformat", "mtools")
    need_file(t, "/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin")
    local dir, out = tree(t), t.tmpdir()
    run(t, "mkdir -p %s/boot/grub", dir)
    t.file(dir .. "/boot/grub/grub.cfg",
      "set timeout=0\nmenuentry l { linux /boot/vmlinuz console=ttyS0 from=medium\n initrd /boot/initrd\n}\n")
    run(t, "grub-mkrescue -d /usr/lib/grub/i386-pc -o %s/image %s", out, dir)
    to_shell(t, { [drive[2]] = out .. "/image" })
  end)
end

-- A FAT file system made bootable by syslinux, with these files and this configuration.
local function syslinux(t, image, offset, config, files)
  local at = offset > 0 and ("@@%d"):format(offset) or ""
  for name, path in pairs(files) do run(t, "mcopy -i %s%s %s ::%s", image, at, path, name) end
  run(t, "mcopy -i %s%s %s ::syslinux.cfg", image, at, t.file("syslinux.cfg", config))
  run(t, "syslinux --install %s %s", offset > 0 and ("-t %d"):format(offset) or "", image)
end

test("Linux starts through syslinux from the FAT partition of a disk", { timeout = 300 }, function(t)
  need(t, "syslinux", "syslinux")
  need(t, "mformat", "mtools")
  need(t, "sfdisk", "fdisk")
  local mbr = need_file(t, "/usr/lib/syslinux/mbr/mbr.bin", "syslinux-common")
  local image = t.tmpdir() .. "/disk.img"
  run(t, "truncate -s 48M %s && echo start=2048,type=6,bootable | sfdisk -q %s && mformat -i %s@@1M -T 96256 ::", image, image, image)
  run(t, "dd if=%s of=%s bs=440 count=1 conv=notrunc status=none", mbr, image)
  syslinux(t, image, 1 << 20, "default l\nlabel l\nkernel vmlinuz\nappend initrd=initrd console=ttyS0 from=medium\n",
    { vmlinuz = guests.path(t, "linux-amd64/vmlinuz"), initrd = guests.initramfs(t) })
  to_shell(t, { hda = { file = image, format = "raw" } })
end)

test("iPXE starts through syslinux from a floppy disk", { timeout = 200 }, function(t)
  need(t, "syslinux", "syslinux")
  need(t, "mformat", "mtools")
  local image = t.tmpdir() .. "/floppy.img"
  run(t, "truncate -s 1440K %s && mformat -i %s -f 1440 ::", image, image)
  syslinux(t, image, 0, "prompt 1\ndefault i\nlabel i\nkernel ipxe.krn\n", { ["ipxe.krn"] = guests.path(t, "ipxe/ipxe.lkrn") })
  local vm = t.machine("pc", { accel = "soft", ram = "64M", fda = { file = image, format = "raw" }, serial = "null" })
  vm:start()
  t.ok(vm.screen:text "boot:":wait { rt = LIMIT }, "syslinux did not ask")
  vm.keyboard:type "i\n"
  t.ok(vm.screen:text "Ctrl-B for the iPXE command line":wait { rt = LIMIT }, "iPXE did not come:\n%s", vm.screen:text())
end)

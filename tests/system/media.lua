-- Boot media made in the test: Debian's kernel through isolinux from a CD-ROM, and through GRUB from a CD-ROM and a disk.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local LIMIT = 240

local function need(t, program, package)
  if not os.execute(("command -v %s >/dev/null"):format(program)) then t.skip(("%s is missing (package %s)"):format(program, package)) end
end

local function need_file(t, path, package)
  local f = io.open(path, "rb")
  if not f then t.skip(("%s is missing (package %s)"):format(path, package)) end
  f:close()
  return path
end

local function run(t, format, ...)
  local pipe = assert(io.popen(format:format(...) .. " 2>&1"))
  local text = pipe:read "a"
  if not pipe:close() then t.fail("%s:\n%s", format:format(...), text) end
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

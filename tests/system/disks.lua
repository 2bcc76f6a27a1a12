-- Linux and its drivers on the pc board's IDE disks and CD-ROM, with bus-master DMA.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local MODULES = { "scsi_common", "scsi_mod", "libata", "ata_piix", "sd_mod", "cdrom", "sr_mod", "isofs" }
local MiB = 1 << 20

-- Linux with these disks, its drivers loaded.
local function boot(t, conf)
  local vm, sh = guests.linux_with(t, MODULES, conf)
  -- Drives are looked for beside the loading of the driver.
  t.match(sh "i=0; until grep -q sda /proc/partitions || [ $i = 300 ]; do sleep 0.1; i=$((i+1)); done; grep -c sda /proc/partitions", "^1")
  return vm, sh
end

local function pattern(size)
  local block = {}
  for i = 1, 4096 do block[i] = string.pack("<I4", (i * 2654435761) & 0xffffffff) end
  block = table.concat(block)
  return block:rep(size // #block)
end

test("Linux reads and writes an IDE disk by DMA, and the file has what it wrote", { timeout = 400 }, function(t)
  local content = pattern(8 * MiB)
  local disk = t.file("disk.img", content .. ("\0"):rep(56 * MiB))
  local vm, sh = boot(t, { hda = disk })
  local bmdma = t.match(sh "dmesg", "ata1: PATA max MWDMA2 cmd 0x1f0 ctl 0x3f6 bmdma (0x%x+) irq 14")
  local started = 0
  vm:pio { port = math.tointeger(tonumber(bmdma)), write = true }:on(function(_, x) started = started + (x.value & 1) end)
  t.match(sh "cat /sys/block/sda/size", "131072")
  local sum = assert(io.popen("sha256sum <" .. disk)):read "a":match "%x+"
  t.match(sh "sha256sum /dev/sda", sum)
  t.ok(started > 100, "%d transfers by DMA", started)
  -- Copied by the guest behind itself, and read back by the host.
  t.eq(sh "dd if=/dev/sda of=/dev/sda bs=1M count=8 seek=16 conv=notrunc,fsync 2>/dev/null; sync", "")
  t.eq(sh "dd if=/dev/sda bs=1M skip=16 count=8 2>/dev/null | cmp - /dev/sda 2>&1 | grep -v EOF", "")
  t.match(sh "mke2fs -q /dev/sda 65536 2>&1; mkdir /x; mount -t ext4 /dev/sda /x && echo mounted", "mounted")
  t.match(sh "cp -r /m /x/ && sync && umount /x && mount -t ext4 /dev/sda /x && cmp /m/libata.ko /x/m/libata.ko && echo same", "same")
  t.eq(sh "umount /x", "")
  t.ok(not (sh "dmesg"):find "I/O error", "Linux met an error")
  vm.serial[1]:write "poweroff -f\n"
  t.eq(vm:wait { rt = 60 }, "shutdown")
  local f = assert(io.open(disk, "rb"))
  f:seek("set", 16 * MiB + 4 * MiB)
  t.ok(content:find(f:read(4096), 1, true), "the host's file lacks what the guest copied")
  f:close()
end)

test("Linux uses four drives at once, a CD-ROM among them", { timeout = 400 }, function(t)
  local function disk(letter) return t.file(letter .. ".img", letter:rep(4 * MiB)) end
  local iso = guests.path(t, "grub-rescue/cdrom.iso")
  local _, sh = boot(t, { hda = disk "a", hdb = disk "b", hdd = disk "d", cdrom = iso })
  -- By their places, as which of them is found first is Linux' affair: channel, then master or slave.
  t.match(sh("for p in 0:0:0:0 0:0:1:0 1:0:1:0; do d=$(ls /sys/class/scsi_disk/$p/device/block);"
    .. " head -c 4194304 /dev/$d | tr -d abd | wc -c; head -c 1 /dev/$d; echo; done"), "^0%s+a%s+0%s+b%s+0%s+d")
  local sum = assert(io.popen("sha256sum <" .. iso)):read "a":match "%x+"
  t.match(sh "sha256sum /dev/sr0", sum)
  t.match(sh "mkdir /c; mount -t iso9660 -o ro /dev/sr0 /c && ls /c/boot", "grub")
  t.eq(sh "for d in sda sdb sdc sr0; do dd if=/dev/$d of=/dev/null bs=64k 2>/dev/null & done; wait; dmesg | grep -c 'I/O error'", "0\n")
end)

local function run(command)
  local p = assert(io.popen(command .. " 2>&1"))
  local out = p:read "a"
  return p:close(), out
end

test("Linux works on a qcow2 overlay of its disk, and qemu-img finds it sound and with what was written", { timeout = 400 }, function(t)
  if not run "qemu-img --version" then t.skip "qemu-img is not there" end
  local base = t.file("base.img", pattern(8 * MiB) .. ("\0"):rep(56 * MiB))
  local disk = base:gsub("base.img$", "disk.qcow2")
  t.ok(run(("qemu-img create -q -f qcow2 -b base.img -F raw -o cluster_size=16k %s"):format(disk)))
  local vm, sh = boot(t, { drive = { { file = disk, discard = "unmap" } } })
  t.match(sh "cmp -n 8388608 /dev/sda /dev/sda && cat /sys/block/sda/size", "131072")
  t.eq(sh "dd if=/dev/sda of=/dev/sda bs=4k count=1500 seek=5000 conv=notrunc,fsync 2>/dev/null; sync", "")
  t.match(sh "mke2fs -q /dev/sda 16384 2>&1; mkdir /x; mount -t ext4 /dev/sda /x && cp -r /m /x/ && sync && echo synced", "synced")
  t.match(sh "cmp /m/libata.ko /x/m/libata.ko && umount /x && echo same", "same")
  t.ok(not (sh "dmesg"):find "I/O error", "Linux met an error")
  local sum = t.match(sh "sync; sha256sum /dev/sda", "%x+")
  vm.serial[1]:write "poweroff -f\n"
  t.eq(vm:wait { rt = 60 }, "shutdown")
  vm:close()
  local ok, out = run(("qemu-img check %s"):format(disk))
  t.ok(ok, out)
  t.ok(run(("qemu-img convert -O raw %s %s.raw"):format(disk, disk)))
  t.match(select(2, run(("sha256sum <%s.raw"):format(disk))), sum)
end)

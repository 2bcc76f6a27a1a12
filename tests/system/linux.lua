-- Debian's kernels, unmodified, to a shell that runs commands.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

-- Seconds of wall time a boot may take before it is called stuck; far above what it takes.
local BOOT = 240

local function boot(t, board, conf)
  conf.accel = "soft"
  conf.append = "console=ttyS0 panic=-1 " .. (conf.append or "")
  local vm = t.machine(board, conf)
  vm:start()
  t.ok(vm.serial[1]:text "ready> ":wait { rt = BOOT })
  return vm, guests.shell(t, vm.serial[1], 60)
end

test("the amd64 kernel boots on the bare board to a shell", { timeout = 300 }, function(t)
  local kernel = guests.path(t, "linux-amd64/vmlinuz")
  local _, sh = boot(t, "bare", { kernel = kernel, initrd = guests.initramfs(t), ram = "192M" })
  t.match(sh "uname -m", "x86_64")
  t.match(sh "cat /proc/interrupts", "ttyS0")
  t.eq(sh "seq 1 2000 | sha256sum", "6251e5743b6fd6a7d606130bdf7c15077ce85ebd3a0fdee284d15a46df199e38  -\n")
end)

test("the i686 kernel boots on the bare board to a shell", { timeout = 300 }, function(t)
  local kernel = guests.path(t, "linux-686/vmlinuz")
  local _, sh = boot(t, "bare", { kernel = kernel, initrd = guests.initramfs(t, "busybox-i386"), ram = "192M" })
  t.match(sh "uname -m", "i686")
  t.match(sh "grep -c processor /proc/cpuinfo", "1")
end)

test("the amd64 kernel boots on the pc board as a PVH image", { timeout = 300 }, function(t)
  local kernel = guests.vmlinux(t, guests.path(t, "linux-amd64/vmlinuz"))
  local vm, sh = boot(t, "pc", { kernel = kernel, initrd = guests.initramfs(t), ram = "256M" })
  t.match(sh "cat /proc/sys/kernel/bootloader_type", "^176") -- what the kernel itself writes there on this way in
  t.match(sh "ls /sys/firmware/acpi/tables", "APIC%s+DSDT%s+FACP")
  vm.serial[1]:write "poweroff -f\n"
  t.eq(vm:wait { rt = 60 }, "shutdown")
end)

-- Kernel messages of levels 0 to 3 and known words of complaint about the board.
local function complaints(sh)
  local out = {}
  for line in (sh "dmesg"):gmatch "[^\n]+" do
    local l = line:lower()

         if l:find "acpi bios" or l:find "acpi error" or l:find "acpi warning" or l:find "apic error"
          or l:find "firmware bug" or l:find "bios bug"
      or l:find "nobody cared" or l:find "unable to" or l:find "call trace" then
      out[#out + 1] = line
    end
  end
  return table.concat(out, "\n")
end

for _, kind in ipairs { { "linux-amd64", "busybox", "x86_64" }, { "linux-686", "busybox-i386", "i686" } } do
  for cpus = 1, 2 do
    test(("%s boots on the pc with %d processors, runs commands and powers off"):format(kind[1], cpus), { timeout = 300 }, function(t)
      local vm, sh = boot(t, "pc", { kernel = guests.path(t, kind[1] .. "/vmlinuz"), initrd = guests.initramfs(t, kind[2]), ram = "256M",
        smp = cpus, serial = { "ring", "ring" } })
      t.match(sh "uname -m", kind[3])
      t.eq(tonumber(sh "grep -c ^processor /proc/cpuinfo"), cpus)
      t.eq(complaints(sh), "")
      t.eq(sh "for i in 1 2 3 4; do (seq 1 2000 | sha256sum) & done; wait",
        ("6251e5743b6fd6a7d606130bdf7c15077ce85ebd3a0fdee284d15a46df199e38  -\n"):rep(4))
      t.match(sh "ls /sys/firmware/acpi/tables", "APIC%s+DSDT%s+FACP")
      t.match(sh "cat /sys/class/dmi/id/sys_vendor", "vmlua")
      local second = vm.serial[2]:text "over the second port"
      vm.serial[1]:write "echo over the second port >/dev/ttyS1\n"
      t.ok(second:wait { rt = 60 })
      vm.serial[1]:write "poweroff -f\n"
      t.eq(vm:wait { rt = 60 }, "shutdown")
    end)
  end
end

test("Linux suspends to RAM, and is woken by the clock, by the power button and by a key", { timeout = 300 }, function(t)
  local vm, sh = boot(t, "pc", { kernel = guests.path(t, "linux-amd64/vmlinuz"), initrd = guests.initramfs(t), ram = "256M", smp = 2,
    bios = "bios-256k.bin" })
  local function sleep(command, wake)
    local woken = vm.serial[1]:text "and awake\r\n"
    vm.serial[1]:write(command .. "; echo and awake\n")
    t.wait_for(function() return vm.suspended end, 60, "the guest to suspend")
    wake(vm)
    t.ok(woken:wait { rt = 60 }, "nothing woke it; firmware said:\n%s", vm.data.debugcon:history():sub(-1000))
  end
  sleep("echo +3600 >/sys/class/rtc/rtc0/wakealarm; echo mem >/sys/power/state", guests.soon)
  sleep("echo mem >/sys/power/state", vm.powerdown)
  sleep("echo mem >/sys/power/state", function() vm:input():key("a", true) end)
  t.match(sh "dmesg | grep -c 'PM: suspend exit'", "^3")
  t.eq(sh "nproc", "2\n")
  vm.serial[1]:write "poweroff -f\n"
  t.eq(vm:wait { rt = 60 }, "shutdown")
end)

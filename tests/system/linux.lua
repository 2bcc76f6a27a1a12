-- Debian's kernels, unmodified, to a shell that runs commands.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

-- Seconds of wall time a boot may take before it is called stuck; far above what it takes.
local BOOT = 240

local function boot(t, conf)
  conf.accel = "soft"
  conf.append = "console=ttyS0 panic=-1 " .. (conf.append or "")
  local vm = t.machine("bare", conf)
  vm:start()
  t.ok(vm.serial[1]:text "ready> ":wait { rt = BOOT })
  return vm, guests.shell(t, vm.serial[1], 60)
end

test("the amd64 kernel boots on the bare board to a shell", { timeout = 300 }, function(t)
  local kernel = guests.path(t, "linux-amd64/vmlinuz")
  local _, sh = boot(t, { kernel = kernel, initrd = guests.initramfs(t), ram = "192M" })
  t.match(sh "uname -m", "x86_64")
  t.match(sh "cat /proc/interrupts", "ttyS0")
  t.eq(sh "seq 1 2000 | sha256sum", "6251e5743b6fd6a7d606130bdf7c15077ce85ebd3a0fdee284d15a46df199e38  -\n")
end)

test("the i686 kernel boots on the bare board to a shell", { timeout = 300 }, function(t)
  local kernel = guests.path(t, "linux-686/vmlinuz")
  local _, sh = boot(t, { kernel = kernel, initrd = guests.initramfs(t, "busybox-i386"), ram = "192M" })
  t.match(sh "uname -m", "i686")
  t.match(sh "grep -c processor /proc/cpuinfo", "1")
end)

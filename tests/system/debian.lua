-- A whole Debian system on its own disk, through SeaBIOS and GRUB: what people run, and what it needs of the board.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local BOOT, MiB = 600, 1 << 20

-- Whether this host's KVM runs whole systems: one without hardware behind it interprets instructions, and lacks some.
local function need_accel(t, accel)
  if accel ~= "kvm" then return end
  local f = assert(io.open "/proc/cpuinfo")
  local flags = f:read "a"
  f:close()
  if not flags:find "%f[%w]vmx%f[%W]" and not flags:find "%f[%w]svm%f[%W]" then
    t.skip "the host CPU has neither vmx nor svm: its KVM cannot run a whole system"
  end
  local kvm, why = io.open("/dev/kvm", "r+b")
  if not kvm then t.skip(why) end
  kvm:close()
end

local function see(t, vm, text)
  if not vm.screen:text(text):wait { rt = BOOT } then t.fail("no %q on the screen:\n%s", text, vm.screen:text() or "(graphics)") end
end

-- The root shell that logs itself in on the first serial port, without echo and prompts.
local function shell(t, vm)
  t.ok(vm.serial[1]:text "root@vmlua:~# ":wait { rt = BOOT }, "no shell came:\n%s", vm.serial[1]:history():sub(-2000))
  vm.serial[1]:write "stty -echo; dmesg -n 1; PS1= exec sh\n"
  return guests.shell(t, vm.serial[1], 300)
end

-- What the kernel says about the board that it should not, and everything of levels "error" and above.
local function complaints(sh)
  local out = {}
  local words = "acpi (bios|error|warning)|apic error|firmware bug|bios bug|nobody cared|pci.*(fail|conflict|cannot)|"
    .. "I/O error|lost interrupt|spurious|timed out"
  for line in sh(("dmesg | grep -iE '%s'; dmesg -l emerg,alert,crit,err"):format(words)):gmatch "[^\n]+" do
    -- Nothing of the kind has extended configuration space.
    if not line:find "fail to add MMCONFIG" then out[#out + 1] = line end
  end
  return table.concat(out, "\n")
end

local function clocks(t, vm, sh)
  t.match(sh "hwclock -r -u", "2030%-01%-02")
  t.eq(sh "date -u -s '2031-05-06 07:08:09' >/dev/null && hwclock -w -u", "")
  t.near(vm.rtc.time, 1935817689, 600)
  t.match(sh "hwclock -r -u", "2031%-05%-06")
  t.match(sh "cat /sys/devices/system/clocksource/clocksource0/available_clocksource", "acpi_pm")
end

local function serial_ports(t, vm, sh)
  local second = vm.serial[2]:text "out of the second port"
  sh "exec 3<>/dev/ttyS1; stty -F /dev/ttyS1 raw -echo; echo out of the second port >&3"
  t.ok(second:wait { rt = 60 })
  vm.serial[2]:write "into the second port\n"
  t.match(sh "head -n 1 <&3; exec 3>&-", "^into the second port")
end

-- Logs in at the screen, with the password, by keys.
local function login_at_screen(t, vm, sh)
  see(t, vm, "vmlua login:")
  vm.keyboard:type "root\n"
  see(t, vm, "Password:")
  vm.keyboard:type "debian\n"
  see(t, vm, "root@vmlua:~#")
  vm.keyboard:type "echo \"typed $((6*7)) {~}\" >/tmp/typed; cat /tmp/typed\n"
  see(t, vm, "typed 42 {~}\n")
  t.eq(sh "cat /tmp/typed", "typed 42 {~}\n")
  vm.keyboard:type "exit\n"
end

-- Several writers at once on a file system of the second disk, all verified from the disk itself; and the CD meanwhile.
local function load_disks(t, sh, iso)
  -- Linux looks for both at once, so that either may be the first it finds.
  local second = "/dev/" .. t.match(sh "for d in sda sdb; do [ $(cat /sys/block/$d/size) = 131072 ] && echo $d; done", "^sd[ab]")
  local root = second == "/dev/sda" and "/dev/sdb" or "/dev/sda"
  local sum = assert(io.popen("sha256sum <" .. iso)):read "a":match "%x+"
  t.match(sh(("mkfs.ext4 -q %s && mkdir /w && mount %s /w && echo mounted"):format(second, second)), "mounted")
  t.eq(sh("cd /w; for i in 1 2 3; do (seq $i 150000 >f$i && dd if=f$i of=g$i bs=4k conv=fsync 2>/dev/null && sync -f g$i) & done; "
    .. "sha256sum /dev/sr0 >/tmp/cd & dd if=" .. root .. " of=/dev/null bs=256k count=80 iflag=direct 2>/dev/null; wait; "
    .. "echo 3 >/proc/sys/vm/drop_caches; for i in 1 2 3; do seq $i 150000 | cmp - f$i; cmp f$i g$i; done"), "")
  t.match(sh "cat /tmp/cd", "^" .. sum)
  t.eq(sh(("cd /; umount /w && e2fsck -fn %s >/dev/null 2>&1 || echo damaged"):format(second)), "")
end

-- Suspended to RAM, woken by the clock's alarm and by the power button.
local function suspend(t, vm, sh)
  local function sleeps(command, wake)
    local woken = vm.serial[1]:text "and awake\r\n"
    vm.serial[1]:write(command .. "; echo and awake\n")
    t.wait_for(function() return vm.suspended end, 120, "the guest to suspend")
    wake(vm)
    t.ok(woken:wait { rt = 120 }, "nothing woke it; firmware said:\n%s", vm.data.debugcon:history():sub(-1000))
  end
  sleeps("rtcwake -m mem -s 3600 >/dev/null", guests.soon)
  sleeps("echo mem >/sys/power/state", vm.powerdown)
  t.match(sh "dmesg | grep -c 'PM: suspend exit'", "^2")
end

local function whole_system(t, accel)
  need_accel(t, accel)
  local disk, second = guests.debian_disk(t), t.file("second.img", ("\0"):rep(64 * MiB))
  local iso = guests.path(t, "grub-rescue/cdrom.iso")
  local vm = t.machine("pc", { accel = accel, ram = "384M", smp = 2, hda = disk, hdb = { file = second, format = "raw" }, cdrom = iso,
    serial = { "ring", "ring" }, rtc = { base = "2030-01-02T03:04:05" } })
  vm:start()
  see(t, vm, "*Debian")
  vm.keyboard:combo "down"
  see(t, vm, "*Debian, rescue mode")
  vm.keyboard:combo "up"
  vm.keyboard:combo "ret"
  local sh = shell(t, vm)
  t.match(sh "systemctl is-system-running --wait", "running")
  t.match(sh "uname -m; nproc; findmnt -no FSTYPE /", "^x86_64%s+2%s+ext4")
  clocks(t, vm, sh)
  serial_ports(t, vm, sh)
  login_at_screen(t, vm, sh)
  load_disks(t, sh, iso)
  suspend(t, vm, sh)
  t.eq(complaints(sh), "")
  -- What was written outlives a restart, which goes through firmware and GRUB again.
  sh "echo kept through a reboot >/root/kept"
  local again = vm.serial[1]:text "Booting `Debian'"
  vm.serial[1]:write "reboot\n"
  t.ok(again:wait { rt = BOOT }, "it did not start again")
  sh = shell(t, vm)
  t.eq(sh "cat /root/kept", "kept through a reboot\n")
  -- The power button: the system shuts down by itself.
  vm:powerdown()
  t.eq(vm:wait { rt = 300 }, "shutdown")
  t.eq(vm.exit_code, 0)
  vm:close()
  return disk
end

for _, accel in ipairs { "soft", "kvm" } do
  test(("under %s Debian boots from its disk, works, sleeps, restarts, and another process goes on with the disk"):format(accel),
    { timeout = 1800 }, function(t)
      local disk = whole_system(t, accel)
      -- Another process, on the same disk: what `./dev demo` runs where there is no terminal.
      local r = t.vmlua { here .. "/../../tools/demo-session.lua", disk, "cat /root/kept" }
      t.eq(r.status, 0, "%s", r.err)
      t.match(r.out, "kept through a reboot\r?\n")
      t.match(r.out, "reboot: Power down")
    end)
end

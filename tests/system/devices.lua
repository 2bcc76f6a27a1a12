-- Linux on the Standard PC uses the small devices of the board: clocks, keyboard, event timers.
local cpio = require "vmlua.cpio"
local test = require "vmlua.test"
local text = require "vmlua.text"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local INIT = [[
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS0 raw
dmesg | grep -i -E 'hpet|rtc_cmos|i8042|serio|input:' > /dev/ttyS0
echo DATE $(hwclock -u -r) > /dev/ttyS0
echo "SETDATE $(date -u -s '2031-05-06 07:08:09' >/dev/null; hwclock -u -w; hwclock -u -r)" > /dev/ttyS0
echo "LINES $(grep -E 'i8042|rtc0|hpet' /proc/interrupts | tr -s ' ' | tr '\n' ';')" > /dev/ttyS0
echo READY > /dev/ttyS0
while read -r line; do echo "TYPED [$line]" > /dev/ttyS0; [ "$line" = off ] && break; done < /dev/tty1
echo "KEYS $(grep i8042 /proc/interrupts | tr -s ' ' | cut -d' ' -f3 | tr '\n' ' ')" > /dev/ttyS0
poweroff -f
]]

local function boot(t, conf)
  local kernel = guests.path(t, "linux-amd64/vmlinuz")
  local busybox = assert(text.read_file(guests.path(t, "busybox/busybox"), 16 << 20))
  conf.accel, conf.ram, conf.kernel = "soft", "192M", kernel
  conf.append = "console=ttyS0 quiet panic=-1"
  conf.initrd = t.file("initrd", cpio.pack {
    { "init", data = INIT:gsub("^%s+", ""), mode = "0755" }, { "bin/busybox", data = busybox, mode = "0755" },
    { "proc", dir = true }, { "sys", dir = true }, { "dev", dir = true }, { "dev/console", char = { 5, 1 } },
  })
  local vm = t.machine("pc", conf)
  vm:start()
  return vm
end

test("Linux finds the devices, sets the clock, and hears what is typed", { timeout = 200 }, function(t)
  local vm = boot(t, { rtc = { base = "2024-02-29T12:00:00" } })
  t.ok(vm.serial[1]:text("READY"):wait { rt = 150 }, "Linux did not come up")
  local log = vm.serial[1]:history()
  for _, line in ipairs { "hpet0: 3 comparators", "rtc_cmos 00:00: registered as rtc0", "i8042 KBD port", "i8042 AUX port",
    "AT Translated Set 2 keyboard" } do
    t.ok(log:find(line, 1, true), "its log has no %q:\n%s", line, log)
  end
  t.match(log, "DATE Thu Feb 29 12:0")
  t.match(log, "SETDATE Tue May  6 07:08:")
  t.near(vm.rtc.time, 1935817689, 600) -- 2031-05-06 07:08:09
  t.ok(vm.keyboard:type("Hello, World! {1} [2] \\ | ~ `^'\"\n", { rt = 30 }))
  t.ok(vm.serial[1]:text("TYPED [Hello, World! {1} [2] \\ | ~ `^'\"]"):wait { rt = 30 }, "other text was read")
  t.ok(vm.keyboard:type("off\n", { rt = 30 }))
  t.ok(vm.serial[1]:text("TYPED [off]"):wait { rt = 30 })
  t.eq(vm:wait { rt = 60 }, "shutdown")
  t.match(vm.serial[1]:history(), "KEYS [1-9]%d+")
end)

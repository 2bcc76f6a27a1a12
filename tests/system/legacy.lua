-- Debian's 32-bit kernel with the drivers of what PCs once had: floppy disk, PS/2 mouse, printer port.
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local MODULES = { "floppy", "fat", "vfat", "nls_cp437", "nls_ascii", "psmouse", "evdev", "parport", "parport_pc", "lp" }

local function boot(t, conf)
  conf.kernel, conf.ram = "linux-686", "192M"
  return guests.linux_with(t, MODULES, conf)
end

local function floppy(t, sh, image)
  t.match(sh "mkdir /f; mount -t vfat /dev/fd0 /f && cat /f/hello.txt", "read from the floppy")
  t.eq(sh "seq 1 20000 >/f/numbers && cp /m/lp.ko /f/ && umount /f", "")
  local sum = t.match(sh "seq 1 20000 | sha256sum", "^%x+")
  t.eq(guests.run(t, "mtype -i %s ::numbers | sha256sum", image):match "^%x+", sum)
  -- All of it, by DMA, in both directions.
  t.match(sh "dd if=/dev/fd0 bs=18k 2>/dev/null | sha256sum", guests.run(t, "sha256sum <%s", image):match "^%x+")
  sh "exec 2>/dev/null; dd if=/dev/fd0 of=/dev/fd0 bs=18k count=20 seek=60 conv=notrunc,fsync; echo 3 >/proc/sys/vm/drop_caches"
  t.eq(sh "dd if=/dev/fd0 bs=18k count=20 >/a; dd if=/dev/fd0 bs=18k skip=60 count=20 | cmp - /a || echo differs", "")
end

-- The events that Linux makes of what the mouse sends: type, code, value.
local function events(sh)
  local list = {}
  local digits = sh([[hexdump -v -e '16/1 "%02x" "\n"' /events]]):gsub("%s", "")
  local bytes = digits:gsub("..", function(hex) return string.char(tonumber(hex, 16)) end)
  for at = 1, #bytes - 15, 16 do -- two words of time come first
    list[#list + 1] = table.concat({ string.unpack("<I2I2i4", bytes, at + 8) }, " ", 1, 3)
  end
  return table.concat(list, "\n") .. "\n"
end

local function mouse(t, vm, sh)
  sh "i=0; until grep -q -i mouse /proc/bus/input/devices || [ $i = 200 ]; do sleep 0.1; i=$((i+1)); done"
  t.match(sh "cat /proc/bus/input/devices", "ImExPS/2 Generic Explorer Mouse")
  local handler = t.match(sh "grep -A 5 -i mouse /proc/bus/input/devices | grep Handlers", "(event%d+)")
  sh(("exec 3</dev/input/%s; cat <&3 >/events & true"):format(handler))
  -- The driver listens when somebody has opened the device.
  t.ok(vm.mouse:move(30, -12, { rt = 60 }))
  t.ok(vm.mouse:click("left", { rt = 60 }))
  t.ok(vm.mouse:wheel(-1, { rt = 60 }))
  local seen
  t.wait_for(function()
    seen = events(sh)
    return seen:find("2 8 ", 1, true)
  end, 60, "the wheel's event")
  sh "killall cat"
  local function sum(code)
    local total = 0
    for value in seen:gmatch("%f[^\n\0]2 " .. code .. " (%-?%d+)\n") do total = total + tonumber(value) end
    return total
  end
  t.eq({ sum(0), sum(1) }, { 30, -12 })
  t.match(seen, "1 272 1\n.*1 272 0\n")
  t.ok(sum(8) ~= 0)
end

test("Linux uses floppy disk and mouse", { timeout = 400 }, function(t)
  guests.need(t, "mformat", "mtools")
  local image = t.tmpdir() .. "/floppy.img"
  guests.run(t, "truncate -s 1440K %s && mformat -i %s -f 1440 :: && mcopy -i %s %s ::hello.txt", image, image, image,
    t.file("hello.txt", "read from the floppy\n"))
  local vm, sh = boot(t, { fda = { file = image, format = "raw" } })
  floppy(t, sh, image)
  mouse(t, vm, sh)
  t.ok(not (sh "dmesg"):find "I/O error", "Linux met an error")
  vm.serial[1]:write "poweroff -f\n"
  t.eq(vm:wait { rt = 60 }, "shutdown")
end)

test("Linux prints", { timeout = 400 }, function(t)
  local paper = t.tmpdir() .. "/paper"
  local vm, sh = boot(t, { parallel = "file:" .. paper })
  t.eq(sh "seq 1 300 >/dev/lp0; sync", "")
  t.wait_for(function() return guests.read(paper):find "\n300\n" end, 60, "the last line on paper")
  vm.serial[1]:write "poweroff -f\n"
  t.eq(vm:wait { rt = 60 }, "shutdown")
end)

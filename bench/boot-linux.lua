-- A kernel and an initramfs of Debian's to the first line of user space: vmlua bench/boot-linux.lua [RUNS]
-- The same files under vmlua -accel soft, translated and interpreted, and under qemu-system-x86_64 -accel tcg, in turns: they enter
-- the kernel directly. Then once from one CD through SeaBIOS and isolinux, which Bochs can boot too. A run ends at the line that
-- init prints. Needs guests/ (tools/fetch-guests); for the CD xorriso and isolinux. What is not installed is left out.
local cpio = require "vmlua.cpio"
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"

local RUNS = math.tointeger(tonumber(arg and arg[1])) or 3
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local bochs = dofile(here .. "/bochs.lua")
local kernel = here .. "/../guests/linux-amd64/vmlinuz"
local LINE = "init is here"
local LIMIT = 300

local function read(path)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read "a"
  f:close()
  return bytes
end

if not io.open(kernel, "rb") then
  print "no guests/linux-amd64: tools/fetch-guests"
  return
end

local dir = assert(fs.mkdtemp "vmlua-bench")
local initrd = dir .. "/initrd"
do
  local f = assert(io.open(initrd, "wb"))
  f:write(cpio.pack {
    { "init", data = "#!/bin/busybox sh\n/bin/busybox mknod /t c 4 64\necho " .. LINE .. " >/t\n/bin/busybox sleep 1000\n", mode = "0755" },
    { "bin/busybox", data = read(here .. "/../guests/busybox/busybox"), mode = "0755" }, { "dev/console", char = { 5, 1 } },
  })
  f:close()
end

-- Runs a program until it has printed LINE, or written it to a file; its wall and CPU seconds.
local function run(argv, file)
  local text, ended = "", false
  local t0 = loop.now()
  local u0, s0 = loop.cpu_time "children"
  local p = assert(process.spawn { argv = argv, stdout = function(bytes) text = text .. (bytes or "") end, stderr = function() end,
    on_exit = function() ended = true end })
  while not text:find(LINE, 1, true) and not ended and loop.now() - t0 < LIMIT * 1e9 do
    sched.sleep(0.01)
    if file and fs.stat(file) then text = read(file) end
  end
  local wall = (loop.now() - t0) / 1e9
  local reached = text:find(LINE, 1, true)
  p:kill(15)
  while not ended do sched.sleep(0.01) end
  local u1, s1 = loop.cpu_time "children"
  return reached and wall, u1 - u0 + s1 - s0
end

local append = "console=ttyS0 quiet"
local function soft(accel)
  return { fs.realpath "/proc/self/exe", "pc.lua", "-accel", accel, "-m", "256", "-kernel", kernel, "-initrd", initrd,
    "-append", append, "-serial", "stdio" }
end
local programs = {
  { "translate=on", soft "soft,translate=on" },
  { "translate=off", soft "soft,translate=off" },
  { "qemu tcg", { "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-kernel", kernel, "-initrd", initrd, "-append", append,
    "-display", "none",
    "-serial", "stdio", "-monitor", "none", "-nodefaults", "-no-reboot" } },
}
local function line(name, result, beside)
  if not result then return print(name .. "    did not get there") end
  print(("%-14s %8.2f %8.2f%s"):format(name, result[1], result[2],
    beside and (" %9.2f %9.2f"):format(result[1] / beside[1], result[2] / beside[2]) or ""))
end

local function table_of(title, rows, runs)
  local best = {}
  for _ = 1, runs do
    for i, p in ipairs(rows) do
      local wall, cpu = run(p[2], p[3])
      if wall and (not best[i] or cpu < best[i][2]) then best[i] = { wall, cpu } end
    end
  end
  print(title)
  print(("%-14s %8s %8s %9s %9s"):format("", "wall", "CPU", "wall/soft", "CPU/soft"))
  for i, p in ipairs(rows) do line(p[1], best[i], best[1]) end
end

table_of(("Debian's amd64 cloud kernel to user space, entered directly, best of %d (seconds)"):format(RUNS), programs, RUNS)

-- The image that all of them can boot.
local function shell(format, ...) return os.execute(format:format(...) .. " >/dev/null 2>&1") end
local iso = dir .. "/cd.iso"
local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  return f:close()
end
local made = shell("mkdir -p %s/cd/isolinux && cp %s %s/cd/isolinux/vmlinuz && cp %s %s/cd/isolinux/initrd", dir, kernel, dir, initrd, dir)
  and shell("cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 %s/cd/isolinux/", dir)
  and write(dir .. "/cd/isolinux/isolinux.cfg", ("default l\nlabel l\nkernel vmlinuz\nappend initrd=initrd %s\n"):format(append))
  and shell("xorriso -as mkisofs -quiet -o %s -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 "
    .. "-boot-info-table %s/cd", iso, dir)
if made then
  local serial = dir .. "/serial.txt"
  local rows = {
    { "translate=on", { fs.realpath "/proc/self/exe", "pc.lua", "-accel", "soft", "-m", "256", "-cdrom", iso, "-serial", "stdio" } },
    { "qemu tcg", { "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-cdrom", iso, "-display", "none", "-serial", "stdio",
      "-monitor", "none", "-net", "none", "-no-reboot" } },
  }
  if shell "command -v bochs-bin" then
    rows[3] = { "bochs", bochs.command(dir, ("megs: 256\nata0-master: type=cdrom, path=%s, status=inserted\nboot: cdrom\n"
      .. "com1: enabled=1, mode=file, dev=%s\n"):format(iso, serial)), serial }
  end
  table_of("The same from a CD, through SeaBIOS and isolinux, once (seconds)", rows, 1)
end
fs.rmtree(dir)

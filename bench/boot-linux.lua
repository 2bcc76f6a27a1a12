-- A kernel and an initramfs of Debian's to the first line of user space: vmlua bench/boot-linux.lua [RUNS]
-- The same files under vmlua -accel soft and under qemu-system-x86_64 -accel tcg, one after the other in turns; both
-- enter the kernel directly, and the runs end at the line that init prints. Needs guests/ (tools/fetch-guests).
local cpio = require "vmlua.cpio"
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"

local RUNS = math.tointeger(tonumber(arg and arg[1])) or 3
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
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

local initrd = os.tmpname()
do
  local f = assert(io.open(initrd, "wb"))
  f:write(cpio.pack {
    { "init", data = "#!/bin/busybox sh\n/bin/busybox mknod /t c 4 64\necho " .. LINE .. " >/t\n/bin/busybox sleep 1000\n", mode = "0755" },
    { "bin/busybox", data = read(here .. "/../guests/busybox/busybox"), mode = "0755" }, { "dev/console", char = { 5, 1 } },
  })
  f:close()
end

-- Runs a program until it has printed LINE; its wall and CPU seconds.
local function run(argv)
  local text, ended = "", false
  local t0 = loop.now()
  local u0, s0 = loop.cpu_time "children"
  local p = assert(process.spawn { argv = argv, stdout = function(bytes) text = text .. (bytes or "") end, stderr = function() end,
    on_exit = function() ended = true end })
  while not text:find(LINE, 1, true) and not ended and loop.now() - t0 < LIMIT * 1e9 do sched.sleep(0.01) end
  local wall = (loop.now() - t0) / 1e9
  local reached = text:find(LINE, 1, true)
  p:kill()
  while not ended do sched.sleep(0.01) end
  local u1, s1 = loop.cpu_time "children"
  return reached and wall, u1 - u0 + s1 - s0
end

local append = "console=ttyS0 quiet"
local function soft(accel)
  return { fs.realpath "/proc/self/exe", "bare.lua", "-accel", accel, "-m", "256", "-kernel", kernel, "-initrd", initrd,
    "-append", append, "-serial", "stdio" }
end
local programs = {
  { "translate=on", soft "soft,translate=on" },
  { "translate=off", soft "soft,translate=off" },
  { "qemu tcg", { "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-kernel", kernel, "-initrd", initrd, "-append", append,
    "-display", "none",
    "-serial", "stdio", "-monitor", "none", "-nodefaults", "-no-reboot" } },
}
print(("Debian's amd64 cloud kernel to user space, best of %d (seconds)"):format(RUNS))
local best = {}
for _ = 1, RUNS do
  for i, p in ipairs(programs) do
    local wall, cpu = run(p[2])
    if wall and (not best[i] or cpu < best[i][2]) then best[i] = { wall, cpu } end
  end
end
os.remove(initrd)
print(("%-12s %8s %8s"):format("", "wall", "CPU"))
for i, p in ipairs(programs) do
  if best[i] then print(("%-12s %8.2f %8.2f"):format(p[1], best[i][1], best[i][2])) else print(p[1] .. "    did not get there") end
end
for i = 1, 2 do
  if best[i] and best[3] then
    print(("%s beside tcg: %.2f times the wall time, %.2f times the CPU time"):format(programs[i][1], best[i][1] / best[3][1],
      best[i][2] / best[3][2]))
  end
end

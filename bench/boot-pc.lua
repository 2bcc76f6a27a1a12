-- How fast and how large the pc board starts, beside QEMU's pc: vmlua bench/boot-pc.lua [RUNS] [debian]
--   1  from exec to the first instruction of a boot sector, through SeaBIOS, and what is resident then without the guest's RAM
--   2  from exec to the first instruction of a kernel of Debian's size that is entered directly, with its initramfs
--   3  with `debian`: guests/debian/disk.qcow2 (tools/make-debian-disk) through SeaBIOS and GRUB to the shell; the same there
-- The programs take turns; wall times are the best of all runs, CPU times those of the same run.
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"

local RUNS = math.tointeger(tonumber(arg and arg[1])) or 5
local WITH_DEBIAN = arg and arg[2] == "debian"
local LIMIT = 600
local SELF = fs.realpath "/proc/self/exe"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local disk = here .. "/../guests/debian/disk.qcow2"

local function file(bytes)
  local path = os.tmpname()
  local f = assert(io.open(path, "wb"))
  f:write(bytes)
  f:close()
  return path
end

-- KiB resident in mappings other than the guest's RAM, which is the only one of its size.
local function resident(pid, ram)
  local total, guest = 0, 0
  local f = io.open(("/proc/%d/smaps"):format(pid))
  if not f then return nil end
  local size
  for line in f:lines() do
    local key, value = line:match "^(%a+): +(%d+) kB"
    if key == "Size" then size = tonumber(value) end
    if key == "Rss" then
      total = total + tonumber(value)
      if size >= ram * 1024 * 3 // 4 then guest = guest + tonumber(value) end
    end
  end
  f:close()
  return total - guest
end

-- Runs a program until it has printed `mark`. Answers wall and CPU seconds, and what is resident then.
local function run(argv, mark, ram)
  local text, ended, at = "", false, nil
  local t0 = loop.now()
  local u0, s0 = loop.cpu_time "children"
  local p = assert(process.spawn { argv = argv, stderr = function() end, on_exit = function() ended = true end,
    stdout = function(bytes)
      text = (text .. (bytes or "")):sub(-4096)
      if not at and text:find(mark, 1, true) then at = loop.now() end
    end })
  while not at and not ended and loop.now() - t0 < LIMIT * 1e9 do sched.sleep(0.005) end
  local rss = at and resident(p.pid, ram)
  p:kill(9)
  while not ended do sched.sleep(0.005) end
  local u1, s1 = loop.cpu_time "children"
  return at and (at - t0) / 1e9, u1 - u0 + s1 - s0, rss
end

local function compare(title, programs, mark, ram, runs)
  local best = {}
  for _ = 1, runs do
    for i, p in ipairs(programs) do
      local wall, cpu, rss = run(p[2], mark, ram)
      if wall and (not best[i] or wall < best[i][1]) then best[i] = { wall, cpu, rss } end
    end
  end
  print(title)
  for i, p in ipairs(programs) do
    local b, q = best[i], best[p.beside]
    if b then
      print(("  %-28s %9.3f s wall %9.3f s CPU %7.1f MiB%s"):format(p[1], b[1], b[2], (b[3] or 0) / 1024,
        q and q ~= b and (" = %.2f, %.2f, %.2f of QEMU's"):format(b[1] / q[1], b[2] / q[2], b[3] / q[3]) or ""))
    else
      print(("  %-28s did not get there"):format(p[1]))
    end
  end
end

local function qemu(accel, ...)
  return { "qemu-system-x86_64", "-accel", accel, "-M", "pc", "-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none",
    ... }
end

local function pair(accel, options, with_qemu)
  local other = accel == "soft" and "tcg" or accel
  return { ("vmlua -accel %s"):format(accel), { SELF, "pc.lua", "-accel", accel, "-serial", "stdio", table.unpack(options) },
    beside = with_qemu }, { ("QEMU -accel %s"):format(other), qemu(other, table.unpack(options)), beside = with_qemu }
end

local accels = { "soft" }
if io.open("/dev/kvm", "r+b") then accels[2] = "kvm" end

local function rows(options, only)
  local list = {}
  for _, accel in ipairs(only or accels) do
    local mine, other = pair(accel, options, #list + 2)
    list[#list + 1], list[#list + 2] = mine, other
  end
  return list
end

-- mov dx, 3f8h; mov al, '!'; out dx, al; cli; hlt
local WRITES = "\xba\xf8\x03\xb0!\xee\xfa\xf4"
local sector = file(WRITES .. ("\0"):rep(510 - #WRITES) .. "\x55\xaa" .. ("\0"):rep((1 << 20) - 512))
compare("exec to the first instruction of a boot sector, through SeaBIOS",
  rows { "-m", "128", "-drive", ("file=%s,format=raw"):format(sector) }, "!", 128, RUNS)

-- A bzImage by its header, of protocol 2.12 and as large as Debian's, whose entries in real, protected and long mode write.
local function kernel()
  local protected = "\x66" .. WRITES -- the same, where operands have 32 bits
  local header = string.pack("<BI2I4I2I2I2I2I2", 1, 0, 0xe0000, 0, 0, 0, 0xaa55, 0x66eb) .. "HdrS"
    .. string.pack("<I2I4I2I2BBI2I4I4I4I4I2BBI4I4I4BBI2I4", 0x20c, 0, 0, 0, 0, 1, 0, 0x100000, 0, 0, 0, 0, 0, 0, 0, 0x7fffffff,
      0x200000, 1, 21, 1, 2047)
    .. ("\0"):rep(4 + 8 + 4 + 4 + 8) .. string.pack("<i8I4I4", 0x100000, 16 << 20, 0)
  local setup = ("\0"):rep(0x1f1) .. header .. WRITES
  return setup .. ("\0"):rep(1024 - #setup) .. protected .. ("\0"):rep(0x200 - #protected) .. protected .. ("\0"):rep(14 << 20)
end
local image, initrd = file(kernel()), file(("\0"):rep(7 << 20))
compare("exec to the first instruction of a kernel that is entered directly (QEMU: through SeaBIOS and its option ROM)",
  rows { "-m", "512", "-kernel", image, "-initrd", initrd, "-append", "quiet" }, "!", 512, RUNS)

if WITH_DEBIAN then
  compare("Debian from its disk, through SeaBIOS and GRUB, to the shell",
    rows({ "-m", "512", "-drive", ("file=%s,format=qcow2"):format(disk), "-snapshot" }, { "soft" }),
    "root@vmlua:~# ", 512, math.min(RUNS, 2))
end
for _, path in ipairs { sector, image, initrd } do os.remove(path) end

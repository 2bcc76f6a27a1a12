-- A guest that reads and writes an IDE disk, here and under QEMU with the same kind of accelerator, the same image and no
-- interrupts: vmlua bench/ide.lua [soft|kvm]. The image is in the host's page cache: what is measured is not a disk. Rates are by
-- CPU time of all threads, the guest's polling included, as a busy host makes wall time say little. Needs nasm.
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local text = require "vmlua.text"

local accel = arg and arg[1] or "soft"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local SECTORS, PIO, DMA, RANDOM = 131072, 128, 500, 4000
-- What, how much of it, its unit.
local rows = {
  { "PIO, READ MULTIPLE, 64 KiB a command", PIO / 16, "MiB" },
  { "DMA read, 128 KiB a command", DMA / 8, "MiB" },
  { "DMA write, 128 KiB a command", DMA / 8, "MiB" },
  { "DMA read, 4 KiB at random", RANDOM, "requests" },
  { "DMA write, 4 KiB at random", RANDOM, "requests" },
}

local dir = assert(fs.mkdtemp "vmlua-bench")
local _ <close> = setmetatable({}, { __close = function() fs.rmtree(dir) end })
local IMAGE, LOG = dir .. "/disk.img", dir .. "/log"

local function run(argv)
  return sched.suspend(function(wake) assert(process.spawn { argv = argv, on_exit = wake }) end)
end

local function make_image()
  local defines = { SECTORS = SECTORS, PIO_ROUNDS = PIO, DMA_ROUNDS = DMA, RANDOM_ROUNDS = RANDOM }
  local argv = { "nasm", "-f", "bin", here .. "/ide.asm", "-o", IMAGE }
  for k, v in pairs(defines) do argv[#argv + 1] = ("-D%s=%d"):format(k, v) end
  assert(run(argv) == 0, "nasm failed")
  local f <close> = assert(io.open(IMAGE, "r+b"))
  f:seek "end"
  local block = ("\x5a"):rep(1 << 20)
  for _ = 1, SECTORS >> 11 do f:write(block) end
end

-- Seconds on a processor of all threads of a process.
local function cpu_time(pid)
  local total = 0
  local tasks = ("/proc/%s/task"):format(pid)
  for _, task in ipairs(fs.listdir(tasks) or {}) do
    local line = text.read_file(("%s/%s/schedstat"):format(tasks, task), 4096)
    total = total + (line and tonumber(line:match "^%d+") or 0)
  end
  return total / 1e9
end

-- CPU seconds of each row, from the moments at which the bytes come.
local function timer(pid)
  local t = { seconds = {} }
  function t.byte(b)
    if b == 1 then t.began = cpu_time(pid)
    elseif b == 2 then t.seconds[#t.seconds + 1] = cpu_time(pid) - t.began
    elseif b == 3 then t.over = true end
  end
  return t
end

local function vmlua()
  local vm <close> = machine.new("pc", { ram = "64M", accel = accel, hda = { file = IMAGE, format = "raw" } })
  local t = timer "self"
  vm:pio { port = 0x402, write = true }:on(function(_, x)
    if x.value < 4 then t.byte(x.value) end
  end)
  vm:start()
  while not t.over and vm.status == "running" do sched.sleep(0.01) end
  return t.seconds
end

local function qemu()
  local p = process.spawn {
    argv = { "qemu-system-x86_64", "-accel", accel == "soft" and "tcg" or accel, "-M", "pc", "-m", "64", "-nodefaults", "-display", "none",
      "-drive", "file=" .. IMAGE .. ",format=raw,if=ide", "-chardev", "file,id=log,path=" .. LOG,
      "-device", "isa-debugcon,iobase=0x402,chardev=log" },
  }
  if not p then return {} end
  local t, at = timer(p.pid), 0
  local limit = loop.now() + 60e9
  while p.running and not t.over and loop.now() < limit do
    local bytes = text.read_file(LOG, 1 << 20) or ""
    for i = at + 1, #bytes do
      if bytes:byte(i) < 4 then t.byte(bytes:byte(i)) end
    end
    at = #bytes
    sched.sleep(0.0005)
  end
  p:kill(9)
  return t.seconds
end

make_image()
local a, b = vmlua(), qemu()
print(("%-40s %12s %12s %10s %7s"):format("IDE a CPU second, " .. accel, "vmlua", "QEMU", "", "ratio"))
for i, r in ipairs(rows) do
  print(("%-40s %12.0f %12s %10s %7s"):format(r[1], r[2] / (a[i] or 0 / 0), b[i] and ("%.0f"):format(r[2] / b[i]) or "-", r[3],
    b[i] and a[i] and ("%.2f"):format(b[i] / a[i]) or "-"))
end

-- Rows of instructions under vmlua soft, translated and interpreted, QEMU's TCG and Bochs: vmlua bench/soft-rows.lua [SECONDS [ROW…]]
-- The same boot sector (bench/rows, assembled here) runs under each, once with few rounds and once with as many as take the
-- it about SECONDS (2) of CPU time; the difference counts, so that starting up does not. How many instructions a round has is
-- what the software CPU counted. Programs that are not installed are left out. Debian's Bochs has its debugger built in.
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local bochs_command = dofile(here .. "/bochs.lua").command
local seconds = tonumber(arg and arg[1]) or 2
local rows = { "integer", "memory", "calls", "compress", "fault", "fault64", "syscall" }
if arg and arg[2] then rows = { table.unpack(arg, 2) } end

local function spawn(argv)
  local ended, out = false, ""
  local u0, s0 = loop.cpu_time "children"
  local function more(s) out = out .. (s or "") end
  local p, err = process.spawn { argv = argv, stdout = more, stderr = more,
    on_exit = function() ended = true end }
  if not p then return nil, err end
  local t0 = loop.now()
  while not ended do
    if loop.now() - t0 > 300e9 then p:kill(9) end
    sched.sleep(0.005)
  end
  local u1, s1 = loop.cpu_time "children"
  return u1 - u0 + s1 - s0, out
end

local dir = os.tmpname()
os.remove(dir)
assert(spawn { "mkdir", dir })

local function assemble(row, rounds)
  local path = ("%s/%s-%d.img"):format(dir, row, rounds)
  local _, out = assert(spawn { "nasm", "-f", "bin", "-I", here .. "/rows/", "-D", "ROUNDS=" .. rounds, "-o", path,
    here .. "/rows/" .. row .. ".asm" })
  local f = assert(io.open(path, "rb"), out)
  local code = f:read "a"
  f:close()
  f = assert(io.open(path, "wb"))
  f:write(code, ("\0"):rep(510 - #code), "\x55\xaa", ("\0"):rep(1474560 - 512))
  f:close()
  return path, code
end

-- Instructions of a run, as the software CPU counts them; and its CPU seconds.
local function count(code, translate)
  local path = dir .. "/kernel.bin"
  local f = assert(io.open(path, "wb"))
  f:write(code)
  f:close()
  local vm = machine.new("bare", { kernel = path, accel = "soft", ram = "16M", translate = translate })
  local u0, s0 = loop.cpu_time()
  vm:start()
  vm:wait { rt = 300 }
  local u1, s1 = loop.cpu_time()
  local n = vm.stats.accel["soft-instructions"]
  vm:close()
  return n, u1 - u0 + s1 - s0
end

local function bochs(image)
  return bochs_command(dir, ("megs: 32\nfloppya: 1_44=%s, status=inserted\nboot: floppy\n"):format(image))
end

local programs = {
  { "tcg", "qemu-system-x86_64", function(image)
    return { "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-display", "none", "-drive", "if=floppy,format=raw,file=" .. image,
      "-device", "isa-debug-exit,iobase=0xf4", "-debugcon", "null", "-net", "none", "-nodefaults" }
  end },
  { "bochs", "bochs-bin", bochs },
}

local function installed(name)
  for path in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    if fs.realpath(path .. "/" .. name) then return true end
  end
end

-- Million instructions a second of a program: as many rounds as give the time that is wanted.
local function measure(program, row, rounds, each)
  local base = spawn(program((assemble(row, 1))))
  for _ = 1, 6 do
    local time = spawn(program((assemble(row, rounds)))) - base
    if time > seconds / 2 then return (rounds - 1) * each / time / 1e6 end
    rounds = math.ceil(rounds * math.min(math.max(seconds / math.max(time, 0.01), 2), 16))
  end
end

print(("%-10s %10s %12s %10s %10s %10s %12s"):format("row", "soft MIPS", "interpreted", "tcg MIPS", "soft/tcg", "bochs MIPS",
  "soft/bochs"))
-- Million instructions a second under soft, rounds that take long enough, instructions of a round.
local function measure_soft(row, translate)
  local _, few = assemble(row, 1)
  local n1, c1 = count(few, translate)
  local rounds, n2, c2, code = 8
  repeat
    rounds = rounds * 4
    _, code = assemble(row, rounds)
    n2, c2 = count(code, translate)
  until c2 - c1 > seconds / 2
  return (n2 - n1) / (c2 - c1) / 1e6, rounds, (n2 - n1) / (rounds - 1)
end
for _, row in ipairs(rows) do
  local mips, rounds, each = measure_soft(row, true)
  local line = ("%-10s %10.1f %12.1f"):format(row, mips, (measure_soft(row, false)))
  for _, p in ipairs(programs) do
    local m = installed(p[2]) and measure(p[3], row, math.ceil(rounds / (p[1] == "bochs" and 16 or 1)), each)
    line = line .. (m and (" %10.1f %10.2f"):format(m, mips / m) or (" %10s %10s"):format("-", "-"))
  end
  print(line)
  io.stdout:flush()
end
spawn { "rm", "-r", dir }

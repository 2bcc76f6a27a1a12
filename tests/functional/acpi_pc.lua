--[[
The ACPI tables that firmware leaves in a Standard PC's memory: iasl takes them apart and compiles them again, for several shapes of the
board; and what they say is what QEMU's say.
]]
local fs = require "vmlua.core.fs"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"
local text = require "vmlua.text"

local QEMU = "/usr/bin/qemu-system-x86_64"
local NOTHING = "No bootable device"

-- Tables by signature, out of memory below 4 GiB that read(addr, n) gives.
local function tables_of(t, read)
  local root
  for at = 0xe0000, 0xffff0, 16 do
    if read(at, 8) == "RSD PTR " then root = string.unpack("<I4", read(at + 16, 4)) end
  end
  t.ok(root, "there is no root pointer")
  local found = {}
  local function take(at)
    local signature, length = string.unpack("<c4I4", read(at, 8))
    found[signature] = read(at, length)
    return found[signature]
  end
  local list = take(root)
  for i = 37, #list, 4 do take((string.unpack("<I4", list, i))) end
  take((string.unpack("<I4", found.FACP, 37)))
  take((string.unpack("<I4", found.FACP, 41)))
  return found
end

local function board(t, conf)
  if not require("vmlua.core.firmware").find "bios-256k.bin" then t.skip "package seabios is not installed" end
  conf.accel = "soft"
  local vm = t.machine("pc", conf)
  local done = vm.data.debugcon:text(NOTHING)
  vm:start()
  t.ok(done:wait { rt = 60 })
  vm:pause()
  return tables_of(t, function(at, n) return vm.memory:read(at, n) end)
end

-- What iasl makes of a table: its source.
local function source_of(t, dir, signature, bytes)
  local path = ("%s/%s.dat"):format(dir, signature)
  t.file(path, bytes)
  local function iasl(arguments)
    local pipe = assert(io.popen(("cd %s && iasl %s 2>&1"):format(dir, arguments)))
    local said = pipe:read "a"
    t.ok(pipe:close(), "iasl %s: %s", arguments, said)
    return said
  end
  local said = iasl("-d " .. path):lower()
  t.ok(not said:find "warning" and not said:find "invalid", "iasl -d %s: %s", signature, said)
  said = iasl(("-p %s/again-%s %s/%s.dsl"):format(dir, signature, dir, signature))
  if signature == "DSDT" then
    t.match(said, "0 Errors, 0 Warnings, 0 Remarks")
  else
    t.ok(not said:find "Error" or said:find "0 Errors", "%s: %s", signature, said)
  end
  return assert(text.read_file(("%s/%s.dsl"):format(dir, signature), 1 << 20))
end

local function need_iasl(t)
  if not fs.stat "/usr/bin/iasl" then t.skip "iasl (package acpica-tools) is not installed" end
end

local shapes = {
  ["one processor"] = { ram = "32M" },
  ["four processors and two nodes"] = { ram = "64M", smp = 4, numa = { { kind = "node", cpus = "0-1" }, { kind = "node", cpus = "2-3" },
    { kind = "dist", src = 0, dst = 1, val = 21 } } },
  ["memory beyond 4 GiB"] = { ram = "5G" },
  ["no event timers, no screen"] = { ram = "32M", no_hpet = true, vga = "none" },
  ["all ports"] = { ram = "32M", serial = { "null", "null", "null", "null" }, parallel = { "null", "null", "null" },
    device = { { "pci-bridge", id = "bridge", addr = "9.0" } } },
  ["nothing but the board"] = { ram = "32M", nodefaults = true },
}

for name, conf in pairs(shapes) do
  test("iasl finds nothing wrong with the tables of a board with " .. name, { timeout = 120 }, function(t)
    need_iasl(t)
    local copy = {}
    for k, v in pairs(conf) do copy[k] = v end
    local found = board(t, copy)
    local dir = t.tmpdir()
    for signature, bytes in pairs(found) do source_of(t, dir, signature, bytes) end
    t.eq(found.HPET ~= nil, not conf.no_hpet)
    t.eq(found.SRAT ~= nil, conf.numa ~= nil)
    -- Boot architecture, bit 2: there is no VGA.
    t.eq(string.unpack("<I2", found.FACP, 110) & 4 ~= 0, conf.vga == "none" or conf.nodefaults == true)
  end)
end

-- QEMU's memory once firmware has found nothing to boot.
local function qemu_tables(t)
  if not fs.stat(QEMU) then t.skip(QEMU .. " is not installed") end
  local dir = t.tmpdir()
  local log, dump = dir .. "/log", dir .. "/memory"
  local p = assert(process.spawn {
    argv = { QEMU, "-accel", "tcg", "-M", "pc", "-m", "32", "-smp", "2", "-display", "none", "-vga", "std", "-nic", "none",
      "-serial", "null", "-parallel", "null", "-monitor", "stdio",
      "-chardev", "file,id=log,path=" .. log, "-device", "isa-debugcon,iobase=0x402,chardev=log" },
    stdin = "pipe", stdout = function() end,
  })
  local function await(what, fn)
    for _ = 1, 3000 do
      local value = fn()
      if value then return value end
      sched.sleep(0.01)
    end
    p:kill(9)
    t.fail("qemu: " .. what)
  end
  await("firmware", function() return (text.read_file(log, 1 << 20) or ""):find(NOTHING, 1, true) end)
  p:write(('pmemsave 0 0x2000000 "%s"\n'):format(dump))
  local memory = await("its memory", function()
    local bytes = text.read_file(dump, 64 << 20)
    return bytes and #bytes == 32 << 20 and bytes
  end)
  p:write "quit\n"
  await("its end", function() return not p.running end)
  return tables_of(t, function(at, n) return memory:sub(at + 1, at + n) end)
end

local function sleep_states(source)
  local out = {}
  for n = 3, 5 do
    local package = source:match(("Name %%(\\?_S%d_?, Package %%b()%%s*%%[^\n]*\n(.-)%%}%%)"):format(n))
      or source:match(("Name %%(\\?_S%d_?, Package.-\n%%s*%%{(.-)%%}%%)"):format(n))
    local values = {}
    for word in (package or ""):gsub("//[^\n]*", ""):gmatch "[%w]+" do
      values[#values + 1] = word == "Zero" and 0 or word == "One" and 1 or math.tointeger(tonumber(word))
    end
    out[n] = table.concat(values, " ")
  end
  return out
end

test("they say what QEMU's say", { timeout = 120 }, function(t)
  need_iasl(t)
  local theirs = qemu_tables(t)
  local ours = board(t, { ram = "32M", smp = 2 })
  -- FADT: the SCI, APM's commands, PM1, timer and GPE registers with their lengths, latencies, alarm and century registers.
  local function fixed(facp)
    return { string.unpack("<I2I4BB", facp, 47), string.unpack("<I4I4I4I4I4I4I4I4", facp, 57) , string.unpack("<BBBBBBBB", facp, 89),
      string.unpack("<I2I2", facp, 97), string.unpack("<BBB", facp, 107) }
  end
  t.eq(fixed(ours.FACP), fixed(theirs.FACP))
  local flags, other = string.unpack("<I4", ours.FACP, 113), string.unpack("<I4", theirs.FACP, 113)
  -- Ours have a reset register (bit 10); QEMU asks for the platform's clock (bit 15), as its TSC may be none.
  t.eq(flags & ~0x400, other & ~0x8000)
  t.eq(ours.APIC:sub(37), theirs.APIC:sub(37)) -- local APICs, I/O APIC, overrides, NMI
  t.eq(ours.HPET:sub(37, 40), theirs.HPET:sub(37, 40))
  t.eq(ours.HPET:sub(45), theirs.HPET:sub(45))
  local dir = t.tmpdir()
  local mine = source_of(t, dir, "DSDT", ours.DSDT)
  t.file(dir .. "/other.dat", theirs.DSDT)
  assert(os.execute(("cd %s && iasl -d other.dat >/dev/null 2>&1"):format(dir)))
  t.eq(sleep_states(mine), sleep_states(assert(text.read_file(dir .. "/other.dsl", 1 << 20))))
  t.eq(sleep_states(mine)[3], "1 1 0 0")
end)

test("PCI interrupts are routed as the PIIX3 is wired", function(t)
  need_iasl(t)
  local source = source_of(t, t.tmpdir(), "DSDT", board(t, { ram = "32M" }).DSDT)
  local n = 0
  for address, pin, link in source:match("_PRT, Package.*"):gmatch "Package %(0x04%)%s*{%s*(%w+),%s*(%w+),%s*LNK(%u),%s*Zero%s*}" do
    local slot = math.tointeger(tonumber(address)) >> 16
    local p = pin == "Zero" and 0 or pin == "One" and 1 or math.tointeger(tonumber(pin))
    local expected = slot == 1 and p == 0 and "S" or ("DABC"):sub((slot + p & 3) + 1, (slot + p & 3) + 1)
    t.eq(link, expected, ("slot %d pin %d"):format(slot, p))
    n = n + 1
  end
  t.eq(n, 128)
end)

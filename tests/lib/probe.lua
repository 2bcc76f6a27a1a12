--[[
One guest here and under QEMU: a list of port and memory accesses, and what was read, by the label that stands before it.

    local p = probe.list()
    p:say "counter 0":out(0x43, 0xe2):inb(0x40)
    local ours, theirs = probe.both(t, p, { firmware = true })     -- { ["counter 0"] = "34" }

The guest is tests/guests/probe.inc: behind firmware a boot sector, without it the firmware itself.
]]
local fs = require "vmlua.core.fs"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local text = require "vmlua.text"

local probe = {}

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local QEMU, END = "/usr/bin/qemu-system-x86_64", "\4"
local SETTINGS = { ram = "128M", smp = 2, base = "2024-02-29T12:00:00", uuid = "2d9a1e3c-8f04-4c55-9f0a-0c6ea1a3b1f7" }

local List = {}
List.__index = List

function probe.list() return setmetatable({}, List) end

local function op(number)
  return function(self, a, b)
    self[#self + 1] = string.pack("<BI4I4", number, a or 0, (b or 0) & 0xffffffff)
    return self
  end
end

List.inb, List.inw, List.inl, List.out, List.outw, List.outl = op(1), op(2), op(3), op(4), op(5), op(6)
List.load8, List.load16, List.load32, List.store8, List.store16, List.store32 = op(7), op(8), op(9), op(10), op(11), op(12)
List.bytes, List.replies, List.delay, List.dump, List.touch = op(13), op(15), op(17), op(18), op(19)

--- What is read from here on belongs to this label. Each is used once.
function List:say(format, ...)
  local label = format:format(...)
  assert(not self[label] and not label:find ":", label)
  self[label] = true
  self[#self + 1] = string.pack("<BI4I4", 16, #label, 0) .. label
  return self
end

--- Waits until the bits of the mask are these.
function List:await(port, mask, value)
  self[#self + 1] = string.pack("<BI4I4", 14, port, mask | value << 8)
  return self
end

function List:code() return table.concat(self) .. ("\0"):rep(9) end

local function assemble(t, name)
  local out = ("%s/%s.bin"):format(t.tmpdir(), name)
  local source = ("%s/../guests/%s.asm"):format(here, name)
  local r = t.vmlua { argv0 = "/usr/bin/nasm", "-f", "bin", "-I", here .. "/../guests/", "-o", out, source }
  t.eq(r.status, 0, r.err)
  return assert(text.read_file(out, 1 << 20))
end

-- The image: a disk, or the firmware of 64 KiB.
local function image(t, list, o)
  local code = list:code()
  if o.firmware then
    assert(#code <= 32 << 10, "the list is too long")
    local path = t.file("probe.img", assemble(t, "probe") .. code)
    local f <close> = assert(io.open(path, "r+b"))
    f:seek("set", (o.size or 1 << 20) - 1)
    f:write "\0"
    return path
  end
  local rom = assemble(t, "proberom")
  assert(#code <= 60 << 10, "the list is too long")
  return t.file("probe.rom", code .. ("\0"):rep(0x10000 - #code - #rom) .. rom)
end

local function parse(said)
  local out = {}
  for label, values in said:gmatch "\n([^:\n]+):([^\n]*)" do out[label] = values:gsub("^ ", "") end
  return out
end

local function run_here(t, path, o)
  local said, ended = {}, false
  local conf = { accel = "soft", ram = SETTINGS.ram, smp = SETTINGS.smp, uuid = SETTINGS.uuid, rtc = { base = SETTINGS.base },
    serial = "null", parallel = "null" }
  if o.floppy then conf.fda = { file = o.floppy, format = "raw" } end
  if o.firmware then conf.hda = { file = path, format = "raw" } else conf.bios = path end
  local vm = t.machine("pc", conf)
  vm:pio { port = 0xe9, write = true }:on(function(_, x)
    local c = string.char(x.value)
    if c == END then ended = true else said[#said + 1] = c end
    return true
  end)
  vm:start()
  t.wait_for(function() return ended end, 60, "the guest's end")
  vm:close()
  return parse(table.concat(said))
end

local function run_qemu(t, path, o)
  local log = t.tmpdir() .. "/qemu.log"
  local argv = { QEMU, "-accel", "tcg", "-M", "pc", "-m", SETTINGS.ram, "-smp", tostring(SETTINGS.smp), "-uuid", SETTINGS.uuid,
    "-rtc", "base=" .. SETTINGS.base, "-display", "none", "-vga", "std", "-nic", "none", "-monitor", "none", "-serial", "null",
    "-parallel", "null", "-debugcon", "file:" .. log }
  if o.firmware then
    table.move({ "-drive", ("file=%s,format=raw"):format(path) }, 1, 2, #argv + 1, argv)
  else
    table.move({ "-bios", path }, 1, 2, #argv + 1, argv)
  end
  if o.floppy then table.move({ "-drive", ("file=%s,format=raw,if=floppy"):format(o.floppy) }, 1, 2, #argv + 1, argv) end
  local p = assert(process.spawn { argv = argv, stderr = function(bytes) if bytes then t.log("qemu: " .. bytes) end end })
  local said = ""
  for _ = 1, 6000 do
    said = text.read_file(log, 1 << 20) or ""
    if said:sub(-1) == END or not p.running then break end
    sched.sleep(0.01)
  end
  p:kill(9)
  t.wait_for(function() return not p.running end, 20, "QEMU's end")
  t.ok(said:sub(-1) == END, "under QEMU the guest did not come to its end: %q", said:sub(-300))
  return parse(said)
end

--- Ends the test as skipped where a program is missing.
function probe.need(t, firmware)
  for _, path in ipairs { QEMU, "/usr/bin/nasm" } do
    if not fs.stat(path) then t.skip(path .. " is not installed") end
  end
  if firmware and not require("vmlua.core.firmware").find "bios-256k.bin" then t.skip "package seabios is not installed" end
end

--- Runs a list on both. Answers what each has read.
---@param o { firmware?: boolean, floppy?: string, size?: integer }
function probe.both(t, list, o)
  local path = image(t, list, o)
  return run_here(t, path, o), run_qemu(t, path, o)
end

--- Compares. `known`: differences that there are to be: patterns of labels, a reason each. One that matches no difference fails, too.
function probe.compare(t, ours, theirs, known)
  local wrong, met = {}, {}
  for label, value in pairs(ours) do
    if value ~= theirs[label] then
      local expected
      for pattern in pairs(known or {}) do
        if label:find(pattern) then expected, met[pattern] = true, true end
      end
      if not expected then wrong[#wrong + 1] = ("%s\n    here %s\n    QEMU %s"):format(label, value, tostring(theirs[label])) end
    end
  end
  for pattern, reason in pairs(known or {}) do
    if not met[pattern] then wrong[#wrong + 1] = ("%s: no difference, though it is said: %s"):format(pattern, reason) end
  end
  table.sort(wrong)
  t.ok(#wrong == 0, "%d differences\n  %s", #wrong, table.concat(wrong, "\n  "))
end

return probe

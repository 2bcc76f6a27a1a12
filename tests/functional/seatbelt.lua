-- A guest that reads and writes everything at random does the process no harm, and after a reset the machine starts as ever.
local fs = require "vmlua.core.fs"
local machine = require "vmlua.machine"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local BATCH, MAGIC = 4096, 0x53454154

local function floppy(t)
  if not fs.stat "/usr/bin/nasm" then t.skip "nasm is not installed" end
  if not require("vmlua.core.firmware").find "bios-256k.bin" then t.skip "package seabios is not installed" end
  local out = t.tmpdir() .. "/guest.bin"
  local r = t.vmlua { argv0 = "/usr/bin/nasm", "-f", "bin", here .. "/../guests/seatbelt.asm", "-o", out }
  t.eq(r.status, 0, r.err)
  local f <close> = assert(io.open(out, "rb"))
  local code = f:read "a"
  return t.file("floppy.img", code .. ("\0"):rep(1474560 - #code))
end

-- Bytes of memory that this process has.
local function resident()
  for line in io.lines "/proc/self/status" do
    local kib = line:match "^VmRSS:%s+(%d+)"
    if kib then return tonumber(kib) << 10 end
  end
end

local function scan(t, accesses, first_seed)
  machine.find "lua-edu" -- brings the type of a PCI device in Lua
  local disk = t.file("disk.img", ("\0"):rep(1 << 20))
  local vm = t.machine("pc", {
    accel = "soft", ram = "32M", smp = 2, serial = { "ring", "ring", "ring", "ring" }, parallel = "null", boot = "a",
    drive = { { ["if"] = "floppy", file = floppy(t), format = "raw", readonly = true } },
    hda = { file = disk, format = "raw" },
    device = { { "edu", id = "edu", addr = "5.0" }, { "pci-bridge", id = "bridge", addr = "6.0" } },
  })
  local seed, done, starts = first_seed, 0, 0
  local nvram = {}
  for i = 0x0e, 0x7f do nvram[i] = vm.rtc.nvram[i] end
  -- The guest's set-up is the user's, who takes it back before each start.
  vm:on_reset(function()
    for i, value in pairs(nvram) do vm.rtc:set_nvram(i, value) end
  end)
  vm:pio { port = 0x5f0, read = true, size = 4 }:on(function(_, x)
    seed, starts = seed + 1, starts + 1
    x.value = seed
    return true
  end)
  vm:pio { port = 0x5f4, write = true, size = 4, value = MAGIC, mask = 0xffffffff }:on(function() done = done + BATCH end)
  local early
  vm:start()
  local last, since = 0, 0
  t.wait_for(function()
    -- What ends a run ends in a reset: power off, a panic that pauses, a triple fault, a processor that waits for ever.
    if vm.status == "shutdown" then vm:reset() end
    if vm.status == "paused" then vm:resume() end
    t.ok(vm.status == "running", "the machine is %s: %s", vm.status, tostring(vm.reason))
    since = done == last and since + 1 or 0
    if done > last then -- whatever a guest has made of it can be saved and loaded
      local saved, why = vm:_torture(done // BATCH % 2 == 0 and "snapshot" or "stream")
      t.ok(saved ~= nil, "%s", why)
    end
    if since > 6000 then
      vm:reset()
      since = 0
    end
    last = done
    if not early and done >= accesses // 4 then early = resident() end
    return done >= accesses
  end, 500, "the scan does not get on")
  t.log(("%d accesses, %d starts"):format(done, starts))
  -- The guest's own memory may have come into being since: RAM and that of the VGA.
  t.ok(resident() - early < 96 << 20, "memory grew from %d to %d bytes", early, resident())
  local before = starts
  vm:reset()
  t.wait_for(function() return starts > before end, 60, "it does not boot again after a reset")
  t.eq(vm.status, "running")
end

-- Fewer where it is run once more: under a garbage collector that stops the world, and beside KVM.
local ACCESSES = (os.getenv "VMLUA_GC" or os.getenv "VMLUA_ACCEL") and 100000 or 1000000

test("a million random accesses of a guest end in nothing but log lines", { timeout = 600 }, function(t) scan(t, ACCESSES, 1) end)

test("so do ten million, from elsewhere", { timeout = 1200, long = true }, function(t) scan(t, 10 * ACCESSES, 1000) end)

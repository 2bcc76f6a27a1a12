-- A guest goes on under another accelerator where it was, whatever controllers that has inside.
local firmware = require "vmlua.core.firmware"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

local function assemble(t, ...)
  local out = t.tmpdir() .. "/moving.bin"
  local r = t.vmlua { argv0 = "/usr/bin/nasm", "-f", "bin", here .. "/../guests/moving.asm", "-o", out, ... }
  t.eq(r.status, 0, r.err)
  return out
end

local SOFT = { accel = "soft" }
local function kvm(irqchip, pit) return { accel = "kvm", irqchip = irqchip, pit = pit } end

local function new(t, image, where)
  return t.machine("bare", { kernel = image, ram = "1M", accel = where.accel, irqchip = where.irqchip, pit = where.pit })
end

-- Runs the guest, and after each letter that it writes takes it to the next machine in turn.
local function tour(t, image, places, by_stream)
  local vms, text, hops = {}, {}, 0
  for i, where in ipairs(places) do
    vms[i] = new(t, image, where)
    vms[i]:pio({ port = 0xe9, write = true }):on(function(_, x)
      text[#text + 1] = string.char(x.value)
      return "pause"
    end)
  end
  local at = 1
  vms[at]:start()
  while true do
    local status, reason = vms[at]:wait { rt = 30 }
    if status ~= "paused" then
      t.log(reason)
      t.eq(table.concat(text), "abcd!efghijklmnopqrstuvwxyz")
      t.eq(status, "shutdown")
      t.eq(vms[at].exit_code, 0x21)
      t.ok(hops >= 26)
      return
    end
    local s, next_one = vms[at]:snapshot(), at % #vms + 1
    if by_stream then
      for addr = 0, 0xfffff, 0x10000 do vms[next_one].memory:write(addr, vms[at].memory:read(addr, 0x10000)) end
      t.ok(vms[next_one]:load_devices(vms[at]:save_devices()))
    else
      vms[next_one]:restore(s)
    end
    s:release()
    at, hops = next_one, hops + 1
    vms[at]:resume()
  end
end

-- Moves at whatever moment a pause meets: halted, in a handler, between two modes.
local function wander(t, image, places)
  local vms, text, at = {}, {}, 1
  for i, where in ipairs(places) do
    vms[i] = new(t, image, where)
    vms[i]:pio({ port = 0xe9, write = true }):on(function(_, x) text[#text + 1] = string.char(x.value) end)
  end
  vms[1]:start()
  for hop = 1, 2000 do
    t.sleep(0.0003 * (hop % 11))
    vms[at]:pause()
    if vms[at].status ~= "paused" then break end
    local s, next_one = vms[at]:snapshot(), at % #vms + 1
    vms[next_one]:restore(s)
    s:release()
    at = next_one
    vms[at]:resume()
  end
  t.eq(table.concat(text), "abcd!efghijklmnopqrstuvwxyz")
  t.eq(vms[at].status, "shutdown")
  t.eq(vms[at].exit_code, 0x21)
end

for _, mode in ipairs { "on", "split", "off" } do
  test("a guest moves at any moment between soft and kvm with irqchip=" .. mode, function(t)
    t.accel "kvm"
    wander(t, mode == "off" and assemble(t) or assemble(t, "-DLAPIC"), { SOFT, kvm(mode) })
  end)
end

test("a guest goes on after each letter in a second machine of the same accelerator", function(t)
  tour(t, assemble(t, "-DLAPIC", "-DDEADLINE"), { SOFT, SOFT })
end)

for _, mode in ipairs { "on", "split" } do
  test("a guest moves between soft and kvm with irqchip=" .. mode, function(t)
    t.accel "kvm"
    tour(t, assemble(t, "-DLAPIC", "-DDEADLINE"), { SOFT, kvm(mode) })
  end)
end

test("a guest moves between soft and kvm with irqchip=off", function(t)
  t.accel "kvm"
  tour(t, assemble(t), { SOFT, kvm "off" })
end)

test("a guest moves between kvm's controllers inside, outside and half there, and soft", function(t)
  t.accel "kvm"
  tour(t, assemble(t, "-DLAPIC"), { kvm "on", kvm "split", kvm("on", false), SOFT })
end)

test("memory and a stream of devices do as well as a snapshot", function(t)
  t.accel "kvm"
  tour(t, assemble(t, "-DLAPIC"), { SOFT, kvm "on" }, true)
end)

-- ---- the PIT -------------------------------------------------------------------------------------------------

-- Starts a one-shot of the longest count, says so, and waits for it.
local one_shot = "\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c" -- xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
  .. "\xc7\x06\x80\x00\x50\x7c\xc7\x06\x82\x00\x00\x00" -- vector 0x20: 0000:7c50
  .. "\xb0\x11\xe6\x20\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xfe\xe6\x21" -- PIC at 0x20, line 0 alone
  .. "\xb0\x30\xe6\x43\xb0\xff\xe6\x40\xb0\xff\xe6\x40" -- PIT: mode 0, 65535
  .. "\xe6\xe9\xfb\xf4\xfa\xb0\x10\xe6\xf4\xf4" -- out 0xe9, al; sti; hlt; cli; mov al, 0x10; out 0xf4, al; hlt
one_shot = one_shot .. ("\x90"):rep(0x50 - #one_shot) .. "\xb0\x20\xe6\x20\xcf" -- mov al, 0x20; out 0x20, al; iret

test("a one-shot of the PIT that is under way goes off wherever the guest is taken", function(t)
  t.accel "kvm"
  local image = t.file("one-shot.bin", one_shot)
  local places = { SOFT, kvm "on", kvm "off" }
  for _, from in ipairs(places) do
    for _, to in ipairs(places) do
      local a, b = new(t, image, from), new(t, image, to)
      a:pio({ port = 0xe9, write = true }):on(function() return "pause" end)
      a:start()
      t.eq(a:wait { rt = 30 }, "paused")
      b:restore(a:snapshot())
      b:resume()
      t.eq(b:wait { rt = 30 }, "shutdown", "from %s %s to %s %s", from.accel, from.irqchip, to.accel, to.irqchip)
    end
  end
end)

-- ---- a PC ----------------------------------------------------------------------------------------------------

for _, mode in ipairs { "on", "split" } do
  test("SeaBIOS goes from soft to kvm with irqchip=" .. mode .. " and back", { timeout = 120 }, function(t)
    t.accel "kvm"
    if not firmware.find "bios-256k.bin" then t.skip "package seabios is not installed" end
    local function pc(where)
      return t.machine("pc", { accel = where.accel, irqchip = where.irqchip, ram = "32M" })
    end
    local vms = { pc(SOFT), pc(kvm(mode)), pc(SOFT) }
    for i, mark in ipairs { "PCI: 32:", "ACPI: parse DSDT", "No bootable device" } do
      if i > 1 then vms[i]:restore(vms[i - 1]:snapshot()) end
      t.ok(vms[i].data.debugcon:text(mark):run_until { rt = 60 }, mark)
    end
  end)
end

-- ---- what the other side has not ------------------------------------------------------------------------------

-- A guest that stands in the middle of its letters, under an accelerator.
local function standing(t, image, where, letter, conf)
  local vm = new(t, image, where)
  for key, value in pairs(conf or {}) do vm[key] = value end
  vm:pio({ port = 0xe9, write = true, value = letter:byte() }):on(function() return "pause" end)
  vm:start()
  t.eq(vm:wait { rt = 30 }, "paused")
  return vm
end

-- The restore is refused with that message, and the machine goes on as if nobody had asked.
local function refused(t, vm, s, message)
  vm.cpus[1].rbx = 0x5151
  vm.memory:write_u32(0x500, 0x77777777)
  t.raises(message, vm.restore, vm, s)
  t.eq(vm.status, "paused")
  t.eq(vm.cpus[1].rbx, 0x5151)
  t.eq(vm.memory:read_u32(0x500), 0x77777777)
end

test("a guest that uses its local APIC is not taken to a machine without", function(t)
  t.accel "kvm"
  local image, other = assemble(t, "-DLAPIC"), new(t, assemble(t), kvm "off")
  refused(t, other, standing(t, image, SOFT, "k"):snapshot(), "the saved guest uses the local APIC, which .* has not %(kvm, irqchip=off%)")
  other:start()
  t.eq(other:wait { rt = 30 }, "shutdown")
end)

test("features that are switched on are named where they are missing", function(t)
  t.accel "kvm"
  local image = assemble(t, "-DLAPIC")
  local vm = standing(t, image, SOFT, "k")
  local other = t.machine("bare", { kernel = image, ram = "1M", accel = "kvm", cpu = "host,-smep" })
  vm.cpus[1].cr4 = vm.cpus[1].cr4 | 1 << 20
  refused(t, other, vm:snapshot(), "cpu 0: the saved guest uses CR4.SMEP, and this machine's processor has no 'smep'")
  t.refuses("CR4.SMEP", other.load_devices, other, vm:save_devices())
end)

test("a guest with KVM's paravirtual clock stays under KVM", function(t)
  t.accel "kvm"
  local image = assemble(t, "-DLAPIC")
  local vm = standing(t, image, kvm "on", "k")
  vm.cpus[1]["msr:0x4b564d01"] = 0x9001
  local s = vm:snapshot()
  refused(t, new(t, image, SOFT), s, "uses KVM's paravirtual clock %(MSR 0x4b564d01%)")
  local again = new(t, image, kvm "on")
  again:restore(s)
  t.eq(again.cpus[1]["msr:0x4b564d01"], 0x9001)
end)

test("a machine with other RAM is not restored into", function(t)
  local image = assemble(t)
  local small = t.machine("bare", { kernel = image, ram = "2M", accel = "soft" })
  refused(t, small, standing(t, image, SOFT, "b"):snapshot(), "")
end)

--[[
The interrupt controllers and the timer of a PC, as far as the accelerator does not bring them:

    irqchip "on"     all are in the accelerator, the PIT too unless `pit` says otherwise
    irqchip "split"  local APICs in the accelerator; PIC, I/O APIC and PIT are devices
    irqchip "off"    PIC and PIT are devices; so are local APICs and I/O APIC, if the accelerator's
                     processors can use local APICs outside of it (soft)

With the PIT comes port 0x61, where software reads its channel 2. An accelerator has both or neither.
]]
local text = require "vmlua.text"

local irqchip = {}

-- The PIT is on line 0; an I/O APIC has that on pin 2, where its firmware tables say it is.
local function ioapic_pin(gsi)
  if gsi == 0 then return 2 end
  if gsi ~= 2 then return gsi end
end

--- Adds to machine `m` what it lacks, wired as in a PC. Answers the devices by name: pic, apic, ioapic, pit, speaker.
--- Option apic: whether local APICs are added where the accelerator has none (default: with accelerator soft).
---@param m machine
---@param options? { apic?: boolean }
---@return { pic: device?, apic: device?, ioapic: device?, pit: device?, speaker: device? }
function irqchip.add(m, options)
  for key in pairs(options or {}) do
    if key ~= "apic" then error(text.unknown("option", tostring(key), { "apic" }), 2) end
  end
  local apics = options and options.apic
  if apics == nil then apics = m.accel == "soft" end
  local made = {}
  if m.irqchip == "off" and apics then made.apic = m:device("apic", { id = "apic", cpus = #m.cpus }) end
  if m.irqchip ~= "on" then
    made.pic = m:device("isa-pic", { id = "pic" })
    made.pic:connect("intr", 0, made.apic and made.apic:irq "lint0" or m:intr())
    for n = 0, 15 do
      if n ~= 2 then m:connect_gsi(n, made.pic:irq(nil, n)) end
    end
  end
  if m.irqchip == "split" or made.apic then
    made.ioapic = m:device("ioapic", { id = "ioapic" })
    for n = 0, 23 do
      local pin = ioapic_pin(n)
      if pin then m:connect_gsi(n, made.ioapic:irq(nil, pin)) end
    end
  end
  if not m.kernel_pit then
    made.pit = m:device("isa-pit", { id = "pit" })
    made.pit:connect("irq", 0, 0)
    made.speaker = m:device("isa-pcspk", { id = "speaker", pit = made.pit })
  end
  return made
end

return irqchip

--[[
What the ACPI machine language of a PC (i440FX, PIIX3, PIIX4) says: the PCI host bridge with its windows and
interrupt routing, ISA devices that are there, processors, sleep states, the power button's event.

Sources: ACPI specification 6.4, chapters 5.7 to 6.2; Intel 82371AB (PIIX4) 4.1 for the PIRQ routing registers;
PCI Firmware specification 3.0 for _CRS and _PRT of a host bridge.
]]
local aml = require "vmlua.acpi.aml"

local dsdt = {}

-- What PCI's links can be routed to: lines that no ISA device of the board has.
local LINES = { 5, 10, 11 }
local REGISTERS = "\\_SB.PCI0.ISA.PRQ%d"

-- The four PIRQ registers of the ISA bridge (configuration space 60h-63h) as link devices; bit 7: not routed.
local function link_device(n)
  local register = aml.path(REGISTERS:format(n))
  return aml.device("LNK" .. string.char(0x41 + n),
    aml.name("_HID", aml.eisaid "PNP0C0F"),
    aml.name("_UID", n + 1),
    aml.name("_PRS", aml.resources { aml.interrupts(LINES) }),
    aml.method("_STA", 0, aml.if_(aml.and_(register, 0x80), aml.ret(0x09)), aml.ret(0x0b)),
    aml.method("_DIS", 0, aml.or_(register, 0x80, register)),
    aml.method("_CRS", 0, aml.ret(aml.call("CRSP", register))),
    aml.serialized("_SRS", 1, aml.create_dword_field(aml.arg(0), 5, "IRQN"), aml.store(aml.path "IRQN", register)))
end

-- Slot s, pin p is on link (s + p - 1) mod 4; the power management function's INTA is line 9, through link A of its own.
local function interrupt_routing()
  local list = {}
  for slot = 0, 31 do
    for pin = 0, 3 do
      local link = "LNK" .. string.char(0x41 + (slot + pin + 3) % 4)
      if slot == 1 and pin == 0 then link = "LNKS" end
      list[#list + 1] = aml.package { slot << 16 | 0xffff, pin, aml.path(link), 0 }
    end
  end
  return aml.name("_PRT", aml.package(list))
end

local function sci_link(sci)
  local resources = aml.resources { aml.interrupts { sci } }
  return aml.device("LNKS",
    aml.name("_HID", aml.eisaid "PNP0C0F"), aml.name("_UID", 0), aml.name("_PRS", resources),
    aml.method("_STA", 0, aml.ret(0x0b)), aml.method("_DIS", 0), aml.method("_CRS", 0, aml.ret(aml.path "_PRS")),
    aml.method("_SRS", 1))
end

local function host_windows(c)
  local list = {
    aml.word_bus(0, 0xff), aml.io(0xcf8, 0xcf8, 1, 8), aml.word_io(0, 0xcf7), aml.word_io(0xd00, 0xffff),
    aml.dword_memory(0xa0000, 0xbffff, true), aml.dword_memory(c.pci_hole[1], c.pci_hole[2] - 1),
  }
  if c.pci_hole64 then list[#list + 1] = aml.qword_memory(c.pci_hole64[1], c.pci_hole64[2] - 1) end
  return aml.resources(list)
end

local function isa_device(name, hid, uid, resources, ...)
  return aml.device(name, aml.name("_HID", aml.eisaid(hid)), uid and aml.name("_UID", uid) or "",
    aml.name("_STA", 0x0f), aml.name("_CRS", aml.resources(resources)), ...)
end

local function isa_devices(c)
  local list = { isa_device("RTC", "PNP0B00", nil, { aml.io(0x70, 0x70, 1, 8), aml.irq { 8 } }) }
  local function add(...) list[#list + 1] = isa_device(...) end
  if c.keyboard then
    add("KBD", "PNP0303", nil, { aml.io(0x60, 0x60, 1, 1), aml.io(0x64, 0x64, 1, 1), aml.irq { 1 } })
    add("MOU", "PNP0F13", nil, { aml.irq { 12 } })
  end
  if c.floppy then
    add("FDC0", "PNP0700", nil, { aml.io(0x3f2, 0x3f2, 0, 4), aml.io(0x3f7, 0x3f7, 0, 1), aml.irq { 6 }, aml.dma { 2 } },
      aml.name("_FDE", aml.buffer(string.pack("<I4I4I4I4I4", c.floppy >= 1 and 1 or 0, c.floppy >= 2 and 1 or 0, 0, 0, 2))))
  end
  for i, port in ipairs(c.parallel or {}) do
    local n = port.iobase & 7 == 0 and 8 or 4 -- at 0x3bc: the printer's three, and one
    add("LPT" .. i, "PNP0400", i, { aml.io(port.iobase, port.iobase, n, n), aml.irq { port.irq } })
  end
  for i, port in ipairs(c.serial or {}) do
    add("COM" .. i, "PNP0501", i, { aml.io(port.iobase, port.iobase, 0, 8), aml.irq { port.irq } })
  end
  return table.concat(list)
end

local function bridge(c)
  return aml.device("ISA", aml.name("_ADR", 0x00010000),
    aml.operation_region("P40C", "pci_config", 0x60, 4),
    aml.field("P40C", "byte", { { "PRQ0", 8 }, { "PRQ1", 8 }, { "PRQ2", 8 }, { "PRQ3", 8 } }),
    isa_devices(c))
end

local function links(c)
  -- The resources of a link: the line that its register names, none while it is not routed.
  local crs = aml.name("PRR0", aml.resources { aml.interrupts { 0 } }) .. aml.serialized("CRSP", 1,
    aml.create_dword_field(aml.path "PRR0", 5, "PRRI"),
    aml.if_(aml.lless(aml.arg(0), 0x80), aml.store(aml.arg(0), aml.path "PRRI")),
    aml.ret(aml.path "PRR0"))
  local parts = { crs, sci_link(c.sci) }
  for n = 0, 3 do parts[#parts + 1] = link_device(n) end
  return table.concat(parts)
end

local function processors(c)
  local parts = {}
  for id = 0, c.cpus - 1 do
    parts[#parts + 1] = aml.device(("C%03X"):format(id), aml.name("_HID", aml.string "ACPI0007"), aml.name("_UID", id))
  end
  return aml.scope("\\_SB", table.concat(parts))
end

local function sleep_state(name, typ) return aml.name(name, aml.package { typ, typ, 0, 0 }) end

--- The body of the DSDT, and of no SSDT: all that a PC has is known when it is built.
---@param c table as acpi.build has it
---@return string
function dsdt.body(c)
  local parts = {
    aml.scope("\\_SB",
      aml.device("PCI0",
        aml.name("_HID", aml.eisaid "PNP0A03"), aml.name("_UID", 0),
        aml.name("_CRS", host_windows(c)),
        interrupt_routing(),
        bridge(c))),
    processors(c),
  }
  parts[#parts + 1] = aml.scope("\\_SB", links(c))
  if c.hpet then
    parts[#parts + 1] = aml.scope("\\_SB", aml.device("HPET", aml.name("_HID", aml.eisaid "PNP0103"), aml.name("_UID", 0),
      aml.name("_STA", 0x0f), aml.name("_CRS", aml.resources { aml.memory32(0xfed00000, 0x400, false) })))
  end
  if c.fw_cfg then
    parts[#parts + 1] = aml.scope("\\_SB.PCI0", aml.device("FWCF", aml.name("_HID", aml.string "QEMU0002"),
      aml.name("_STA", 0x0b), aml.name("_CRS", aml.resources { aml.io(0x510, 0x510, 1, 12) })))
  end
  if c.pvpanic then
    parts[#parts + 1] = aml.scope("\\_SB.PCI0.ISA", aml.device("PEVT", aml.name("_HID", aml.string "QEMU0001"),
      aml.name("_STA", 0x0f), aml.name("_CRS", aml.resources { aml.io(c.pvpanic, c.pvpanic, 1, 1) }),
      aml.operation_region("PEOR", "system_io", c.pvpanic, 1), aml.field("PEOR", "byte", { { "PEPT", 8 } }),
      aml.method("RDPT", 0, aml.ret(aml.path "PEPT")), aml.method("WRPT", 1, aml.store(aml.arg(0), aml.path "PEPT"))))
  end
  if c.s3 ~= false then parts[#parts + 1] = sleep_state("_S3", 1) end
  if c.s4 ~= false then parts[#parts + 1] = sleep_state("_S4", 2) end
  parts[#parts + 1] = sleep_state("_S5", 0)
  return table.concat(parts)
end

return dsdt

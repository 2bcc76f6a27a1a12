--[[
ACPI tables other than the DSDT. Source: ACPI specification 6.4, chapter 5.2; HPET: IA-PC HPET specification
1.0a, 3.2.4; WAET: Windows ACPI Emulated Devices Table 1.0.

Each function answers one table without its checksum and with zeros where addresses of other tables go:
{ signature, bytes, pointers = { { offset, size, signature of the other } } }. `acpi/init.lua` puts them together.
]]
local tables = {}

local pack = string.pack
local OEM_ID, OEM_TABLE, CREATOR = "VMLUA ", "VMLUAPC ", "VMLU"

--- A table with its header; checksum zero.
---@param signature string
---@param revision integer
---@param body string
---@param pointers? table
---@return table
function tables.make(signature, revision, body, pointers)
  local head = pack("<c4I4I1I1c6c8I4c4I4", signature, 36 + #body, revision, 0, OEM_ID, OEM_TABLE, 1, CREATOR, 1)
  return { signature = signature, bytes = head .. body, pointers = pointers or {} }
end

-- Generic address structure of a port.
local function port(addr, bits, size) return pack("<I1I1I1I1i8", 1, bits, 0, size, addr) end
local no_address = ("\0"):rep(12)

-- FADT flags
local WBINVD, PROC_C1, SLP_BUTTON, RTC_S4, TMR_VAL_EXT, RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 7, 1 << 8, 1 << 10
local FORCE_CLUSTER = 1 << 18
-- Boot architecture flags
local LEGACY_DEVICES, I8042, NO_VGA, NO_CMOS_RTC = 1, 2, 4, 1 << 5

--- The fixed hardware: PIIX4's power management at `pm_base`, interrupt `sci`.
function tables.fadt(c)
  local pm = c.pm_base
  local arch = LEGACY_DEVICES | (c.keyboard and I8042 or 0) | (c.vga and 0 or NO_VGA) | (c.rtc == false and NO_CMOS_RTC or 0)
  local flags = WBINVD | PROC_C1 | SLP_BUTTON | RTC_S4 | RESET_REG_SUP | (c.pm_timer_bits == 32 and TMR_VAL_EXT or 0)
  if c.cpus > 8 then flags = flags | FORCE_CLUSTER end
  local body = pack("<I4I4I1I1I2I4I1I1I1I1", 0, 0, 0, 1, c.sci, 0xb2, 0xf1, 0xf0, 0, 0)
    .. pack("<I4I4I4I4I4I4I4I4", pm, 0, pm + 4, 0, 0, pm + 8, c.gpe_base, 0)
    .. pack("<I1I1I1I1I1I1I1I1", 4, 2, 0, 4, 4, 0, 0, 0)
    .. pack("<I2I2I2I2I1I1I1I1I1", 0xfff, 0xfff, 0, 0, 0, 0, 0, 0, 0x32)
    .. pack("<I2I1I4", arch, 0, flags) .. port(0xcf9, 8, 1) .. pack("<I1I2I1", 0x0f, 0, 1)
    .. pack("<i8i8", 0, 0)
    .. port(pm, 32, 2) .. no_address .. port(pm + 4, 16, 2) .. no_address .. no_address .. port(pm + 8, 32, 3)
    .. port(c.gpe_base, 32, 1) .. no_address .. no_address .. no_address
  return tables.make("FACP", 5, body, { { 36, 4, "FACS" }, { 40, 4, "DSDT" }, { 140, 8, "DSDT" } })
end

--- The structure that firmware and system share. It has no checksum.
function tables.facs()
  return { signature = "FACS", align = 64, no_checksum = true, pointers = {},
    bytes = pack("<c4I4I4I4I4I4i8I1", "FACS", 64, 0, 0, 0, 0, 0, 2) .. ("\0"):rep(31) }
end

--- Interrupt controllers: one local APIC a processor, one I/O APIC, and how ISA's lines reach it.
function tables.madt(c)
  local parts = { pack("<I4I4", 0xfee00000, 1) }
  for id = 0, c.cpus - 1 do
    if id < 255 then
      parts[#parts + 1] = pack("<I1I1I1I1I4", 0, 8, id, id, 1)
    else
      parts[#parts + 1] = pack("<I1I1I2I4I4I4", 9, 16, 0, id, 1, id)
    end
  end
  parts[#parts + 1] = pack("<I1I1I1I1I4I4", 1, 12, c.ioapic_id or 0, 0, 0xfec00000, 0)
  parts[#parts + 1] = pack("<I1I1I1I1I4I2", 2, 10, 0, 0, 2, 0) -- the PIT is on pin 2
  for _, line in ipairs { 5, 9, 10, 11 } do -- active high, level: the SCI and what PCI's links can be routed to
    parts[#parts + 1] = pack("<I1I1I1I1I4I2", 2, 10, 0, line, line, 0x0d)
  end
  parts[#parts + 1] = pack("<I1I1I1I2I1", 4, 6, 0xff, 0, 1) -- NMI on LINT1
  if c.cpus > 255 then parts[#parts + 1] = pack("<I1I1I2I4I1I1I1I1", 0x0a, 12, 0, 0xffffffff, 1, 0, 0, 0) end
  return tables.make("APIC", 3, table.concat(parts))
end

--- The event timers at 0xfed00000; `id` is the low half of their capabilities.
function tables.hpet(id)
  return tables.make("HPET", 1, pack("<I4", id) .. pack("<I1I1I1I1i8", 0, 64, 0, 0, 0xfed00000) .. pack("<I1I2I1", 0, 0, 0))
end

--- Tells Windows that the RTC's and the PM timer's flaws of old chip sets are not here.
function tables.waet() return tables.make("WAET", 1, pack("<I4", 3)) end

--- Nodes of memory and processors: { { cpus = { 0, 1 }, memory = { { addr, size }, … } }, … }.
function tables.srat(nodes)
  local parts = { pack("<I4i8", 1, 0) }
  for n, node in ipairs(nodes) do
    local domain = n - 1
    for _, id in ipairs(node.cpus) do
      if id < 255 then
        parts[#parts + 1] = pack("<I1I1I1I1I4I1I3I4", 0, 16, domain & 0xff, id, 1, 0, domain >> 8, 0)
      else
        parts[#parts + 1] = pack("<I1I1I2I4I4I4I4I4", 2, 24, 0, domain, id, 1, 0, 0)
      end
    end
    for _, range in ipairs(node.memory) do
      parts[#parts + 1] = pack("<I1I1I4I2i8i8I4I4i8", 1, 40, domain, 0, range[1], range[2], 0, 1, 0)
    end
  end
  return tables.make("SRAT", 1, table.concat(parts))
end

--- Distances between nodes: rows of numbers.
function tables.slit(rows)
  local parts = { pack("<i8", #rows) }
  for _, row in ipairs(rows) do parts[#parts + 1] = string.char(table.unpack(row)) end
  return tables.make("SLIT", 1, table.concat(parts))
end

return tables

--[[
The ACPI tables of a PC, built when the machine is: as files of fw_cfg with the commands by which firmware
puts them into memory (SeaBIOS, OVMF), or laid out at an address for a start without firmware.

    local set = acpi.build { cpus = 2, pm_base = 0x600, gpe_base = 0x60c, pci_hole = { 0xc0000000, 0xfec00000 }, … }
    fw_cfg:add("etc/acpi/tables", set:files().tables)
    local placed = set:place(0x7fff0000)
    vm:place(0x7fff0000, placed.bytes)
    vm:place(0xe0000, placed.root)

Source: ACPI specification 6.4, chapter 5.2; the commands are those that SeaBIOS' romfile_loader.h names.
]]
local strict = require "vmlua.strict"
local aml = require "vmlua.acpi.aml"
local dsdt = require "vmlua.acpi.dsdt"
local tables = require "vmlua.acpi.tables"

local acpi = { aml = aml, tables = tables }

local Set = {}
Set.__index = Set

local TABLES, RSDP, LOADER = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
local ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
local ZONE_HIGH, ZONE_FSEG = 1, 2

local function checksum(bytes)
  local sum = 0
  for i = 1, #bytes do sum = sum + bytes:byte(i) end
  return -sum & 0xff
end
local function poke(bytes, offset, value) return bytes:sub(1, offset) .. value .. bytes:sub(offset + #value + 1) end

---@class AcpiConfig
---@field cpus integer processors, APIC ids from 0
---@field pm_base integer ports of power management (PIIX4: PMBASE)
---@field gpe_base integer ports of general-purpose events
---@field sci? integer line of its interrupt (9)
---@field pm_timer_bits? integer 24 or 32 (24)
---@field pci_hole integer[] { first, end } of PCI's memory below 4 GiB
---@field pci_hole64? integer[] the same above RAM
---@field serial? table[] { iobase, irq } each, and so parallel
---@field parallel? table[]
---@field keyboard? boolean there is an i8042
---@field floppy? integer how many drives; nil: no controller
---@field vga? boolean
---@field hpet? integer low half of the event timers' capabilities; nil: none
---@field fw_cfg? boolean
---@field pvpanic? integer its port
---@field nodes? table[] { cpus, memory } each: -numa
---@field distances? integer[][]
---@field ioapic_id? integer
---@field s3? boolean suspend to RAM is offered (true), and so s4
---@field s4? boolean

local SPEC = {
  cpus = "!integer", pm_base = "!integer", gpe_base = "!integer", sci = "integer", pm_timer_bits = "integer", pci_hole = "!table",
  pci_hole64 = "table", serial = "table", parallel = "table", keyboard = "boolean", floppy = "integer", vga = "boolean", hpet = "integer",
  fw_cfg = "boolean", pvpanic = "integer", nodes = "table", distances = "table", ioapic_id = "integer", s3 = "boolean", s4 = "boolean",
  rtc = "boolean",
}

--- Builds the tables of a PC.
---@param config AcpiConfig
---@param extra? string[] whole tables more, such as `-acpitable` names
---@return AcpiSet
function acpi.build(config, extra)
  strict.check("acpi", config, SPEC)
  local c = setmetatable({ sci = config.sci or 9 }, { __index = config })
  local list = { tables.facs(), tables.make("DSDT", 2, dsdt.body(c)), tables.fadt(c), tables.madt(c) }
  if c.hpet then list[#list + 1] = tables.hpet(c.hpet) end
  list[#list + 1] = tables.waet()
  if c.nodes then list[#list + 1] = tables.srat(c.nodes) end
  if c.distances then list[#list + 1] = tables.slit(c.distances) end
  for _, bytes in ipairs(extra or {}) do list[#list + 1] = { signature = bytes:sub(1, 4), bytes = bytes, pointers = {} } end
  -- The roots point to all but what the FADT points to.
  local root, wide = {}, {}
  for _, t in ipairs(list) do
    if t.signature ~= "FACS" and t.signature ~= "DSDT" then
      root[#root + 1] = { 36 + 4 * #root, 4, t }
      wide[#wide + 1] = { 36 + 8 * #wide, 8, t }
    end
  end
  list[#list + 1] = tables.make("RSDT", 1, ("\0"):rep(4 * #root), root)
  list[#list + 1] = tables.make("XSDT", 1, ("\0"):rep(8 * #wide), wide)
  local at, by_signature = 0, {}
  for _, t in ipairs(list) do
    local align = t.align or 16
    at = (at + align - 1) & -align
    t.offset = at
    at = at + #t.bytes
    by_signature[t.signature] = by_signature[t.signature] or t
  end
  for _, t in ipairs(list) do
    for _, p in ipairs(t.pointers) do
      if type(p[3]) == "string" then p[3] = by_signature[p[3]] end
    end
  end
  local set = setmetatable({ list = list, size = at, rsdt = by_signature.RSDT, xsdt = by_signature.XSDT }, Set)
  return set
end

---@class AcpiSet
---@field list table[] the tables in order: signature, bytes, offset
---@field size integer bytes of all of them

-- Every table at its place, its pointers made by `address` of an offset, checksums where they can be known.
local function lay_out(set, base)
  local parts, at = {}, 0
  for _, t in ipairs(set.list) do
    parts[#parts + 1] = ("\0"):rep(t.offset - at)
    local bytes = t.bytes
    for _, p in ipairs(t.pointers) do bytes = poke(bytes, p[1], string.pack("<I" .. p[2], base + p[3].offset)) end
    if base ~= 0 and not t.no_checksum then
      bytes = poke(bytes, 9, "\0")
      bytes = poke(bytes, 9, string.char(checksum(bytes)))
    end
    parts[#parts + 1] = bytes
    at = t.offset + #bytes
  end
  return table.concat(parts)
end

local function root_pointer(set, base)
  local bytes = string.pack("<c8I1c6I1I4I4i8I1I3", "RSD PTR ", 0, "VMLUA ", 2, base + set.rsdt.offset, 36, base + set.xsdt.offset, 0, 0)
  if base == 0 then return bytes end
  bytes = poke(bytes, 8, string.char(checksum(bytes:sub(1, 20))))
  return poke(bytes, 32, string.char(checksum(bytes)))
end

--- The files for fw_cfg: `tables`, `rsdp`, and `loader`, the commands that firmware follows.
---@return { tables: string, rsdp: string, loader: string }
function Set:files()
  local commands = {}
  local function command(number, body) commands[#commands + 1] = string.pack("<I4", number) .. body .. ("\0"):rep(124 - #body) end
  local function allocate(file, align, zone) command(ALLOCATE, string.pack("<c56I4I1", file, align, zone)) end
  local function point(file, to, offset, size) command(ADD_POINTER, string.pack("<c56c56I4I1", file, to, offset, size)) end
  local function sum(file, at, start, length) command(ADD_CHECKSUM, string.pack("<c56I4I4I4", file, at, start, length)) end
  allocate(RSDP, 16, ZONE_FSEG)
  allocate(TABLES, 64, ZONE_HIGH)
  for _, t in ipairs(self.list) do
    for _, p in ipairs(t.pointers) do point(TABLES, TABLES, t.offset + p[1], p[2]) end
    if not t.no_checksum then sum(TABLES, t.offset + 9, t.offset, #t.bytes) end
  end
  point(RSDP, TABLES, 16, 4)
  point(RSDP, TABLES, 24, 8)
  sum(RSDP, 8, 0, 20)
  sum(RSDP, 32, 0, 36)
  return { tables = lay_out(self, 0), rsdp = root_pointer(self, 0), loader = table.concat(commands) }
end

acpi.FILES = { tables = TABLES, rsdp = RSDP, loader = LOADER }

--- The tables as they are in memory from `base` (a multiple of 64), and the root pointer that belongs to them.
---@param base integer
---@return { bytes: string, root: string }
function Set:place(base)
  if base == 0 or base & 63 ~= 0 then error(("ACPI tables at 0x%x: not a multiple of 64"):format(base), 2) end
  return { bytes = lay_out(self, base), root = root_pointer(self, base) }
end

return acpi

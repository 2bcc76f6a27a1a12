--[[
Kernels with the PVH entry point: ELF files with a note that gives a 32-bit address.

Source: Xen's public headers, "x86/HVM direct boot ABI": note 18 of owner "Xen"; EBX points to the start
information; flat 32-bit segments, paging off.
]]
local elf = require "vmlua.loader.elf"

local pvh = {}

local PT_NOTE = 4
local XEN_ELFNOTE_PHYS32_ENTRY = 18
local MAGIC = 0x336ec578
local NOTES_MAX = 1 << 20

--- The entry point that the notes of an ELF file name, or nil.
---@param bytes string
---@return integer?
function pvh.entry(bytes)
  local h = elf.header(bytes)
  if not h then return nil end
  for i = 0, h.phnum - 1 do
    local at = h.phoff + i * h.phentsize + 1
    local kind, offset, size
    if h.wide then
      kind, offset = string.unpack("<I4xxxxi8", bytes, at)
      size = string.unpack("<i8", bytes, at + 32)
    else
      kind, offset = string.unpack("<I4I4", bytes, at)
      size = string.unpack("<I4", bytes, at + 16)
    end
    if kind == PT_NOTE and offset >= 0 and size >= 0 and offset <= #bytes and size <= math.min(#bytes - offset, NOTES_MAX) then
      local pos, last = offset + 1, offset + size
      while pos + 11 <= last do
        local namesz, descsz, note = string.unpack("<I4I4I4", bytes, pos)
        local desc = pos + 12 + ((namesz + 3) & ~3)
        local after = desc + ((descsz + 3) & ~3)
        if after - 1 > last then break end
        if note == XEN_ELFNOTE_PHYS32_ENTRY and bytes:sub(pos + 12, pos + 11 + namesz) == "Xen\0" and (descsz == 4 or descsz == 8) then
          return (string.unpack("<I4", bytes, desc))
        end
        pos = after
      end
    end
  end
  return nil
end

--- Reads such a kernel.
---@param bytes string
---@return Image? image
---@return string? message
function pvh.parse(bytes)
  local entry = pvh.entry(bytes)
  if not entry then return nil, "has no PVH note" end
  local image, err = elf.parse(bytes)
  if not image then return nil, err end
  for _, s in ipairs(image.segments) do
    if math.ult(entry - s.addr, s.size) then
      image.format, image.mode, image.entry, image.own_mode = "pvh", "protected", entry, "a kernel with a PVH entry point"
      return image
    end
  end
  return nil, ("PVH entry point 0x%x is in none of its segments"):format(entry)
end

--- What the kernel finds in memory: modules and the start information.
---@param opts PlaceOptions with memory_map
---@param first_free integer where it may begin
---@return ImageSegment[] segments
---@return integer info address of the structure
function pvh.information(opts, first_free)
  local function page_up(n) return (n + 4095) & -4096 end
  local at = page_up(first_free)
  local segments, list = {}, {}
  for i, m in ipairs(opts.modules or {}) do
    segments[#segments + 1] = { addr = at, data = m.data, size = #m.data, name = ("module %d (%s)"):format(i, m.name) }
    list[i] = { addr = at, size = #m.data, text = m.cmdline }
    at = page_up(at + math.max(#m.data, 1))
  end
  local map = opts.memory_map
  local list_at = at + 56
  local map_at = list_at + 32 * #list
  local text_at = map_at + 24 * #map
  local strings = { (opts.cmdline or "") .. "\0" }
  local where = text_at + #strings[1]
  local entries = {}
  for _, m in ipairs(list) do
    entries[#entries + 1] = string.pack("<i8i8i8i8", m.addr, m.size, m.text and where or 0, 0)
    if m.text then
      strings[#strings + 1] = m.text .. "\0"
      where = where + #m.text + 1
    end
  end
  for _, r in ipairs(map) do entries[#entries + 1] = string.pack("<i8i8I4I4", r.addr, r.size, r.kind or 1, 0) end
  local info = string.pack("<I4I4I4I4i8i8i8i8I4I4", MAGIC, 1, 0, #list, #list > 0 and list_at or 0, text_at, opts.rsdp or 0,
    map_at, #map, 0)
  local bytes = info .. table.concat(entries) .. table.concat(strings)
  segments[#segments + 1] = { addr = at, data = bytes, size = #bytes, name = "PVH start information" }
  return segments, at
end

return pvh

--[[
Multiboot 1 kernels. Source: Multiboot Specification 0.6.96.
]]
local elf = require "vmlua.loader.elf"

local multiboot = {}

local PAGE = 4096
local MAGIC = 0x1BADB002
local SEARCH = 8192

multiboot.LOADER = 0x2BADB002 -- what the kernel finds in EAX

local function page_up(n) return (n + PAGE - 1) & -PAGE end

--- Finds the header in the first 8 KiB.
---@param bytes string
---@return { at: integer, flags: integer }?
function multiboot.header(bytes)
  local last = math.min(#bytes, SEARCH) - 12
  for at = 0, last, 4 do
    local magic, flags, checksum = string.unpack("<I4I4I4", bytes, at + 1)
    if magic == MAGIC and (magic + flags + checksum) & 0xffffffff == 0 then
      return { at = at, flags = flags }
    end
  end
  return nil
end

local function addresses(bytes, h)
  if #bytes < h.at + 32 then return nil, "Multiboot header is cut short before its addresses" end
  local header_addr, load_addr, load_end, bss_end, entry = string.unpack("<I4I4I4I4I4", bytes, h.at + 13)
  if load_addr > header_addr then
    return nil, ("Multiboot load address 0x%x is above the header's own 0x%x"):format(load_addr, header_addr)
  end
  local start = h.at - (header_addr - load_addr)
  if start < 0 then
    return nil, ("Multiboot header says that the image begins %d bytes before the file does"):format(-start)
  end
  local size = load_end == 0 and #bytes - start or load_end - load_addr
  if load_end ~= 0 and load_end < load_addr then
    return nil, ("Multiboot load end 0x%x is below its start 0x%x"):format(load_end, load_addr)
  end
  if size > #bytes - start then
    return nil, ("Multiboot header asks for 0x%x bytes, the file has 0x%x"):format(size, #bytes - start)
  end
  local memsz = size
  if bss_end ~= 0 then
    if bss_end < load_addr + size then
      return nil, ("Multiboot bss end 0x%x is below the end of the image 0x%x"):format(bss_end, load_addr + size)
    end
    memsz = bss_end - load_addr
  end
  if not math.ult(entry - load_addr, memsz) then
    return nil, ("Multiboot entry point 0x%x is outside the image"):format(entry)
  end
  return { { addr = load_addr, data = bytes:sub(start + 1, start + size), size = memsz, name = "image", vaddr = load_addr } }, entry
end

--- Reads a kernel with header `h`.
---@param bytes string
---@param h table
---@return Image? image
---@return string? message
function multiboot.parse(bytes, h)
  local unknown = h.flags & 0xffff & ~7
  if unknown ~= 0 then return nil, ("Multiboot header requires features 0x%x, which are unknown"):format(unknown) end
  if h.flags & 4 ~= 0 then
    if #bytes < h.at + 48 then return nil, "Multiboot header is cut short before its video mode" end
    if string.unpack("<I4", bytes, h.at + 33) == 0 then
      return nil, "Multiboot header asks for a graphics mode, and this machine has no display"
    end
  end
  local image
  if h.flags & 0x10000 ~= 0 then
    local segments, entry = addresses(bytes, h)
    if not segments then return nil, entry end
    image = { segments = segments, entry = entry }
  else
    if bytes:sub(1, 4) ~= "\127ELF" then
      return nil, "has a Multiboot header without load addresses, and is no ELF file either"
    end
    local err
    image, err = elf.parse(bytes)
    if not image then return nil, err end
  end
  image.format, image.own_mode = "multiboot", "a Multiboot kernel"
  image.mode = "protected" -- the specification's machine state, also for an ELF64 file
  image.align_modules = h.flags & 1 ~= 0
  image.wants_memory_map = h.flags & 2 ~= 0
  return image
end

--- What the kernel finds in memory: modules, and the information structure.
---@param image Image
---@param opts PlaceOptions with memory_map
---@param first_free integer where it may begin
---@return ImageSegment[] segments
---@return integer info address of the structure
function multiboot.information(image, opts, first_free)
  local at = page_up(first_free)
  local segments, mods = {}, {}
  for i, m in ipairs(opts.modules or {}) do
    segments[#segments + 1] = { addr = at, data = m.data, size = #m.data, name = ("module %d (%s)"):format(i, m.name) }
    mods[#mods + 1] = { first = at, last = at + #m.data, text = m.cmdline or m.name }
    at = page_up(at + math.max(#m.data, 1))
  end
  -- The structure itself comes last: strings and tables behind its fixed 120 bytes.
  local tail, tail_at = {}, at + 120
  local function put(bytes)
    local where = tail_at
    tail[#tail + 1] = bytes
    tail_at = tail_at + #bytes
    return where
  end
  local function put_string(s) return put(s .. "\0") end
  local function align4() put(("\0"):rep(-tail_at & 3)) end
  local cmdline = put_string((image.name .. " " .. (opts.cmdline or "")):gsub("%s+$", "") .. "")
  local loader_name = put_string("vmlua")
  for _, m in ipairs(mods) do m.string = put_string(m.text) end
  align4()
  local mods_addr = tail_at
  for _, m in ipairs(mods) do put(string.pack("<I4I4I4I4", m.first, m.last, m.string, 0)) end
  local mmap_addr, mmap_length = tail_at, 0
  for _, r in ipairs(opts.memory_map) do
    local entry = string.pack("<I4i8i8I4", 20, r.addr, r.size, r.kind or 1)
    put(entry)
    mmap_length = mmap_length + #entry
  end
  local low = math.min(opts.ram, 640 << 10) >> 10
  local high = math.min(math.max(opts.ram - (1 << 20), 0) >> 10, 0xffffffff)
  local flags = 0x1 | 0x4 | 0x40 | 0x200 | (#mods > 0 and 0x8 or 0)
  local fixed = string.pack("<I4I4I4I4I4I4I4", flags, low, high, 0, cmdline, #mods, #mods > 0 and mods_addr or 0)
    .. ("\0"):rep(16) .. string.pack("<I4I4I4I4I4I4", mmap_length, mmap_addr, 0, 0, 0, loader_name)
  fixed = fixed .. ("\0"):rep(120 - #fixed)
  local bytes = fixed .. table.concat(tail)
  segments[#segments + 1] = { addr = at, data = bytes, size = #bytes, name = "Multiboot information" }
  return segments, at
end

return multiboot

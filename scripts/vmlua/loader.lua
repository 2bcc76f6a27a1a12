--[[
Guest images: flat binaries, ELF32 and ELF64 executables, and Multiboot 1 kernels.

Sources: System V ABI, ELF chapters 4 and 5; Multiboot Specification 0.6.96; Intel SDM volume 3A
chapters 3 and 4 for the descriptors and page tables.

`loader.parse` only looks at bytes and refuses what is malformed by name; `loader.place` adds what a
boot loader leaves in memory (information structure, modules, descriptors, page tables) and checks
all of it against the RAM there is. Nothing here touches a machine: the answer is a list of
{ addr, data, size } and register values, which a board writes.
]]
local text = require "vmlua.text"

local loader = {}

local PAGE = 4096
local MAP_MAX = 512 << 30 -- what one page directory pointer table maps
local MULTIBOOT_MAGIC, MULTIBOOT_LOADER = 0x1BADB002, 0x2BADB002
local MULTIBOOT_SEARCH = 8192

---@class ImageSegment
---@field addr integer physical address
---@field data string bytes from the file
---@field size integer bytes in memory; what is beyond the data reads as zero
---@field name string for messages

---@class Image
---@field name string
---@field format "flat"|"elf32"|"elf64"|"multiboot"
---@field mode "real"|"protected"|"long" how the CPU is to enter
---@field entry integer physical address
---@field segments ImageSegment[]
---@field align_modules? boolean
---@field wants_memory_map? boolean

local function page_up(n) return (n + PAGE - 1) & -PAGE end

local function overlap(a, b)
  return math.ult(a.addr, b.addr + b.size) and math.ult(b.addr, a.addr + a.size)
end

-- ---- ELF ----------------------------------------------------------------------------------

local EM_386, EM_X86_64 = 3, 62
local machines = { [0] = "none", [2] = "SPARC", [8] = "MIPS", [20] = "PowerPC", [40] = "ARM", [183] = "AArch64", [243] = "RISC-V" }
local types = { [0] = "none", "a relocatable object (link it first)", "executable",
  "position-independent (link it at a fixed address)", "a core dump" }

--- The header of an ELF file, its program and section tables checked against the file's length.
---@param bytes string
---@return table? header
---@return string? message
function loader.elf_header(bytes)
  if #bytes < 20 or bytes:sub(1, 4) ~= "\127ELF" then return nil, "no ELF header" end
  local class, data, version = bytes:byte(5, 7)
  if class ~= 1 and class ~= 2 then return nil, ("ELF class %d is neither 32 nor 64 bit"):format(class) end
  if data ~= 1 then return nil, "ELF data is not little-endian" end
  if version ~= 1 then return nil, ("ELF version %d is unknown"):format(version) end
  local wide = class == 2
  local need = wide and 64 or 52
  if #bytes < need then return nil, ("ELF header is cut short at %d of %d bytes"):format(#bytes, need) end
  local h = { wide = wide }
  h.type, h.machine, h.version = string.unpack("<I2I2I4", bytes, 17)
  if wide then
    h.entry, h.phoff, h.shoff, h.flags, h.ehsize, h.phentsize, h.phnum, h.shentsize, h.shnum, h.shstrndx =
      string.unpack("<i8i8i8I4I2I2I2I2I2I2", bytes, 25)
  else
    h.entry, h.phoff, h.shoff, h.flags, h.ehsize, h.phentsize, h.phnum, h.shentsize, h.shnum, h.shstrndx =
      string.unpack("<I4I4I4I4I2I2I2I2I2I2", bytes, 25)
  end
  local function table_fits(what, off, entsize, num, expected)
    if num == 0 then return true end
    if entsize ~= expected then return nil, ("ELF %s entries are %d bytes, expected %d"):format(what, entsize, expected) end
    if off < 0 or off > #bytes or num * entsize > #bytes - off then
      return nil, ("ELF %s table (%d entries at 0x%x) is outside the file of %d bytes"):format(what, num, off, #bytes)
    end
    return true
  end
  local ok, err = table_fits("program header", h.phoff, h.phentsize, h.phnum, wide and 56 or 32)
  if not ok then return nil, err end
  h.sections_bad = select(2, table_fits("section header", h.shoff, h.shentsize, h.shnum, wide and 64 or 40))
  return h
end

local PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3

local function elf_segments(bytes, h)
  local segments = {}
  for i = 0, h.phnum - 1 do
    local at = h.phoff + i * h.phentsize + 1
    local kind, offset, vaddr, paddr, filesz, memsz, _
    if h.wide then
      kind, _, offset, vaddr, paddr, filesz, memsz = string.unpack("<I4I4i8i8i8i8i8", bytes, at)
    else
      kind, offset, vaddr, paddr, filesz, memsz = string.unpack("<I4I4I4I4I4I4", bytes, at)
    end
    if kind == PT_INTERP or kind == PT_DYNAMIC then
      return nil, "is dynamically linked: only static executables can run without an operating system"
    end
    if kind == PT_LOAD and memsz ~= 0 then
      local name = ("segment %d"):format(i)
      if filesz < 0 or memsz < 0 or offset < 0 then return nil, name .. " has a size or offset beyond 2^63" end
      if filesz > memsz then
        return nil, ("%s has %d bytes in the file but only %d in memory"):format(name, filesz, memsz)
      end
      if offset > #bytes or filesz > #bytes - offset then
        return nil, ("%s (0x%x bytes at 0x%x) is outside the file of %d bytes"):format(name, filesz, offset, #bytes)
      end
      if math.ult(paddr + memsz - 1, paddr) then return nil, name .. " wraps around the end of memory" end
      local s = { addr = paddr, data = bytes:sub(offset + 1, offset + filesz), size = memsz, name = name, vaddr = vaddr }
      segments[#segments + 1] = s
    end
  end
  if #segments == 0 then return nil, "has nothing to load (no PT_LOAD segment)" end
  -- Sorted, only neighbours can overlap: a file may have 65535 segments, each compared with each takes minutes.
  local sorted = table.move(segments, 1, #segments, 1, {})
  table.sort(sorted, function(a, b) return math.ult(a.addr, b.addr) end)
  for i = 2, #sorted do
    local a, b = sorted[i - 1], sorted[i]
    if math.ult(b.addr, a.addr + a.size) or a.addr + a.size == 0 then
      return nil, ("%s at 0x%x overlaps %s at 0x%x"):format(b.name, b.addr, a.name, a.addr)
    end
  end
  return segments
end

local function parse_elf(bytes)
  local h, err = loader.elf_header(bytes)
  if not h then return nil, err end
  if h.machine ~= EM_386 and h.machine ~= EM_X86_64 then
    return nil, ("is for %s (ELF machine %d), not for x86"):format(machines[h.machine] or "another CPU", h.machine)
  end
  if h.wide and h.machine ~= EM_X86_64 then return nil, "is ELF64 but not for x86-64" end
  if h.type ~= 2 then return nil, ("is not executable: its ELF type is %d, %s"):format(h.type, types[h.type] or "unknown") end
  local segments, bad = elf_segments(bytes, h)
  if not segments then return nil, bad end
  local entry
  for _, s in ipairs(segments) do
    local off = h.entry - s.vaddr
    if math.ult(off, s.size) then entry = s.addr + off end
  end
  if not entry then return nil, ("entry point 0x%x is in none of its segments"):format(h.entry) end
  local wide = h.machine == EM_X86_64
  return { format = h.wide and "elf64" or "elf32", mode = wide and "long" or "protected", entry = entry, segments = segments }
end

-- ---- Multiboot 1 ----------------------------------------------------------------------------

local function multiboot_header(bytes)
  local last = math.min(#bytes, MULTIBOOT_SEARCH) - 12
  for at = 0, last, 4 do
    local magic, flags, checksum = string.unpack("<I4I4I4", bytes, at + 1)
    if magic == MULTIBOOT_MAGIC and (magic + flags + checksum) & 0xffffffff == 0 then
      return { at = at, flags = flags }
    end
  end
  return nil
end

local function multiboot_addresses(bytes, h)
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

local function parse_multiboot(bytes, h)
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
    local segments, entry = multiboot_addresses(bytes, h)
    if not segments then return nil, entry end
    image = { segments = segments, entry = entry }
  else
    if bytes:sub(1, 4) ~= "\127ELF" then
      return nil, "has a Multiboot header without load addresses, and is no ELF file either"
    end
    local elf, err = parse_elf(bytes)
    if not elf then return nil, err end
    image = elf
  end
  image.format, image.mode = "multiboot", "protected" -- the specification's machine state, also for an ELF64 file
  image.align_modules = h.flags & 1 ~= 0
  image.wants_memory_map = h.flags & 2 ~= 0
  return image
end

-- ---- front door -----------------------------------------------------------------------------

---@class ParseOptions
---@field format? "auto"|"flat"|"elf"|"multiboot" (auto)
---@field addr? integer where a flat binary goes (0x7c00)
---@field entry? integer physical address of the first instruction (what the file says, or addr)
---@field mode? "real"|"protected"|"long" (what the format implies; flat: real)

--- Reads an image out of the bytes of a file.
---@param bytes string
---@param name string for messages
---@param opts? ParseOptions
---@return Image? image
---@return string? message
function loader.parse(bytes, name, opts)
  opts = opts or {}
  local function refuse(why) return nil, ("%s: %s"):format(name, why) end
  local format = opts.format or "auto"
  local header = format ~= "flat" and format ~= "elf" and multiboot_header(bytes) or nil
  local image, err
  if #bytes == 0 then return refuse "is empty" end
  if format == "multiboot" and not header then return refuse "has no valid Multiboot header in its first 8 KiB" end
  if header then
    image, err = parse_multiboot(bytes, header)
  elseif format == "elf" or (format == "auto" and bytes:sub(1, 4) == "\127ELF") then
    image, err = parse_elf(bytes)
  elseif format == "auto" or format == "flat" then
    local addr = opts.addr or 0x7c00
    image = { format = "flat", mode = "real", entry = addr,
      segments = { { addr = addr, data = bytes, size = #bytes, name = "image", vaddr = addr } } }
  else
    return refuse(text.unknown("image format", format, { "auto", "flat", "elf", "multiboot" }))
  end
  if not image then return refuse(err) end
  image.name = name
  if opts.mode then
    if image.format == "multiboot" and opts.mode ~= "protected" then
      return refuse(("a Multiboot kernel starts in protected mode, not in %s mode"):format(opts.mode))
    end
    if opts.mode ~= "real" and opts.mode ~= "protected" and opts.mode ~= "long" then
      return refuse(text.unknown("mode", tostring(opts.mode), { "real", "protected", "long" }))
    end
    image.mode = opts.mode
  end
  if opts.entry then image.entry = opts.entry end
  if image.mode == "real" and not math.ult(image.entry, 0x110000 - 16) then
    return refuse(("real mode cannot begin at 0x%x, above 1 MiB"):format(image.entry))
  end
  return image
end

--- Reads an image file.
---@param path string
---@param opts? ParseOptions
---@return Image? image
---@return string? message
function loader.read(path, opts)
  local bytes, err = text.read_file(path, 1 << 31)
  if not bytes then return nil, err end
  return loader.parse(bytes, path, opts)
end

-- ---- placing in RAM ---------------------------------------------------------------------------

local function check_in_ram(segment, ram, name)
  if math.ult(ram, segment.size) or math.ult(ram - segment.size, segment.addr) then
    return nil, ("%s: %s needs 0x%x bytes at 0x%x, RAM is %s"):format(name, segment.name, segment.size, segment.addr,
      text.format_size(ram))
  end
  return true
end

--- A flat 32-bit (and, for code, 64-bit) descriptor table: null, code 0x08, data 0x10.
---@param long boolean
---@return string
function loader.gdt(long)
  local code = long and 0x00AF9B000000FFFF or 0x00CF9B000000FFFF
  return string.pack("<i8i8i8", 0, code, 0x00CF93000000FFFF)
end

--- Page tables that map the first `bytes` of memory one to one in 2 MiB pages.
---@param base integer page-aligned address of the tables
---@param bytes integer rounded up to whole GiB
---@return string
function loader.page_tables(base, bytes)
  local gib = math.max(1, (bytes + (1 << 30) - 1) >> 30)
  assert(gib <= MAP_MAX >> 30, "identity map of more than 512 GiB")
  local flags = 0x3 -- present, writable
  local out = { string.pack("<i8", base + PAGE | flags) .. ("\0"):rep(PAGE - 8) }
  local pdpt = {}
  for i = 0, gib - 1 do pdpt[#pdpt + 1] = string.pack("<i8", base + (2 + i) * PAGE | flags) end
  out[#out + 1] = table.concat(pdpt) .. ("\0"):rep(PAGE - 8 * gib)
  for i = 0, gib - 1 do
    local pd = {}
    for j = 0, 511 do pd[#pd + 1] = string.pack("<i8", i << 30 | j << 21 | 0x83) end
    out[#out + 1] = table.concat(pd)
  end
  return table.concat(out)
end

local function multiboot_info(image, opts, first_free)
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

---@class PlaceOptions
---@field ram integer bytes of RAM from address 0
---@field map? integer how much of memory long mode's page tables map (4 GiB, or all RAM from 0)
---@field cmdline? string
---@field modules? { name: string, data: string, cmdline?: string }[]
---@field memory_map? { addr: integer, size: integer, kind?: integer }[] (one usable range: all RAM)
---@field stack? integer initial stack pointer (below the tables; real mode: below the image)
---@field tables? integer where descriptors and page tables go (the last pages of RAM below 4 GiB)

---@class Placement
---@field segments ImageSegment[] everything to write
---@field mode string
---@field registers table<string, integer> rip, rsp, rax, rbx …, and gdtr, cr3 by the mode

--- Lays an image out in RAM, with what its way of starting needs beside it.
---@param image Image
---@param opts PlaceOptions
---@return Placement? placement
---@return string? message
function loader.place(image, opts)
  local segments, top = {}, 0
  local ram = opts.ram
  for _, s in ipairs(image.segments) do
    local ok, err = check_in_ram(s, ram, image.name)
    if not ok then return nil, err end
    segments[#segments + 1] = s
    top = math.max(top, s.addr + s.size)
  end
  local registers = { rip = image.entry, rflags = 2 }
  if image.format == "multiboot" then
    opts = setmetatable({ memory_map = opts.memory_map or { { addr = 0, size = ram } } }, { __index = opts })
    local more, info = multiboot_info(image, opts, math.max(top, math.min(ram, 1 << 20)))
    for _, s in ipairs(more) do
      local ok, err = check_in_ram(s, math.min(ram, 1 << 32), image.name)
      if not ok then return nil, err end
      segments[#segments + 1] = s
    end
    registers.rax, registers.rbx = MULTIBOOT_LOADER, info
  elseif opts.modules and #opts.modules > 0 then
    return nil, ("%s: modules (-initrd) need a Multiboot kernel, this is %s"):format(image.name, image.format)
  elseif opts.cmdline and opts.cmdline ~= "" then
    return nil, ("%s: a command line (-append) needs a Multiboot kernel, this is %s"):format(image.name, image.format)
  end
  if image.mode ~= "real" then
    local long = image.mode == "long"
    local map = math.max(4 << 30, ram, opts.map or 0)
    if long and map > MAP_MAX then
      return nil, ("%s: long mode's first page tables map %s at most, not %s"):format(image.name, text.format_size(MAP_MAX),
        text.format_size(map))
    end
    local size = PAGE + (long and (2 + ((map + (1 << 30) - 1) >> 30)) * PAGE or 0)
    local base = opts.tables or ((math.min(ram, 1 << 32) & -PAGE) - size)
    if base % PAGE ~= 0 then return nil, ("%s: tables at 0x%x are not page-aligned"):format(image.name, base) end
    local gdt = loader.gdt(long)
    local data = gdt .. ("\0"):rep(PAGE - #gdt) .. (long and loader.page_tables(base + PAGE, map) or "")
    local tables = { addr = base, data = data, size = #data, name = long and "page tables" or "descriptor table" }
    local ok, err = check_in_ram(tables, ram, image.name)
    if not ok then return nil, err end
    for _, s in ipairs(segments) do
      if overlap(tables, s) then
        return nil, ("%s: %s at 0x%x and %s at 0x%x overlap; more RAM (-m) is needed"):format(image.name, tables.name, base,
          s.name, s.addr)
      end
    end
    segments[#segments + 1] = tables
    registers.gdt_base, registers.gdt_limit = base, #gdt - 1
    if long then registers.cr3 = base + PAGE end
    registers.rsp = opts.stack or base
  else
    registers.rsp = opts.stack or math.min(image.entry, 0x7c00)
  end
  return { segments = segments, mode = image.mode, registers = registers }
end

--- Writes a placement into a machine that is being built, and sets its boot processor to begin there; both are
--- done again at each reset.
---@param vm machine
---@param placement Placement
function loader.install(vm, placement)
  for _, s in ipairs(placement.segments) do
    local data = s.data
    local zeros = s.size - #data
    vm:place(s.addr, data)
    if zeros > 0 then
      -- Fresh RAM is zero; after a reset it is what the guest left.
      vm:on_reset(function() assert(vm.memory:fill(s.addr + #data, zeros, 0)) end)
    end
  end
  local r = placement.registers
  local cpu = vm.cpus[1]
  if placement.mode == "real" then
    local base = r.rip > 0xffff and r.rip >> 4 or 0
    cpu:set { cs = base, ds = base, es = base, ss = 0, fs = 0, gs = 0, rip = r.rip - base * 16, rsp = r.rsp & 0xffff, rflags = 2 }
    return
  end
  local long = placement.mode == "long"
  local data = { flat = "data", selector = 0x10 }
  if long then cpu:set { cr3 = r.cr3, cr4 = 0x20, efer = 0x500 } end
  cpu:set {
    cr0 = long and 0x80010011 or 0x11, ["gdtr.base"] = r.gdt_base, ["gdtr.limit"] = r.gdt_limit,
    cs = { flat = long and "code64" or "code32", selector = 0x08 }, ds = data, es = data, fs = data, gs = data, ss = data,
    rip = r.rip, rsp = r.rsp, rax = r.rax or 0, rbx = r.rbx or 0, rflags = 2,
  }
end

return loader

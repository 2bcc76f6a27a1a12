--[[
Guest images: flat binaries, ELF32 and ELF64 executables, Multiboot 1 kernels, Linux kernels (bzImage), and
kernels with the PVH entry point.

`loader.parse` only looks at bytes and refuses what is malformed by name; `loader.place` adds what a
boot loader leaves in memory (information structure, modules, descriptors, page tables) and checks
all of it against the RAM there is. Nothing here touches a machine: the answer is a list of
{ addr, data or file, size } and register values, which a board writes. One file a format is in `loader/`.
]]
local elf = require "vmlua.loader.elf"
local linux = require "vmlua.loader.linux"
local multiboot = require "vmlua.loader.multiboot"
local options = require "vmlua.options"
local pvh = require "vmlua.loader.pvh"
local tables = require "vmlua.loader.tables"
local text = require "vmlua.text"

local loader = {}

local PAGE = 4096
local HEAD, FILE_MAX = 64 << 10, 1 << 31
local FORMATS = { "auto", "flat", "elf", "multiboot", "linux", "pvh" }
local MODES = { "real", "protected", "long" }

---@class ImageSegment
---@field addr integer physical address
---@field data? string bytes from the file
---@field file? { path: string, from: integer, length: integer } where they are, in place of data
---@field size integer bytes in memory; what is beyond the data reads as zero
---@field name string for messages

---@class Image
---@field name string
---@field format "flat"|"elf32"|"elf64"|"multiboot"|"linux"|"pvh"
---@field mode "real"|"protected"|"long" how the CPU is to enter
---@field entry integer physical address
---@field segments ImageSegment[]
---@field own_mode? string what it is, where that decides the mode: "a Linux kernel"
---@field own_entry? string likewise the entry point
---@field align_modules? boolean
---@field wants_memory_map? boolean

local function overlap(a, b)
  return math.ult(a.addr, b.addr + b.size) and math.ult(b.addr, a.addr + a.size)
end

-- ---- reading --------------------------------------------------------------------------------

---@class ParseOptions
---@field format? "auto"|"flat"|"elf"|"multiboot"|"linux"|"pvh" (auto: by what the file is)
---@field addr? integer where a flat binary goes (0x7c00)
---@field entry? integer physical address of the first instruction (what the file says, or addr)
---@field mode? "real"|"protected"|"long" (what the format implies; flat: real)
---@field protocol? "auto"|"32"|"64" how a Linux kernel is entered (auto: 64 where it can)

local function detect(bytes)
  if linux.detect(bytes) then return "linux" end
  if multiboot.header(bytes) then return "multiboot" end
  if pvh.entry(bytes) then return "pvh" end
  if bytes:sub(1, 4) == "\127ELF" then return "elf" end
  return "flat"
end

local readers = {
  linux = linux.parse,
  pvh = pvh.parse,
  elf = elf.parse,
  multiboot = function(bytes)
    local header = multiboot.header(bytes)
    if not header then return nil, "has no valid Multiboot header in its first 8 KiB" end
    return multiboot.parse(bytes, header)
  end,
  flat = function(bytes, opts)
    local addr = opts.addr or 0x7c00
    return { format = "flat", mode = "real", entry = addr,
      segments = { { addr = addr, data = bytes, size = #bytes, name = "image", vaddr = addr } } }
  end,
}

--- Reads an image out of the bytes of a file.
---@param bytes string
---@param name string for messages
---@param opts? ParseOptions
---@return Image? image
---@return string? message
function loader.parse(bytes, name, opts)
  opts = opts or {}
  local function refuse(why) return nil, ("%s: %s"):format(name, why) end
  if #bytes == 0 then return refuse "is empty" end
  local format = opts.format or "auto"
  if format == "auto" then format = detect(bytes) end
  local reader = readers[format]
  if not reader then return refuse(text.unknown("image format", format, FORMATS)) end
  local image, err = reader(bytes, opts)
  if not image then return refuse(err) end
  image.name = name
  if opts.mode then
    if image.own_mode and opts.mode ~= image.mode then
      return refuse(("%s starts in %s mode, not in %s mode"):format(image.own_mode, image.mode, opts.mode))
    end
    if opts.mode ~= "real" and opts.mode ~= "protected" and opts.mode ~= "long" then
      return refuse(text.unknown("mode", tostring(opts.mode), MODES))
    end
    image.mode = opts.mode
  end
  if opts.entry then
    if image.own_entry then return refuse(("is %s, whose entry point is its own (-entry)"):format(image.own_entry)) end
    image.entry = opts.entry
  end
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
  local f, err = io.open(path, "rb")
  if not f then return nil, err end
  local head, why = f:read(HEAD)
  if not head and why then
    f:close()
    return nil, ("%s: %s"):format(path, why)
  end
  local size = f:seek "end"
  local format = opts and opts.format or "auto"
  if head and size and size <= FILE_MAX and linux.detect(head) and (format == "auto" or format == "linux") then
    -- The code of a kernel goes from the file into RAM, without a copy of it here.
    f:close()
    return loader.parse(head, path, setmetatable({ file = { path = path, size = size } }, { __index = opts }))
  end
  if size then f:seek "set" end
  local rest = f:read(FILE_MAX + 1) or "" -- what follows the head, where there is no way back
  f:close()
  local bytes = size and rest or (head or "") .. rest
  if #bytes > FILE_MAX then return nil, ("%s: larger than %s"):format(path, text.format_size(FILE_MAX)) end
  return loader.parse(bytes, path, opts)
end

-- A module's bytes, once somebody needs them here.
local module_mt = {
  __index = function(self, key)
    if key ~= "data" then return nil end
    local data, err = text.read_file(self.name, FILE_MAX)
    if not data then error("-initrd: " .. err, 0) end
    self.data = data
    return data
  end,
}

--- The files that -initrd names. What is a plain file is read when it is needed; size says how large it is.
---@param spec? string
---@return { name: string, size: integer, data: string, cmdline?: string }[]
function loader.modules(spec)
  local out = {}
  for _, module in ipairs(options.modules(spec or "")) do
    local f, err = io.open(module.path, "rb")
    if not f then error("-initrd: " .. err, 0) end
    local m = { name = module.path, cmdline = module.cmdline, size = f:seek "end" }
    local plain = m.size and m.size <= FILE_MAX and f:seek "set" and f:read(1)
    f:close()
    if not plain then
      m.data, err = text.read_file(module.path, FILE_MAX)
      if not m.data then error("-initrd: " .. err, 0) end
      m.size = #m.data
    end
    out[#out + 1] = setmetatable(m, module_mt)
  end
  return out
end

-- ---- placing in RAM ---------------------------------------------------------------------------

local function check_in_ram(segment, ram, name)
  if math.ult(ram, segment.size) or math.ult(ram - segment.size, segment.addr) then
    return nil, ("%s: %s needs 0x%x bytes at 0x%x, RAM is %s"):format(name, segment.name, segment.size, segment.addr,
      text.format_size(ram))
  end
  return true
end

---@class PlaceOptions
---@field ram integer bytes of RAM from address 0
---@field map? integer how much of memory long mode's page tables map (4 GiB, or all RAM from 0)
---@field cmdline? string
---@field modules? { name: string, data: string, cmdline?: string }[]
---@field memory_map? { addr: integer, size: integer, kind?: integer }[] (one usable range: all RAM)
---@field rsdp? integer address of ACPI's root pointer, told to kernels that take it
---@field screen? boolean a VGA text mode is set
---@field stack? integer initial stack pointer (below the tables; real mode: below the image)
---@field tables? integer where descriptors and page tables go (the last pages of RAM below 4 GiB)

---@class Placement
---@field segments ImageSegment[] everything to write
---@field mode string
---@field registers table<string, integer> rip, rsp, rax, rbx …, and gdt_base, gdt_limit, cr3 by the mode
---@field code_selector? integer of the flat code segment, data right behind it (0x08)

--- Lays an image out in RAM, with what its way of starting needs beside it.
---@param image Image
---@param opts PlaceOptions
---@return Placement? placement
---@return string? message
function loader.place(image, opts)
  if image.format == "linux" then return linux.place(image, opts) end
  local segments, top = {}, 0
  local ram = opts.ram
  for _, s in ipairs(image.segments) do
    local ok, err = check_in_ram(s, ram, image.name)
    if not ok then return nil, err end
    segments[#segments + 1] = s
    top = math.max(top, s.addr + s.size)
  end
  local registers = { rip = image.entry, rflags = 2 }
  if image.format == "multiboot" or image.format == "pvh" then
    opts = setmetatable({ memory_map = opts.memory_map or { { addr = 0, size = ram } } }, { __index = opts })
    local free = math.max(top, math.min(ram, 1 << 20))
    local more, info
    if image.format == "pvh" then
      more, info = pvh.information(opts, free)
    else
      more, info = multiboot.information(image, opts, free)
      registers.rax = multiboot.LOADER
    end
    for _, s in ipairs(more) do
      local ok, err = check_in_ram(s, math.min(ram, 1 << 32), image.name)
      if not ok then return nil, err end
      segments[#segments + 1] = s
    end
    registers.rbx = info
  elseif opts.modules and #opts.modules > 0 then
    return nil, ("%s: modules (-initrd) need a Multiboot, PVH or Linux kernel, this is %s"):format(image.name, image.format)
  elseif opts.cmdline and opts.cmdline ~= "" then
    return nil, ("%s: a command line (-append) needs a Multiboot, PVH or Linux kernel, this is %s"):format(image.name, image.format)
  end
  if image.mode ~= "real" then
    local long = image.mode == "long"
    local map = math.max(4 << 30, ram, opts.map or 0)
    if long and map > tables.MAP_MAX then
      return nil, ("%s: long mode's first page tables map %s at most, not %s"):format(image.name, text.format_size(tables.MAP_MAX),
        text.format_size(map))
    end
    local size = PAGE + (long and tables.page_tables_size(map) or 0)
    local base = opts.tables or ((math.min(ram, 1 << 32) & -PAGE) - size)
    if base % PAGE ~= 0 then return nil, ("%s: tables at 0x%x are not page-aligned"):format(image.name, base) end
    local gdt = tables.gdt(long)
    local data = gdt .. ("\0"):rep(PAGE - #gdt) .. (long and tables.page_tables(base + PAGE, map) or "")
    local segment = { addr = base, data = data, size = #data, name = long and "page tables" or "descriptor table" }
    local ok, err = check_in_ram(segment, ram, image.name)
    if not ok then return nil, err end
    for _, s in ipairs(segments) do
      if overlap(segment, s) then
        return nil, ("%s: %s at 0x%x and %s at 0x%x overlap; more RAM (-m) is needed"):format(image.name, segment.name, base,
          s.name, s.addr)
      end
    end
    segments[#segments + 1] = segment
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
    local length = s.file and s.file.length or #s.data
    if s.file then vm:load(s.file.path, s.addr, s.file.from, length) else vm:place(s.addr, s.data) end
    if s.size > length then
      -- Fresh RAM is zero; after a reset it is what the guest left.
      vm:on_reset(function() assert(vm.memory:fill(s.addr + length, s.size - length, 0)) end)
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
  local code = placement.code_selector or 0x08
  local data = { flat = "data", selector = code + 8 }
  if long then cpu:set { cr3 = r.cr3, cr4 = 0x20, efer = 0x500 } end
  cpu:set {
    cr0 = long and 0x80010011 or 0x11, ["gdtr.base"] = r.gdt_base, ["gdtr.limit"] = r.gdt_limit,
    cs = { flat = long and "code64" or "code32", selector = code }, ds = data, es = data, fs = data, gs = data, ss = data,
    rip = r.rip, rsp = r.rsp, rax = r.rax or 0, rbx = r.rbx or 0, rsi = r.rsi or 0, rflags = 2,
  }
end

return loader

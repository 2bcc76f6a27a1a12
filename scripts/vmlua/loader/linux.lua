--[[
Linux kernels as their build leaves them (bzImage), entered without firmware.

Source: "The Linux/x86 Boot Protocol" and "Zero Page" of the kernel's documentation: the header at offset
0x1f1, the 32-bit protocol, and the 64-bit protocol of kernels that say they have it.

What the kernel finds in low memory:

    0x10000  boot_params (the zero page)
    0x20000  command line
    0x30000  descriptors, and for the 64-bit entry page tables of the first 4 GiB
]]
local tables = require "vmlua.loader.tables"
local text = require "vmlua.text"

local linux = {}

local PAGE = 4096
local PARAMS, CMDLINE, TABLES = 0x10000, 0x20000, 0x30000
local HEADER, MAGIC_AT = 0x1f1, 0x202
local HIMEM = 0x100000
local LOADED_HIGH = 0x01 -- loadflags
local KERNEL_64, ABOVE_4G = 0x01, 0x02 -- xloadflags
local E820_MAX = 128
local BOOT_CS = 0x10

--- Whether the bytes begin as such a kernel does.
---@param bytes string
---@return boolean
function linux.detect(bytes)
  return #bytes >= 0x210 and bytes:sub(MAGIC_AT + 1, MAGIC_AT + 4) == "HdrS" and bytes:sub(0x1ff, 0x200) == "\x55\xaa"
end

---@class LinuxHeader
---@field version integer boot protocol, 0x020f for 2.15
---@field setup string the header as it is copied into the zero page
---@field payload integer offset of the protected-mode code in the file
---@field kernel_version string? what the kernel says of itself

--- Reads a bzImage. Boot protocols before 2.05 (kernels before 2.6.20) are refused.
---@param bytes string
---@param opts? { protocol?: "auto"|"32"|"64", file?: { path: string, size: integer } } file: what the bytes are the beginning of
---@return Image? image
---@return string? message
function linux.parse(bytes, opts)
  if not linux.detect(bytes) then return nil, "has no Linux kernel header" end
  local function u(format, at) return (string.unpack("<" .. format, bytes, at + 1)) end
  local version = u("I2", 0x206)
  if version < 0x0205 then
    return nil, ("is a Linux kernel of boot protocol %d.%02d; 2.05 is the oldest that can be entered"):format(version >> 8, version & 0xff)
  end
  local setup_sects = u("I1", HEADER)
  if setup_sects == 0 then setup_sects = 4 end
  local payload = (setup_sects + 1) * 512
  local syssize = u("I4", 0x1f4) * 16
  local file = opts and opts.file
  local total = file and file.size or #bytes
  if total <= payload then return nil, ("is cut short: its code begins at 0x%x, the file has 0x%x bytes"):format(payload, total) end
  -- What is behind (a signature) is not loaded; the last paragraph may be incomplete.
  if total - payload < syssize - 15 then
    return nil, ("is cut short: its header speaks of 0x%x bytes of code, the file has 0x%x"):format(syssize, total - payload)
  end
  local header_end = MAGIC_AT + u("I1", 0x201)
  if header_end > payload or header_end < 0x240 or header_end > 0x290 then
    return nil, ("has a Linux header that ends at 0x%x"):format(header_end)
  end
  local function optional(format, at, since, default)
    if version < since or at + string.packsize(format) > header_end then return default end
    return u(format, at)
  end
  if u("I1", 0x211) & LOADED_HIGH == 0 then return nil, "is a Linux zImage, which runs below 1 MiB; a bzImage is needed" end
  local xload = optional("I2", 0x236, 0x020c, 0)
  local protocol = opts and opts.protocol or "auto"
  if protocol == "auto" then protocol = xload & KERNEL_64 ~= 0 and "64" or "32" end
  if protocol == "64" and xload & KERNEL_64 == 0 then return nil, "has no 64-bit entry point" end
  if protocol ~= "64" and protocol ~= "32" then
    return nil, text.unknown("boot protocol", tostring(protocol), { "auto", "32", "64" })
  end
  local length = math.min(syssize, total - payload)
  local code = { addr = HIMEM, size = length, name = "kernel", vaddr = HIMEM }
  if file then
    code.file = { path = file.path, from = payload, length = length }
  else
    code.data = bytes:sub(payload + 1, payload + length)
  end
  local version_at = u("I2", 0x20e)
  local image = {
    format = "linux", own_mode = "a Linux kernel", own_entry = "a Linux kernel", mode = protocol == "64" and "long" or "protected",
    relocatable = optional("I1", 0x234, 0x0205, 0) ~= 0,
    alignment = math.max(PAGE, optional("I4", 0x230, 0x0205, PAGE)),
    preferred = optional("i8", 0x258, 0x020a, HIMEM),
    init_size = math.max(length, optional("I4", 0x260, 0x020a, length)),
    initrd_max = optional("I4", 0x22c, 0x0203, 0x37ffffff),
    cmdline_max = optional("I4", 0x238, 0x0206, 255),
    above_4g = xload & ABOVE_4G ~= 0,
    header = { version = version, setup = bytes:sub(HEADER + 1, header_end), payload = payload,
      kernel_version = version_at ~= 0 and version_at + 0x200 < payload and string.match(bytes, "^[%g ]+", version_at + 0x201) or nil },
    segments = { code },
  }
  if image.alignment & (image.alignment - 1) ~= 0 then
    return nil, ("has a Linux header with an alignment of 0x%x"):format(image.alignment)
  end
  image.entry = HIMEM
  return image
end

local function load_address(image, ram)
  local want = image.preferred
  if want < HIMEM or want % PAGE ~= 0 then want = HIMEM end
  if image.relocatable and (want > ram or image.init_size > ram - want) then
    want = (HIMEM + image.alignment - 1) & -image.alignment
  end
  if want > ram or image.init_size > ram - want then
    return nil, ("%s: the kernel needs 0x%x bytes at 0x%x, RAM is %s"):format(image.name, image.init_size, want, text.format_size(ram))
  end
  return want
end

-- Archives one behind the other are one to the kernel, each at a multiple of 4.
local function join(modules)
  local parts = {}
  for _, m in ipairs(modules) do
    parts[#parts + 1] = m.data
    parts[#parts + 1] = ("\0"):rep(-#m.data & 3)
  end
  return table.concat(parts)
end

-- As high in low memory as it may be: out of the way of a kernel that unpacks itself. `whole`: with its bytes.
local function place_initrd(image, modules, ram, kernel_end, whole)
  if not modules or #modules == 0 then return nil end
  local segment = { name = "initrd" }
  if #modules == 1 and not whole and not rawget(modules[1], "data") then
    segment.size = modules[1].size
    segment.file = { path = modules[1].name, from = 0, length = segment.size }
  else
    segment.data = #modules == 1 and modules[1].data or join(modules)
    segment.size = #segment.data
  end
  local top = math.min(ram, image.initrd_max + 1)
  segment.addr = (top - segment.size) & -PAGE
  if segment.addr < kernel_end then
    return nil, ("%s: initrd of %s does not fit between the kernel's end at 0x%x and 0x%x; more RAM (-m) is needed"):format(
      image.name, text.format_size(segment.size), kernel_end, top)
  end
  return segment
end

local function boot_params(image, opts, kernel, initrd, cmdline)
  local map = opts.memory_map
  if #map > E820_MAX then return nil, ("%s: a memory map of %d ranges, at most %d fit"):format(image.name, #map, E820_MAX) end
  local page = {}
  local function put(at, bytes) page[#page + 1] = { at, bytes } end
  put(HEADER, image.header.setup)
  if opts.screen then
    -- screen_info of a VGA text mode: cursor, page, mode, columns, …, rows, is VGA, font height.
    put(0x00, string.pack("<I1I1I2I2I1I1I2I2I2I1I1I2", 0, 0, 0, 0, 3, 80, 0, 0, 0, 25, 1, 16))
  end
  if opts.rsdp then put(0x70, string.pack("<i8", opts.rsdp)) end
  put(0x1e0, string.pack("<I4", math.max(0, math.min(opts.ram, 1 << 32) - HIMEM) >> 10))
  put(0x1e8, string.pack("<I1", #map))
  put(0x1fa, string.pack("<I2", 0xffff)) -- vid_mode: as it is
  put(0x210, "\xff") -- a loader without a number of its own
  put(0x214, string.pack("<I4", kernel))
  if initrd then put(0x218, string.pack("<I4I4", initrd.addr, initrd.size)) end
  put(0x224, string.pack("<I2", 0))
  put(0x228, string.pack("<I4", cmdline))
  for i, r in ipairs(map) do put(0x2d0 + (i - 1) * 20, string.pack("<i8i8I4", r.addr, r.size, r.kind or 1)) end
  local bytes = ("\0"):rep(PAGE)
  for _, p in ipairs(page) do bytes = bytes:sub(1, p[1]) .. p[2] .. bytes:sub(p[1] + #p[2] + 1) end
  return bytes
end

-- Where the 16-bit set-up code goes, and its command line behind it.
local SETUP, SETUP_CMDLINE = 0x10000, 0x20000
local CAN_USE_HEAP = 0x80

---@class LinuxItems
---@field setup string the set-up code, its header filled in
---@field setup_addr integer
---@field kernel string
---@field kernel_addr integer
---@field initrd string
---@field initrd_addr integer
---@field cmdline string with its terminating zero
---@field cmdline_addr integer

--- What a boot loader that runs under firmware copies to memory before it calls the 16-bit set-up code (chapter
--- "Loading The Rest of The Kernel" of the boot protocol).
---@param image Image
---@param bytes string the file
---@param opts PlaceOptions
---@return LinuxItems? items
---@return string? message
function linux.items(image, bytes, opts)
  local payload = image.header.payload
  local code = image.segments[1].data
  local cmdline = opts.cmdline or ""
  if #cmdline > image.cmdline_max then
    return nil, ("%s: the command line has %d characters, this kernel takes %d"):format(image.name, #cmdline, image.cmdline_max)
  end
  if payload > SETUP_CMDLINE - SETUP then return nil, ("%s: set-up code of %d bytes"):format(image.name, payload) end
  local initrd, why = place_initrd(image, opts.modules, math.min(opts.ram, 1 << 32), HIMEM + image.init_size, true)
  if why then return nil, why end
  local setup = bytes:sub(1, payload)
  local function put(at, value) setup = setup:sub(1, at) .. value .. setup:sub(at + #value + 1) end
  put(0x210, "\xff" .. string.char(setup:byte(0x212) | CAN_USE_HEAP))
  put(0x218, string.pack("<I4I4", initrd and initrd.addr or 0, initrd and initrd.size or 0))
  put(0x224, string.pack("<I2", SETUP_CMDLINE - SETUP - 0x200))
  put(0x228, string.pack("<I4", SETUP_CMDLINE))
  return {
    setup = setup, setup_addr = SETUP, kernel = code, kernel_addr = HIMEM, initrd = initrd and initrd.data or "",
    initrd_addr = initrd and initrd.addr or 0, cmdline = cmdline .. "\0", cmdline_addr = SETUP_CMDLINE,
  }
end

--- Lays out kernel, initrd, command line and zero page.
---@param image Image
---@param opts PlaceOptions
---@return Placement? placement
---@return string? message
function linux.place(image, opts)
  local ram = opts.ram
  if ram < 2 << 20 then return nil, ("%s: Linux needs more than %s of RAM"):format(image.name, text.format_size(ram)) end
  opts = setmetatable({ memory_map = opts.memory_map or { { addr = 0, size = ram } } }, { __index = opts })
  local cmdline = opts.cmdline or ""
  if #cmdline > image.cmdline_max or #cmdline >= TABLES - CMDLINE then
    return nil, ("%s: the command line has %d characters, this kernel takes %d"):format(image.name, #cmdline,
      math.min(image.cmdline_max, TABLES - CMDLINE - 1))
  end
  local kernel, err = load_address(image, math.min(ram, 1 << 32))
  if not kernel then return nil, err end
  local initrd, why = place_initrd(image, opts.modules, math.min(ram, 1 << 32), kernel + image.init_size)
  if why then return nil, why end
  local params, bad = boot_params(image, opts, kernel, initrd, CMDLINE)
  if not params then return nil, bad end
  local long = image.mode == "long"
  local gdt = tables.gdt(long, BOOT_CS)
  local data = gdt .. ("\0"):rep(PAGE - #gdt) .. (long and tables.page_tables(TABLES + PAGE, 4 << 30) or "")
  local code = image.segments[1]
  local segments = {
    { addr = PARAMS, data = params, size = #params, name = "boot parameters" },
    { addr = CMDLINE, data = cmdline .. "\0", size = #cmdline + 1, name = "command line" },
    { addr = TABLES, data = data, size = #data, name = "page tables" },
    { addr = kernel, data = code.data, file = code.file, size = code.size, name = "kernel" },
  }
  segments[#segments + 1] = initrd
  return {
    segments = segments, mode = image.mode, code_selector = BOOT_CS,
    registers = {
      rip = kernel + (long and 0x200 or 0), rsi = PARAMS, rsp = TABLES, rflags = 2,
      gdt_base = TABLES, gdt_limit = #gdt - 1, cr3 = long and TABLES + PAGE or nil,
    },
  }
end

return linux

--[[
ELF32 and ELF64 executables. Source: System V ABI, chapters 4 and 5.
]]
local elf = {}

local EM_386, EM_X86_64 = 3, 62
local machines = { [0] = "none", [2] = "SPARC", [8] = "MIPS", [20] = "PowerPC", [40] = "ARM", [183] = "AArch64", [243] = "RISC-V" }
local types = { [0] = "none", "a relocatable object (link it first)", "executable",
  "position-independent (link it at a fixed address)", "a core dump" }

--- The header of an ELF file, its program and section tables checked against the file's length.
---@param bytes string
---@return table? header
---@return string? message
function elf.header(bytes)
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

--- Reads an executable file for x86.
---@param bytes string
---@return Image? image
---@return string? message
function elf.parse(bytes)
  local h, err = elf.header(bytes)
  if not h then return nil, err end
  if h.machine ~= EM_386 and h.machine ~= EM_X86_64 then
    return nil, ("is for %s (ELF machine %d), not for x86"):format(machines[h.machine] or "another CPU", h.machine)
  end
  if h.wide and h.machine ~= EM_X86_64 then return nil, "is ELF64 but not for x86-64" end
  if h.type ~= 2 then return nil, ("is not executable: its ELF type is %d, %s"):format(h.type, types[h.type] or "unknown") end
  local segments, bad = elf_segments(bytes, h)
  if not segments then return nil, bad end
  local entry, physical
  for _, s in ipairs(segments) do
    local off = h.entry - s.vaddr
    if math.ult(off, s.size) then entry = s.addr + off end
    -- A kernel that is entered before it has set up its own addresses may name a physical one, as Linux does.
    if math.ult(h.entry - s.addr, s.size) then physical = h.entry end
  end
  entry = entry or physical
  if not entry then return nil, ("entry point 0x%x is in none of its segments"):format(h.entry) end
  local wide = h.machine == EM_X86_64
  return { format = h.wide and "elf64" or "elf32", mode = wide and "long" or "protected", entry = entry, segments = segments }
end

return elf

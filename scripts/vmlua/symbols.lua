-- Symbols of guest programs: names to addresses and back, from an ELF symbol table or from a list as
-- `nm` prints it. Sources: System V ABI, ELF chapter 4 (symbol table).
local elf = require "vmlua.loader.elf"
local text = require "vmlua.text"

---@class Symbols
---@field by_name table<string, integer>
---@field sorted { addr: integer, size: integer, name: string }[]
local Symbols = {}
Symbols.__index = Symbols

local symbols = {}

local SHT_SYMTAB = 2
local STT_SECTION, STT_FILE = 3, 4

local function finish(by_name, list)
  table.sort(list, function(a, b)
    if a.addr ~= b.addr then return math.ult(a.addr, b.addr) end
    return a.name < b.name
  end)
  return setmetatable({ by_name = by_name, sorted = list }, Symbols)
end

local function section(bytes, h, i)
  local at = h.shoff + i * h.shentsize + 1
  local s = {}
  local _
  if h.wide then
    _, s.type, _, _, s.offset, s.size, s.link, _, _, s.entsize = string.unpack("<I4I4i8i8i8i8I4I4i8i8", bytes, at)
  else
    _, s.type, _, _, s.offset, s.size, s.link, _, _, s.entsize = string.unpack("<I4I4I4I4I4I4I4I4I4I4", bytes, at)
  end
  return s
end

local function inside(bytes, s)
  return s.offset >= 0 and s.size >= 0 and s.offset <= #bytes and s.size <= #bytes - s.offset
end

--- Reads the symbol table of an ELF file.
---@param bytes string
---@param name? string for messages
---@return Symbols? symbols
---@return string? message
function symbols.elf(bytes, name)
  local function refuse(why) return nil, ("%s: %s"):format(name or "image", why) end
  local h, err = elf.header(bytes)
  if not h then return refuse(err) end
  if h.sections_bad then return refuse(h.sections_bad) end
  local by_name, list = {}, {}
  local entsize = h.wide and 24 or 16
  local found = false
  -- Names may share their ends, but not so that a small file makes gigabytes of them.
  local room = 16 * #bytes
  for i = 0, h.shnum - 1 do
    local s = section(bytes, h, i)
    if s.type == SHT_SYMTAB and not found then -- the ABI has one such table at most; the same one many times takes for ever
      found = true
      if s.entsize ~= entsize then return refuse(("symbol entries are %d bytes, expected %d"):format(s.entsize, entsize)) end
      if not inside(bytes, s) then return refuse "the symbol table is outside the file" end
      if s.link >= h.shnum then return refuse(("the symbol table names string section %d of %d"):format(s.link, h.shnum)) end
      local strings = section(bytes, h, s.link)
      if not inside(bytes, strings) then return refuse "the string table is outside the file" end
      for at = s.offset + 1, s.offset + s.size - entsize + 1, entsize do
        local name_at, info, shndx, value, size, _
        if h.wide then
          name_at, info, _, shndx, value, size = string.unpack("<I4BBI2i8i8", bytes, at)
        else
          name_at, value, size, info, _, shndx = string.unpack("<I4I4I4BBI2", bytes, at)
        end
        local kind = info & 0xf
        if shndx ~= 0 and kind ~= STT_SECTION and kind ~= STT_FILE and name_at < strings.size then
          local first = strings.offset + name_at + 1
          local stop = bytes:find("\0", first, true)
          room = room - ((stop or #bytes) - first)
          if room < 0 then return refuse "its symbols have more and longer names than a file of its size can" end
          if stop and stop <= strings.offset + strings.size and stop > first then
            local symbol = bytes:sub(first, stop - 1)
            if by_name[symbol] == nil or info >> 4 ~= 0 then by_name[symbol] = value end
            list[#list + 1] = { addr = value, size = size, name = symbol }
          end
        end
      end
    end
  end
  if not found then return refuse "has no symbol table (stripped?)" end
  return finish(by_name, list)
end

--- Reads lines of "ADDRESS TYPE NAME", as `nm` prints them, or "ADDRESS NAME".
---@param bytes string
---@param name? string
---@return Symbols? symbols
---@return string? message
function symbols.list(bytes, name)
  local by_name, list, n = {}, {}, 0
  for line in bytes:gmatch("[^\n]+") do
    n = n + 1
    if not line:match("^%s*$") and not line:match("^%s*[#;]") then
      local addr, symbol = line:match("^%s*0?x?(%x+)%s+%a%s+(%S+)%s*$")
      if not addr then addr, symbol = line:match("^%s*0?x?(%x+)%s+(%S+)%s*$") end
      if not addr or #addr > 16 then
        return nil, ("%s:%d: expected an address and a name, got %q"):format(name or "symbols", n, line:sub(1, 60))
      end
      by_name[symbol] = tonumber(addr, 16)
      list[#list + 1] = { addr = by_name[symbol], size = 0, name = symbol }
    end
  end
  return finish(by_name, list)
end

--- Reads a file of either kind.
---@param path string
---@return Symbols? symbols
---@return string? message
function symbols.load(path)
  local bytes, err = text.read_file(path, 1 << 30)
  if not bytes then return nil, err end
  if bytes:sub(1, 4) == "\127ELF" then return symbols.elf(bytes, path) end
  if bytes:find("[\0-\8\14-\31]") then return nil, path .. ": is neither an ELF file nor a list of symbols" end
  return symbols.list(bytes, path)
end

--- Address of a symbol; nil and the nearest name when there is none.
---@param name string
---@return integer? addr
---@return string? message
function Symbols:addr(name)
  local base, plus = name:match("^(.-)%+(%w+)$")
  local addr = self.by_name[base or name]
  if addr then return addr + (plus and (tonumber(plus) or 0) or 0) end
  local words = {}
  for word in pairs(self.by_name) do words[#words + 1] = word end
  table.sort(words)
  return nil, text.unknown("symbol", base or name, words)
end

--- "main+0x10" for an address; nil below the first symbol or far beyond one.
---@param addr integer
---@return string?
function Symbols:name(addr)
  local low, high, best = 1, #self.sorted, nil
  while low <= high do
    local mid = (low + high) // 2
    local s = self.sorted[mid]
    if math.ult(addr, s.addr) then
      high = mid - 1
    else
      best = s
      low = mid + 1
    end
  end
  if not best then return nil end
  local off = addr - best.addr
  if off == 0 then return best.name end
  if best.size > 0 and not math.ult(off, best.size) then return nil end
  if best.size == 0 and off > 0xffff then return nil end
  return ("%s+0x%x"):format(best.name, off)
end

return symbols

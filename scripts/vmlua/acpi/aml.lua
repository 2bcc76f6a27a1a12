--[[
An encoder for AML, the byte code of ACPI. Source: ACPI specification 6.4, chapter 20; names of the operators
are those of ASL (chapter 19) in lower case with words apart by "_"; where one is a word of Lua it has "_" behind.

Each function answers bytes; a term is made of the terms in it:

    aml.scope("\\_SB", aml.device("COM1",
      aml.name("_HID", aml.eisaid "PNP0501"),
      aml.name("_CRS", aml.resources { aml.io(0x3f8, 0x3f8, 0, 8), aml.irq { 4 } })))

Numbers among arguments are integers, strings are bytes of other terms; `aml.string` makes a string of ACPI.
]]
local aml = {}

local pack = string.pack

-- ---- integers, names, lengths -------------------------------------------------------------------

--- An integer in its shortest form.
---@param n integer unsigned
---@return string
function aml.int(n)
  if n == 0 then return "\x00" end
  if n == 1 then return "\x01" end
  if n == -1 then return "\xff" end
  if math.ult(n, 0x100) then return pack("<I1I1", 0x0a, n) end
  if math.ult(n, 0x10000) then return pack("<I1I2", 0x0b, n) end
  if math.ult(n, 0x100000000) then return pack("<I1I4", 0x0c, n) end
  return pack("<I1i8", 0x0e, n)
end

local function term(v)
  if math.type(v) == "integer" then return aml.int(v) end
  if type(v) ~= "string" then error("a term of AML is an integer or bytes, got " .. type(v), 3) end
  return v
end

local function terms(...)
  local list = table.pack(...)
  for i = 1, list.n do list[i] = term(list[i]) end
  return table.concat(list)
end

--- A length as the packages have it in front, which counts itself.
local function package_length(size)
  if size + 1 < 0x40 then return string.char(size + 1) end
  for bytes = 1, 3 do
    local all = size + 1 + bytes
    if all < 1 << (4 + 8 * bytes) then
      return string.char(bytes << 6 | (all & 0xf)) .. pack("<I" .. bytes, all >> 4)
    end
  end
  error(("a package of AML is at most 256 MiB, not %d bytes"):format(size), 3)
end

local function sized(op, body) return op .. package_length(#body) .. body end

local function segment(s)
  if not s:match "^[A-Z_][A-Z0-9_]?[A-Z0-9_]?[A-Z0-9_]?$" then error(("%q is no name of ACPI"):format(s), 4) end
  return s .. ("_"):rep(4 - #s)
end

--- A path of names: "_CRS", "\\_SB.PCI0", "^PRQA".
---@param path string
---@return string
function aml.path(path)
  local prefix, rest = path:match "^(\\?%^*)(.*)$"
  local parts = {}
  for s in rest:gmatch "[^.]+" do parts[#parts + 1] = segment(s) end
  if #parts == 0 then return prefix .. "\x00" end
  if #parts == 1 then return prefix .. parts[1] end
  if #parts == 2 then return prefix .. "\x2e" .. parts[1] .. parts[2] end
  return prefix .. "\x2f" .. string.char(#parts) .. table.concat(parts)
end

--- A string of ASCII.
function aml.string(s)
  if s:find "[^\1-\127]" then error(("%q is no string of ACPI"):format(s), 2) end
  return "\x0d" .. s .. "\0"
end

--- A buffer of those bytes.
function aml.buffer(bytes) return sized("\x11", aml.int(#bytes) .. bytes) end

--- A package of terms.
function aml.package(list)
  if #list > 255 then error(("a package of %d elements, at most 255"):format(#list), 2) end
  return sized("\x12", string.char(#list) .. terms(table.unpack(list)))
end

--- The compressed form of a PnP identifier such as "PNP0A03".
---@param id string
---@return string
function aml.eisaid(id)
  local a, b, c, hex = id:match "^([A-Z])([A-Z])([A-Z])(%x%x%x%x)$"
  if not a then error(("%q is no PnP identifier"):format(id), 2) end
  local letters = (a:byte() - 0x40) << 10 | (b:byte() - 0x40) << 5 | (c:byte() - 0x40)
  return "\x0c" .. pack(">I2I2", letters, tonumber(hex, 16))
end

--- The sixteen bytes of a UUID as a buffer.
function aml.uuid(text)
  local a, b, c, d, e = text:match "^(%x%x%x%x%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x%x%x%x%x%x%x%x%x)$"
  if not a then error(("%q is no UUID"):format(text), 2) end
  local function n(h) return tonumber(h, 16) end
  return aml.buffer(pack("<I4I2I2", n(a), n(b), n(c)) .. pack(">I2I2I4", n(d), n(e:sub(1, 4)), n(e:sub(5))))
end

-- ---- objects ----------------------------------------------------------------------------------------

function aml.name(path, value) return "\x08" .. aml.path(path) .. term(value) end
function aml.scope(path, ...) return sized("\x10", aml.path(path) .. terms(...)) end
function aml.device(path, ...) return sized("\x5b\x82", aml.path(path) .. terms(...)) end
function aml.processor(path, id, block, length) return sized("\x5b\x83", aml.path(path) .. pack("<I1I4I1", id, block, length)) end
function aml.mutex(path) return "\x5b\x01" .. aml.path(path) .. "\0" end

--- A method of so many arguments.
---@param path string
---@param args integer 0 to 7
---@param ... any its terms
---@return string
function aml.method(path, args, ...) return sized("\x14", aml.path(path) .. string.char(args) .. terms(...)) end
--- A method that only one thread at a time runs.
function aml.serialized(path, args, ...) return sized("\x14", aml.path(path) .. string.char(args | 8) .. terms(...)) end

local spaces = { system_memory = 0, system_io = 1, pci_config = 2 }

--- An operation region in space "system_memory", "system_io" or "pci_config".
function aml.operation_region(path, space, offset, length)
  local number = spaces[space] or error(("unknown space %q"):format(tostring(space)), 2)
  return "\x5b\x80" .. aml.path(path) .. string.char(number) .. terms(offset, length)
end

local access = { any = 0, byte = 1, word = 2, dword = 3, qword = 4 }

--- Fields of a region: { "NAME", bits } each, { bits } alone skips them.
function aml.field(region, width, list)
  local body = { aml.path(region), string.char(access[width]) }
  for _, f in ipairs(list) do
    local name, bits = f[1], f[2]
    if not bits then name, bits = nil, f[1] end
    -- A field's length does not count its own bytes.
    local length
    if bits < 0x40 then
      length = string.char(bits)
    elseif bits < 0x1000 then
      length = string.char(0x40 | (bits & 0xf)) .. string.char(bits >> 4)
    else
      length = string.char(0x80 | (bits & 0xf)) .. pack("<I2", bits >> 4)
    end
    body[#body + 1] = (name and segment(name) or "\0") .. length
  end
  return sized("\x5b\x81", table.concat(body))
end

for name, op in pairs { dword_field = 0x8a, word_field = 0x8b, byte_field = 0x8c, qword_field = 0x8f } do
  aml["create_" .. name] = function(source, index, path) return string.char(op) .. terms(source, index) .. aml.path(path) end
end

-- ---- statements -------------------------------------------------------------------------------------

aml.zero, aml.one, aml.ones = "\x00", "\x01", "\xff"
aml.nothing = "\x00" -- as the target of an operator: keep the result only as its value
function aml.arg(n) return string.char(0x68 + n) end
function aml.local_(n) return string.char(0x60 + n) end
function aml.ret(v) return "\xa4" .. term(v) end
function aml.store(v, target) return "\x70" .. terms(v, target) end
function aml.call(path, ...) return aml.path(path) .. terms(...) end
function aml.if_(condition, ...) return sized("\xa0", terms(condition, ...)) end
function aml.else_(...) return sized("\xa1", terms(...)) end
function aml.while_(condition, ...) return sized("\xa2", terms(condition, ...)) end
function aml.notify(path, value) return "\x86" .. aml.path(path) .. term(value) end
function aml.acquire(path) return "\x5b\x23" .. aml.path(path) .. "\xff\xff" end
function aml.release(path) return "\x5b\x27" .. aml.path(path) end
function aml.increment(target) return "\x75" .. term(target) end
function aml.size_of(target) return "\x87" .. term(target) end
function aml.deref_of(v) return "\x83" .. term(v) end
function aml.index(source, i, target) return "\x88" .. terms(source, i, target or aml.nothing) end
function aml.lnot(v) return "\x92" .. term(v) end
function aml.lequal(a, b) return "\x93" .. terms(a, b) end
function aml.lgreater(a, b) return "\x94" .. terms(a, b) end
function aml.lless(a, b) return "\x95" .. terms(a, b) end
function aml.land(a, b) return "\x90" .. terms(a, b) end
function aml.lor(a, b) return "\x91" .. terms(a, b) end
for name, op in pairs {
  add = 0x72, subtract = 0x74, multiply = 0x77, shift_left = 0x79, shift_right = 0x7a, and_ = 0x7b, or_ = 0x7d, xor = 0x7f,
} do
  aml[name] = function(a, b, target) return string.char(op) .. terms(a, b, target or aml.nothing) end
end

-- ---- resources (chapter 6.4) ------------------------------------------------------------------------

--- The resources of a device: descriptors, with their end, in a buffer.
function aml.resources(list) return aml.buffer(table.concat(list) .. "\x79\x00") end

--- Ports, decoded in 16 bits.
function aml.io(min, max, align, length) return pack("<I1I1I2I2I1I1", 0x47, 1, min, max, align, length) end

--- Interrupt lines of the PICs: edge, high and exclusive unless `level` (low, shared) is given.
function aml.irq(lines, level)
  local mask = 0
  for _, n in ipairs(lines) do mask = mask | 1 << n end
  return level and pack("<I1I2I1", 0x23, mask, 0x18) or pack("<I1I2", 0x22, mask)
end

--- DMA channels; 8 bits, not a bus master.
function aml.dma(channels)
  local mask = 0
  for _, n in ipairs(channels) do mask = mask | 1 << n end
  return pack("<I1I1I1", 0x2a, mask, 0)
end

--- Global interrupts, as links to PCI interrupts give them: level, high, shared.
function aml.interrupts(list)
  local out = pack("<I1I2I1I1", 0x89, 2 + 4 * #list, 0x09, #list)
  for _, n in ipairs(list) do out = out .. pack("<I4", n) end
  return out
end

--- A fixed range of memory below 4 GiB.
function aml.memory32(addr, length, writable) return pack("<I1I2I1I4I4", 0x86, 9, writable == false and 0 or 1, addr, length) end

-- What a bridge passes on. Both ends are fixed; produced, decoded positively.
function aml.word_bus(first, last)
  return pack("<I1I2I1I1I1I2I2I2I2I2", 0x88, 13, 2, 0x0c, 0, 0, first, last, 0, last - first + 1)
end
function aml.word_io(first, last)
  return pack("<I1I2I1I1I1I2I2I2I2I2", 0x88, 13, 1, 0x0c, 3, 0, first, last, 0, last - first + 1)
end
function aml.dword_memory(first, last, cacheable)
  return pack("<I1I2I1I1I1I4I4I4I4I4", 0x87, 23, 0, 0x0c, cacheable and 3 or 1, 0, first, last, 0, last - first + 1)
end
function aml.qword_memory(first, last)
  return pack("<I1I2I1I1I1i8i8i8i8i8", 0x8a, 43, 0, 0x0c, 3, 0, first, last, 0, last - first + 1)
end

return aml

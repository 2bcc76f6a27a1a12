--[[
SMBIOS tables of a machine, for firmware to hand on (fw_cfg's etc/smbios/*), or laid out at an address.
Source: DMTF DSP0134, System Management BIOS reference specification 3.0; 2.8 for the 32-bit entry point.

    local set = smbios.build { cpus = 2, ram = { 2 << 30 }, uuid = "…", overrides = { { type = 1, serial = "42" } } }
    fw_cfg:add("etc/smbios/smbios-tables", set.tables)
    fw_cfg:add("etc/smbios/smbios-anchor", set.anchor)
]]
local strict = require "vmlua.strict"
local text = require "vmlua.text"

local smbios = {}

local pack = string.pack

-- What `-smbios type=N,key=value` may set: kinds of values, checked by parse.
smbios.KEYS = {
  [0] = { vendor = "string", version = "string", date = "string", release = "release", uefi = "boolean" },
  [1] = { manufacturer = "string", product = "string", version = "string", serial = "string", uuid = "uuid", sku = "string",
    family = "string" },
  [2] = { manufacturer = "string", product = "string", version = "string", serial = "string", asset = "string", location = "string" },
  [3] = { manufacturer = "string", version = "string", serial = "string", asset = "string", sku = "string" },
  [4] = { sock_pfx = "string", manufacturer = "string", version = "string", serial = "string", asset = "string", part = "string",
    ["max-speed"] = 0xffff, ["current-speed"] = 0xffff, ["processor-id"] = math.maxinteger },
  [8] = { internal_reference = "string", external_reference = "string", connector_type = 0xff, port_type = 0xff },
  [11] = { value = "list", path = "list" },
  [17] = { loc_pfx = "string", bank = "string", manufacturer = "string", serial = "string", asset = "string", part = "string",
    speed = 0xffff },
}

-- One structure: fields packed, strings numbered as they are first named.
local function structure(kind, handle, make)
  local strings = {}
  local function str(s)
    if s == nil or s == "" then return 0 end
    strings[#strings + 1] = s .. "\0"
    return #strings
  end
  local body = make(str)
  return pack("<I1I1I2", kind, 4 + #body, handle) .. body .. (#strings > 0 and table.concat(strings) or "\0") .. "\0"
end

local function uuid_bytes(s)
  local a, b, c, d, e = s:match "^(%x%x%x%x%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x%x%x%x%x%x%x%x%x)$"
  if not a then return nil, ("%q is no UUID"):format(s) end
  local function n(h) return tonumber(h, 16) end
  return pack("<I4I2I2", n(a), n(b), n(c)) .. pack(">I2I2I4", n(d), n(e:sub(1, 4)), n(e:sub(5)))
end

local check = {}

function check.string(s) return not s:find "\0" and #s <= 255 and s, "a text of up to 255 bytes" end

function check.uuid(s) return uuid_bytes(s) and s, "a UUID" end

function check.boolean(s) return text.boolean(s) ~= nil and s, "on or off" end

function check.release(s)
  local major, minor = s:match "^(%d+)%.(%d+)$"
  return major and tonumber(major) < 256 and tonumber(minor) < 256 and s, "two numbers up to 255 with a point between"
end

local function check_value(kind, value)
  if math.type(kind) == "integer" then
    local n = math.tointeger(tonumber(value))
    return n and n >= 0 and n <= kind and value, ("a number from 0 to %d"):format(kind)
  end
  return check[kind == "list" and "string" or kind](value)
end

--- One `-smbios type=N,key=value,…` as a table, checked; "file=" gives whole structures. A doubled comma is one in a value; value= and
--- path= of type 11 may be given several times and are lists.
---@param argument string
---@return table? override
---@return string? message
function smbios.parse(argument)
  local function wrong(format, ...) return nil, ("-smbios %s: " .. format):format(argument, ...) end
  local out = {}
  for _, part in ipairs(text.commas(argument)) do
    local key, value = part:match "^([%w_-]+)=(.*)$"
    if not key then return wrong("%q is not key=value", part) end
    if key == "value" or key == "path" then
      out[key] = out[key] or {}
      table.insert(out[key], value)
    elseif out[key] then
      return wrong("%s is given twice", key)
    else
      out[key] = value
    end
  end
  if out.file then
    if next(out, next(out)) then return wrong "file= stands alone" end
    return out
  end
  local number = math.tointeger(tonumber(out.type))
  local keys = smbios.KEYS[number]
  if not keys then return wrong "type is one of 0, 1, 2, 3, 4, 8, 11, 17" end
  local names = {}
  for name in pairs(keys) do names[#names + 1] = name end
  table.sort(names)
  for key, value in pairs(out) do
    local kind = keys[key]
    if key ~= "type" then
      if not kind then return wrong("%s", text.unknown("key", key, names)) end
      for _, one in ipairs(kind == "list" and value or { value }) do
        local ok, expected = check_value(kind, one)
        if not ok then return wrong("%s: expected %s, got %q", key, expected, one) end
      end
    end
  end
  out.type = number
  return out
end

---@class SmbiosConfig
---@field cpus integer logical processors
---@field cores? integer of a socket (1)
---@field threads? integer of a core (1)
---@field signature? integer CPUID leaf 1 EAX
---@field features? integer CPUID leaf 1 EDX
---@field ram integer bytes
---@field ranges? table[] { addr, size } each: where it is
---@field uuid? string
---@field product? string name of the machine class
---@field overrides? table[] as smbios.parse answers them
---@field raw? string[] whole structures more
---@field entry? "32"|"64" form of the entry point (32)

local SPEC = {
  cpus = "!integer", cores = "integer", threads = "integer", signature = "integer", features = "integer", ram = "!integer",
    ranges = "table",
  uuid = "string", product = "string", overrides = "table", raw = "table", entry = "string",
}

-- Values and the contents of files, in this order, onto a list.
local function oem_strings(list, o)
  for _, value in ipairs(type(o.value) == "table" and o.value or { o.value }) do list[#list + 1] = value end
  for _, path in ipairs(type(o.path) == "table" and o.path or { o.path }) do
    local bytes, err = text.read_file(path, 0xffff)
    if not bytes then error("-smbios: " .. err, 0) end
    if bytes:find "\0" or bytes == "" then error(("-smbios: %s: a text is expected"):format(path), 0) end
    list[#list + 1] = bytes
  end
  if #list > 255 then error("-smbios: type 11 takes up to 255 texts", 0) end
end

local function checksum(bytes)
  local sum = 0
  for i = 1, #bytes do sum = sum + bytes:byte(i) end
  return string.char(-sum & 0xff)
end

-- The 31 bytes of the 2.8 entry point, or the 24 of 3.0's.
local function anchor(wide, address, length, count, largest)
  if wide then
    local a = pack("<c5I1I1I1I1I1I1I1I4i8", "_SM3_", 0, 24, 3, 0, 0, 1, 0, length, address)
    return a:sub(1, 5) .. checksum(a) .. a:sub(7)
  end
  local inner = pack("<c5I1I2I4I2I1", "_DMI_", 0, length, address, count, 0x28)
  inner = inner:sub(1, 5) .. checksum(inner) .. inner:sub(7)
  local a = pack("<c4I1I1I1I1I2I1", "_SM_", 0, 31, 2, 8, largest, 0) .. ("\0"):rep(5) .. inner
  return a:sub(1, 4) .. checksum(a) .. a:sub(6)
end

--- Builds the tables.
---@param config SmbiosConfig
---@return { tables: string, anchor: string, place: fun(base: integer): string }
function smbios.build(config)
  local c = strict.check("smbios", config, SPEC)
  local set = { [0] = {}, {}, {}, {}, {}, [8] = {}, [11] = {}, [17] = {} }
  for _, o in ipairs(c.overrides or {}) do
    if o.type == 8 then
      table.insert(set[8], o)
    elseif o.type == 11 then
      oem_strings(set[11], o)
    elseif o.type then
      for k, v in pairs(o) do set[o.type][k] = v end
    end
  end
  local list = {}
  local function add(kind, handle, make) list[#list + 1] = structure(kind, handle, make) end
  local function number(s, default) return math.tointeger(tonumber(s or default)) or default end
  local b = set[0]
  if next(b) then
    local major, minor = (b.release or "0.0"):match "^(%d+)%.(%d+)$"
    add(0, 0, function(str)
      return pack("<I1I1I2I1I1i8I1I1I1I1I1I1", str(b.vendor), str(b.version), 0xe800, str(b.date), 0, 8, 0,
        text.boolean(b.uefi or "off") and 0x1c or 0x14,
        number(major, 0) & 0xff, number(minor, 0) & 0xff, 0xff, 0xff)
    end)
  end
  local s = set[1]
  local id = s.uuid or c.uuid
  add(1, 0x100, function(str)
    return pack("<I1I1I1I1", str(s.manufacturer or "vmlua"), str(s.product or c.product or "Standard PC"),
      str(s.version or "1.0"), str(s.serial))
      .. (id and assert(uuid_bytes(id)) or ("\0"):rep(16)) .. pack("<I1I1I1", 6, str(s.sku), str(s.family))
  end)
  local board = set[2]
  if next(board) then
    add(2, 0x200, function(str)
      return pack("<I1I1I1I1I1I1I1I2I1I1", str(board.manufacturer or "vmlua"), str(board.product), str(board.version), str(board.serial),
        str(board.asset), 1, str(board.location), 0x300, 0x0a, 0)
    end)
  end
  local chassis = set[3]
  add(3, 0x300, function(str)
    return pack("<I1I1I1I1I1I1I1I1I1I4I1I1I1I1I1", str(chassis.manufacturer or "vmlua"), 1, str(chassis.version or "1.0"),
      str(chassis.serial),
      str(chassis.asset), 3, 3, 3, 2, 0, 0, 0, 0, 0, str(chassis.sku))
  end)
  local p = set[4]
  local cores, threads = c.cores or 1, c.threads or 1
  local identity = number(p["processor-id"], (c.signature or 0) | (c.features or 0) << 32)
  local id_low, id_high = identity & 0xffffffff, identity >> 32
  for socket = 0, (c.cpus + cores * threads - 1) // (cores * threads) - 1 do
    add(4, 0x400 + socket, function(str)
      return pack("<I1I1I1I1I4I4I1I1I2I2I2I1I1I2I2I2I1I1I1I1I1I1I2I2I2I2I2", str((p.sock_pfx or "CPU ") .. socket), 3, 0x01,
        str(p.manufacturer or "vmlua"), id_low, id_high, str(p.version or "1.0"), 0, 0, number(p["max-speed"], 2000),
        number(p["current-speed"], 2000), 0x41, 1, 0xffff, 0xffff, 0xffff, str(p.serial), str(p.asset), str(p.part), math.min(cores, 255),
        math.min(cores, 255), math.min(cores * threads, 255), 2, 1, cores, cores, cores * threads)
    end)
  end
  for n, port in ipairs(set[8]) do
    add(8, 0x800 + n - 1, function(str)
      return pack("<I1I1I1I1I1", str(port.internal_reference), 0, str(port.external_reference), number(port.connector_type, 0),
        number(port.port_type, 0))
    end)
  end
  if #set[11] > 0 then
    add(11, 0x0e00, function(str)
      for _, v in ipairs(set[11]) do str(v) end
      return pack("<I1", #set[11])
    end)
  end
  local module_size = 16 << 30
  local modules = math.max(1, (c.ram + module_size - 1) // module_size)
  add(16, 0x1000, function()
    local kib = c.ram >> 10
    return pack("<I1I1I1I4I2I2i8", 1, 3, 6, kib < 0x80000000 and kib or 0x80000000, 0xfffe, modules, kib < 0x80000000 and 0 or c.ram)
  end)
  local m = set[17]
  for n = 0, modules - 1 do
    local mib = math.min(module_size, c.ram - n * module_size) >> 20
    add(17, 0x1100 + n, function(str)
      return pack("<I2I2I2I2I2I1I1I1I1I1I2I2I1I1I1I1I1I4I2I2I2I2", 0x1000, 0xfffe, 0xffff, 0xffff, mib < 0x7fff and mib or 0x7fff, 9, 0,
        str((m.loc_pfx or "DIMM ") .. n), str(m.bank), 7, 2, number(m.speed, 0), str(m.manufacturer or "vmlua"), str(m.serial),
          str(m.asset),
        str(m.part), 0, mib < 0x7fff and 0 or mib, number(m.speed, 0), 0, 0, 0)
    end)
  end
  for n, r in ipairs(c.ranges or { { 0, c.ram } }) do
    add(19, 0x1300 + n - 1, function()
      local first, last = r[1] >> 10, (r[1] + r[2] - 1) >> 10
      if last < 0xffffffff then return pack("<I4I4I2I1i8i8", first, last, 0x1000, 1, 0, 0) end
      return pack("<I4I4I2I1i8i8", 0xffffffff, 0xffffffff, 0x1000, 1, r[1], r[1] + r[2] - 1)
    end)
  end
  add(32, 0x2000, function() return ("\0"):rep(7) end)
  for _, bytes in ipairs(c.raw or {}) do list[#list + 1] = bytes end
  add(127, 0x7f00, function() return "" end)
  local largest = 0
  for _, entry in ipairs(list) do largest = math.max(largest, #entry) end
  local bytes = table.concat(list)
  local wide = c.entry == "64"
  return {
    tables = bytes, anchor = anchor(wide, 0, #bytes, #list, largest), count = #list,
    --- Entry point and tables as they are in memory from `base`, a multiple of 16.
    place = function(base) return anchor(wide, base + 32, #bytes, #list, largest) .. ("\0"):rep(wide and 8 or 1) .. bytes end,
  }
end

return smbios

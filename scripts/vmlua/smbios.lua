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

--- What `-smbios type=N,key=value` may set.
smbios.KEYS = {
  [0] = { vendor = "string", version = "string", date = "string", release = "string", uefi = "string" },
  [1] = { manufacturer = "string", product = "string", version = "string", serial = "string", uuid = "string", sku = "string",
    family = "string" },
  [2] = { manufacturer = "string", product = "string", version = "string", serial = "string", asset = "string", location = "string" },
  [3] = { manufacturer = "string", version = "string", serial = "string", asset = "string", sku = "string" },
  [4] = { sock_pfx = "string", manufacturer = "string", version = "string", serial = "string", asset = "string", part = "string",
    ["max-speed"] = "string", ["current-speed"] = "string" },
  [11] = { value = "string", path = "string" },
  [17] = { loc_pfx = "string", bank = "string", manufacturer = "string", serial = "string", asset = "string", part = "string",
    speed = "string" },
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

--- One `-smbios type=N,key=value,…` as a table, checked; "file=" gives whole structures.
---@param argument string
---@return table? override
---@return string? message
function smbios.parse(argument)
  local out = {}
  for part in argument:gmatch "[^,]+" do
    local key, value = part:match "^([%w_-]+)=(.*)$"
    if not key then return nil, ("-smbios %s: %q is not key=value"):format(argument, part) end
    if out[key] and key ~= "value" then return nil, ("-smbios %s: %s is given twice"):format(argument, key) end
    out[key] = value
  end
  if out.file then return out end
  local kind = math.tointeger(tonumber(out.type))
  local keys = smbios.KEYS[kind]
  if not keys then return nil, ("-smbios %s: type is one of 0, 1, 2, 3, 4, 11, 17"):format(argument) end
  local names = {}
  for name in pairs(keys) do names[#names + 1] = name end
  table.sort(names)
  for key in pairs(out) do
    if key ~= "type" and not keys[key] then return nil, ("-smbios %s: %s"):format(argument, text.unknown("key", key, names)) end
  end
  if out.uuid and not uuid_bytes(out.uuid) then return nil, ("-smbios %s: %q is no UUID"):format(argument, out.uuid) end
  out.type = kind
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
  local set = { [0] = {}, {}, {}, {}, {}, [11] = { values = {} }, [17] = {} }
  for _, o in ipairs(c.overrides or {}) do
    if o.type == 11 then
      table.insert(set[11].values, o.value)
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
      return pack("<I1I1I2I1I1i8I1I1I1I1I1I1", str(b.vendor), str(b.version), 0xe800, str(b.date), 0, 8, 0, b.uefi == "on" and 0x1c or 0x14,
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
  for socket = 0, (c.cpus + cores * threads - 1) // (cores * threads) - 1 do
    add(4, 0x400 + socket, function(str)
      return pack("<I1I1I1I1I4I4I1I1I2I2I2I1I1I2I2I2I1I1I1I1I1I1I2I2I2I2I2", str((p.sock_pfx or "CPU ") .. socket), 3, 0x01,
        str(p.manufacturer or "vmlua"), c.signature or 0, c.features or 0, str(p.version or "1.0"), 0, 0, number(p["max-speed"], 2000),
        number(p["current-speed"], 2000), 0x41, 1, 0xffff, 0xffff, 0xffff, str(p.serial), str(p.asset), str(p.part), math.min(cores, 255),
        math.min(cores, 255), math.min(cores * threads, 255), 2, 1, cores, cores, cores * threads)
    end)
  end
  if #set[11].values > 0 then
    add(11, 0x0e00, function(str)
      for _, v in ipairs(set[11].values) do str(v) end
      return pack("<I1", #set[11].values)
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

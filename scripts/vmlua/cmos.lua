--[[
What a PC's firmware reads from the CMOS RAM of the real-time clock: sizes of memory, boot order, floppy drives,
number of processors. The layout is the one of the IBM AT, with the additions of the virtual PC that SeaBIOS knows.

    cmos.fill(m, m:device("mc146818rtc", { id = "rtc" }), { below_4g = 3 << 30, above_4g = 1 << 30, boot = "cdn" })

and byte by byte: `vm.rtc.nvram[0x38]`, `vm.rtc.nvram[0x38] = 0x30`.
]]
local api = require "vmlua.core.api"
local text = require "vmlua.text"

local cmos = {}

local KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

--- Codes of floppy drives in byte 0x10, by the largest disk that they take.
---@type table<string, integer>
cmos.floppy_types = { none = 0, ["360K"] = 1, ["1.2M"] = 2, ["720K"] = 3, ["1.44M"] = 4, ["2.88M"] = 5 }

--- Codes of boot devices: a the floppy, c the disk, d the CD-ROM, n the network.
---@type table<string, integer>
cmos.boot_codes = { a = 1, c = 2, d = 3, n = 4 }

local function keys(t)
  local list = {}
  for k in pairs(t) do list[#list + 1] = k end
  table.sort(list)
  return list
end

local function code(known, value, what)
  local n = known[value]
  if not n then error(("cmos: %s"):format(text.unknown(what, tostring(value), keys(known))), 3) end
  return n
end

local function put16(rtc, index, value)
  rtc:set_nvram(index, value & 0xff)
  rtc:set_nvram(index + 1, value >> 8 & 0xff)
end

--- Writes the sum of bytes 0x10 to 0x2d to 0x2e and 0x2f, as firmware checks it. After any change of them.
---@param rtc mc146818rtc
function cmos.checksum(rtc)
  local sum = 0
  for i = 0x10, 0x2d do sum = sum + rtc:get_nvram(i) end
  rtc:set_nvram(0x2e, sum >> 8 & 0xff)
  rtc:set_nvram(0x2f, sum & 0xff)
end

--- The order in which firmware tries to boot, up to three letters of "acdn", first the first. `check_signature` false:
--- a floppy boots without the 55 AA at its end.
---@param rtc mc146818rtc
---@param order string
---@param check_signature? boolean
function cmos.boot(rtc, order, check_signature)
  if #order > 3 then error(("cmos: boot order %q has more than three devices"):format(order), 2) end
  local codes = { 0, 0, 0 }
  for i = 1, #order do codes[i] = code(cmos.boot_codes, order:sub(i, i), "boot device") end
  rtc:set_nvram(0x3d, codes[1] | codes[2] << 4)
  rtc:set_nvram(0x38, codes[3] << 4 | (check_signature == false and 1 or 0))
end

--- The floppy drives, by the largest disk they take: "1.44M", "none" …
---@param rtc mc146818rtc
---@param first string
---@param second? string
function cmos.floppies(rtc, first, second)
  local a = code(cmos.floppy_types, first or "none", "kind of floppy drive")
  local b = code(cmos.floppy_types, second or "none", "kind of floppy drive")
  local drives = (a ~= 0 and 1 or 0) + (b ~= 0 and 1 or 0)
  rtc:set_nvram(0x10, a << 4 | b)
  local equipment = rtc:get_nvram(0x14) & 0x3e
  if drives > 0 then equipment = equipment | 1 | drives - 1 << 6 end
  rtc:set_nvram(0x14, equipment)
  cmos.checksum(rtc)
end

--- The IDE disks by their place, 0 to 3: cylinders, heads and sectors a track of each. Firmware learns here, too, how a disk's
--- addresses of old become others that fit in 10 bits of cylinders: not at all, or by blocks.
---@param rtc mc146818rtc
---@param disks table<integer, integer[]>
function cmos.disks(rtc, disks)
  local kinds, translation = 0, 0
  for place = 0, 3 do
    local shape = disks[place]
    if shape then
      local cylinders, heads, sectors = table.unpack(shape)
      if cylinders > 1024 or heads > 16 or sectors > 63 then translation = translation | 1 << 2 * place end
      if place < 2 then -- of user-defined type 47
        local at = 0x1b + 9 * place
        kinds = kinds | 0xf0 >> 4 * place
        rtc:set_nvram(0x19 + place, 47)
        put16(rtc, at, cylinders)
        rtc:set_nvram(at + 2, heads)
        put16(rtc, at + 3, 0xffff) -- no write precompensation
        rtc:set_nvram(at + 5, 0xc0 | (heads > 8 and 8 or 0))
        put16(rtc, at + 6, cylinders)
        rtc:set_nvram(at + 8, sectors)
      end
    end
  end
  rtc:set_nvram(0x12, kinds)
  rtc:set_nvram(0x39, translation)
  cmos.checksum(rtc)
end

--- The number of processors that firmware waits for.
---@param rtc mc146818rtc
---@param n integer
function cmos.cpus(rtc, n) rtc:set_nvram(0x5f, math.min(n, 256) - 1) end

local function memory(rtc, below, above)
  local extended = math.max(below - MiB, 0)
  put16(rtc, 0x15, math.min(below // KiB, 640))
  put16(rtc, 0x17, math.min(extended // KiB, 0xffff))
  put16(rtc, 0x30, math.min(extended // KiB, 0xffff))
  put16(rtc, 0x34, math.min(math.max(below - 16 * MiB, 0) // (64 * KiB), 0xffff))
  local high = math.min(above // (64 * KiB), 0xffffff)
  put16(rtc, 0x5b, high & 0xffff)
  rtc:set_nvram(0x5d, high >> 16)
end

--- Fills the RAM from what the board has. Options: below_4g and above_4g, bytes of RAM (default: the machine's, with a
--- hole from 3 to 4 GiB); boot, up to three of "acdn" (default "cd"); check_signature of a boot floppy (default true);
--- floppy, a list of up to two drive kinds; cpus (default: the machine's); mouse, whether there is a PS/2 mouse
--- (default true).
---@param m machine
---@param rtc mc146818rtc
---@param o? table
function cmos.fill(m, rtc, o)
  local known = { "above_4g", "below_4g", "boot", "check_signature", "cpus", "floppy", "mouse" }
  o = o or {}
  for key in pairs(o) do
    local found = false
    for _, k in ipairs(known) do found = found or k == key end
    if not found then error("cmos.fill: " .. text.unknown("option", tostring(key), known), 2) end
  end
  local below = o.below_4g or math.min(m.ram_size, 3 * GiB)
  memory(rtc, below, o.above_4g or m.ram_size - below)
  rtc:set_nvram(0x14, 0x02 | (o.mouse == false and 0 or 0x04)) -- an FPU; a PS/2 mouse
  cmos.floppies(rtc, o.floppy and o.floppy[1], o.floppy and o.floppy[2])
  cmos.boot(rtc, o.boot or "cd", o.check_signature)
  cmos.cpus(rtc, o.cpus or #m.cpus)
  cmos.checksum(rtc)
end

local get = api.getters "mc146818rtc"

--- Its bytes as a table: rtc.nvram[0x38], rtc.nvram[0x38] = 0x30; # is how many there are.
---@return table<integer, integer>
function get.nvram(rtc)
  return setmetatable({}, {
    __index = function(_, i) return rtc:get_nvram(i) end,
    __newindex = function(_, i, value) rtc:set_nvram(i, value) end,
    __len = function() return 256 end,
  })
end

return cmos

-- What -drive says: its keys, their checks, and the nodes that come of them.
local core = require "vmlua.core.block"
local nodes = require "vmlua.blocknode"
local qom = require "vmlua.core.qom"
local text = require "vmlua.text"

local options = {}

local fail, boolean = nodes.fail, nodes.boolean

local interfaces = { "ide", "floppy", "virtio", "scsi", "sd", "mtd", "pflash", "none" }
local caches = { "writeback", "none", "writethrough", "directsync", "unsafe" }

-- Keys of -drive; throttling.*, file.* and what the format's driver takes are looked at apart.
local drive_keys = {
  "file", "if", "bus", "unit", "index", "media", "format", "cache", "aio", "readonly", "read-only", "snapshot", "discard",
  "detect-zeroes", "id", "werror", "rerror", "serial", "copy-on-read", "locking", "file.locking", "auto-read-only", "driver",
  "node-name", "max-in-flight",
}
-- The throttle's properties by the key of -drive, in QEMU's newer and older spelling.
local throttle_keys = { ["throttling.iops-size"] = "iops-size", ["iops-size"] = "iops-size" }
for _, kind in ipairs { "iops", "bps" } do
  for way, short in pairs { total = "", read = "-rd", write = "-wr" } do
    for _, suffix in ipairs { "", "-max", "-max-length" } do
      local property = ("%s-%s%s"):format(kind, way, suffix)
      throttle_keys["throttling." .. property] = property
      throttle_keys[kind .. short .. suffix] = property
    end
  end
end

local function one_of(key, value, words)
  for _, w in ipairs(words) do
    if w == value then return value end
  end
  fail("%s: %s", key, text.unknown("word", tostring(value), words))
end

local function whole(key, value, low, high)
  if value == nil then return nil end
  local n = math.tointeger(tonumber(value))
  if not n or n < low or n > high then fail("%s: a number from %d to %d is expected, got %q", key, low, high, tostring(value)) end
  return n
end

local function contains(list, word)
  for _, w in ipairs(list) do
    if w == word then return true end
  end
  return false
end

-- Names of the properties that the driver of a format takes; of any driver where the format is to be guessed.
local function format_keys(format)
  local out = {}
  for driver, type_name in pairs(core.drivers()) do
    for _, p in ipairs((not format or driver == format) and qom.properties(type_name) or {}) do out[#out + 1] = p.name end
  end
  return out
end

-- What belongs to a node: file.filename, backing.driver, cache.direct, or a property of the format.
local function is_node_key(key, extra)
  return key:match "^file%." or key:match "^backing%." or key == "cache.direct" or key == "cache.no-flush" or contains(extra, key)
end

local function unknown_key(key, extra)
  local all = { table.unpack(drive_keys) }
  for k in pairs(throttle_keys) do all[#all + 1] = k end
  for _, k in ipairs(extra) do all[#all + 1] = k end
  table.sort(all)
  fail("%s", text.unknown("drive property", key, all))
end

--- Checks what -drive (or a table of the same keys) says; raises with the key that is wrong.
---@param values table<string, any>
---@return table spec
function options.check(values)
  local spec, extra = { throttle = {}, described = {} }, format_keys(values.format or values.driver)
  for key, value in pairs(values) do
    key = tostring(key):gsub("_", "-")
    if contains(drive_keys, key) then
      spec[key] = value
    elseif throttle_keys[key] then
      local n, err = text.size(value)
      if not n then fail("%s: %s", key, err) end
      spec.throttle[throttle_keys[key]] = tostring(n)
    elseif is_node_key(key, extra) then
      spec.described[key] = value
    else
      unknown_key(key, extra)
    end
  end
  spec.interface = one_of("if", spec["if"] or "ide", interfaces)
  spec.media = one_of("media", spec.media or "disk", { "disk", "cdrom" })
  if spec.cache then one_of("cache", spec.cache, caches) end
  if spec["detect-zeroes"] then one_of("detect-zeroes", spec["detect-zeroes"], { "off", "on", "unmap" }) end
  if spec.discard then one_of("discard", spec.discard, { "ignore", "off", "unmap", "on" }) end
  spec.index, spec.bus, spec.unit = whole("index", spec.index, 0, 255), whole("bus", spec.bus, 0, 255), whole("unit", spec.unit, 0, 255)
  if spec.index and (spec.bus or spec.unit) then fail "index cannot be combined with bus and unit" end
  spec.read_only = boolean("readonly", spec.readonly)
  if spec.read_only == nil then spec.read_only = boolean("read-only", spec["read-only"]) end
  for _, key in ipairs { "snapshot", "copy-on-read", "auto-read-only" } do spec[key] = boolean(key, spec[key]) end
  spec.locking = spec.locking or spec["file.locking"]
  if spec.file == "" then spec.file = nil end
  if spec.file and (spec.described["file.filename"] or spec.described["file.driver"]) then fail "file and file.* exclude each other" end
  return spec
end

-- ---- opening -------------------------------------------------------------------------------------

local function locking_word(value)
  if value == nil then return nil end
  return boolean("locking", value == "auto" and "on" or value) and "auto" or "off"
end

-- The node of an image whose file or format has properties of its own.
local function open_described(spec, read_only, discard)
  local described = nodes.nested(spec.described)
  local file = described.file
  local function find(name) fail("%s: a node is described here, not named", name) end
  if file then
    file.driver = file.driver or "file"
    file["read-only"] = file["read-only"] or (read_only and "on" or nil)
    file.cache = file.cache or described.cache or spec.cache
    if file.driver == "file" then
      file.aio, file.locking = file.aio or spec.aio, file.locking or locking_word(spec.locking)
    end
    file.discard = file.discard or (discard and "unmap" or nil)
    file = nodes.build(file, find)
  elseif spec.file then
    local direct = described.cache and boolean("cache.direct", described.cache.direct)
    local no_flush = described.cache and boolean("cache.no-flush", described.cache["no-flush"])
    local err
    file, err = core.open_file(spec.file, {
      cache = no_flush and "unsafe" or direct and "none" or spec.cache, aio = spec.aio, locking = locking_word(spec.locking),
      read_only = read_only, auto_read_only = spec["auto-read-only"], discard = discard,
    })
    if not file then error(err, 0) end
  else
    fail "a file is expected"
  end
  described.cache = nil
  described.file = file
  described.driver = spec.format or spec.driver
  if not described.driver then
    local err
    described.driver, err = core.probe(file)
    if not described.driver then error(err, 0) end
  end
  described["read-only"] = described["read-only"] or (read_only and "on" or nil)
  described["auto-read-only"] = described["auto-read-only"] or (spec["auto-read-only"] and "on" or nil)
  described.discard = described.discard or (discard and "unmap" or nil)
  described["detect-zeroes"] = described["detect-zeroes"] or spec["detect-zeroes"]
  described["node-name"] = spec["node-name"]
  return nodes.build(described, find)
end

--- Opens what a drive's description says, with its filters. nil: it names no file.
---@param spec table from check
---@param all_snapshot? boolean `-snapshot`
---@return block-node?
function options.open(spec, all_snapshot)
  if not spec.file and not next(spec.described or {}) then return nil end
  local snapshot = spec.snapshot
  if snapshot == nil then snapshot = all_snapshot end
  if spec.media == "cdrom" or spec.read_only then snapshot = false end
  local discard = spec.discard == "unmap" or spec.discard == "on"
  local read_only = spec.read_only or spec.media == "cdrom" or snapshot or false
  local node, err
  if next(spec.described or {}) or spec["node-name"] then
    node = open_described(spec, read_only, discard)
  else
    node, err = core.open(spec.file, {
      format = spec.format or spec.driver, cache = spec.cache, aio = spec.aio, locking = locking_word(spec.locking),
      read_only = read_only, auto_read_only = spec["auto-read-only"], discard = discard, detect_zeroes = spec["detect-zeroes"],
    })
    if not node then error(err, 0) end
  end
  if snapshot then node = nodes.on_top("overlay", node, { ["read-only"] = false, discard = discard and "unmap" or "ignore" }) end
  if spec["copy-on-read"] then node = nodes.on_top("copy-on-read", node) end
  if next(spec.throttle or {}) then node = nodes.on_top("throttle", node, spec.throttle) end
  return node
end

return options

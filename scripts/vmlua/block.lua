--[[
Drives: what -hda, -cdrom, -drive, -blockdev and boards say about disks.

    m:drive "disk.img"                                       a drive, for a device's property `drive`
    m:drive { file = "disk.img", format = "raw", cache = "none", id = "d0" }
    vm.drives.hda:read(0, 512)                               requests of a script's own
    vm.drives.cdrom:change "other.iso"

A board asks for what the user gave it a place for: m:drives_of("ide") is a table by index (0-3 on a PC) of
{ drive =, media = "disk"|"cdrom" }. A drive that nobody takes is an error that names it.
]]
local api = require "vmlua.core.api"
local core = require "vmlua.core.block"
local nodes = require "vmlua.blocknode"
local driveoptions = require "vmlua.driveoptions"
local sched = require "vmlua.sched"
require "vmlua.machine" -- whose place-holders for what is here are replaced
local text = require "vmlua.text"

local block = {}

local fail, set_all = nodes.fail, nodes.set_all

block.check_drive, block.open, block.nested = driveoptions.check, driveoptions.open, nodes.nested

--- A node from a description of it and of what is below, of no machine.
---@param spec table nested
---@return block-node
function block.build(spec)
  local node = nodes.build(spec, function(name) fail("%s: a node is described here, not named", name) end)
  return node
end

-- ---- a machine's drives --------------------------------------------------------------------------

local function drives_of(m)
  local data = api.data(m)
  if not data.drives then data.drives = { by_id = {}, list = {}, nodes = {}, placed = {}, names = {} } end
  return data.drives
end

local function make(m, spec)
  local drives = drives_of(m)
  local node = spec.node or block.open(spec, drives.snapshot)
  local drive, err = core.drive(m, spec.id, node)
  if not drive then error(err, 0) end
  local values = {}
  for _, key in ipairs { "werror", "rerror", "serial", "max-in-flight" } do values[key] = spec[key] end
  set_all(drive, values)
  drives.by_id[drive.id] = drive
  table.insert(drives.list, drive)
  return drive
end

local shorthands = {
  { "hda", 0, "disk" }, { "hdb", 1, "disk" }, { "hdc", 2, "disk" }, { "hdd", 3, "disk" }, { "cdrom", 2, "cdrom" },
}

local function shorthand(conf, key, fixed)
  local value = conf[key]
  if value == nil then return nil end
  local values = {}
  if type(value) == "table" then
    for k, v in pairs(value) do values[k] = v end
  else
    values.file = value
  end
  for k, v in pairs(fixed) do
    if values[k] == nil then values[k] = v end
  end
  local ok, spec = pcall(block.check_drive, values)
  if not ok then fail("-%s: %s", key, spec) end
  spec.name = key
  return spec
end

-- Two drives an IDE channel, as on a PC; other interfaces have one bus.
local per_bus = { ide = 2, scsi = 7 }

local function place_of(drives, spec)
  local placed = drives.placed[spec.interface] or {}
  drives.placed[spec.interface] = placed
  local n = per_bus[spec.interface] or 256
  local index = spec.index
  if not index and (spec.bus or spec.unit) then index = (spec.bus or 0) * n + (spec.unit or 0) end
  if not index then
    index = 0
    while placed[index] do index = index + 1 end
  end
  if placed[index] then
    fail("drive %s: place %d of %s is taken by %s", spec.id or spec.file or "", index, spec.interface, placed[index].id or "another")
  end
  placed[index] = spec
  local media = spec.media == "cdrom" and "cd" or "hd"
  if spec.interface == "floppy" then
    spec.id = spec.id or ("floppy%d"):format(index)
  else
    spec.id = spec.id or ("%s%d-%s%d"):format(spec.interface, index // n, media, index % n)
  end
  return placed, index
end

--- Makes the drives that the settings name; called while the machine is built.
---@param m machine
---@param conf table
function block.add_configured(m, conf)
  local drives = drives_of(m)
  drives.snapshot = conf.snapshot and true or false
  for i, spec in ipairs(conf.blockdev or {}) do
    local ok, err = pcall(block.add_node, m, spec)
    if not ok then fail("-blockdev %s: %s", spec["node-name"] or i, err) end
  end
  local specs, free = {}, {}
  local function make_asked(spec)
    local ok, drive = pcall(make, m, spec)
    return ok and drive or fail("-%s: %s", spec.name or "drive", drive)
  end
  for _, s in ipairs(shorthands) do
    specs[#specs + 1] = shorthand(conf, s[1], { index = s[2], media = s[3], ["if"] = "ide" })
  end
  specs[#specs + 1] = shorthand(conf, "fda", { index = 0, ["if"] = "floppy" })
  specs[#specs + 1] = shorthand(conf, "fdb", { index = 1, ["if"] = "floppy" })
  for _, values in ipairs(conf.drive or {}) do
    if type(values) == "string" then values = { file = values } end
    local ok, spec = pcall(block.check_drive, values)
    if not ok then fail("-drive: %s", spec) end
    -- Those with a place of their own go before those that take what is left.
    table.insert((spec.index or spec.bus or spec.unit or spec.interface == "none") and specs or free, spec)
  end
  for _, s in ipairs(free) do specs[#specs + 1] = s end
  for _, spec in ipairs(specs) do
    if spec.interface == "none" then
      if not spec.id then fail "-drive: if=none needs an id" end
      make_asked(spec)
    else
      local placed, index = place_of(drives, spec)
      local drive = make_asked(spec)
      placed[index] = { drive = drive, media = spec.media, id = drive.id }
      if spec.name then drives.names[spec.name] = drive end
    end
  end
end

--- Raises when a drive was given a place that the board does not have.
---@param m machine
function block.check_taken(m)
  local drives = api.data(m).drives
  if not drives then return end
  for interface, placed in pairs(drives.placed) do
    for index, entry in pairs(placed) do
      if not entry.taken then
        fail("drive %s: board %s has no place %d of interface %s", entry.id, api.data(m).class.name, index, interface)
      end
    end
  end
end

-- ---- -blockdev -----------------------------------------------------------------------------------

local function build(m, spec)
  local drives = drives_of(m)
  return nodes.build(spec, function(name)
    local names = {}
    for known in pairs(drives.nodes) do names[#names + 1] = known end
    return drives.nodes[name] or fail("%s", text.unknown("node", name, names))
  end)
end

--- A node of the graph from its description: { driver =, ["node-name"] =, file = NODE or description … }.
---@param m machine
---@param spec table
---@return block-node
function block.add_node(m, spec)
  local drives = drives_of(m)
  spec = nodes.nested(spec)
  local name = spec["node-name"]
  if name and drives.nodes[name] then fail("node-name %s is taken", name) end
  local node = build(m, spec)
  if name then
    local ok, err = core.adopt(m, node, name)
    if not ok then error(err, 0) end
    drives.nodes[name] = node
  end
  return node
end

--- The drive that a device's property `drive` names: an id of -drive, or a node of -blockdev.
---@param m machine
---@param name string
---@return block-backend
function block.find(m, name)
  local drives = drives_of(m)
  if drives.by_id[name] then return drives.by_id[name] end
  if drives.nodes[name] then
    return make(m, { node = drives.nodes[name], id = name })
  end
  local names = {}
  for id in pairs(drives.by_id) do names[#names + 1] = id end
  for id in pairs(drives.nodes) do names[#names + 1] = id end
  fail("%s", text.unknown("drive", name, names))
end

-- ---- methods of machines --------------------------------------------------------------------------

local vm = api.methods "machine"
local get = api.getters "machine"

--- A drive for a device of a board: a file name, or a table with the keys of -drive, or { node = } of block.script.
---@param spec string|table
---@return block-backend
function vm:drive(spec)
  if type(spec) == "string" then spec = { file = spec } end
  local ok, drive = pcall(function()
    local given = {}
    for k, v in pairs(spec) do
      if k ~= "node" then given[k] = v end
    end
    given = block.check_drive(given)
    given.node = spec.node
    return make(self, given)
  end)
  if not ok then error(drive, 2) end
  return drive
end

--- The drives that the user gave a place on an interface ("ide", "floppy", "virtio" …), by index from 0:
--- { drive =, media = }. Whoever asks has a place for those below `places`.
---@param interface string
---@param places integer
---@return table<integer, { drive: block-backend, media: string }>
function vm:drives_of(interface, places)
  local placed = drives_of(self).placed[interface] or {}
  for index, entry in pairs(placed) do
    if index < places then entry.taken = true end
  end
  return placed
end

--- Its drives, by id and by the names hda … hdd, cdrom, fda, fdb; drives[1] is the first.
function get.drives(m)
  local drives = drives_of(m)
  return setmetatable({}, {
    __index = function(_, key)
      if type(key) == "number" then return drives.list[key] end
      return drives.names[key] or drives.by_id[key]
    end,
    __len = function() return #drives.list end,
    __pairs = function() return next, drives.by_id end,
  })
end

-- ---- methods of drives -----------------------------------------------------------------------------

local drive = api.methods "block-backend"

local function request(d, op, offset, data, flags)
  return sched.await { arm = function(done)
    d:submit(op, offset, data, done, flags)
  end }
end

--- Reads from the medium. nil and a message when it fails.
---@param offset integer|string
---@param length integer|string
---@return string? bytes
---@return string? message
function drive:read(offset, length) return request(self, "read", offset, length) end

--- Writes to the medium.
---@param offset integer|string
---@param bytes string
---@return boolean? ok
---@return string? message
function drive:write(offset, bytes) return request(self, "write", offset, bytes) end

--- What was written before is on stable storage when this returns true.
function drive:flush() return request(self, "flush", 0, 0) end

--- Zeroes a range.
---@param offset integer|string
---@param length integer|string
function drive:zero(offset, length) return request(self, "zero", offset, length) end

--- Tells that the contents of a range are not needed.
---@param offset integer|string
---@param length integer|string
function drive:discard(offset, length) return request(self, "discard", offset, length) end

--- What is known of a range: { bytes =, data =, zero =, allocated =, depth =, offset = }.
---@param offset integer|string
---@param length integer|string
function drive:status(offset, length) return request(self, "status", offset, length) end

--- Puts another medium into the drive: a file name, or a table with the keys of -drive.
---@param spec string|table
---@param force? boolean also where the guest has locked the door
---@return boolean? ok
---@return string? message
function drive:change(spec, force)
  if type(spec) == "string" then spec = { file = spec, ["auto-read-only"] = true } end
  local ok, node = pcall(function() return block.open(block.check_drive(spec)) end)
  if not ok then return nil, node end
  if not node then return nil, "a file is expected" end
  return self:insert(node, force)
end

-- ---- disks and faults made by scripts ---------------------------------------------------------------

local scripted = require "vmlua.core.blockscript"

--- A disk that functions answer for, to be put into a drive: m:drive { node = … }. read(offset, length) returns bytes;
--- write(offset, bytes), flush(), discard(offset, length) and zero(offset, length) return true; each may return nil and
--- the name of an error ("EIO", "ENOSPC") instead. Without write the disk is full of what read says and refuses writes.
---@param spec { size: integer|string, read: fun(offset: integer, length: integer): string?, string?, write?: function,
---  flush?: function, discard?: function, zero?: function }
---@return block-node
function block.script(spec)
  local function answer(value, code)
    if value == nil then return false, code or "EIO" end
    return value
  end
  local node, err = scripted.script(spec.size, function(r)
    local op = r.op
    local value, code
    if op == "read" then
      value, code = answer(spec.read(r.offset, r.length))
    elseif op == "write" then
      if not spec.write then return "EROFS" end
      value, code = answer(spec.write(r.offset, r:data()))
    elseif op == "zero" and not spec.zero then
      if not spec.write then return "EROFS" end
      value, code = answer(spec.write(r.offset, ("\0"):rep(math.min(r.length, 64 << 20))))
    elseif spec[op] then
      value, code = answer(spec[op](r.offset, r.length))
    else
      return true
    end
    if value == false then return op == "read" and false or code or "EIO" end
    return op == "read" and value or true
  end)
  if not node then error(err, 2) end
  return node
end

---@class DiskFaults
---@field node block-node the filter
local Faults = {}
Faults.__index = Faults

local function decide(faults, r)
  for _, h in ipairs(faults.hooks) do
    if h.op == r.op or h.op == "any" then
      h.hits = h.hits + 1
      local verdict = h.fn(r)
      if verdict == "powercut" then verdict = { power_cut = true } end
      if verdict ~= nil then return verdict end
    end
  end
end

--- The filter that injects faults into this drive, put on top of what it has when it is first asked for. volatile: the
--- disk has a write cache that a power cut loses.
---@param options? { volatile?: boolean }
---@return DiskFaults
function drive:faults(options)
  local data = api.data(self)
  if not data.faults then
    local faults = setmetatable({ hooks = {} }, Faults)
    local node, err = scripted.fault(self, function(r) return decide(faults, r) end, options and options.volatile)
    if not node then error(err, 2) end
    faults.node = node
    data.faults = faults
  end
  return data.faults
end

--- The power comes back after a power cut.
function Faults:power_on() scripted.power_on(self.node) end

local Hook = {}
Hook.__index = Hook
--- Ends it.
function Hook:remove()
  for i, h in ipairs(self.faults.hooks) do
    if h == self then table.remove(self.faults.hooks, i) return end
  end
end

local function hook(self, op, fn)
  if type(fn) ~= "function" then error(("a function expected, got %s"):format(type(fn)), 3) end
  local faults = self:faults()
  local h = setmetatable({ op = op, fn = fn, hits = 0, faults = faults }, Hook)
  table.insert(faults.hooks, h)
  return h
end

--- Calls fn(r) for each read; what it returns becomes of the read: nil (nothing), "EIO" or another error's name,
--- "powercut", or a table of error =, delay = seconds, torn = bytes that a write still writes, power_cut = true, keep = seed
--- (which writes survive a power cut that were not flushed; none without it). r has op, offset, length, index, data().
---@param fn fun(r: disk-request): string|table?
---@return table handle with hits, remove()
function drive:on_read(fn)
  local h = hook(self, "read", fn)
  return h
end

--- As on_read, for each write.
---@param fn fun(r: disk-request): string|table?
function drive:on_write(fn)
  local h = hook(self, "write", fn)
  return h
end

--- As on_read, for each flush.
---@param fn fun(r: disk-request): string|table?
function drive:on_flush(fn)
  local h = hook(self, "flush", fn)
  return h
end

--- As on_read, for every request.
---@param fn fun(r: disk-request): string|table?
function drive:on_request(fn)
  local h = hook(self, "any", fn)
  return h
end

return block

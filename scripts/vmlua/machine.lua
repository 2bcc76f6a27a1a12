--[[
Boards and machines.

    local machine = require "vmlua.machine"
    local hello = machine.define {
      name = "hello", doc = "RAM, a UART, one CPU", ram = "16M",
      init = function(m)
        m.memory:add(0, m.ram)
        m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
        m:load("guest.bin", 0x7c00)
        m.cpus[1]:set { cs = 0, rip = 0x7c00 }
      end,
    }
    local vm <close> = machine.new(hello, { ram = "32M" })
    vm:start()
    print(vm:wait { rt = 10 })

A board is a class below "machine": `-machine NAME` and `machine.new("NAME", …)` find it. The table that
`machine.new` takes has the names of the command line: ram, smp, accel, cpu, serial, device, kernel …
]]
local api = require "vmlua.core.api"
local core = require "vmlua.core.machine"
local text = require "vmlua.text"
local vm = require "vmlua.vm"

local machine = {}

---@class MachineClass a board, as machine.define makes it
---@field name string
---@field doc string
local Class = {}
Class.__index = Class
Class.__name = "machine class"
Class.__tostring = function(c) return ("board %s (%s)"):format(c.name, c.doc) end

local classes = {} -- by name

-- ---- strict tables ----------------------------------------------------------------------------------

local function keys_of(...)
  local names = {}
  for _, t in ipairs { ... } do
    for k in pairs(t) do names[#names + 1] = k end
  end
  table.sort(names)
  return names
end

-- Each key is known and of one of its types; level counts from the caller.
local function check(what, t, level, ...)
  if type(t) ~= "table" then error(("%s: a table expected, got %s"):format(what, type(t)), level + 1) end
  for key, value in pairs(t) do
    local kinds
    for _, known in ipairs { ... } do kinds = kinds or known[key] end
    if not kinds then error(("%s: %s"):format(what, text.unknown("key", tostring(key), keys_of(...))), level + 1) end
    local fits = kinds == "any"
    for kind in kinds:gmatch "[^|]+" do
      fits = fits or type(value) == kind or kind == "integer" and math.type(value) == "integer"
    end
    if not fits then
      error(("%s: %s is to be %s, got %s"):format(what, key, (kinds:gsub("|", " or ")), type(value)), level + 1)
    end
  end
end

local class_keys = {
  compat = "table",
  name = "string", doc = "string", alias = "string", default = "boolean", ram = "integer|string", cpus = "integer",
  max_cpus = "integer", accel = "string|table", irqchip = "string", pit = "boolean", cpu = "string", init = "function",
  icount = "boolean|table", assist = "boolean", translate = "boolean",
  devices = "table", options = "table", powerdown = "function", no_reboot = "boolean", on_triple_fault = "string",
}

-- What the command line says, by the same names.
local conf_keys = {
  boot = "string|table", fw_cfg = "table", smbios = "table", acpitable = "table", numa = "table",
  pflash = "string|table", option_rom = "string|table",
  name = "string", ram = "integer|string", smp = "integer", topology = "table", accel = "string|table", irqchip = "string",
  pit = "boolean", assist = "boolean", translate = "boolean", cpu = "string", uuid = "string", props = "table",
  device = "table", object = "table",
  kernel = "string", initrd = "string", append = "string", bios = "string", chardev = "table", serial = "string|table|userdata|boolean",
  debugcon = "string|table|userdata", rtc = "table", parallel = "string|table|userdata", console = "string|table|userdata",
  hda = "string|table", hdb = "string|table", hdc = "string|table", hdd = "string|table", cdrom = "string|table",
  fda = "string|table", fdb = "string|table", drive = "table", blockdev = "table", snapshot = "boolean",
  vga = "string", nodefaults = "boolean", no_fd_bootchk = "boolean", global = "table",
  no_reboot = "boolean", on_triple_fault = "string", icount = "boolean|table",
}
local topology_levels = { sockets = "integer", dies = "integer", cores = "integer", threads = "integer" }
-- Asked for by the user, meaningful only to a board that looks at them.
local board_keys = {
  "boot", "fw_cfg", "pflash", "option_rom", "kernel", "initrd", "append", "bios", "debugcon", "uuid", "rtc", "vga", "parallel",
  "smbios", "acpitable", "numa", "nodefaults", "no_fd_bootchk",
}

-- Those that name disks: the block layer is loaded when one is there.
local drive_settings = { "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "drive", "blockdev" }

-- ---- defining ---------------------------------------------------------------------------------------------

-- file:line of the first frame that is not this file.
local function caller()
  for level = 2, 20 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.currentline > 0 and not info.source:find("vmlua/machine.lua", 1, true) then
      return info.source:match "^@(.*)" or info.short_src, info.currentline
    end
  end
  return "?", 0
end

local function define(spec, parent, level)
  check("machine.define", spec, level + 1, class_keys)
  if type(spec.name) ~= "string" or spec.name == "" then error("machine.define: a board needs a name", level + 1) end
  local what = "board " .. spec.name
  if not spec.init and not spec.devices and not parent then
    error(what .. ": a board needs an init function or a list of devices", level + 1)
  end
  local ram = spec.ram
  if ram then
    local bytes, err = text.size(ram)
    if not bytes then error(("%s: ram: %s"):format(what, err), level + 1) end
    ram = bytes
  end
  local class = { parent = parent }
  for k, v in pairs(spec) do class[k] = v end
  class.ram = ram
  class.doc = class.doc or parent and parent.doc or ""
  class.options = require("vmlua.options").check_extra(spec.options)
  if spec.init then -- a board that is returned by a tail call has no frame of its own any more
    local info = debug.getinfo(spec.init, "S")
    class.file, class.line = info.source:match "^@(.*)" or info.short_src, info.linedefined
  else
    class.file, class.line = caller()
  end
  setmetatable(class, { __index = function(_, key)
    if Class[key] ~= nil then return Class[key] end
    if parent and key ~= "init" and key ~= "devices" and key ~= "alias" and key ~= "default" then return parent[key] end
  end, __tostring = Class.__tostring, __name = Class.__name })

  local known = classes[spec.name]
  if known then
    -- The same place again: the file was loaded a second time. Machines that exist keep the class they were made of.
    if known.file ~= class.file then
      error(("%s is already defined at %s:%d"):format(what, known.file, known.line), level + 1)
    end
  else
    local ok, err = pcall(core.register, {
      name = class.name, doc = class.doc, parent = parent and parent.name, alias = spec.alias, default = spec.default,
      ram = class.ram, cpus = class.cpus, max_cpus = class.max_cpus,
    })
    if not ok then error(tostring(err):gsub("^[^:]+:%d+: ", ""), level + 1) end
  end
  classes[spec.name] = class
  return class
end

--- Defines a board. Keys: name, doc, alias, default, ram, cpus, max_cpus, accel, irqchip, pit, icount, cpu, no_reboot,
--- on_triple_fault; init(m), which composes it; devices, a list of { type, prop = value … }; options, command line
--- options of its own; powerdown(m), what the power button does.
---@param spec table
---@return MachineClass
function machine.define(spec)
  local class = define(spec, nil, 2) -- no tail call: errors count levels
  return class
end

--- Derives a board: the parent's init runs first, then this one's; what is not named is the parent's.
---@param spec table as for machine.define
---@return MachineClass
function Class:extend(spec)
  local class = define(spec, self, 2)
  return class
end

--- Makes the versions of a board: NAME-VERSION for each of `versions`, oldest first, the newest with NAME as its alias
--- too. A version's list says what later code made different, as { device type, property, value }: a machine of that
--- version keeps the shape in which it was saved, and so do those before it.
---@param spec table as for machine.define; name without a version
---@param versions { version: string, compat: table[] }[] `version` "1.0", `compat` { { type, property, value }, … }
---@return MachineClass newest
function machine.versions(spec, versions)
  local newest, name = nil, spec.name
  for i, v in ipairs(versions) do
    check("machine.versions", v, 2, { version = "string", compat = "table" })
    local one, compat = {}, {}
    for key, value in pairs(spec) do one[key] = value end
    for n = #versions, i, -1 do
      for _, c in ipairs(versions[n].compat or {}) do compat[#compat + 1] = c end
    end
    one.name, one.compat = ("%s-%s"):format(name, v.version), compat
    one.alias, one.default = nil, nil
    if i == #versions then one.alias, one.default = name, spec.default end
    newest = define(one, nil, 2)
  end
  return newest
end

--- Makes a machine of this board.
---@param conf? table
---@return machine
function Class:new(conf) return machine.new(self, conf) end

--- Whether a value is a board.
---@param x any
---@return boolean
function machine.is_class(x)
  local mt = getmetatable(x)
  return type(x) == "table" and type(mt) == "table" and mt.__name == Class.__name
end

-- ---- finding ----------------------------------------------------------------------------------------------

--- Folders whose Lua files are boards: the one that comes with vmlua.
machine.folders = { (package.searchpath("vmlua.machine", package.path):match "^(.*)/scripts/vmlua/machine%.lua$" or ".") .. "/machines" }

local loaded = {}

local function load_board(path)
  if loaded[path] then return end
  loaded[path] = true
  local chunk, err = loadfile(path)
  if not chunk then error(err, 0) end
  chunk(path)
end

--- The board of that name or alias; nil: the default one. nil and a message when there is none.
---@param name? string
---@return MachineClass?
---@return string? message
function machine.find(name)
  if name and not classes[name] and name:match "^[%w%-_%.]+$" then
    for _, folder in ipairs(machine.folders) do
      local path = ("%s/%s.lua"):format(folder, name)
      local f = io.open(path)
      if f then
        f:close()
        load_board(path)
      end
    end
  end
  local class = core.select(name)
  if not class then -- an alias, or a name to be near to: know them all
    machine.load_all()
    local message
    class, message = core.select(name)
    if not class then return nil, message end
  end
  if not classes[class] then return nil, ("machine class %s was not made by a script"):format(class) end
  return classes[class]
end

--- Loads every board of machine.folders.
function machine.load_all()
  local fs = require "vmlua.core.fs"
  for _, folder in ipairs(machine.folders) do
    local names = fs.listdir(folder) or {}
    table.sort(names)
    for _, name in ipairs(names) do
      if name:match "^[^_%.].*%.lua$" then load_board(folder .. "/" .. name) end
    end
  end
end

--- All boards that are known, by name.
---@return MachineClass[]
function machine.classes()
  machine.load_all()
  local out = {}
  for _, c in ipairs(core.classes()) do
    if classes[c.name] then out[#out + 1] = classes[c.name] end
  end
  return out
end

--- The machines that are not closed, oldest first.
---@return machine[]
function machine.list() return core.list() end

-- ---- making -----------------------------------------------------------------------------------------------

-- What asked for the chardev of that name, for messages.
local function chardev_option(name)
  local kind = name and name:match "^(%a+)%d*$"
  if kind == "serial" or kind == "parallel" or kind == "debugcon" or kind == "monitor" then return "-" .. kind end
  return name and "-chardev " .. name or "chardev"
end

--- A character back end from its text ("file:log.txt", "chardev:ID", "ring") or table; handles pass.
---@param spec string|table|chardev
---@param m machine
---@param name? string
---@return chardev?
function machine.chardev(spec, m, name)
  if type(spec) == "userdata" or spec == nil then return spec end
  if spec == "none" or spec == false then return nil end
  local id = type(spec) == "string" and spec:match "^chardev:(.+)$"
  local known = api.data(m).chardevs or {}
  if id or known[spec] then
    id = id or spec
    if not known[id] then error(("%s: %s"):format(chardev_option(name), text.unknown("chardev", id, keys_of(known))), 0) end
    return known[id]
  end
  if type(spec) == "string" and spec:match "^mon:" then spec = spec:sub(5) end
  local chr, err = require("vmlua.core.chardev").new(spec, m, name)
  if not chr then error(("%s: %s"):format(chardev_option(name), err), 0) end
  return chr
end

local said = {}

local function choose_accel(class, conf, icount)
  -- VMLUA_ACCEL: what the tests set to run once more on another accelerator.
  local names = conf.accel or class.accel or icount and "soft" or os.getenv "VMLUA_ACCEL" or "auto"
  if type(names) == "string" then names = { names } end
  -- Only soft counts instructions: that decides what auto is.
  if icount then
    local known = {}
    for i, n in ipairs(names) do known[i] = n == "auto" and "soft" or n end
    names = known
  end
  local name, why = core.select_accel(names)
  if not name then error(why, 0) end
  if why ~= "" and not said[why] then
    said[why] = true
    require("vmlua.core.log").write(why)
  end
  return name, why
end

-- The order in which a class and its parents are composed.
local function lineage(class)
  local list = {}
  while class do
    table.insert(list, 1, class)
    class = class.parent
  end
  return list
end

local function option_keys(class)
  local keys = {}
  for _, c in ipairs(lineage(class)) do
    for _, o in ipairs(c.options) do keys[(o.name:gsub("-", "_"))] = "any" end
  end
  return keys
end

-- The settings as the board sees them, noting what it looked at.
local function watched(conf, class)
  local seen = {}
  local defaults = {}
  for _, c in ipairs(lineage(class)) do
    for _, o in ipairs(c.options) do
      if o.value ~= nil then defaults[(o.name:gsub("-", "_"))] = o.value end
    end
  end
  return setmetatable({}, {
    __index = function(_, key)
      seen[key] = true
      if conf[key] ~= nil then return conf[key] end
      return defaults[key]
    end,
    __pairs = function() return pairs(conf) end,
  }), seen
end

local function add_devices(m, list, what)
  for i, spec in ipairs(list or {}) do
    if type(spec) == "string" then spec = { spec } end
    if type(spec) ~= "table" or type(spec[1]) ~= "string" then
      error(("%s: a type name at [1] of %d expected"):format(what, i), 0)
    end
    local props = {}
    for k, v in pairs(spec) do
      if k ~= 1 then props[k] = v end
    end
    local dev, err = vm.make_device(m, spec[1], props)
    if not dev then error(("%s: %s"):format(what, err), 0) end
  end
end

--- The memory back end that a setting names by its id; raises where there is none.
---@param m machine
---@param conf table settings
---@param id string|qom.object
---@param what string the setting
---@return qom.object
function machine.find_backend(m, conf, id, what)
  if api.is_object(id, "memory-backend") then return id end
  local ids = {}
  for _, spec in ipairs(conf.object or {}) do ids[#ids + 1] = spec.id end
  local found = m:resolve(id)
  if not found then error(text.unknown("memory back end", tostring(id), ids), 0) end
  if not api.is_object(found, "memory-backend") then error(("%s: %s is no memory back end"):format(what, id), 0) end
  return found
end

-- `-global TYPE.PROPERTY=VALUE`: the types and properties that are named are there.
local function check_globals(conf)
  local qom = require "vmlua.core.qom"
  for i, g in ipairs(conf.global or {}) do
    if type(g) ~= "table" or type(g[1]) ~= "string" or type(g[2]) ~= "string" or g[3] == nil then
      error(("-global: { type, property, value } expected at %d"):format(i), 0)
    end
    local names, found = {}, false
    if not qom.class(g[1]) then
      for _, class in ipairs(qom.classes "device") do names[#names + 1] = class.name end
      error("-global: " .. text.unknown("device", g[1], names), 0)
    end
    for _, p in ipairs(qom.properties(g[1])) do
      names[#names + 1], found = p.name, found or p.name == g[2]
    end
    if not found then error(("-global: %s: %s"):format(g[1], text.unknown("property", g[2], names)), 0) end
  end
  return conf.global
end

-- `-machine …,memory-backend=ID`: RAM comes from that object, and is as large as it.
local function memory_backend(m, conf, id)
  local backend = machine.find_backend(m, conf, id, "memory-backend")
  local ram = conf.ram and text.size(conf.ram)
  if ram and ram ~= backend.size then
    error(("memory-backend: %s has %s, the machine was given %s"):format(id, text.format_size(backend.size), text.format_size(ram)), 0)
  end
  return backend
end

local function build(m, class, conf)
  local data = api.data(m)
  local what = "board " .. class.name
  data.class = class
  data.settings = conf
  data.serial = {}
  local seen
  data.conf, seen = watched(conf, class)

  local ram, err = text.size(conf.ram or class.ram or "128M")
  if not ram then error(("%s: ram: %s"):format(what, err), 0) end
  if ram == 0 or ram % 4096 ~= 0 then error(("ram: %d bytes are no whole number of 4 KiB pages"):format(ram), 0) end
  m.ram_size = ram
  m.no_reboot = (conf.no_reboot or class.no_reboot) and true or false
  m.on_triple_fault = conf.on_triple_fault or class.on_triple_fault or "default"

  local icount = conf.icount
  if icount == nil then icount = class.icount end
  if icount == true then icount = {} end
  local accel, why = choose_accel(class, conf, icount)
  data.accel_reason = why
  local irqchip = conf.irqchip or class.irqchip or "on"
  local pit = conf.pit
  if pit == nil then pit = class.pit end
  if pit == nil then pit = irqchip == "on" end
  local ok
  local assist = conf.assist
  if assist == nil then assist = class.assist end
  local translate = conf.translate
  if translate == nil then translate = class.translate end
  -- VMLUA_TRANSLATE: what the tests set to run once more with the other.
  if translate == nil and os.getenv "VMLUA_TRANSLATE" then translate = os.getenv "VMLUA_TRANSLATE" ~= "off" end
  ok, err = m:set_accel(accel, { irqchip = irqchip, pit = pit, icount = icount or nil, assist = assist, translate = translate })
  if not ok then error(err, 0) end

  for i, spec in ipairs(conf.object or {}) do
    require("vmlua.qom").create_object(m, spec, i)
  end
  local by_id = {}
  for _, spec in ipairs(conf.chardev or {}) do
    by_id[spec.id] = machine.chardev(spec.text or spec, m, spec.id)
  end
  data.chardevs = by_id

  local extra = option_keys(class)
  for key, value in pairs(conf.props or {}) do
    local own = key:gsub("-", "_")
    if extra[own] then
      if conf[own] == nil then conf[own] = value end
    elseif key == "memory-backend" then
      data.ram_backend = memory_backend(m, conf, value)
      m.ram_size = data.ram_backend.size
    else
      local set, why_not = pcall(type(value) == "string" and m.parse or m.set, m, key, value)
      if not set then error("machine: " .. text.without_place(why_not), 0) end
    end
  end

  for _, key in ipairs(drive_settings) do
    if conf[key] ~= nil then
      require("vmlua.block").add_configured(m, conf)
      break
    end
  end

  local cpus = conf.smp or class.cpus or 1
  local max = class.max_cpus
  if cpus < 1 or max and cpus > max then
    error(("%s takes 1 to %d CPUs, not %d"):format(what, max or 255, cpus), 0)
  end
  local topology = conf.topology or {}
  check("topology", topology, -1, { cpus = "integer", maxcpus = "integer" }, topology_levels)
  for level in pairs(topology_levels) do m[level] = topology[level] or 0 end
  local model = conf.cpu or class.cpu
  local policy
  if model then
    policy, err = require("vmlua.cpuid").make(model, accel)
    if not policy then error(err, 0) end
  end
  data.make_cpus = function()
    data.make_cpus = nil
    for _ = 1, cpus do
      local cpu, why_not = m:add_cpu(policy)
      if not cpu then error(why_not, 0) end
    end
  end

  data.globals = check_globals(conf)
  for _, c in ipairs(lineage(class)) do
    add_devices(m, rawget(c, "devices"), what .. ": device")
    local init = rawget(c, "init")
    if init then init(m) end
  end
  add_devices(m, conf.device, "device")
  vm.need_cpus(m)

  for _, key in ipairs(board_keys) do
    local missing = key == "vga" and conf.vga == "none" -- what a board without a display has anyway
    if conf[key] ~= nil and not seen[key] and not missing then error(("%s does not use %s"):format(what, key), 0) end
  end
  for _, c in ipairs(lineage(class)) do
    for _, o in ipairs(c.options) do seen[(o.name:gsub("-", "_"))] = true end
  end
  local ports = 0
  for n in pairs(data.serial) do ports = math.max(ports, n) end
  local asked = type(conf.serial) == "table" and #conf.serial or conf.serial ~= nil and 1 or 0
  if asked > ports and not data.serial_ignored then
    error(("%s has %d serial ports, %d were asked for"):format(what, ports, asked), 0)
  end
  if data.drives then require("vmlua.block").check_taken(m) end
  m:finish_init()
  data.built = true
end

local unnamed_boards = 0
local function unnamed()
  unnamed_boards = unnamed_boards + 1
  return ("board-%d"):format(unnamed_boards)
end

--- Makes a machine: `board` is a name, an alias, a class, or the table of machine.define for a board that is made once.
--- It is ready to start, and belongs to whoever closes it.
---@param board string|MachineClass
---@param conf? table settings, by the names of the command line
---@return machine
function machine.new(board, conf)
  local class = board
  if board == nil or type(board) == "string" then
    local err
    class, err = machine.find(board)
    if not class then error(err, 2) end
  elseif type(board) == "table" and not machine.is_class(board) then
    if board.name == nil then
      local named = { name = unnamed() }
      for k, v in pairs(board) do named[k] = v end
      board = named
    end
    class = define(board, nil, 2)
  elseif not machine.is_class(board) then
    error(("machine.new: a board or its name expected, got %s"):format(type(board)), 2)
  end
  conf = conf or {}
  check("machine " .. class.name, conf, 2, conf_keys, option_keys(class))
  local m, err = core.new(class.name, conf.name)
  if not m then error(err, 2) end
  -- What the board's author did wrong is at his line; what the user asked for needs no place.
  local ok, problem = pcall(build, m, class, conf)
  if not ok then
    m:close()
    if type(problem) == "string" then
      problem = text.without_place(problem)
      if not problem:match "^[^\n:]+:%d+: " then error(problem, 2) end
    end
    error(problem, 0)
  end
  return m
end

return machine

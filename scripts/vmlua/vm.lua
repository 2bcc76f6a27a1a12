-- What boards and scripts call on a machine, above what the engine itself gives it. Making one is vmlua.machine's part.
local api = require "vmlua.core.api"
local sched = require "vmlua.sched"
local strict = require "vmlua.strict"
local text = require "vmlua.text"

local own = {} -- what vmlua.machine needs of this file

local function chardev_of(...) return require("vmlua.machine").chardev(...) end

-- The vCPUs are made when the board first looks at them or adds a device: RAM that it maps before that costs KVM no
-- grace period.
function own.need_cpus(m)
  local make = api.data(m).make_cpus
  if make then make() end
end
local getters = api.getters "machine"
local made_cpus = getters.cpus
--- The vCPUs, the boot processor first.
---@param m machine
---@return x86-cpu[]
function getters.cpus(m)
  own.need_cpus(m)
  return made_cpus(m)
end

-- ---- what a board does with m -------------------------------------------------------------------------------

local vm = api.methods "machine"
local get = api.getters "machine"

--- The settings that the machine was made with; what a board never looks at is refused.
---@return table
function get.conf(m) return api.data(m).conf end

--- The board that it was made of.
---@return MachineClass
function get.class(m) return api.data(m).class end

local add_serial

--- Its serial ports, in order; called as m:serial(n) by a board, it gives the back end of port n (from 0): the one that
--- was asked for, else a ring that keeps what the guest writes.
---@return chardev[]
function get.serial(m)
  local list = api.data(m).serial
  if not list then
    list = {}
    api.data(m).serial = list
  end
  if not getmetatable(list) then
    setmetatable(list, { __call = function(_, owner, n) return add_serial(owner, n) end })
  end
  return list
end

--- Its keyboard, to type on: vm.keyboard:type "ls\n".
---@return Keyboard
function get.keyboard(m) return require("vmlua.input").keyboard(m) end

--- Its mouse: vm.mouse:click().
---@return Mouse
function get.mouse(m) return require("vmlua.input").mouse(m) end

--- The machine's RAM as a region, of the size that was asked for: m.memory:add(0, m.ram).
---@return memory-region
-- RAM in pieces, each a back end's: one after another.
local function ram_of_pieces(m, backends)
  local whole, at = m:region { kind = "container", name = "ram", size = m.ram_size }, 0
  for i, backend in ipairs(backends) do
    local piece = m:region { kind = "ram", name = ("ram.%d"):format(i - 1), size = backend.size, backend = backend }
    whole:add(at, piece)
    at = at + backend.size
  end
  return whole
end

function get.ram(m)
  local data = api.data(m)
  if not data.ram and data.ram_backends then data.ram = ram_of_pieces(m, data.ram_backends) end
  if not data.ram then
    local ok, region, err = pcall(m.region, m, { kind = "ram", name = "ram", size = m.ram_size, backend = data.ram_backend })
    if not ok then region, err = nil, text.without_place(region) end
    if not region then error(("%s of RAM: %s"):format(text.format_size(m.ram_size), err), 0) end
    data.ram = region
  end
  return data.ram
end

-- An ISA device names its interrupt in a property: its output of the same name goes there.
local function wire_isa(dev)
  if not dev:is_a "isa-device" then return end
  for _, line in ipairs(dev:lines()) do
    if line.name == "irq" and not line.input and line.count == 1 then
      local known, number = pcall(dev.get, dev, "irq")
      if known and math.type(number) == "integer" and number >= 0 then dev:connect("irq", 0, number) end
    end
  end
end

-- Why there is no such device to make; nil: there is.
function own.refuse_type(name)
  local qom = require "vmlua.core.qom"
  local class = qom.class(name)
  if not class then
    local names = {}
    for _, c in ipairs(qom.classes "device") do
      if c.user_creatable ~= false then names[#names + 1] = c.name end
    end
    return text.unknown("device", tostring(name), names)
  end
  for _, ancestor in ipairs(qom.ancestors(name)) do
    if ancestor == "device" then
      return class.abstract and ("'%s' is a kind of devices, not one that can be made"):format(name) or nil
    end
  end
  return ("'%s' is no device"):format(name)
end

-- A bus by name, as `-device …,bus=` gives it: a bridge and the bus behind it may share theirs.
local function find_bus(m, name)
  local found
  local function look(bus)
    if bus.name == name then found = found or bus end
    for _, dev in ipairs(bus:devices()) do
      for _, child in ipairs(dev:children()) do
        if child:is_a "pci-bus" then look(child) end
      end
    end
  end
  if m.pci then look(m.pci) end
  return found or m:resolve(name)
end

-- Makes, sets and realizes a device; nil and a message without a place in this file.
function own.make_device(m, type, props)
  local why = own.refuse_type(type)
  if why then return nil, why end
  local ok, dev = pcall(require("vmlua.core.qom").new, type)
  if not ok then return nil, text.without_place(dev) end
  local id, err
  -- What the board's version says about this type, then -global, before what its user says of this one.
  local data = api.data(m)
  for _, list in ipairs { (data.class or {}).compat or {}, data.globals or {} } do
    for _, c in ipairs(list) do
      if dev:is_a(c[1]) then
        ok, err = pcall(_G.type(c[3]) == "string" and dev.parse or dev.set, dev, c[2], c[3])
        if not ok then return nil, text.without_place(err) end
      end
    end
  end
  for k, v in pairs(props or {}) do
    if k == "id" then
      id = v
    else
      if k == "chardev" and _G.type(v) == "string" then
        ok, v = pcall(chardev_of, v, m)
        if not ok then return nil, text.without_place(v) end
      elseif k == "drive" and _G.type(v) == "string" then
        ok, v = pcall(require("vmlua.block").find, m, v)
        if not ok then return nil, text.without_place(v) end
      end
      if k == "bus" and _G.type(v) == "string" then
        local bus = find_bus(m, v)
        if not bus then return nil, ("%s: bus: %s has no bus '%s'"):format(type, m.id, v) end
        v = bus
      end
      -- Text is read as the command line's is: "0x2f8", "on", "2G".
      if _G.type(v) == "string" then
        ok, err = pcall(dev.parse, dev, k, v)
      else
        ok, err = pcall(dev.set, dev, k, v)
      end
      if not ok then return nil, text.without_place(err) end
    end
  end
  ok, err = dev:realize(m, id, dev:is_a "pci-device" and (dev.bus or m.pci) or nil)
  if ok == nil and err then return nil, err end
  wire_isa(dev)
  return dev
end

--- Adds a device: made, its properties set, realized; an ISA device's interrupt is connected to the line that its
--- property `irq` names.
---@param type string
---@param props? table properties; `id` names it
---@return device
function vm:device(type, props)
  own.need_cpus(self)
  local dev, err = own.make_device(self, type, props)
  if not dev then error(err, 2) end
  return dev
end

function add_serial(self, n)
  if math.type(n) ~= "integer" or n < 0 or n > 15 then
    error(("m:serial: the number of a port, from 0, is expected, got %s"):format(tostring(n)), 3)
  end
  local data = api.data(self)
  if data.serial[n + 1] then return data.serial[n + 1] end
  local list = data.settings and data.settings.serial
  if type(list) ~= "table" or api.is_object(list) or list.backend then list = { list } end
  local spec = list[n + 1]
  if spec == nil and n == 0 then spec = data.settings and data.settings.console end
  if spec == nil then spec = "ring" end
  local chr = chardev_of(spec, self, ("serial%d"):format(n))
  if chr == nil then chr = chardev_of("null", self, ("serial%d"):format(n)) end
  data.serial[n + 1] = chr
  return chr
end

-- A file named by a board or a user: from the current folder, else beside the board's script.
local function resolve(m, path)
  if path:sub(1, 1) == "/" then return path end
  local f = io.open(path, "rb")
  if f then
    f:close()
    return path
  end
  local folder = api.data(m).class.file:match "^(.*)/[^/]*$"
  local beside = folder and folder .. "/" .. path
  f = beside and io.open(beside, "rb")
  if f then
    f:close()
    return beside
  end
  return path
end

--- Copies a file, or a part of it, into memory, now and again at each reset, as ROM images are. Raises when it cannot be
--- read or does not fit.
---@param path string from the current folder, or beside the board's script
---@param addr integer|string
---@param from? integer offset in the file (0)
---@param length? integer bytes of it (all that follow)
---@return integer size
function vm:load(path, addr, from, length)
  if type(path) ~= "string" then error(("load: the name of a file expected, got %s"):format(type(path)), 2) end
  path = resolve(self, path)
  local ok, size, err = pcall(self.memory.load, self.memory, path, addr, from, length)
  if not ok then error("load: " .. text.without_place(size), 2) end
  if not size then error(err, 2) end
  if not api.data(self).built then
    local handle = self
    self:on_reset(function() assert(handle.memory:load(path, addr, from, length)) end)
  end
  return size
end

--- Writes bytes into memory (ROM too), now and again at each reset.
---@param addr integer|string
---@param bytes string
function vm:place(addr, bytes)
  local at, why = text.size(addr)
  if not at then error("place: " .. why, 2) end
  if type(bytes) ~= "string" then error(("place: bytes as a string expected, got %s"):format(type(bytes)), 2) end
  addr = at
  local ok, err = self.memory:poke(addr, bytes)
  if not ok then error("place: " .. err, 2) end
  if not api.data(self).built then
    local handle = self
    self:on_reset(function() assert(handle.memory:poke(addr, bytes)) end)
  end
end

-- ---- running ------------------------------------------------------------------------------------------------

--- Lets it run, from the beginning or from where it was paused.
function vm:start() self:resume() end

--- The power button: what the board does for it. nil and a message when it has none.
function vm:powerdown()
  local class = api.data(self).class
  if not class or not class.powerdown then
    return nil, ("board %s has no power button"):format(class and class.name or self.id)
  end
  class.powerdown(self)
  return true
end

--- A non-maskable interrupt to every processor, as a diagnostics button gives it.
---@return boolean? done
---@return string? message
function vm:nmi()
  for _, cpu in ipairs(self.cpus) do
    local ok, err = cpu:nmi()
    if not ok then return nil, err end
  end
  return true
end

--- Ends the run, as pulling the plug does: status "shutdown". The machine can still be looked at.
---@param why? string
function vm:stop(why) self:shutdown(why or "stopped") end

--- Waits until it does not run any more. Answers the status and the reason; nil, "timeout" | "restored" | "closed".
---@param limits? { t?: number, rt?: number }
---@return string? status
---@return string? reason
function vm:wait(limits)
  limits = limits or {}
  strict.check("vm:wait", limits, { t = "number", rt = "number" })
  if self.gone then return nil, "closed" end
  local status = self.status
  if status == "building" then error(("%s was not started"):format(self.id), 2) end
  if status ~= "running" then return status, self.reason end
  return sched.await {
    vm = self, t = limits.t, rt = limits.rt,
    arm = function(done)
      local watch = self:notify(function(now, reason)
        if now == "closed" then done(nil, "closed")
        elseif now ~= "running" and not api.data(self).restoring then done(now, reason) end
      end)
      if self.status ~= "running" then done(self.status, self.reason) end -- meanwhile
      return function() watch:remove() end
    end,
  }
end

--- Goes back to a snapshot; pending waits answer nil, "restored".
local restore = vm.restore
function vm:restore(snapshot)
  local data = api.data(self)
  data.restoring = true -- on the way it is paused, which is nothing to wake up for
  local ok, err = pcall(restore, self, snapshot)
  data.restoring = nil
  if not ok then error(text.without_place(err), 2) end -- refused: it goes on as it was
  sched.interrupt(self, "restored")
end

-- What other files add is loaded when it is first named; at the prompt some of them are there before this one.
local function lazy(t, module, ...)
  for _, name in ipairs { ... } do
    local stub
    function stub(...)
      require(module)
      local real = rawget(t, name)
      if real == stub then error(("%s does not bring %s"):format(module, name)) end
      return real(...)
    end
    if rawget(t, name) == nil then t[name] = stub end
  end
end
lazy(vm, "vmlua.event", "pio", "mmio", "msr", "hypercall", "exec", "insn", "mem", "irq", "exit", "resets", "status_changes")
lazy(vm, "vmlua.block", "drive", "drives_of")
lazy(get, "vmlua.block", "drives")
lazy(api.methods "console", "vmlua.screen", "text", "match")
lazy(api.methods "chardev", "vmlua.event", "text")
lazy(api.methods "device", "vmlua.event", "log")

return own

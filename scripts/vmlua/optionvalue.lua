-- What the values of options say: each is read by a function of (settings, value), which notes it or raises an error of the command line.
local text = require "vmlua.text"

local optionvalue = {}

local Usage = { __tostring = function(e) return e.message end }

--- An error of the command line: the launcher prints it and ends with status 2.
---@param format string
function optionvalue.usage_error(format, ...)
  error(setmetatable({ usage = true, message = select("#", ...) > 0 and format:format(...) or format }, Usage), 0)
end
local refuse = optionvalue.usage_error

--- The error value itself, for who has a message already.
---@param message string
---@return table
function optionvalue.make_usage_error(message) return setmetatable({ usage = true, message = message }, Usage) end

--- Whether an error value is one of the command line.
---@param e any
---@return boolean
function optionvalue.is_usage_error(e) return type(e) == "table" and getmetatable(e) == Usage end

local function check(value, message)
  if value == nil then refuse("%s", message) end
  return value
end

local function keyval(value, implied)
  local values, keys = text.keyval(value, implied)
  if not values then refuse("%s", keys) end
  return values, keys
end

local function known(values, words, what)
  for key in pairs(values) do
    local found = false
    for _, w in ipairs(words) do found = found or w == key end
    if not found then refuse("%s", text.unknown(what, key, words)) end
  end
end

local function integer(value, what, low, high)
  local n = math.tointeger(tonumber(value))
  if not n or n < low or n > high then
    refuse("%s: expected a number from %d to %d, got %q", what, low, high, tostring(value))
  end
  return n
end

local function push(t, key, value)
  t[key] = t[key] or {}
  table.insert(t[key], value)
end

local function ask(s, topic, detail) push(s, "query", { topic = topic, detail = detail }) end

-- Values of -device, -object and -machine properties stay text: the property itself knows its type.
local function typed(value, implied)
  local values, keys = keyval(value, implied)
  local out = { values[implied] }
  for _, k in ipairs(keys) do
    if k ~= implied then out[k] = values[k] end
  end
  if not out[1] or out[1] == "" then refuse("expected a type name first, got %q", value) end
  return out
end

local accels = { "auto", "kvm", "soft", "tcg" }
optionvalue.accels = accels

-- Time as a count of instructions. `on` alone: with the defaults.
local function set_icount(s, values)
  local t = type(s.conf.icount) == "table" and s.conf.icount or {}
  if values.shift then
    if values.shift == "auto" then refuse "shift=auto is not there: a run is to be the same on every host" end
    t.shift = integer(values.shift, "shift", 0, 10)
  end
  if values.sleep then t.sleep = check(text.boolean(values.sleep)) end
  if values.seed then t.seed = integer(values.seed, "seed", math.mininteger, math.maxinteger) end
  if values.align and check(text.boolean(values.align)) then refuse "align=on is not there" end
  s.conf.icount = t
end

function optionvalue.icount(s, value)
  if value == "off" then s.conf.icount = false return end
  local values = keyval(value, "shift")
  known(values, { "shift", "sleep", "seed", "align" }, "-icount key")
  if values.shift == "on" then values.shift = nil end
  set_icount(s, values)
end

function optionvalue.accel(s, value)
  if value == "help" then return ask(s, "accel") end
  local values = keyval(value, "accel")
  known(values, { "accel", "kernel-irqchip", "pit", "assist", "translate", "icount", "shift", "sleep", "seed" }, "accelerator property")
  for name in (values.accel or "auto"):gmatch("[^:]+") do
    local ok = false
    for _, a in ipairs(accels) do ok = ok or a == name end
    if not ok then refuse("%s", text.unknown("accelerator", name, accels)) end
    push(s.conf, "accel", name == "tcg" and "soft" or name)
  end
  local chip = values["kernel-irqchip"]
  if chip then
    if chip ~= "on" and chip ~= "off" and chip ~= "split" then
      refuse("kernel-irqchip: expected on, off or split, got %q", chip)
    end
    s.conf.irqchip = chip
  end
  if values.icount and not check(text.boolean(values.icount)) then
    s.conf.icount = false
  elseif values.icount then
    set_icount(s, values)
  elseif values.shift or values.sleep or values.seed then
    refuse "shift, sleep and seed go with icount=on"
  end
  if values.pit then s.conf.pit = check(text.boolean(values.pit)) end
  if values.assist then s.conf.assist = check(text.boolean(values.assist)) end
  if values.translate then s.conf.translate = check(text.boolean(values.translate)) end
end

function optionvalue.machine(s, value)
  if value == "help" or value == "?" then return ask(s, "machine") end
  local values, keys = keyval(value, "type")
  if values.help then return ask(s, "machine", values.type) end
  if values.type and values.type ~= "" then s.machine = values.type end
  for _, k in ipairs(keys) do
    if k == "accel" then
      optionvalue.accel(s, values[k])
    elseif k == "kernel-irqchip" or k == "kernel_irqchip" then
      optionvalue.accel(s, (s.conf.accel and s.conf.accel[1] or "auto") .. ",kernel-irqchip=" .. values[k])
    elseif k ~= "type" then
      s.conf.props = s.conf.props or {}
      s.conf.props[k] = values[k]
    end
  end
end

function optionvalue.smp(s, value)
  local values = keyval(value, "cpus")
  known(values, { "cpus", "sockets", "dies", "cores", "threads", "maxcpus" }, "-smp key")
  local t = {}
  for k, v in pairs(values) do t[k] = integer(v, k, 1, 4096) end
  local product = (t.sockets or 1) * (t.dies or 1) * (t.cores or 1) * (t.threads or 1)
  local shape = t.sockets or t.dies or t.cores or t.threads
  t.cpus = t.cpus or (shape and product) or 1
  t.maxcpus = t.maxcpus or math.max(t.cpus, shape and product or 0)
  if t.maxcpus < t.cpus then refuse("maxcpus=%d is less than cpus=%d", t.maxcpus, t.cpus) end
  if not t.sockets then
    local rest = (t.dies or 1) * (t.cores or 1) * (t.threads or 1)
    if t.maxcpus % rest ~= 0 then refuse("%d CPUs do not divide into groups of %d", t.maxcpus, rest) end
    t.sockets = t.cores and t.maxcpus // rest or 1
    t.cores = t.cores or t.maxcpus // ((t.dies or 1) * (t.threads or 1))
  end
  t.dies, t.threads, t.cores = t.dies or 1, t.threads or 1, t.cores or t.maxcpus // (t.sockets * (t.dies or 1) * (t.threads or 1))
  if t.sockets * t.dies * t.cores * t.threads ~= t.maxcpus then
    refuse("sockets=%d dies=%d cores=%d threads=%d make %d CPUs, not %d", t.sockets, t.dies, t.cores, t.threads,
      t.sockets * t.dies * t.cores * t.threads, t.maxcpus)
  end
  s.conf.smp = t.cpus
  s.conf.topology = t
end

function optionvalue.memory(s, value)
  local values = keyval(value, "size")
  known(values, { "size" }, "-m key")
  local bytes, err = text.size(values.size or "", 1 << 20)
  if not bytes then refuse("%s", err) end
  if bytes == 0 then refuse("a machine needs some RAM") end
  s.conf.ram = bytes
end

function optionvalue.uuid(s, value)
  if not value:match("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$") then
    refuse("expected a UUID such as 2d9a1e3c-8f04-4c55-9f0a-0c6ea1a3b1f7, got %q", value)
  end
  s.conf.uuid = value:lower()
end

function optionvalue.rtc(s, value)
  local values, keys = keyval(value, "base")
  known(values, { "base", "clock", "driftfix" }, "-rtc key")
  local t = s.conf.rtc or {}
  for _, k in ipairs(keys) do t[k] = values[k] end
  local base = t.base
  if base and base ~= "utc" and base ~= "localtime" and not base:match "^%d%d%d%d%-%d%d%-%d%d$"
    and not base:match "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d$" then
    refuse("base: expected utc, localtime or a date such as 2024-02-29T12:34:56, got %q", base)
  end
  if t.clock == "rt" then t.clock = "host" end -- either goes on while the machine stands
  if t.clock and t.clock ~= "host" and t.clock ~= "vm" then refuse("clock: expected host or vm, got %q", t.clock) end
  if t.driftfix and t.driftfix ~= "none" and t.driftfix ~= "slew" then
    refuse("driftfix: expected none or slew, got %q", t.driftfix)
  end
  s.conf.rtc = t
end

local sandbox_groups = { "spawn", "elevateprivileges", "resourcecontrol" }

function optionvalue.sandbox(s, value)
  local values = keyval(value, "enable")
  known(values, { "enable", "obsolete", table.unpack(sandbox_groups) }, "-sandbox key")
  local deny = {}
  if values.obsolete and values.obsolete ~= "deny" then
    refuse("obsolete: expected deny (what is obsolete is always refused), got %q", values.obsolete)
  end
  for _, group in ipairs(sandbox_groups) do
    local word = values[group]
    if word and word ~= "allow" and word ~= "deny" then refuse("%s: expected allow or deny, got %q", group, word) end
    deny[group] = word == "deny"
  end
  s.run.sandbox = check(text.boolean(values.enable or "on")) and deny or nil
end

function optionvalue.device(s, value)
  if value == "help" or value == "?" then return ask(s, "device") end
  local of = value:match("^([^,]+),help$") or value:match("^([^,]+),%?$")
  if of then return ask(s, "device", of) end
  push(s.conf, "device", typed(value, "driver"))
end

function optionvalue.object(s, value)
  if value == "help" then return ask(s, "object") end
  local of = value:match("^([^,]+),help$")
  if of then return ask(s, "object", of) end
  local t = typed(value, "qom-type")
  if not t.id then refuse("an object needs an id: %s,id=NAME", t[1]) end
  push(s.conf, "object", t)
end

function optionvalue.chardev(s, value)
  if value == "help" then return ask(s, "chardev") end
  local of = value:match("^([^,]+),help$")
  if of then return ask(s, "chardev", of) end
  local values = keyval(value, "backend")
  if not values.id or values.id == "" then refuse("a chardev needs an id: %s,id=NAME", values.backend) end
  push(s.conf, "chardev", { id = values.id, text = value })
end

-- `-drive if=pflash` is how firmware's flash is often asked for.
local function flash(s, values)
  known(values, { "if", "file", "format", "readonly", "read-only", "unit", "index", "id" }, "key of a flash drive")
  if not values.file then refuse "if=pflash: file= is expected" end
  if values.format and values.format ~= "raw" then refuse("if=pflash: format raw is expected, got %q", values.format) end
  local readonly = values.readonly or values["read-only"]
  push(s.conf, "pflash", { file = values.file, unit = (values.unit or values.index) and integer(values.unit or values.index, "unit", 0, 1),
    readonly = readonly and check(text.boolean(readonly)) or false })
end

function optionvalue.drive(s, value)
  local values = keyval(value, "file")
  if values["if"] == "pflash" then return flash(s, values) end
  local ok, err = pcall(require("vmlua.block").check_drive, values)
  if not ok then refuse("%s", err) end
  push(s.conf, "drive", values)
end

function optionvalue.blockdev(s, value)
  if value == "help" then return ask(s, "blockdev") end
  local of = value:match("^([^,]+),help$")
  if of then return ask(s, "blockdev", of) end
  local values
  if value:match "^%s*{" then
    local found, json = pcall(require, "cjson")
    if not found then refuse "JSON needs the Lua module cjson" end
    local ok, decoded = pcall(json.decode, value)
    if not ok or type(decoded) ~= "table" then refuse("%s is no JSON object", value) end
    values = decoded
  else
    values = keyval(value, "driver")
  end
  if not values.driver then refuse "driver=NAME is expected" end
  if not values["node-name"] then refuse("a node needs a name: %s,node-name=NAME", values.driver) end
  push(s.conf, "blockdev", values)
end

function optionvalue.boot(s, value)
  local values = keyval(value, "order")
  known(values, { "order", "once", "menu", "splash", "splash-time", "reboot-timeout", "strict" }, "-boot key")
  local t = s.conf.boot or {}
  for _, key in ipairs { "order", "once" } do
    local drives = values[key]
    if drives then
      if not drives:match "^[a-dn]+$" then refuse("%s: expected letters of a, b, c, d, n, got %q", key, drives) end
      for i = 1, #drives do
        if drives:find(drives:sub(i, i), i + 1, true) then refuse("%s: %q names a drive twice", key, drives) end
      end
      t[key] = drives
    end
  end
  for _, key in ipairs { "menu", "strict" } do
    if values[key] then t[key] = check(text.boolean(values[key])) end
  end
  t.splash = values.splash or t.splash
  for _, key in ipairs { "splash-time", "reboot-timeout" } do
    if values[key] then t[key:gsub("-", "_")] = integer(values[key], key, key == "reboot-timeout" and -1 or 0, 0xffff) end
  end
  s.conf.boot = t
end

function optionvalue.name(s, value)
  local values = keyval(value, "guest")
  known(values, { "guest", "debug-threads" }, "-name key") -- threads have their names in any case
  if values["debug-threads"] then check(text.boolean(values["debug-threads"])) end
  s.conf.name = values.guest
end

-- What an end of the guest's ends.
local actions = {
  reboot = { reset = function() end, shutdown = function(s) s.conf.no_reboot = true end },
  shutdown = { poweroff = function() end, pause = function(s) s.run.no_shutdown = true end },
  panic = {},
}
for _, word in ipairs { "pause", "shutdown", "reset", "none" } do
  actions.panic[word] = function(s) push(s.conf, "global", { "pvpanic", "on-panic", word }) end
end

function optionvalue.action(s, value)
  local values, keys = keyval(value)
  known(values, { "reboot", "shutdown", "panic" }, "-action key")
  for _, key in ipairs(keys) do
    local words = {}
    for word in pairs(actions[key]) do words[#words + 1] = word end
    table.sort(words)
    local act = actions[key][values[key]]
    if not act then refuse("%s: expected %s, got %q", key, table.concat(words, ", "), values[key]) end
    act(s)
  end
end

-- Without a network there is "none" of it.
function optionvalue.network(_, value)
  if value ~= "none" then refuse("%q needs the network subsystem, which this build does not have", value) end
end

-- TYPE.PROPERTY=VALUE, or the three by their names.
function optionvalue.global(s, value)
  local kind, property, rest = value:match "^([%w_%-]+)%.([%w_%-]+)=(.*)$"
  if not kind then
    local values = keyval(value)
    known(values, { "driver", "property", "value" }, "-global key")
    kind, property, rest = values.driver, values.property, values.value
  end
  if not kind or not property or not rest then refuse("expected TYPE.PROPERTY=VALUE, got %q", value) end
  push(s.conf, "global", { kind, property, rest })
end

function optionvalue.smbios(s, value)
  local override, err = require("vmlua.smbios").parse(value)
  if not override then refuse("%s", (err:gsub("^%-smbios ", ""))) end
  push(s.conf, "smbios", override)
end

function optionvalue.acpitable(s, value)
  local values = keyval(value, "file")
  known(values, { "file" }, "-acpitable key")
  if (values.file or "") == "" then refuse "file= is expected: a whole table with its header" end
  push(s.conf, "acpitable", values.file)
end

function optionvalue.numa(s, value)
  local values = keyval(value, "type")
  local kind = values.type
  if kind == "node" then
    known(values, { "type", "nodeid", "cpus", "mem", "memdev" }, "-numa key")
    local node = { kind = "node", nodeid = values.nodeid and integer(values.nodeid, "nodeid", 0, 127), cpus = values.cpus,
      memdev = values.memdev }
    if values.cpus and not values.cpus:match "^%d+%-?%d*$" then refuse("cpus: a number or FIRST-LAST expected, got %q", values.cpus) end
    if values.mem then node.mem = check(text.size(values.mem:match "%a$" and values.mem or values.mem .. "M")) end
    push(s.conf, "numa", node)
  elseif kind == "dist" then
    known(values, { "type", "src", "dst", "val" }, "-numa key")
    for _, key in ipairs { "src", "dst", "val" } do
      if not values[key] then refuse("dist: %s= is missing", key) end
    end
    push(s.conf, "numa", { kind = "dist", src = integer(values.src, "src", 0, 127), dst = integer(values.dst, "dst", 0, 127),
      val = integer(values.val, "val", 10, 255) })
  else
    refuse("expected node or dist, got %q", tostring(kind))
  end
end

function optionvalue.fw_cfg(s, value)
  local values = keyval(value, "name")
  known(values, { "name", "file", "string" }, "-fw_cfg key")
  if not values.name or values.name == "" then refuse "a name is expected: name=opt/…" end
  if #values.name > 55 then refuse("the name %q has more than 55 bytes", values.name) end
  if (values.file == nil) == (values.string == nil) then refuse("%s: either file= or string= is expected", values.name) end
  push(s.conf, "fw_cfg", { name = values.name, file = values.file, string = values.string })
end

optionvalue.keyval, optionvalue.push, optionvalue.ask = keyval, push, ask

return optionvalue

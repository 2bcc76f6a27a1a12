--[[
The command line of a machine: every option declared once. `-help`, the manual page and the shell
completions are written from this table, and so is the parsing.

An entry: name; aliases; arg (what is shown for its argument, none: the option takes none); group; doc;
handler(s, value), which notes the setting in `s` or raises with a message; needs (the subsystem that is
missing from this build: the option is known, and refused by that name); values (words to complete).
]]
local text = require "vmlua.text"

local options = {}

---@class LaunchSettings
---@field machine? string name of the board
---@field conf table what machine.new takes
---@field run table what the launcher does around it
---@field query table[] lists that were asked for ("-cpu help")

local Usage = { __tostring = function(e) return e.message end }

--- An error of the command line: the launcher prints it and ends with status 2.
---@param format string
function options.usage_error(format, ...)
  error(setmetatable({ usage = true, message = select("#", ...) > 0 and format:format(...) or format }, Usage), 0)
end
local refuse = options.usage_error

--- The error value itself, for who has a message already.
---@param message string
---@return table
function options.make_usage_error(message) return setmetatable({ usage = true, message = message }, Usage) end

--- Whether an error value is one of the command line.
---@param e any
---@return boolean
function options.is_usage_error(e) return type(e) == "table" and getmetatable(e) == Usage end

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

local function icount(s, value)
  if value == "off" then s.conf.icount = false return end
  local values = keyval(value, "shift")
  known(values, { "shift", "sleep", "seed", "align" }, "-icount key")
  if values.shift == "on" then values.shift = nil end
  set_icount(s, values)
end

local function accel(s, value)
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

local function machine(s, value)
  if value == "help" or value == "?" then return ask(s, "machine") end
  local values, keys = keyval(value, "type")
  if values.help then return ask(s, "machine", values.type) end
  if values.type and values.type ~= "" then s.machine = values.type end
  for _, k in ipairs(keys) do
    if k == "accel" then
      accel(s, values[k])
    elseif k == "kernel-irqchip" or k == "kernel_irqchip" then
      accel(s, (s.conf.accel and s.conf.accel[1] or "auto") .. ",kernel-irqchip=" .. values[k])
    elseif k ~= "type" then
      s.conf.props = s.conf.props or {}
      s.conf.props[k] = values[k]
    end
  end
end

local function smp(s, value)
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

local function memory(s, value)
  local values = keyval(value, "size")
  known(values, { "size" }, "-m key")
  local bytes, err = text.size(values.size or "", 1 << 20)
  if not bytes then refuse("%s", err) end
  if bytes == 0 then refuse("a machine needs some RAM") end
  s.conf.ram = bytes
end

local function uuid(s, value)
  if not value:match("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$") then
    refuse("expected a UUID such as 2d9a1e3c-8f04-4c55-9f0a-0c6ea1a3b1f7, got %q", value)
  end
  s.conf.uuid = value:lower()
end

local function rtc(s, value)
  local values, keys = keyval(value, "base")
  known(values, { "base", "clock", "driftfix" }, "-rtc key")
  local t = s.conf.rtc or {}
  for _, k in ipairs(keys) do t[k] = values[k] end
  local base = t.base
  if base and base ~= "utc" and base ~= "localtime" and not base:match "^%d%d%d%d%-%d%d%-%d%d$"
    and not base:match "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d$" then
    refuse("base: expected utc, localtime or a date such as 2024-02-29T12:34:56, got %q", base)
  end
  if t.clock and t.clock ~= "host" and t.clock ~= "vm" then refuse("clock: expected host or vm, got %q", t.clock) end
  if t.driftfix and t.driftfix ~= "none" and t.driftfix ~= "slew" then
    refuse("driftfix: expected none or slew, got %q", t.driftfix)
  end
  s.conf.rtc = t
end

local sandbox_groups = { "spawn", "elevateprivileges", "resourcecontrol" }

local function sandbox(s, value)
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

local function set(key) return function(s, value) s.conf[key] = value end end
local function flag(key) return function(s) s.conf[key] = true end end
local function run(key) return function(s, value) s.run[key] = value == nil or value end end

local function device(s, value)
  if value == "help" or value == "?" then return ask(s, "device") end
  local of = value:match("^([^,]+),help$") or value:match("^([^,]+),%?$")
  if of then return ask(s, "device", of) end
  push(s.conf, "device", typed(value, "driver"))
end

local function object(s, value)
  if value == "help" then return ask(s, "object") end
  local of = value:match("^([^,]+),help$")
  if of then return ask(s, "object", of) end
  local t = typed(value, "qom-type")
  if not t.id then refuse("an object needs an id: %s,id=NAME", t[1]) end
  push(s.conf, "object", t)
end

local function chardev(s, value)
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

local function drive(s, value)
  local values = keyval(value, "file")
  if values["if"] == "pflash" then return flash(s, values) end
  local ok, err = pcall(require("vmlua.block").check_drive, values)
  if not ok then refuse("%s", err) end
  push(s.conf, "drive", values)
end

local function blockdev(s, value)
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

local function monitor(s, value)
  s.run.monitor = value
end

local function boot(s, value)
  local values = keyval(value, "order")
  known(values, { "order", "once", "menu", "splash-time", "reboot-timeout", "strict" }, "-boot key")
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
  for _, key in ipairs { "splash-time", "reboot-timeout" } do
    if values[key] then t[key:gsub("-", "_")] = integer(values[key], key, key == "reboot-timeout" and -1 or 0, 0xffff) end
  end
  s.conf.boot = t
end

local function smbios(s, value)
  local override, err = require("vmlua.smbios").parse(value)
  if not override then refuse("%s", (err:gsub("^%-smbios ", ""))) end
  push(s.conf, "smbios", override)
end

local function acpitable(s, value)
  local values = keyval(value, "file")
  known(values, { "file" }, "-acpitable key")
  if (values.file or "") == "" then refuse "file= is expected: a whole table with its header" end
  push(s.conf, "acpitable", values.file)
end

local function numa(s, value)
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

local function fw_cfg(s, value)
  local values = keyval(value, "name")
  known(values, { "name", "file", "string" }, "-fw_cfg key")
  if not values.name or values.name == "" then refuse "a name is expected: name=opt/…" end
  if #values.name > 55 then refuse("the name %q has more than 55 bytes", values.name) end
  if (values.file == nil) == (values.string == nil) then refuse("%s: either file= or string= is expected", values.name) end
  push(s.conf, "fw_cfg", { name = values.name, file = values.file, string = values.string })
end

-- ---- the table --------------------------------------------------------------------------------

---@class Option
---@field name string
---@field aliases? string[]
---@field arg? string
---@field doc string
---@field group string
---@field handler? fun(s: LaunchSettings, value: string?)
---@field needs? string
---@field values? string[]

---@type Option[]
options.list = {
  { name = "machine", aliases = { "M" }, arg = "NAME[,PROP=VALUE…]|help", group = "machine", handler = machine,
    doc = "Board to build, by name or alias, and its properties. `help` lists the boards, `NAME,help` the properties of one." },
  { name = "accel", arg = "NAME[,PROP=VALUE…]|help", group = "machine", handler = accel, values = accels,
    doc = "What runs the guest's instructions: kvm, soft, or auto (kvm where the host CPU backs it). Given several times, the "
      .. "first that works is taken. Properties: kernel-irqchip=on|off|split, pit=on|off, assist=on|off (kvm: the software CPU "
      .. "executes instructions that it cannot emulate), translate=on|off (soft: hot code becomes the host's)." },
  { name = "icount", arg = "[shift=]N[,sleep=on|off][,seed=N]|on|off", group = "machine", handler = icount,
    doc = "The guest's time is the number of instructions executed, each of 2^N ns (3): every run is the same. sleep: idle time "
      .. "passes in real time, else it is skipped. The same as `-accel soft,icount=on,…`." },
  { name = "enable-kvm", group = "machine", handler = function(s) accel(s, "kvm") end, doc = "The same as `-accel kvm`." },
  { name = "cpu", arg = "MODEL[,+FEATURE,-FEATURE]|help", group = "machine", values = { "host", "max", "help" },
    handler = function(s, value) if value == "help" then ask(s, "cpu") else s.conf.cpu = value end end,
    doc = "What the guest's CPUID shows: a model, features added and taken away." },
  { name = "smp", arg = "[cpus=]N[,sockets=N][,cores=N][,threads=N][,maxcpus=N]", group = "machine", handler = smp,
    doc = "Number of vCPUs, and how they are grouped." },
  { name = "m", arg = "[size=]SIZE", group = "machine", handler = memory, doc = "RAM; a bare number counts MiB." },
  { name = "name", arg = "NAME", group = "machine",
    handler = function(s, value) s.conf.name = keyval(value, "guest").guest end, doc = "Name of the machine in messages and paths." },
  { name = "uuid", arg = "UUID", group = "machine", handler = uuid, doc = "UUID that the machine reports." },
  { name = "rtc", arg = "[base=]utc|localtime|DATETIME[,clock=host|vm][,driftfix=none|slew]", group = "machine", handler = rtc,
    doc = "The real-time clock: the date it begins with, what counts its seconds (the host's clock, or the machine's, which "
      .. "stops with it), and whether late periodic interrupts are made up for." },
  { name = "device", arg = "TYPE[,PROP=VALUE…]|help", group = "machine", handler = device,
    doc = "Adds a device. `help` lists the types, `TYPE,help` the properties of one." },
  { name = "object", arg = "TYPE,id=ID[,PROP=VALUE…]|help", group = "machine", handler = object,
    doc = "Makes an object that others refer to by its id, such as a memory back end." },

  { name = "smbios", arg = "file=FILE|type=N[,KEY=VALUE…]", group = "machine", handler = smbios,
    doc = "What SMBIOS tells: fields of types 0, 1, 2, 3, 4, 11, 17, or whole structures from a file." },
  { name = "acpitable", arg = "file=FILE", group = "machine", handler = acpitable, doc = "An ACPI table more, with its header." },
  { name = "numa", arg = "node[,nodeid=N][,cpus=A-B][,mem=SIZE|memdev=ID]|dist,src=N,dst=N,val=N", group = "machine", handler = numa,
    doc = "Nodes of memory and processors that ACPI tells of, and the distances between them." },

  { name = "kernel", arg = "FILE", group = "boot", handler = set "kernel",
    doc = "Image to start: Linux, Multiboot, PVH, ELF or flat." },
  { name = "initrd", arg = "FILE[ ARGS][,FILE…]", group = "boot", handler = set "initrd",
    doc = "Initial RAM disk of a Linux kernel; modules of a Multiboot or PVH kernel, each with its own command line." },
  { name = "append", arg = "TEXT", group = "boot", handler = set "append", doc = "Command line of the kernel." },
  { name = "bios", arg = "FILE", group = "boot", handler = set "bios",
    doc = "Firmware image, read-only, up to the end of the first 4 GiB." },
  { name = "pflash", arg = "FILE", group = "boot", handler = function(s, value) push(s.conf, "pflash", value) end,
    doc = "A flash chip below the end of the first 4 GiB, its contents in that file, which keeps what is written; twice: "
      .. "the second below the first (code, then variables)." },
  { name = "boot", arg = "[order=]DRIVES[,once=DRIVES][,menu=on|off][,splash-time=MS][,reboot-timeout=MS][,strict=on|off]", group = "boot",
    handler = boot, doc = "What firmware starts: a the floppy, c the disk, d the CD-ROM, n the network, in that order; `once` holds for "
      .. "the first start only; a menu to choose from." },
  { name = "fw_cfg", arg = "[name=]NAME,file=FILE|string=TEXT", group = "boot", handler = fw_cfg,
    doc = "A file for firmware and guest in the firmware configuration device." },
  { name = "option-rom", arg = "FILE", group = "boot", handler = function(s, value) push(s.conf, "option_rom", value) end,
    doc = "An option ROM that firmware runs." },

  { name = "fda", arg = "FILE", group = "block", handler = set "fda", doc = "Floppy disk image." },
  { name = "fdb", arg = "FILE", group = "block", handler = set "fdb", doc = "Second floppy disk image." },
  { name = "hda", arg = "FILE", group = "block", handler = set "hda", doc = "First hard disk image (IDE 0, master)." },
  { name = "hdb", arg = "FILE", group = "block", handler = set "hdb", doc = "Second hard disk image (IDE 0, slave)." },
  { name = "hdc", arg = "FILE", group = "block", handler = set "hdc", doc = "Third hard disk image (IDE 1, master)." },
  { name = "hdd", arg = "FILE", group = "block", handler = set "hdd", doc = "Fourth hard disk image (IDE 1, slave)." },
  { name = "cdrom", arg = "FILE", group = "block", handler = set "cdrom", doc = "CD-ROM image (IDE 1, master)." },
  { name = "drive", arg = "file=FILE[,if=…][,index=N][,media=disk|cdrom][,format=…][,cache=…][,…]", group = "block", handler = drive,
    doc = "A drive. if=ide|floppy|virtio|none, index=, bus=, unit=; media=disk|cdrom; format= (guessed when it is not said); "
      .. "cache=writeback|none|writethrough|directsync|unsafe; aio=io_uring|threads|native; readonly=, snapshot=, copy-on-read=on|off; "
      .. "discard=unmap|ignore; detect-zeroes=on|off|unmap; throttling.iops-total=N and kin; werror=, rerror=report|ignore|stop|enospc; "
      .. "id=, serial=. `-device …,drive=ID` takes one of if=none." },
  { name = "blockdev", arg = "driver=DRIVER,node-name=NAME[,…]|help", group = "block", handler = blockdev,
    doc = "A node of the block layer, for `-device …,drive=NAME` or another node's file= or backing=. `help` lists the drivers, "
      .. "`DRIVER,help` the properties of one." },
  { name = "snapshot", group = "block", handler = flag "snapshot",
    doc = "Writes to disks go to temporary files, and are gone at the end." },

  { name = "netdev", arg = "TYPE,id=ID[,…]", group = "network", needs = "network", doc = "A network back end." },
  { name = "net", arg = "nic|user|…", group = "network", needs = "network", doc = "A network card or back end, the old way." },
  { name = "nic", arg = "TYPE[,model=…]", group = "network", needs = "network", doc = "A network card and its back end." },

  { name = "chardev", arg = "BACKEND,id=ID[,PROP=VALUE…]|help", group = "character", handler = chardev,
    values = { "stdio", "file", "pipe", "pty", "socket", "ringbuf", "null" },
    doc = "A character back end that devices name by its id." },
  { name = "serial", arg = "CHARDEV", group = "character", values = { "stdio", "pty", "null", "none", "mon:stdio" },
    handler = function(s, value) push(s.conf, "serial", value) end,
    doc = "Where the next serial port leads: stdio, mon:stdio (shared with the monitor: Ctrl-A c switches), file:PATH, "
      .. "pipe:PATH, pty, unix:PATH[,server], tcp:HOST:PORT[,server], ring, "
      .. "null, none, chardev:ID." },
  { name = "parallel", arg = "CHARDEV", group = "character", values = { "null", "none" },
    handler = function(s, value) push(s.conf, "parallel", value) end,
    doc = "Where the next parallel port prints to; spelled as for -serial. none: there is no such port." },
  { name = "debugcon", arg = "CHARDEV", group = "character", handler = set "debugcon",
    doc = "Where bytes written to port 0xe9 go; spelled as for -serial." },
  { name = "monitor", arg = "stdio|none|CHARDEV", group = "character", handler = monitor, values = { "stdio", "none" },
    doc = "A Lua prompt that runs beside the guest: on the terminal, or for whoever connects to a socket." },
  { name = "qmp", arg = "CHARDEV", group = "character", needs = "qmp", doc = "A QMP server." },
  { name = "nographic", group = "character",
    handler = function(s) s.run.nographic = true end, doc = "No display: the first serial port and "
      .. "the monitor share the terminal, as with -serial mon:stdio." },

  { name = "vnc", arg = "DISPLAY", group = "display", needs = "display", doc = "A VNC server." },
  { name = "display", arg = "TYPE", group = "display", values = { "none" }, doc = "Where the screen is shown; none is all there is.",
    handler = function(_, value)
      if value ~= "none" then refuse("%q needs the display subsystem, which this build does not have", value) end
    end },
  { name = "vga", arg = "std|none", group = "display", values = { "std", "none" }, doc = "The graphics card: std, a VGA with Bochs VBE.",
    handler = function(s, value)
      if value ~= "std" and value ~= "none" then refuse("there is no graphics card %q: std and none are what there is", value) end
      s.conf.vga = value
    end },

  { name = "S", group = "run", handler = run "paused", doc = "Does not start the guest: a script or the prompt resumes it." },
  { name = "s", group = "run", needs = "gdb", doc = "The same as `-gdb tcp::1234`." },
  { name = "gdb", arg = "ADDRESS", group = "run", needs = "gdb", doc = "A server for gdb." },
  { name = "no-reboot", group = "run", handler = flag "no_reboot", doc = "A guest that resets ends the machine." },
  { name = "no-shutdown", group = "run", handler = run "no_shutdown",
    doc = "A guest that powers off leaves the machine there, stopped." },
  { name = "loadvm", arg = "NAME", group = "run", needs = "saved state in files", doc = "Starts from a saved state." },
  { name = "incoming", arg = "ADDRESS", group = "run", needs = "migration", doc = "Waits for a machine that migrates here." },

  { name = "d", arg = "MASK[,MASK…]|help", group = "debug",
    values = { "guest", "unimp", "unassigned", "exits", "memory", "cpu", "irq", "chardev", "state", "script", "trace", "int",
      "in_asm", "exec", "all", "help" },
    handler = function(s, value) if value == "help" then ask(s, "log") else s.run.log = value end end,
    doc = "What is logged." },
  { name = "D", arg = "FILE", group = "debug", handler = run "log_file", doc = "File for the log; %d in it is the process id." },
  { name = "dfilter", arg = "RANGE[,RANGE…]", group = "debug", handler = run "log_filter",
    doc = "Code that -d in_asm and exec show: FIRST..LAST, FIRST+LEN or LAST-LEN." },
  { name = "trace", arg = "PATTERN|help", group = "debug",
    handler = function(s, value)
      if value == "help" then ask(s, "trace") else push(s.run, "trace", (value:gsub("^enable=", ""))) end
    end,
    doc = "Switches on trace points whose name matches the pattern (* and ?)." },
  { name = "pidfile", arg = "FILE", group = "process", handler = run "pidfile", doc = "File that holds the process id while it runs." },
  { name = "daemonize", group = "process", handler = run "daemonize", doc = "Goes to the background once the machine is built." },
  { name = "runas", arg = "USER", group = "process", handler = run "runas",
    doc = "Gives up root for this user once the machine is built." },
  { name = "sandbox", arg = "on|off[,spawn=allow|deny][,elevateprivileges=…][,resourcecontrol=…]", group = "process",
    values = { "on", "off" }, handler = sandbox,
    doc = "Once the machine is built, the kernel refuses system calls that change the host or look into other processes; "
      .. "with GROUP=deny also starting programs, changing user, changing priorities and limits." },
  { name = "help", aliases = { "h" }, group = "process", handler = function(s) ask(s, "help") end, doc = "Prints this list." },
  { name = "version", group = "process", handler = function(s) ask(s, "version") end, doc = "Prints the version." },
}

options.groups = {
  { "machine", "The machine" }, { "boot", "What it starts" }, { "character", "Serial ports and consoles" },
  { "run", "Running" }, { "debug", "Logs" }, { "process", "The process" }, { "block", "Disks" },
  { "network", "Network" }, { "display", "Display" }, { "board", "Options of this board" },
}

-- ---- parsing ----------------------------------------------------------------------------------

local function index(extra)
  local by_name, names = {}, {}
  local function add(o)
    by_name[o.name] = o
    names[#names + 1] = "-" .. o.name
    for _, a in ipairs(o.aliases or {}) do by_name[a] = o end
  end
  for _, o in ipairs(options.list) do add(o) end
  for _, o in ipairs(extra or {}) do add(o) end
  return by_name, names
end

--- Checks options that a board declares itself; raises on a name that is taken.
---@param extra Option[]?
---@return Option[]
function options.check_extra(extra)
  local by_name = index()
  local out = {}
  for i, o in ipairs(extra or {}) do
    if type(o) ~= "table" or type(o.name) ~= "string" or not o.name:match("^[%a][%w%-]*$") then
      error(("option %d of the board has no proper name"):format(i), 3)
    end
    if by_name[o.name] then error(("option -%s of the board is already an option of vmlua"):format(o.name), 3) end
    by_name[o.name] = o
    local copy = { group = "board" }
    for k, v in pairs(o) do copy[k] = v end
    copy.doc = copy.doc or ""
    copy.handler = copy.handler or function(s, value) s.conf[o.name:gsub("-", "_")] = value == nil or value end
    out[i] = copy
  end
  return out
end

--- Reads a command line.
---@param argv string[]
---@param extra? Option[] options that the board declares
---@return LaunchSettings
function options.parse(argv, extra)
  extra = options.check_extra(extra)
  local by_name, names = index(extra)
  local s = { conf = {}, run = {}, query = {} }
  local i = 1
  while i <= #argv do
    local word = argv[i]
    local name = word:match("^%-%-?(.+)$")
    if not name then
      refuse("%q is not an option%s", word, i == 1 and "" or "; the script comes first")
    end
    local o = by_name[name]
    if not o then
      local before, value = name:match("^([%w%-]+)=(.*)$")
      if before and by_name[before] then
        refuse("%s: write -%s %s, without the equals sign", word, before, value)
      end
      refuse("%s", text.unknown("option", "-" .. name, names))
    end
    if o.needs then
      refuse("-%s: needs the %s subsystem, which this build does not have", name, o.needs)
    end
    local value
    if o.arg then
      i = i + 1
      value = argv[i]
      if value == nil then refuse("-%s: expected an argument: %s", name, o.arg) end
    end
    local ok, err = pcall(o.handler, s, value)
    if not ok then
      if options.is_usage_error(err) then refuse("-%s: %s", name, err.message) end
      error(err, 0)
    end
    i = i + 1
  end
  return s
end

--- Paths and command lines of "-initrd FILE ARGS,FILE ARGS" (a doubled comma is one in a name).
---@param value string
---@return { path: string, cmdline: string }[]
function options.modules(value)
  local out = {}
  for _, part in ipairs(text.commas(value)) do
    local path = part:match("^%s*(%S+)")
    if path then out[#out + 1] = { path = path, cmdline = part:match("^%s*(.-)%s*$") } end
  end
  return out
end

-- ---- what is written from the table -------------------------------------------------------------

local function heading(o)
  local t = { "-" .. o.name }
  for _, a in ipairs(o.aliases or {}) do t[#t + 1] = "-" .. a end
  return table.concat(t, ", ") .. (o.arg and " " .. o.arg or "")
end

local function each_group(extra, fn)
  local all = {}
  for _, o in ipairs(options.list) do all[#all + 1] = o end
  for _, o in ipairs(options.check_extra(extra)) do all[#all + 1] = o end
  for _, g in ipairs(options.groups) do
    local members = {}
    for _, o in ipairs(all) do
      if o.group == g[1] then members[#members + 1] = o end
    end
    if #members > 0 then fn(g[2], members) end
  end
end

options.usage = {
  { "vmlua SCRIPT [OPTION…]", "run a script; a board that it returns is started" },
  { "vmlua -machine NAME [OPTION…]", "start a board by its name" },
  { "vmlua", "a Lua prompt" },
  { "vmlua test PATH… [-j N] [--filter P] [--junit FILE] [--timeout S] [--list] [--long]", "run tests" },
  { "vmlua img COMMAND [OPTION…] FILE…", "make, convert, check and compare disk images (vmlua img --help)" },
  { "vmlua -e CODE [ARG…]", "run a piece of Lua" },
  { "vmlua help [TOPIC]", "options, man, bash, zsh, reference, luals, or a name of the Lua API" },
  { "vmlua --version", "" },
}

--- The text of `-help`.
---@param extra? Option[]
---@param width? integer
---@return string
function options.help(extra, width)
  width = width or 100
  local out = { "Usage:" }
  for _, u in ipairs(options.usage) do
    out[#out + 1] = "  " .. u[1] .. (u[2] ~= "" and "\n      " .. u[2] or "")
  end
  each_group(extra, function(title, members)
    out[#out + 1] = "\n" .. title .. ":"
    for _, o in ipairs(members) do
      out[#out + 1] = "  " .. heading(o)
      local doc = o.doc .. (o.needs and (" (needs the %s subsystem, which this build does not have)"):format(o.needs) or "")
      for _, line in ipairs(text.wrap(doc, width - 6)) do out[#out + 1] = "      " .. line end
    end
  end)
  return table.concat(out, "\n") .. "\n"
end

local function roff(s)
  return (s:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("…", "..."):gsub("^([.'])", "\\&%1"):gsub("\n([.'])", "\n\\&%1"))
end

--- The manual page, in the man macros of roff.
---@param version string
---@return string
function options.man(version)
  local out = { ('.TH VMLUA 1 "" "vmlua %s" "User Commands"'):format(version), ".SH NAME",
    "vmlua \\- x86 machines that are programs in Lua", ".SH SYNOPSIS" }
  for _, u in ipairs(options.usage) do out[#out + 1] = ".B " .. roff(u[1]) .. "\n.br" end
  out[#out + 1] = [[
.SH DESCRIPTION
vmlua builds and runs x86 virtual machines. A machine is a Lua script that says which memory, CPUs and
devices it has; the engine below runs it on KVM. A script that returns a board is started with the rest of the
command line; any other script is a program that may build as many machines as it likes.
.PP
A script is looked for as a path first, then among the boards that come with vmlua.
Options may begin with one dash or two.
.SH OPTIONS]]
  each_group(nil, function(title, members)
    out[#out + 1] = ".SS " .. roff(title)
    for _, o in ipairs(members) do
      out[#out + 1] = ".TP\n.B " .. roff(heading(o))
      out[#out + 1] = roff(o.doc)
      if o.needs then out[#out + 1] = roff(("Needs the %s subsystem, which this build does not have."):format(o.needs)) end
    end
  end)
  out[#out + 1] = [[
.SH EXIT STATUS
0 on success, and when a machine ended well; the code that the guest gave, when it gave one; 1 when a script or the
machine failed; 2 when the command line was wrong.
.SH ENVIRONMENT
.TP
.B VMLUA_PATH
Folders, separated by colons, in which Lua modules and boards are looked for first.
.TP
.B VMLUA_HISTORY
File that keeps the lines typed at the prompt.
.SH FILES
.TP
.I ~/.local/state/vmlua/history
Lines typed at the prompt, unless VMLUA_HISTORY names another file.
.SH SEE ALSO
.BR lua (1)]]
  return table.concat(out, "\n") .. "\n"
end

--- A completion script for bash.
---@return string
function options.bash()
  local names, cases = {}, {}
  for _, o in ipairs(options.list) do
    names[#names + 1] = "-" .. o.name
    local pattern = "-" .. o.name .. "|--" .. o.name
    if o.name == "machine" then
      local list = [[$(vmlua -machine help 2>/dev/null | awk '/^ /{print $1}')]]
      cases[#cases + 1] = ('    %s) COMPREPLY=($(compgen -W "%s" -- "$cur")); return ;;'):format(pattern, list)
    elseif o.values then
      cases[#cases + 1] = ('    %s) COMPREPLY=($(compgen -W "%s" -- "$cur")); return ;;'):format(pattern, table.concat(o.values, " "))
    elseif o.arg and o.arg:match("^FILE") then
      cases[#cases + 1] = ('    %s) COMPREPLY=($(compgen -f -- "$cur")); return ;;'):format(pattern)
    elseif o.arg then
      cases[#cases + 1] = ("    %s) return ;;"):format(pattern)
    end
  end
  return ([[
# bash completion for vmlua, written from its table of options
_vmlua() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  case $prev in
%s
  esac
  case $cur in
    -*) COMPREPLY=($(compgen -W "%s" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -f -- "$cur"))
       [ "$COMP_CWORD" -eq 1 ] && COMPREPLY+=($(compgen -W "test img help" -- "$cur")) ;;
  esac
}
complete -o filenames -F _vmlua vmlua
]]):format(table.concat(cases, "\n"), table.concat(names, " "))
end

--- A completion script for zsh.
---@return string
function options.zsh()
  local specs = {}
  local function escape(s) return (s:gsub("'", "'\\''"):gsub("([%[%]:\\])", "\\%1"):gsub("`", "")) end
  for _, o in ipairs(options.list) do
    local doc = escape(o.doc:match("^(.-)[%.:;]%s") or (o.doc:gsub("%.$", "")))
    local spec = ("'*-%s[%s]"):format(o.name, doc)
    if o.arg then
      local action = o.values and ("(%s)"):format(escape(table.concat(o.values, " "))) or (o.arg:match("^FILE") and "_files" or " ")
      spec = spec .. ":" .. escape(o.arg) .. ":" .. action
    end
    specs[#specs + 1] = "  " .. spec .. "'"
  end
  return "#compdef vmlua\n# zsh completion for vmlua, written from its table of options\n_arguments -S \\\n"
    .. table.concat(specs, " \\\n") .. " \\\n  '1:script:_files' '*:argument:_files'\n"
end

return options

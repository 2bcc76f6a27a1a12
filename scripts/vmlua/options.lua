--[[
The command line of a machine: every option declared once. `-help`, the manual page and the shell
completions are written from this table, and so is the parsing.

An entry: name; aliases; arg (what is shown for its argument, none: the option takes none); group; doc;
handler(s, value), which notes the setting in `s` or raises with a message; needs (the subsystem that is
missing from this build: the option is known, and refused by that name); values (words to complete).
]]
local read = require "vmlua.optionvalue"
local text = require "vmlua.text"

local options = {}

---@class LaunchSettings
---@field machine? string name of the board
---@field conf table what machine.new takes
---@field run table what the launcher does around it
---@field query table[] lists that were asked for ("-cpu help")

local refuse = read.usage_error
-- What others know by these names.
options.usage_error, options.make_usage_error, options.is_usage_error = read.usage_error, read.make_usage_error, read.is_usage_error

local function set(key) return function(s, value) s.conf[key] = value end end
local function flag(key) return function(s) s.conf[key] = true end end
local function run(key) return function(s, value) s.run[key] = value == nil or value end end

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
  { name = "machine", aliases = { "M" }, arg = "NAME[,PROP=VALUE…]|help", group = "machine", handler = read.machine,
    doc = "Board to build, by name or alias, and its properties. `help` lists the boards, `NAME,help` the properties of one." },
  { name = "accel", arg = "NAME[,PROP=VALUE…]|help", group = "machine", handler = read.accel, values = read.accels,
    doc = "What runs the guest's instructions: kvm, soft, or auto (kvm where the host CPU backs it). Given several times, the "
      .. "first that works is taken. Properties: kernel-irqchip=on|off|split, pit=on|off, assist=on|off (kvm: the software CPU "
      .. "executes instructions that it cannot emulate), translate=on|off (soft: hot code becomes the host's)." },
  { name = "icount", arg = "[shift=]N[,sleep=on|off][,seed=N]|on|off", group = "machine", handler = read.icount,
    doc = "The guest's time is the number of instructions executed, each of 2^N ns (3): every run is the same. sleep: idle time "
      .. "passes in real time, else it is skipped. The same as `-accel soft,icount=on,…`." },
  { name = "enable-kvm", group = "machine", handler = function(s) read.accel(s, "kvm") end, doc = "The same as `-accel kvm`." },
  { name = "cpu", arg = "MODEL[,+FEATURE,-FEATURE]|help", group = "machine", values = { "host", "max", "help" },
    handler = function(s, value) if value == "help" then read.ask(s, "cpu") else s.conf.cpu = value end end,
    doc = "What the guest's CPUID shows: a model, features added and taken away." },
  { name = "smp", arg = "[cpus=]N[,sockets=N][,cores=N][,threads=N][,maxcpus=N]", group = "machine", handler = read.smp,
    doc = "Number of vCPUs, and how they are grouped." },
  { name = "m", arg = "[size=]SIZE", group = "machine", handler = read.memory, doc = "RAM; a bare number counts MiB." },
  { name = "name", arg = "NAME", group = "machine",
    handler = read.name, doc = "Name of the machine in messages and paths." },
  { name = "uuid", arg = "UUID", group = "machine", handler = read.uuid, doc = "UUID that the machine reports." },
  { name = "rtc", arg = "[base=]utc|localtime|DATETIME[,clock=host|rt|vm][,driftfix=none|slew]", group = "machine", handler = read.rtc,
    doc = "The real-time clock: the date it begins with, what counts its seconds (the host's clock, or the machine's, which "
      .. "stops with it), and whether late periodic interrupts are made up for." },
  { name = "device", arg = "TYPE[,PROP=VALUE…]|help", group = "machine", handler = read.device,
    doc = "Adds a device. `help` lists the types, `TYPE,help` the properties of one." },
  { name = "global", arg = "TYPE.PROPERTY=VALUE", group = "machine", handler = read.global,
    doc = "What a property of all devices of a type is, unless -device says otherwise; also driver=TYPE,property=NAME,value=VALUE." },
  { name = "nodefaults", group = "machine", handler = flag "nodefaults",
    doc = "Without the devices that nobody asked for: serial and parallel port, graphics card, empty CD-ROM drive." },
  { name = "object", arg = "TYPE,id=ID[,PROP=VALUE…]|help", group = "machine", handler = read.object,
    doc = "Makes an object that others refer to by its id, such as a memory back end." },

  { name = "smbios", arg = "file=FILE|type=N[,KEY=VALUE…]", group = "machine", handler = read.smbios,
    doc = "What SMBIOS tells: fields of types 0, 1, 2, 3, 4, 11, 17, or whole structures from a file." },
  { name = "acpitable", arg = "file=FILE", group = "machine", handler = read.acpitable, doc = "An ACPI table more, with its header." },
  { name = "numa", arg = "node[,nodeid=N][,cpus=A-B][,mem=SIZE|memdev=ID]|dist,src=N,dst=N,val=N", group = "machine", handler = read.numa,
    doc = "Nodes of memory and processors that ACPI tells of, and the distances between them." },

  { name = "kernel", arg = "FILE", group = "boot", handler = set "kernel",
    doc = "Image to start: Linux, Multiboot, PVH, ELF or flat." },
  { name = "initrd", arg = "FILE[ ARGS][,FILE…]", group = "boot", handler = set "initrd",
    doc = "Initial RAM disk of a Linux kernel; modules of a Multiboot or PVH kernel, each with its own command line." },
  { name = "append", arg = "TEXT", group = "boot", handler = set "append", doc = "Command line of the kernel." },
  { name = "bios", arg = "FILE", group = "boot", handler = set "bios",
    doc = "Firmware image, read-only, up to the end of the first 4 GiB." },
  { name = "pflash", arg = "FILE", group = "boot", handler = function(s, value) read.push(s.conf, "pflash", value) end,
    doc = "A flash chip below the end of the first 4 GiB, its contents in that file, which keeps what is written; twice: "
      .. "the second below the first (code, then variables)." },
  { name = "boot", group = "boot", handler = read.boot,
    arg = "[order=]DRIVES[,once=DRIVES][,menu=on|off][,splash=FILE][,KEY=VALUE…]",
    doc = "What firmware starts: a the floppy, c the disk, d the CD-ROM, n the network, in that order; `once` "
      .. "holds for the first start only; a menu to choose from, with a picture (JPEG or BMP) behind it. splash-time=MS, how long the "
      .. "menu waits; reboot-timeout=MS, after which firmware tries again (-1: never); strict=on|off, nothing but what is named." },
  { name = "no-fd-bootchk", group = "boot", handler = flag "no_fd_bootchk",
    doc = "A floppy disk is started without the signature at the end of its first sector, too." },
  { name = "fw_cfg", arg = "[name=]NAME,file=FILE|string=TEXT", group = "boot", handler = read.fw_cfg,
    doc = "A file for firmware and guest in the firmware configuration device." },
  { name = "option-rom", arg = "FILE", group = "boot", handler = function(s, value) read.push(s.conf, "option_rom", value) end,
    doc = "An option ROM that firmware runs." },

  { name = "fda", arg = "FILE", group = "block", handler = set "fda", doc = "Floppy disk image." },
  { name = "fdb", arg = "FILE", group = "block", handler = set "fdb", doc = "Second floppy disk image." },
  { name = "hda", arg = "FILE", group = "block", handler = set "hda", doc = "First hard disk image (IDE 0, master)." },
  { name = "hdb", arg = "FILE", group = "block", handler = set "hdb", doc = "Second hard disk image (IDE 0, slave)." },
  { name = "hdc", arg = "FILE", group = "block", handler = set "hdc", doc = "Third hard disk image (IDE 1, master)." },
  { name = "hdd", arg = "FILE", group = "block", handler = set "hdd", doc = "Fourth hard disk image (IDE 1, slave)." },
  { name = "cdrom", arg = "FILE", group = "block", handler = set "cdrom", doc = "CD-ROM image (IDE 1, master)." },
  { name = "drive", arg = "file=FILE[,if=…][,index=N][,media=disk|cdrom][,format=…][,cache=…][,…]", group = "block", handler = read.drive,
    doc = "A drive. if=ide|floppy|virtio|none, index=, bus=, unit=; media=disk|cdrom; format= (guessed when it is not said); "
      .. "cache=writeback|none|writethrough|directsync|unsafe; aio=io_uring|threads|native; readonly=, snapshot=, copy-on-read=on|off; "
      .. "discard=unmap|ignore; detect-zeroes=on|off|unmap; throttling.iops-total=N and kin; werror=, rerror=report|ignore|stop|enospc; "
      .. "id=, serial=. `-device …,drive=ID` takes one of if=none." },
  { name = "blockdev", arg = "driver=DRIVER,node-name=NAME[,…]|help", group = "block", handler = read.blockdev,
    doc = "A node of the block layer, for `-device …,drive=NAME` or another node's file= or backing=. `help` lists the drivers, "
      .. "`DRIVER,help` the properties of one." },
  { name = "snapshot", group = "block", handler = flag "snapshot",
    doc = "Writes to disks go to temporary files, and are gone at the end." },

  { name = "netdev", arg = "TYPE,id=ID[,…]", group = "network", needs = "network", doc = "A network back end." },
  { name = "net", arg = "none|nic|user|…", group = "network", handler = read.network, values = { "none" },
    doc = "A network card or back end, the old way." },
  { name = "nic", arg = "none|TYPE[,model=…]", group = "network", handler = read.network, values = { "none" },
    doc = "A network card and its back end." },

  { name = "chardev", arg = "BACKEND,id=ID[,PROP=VALUE…]|help", group = "character", handler = read.chardev,
    values = { "stdio", "file", "pipe", "pty", "socket", "ringbuf", "null" },
    doc = "A character back end that devices name by its id." },
  { name = "serial", arg = "CHARDEV", group = "character", values = { "stdio", "pty", "null", "none", "mon:stdio" },
    handler = function(s, value) read.push(s.conf, "serial", value) end,
    doc = "Where the next serial port leads: stdio, mon:stdio (shared with the monitor: Ctrl-A c switches), file:PATH, "
      .. "pipe:PATH, pty, unix:PATH[,server], tcp:HOST:PORT[,server], ring, "
      .. "null, none, chardev:ID." },
  { name = "parallel", arg = "CHARDEV", group = "character", values = { "null", "none" },
    handler = function(s, value) read.push(s.conf, "parallel", value) end,
    doc = "Where the next parallel port prints to; spelled as for -serial. none: there is no such port." },
  { name = "debugcon", arg = "CHARDEV", group = "character", handler = set "debugcon",
    doc = "Where bytes written to port 0xe9 go; spelled as for -serial." },
  { name = "monitor", arg = "stdio|none|CHARDEV", group = "character", handler = run "monitor", values = { "stdio", "none" },
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
  { name = "action", arg = "reboot=reset|shutdown,shutdown=poweroff|pause,panic=pause|…", group = "run", handler = read.action,
    doc = "What a guest's reset, power-off and panic do: reboot=shutdown is -no-reboot, shutdown=pause is -no-shutdown; panic=pause, "
      .. "shutdown, reset or none is what the device pvpanic does." },
  { name = "no-shutdown", group = "run", handler = run "no_shutdown",
    doc = "A guest that powers off leaves the machine there, stopped." },
  { name = "loadvm", arg = "NAME", group = "run", needs = "saved state in files", doc = "Starts from a saved state." },
  { name = "incoming", arg = "ADDRESS", group = "run", needs = "migration", doc = "Waits for a machine that migrates here." },

  { name = "d", arg = "MASK[,MASK…]|help", group = "debug",
    values = { "guest", "unimp", "unassigned", "exits", "memory", "cpu", "irq", "chardev", "state", "script", "trace", "int",
      "in_asm", "exec", "all", "help" },
    handler = function(s, value) if value == "help" then read.ask(s, "log") else s.run.log = value end end,
    doc = "What is logged." },
  { name = "D", arg = "FILE", group = "debug", handler = run "log_file", doc = "File for the log; %d in it is the process id." },
  { name = "dfilter", arg = "RANGE[,RANGE…]", group = "debug", handler = run "log_filter",
    doc = "Code that -d in_asm and exec show: FIRST..LAST, FIRST+LEN or LAST-LEN." },
  { name = "trace", arg = "PATTERN|help", group = "debug",
    handler = function(s, value)
      if value == "help" then read.ask(s, "trace") else read.push(s.run, "trace", (value:gsub("^enable=", ""))) end
    end,
    doc = "Switches on trace points whose name matches the pattern (* and ?)." },
  { name = "pidfile", arg = "FILE", group = "process", handler = run "pidfile", doc = "File that holds the process id while it runs." },
  { name = "daemonize", group = "process", handler = run "daemonize", doc = "Goes to the background once the machine is built." },
  { name = "runas", arg = "USER", group = "process", handler = run "runas",
    doc = "Gives up root for this user once the machine is built." },
  { name = "sandbox", arg = "on|off[,spawn=allow|deny][,elevateprivileges=…][,resourcecontrol=…]", group = "process",
    values = { "on", "off" }, handler = read.sandbox,
    doc = "Once the machine is built, the kernel refuses system calls that change the host or look into other processes; "
      .. "with GROUP=deny also starting programs, changing user, changing priorities and limits." },
  { name = "help", aliases = { "h" }, group = "process", handler = function(s) read.ask(s, "help") end, doc = "Prints this list." },
  { name = "version", group = "process", handler = function(s) read.ask(s, "version") end, doc = "Prints the version." },
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

return options

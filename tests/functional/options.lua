-- The command line: what is accepted, what is refused and in which words.
local optiondoc = require "vmlua.optiondoc"
local options = require "vmlua.options"
local test = require "vmlua.test"

local function refused(t, pattern, ...)
  local argv = { ... }
  local ok, err = pcall(options.parse, argv)
  t.ok(not ok, "%s was accepted", table.concat(argv, " "))
  t.ok(options.is_usage_error(err), "%s", tostring(err))
  t.match(err.message, pattern)
end

test("options of one and of two dashes mean the same", function(t)
  t.eq(options.parse { "-m", "64" }.conf.ram, 64 << 20)
  t.eq(options.parse { "--m", "64" }.conf.ram, 64 << 20)
  t.eq(options.parse { "-m", "size=1G" }.conf.ram, 1 << 30)
end)

test("an unknown option is refused with the nearest known one", function(t)
  refused(t, 'unknown option "%-enabel%-kvm" %(did you mean "%-enable%-kvm"%?%)', "-enabel-kvm")
  refused(t, 'did you mean "%-serial"', "-seriel", "stdio")
  refused(t, 'unknown option "%-zzzzzzzz"$', "-zzzzzzzz")
end)

test("an option whose subsystem is missing names the subsystem", function(t)
  refused(t, "^%-vnc: needs the display subsystem, which this build does not have$", "-vnc", ":1")
  refused(t, "^%-netdev: needs the network subsystem", "-netdev", "user")
  refused(t, "^%-netdev: needs the network subsystem", "-netdev", "user,id=n0")
  refused(t, '^%-nic: "user" needs the network subsystem', "-nic", "user")
  refused(t, "^%-gdb: needs the gdb subsystem", "-gdb", "tcp::1234")
  refused(t, "^%-vga: .*no graphics card \"cirrus\"", "-vga", "cirrus")
  refused(t, '^%-sandbox: spawn: expected allow or deny, got "no"', "-sandbox", "on,spawn=no")
  refused(t, '^%-sandbox: unknown %-sandbox key "spwan" %(did you mean "spawn"', "-sandbox", "on,spwan=deny")
end)

test("an option without its argument says what it expects", function(t)
  refused(t, "^%-m: expected an argument", "-m")
  refused(t, "^%-m=64: write %-m 64", "-m=64")
  refused(t, '"disk.img" is not an option', "-m", "64", "disk.img")
end)

test("sizes of RAM are checked", function(t)
  refused(t, '^%-m: expected a size.*"lots"', "-m", "lots")
  refused(t, "^%-m: a machine needs some RAM", "-m", "0")
  refused(t, '^%-m: unknown %-m key "slots"', "-m", "64,slots=2")
  refused(t, "too large", "-m", "99999999999999T")
end)

test("the shape of the CPUs is worked out and checked", function(t)
  t.eq(options.parse { "-smp", "4" }.conf.topology, { cpus = 4, maxcpus = 4, sockets = 1, dies = 1, cores = 4, threads = 1 })
  t.eq(options.parse { "-smp", "8,cores=2,threads=2" }.conf.topology,
    { cpus = 8, maxcpus = 8, sockets = 2, dies = 1, cores = 2, threads = 2 })
  t.eq(options.parse { "-smp", "cores=3" }.conf.smp, 3)
  t.eq(options.parse { "-smp", "1,maxcpus=4" }.conf.topology.maxcpus, 4)
  refused(t, "do not divide", "-smp", "3,cores=2")
  refused(t, "make 8 CPUs, not 4", "-smp", "4,sockets=2,cores=4,maxcpus=4")
  refused(t, "maxcpus=2 is less than cpus=4", "-smp", "4,maxcpus=2")
  refused(t, "expected a number from 1", "-smp", "0")
  refused(t, 'unknown %-smp key "core"', "-smp", "4,core=2")
end)

test("accelerators are named, listed and given properties", function(t)
  local s = options.parse { "-accel", "kvm,kernel-irqchip=split", "-accel", "auto" }
  t.eq(s.conf.accel, { "kvm", "auto" })
  t.eq(s.conf.irqchip, "split")
  t.eq(options.parse({ "-accel", "tcg" }).conf.accel, { "soft" })
  t.eq(options.parse({ "-enable-kvm" }).conf.accel, { "kvm" })
  t.eq(options.parse({ "-machine", "bare,accel=kvm:auto" }).conf.accel, { "kvm", "auto" })
  refused(t, '^%-accel: unknown accelerator "kmv" %(did you mean "kvm"%?%)', "-accel", "kmv")
  refused(t, "^%-accel: kernel%-irqchip: expected on, off or split", "-accel", "kvm,kernel-irqchip=maybe")
  refused(t, "^%-accel: unknown accelerator property", "-accel", "kvm,tb-size=4")
end)

test("devices and objects keep the order and text of their properties", function(t)
  local s = options.parse { "-device", "isa-serial,id=s1,iobase=0x2f8", "-device", "blinker,label=a,,b" }
  t.eq(s.conf.device, { { "isa-serial", id = "s1", iobase = "0x2f8" }, { "blinker", label = "a,b" } })
  refused(t, "^%-object: an object needs an id", "-object", "memory-backend-file,size=4M")
  refused(t, "^%-chardev: a chardev needs an id", "-chardev", "stdio")
  refused(t, "^%-device: id is given twice", "-device", "isa-serial,id=a,id=b")
  refused(t, "^%-device: expected a type name first", "-device", ",id=a")
end)

test("a UUID has its shape", function(t)
  t.eq(options.parse({ "-uuid", "2D9A1E3C-8F04-4C55-9F0A-0C6EA1A3B1F7" }).conf.uuid, "2d9a1e3c-8f04-4c55-9f0a-0c6ea1a3b1f7")
  refused(t, "^%-uuid: expected a UUID", "-uuid", "2d9a1e3c")
end)

test("lists are asked for by help", function(t)
  t.eq(options.parse({ "-device", "isa-serial,help" }).query, { { topic = "device", detail = "isa-serial" } })
  t.eq(options.parse({ "-cpu", "help" }).query, { { topic = "cpu" } })
  t.eq(options.parse({ "-machine", "help" }).query, { { topic = "machine" } })
end)

test("a board declares options of its own", function(t)
  local extra = { { name = "blink-rate", arg = "HZ", doc = "How fast it blinks." }, { name = "quiet", doc = "Says nothing." } }
  local s = options.parse({ "-blink-rate", "5", "-quiet" }, extra)
  t.eq(s.conf, { blink_rate = "5", quiet = true })
  t.match(optiondoc.help(extra), "Options of this board:\n  %-blink%-rate HZ\n      How fast it blinks%.")
  t.raises("option %-m of the board is already an option of vmlua", options.parse, {}, { { name = "m" } })
  t.raises("option 1 of the board has no proper name", options.parse, {}, { { name = "no good" } })
end)

test("every option has a group, a text, and either a handler or what it needs", function(t)
  local groups, names = {}, {}
  for _, g in ipairs(options.groups) do groups[g[1]] = true end
  for _, o in ipairs(options.list) do
    t.ok(groups[o.group], "-%s: group %s", o.name, tostring(o.group))
    t.ok(#o.doc > 10, "-%s has no text", o.name)
    t.ok((o.handler ~= nil) ~= (o.needs ~= nil), "-%s: one of handler and needs", o.name)
    t.ok(not names[o.name], "-%s is there twice", o.name)
    names[o.name] = true
  end
end)

test("the options that people know from other machines are all declared", function(t)
  local known = {}
  for _, o in ipairs(options.list) do known[o.name] = true end
  for name in ([[enable-kvm accel machine cpu smp m name uuid rtc boot bios pflash kernel initrd append hda hdb hdc hdd cdrom fda
    drive blockdev device netdev net nic chardev serial parallel debugcon monitor qmp vnc display vga nographic S s gdb no-reboot
    no-shutdown snapshot loadvm incoming D d trace pidfile daemonize runas sandbox]]):gmatch("%S+") do
    t.ok(known[name], "-%s is missing", name)
  end
end)

test("help, manual page and completions name every option", function(t)
  local help, man, bash, zsh = optiondoc.help(), optiondoc.man "1", optiondoc.bash(), optiondoc.zsh()
  for _, o in ipairs(options.list) do
    local plain = "-" .. o.name
    t.ok(help:find("\n  " .. plain, 1, true), "help lacks %s", plain)
    t.ok(man:find(plain:gsub("%-", "\\-"), 1, true), "the manual page lacks %s", plain)
    t.ok(bash:find(plain, 1, true), "bash lacks %s", plain)
    t.ok(zsh:find("*" .. plain .. "[", 1, true), "zsh lacks %s", plain)
  end
  for line in help:gmatch("[^\n]+") do t.ok(utf8.len(line) <= 110, "a line of the help is too long: %s", line) end
end)

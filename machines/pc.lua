--[[
Standard PC: i440FX host bridge, PIIX3 and PIIX4, as QEMU's `pc`. Unmodified firmware, boot loaders and systems run on it.

    vmlua pc.lua -m 2048 -smp 2 -hda disk.img
    vmlua pc.lua -debugcon stdio                            SeaBIOS' log on the terminal
    vmlua pc.lua -kernel vmlinuz -initrd initrd.img -append console=ttyS0

Memory map, ports and what is where: docs/pc.md.
]]
local acpi = require "vmlua.acpi"
local bootorder = require "vmlua.bootorder"
local cmos = require "vmlua.cmos"
local directboot = require "vmlua.directboot"
local firmware = require "vmlua.core.firmware"
local irqchip = require "vmlua.irqchip"
local machine = require "vmlua.machine"
local smbios = require "vmlua.smbios"
local text = require "vmlua.text"

local MiB, GiB = 1 << 20, 1 << 30
local PM_BASE, GPE_BASE, PVPANIC = 0x600, 0xafe0, 0x505
local FW = { UUID = 2, RAM_SIZE = 3, NOGRAPHIC = 4, CPUS = 5, BOOT_MENU = 0xe, MAX_CPUS = 0xf, IRQ0 = 0x8002 }

-- Wrong settings are the user's: no place in this file belongs into the message.
local function refuse(format, ...) error(format:format(...), 0) end

-- A device that is as the user's setting says: what is wrong with it is the setting's.
local function device_of(m, option, kind, props)
  local ok, dev = pcall(m.device, m, kind, props)
  if not ok then refuse("%s: %s", option, text.without_place(dev)) end
  return dev
end

-- A setting that came as text where it was said as a property of the machine.
local function switch(name, value)
  local on, err = text.boolean(value)
  if on == nil then refuse("%s: %s", name, err) end
  return on
end

local function list_of(value)
  if value == nil then return {} end
  if type(value) == "table" then return value end
  return { value }
end

-- ---- memory -------------------------------------------------------------------------------------------------

-- `-numa node,memdev=ID`: the nodes' memory is those back ends', in their order, and so is the machine's RAM.
local function take_node_memory(m, conf)
  local backends, total, nodes = {}, 0, 0
  for _, spec in ipairs(conf.numa or {}) do
    nodes = nodes + (spec.kind == "node" and 1 or 0)
    if spec.memdev then
      local backend = machine.find_backend(m, conf, spec.memdev, "-numa: memdev")
      for _, other in ipairs(backends) do
        if other == backend then refuse("-numa: memdev=%s is in two nodes", spec.memdev) end
      end
      if spec.mem then refuse "-numa: a node has mem= or memdev=" end
      backends[#backends + 1], total = backend, total + backend.size
    end
  end
  if #backends == 0 then return end
  if #backends ~= nodes then refuse "-numa: all nodes have memdev=, or none" end
  if total ~= m.ram_size then
    refuse("-numa: the nodes have %s of memory, the machine %s", text.format_size(total), text.format_size(m.ram_size))
  end
  m.data.ram_backends = backends
end

-- RAM around the hole below 4 GiB that PCI and the interrupt controllers need. Answers the two sizes.
local function add_ram(m, conf)
  local size, limit = m.ram_size, 0xe0000000
  if size >= limit then limit = 3 * GiB end
  if conf.max_ram_below_4g then
    local asked, err = text.size(conf.max_ram_below_4g)
    if not asked then refuse("max-ram-below-4g: %s", err) end
    if asked < MiB or asked > 0xfec00000 or asked % MiB ~= 0 then
      refuse("max-ram-below-4g: whole MiB up to 0xfec00000 expected, got %s", conf.max_ram_below_4g)
    end
    limit = asked
  end
  if size < MiB then refuse("board pc needs at least 1 MiB of RAM, not %s", text.format_size(size)) end
  local below = math.min(size, limit)
  local above = size - below
  m.memory:add(0, m:region { kind = "alias", name = "ram-below-4g", of = m.ram, offset = 0, size = below })
  if above > 0 then
    m.memory:add(4 * GiB, m:region { kind = "alias", name = "ram-above-4g", of = m.ram, offset = below, size = above })
  end
  return below, above
end

-- ---- firmware -----------------------------------------------------------------------------------------------

-- Type 1: RAM, 2: reserved (what firmware and the interrupt controllers have up to 4 GiB is its own to add).
local function e820(below, above)
  local list = { string.pack("<i8i8I4", 0, below, 1) }
  if above > 0 then list[#list + 1] = string.pack("<i8i8I4", 4 * GiB, above, 1) end
  return table.concat(list)
end

local function boot_settings(conf)
  local boot = conf.boot
  if type(boot) == "string" then boot = { order = boot } end
  return boot or {}
end

local function add_firmware_items(m, conf, below, above)
  local fw, boot = m.fw_cfg, boot_settings(conf)
  local hex = (conf.uuid or ("0"):rep(32)):gsub("-", "")
  fw:set(FW.UUID, (hex:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)))
  fw:set(FW.RAM_SIZE, string.pack("<i8", m.ram_size))
  fw:set(FW.NOGRAPHIC, string.pack("<I2", 0))
  fw:set(FW.CPUS, string.pack("<I2", #m.cpus))
  fw:set(FW.MAX_CPUS, string.pack("<I2", #m.cpus))
  fw:set(FW.BOOT_MENU, string.pack("<I2", boot.menu and 1 or 0))
  fw:set(FW.IRQ0, string.pack("<I4", 1)) -- the timer is on pin 2 of the I/O APIC
  fw:add("etc/e820", e820(below, above))
  fw:add("bootorder", function() return bootorder.text(m, { strict = boot.strict, first = m.data.boot_first }) end)
  if boot.splash then
    local bytes, err = text.read_file(boot.splash, 16 << 20)
    if not bytes then refuse("-boot: splash: %s", err) end
    local kind = bytes:sub(1, 2) == "\xff\xd8" and "jpg" or bytes:sub(1, 2) == "BM" and "bmp"
    if not kind then refuse("-boot: splash: %s is neither JPEG nor BMP", boot.splash) end
    fw:add("bootsplash." .. kind, bytes)
  end
  if boot.splash_time then fw:add("etc/boot-menu-wait", string.pack("<I2", boot.splash_time)) end
  -- Without this file firmware would start again after a minute in which it found nothing.
  fw:add("etc/boot-fail-wait", string.pack("<i4", boot.reboot_timeout or -1))
  -- SLP_TYP of S0 to S5, bit 7: there is this state.
  fw:add("etc/system-states", "\x80\0\0\x81\x82\x80")
  for _, spec in ipairs(list_of(conf.fw_cfg)) do
    local bytes, err = spec.string, nil
    if spec.file then bytes, err = text.read_file(spec.file, 256 << 20) end
    if not bytes then refuse("-fw_cfg: %s", err) end
    fw:add(spec.name, bytes)
  end
  for _, path in ipairs(list_of(conf.option_rom)) do
    local bytes, err = text.read_file(path, 16 << 20)
    if not bytes then refuse("-option-rom: %s", err) end
    fw:add("genroms/" .. path:match "[^/]*$", bytes)
  end
end

-- RAM and processors by node, and the nodes' distances, as -numa has them.
local function numa_nodes(m, conf, below, above)
  local nodes, dist = {}, {}
  for _, spec in ipairs(conf.numa or {}) do
    if spec.kind == "dist" then
      dist[#dist + 1] = spec
    else
      local id = spec.nodeid or #nodes
      if id ~= #nodes then refuse("-numa: node %d is named where node %d comes next", id, #nodes) end
      nodes[id + 1] = { cpus = {}, memory = {}, spec = spec,
        mem = spec.memdev and machine.find_backend(m, conf, spec.memdev, "-numa: memdev").size or spec.mem or 0 }
    end
  end
  if #nodes == 0 then return nil end
  local owner, given = {}, 0
  for _, node in ipairs(nodes) do
    if node.spec.cpus then
      local first, last = node.spec.cpus:match "^(%d+)%-?(%d*)$"
      first = math.tointeger(tonumber(first))
      last = last == "" and first or math.tointeger(tonumber(last))
      if last >= #m.cpus or first > last then refuse("-numa: cpus=%s: the machine has processors 0 to %d", node.spec.cpus, #m.cpus - 1) end
      for id = first, last do
        if owner[id] then refuse("-numa: processor %d is in two nodes", id) end
        owner[id] = node
      end
    end
    given = given + node.mem
  end
  for id = 0, #m.cpus - 1 do table.insert((owner[id] or nodes[id % #nodes + 1]).cpus, id) end
  if given == 0 then
    local each = m.ram_size // #nodes & -MiB
    for i, node in ipairs(nodes) do node.mem = i < #nodes and each or m.ram_size - each * (#nodes - 1) end
  elseif given ~= m.ram_size then
    refuse("-numa: the nodes have %s of memory, the machine %s", text.format_size(given), text.format_size(m.ram_size))
  end
  local at = 0 -- as if RAM had no hole
  for _, node in ipairs(nodes) do
    local first, last = at, at + node.mem
    if first < below then table.insert(node.memory, { first, math.min(last, below) - first }) end
    if last > below and above > 0 then
      local from = math.max(first, below)
      table.insert(node.memory, { 4 * GiB + from - below, last - from })
    end
    at = last
  end
  local rows
  if #dist > 0 then
    rows = {}
    for i = 1, #nodes do
      rows[i] = {}
      for j = 1, #nodes do rows[i][j] = i == j and 10 or 20 end
    end
    for _, d in ipairs(dist) do
      if d.src >= #nodes or d.dst >= #nodes then refuse("-numa: dist,src=%d,dst=%d: there are nodes 0 to %d", d.src, d.dst, #nodes - 1) end
      rows[d.src + 1][d.dst + 1], rows[d.dst + 1][d.src + 1] = d.val, d.val
    end
  end
  return nodes, rows
end

local function build_acpi(m, conf, below, above, found)
  local hole64 = (4 * GiB + above + GiB - 1) & -GiB
  local nodes, distances = numa_nodes(m, conf, below, above)
  local extra = {}
  for _, path in ipairs(list_of(conf.acpitable)) do
    local bytes, err = text.read_file(path, 16 << 20)
    if not bytes then refuse("-acpitable: %s", err) end
    if #bytes < 36 or #bytes ~= string.unpack("<I4", bytes, 5) then refuse("-acpitable: %s: no ACPI table, by its length", path) end
    extra[#extra + 1] = bytes
  end
  return acpi.build({
    cpus = #m.cpus, pm_base = PM_BASE, gpe_base = GPE_BASE, pci_hole = { below, 0xfec00000 }, pci_hole64 = { hole64, hole64 + (32 << 30) },
    fw_cfg = true, pvpanic = PVPANIC, keyboard = true, serial = m.data.serial_ports,
    floppy = m.fdc["kind-b"] ~= "none" and 2 or m.fdc["kind-a"] ~= "none" and 1 or 0,
    parallel = found.parallel, hpet = found.hpet, nodes = nodes, distances = distances,
    vga = m:resolve "vga" ~= nil,
  }, extra)
end

local function build_smbios(m, conf, below, above)
  local raw = {}
  for _, o in ipairs(conf.smbios or {}) do
    if o.file then
      local bytes, err = text.read_file(o.file, 1 << 20)
      if not bytes then refuse("-smbios: %s", err) end
      raw[#raw + 1] = bytes
    end
  end
  local shape = conf.topology or {}
  local ranges = { { 0, below } }
  if above > 0 then ranges[2] = { 4 * GiB, above } end
  local signature, entry = m.cpus[1].cpuid:get(1), conf.smbios_entry_point_type or "32"
  if entry ~= "32" and entry ~= "64" then refuse("smbios-entry-point-type: 32 or 64 expected, got %s", entry) end
  return smbios.build {
    entry = entry,
    cpus = #m.cpus, cores = shape.cores, threads = shape.threads, ram = m.ram_size, ranges = ranges, uuid = conf.uuid, raw = raw,
    signature = signature, product = "Standard PC (i440FX + PIIX, 1996)", overrides = conf.smbios,
  }
end

local function add_tables(m, tables, dmi)
  local files = tables:files()
  m.fw_cfg:add(acpi.FILES.tables, files.tables)
  m.fw_cfg:add(acpi.FILES.rsdp, files.rsdp)
  m.fw_cfg:add(acpi.FILES.loader, files.loader)
  m.fw_cfg:add("etc/smbios/smbios-tables", dmi.tables)
  m.fw_cfg:add("etc/smbios/smbios-anchor", dmi.anchor)
end

-- What firmware leaves in the chip set, for a kernel that starts without it.
local function as_firmware_leaves(m)
  local bridge, pm = m.i440fx:child("pci.0"):child "host-bridge", m.pm
  bridge:config_write(0x59, 0x30, 1) -- PAM0: RAM at 0xf0000
  pm:config_write(0x40, PM_BASE | 1)
  pm:config_write(0x80, 1, 1)
  pm:config_write(0x90, 0x700 | 1)
  pm:config_write(0xd2, 9, 1)
  pm:config_write(0x04, 1, 2)
end

-- ---- the board ----------------------------------------------------------------------------------------------

local SERIAL = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } }

local function add_serial(m, conf)
  local asked = math.max(#list_of(conf.serial), conf.nodefaults and 0 or 1)
  m.data.serial_ports = {}
  for n, where in ipairs(SERIAL) do
    -- The first is always there; the others where they were asked for, as their lines are shared.
    if n <= asked then
      m:device("isa-serial", { id = "com" .. n, iobase = where[1], irq = where[2], chardev = m:serial(n - 1) })
      table.insert(m.data.serial_ports, { iobase = where[1], irq = where[2] })
    end
  end
end

local function add_chipset(m)
  m:device("i440fx-pcihost", { id = "i440fx" })
  m:device("piix3", { id = "piix3", addr = "1.0", multifunction = true })
  local pm = m:device("piix4-pm", { id = "pm", addr = "1.3" })
  pm:connect("sci", 0, m.piix3:irq("irq", 9))
  local smbus = pm:child "smbus"
  for n = 0, 7 do m:device("smbus-eeprom", { id = "spd" .. n, bus = smbus, address = 0x50 + n }) end
end

-- What hangs on the ISA DMA controller, and the loudspeaker where its port is in the accelerator, as the timer is.
local function add_isa(m, chips)
  local dma = m:device("isa-dma", { id = "dma" })
  local fdc = { id = "fdc", dma = dma }
  for index, entry in pairs(m:drives_of("floppy", 2)) do
    if index < 2 then fdc[index == 0 and "drive-a" or "drive-b"] = entry.drive end
  end
  m:device("isa-fdc", fdc)
  if not chips.pit then m:device("accel-pcspk", { id = "speaker" }) end
end

-- The disks of both channels by their place, 0 to 3.
local function ide_disks(m)
  local disks = {}
  for dev in m:walk() do
    local channel = dev:is_a "ide-hd" and dev.bus and dev.bus.name:match "^ide%.([01])$"
    if channel and dev.bus.parent == m.ide then disks[channel * 2 + dev.unit] = { dev.cyls, dev.heads, dev.secs } end
  end
  return disks
end

local function add_legacy(m, conf, below, above)
  local boot = boot_settings(conf)
  m:device("port92", { id = "port92" }):connect("a20", 0, m:a20 "port92")
  local i8042 = m:device("i8042", { id = "i8042" })
  i8042:connect("kbd-irq", 0, 1)
  i8042:connect("aux-irq", 0, 12)
  i8042:connect("a20", 0, m:a20 "keyboard")
  i8042:connect("key", 0, m.pm:irq("wake-up", 0))
  local clock = { id = "rtc" }
  for key, value in pairs(conf.rtc or {}) do clock[key] = value end
  local rtc = device_of(m, "-rtc", "mc146818rtc", clock)
  rtc:connect("alarm", 0, m.pm:irq("rtc-alarm", 0))
  local order = boot.order or "cad"
  cmos.fill(m, rtc, {
    below_4g = below, above_4g = above, boot = (boot.once or order):gsub("b", ""):sub(1, 3),
    floppy = { m.fdc["kind-a"], m.fdc["kind-b"] }, check_signature = not conf.no_fd_bootchk,
  })
  local first = true
  m:on_reset(function()
    if first then cmos.disks(rtc, ide_disks(m)) end
    if boot.once and not first then cmos.boot(rtc, (order:gsub("b", ""):sub(1, 3)), not conf.no_fd_bootchk) end
    first = false
    -- A wake-up: firmware goes on where the system wants it (byte 0x0f, "shutdown status").
    if m.waking then rtc:set_nvram(0x0f, 0xfe) end
  end)
end

local PARALLEL = { { 0x378, 7 }, { 0x278, 5 }, { 0x3bc, 7 } }

-- Parallel ports: one at least, unless "none" was asked for. Answers those there are, for the firmware's tables.
local function add_parallel(m, conf)
  local asked, made = list_of(conf.parallel), {}
  if #asked > #PARALLEL then refuse("board pc has %d parallel ports, %d were asked for", #PARALLEL, #asked) end
  for n = 1, math.max(#asked, conf.nodefaults and 0 or 1) do
    if asked[n] ~= "none" then
      local where = PARALLEL[n]
      m:device("isa-parallel", { id = "lpt" .. n, index = n - 1,
        chardev = machine.chardev(asked[n] or "null", m, ("parallel%d"):format(n - 1)) })
      made[#made + 1] = { iobase = where[1], irq = where[2] }
    end
  end
  return made
end

-- The event timers stand between PIT and clock and their lines. A PIT in the accelerator has its own wire: they silence it.
local function add_hpet(m, conf, chips)
  if conf.no_hpet and switch("no-hpet", conf.no_hpet) then return nil end
  local hpet = m:device("hpet", { id = "hpet" })
  for _, line in ipairs { 0, 8, 20, 21, 22, 23 } do hpet:connect("irq", line, line) end
  if chips.pit then
    chips.pit:connect("irq", 0, hpet:irq("legacy", 0))
  else
    hpet:connect("replaces", 0, m:pit_mute())
  end
  m.rtc:connect("irq", 0, hpet:irq("legacy", 1))
  return 0x8086a201 -- low half of its capabilities
end

local function add_debug(m, conf)
  m:device("isa-post", { id = "post" })
  local asked = false -- for one of the user's own
  for _, spec in ipairs(list_of(conf.device)) do asked = asked or spec == "pvpanic" or spec[1] == "pvpanic" end
  if not asked then m:device("pvpanic", { id = "pvpanic", iobase = PVPANIC }) end
  m.data.debugcon = machine.chardev(conf.debugcon or "ring", m, "debugcon")
  -- 0x402 is where SeaBIOS and OVMF write their log.
  m:device("debugcon", { id = "firmware-log", iobase = 0x402, readback = 0xe9, chardev = m.data.debugcon })
end

local function add_display(m, conf)
  local vga = conf.vga or (conf.nodefaults and "none" or "std")
  if vga == "std" then
    device_of(m, "-vga", "VGA", { id = "vga", addr = "2.0" })
  elseif vga ~= "none" then
    refuse("vga: std or none expected, got %s", vga)
  end
end

-- ---- disks --------------------------------------------------------------------------------------------------

local function add_ide(m)
  local ide = m:device("piix3-ide", { id = "ide", addr = "1.1" })
  ide:connect("irq", 0, 14)
  ide:connect("irq", 1, 15)
  local drives = m:drives_of("ide", 4)
  for index = 0, 3 do
    local d = drives[index]
    if d then
      m:device(d.media == "cdrom" and "ide-cd" or "ide-hd",
        { bus = ide:child("ide." .. index // 2), unit = index % 2, drive = d.drive })
    end
  end
  -- An empty CD-ROM drive where nothing else is, as every PC has one.
  if not drives[2] and not m.conf.nodefaults then m:device("ide-cd", { id = "ide1-cd0", bus = ide:child "ide.1", unit = 0 }) end
end

-- Flash chips, the first up to 4 GiB, the second below it; or a ROM.
local function add_firmware(m, conf)
  local chips, next_unit = {}, 0
  for _, spec in ipairs(list_of(conf.pflash)) do
    if type(spec) == "string" then spec = { file = spec } end
    local unit = spec.unit or next_unit
    if chips[unit] or unit > 1 then refuse("-pflash: unit %d: %s", unit, unit > 1 and "there are two, 0 and 1" or "named twice") end
    chips[unit], next_unit = spec, unit + 1
  end
  if not chips[0] then
    if chips[1] then refuse "-pflash: unit 1 without unit 0" end
    device_of(m, "-bios", "bios-rom", { id = "bios", file = conf.bios or "bios-256k.bin" })
    return
  end
  if conf.bios then refuse "-bios and -pflash both say what the firmware is" end
  local stop = 4 * GiB
  for unit = 0, 1 do
    local spec = chips[unit]
    if spec then
      -- What is written to must be the user's own file, never one of a package.
      local path, err = spec.file, nil
      if spec.readonly then path, err = firmware.find(path) end
      if not path then refuse("-pflash: %s", err) end
      local chip = device_of(m, "-pflash", "pflash", { id = "pflash" .. unit, file = path, readonly = spec.readonly or false,
        ["end"] = stop, ["low-alias"] = unit == 0 })
      stop = stop - chip.size
    end
  end
end

local function init(m)
  local conf = m.conf
  take_node_memory(m, conf)
  local below, above = add_ram(m, conf)
  add_chipset(m)
  local chips = irqchip.add(m)
  add_isa(m, chips)
  m:device("fw_cfg", { id = "fw_cfg" })
  add_legacy(m, conf, below, above)
  add_ide(m)
  add_serial(m, conf)
  local found = { parallel = add_parallel(m, conf), hpet = add_hpet(m, conf, chips) }
  add_debug(m, conf)
  add_display(m, conf)
  add_firmware_items(m, conf, below, above)
  local tables, dmi = build_acpi(m, conf, below, above, found), build_smbios(m, conf, below, above)
  add_tables(m, tables, dmi)
  if conf.kernel and not conf.bios and not conf.pflash then
    directboot.install(m, { kernel = conf.kernel, initrd = conf.initrd, append = conf.append, protocol = conf.protocol, below = below,
      above = above, acpi = tables, smbios = dmi, chipset = as_firmware_leaves })
  else
    if conf.protocol then refuse "-protocol is for a kernel that starts without firmware: through it, it begins in real mode" end
    if conf.kernel then
      m.data.boot_first =
        directboot.through_firmware(m, { kernel = conf.kernel, initrd = conf.initrd, append = conf.append, below = below })
    end
    add_firmware(m, conf)
  end
end

return machine.versions({
  name = "pc",
  doc = "Standard PC (i440FX, PIIX3, PIIX4)",
  ram = "128M",
  max_cpus = 255,
  options = {
    { name = "no-hpet", doc = "No event timers." },
    { name = "protocol", arg = "auto|32|64", doc = "How a Linux kernel is entered without firmware (auto: 64 where it can).",
      values = { "auto", "32", "64" } },
    { name = "smbios-entry-point-type", arg = "32|64", values = { "32", "64" },
      doc = "Form of the SMBIOS entry point: of version 2.8 with 32 bits (the default), or of 3.0 with 64." },
    { name = "max-ram-below-4g", arg = "SIZE", doc = "RAM below the PCI hole at most (3.5 GiB; 3 GiB where there is more)." },
  },
  powerdown = function(m) m.pm:irq("power-button", 0):pulse() end,
  init = init,
}, {
  { version = "1.0", compat = {} },
})

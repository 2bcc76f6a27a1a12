--[[
The smallest useful machine: RAM, one or more CPUs, a serial port, a debug console and a way out.

    vmlua bare.lua -kernel guest.bin                        flat, at 0x7c00, in real mode
    vmlua bare.lua -kernel guest.bin -addr 1M -mode long    flat, in 64-bit mode, memory mapped one to one
    vmlua bare.lua -kernel kernel.elf -append "quiet"       ELF, Multiboot or PVH, by what the file is
    vmlua bare.lua -kernel vmlinuz -initrd initrd.img -append "console=ttyS0" -m 256
    vmlua bare.lua -bios firmware.bin                       firmware up to the end of the first 4 GiB

Memory   RAM from 0, in two pieces around 3-4 GiB when it is larger than 3 GiB
Ports    0x3f8 16550A on line 4 (serial 0) · 0xe9 debug console · 0xf4 isa-debug-exit · 0x61 beside the PIT
Lines    the PC's: what of PIC, I/O APIC, local APICs and PIT does not come with the accelerator
         (`-accel kvm,kernel-irqchip=on|split|off`) is on the board
]]
local irqchip = require "vmlua.irqchip"
local loader = require "vmlua.loader"
local machine = require "vmlua.machine"
local symbols = require "vmlua.symbols"
local text = require "vmlua.text"

local GiB = 1 << 30
local HOLE, HOLE_END = 3 * GiB, 4 * GiB

-- Wrong settings are the user's: no place in this file belongs into the message.
local function refuse(format, ...) error(format:format(...), 0) end

local function number(conf, key, default)
  if conf[key] == nil then return default end
  local n, err = text.size(conf[key])
  if not n then refuse("-%s: %s", key, err) end
  return n
end

-- RAM below and above the hole that the local APICs, the I/O APIC and firmware need.
local function add_ram(m)
  local size = m.ram_size
  if size <= HOLE then
    m.memory:add(0, m.ram)
    return size, { { addr = 0, size = size } }
  end
  m.memory:add(0, m:region { kind = "alias", name = "ram-below-4g", of = m.ram, offset = 0, size = HOLE })
  m.memory:add(HOLE_END, m:region { kind = "alias", name = "ram-above-4g", of = m.ram, offset = HOLE, size = size - HOLE })
  return HOLE, { { addr = 0, size = HOLE }, { addr = HOLE_END, size = size - HOLE } }
end

local function add_bios(m, path)
  local bytes, err = text.read_file(path, 16 << 20)
  if not bytes then refuse("-bios: %s", err) end
  if #bytes == 0 or #bytes % 4096 ~= 0 then refuse("-bios: %s: %d bytes are no whole number of pages", path, #bytes) end
  local rom = m:region { kind = "rom", name = "bios", size = #bytes, data = bytes }
  m.memory:add(HOLE_END - #bytes, rom, 1)
  local low = math.min(#bytes, 128 << 10)
  m.memory:add((1 << 20) - low, m:region { kind = "alias", name = "bios-low", of = rom, offset = #bytes - low, size = low }, 1)
end

local function start_image(m, conf, low, map)
  local image, err = loader.read(conf.kernel, {
    addr = number(conf, "addr"), entry = number(conf, "entry"), mode = conf.mode, format = conf.format, protocol = conf.protocol,
  })
  if not image then refuse("-kernel: %s", err) end
  local placement, why = loader.place(image, {
    ram = low, map = m.ram_size > HOLE and HOLE_END + m.ram_size - HOLE or nil, cmdline = conf.append,
    modules = loader.modules(conf.initrd), memory_map = map, stack = number(conf, "stack"),
  })
  if not placement then refuse("-kernel: %s", why) end
  loader.install(m, placement)
  -- Names for vm:exec "symbol": of the image itself when it has any, and of a list beside it.
  m.data.symbols = m.data.symbols or {}
  local own = symbols.load(conf.kernel)
  if own then table.insert(m.data.symbols, own) end
end

return machine.define {
  name = "bare",
  doc = "RAM, CPUs, a serial port, a debug console and isa-debug-exit",
  ram = "16M",
  options = {
    { name = "addr", arg = "ADDR", doc = "Where a flat image goes (0x7c00)." },
    { name = "entry", arg = "ADDR", doc = "Where it begins to execute (what the file says, or its address)." },
    { name = "mode", arg = "real|protected|long", doc = "The CPU's mode at the start (what the file's format implies).",
      values = { "real", "protected", "long" } },
    { name = "format", arg = "auto|flat|elf|multiboot|linux|pvh", doc = "What the image is (auto: by its header).",
      values = { "auto", "flat", "elf", "multiboot", "linux", "pvh" } },
    { name = "protocol", arg = "auto|32|64", doc = "How a Linux kernel is entered (auto: 64 where it can).",
      values = { "auto", "32", "64" } },
    { name = "stack", arg = "ADDR", doc = "The stack pointer at the start." },
    { name = "symbols", arg = "FILE", doc = "Names of addresses: an ELF file, or a list as nm prints it." },
    { name = "idle", doc = "Nothing to start is no mistake: a script, or the prompt, will fill memory." },
  },
  init = function(m)
    local conf = m.conf
    local low, map = add_ram(m)
    irqchip.add(m)
    m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
    m.data.debugcon = machine.chardev(conf.debugcon or "ring", m, "debugcon")
    m:device("debugcon", { iobase = 0xe9, chardev = m.data.debugcon })
    m:device("isa-debug-exit", { iobase = 0xf4 })
    if conf.symbols then
      local list, err = symbols.load(conf.symbols)
      if not list then refuse("-symbols: %s", err) end
      m.data.symbols = { list }
    end
    if conf.bios then add_bios(m, conf.bios) end
    if conf.kernel then
      start_image(m, conf, low, map)
    elseif not conf.bios then
      if not conf.idle then refuse "board bare has nothing to start: -kernel FILE, -bios FILE, or -idle" end
      m.cpus[1]:set { cs = 0, ds = 0, es = 0, ss = 0, rip = 0x7c00, rsp = 0x7c00 }
    end
  end,
}

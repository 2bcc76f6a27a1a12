--[[
The Standard PC beside QEMU's: the same guest reads and writes the same registers on both, without firmware (what things are at power on)
and behind SeaBIOS (what firmware has made of them). Each difference that is to be stands in a list here with its reason.
]]
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local probe = dofile(here .. "/../lib/probe.lua")

local function beside(name, o)
  test(name .. (o.firmware and ", behind firmware, as under QEMU" or ", at power on, as under QEMU"), { timeout = 120 }, function(t)
    probe.need(t, o.firmware)
    local list = probe.list()
    o.probe(list)
    local floppy = o.floppy and t.file("floppy.img", ("\0"):rep(1474560))
    local ours, theirs = probe.both(t, list, { firmware = o.firmware, floppy = floppy, size = o.size })
    if o.look then o.look(t, ours, theirs) end
    probe.compare(t, ours, theirs, o.known)
  end)
end

-- ---- PCI ----------------------------------------------------------------------------------------------------------

local FUNCTIONS = { ["host bridge"] = 0x0000, ["ISA bridge"] = 0x0800, IDE = 0x0900, PM = 0x0b00, VGA = 0x1000, ["no function"] = 0x1800 }

local function each_function(fn)
  local names = {}
  for name in pairs(FUNCTIONS) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do fn(name, 0x80000000 | FUNCTIONS[name]) end
end

-- Where bits of the host bridge decide what is at the address of the code that runs.
local function is_map(at, offset) return at == 0x80000000 and offset >= 0x58 and offset < 0x74 end

beside("PCI configuration space is", {
  probe = function(p)
    each_function(function(name, at)
      for offset = 0, 0xfc, 4 do p:say("%s %02x", name, offset):outl(0xcf8, at | offset):inl(0xcfc) end
    end)
  end,
  known = {
    ["^ISA bridge 04"] = "commands are on after a reset (PIIX3 data sheet); QEMU takes them back",
    ["^IDE 40"] = "the ports of both channels are decoded from the start, for systems that start without firmware",
    ["^PM 58"] = "there is no system management mode: firmware finds it set up",
  },
})

beside("what can be written in PCI configuration space is", {
  probe = function(p)
    each_function(function(name, at)
      for offset = 0, 0xfc, 4 do
        if not is_map(at, offset) then
          p:say("%s %02x", name, offset):outl(0xcf8, at | offset):outl(0xcfc, 0xffffffff):inl(0xcfc):outl(0xcfc, 0):inl(0xcfc)
        end
      end
    end)
    p:say "bytes and words":outl(0xcf8, 0x80000000):inb(0xcfd):inw(0xcfe):inb(0xcf8):inl(0xcf8)
    p:say "mechanism off":outl(0xcf8, 0x00000800):inl(0xcfc):inl(0xcf8)
    p:say "bus 1":outl(0xcf8, 0x80010000):inl(0xcfc)
  end,
  known = {
    ["^IDE [4-9a-f].$"] = "reserved bits stay 0; in QEMU all behind the header can be written",
    ["^VGA [4-9a-f].$"] = "the same",
    ["^PM [49]0$"] = "the same: base addresses have fixed bits",
    ["^bytes and words"] = "the address register takes whole words only, other accesses are the bus' (440FX data sheet)",
  },
})

beside("BARs, command registers and routing are", {
  firmware = true,
  probe = function(p)
    each_function(function(name, at)
      for offset = 0, 0xfc, 4 do p:say("%s %02x", name, offset):outl(0xcf8, at | offset):inl(0xcfc) end
    end)
  end,
  known = {
    ["^ISA bridge 04"] = "commands are on after a reset (PIIX3 data sheet)",
    ["^host bridge 70"] = "there is no system management mode: firmware does not close SMRAM",
  },
})

-- ---- timer, interrupt controllers, DMA ------------------------------------------------------------------------------

beside("the interrupt controllers are", {
  probe = function(p)
    p:say "masks":inb(0x21):inb(0xa1)
    p:say "requests":out(0x20, 0x0a):inb(0x20):out(0xa0, 0x0a):inb(0xa0)
    p:say "services":out(0x20, 0x0b):inb(0x20):out(0xa0, 0x0b):inb(0xa0)
    p:say "edge or level":inb(0x4d0):inb(0x4d1):out(0x4d0, 0xff):out(0x4d1, 0xff):inb(0x4d0):inb(0x4d1):out(0x4d0, 0):out(0x4d1, 0)
    p:say "initialized":out(0x20, 0x11):out(0x21, 8):out(0x21, 4):out(0x21, 1):out(0xa0, 0x11):out(0xa1, 0x70):out(0xa1, 2):out(0xa1, 1)
      :inb(0x21):inb(0xa1)
    p:say "mask written":out(0x21, 0xa5):inb(0x21):out(0xa1, 0x5a):inb(0xa1)
    p:say "poll":out(0x20, 0x0c):inb(0x20)
    p:say "special mask":out(0x20, 0x68):inb(0x21):out(0x20, 0x48)
  end,
  known = { ["^poll"] = "where nothing is requested the level has no meaning" },
})

beside("the interval timer is", {
  probe = function(p)
    p:say "status":out(0x43, 0xee):inb(0x40):inb(0x41):inb(0x42)
    for mode = 0, 5 do
      p:say("mode %d", mode):out(0x43, 0x70 | mode << 1):out(0x43, 0xe4):inb(0x41)
      p:say("mode %d loaded", mode):out(0x41, 0):out(0x41, 0xff):delay(100000):out(0x43, 0xe4):inb(0x41)
    end
    p:say "decimal":out(0x43, 0x51):out(0x43, 0xe4):inb(0x41)
    p:say "speaker":inb(0x61):out(0x61, 0xff):inb(0x61):out(0x61, 0):inb(0x61)
    p:say "counter 2 stopped":out(0x43, 0xb4):out(0x42, 0x34):out(0x42, 0x12):delay(100000):out(0x43, 0xe8):inb(0x42)
    p:say "control read":inb(0x43)
  end,
  known = {
    ["^status"] = "modes are undefined before the first control word",
    ["^mode %d"] = "a count that is not loaded yet shows (bit 6), and the output follows the mode: 8254 data sheet",
    ["^decimal"] = "the same",
    ["^speaker"] = "bits 2 and 3 are kept; refresh and the timer's output run",
    ["^counter 2 stopped"] = "with its gate low the output of mode 2 is high: 8254 data sheet",
    ["^control read"] = "nothing drives the bus",
  },
})

beside("the DMA controllers are", {
  probe = function(p)
    for _, chip in ipairs { { "8 bit", 0, 1 }, { "16 bit", 0xc0, 2 } } do
      local name, base, step = table.unpack(chip)
      local function at(n) return base + n * step end
      p:say("%s status, command, mask", name):inb(at(8)):inb(at(0xf))
      for n = 0, 7 do
        p:say("%s register %d", name, n):out(at(0xc), 0):out(at(n), 0x34):out(at(n), 0x12):inb(at(n)):inb(at(n))
        p:say("%s register %d, halves turned", name, n):inb(at(n)):out(at(0xc), 0):inb(at(n)):inb(at(n))
      end
      p:say("%s masks", name):out(at(0xe), 0):inb(at(0xf)):out(at(0xa), 5):inb(at(0xf)):out(at(0xf), 0xff):inb(at(0xf))
      p:say("%s requests", name):out(at(9), 5):inb(at(8)):out(at(9), 1):inb(at(8))
      p:say("%s temporary", name):inb(at(0xd))
      p:say("%s master clear", name):out(at(0xd), 0):inb(at(8)):inb(at(0xf))
    end
    for port = 0x80, 0x8f do
      if port ~= 0x80 then p:say("page %02x", port):inb(port):out(port, 0x5a ~ port):inb(port) end
    end
  end,
  known = {
    ["masks?$"] = "port 0fh reads the masks (PIIX3 data sheet)",
    ["master clear"] = "the same",
    ["^page 8[4-68c-e]"] = "the registers in between are there, too (PIIX3 data sheet)",
  },
})

beside("the event timers are", {
  probe = function(p)
    local base = 0xfed00000
    p:say "capabilities":load32(base):load32(base + 4)
    for _, at in ipairs { 0x10, 0x20, 0xf0, 0xf4 } do p:say("%03x", at):load32(base + at) end
    for timer = 0, 3 do
      for _, at in ipairs { 0x100, 0x104, 0x108, 0x10c, 0x110 } do
        local address = base + at + timer * 0x20
        p:say("timer %d %03x", timer, at):load32(address):store32(address, 0xfffffffb):load32(address):store32(address, 0):load32(address)
      end
    end
    p:say "configuration":store32(base + 0x10, 0xfffffffe):load32(base + 0x10):store32(base + 0x10, 0)
    p:say "counter":store32(base + 0xf0, 0x12345678):store32(base + 0xf4, 0x9abcdef0):load32(base + 0xf0):load32(base + 0xf4)
  end,
  known = {
    ["^timer %d 10[04]"] = "timers reach lines 20 to 23, and a route that cannot be reads back as 0; in QEMU line 2 is offered",
    ["^timer 3"] = "there are three",
  },
})

-- ---- ports of the board ---------------------------------------------------------------------------------------------

beside("the ports of a PC are", {
  probe = function(p)
    p:say "92":inb(0x92):out(0x92, 0xfe):inb(0x92):out(0x92, 2):inb(0x92)
    p:say "61":inb(0x61)
    p:say "cf9":inb(0xcf9):out(0xcf9, 2):inb(0xcf9)
    p:say "b2, b3":inb(0xb2):inb(0xb3):out(0xb3, 0x5a):inb(0xb3)
    p:say "80":inb(0x80)
    for _, port in ipairs { 0x22, 0x74, 0x278, 0x2e8, 0x2f8, 0x3bc, 0x3e8, 0x3f0, 0x3f1, 0x505, 0x600, 0xafe0, 0xc000 } do
      p:say("%x", port):inb(port)
    end
  end,
  known = {
    ["^3f1"] = "an AT's controller has no status register B",
    ["^505"] = "pvpanic is always there",
    ["^61"] = "refresh and the timer's output run",
    ["^80"] = "it reads back",
    ["^92"] = "reserved bits read as 0",
  },
})

beside("the serial port is", {
  probe = function(p)
    local function at(n) return 0x3f8 + n end
    p:say "registers":inb(at(1)):inb(at(2)):inb(at(3)):inb(at(4)):inb(at(5)):inb(at(6)):inb(at(7))
    p:say "received":inb(at(0))
    for n = 1, 7 do
      if n ~= 2 then p:say("register %d", n):out(at(n), 0xff):inb(at(n)):out(at(n), 0):inb(at(n)) end
    end
    p:say "divisor":out(at(3), 0x80):inb(at(0)):inb(at(1)):out(at(0), 1):out(at(1), 0):inb(at(0)):inb(at(1)):out(at(3), 3):inb(at(3))
    p:say "FIFOs":out(at(2), 1):inb(at(2)):out(at(2), 0xc7):inb(at(2)):out(at(2), 0):inb(at(2))
    p:say "loop of control lines":out(at(4), 0x1f):inb(at(6)):inb(at(6)):out(at(4), 0x10):inb(at(6)):inb(at(6))
    p:say "loop of a byte":out(at(0), 0x5a):await(at(5), 1, 1):inb(at(5)):inb(at(0)):inb(at(5))
    p:say "interrupt of the transmitter":out(at(4), 8):out(at(1), 2):inb(at(2)):inb(at(2)):out(at(1), 0)
  end,
  known = {
    ["^loop of control lines"] = "in loopback, too, changes are seen",
    ["^register 6"] = "the same: the ring indicator has changed",
    ["^registers"] = "OUT2 is off after a reset (16550 data sheet)",
  },
})

beside("the parallel port is", {
  probe = function(p)
    p:say "registers":inb(0x378):inb(0x379):inb(0x37a)
    p:say "data":out(0x378, 0xa5):inb(0x378):out(0x378, 0x5a):inb(0x378)
    p:say "control":out(0x37a, 0xff):inb(0x37a):out(0x37a, 0):inb(0x37a):out(0x37a, 0x0c):inb(0x37a):inb(0x379)
    p:say "strobe":out(0x378, 0x41):out(0x37a, 0x0d):inb(0x379):out(0x37a, 0x0c):delay(1000000):inb(0x379)
    p:say "extended":inb(0x37b):inb(0x37c):inb(0x77a)
  end,
  known = {
    ["^registers"] = "the three reserved bits of the status read as 1",
    ["^control"] = "the same",
    ["^strobe"] = "the same",
  },
})

beside("the clock is", {
  probe = function(p)
    p:say "index":inb(0x70)
    for _, n in ipairs { 0x0a, 0x0b, 0x0d } do p:say("register %02x", n):out(0x70, n):inb(0x71) end
    for n = 3, 9 do p:say("date %02x", n):out(0x70, n):inb(0x71) end
    for n = 0x0e, 0x7f do p:say("byte %02x", n):out(0x70, n):inb(0x71) end
    for _, n in ipairs { 0x0d, 0x0e, 0x33, 0x7f, 0x0a, 0x0b } do
      p:say("written %02x", n):out(0x70, n):out(0x71, 0x56):inb(0x71)
    end
  end,
  known = {
    ["^byte 1[04]"] = "there is no floppy drive unless one is asked for",
    ["^byte 2[ef]"] = "the sum is there from the start; in QEMU firmware makes it",
    ["^byte 37"] = "the century is at 32h, as the FADT says",
  },
})

-- ---- keyboard and mouse ---------------------------------------------------------------------------------------------

-- A byte to the controller, to the keyboard, to the mouse; then what they answer.
local function ctl(p, command, data)
  p:out(0x64, command)
  if data then p:await(0x64, 2, 0):out(0x60, data) end
  return p:replies()
end
local function kbd(p, ...)
  for _, byte in ipairs { ... } do p:await(0x64, 2, 0):out(0x60, byte):replies() end
  return p
end
local function aux(p, ...)
  for _, byte in ipairs { ... } do p:await(0x64, 2, 0):out(0x64, 0xd4):await(0x64, 2, 0):out(0x60, byte):replies() end
  return p
end

beside("the keyboard controller is", {
  probe = function(p)
    p:say "status":inb(0x64)
    for _, command in ipairs { 0x20, 0xaa, 0xab, 0xa9, 0xa7, 0xa9, 0xa8, 0xc0, 0xd0, 0xe0, 0x21, 0x2f, 0xac, 0xaf } do
      ctl(p:say("command %02x, %d", command, #p), command):inb(0x64)
    end
    ctl(p:say "command byte", 0x60, 0x47)
    ctl(p:say "command byte, read", 0x20)
    ctl(p:say "output port", 0xd1, 0xdf)
    ctl(p:say "output port, read", 0xd0)
    ctl(p:say "from the keyboard", 0xd2, 0x5a)
    ctl(p:say "from the mouse", 0xd3, 0xa5)
    ctl(p:say "disabled", 0xad):inb(0x64)
    ctl(p:say "disabled, command byte", 0x20)
    ctl(p:say "enabled", 0xae)
  end,
  known = {
    ["^status"] = "nobody has written to it",
    ["^command 20"] = "codes are translated from the start, for systems that start without firmware",
    ["^command 2[1f]"] = "its memory can be read",
    ["^command c0"] = "input port: the jumpers of a colour display, keyboard not locked",
    ["^command e0"] = "test inputs are there: both clocks are high",
    ["^output port, read"] = "the buffer is empty, so its bit is 0",
  },
})

beside("the keyboard is", {
  probe = function(p)
    ctl(p, 0x60, 0x40)
    kbd(p:say "reset", 0xff)
    kbd(p:say "identity", 0xf2)
    kbd(p:say "echo", 0xee)
    kbd(p:say "set at first", 0xf0, 0)
    for set = 1, 3 do kbd(p:say("set %d", set), 0xf0, set, 0xf0, 0) end
    kbd(p:say "set 4", 0xf0, 4, 0xf0, 0)
    kbd(p:say "lights", 0xed, 7)
    kbd(p:say "rate", 0xf3, 0x7f)
    kbd(p:say "on", 0xf4)
    kbd(p:say "off", 0xf5)
    kbd(p:say "as at first", 0xf6)
    for _, byte in ipairs { 0xf7, 0xf8, 0xf9, 0xfa } do kbd(p:say("all keys %02x", byte), byte) end
    for _, byte in ipairs { 0xef, 0xf1, 0x80 } do kbd(p:say("no command %02x", byte), byte) end
    kbd(p:say "again", 0xfe)
    ctl(p:say "command byte", 0x20)
  end,
  known = { ["^all keys f[789]"] = "QEMU knows only FA of them" },
})

beside("the mouse is", {
  probe = function(p)
    ctl(p, 0x60, 0x40)
    aux(p:say "reset", 0xff)
    aux(p:say "identity", 0xf2)
    aux(p:say "status", 0xe9)
    aux(p:say "resolution", 0xe8, 3, 0xe9)
    aux(p:say "rate", 0xf3, 60, 0xe9)
    aux(p:say "twice as far", 0xe7, 0xe9, 0xe6)
    aux(p:say "remote", 0xf0, 0xe9)
    aux(p:say "asked", 0xeb)
    aux(p:say "stream", 0xea, 0xe9)
    aux(p:say "on", 0xf4, 0xe9)
    aux(p:say "off", 0xf5, 0xe9)
    aux(p:say "wrap", 0xee, 0x5a, 0xec)
    aux(p:say "wheel", 0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2)
    aux(p:say "wheel, asked", 0xeb)
    aux(p:say "five buttons", 0xf3, 200, 0xf3, 200, 0xf3, 80, 0xf2)
    aux(p:say "five buttons, asked", 0xeb)
    aux(p:say "as at first", 0xf6, 0xf2, 0xe9)
    aux(p:say "reset at last", 0xff, 0xf2)
  end,
})

-- ---- floppy disk controller -----------------------------------------------------------------------------------------

-- A command, and how many bytes of result there are.
local function fdc(p, results, ...)
  for _, byte in ipairs { ... } do p:await(0x3f4, 0xc0, 0x80):out(0x3f5, byte) end
  for _ = 1, results do p:await(0x3f4, 0xc0, 0xc0):inb(0x3f5) end
  return p
end

beside("the floppy disk controller is", {
  floppy = true,
  probe = function(p)
    p:say "registers":inb(0x3f2):inb(0x3f3):inb(0x3f4):inb(0x3f7)
    p:say "digital output":out(0x3f2, 0):inb(0x3f2):out(0x3f2, 0x0c):inb(0x3f2):delay(10000000):inb(0x3f4)
    for n = 0, 3 do fdc(p:say("sense %d", n), 2, 0x08):inb(0x3f4) end
    fdc(p:say "nothing to sense", 1, 0x08)
    fdc(p:say "version", 1, 0x10)
    fdc(p:say "part", 1, 0x18)
    fdc(p:say "lock", 1, 0x94)
    fdc(p:say "unlock", 1, 0x14)
    fdc(p:say "registers dumped", 10, 0x0e)
    fdc(p:say "configured", 0, 0x13, 0, 0x57, 0x10)
    fdc(p:say "specified", 0, 0x03, 0xaf, 0x02)
    fdc(p:say "perpendicular", 0, 0x12, 0x0c)
    fdc(p:say "registers dumped again", 10, 0x0e)
    fdc(p:say "drive status", 1, 0x04, 0)
    fdc(p:say "recalibrated", 0, 0x07, 0):delay(100000000)
    fdc(p:say "recalibrated, sensed", 2, 0x08)
    fdc(p:say "invalid", 1, 0x1f)
    p:say "tape drive":out(0x3f3, 3):inb(0x3f3)
    p:say "status register A, B":inb(0x3f0):inb(0x3f1)
  end,
  known = {
    ["^registers$"] = "it is held in reset after power on",
    ["^registers dumped"] = "polling is on, seeks are not implied after a reset, times read back as written (82077AA data sheet)",
    ["^part"] = "an 82077AA has no such command",
    ["^status register A, B"] = "an AT's controller has none",
    ["^tape drive"] = "it reads back",
  },
})

-- ---- IDE -----------------------------------------------------------------------------------------------------------

beside("IDE registers are", {
  firmware = true,
  probe = function(p)
    for _, base in ipairs { 0x1f0, 0x170 } do
      for _, drive in ipairs { 0xa0, 0xb0 } do
        p:say("%x drive %x", base, drive):out(base + 6, drive):delay(10000)
        for n = 1, 7 do p:inb(base + n) end
        p:inb(base + 0x206)
      end
    end
    p:say "reset":out(0x1f6, 0xa0):out(0x3f6, 4):delay(100000):inb(0x1f7):out(0x3f6, 0):await(0x1f7, 0x80, 0)
    for n = 1, 7 do p:inb(0x1f0 + n) end
    p:say "CD-ROM, reset":out(0x376, 4):delay(100000):out(0x376, 0):await(0x177, 0x80, 0)
    for n = 1, 7 do p:inb(0x170 + n) end
    p:say "a command that is none":out(0x1f6, 0xa0):out(0x1f7, 0xff):await(0x1f7, 0x80, 0):inb(0x1f7):inb(0x1f1)
    p:say "IDENTIFY of a CD-ROM":out(0x176, 0xa0):out(0x177, 0xec):await(0x177, 0x80, 0):inb(0x177):inb(0x171):inb(0x174):inb(0x175)
    for _, drive in ipairs { { "disk", 0x1f0, 0xec }, { "CD-ROM", 0x170, 0xa1 } } do
      p:out(drive[2] + 6, 0xa0):out(drive[2] + 7, drive[3]):await(drive[2] + 7, 0x88, 8)
      for n = 0, 255 do p:say("%s word %d", drive[1], n):inw(drive[2]) end
    end
    for n = 0, 15 do p:say("bus master %x", n):inb(0xc040 + n) end
  end,
  known = {
    ["^1f0 drive"] = "registers show the last sector, not the one behind it; a slave that is not there answers with 0",
    ["^reset"] = "it is busy while it is reset",
    ["^CD%-ROM, reset"] = "its signature and a status of 0; QEMU shows none without a medium",
    ["^a command that is none"] = "the drive's seek is complete (bit 4)",
    ["^IDENTIFY of a CD%-ROM"] = "the same",
    ["^%S+ word 2[0-4]$"] = "revision; buffer sizes are long retired",
    ["^%S+ word 10"] = "serial numbers",
    ["^%S+ word [23]%d$"] = "models",
    ["^%S+ word 255"] = "a checksum",
    ["^%S+ word 4[89]"] = "capabilities: standby times are the standard's, LBA and DMA of a CD-ROM",
    ["^%S+ word 62"] = "retired",
    ["^%S+ word 6[5-9]"] = "times, and additional features: none but those there are",
    ["^%S+ word 8%d"] = "command sets: SMART with tests and logs, packet, and what else there is",
    ["^CD%-ROM word 93"] = "where it is and how it was found",
    ["^disk word [45]$"] = "retired",
    ["^disk word 5[02]"] = "retired or fixed",
    ["^disk word 106"] = "one logical sector a physical one",
    ["^disk word 169"] = "discards are not passed on unless asked for",
  },
})

-- ---- power management ------------------------------------------------------------------------------------------------

beside("power management is", {
  firmware = true,
  probe = function(p)
    for n = 0, 0x3e, 2 do
      if n ~= 0 and n ~= 8 and n ~= 10 then p:say("PM %02x", n):inw(0x600 + n) end
    end
    p:say "PM events":outw(0x602, 0xffff):inw(0x602):outw(0x602, 0):outw(0x600, 0xffff):inw(0x600)
    p:say "PM control":outw(0x604, 0x1c03):inw(0x604):outw(0x604, 1):inw(0x604)
    p:say "GPE":inb(0xafe0):inb(0xafe1):inb(0xafe2):inb(0xafe3):out(0xafe2, 0xff):inb(0xafe2):out(0xafe2, 0):inb(0xafe2)
    p:say "APM":inb(0xb2):inb(0xb3):out(0xb2, 0xf0):inw(0x604):out(0xb2, 0xf1):inw(0x604)
    for n = 0, 0xf do p:say("SMBus %x", n):inb(0x700 + n) end
    p:say "a byte of memory's EEPROM":out(0x700, 0x1e):out(0x704, 0xa1):out(0x703, 2):out(0x702, 0x48)
    p:await(0x700, 1, 0):inb(0x700):inb(0x705)
    p:say "nobody at this address":out(0x700, 0x1e):out(0x704, 0x21):out(0x703, 0):out(0x702, 0x48):await(0x700, 1, 0):inb(0x700)
  end,
  known = {
    ["^APM"] = "there is no system management mode, so firmware sends no command",
    ["^PM [0-3][02468ace]$"] = "all 64 bytes are there (PIIX4 data sheet); QEMU has the first 12",
    ["^PM events"] = "events that there are can be enabled (PIIX4 data sheet)",
    ["^SMBus d"] = "QEMU has a register of later chips there",
  },
})

for name, size in pairs { ["CMOS memory"] = 1 << 20, ["CMOS memory with a disk of 3 GiB"] = 3 << 30 } do
  beside(name .. " is", {
    firmware = true, size = size,
    probe = function(p)
      for n = 0x0a, 0x7f do
        if n ~= 0x0c then p:say("byte %02x", n):out(0x70, n):inb(0x71) end
      end
    end,
    known = {
      ["^byte 1[04]"] = "there is no floppy drive unless one is asked for",
      ["^byte 2[ef]"] = "the sum of them",
      ["^byte 37"] = "the century is at 32h",
    },
  })
end

-- ---- fw_cfg ----------------------------------------------------------------------------------------------------------

local DIRECTORY = 0x19

-- The directory's files by name: size and selector.
local function files(hex)
  local bytes = hex:gsub("%x%x ?", function(h) return string.char(tonumber(h:sub(1, 2), 16)) end)
  local out = {}
  for i = 1, string.unpack(">I4", bytes) do
    local size, _, _, name = string.unpack(">I4I2I2z", bytes, 5 + (i - 1) * 64)
    out[name] = size
  end
  return out
end

beside("fw_cfg is", {
  firmware = true,
  probe = function(p)
    p:say "no selector yet":inb(0x511)
    for _, item in ipairs { { "signature", 0, 4 }, { "interface", 1, 4 }, { "UUID", 2, 16 }, { "RAM", 3, 8 }, { "no graphics", 4, 2 },
      { "processors", 5, 2 }, { "kernel's size", 8, 4 }, { "boot device", 0xc, 2 }, { "NUMA", 0xd, 8 }, { "boot menu", 0xe, 2 },
      { "processors at most", 0xf, 2 }, { "timer's line", 0x8002, 4 }, { "nothing", 0x3fff, 4 } } do
      p:say(item[1]):outw(0x510, item[2]):bytes(0x511, item[3])
    end
    p:say "behind the end":outw(0x510, 0):bytes(0x511, 8)
    p:say "selector read":inw(0x510)
    p:say "DMA signature":inl(0x514):inl(0x518)
    p:say "DMA read":store32(0x70000, 0x0a000000):store32(0x70004, 0x04000000):store32(0x70008, 0):store32(0x7000c, 0x00010700)
      :outl(0x514, 0):outl(0x518, 0x00000700):load32(0x70000):load32(0x70100)
    p:say "DMA skip, then read":store32(0x70000, 0x0c000000):store32(0x70004, 0x02000000):outl(0x518, 0x00000700):load32(0x70000)
      :store32(0x70000, 0x02000000):outl(0x518, 0x00000700):load32(0x70000):load32(0x70100)
    p:say "DMA error":store32(0x70000, 0x10000000):store32(0x70004, 0x02000000):outl(0x518, 0x00000700):load32(0x70000)
    p:say "directory":outw(0x510, DIRECTORY):bytes(0x511, 4 + 64 * 40)
  end,
  look = function(t, ours, theirs)
    local mine, other = files(ours.directory), files(theirs.directory)
    t.log(mine, other)
    ours.directory, theirs.directory = nil, nil
    local sizes = {}
    for name in pairs(mine) do sizes[name] = true end
    for name in pairs(other) do sizes[name] = true end
    for name in pairs(sizes) do
      ours["file " .. name], theirs["file " .. name] = tostring(mine[name]), tostring(other[name])
    end
  end,
  known = {
    ["^file etc/acpi"] = "other tables; QEMU rounds their file up",
    ["^file etc/table%-loader"] = "the same",
    ["^file etc/smbios/smbios%-tables"] = "the same",
    ["^file etc/e820"] = "QEMU keeps four pages for KVM",
    ["^file bios%-geometry"] = "empty there",
    ["^file etc/tpm/log"] = "empty there: no TPM",
    ["^file genroms/kvmvapic.bin"] = "no patching of guests",
    ["^selector read"] = "it is written only",
  },
})

-- ---- VGA -------------------------------------------------------------------------------------------------------------

beside("VGA registers are", {
  firmware = true,
  probe = function(p)
    p:say "external":inb(0x3cc):inb(0x3ca):inb(0x3c2):inb(0x3c6):inb(0x3c7):inb(0x3c8)
    local function indexed(name, port, n)
      p:say("%s index", name):inb(port):out(port, 0xff):inb(port)
      for i = 0, n - 1 do p:say("%s %02x", name, i):out(port, i):inb(port + 1) end
    end
    indexed("sequencer", 0x3c4, 5)
    indexed("graphics", 0x3ce, 9)
    indexed("CRT", 0x3d4, 0x19)
    for i = 0, 0x14 do p:say("attribute %02x", i):touch(0x3da):out(0x3c0, i):inb(0x3c1):out(0x3c0, 0x20):touch(0x3da) end
    for i = 0, 15 do p:say("colour %d", i):out(0x3c7, i):inb(0x3c7):inb(0x3c9):inb(0x3c9):inb(0x3c9) end
    for i = 0, 4 do p:say("sequencer %02x written", i):out(0x3c4, i):out(0x3c5, 0xff):inb(0x3c5) end
    for i = 0, 8 do p:say("graphics %02x written", i):out(0x3ce, i):out(0x3cf, 0xff):inb(0x3cf) end
    for i = 0, 0x14 do
      p:say("attribute %02x written", i):touch(0x3da):out(0x3c0, i):out(0x3c0, 0xff):inb(0x3c1):touch(0x3da):out(0x3c0, 0x20)
    end
    p:say "CRT protected":out(0x3d4, 0x11):out(0x3d5, 0x8e):out(0x3d4, 0):out(0x3d5, 0x55):inb(0x3d5)
    p:say "CRT protected, but one bit":out(0x3d4, 7):out(0x3d5, 0x10):inb(0x3d5)
    for i = 0, 0x18 do p:say("CRT %02x written", i):out(0x3d4, i):out(0x3d5, 0x7f):inb(0x3d5) end
    p:say "colour written":out(0x3c8, 5):out(0x3c9, 0xff):out(0x3c9, 1):out(0x3c9, 2):inb(0x3c8)
    p:say "colour read":out(0x3c7, 5):inb(0x3c9):inb(0x3c9):inb(0x3c9):inb(0x3c8)
  end,
  known = {
    ["^colour read"] = "6 bits of a component",
    ["^external"] = "the DAC's mask is there, and the beam shows in input status 0",
    ["index$"] = "the whole byte reads back",
  },
})

beside("VBE registers are", {
  firmware = true,
  probe = function(p)
    local function vbe(index) return p:outw(0x1ce, index):inw(0x1cf) end
    local function set(index, value) return p:outw(0x1ce, index):outw(0x1cf, value) end
    for i = 0, 11 do p:say("index %d", i):outw(0x1ce, i):inw(0x1cf) end
    p:say "identity": outw(0x1ce, 0):outw(0x1cf, 0xb0c0):inw(0x1cf):outw(0x1cf, 0xb0c5):inw(0x1cf):outw(0x1cf, 0xb0c9):inw(0x1cf)
    p:say "capabilities"
    set(4, 2)
    for i = 1, 3 do vbe(i) end
    set(4, 0)
    for _, mode in ipairs { { 640, 480, 8 }, { 800, 600, 16 }, { 1024, 768, 32 }, { 1001, 77, 24 }, { 320, 200, 15 }, { 640, 480, 4 },
      { 2560, 1600, 32 }, { 5000, 5000, 32 } } do
      p:say("%d x %d x %d", table.unpack(mode))
      set(4, 0)
      for i = 1, 3 do set(i, mode[i]) end
      set(4, 0x41)
      for i = 1, 9 do vbe(i) end
    end
    p:say "wide and moved"
    set(4, 0)
    set(1, 640); set(2, 480); set(3, 32); set(4, 0x41); set(6, 1024); set(8, 100); set(9, 50); set(5, 3)
    for i = 1, 9 do vbe(i) end
    set(4, 0)
    -- The card's page of registers, where firmware has put it.
    p:say "page of registers, EDID":load32(0xfebf0000):load32(0xfebf0004)
    p:say "page of registers, VBE":load16(0xfebf0500):load16(0xfebf0502):load16(0xfebf0514)
    p:say "page of registers, byte order":load32(0xfebf0600):load32(0xfebf0604)
    p:say "page of registers, ports":load8(0xfebf040c)
  end,
  known = {
    ["^1001 x 77"] = "any width is taken; QEMU rounds it down to a multiple of 8",
    ["^5000 x 5000"] = "a mode that does not fit is not switched on; QEMU makes it lower",
    ["^capabilities"] = "a screen has up to 8192 pixels each way",
    ["^index 3"] = "8 bits a pixel before the first mode",
    ["EDID$"] = "no monitor is described",
  },
})

-- The 16550A register by register, the one in C and the one in Lua, through a machine's I/O space.
-- Data sheet: National Semiconductor PC16550D, section 8.
local core = require "vmlua.core.chardev"
local test = require "vmlua.test"
local api = require "vmlua.core.api"
local machine = require "vmlua.machine"

local BASE, LINE = 0x3f8, 4
local RBR, THR, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 0, 1, 2, 2, 3, 4, 5, 6, 7

-- A machine whose one CPU halts at once, with one serial port of the given kind.
local boards = 0
local function make(t, kind, chardev)
  if kind == "lua-16550" then machine.find "lua-uart" end
  boards = boards + 1
  local vm = t.machine {
    name = ("serial-test-%d"):format(boards), ram = "64K",
    init = function(m)
      m.memory:add(0, m.ram)
      local props = { iobase = BASE, chardev = chardev and chardev(m) or m:serial(0) }
      props[kind == "lua-16550" and "line" or "irq"] = LINE
      m:device(kind, props)
      m:place(0x7c00, "\xf4\xeb\xfd") -- hlt; jmp to it
      m.cpus[1]:set { cs = 0, rip = 0x7c00, rflags = 2 }
    end,
  }
  local u = { vm = vm, chr = vm.serial[1] }
  function u.read(reg) return vm.io:read_u8(BASE + reg) end
  function u.write(reg, value) vm.io:write_u8(BASE + reg, value) end
  function u.line() return vm:gsi(LINE).level end
  -- Enables the FIFOs, enters loopback.
  function u.loop(fcr)
    u.write(FCR, fcr or 0x07)
    u.write(MCR, 0x10)
    u.read(MSR)
  end
  function u.drain()
    local out = {}
    while u.read(LSR) & 1 ~= 0 do out[#out + 1] = string.char(u.read(RBR)) end
    return table.concat(out)
  end
  return u
end

local function both(name, fn)
  for _, kind in ipairs { "isa-serial", "lua-16550" } do
    test(("%s: %s"):format(kind, name), function(t) fn(t, function(chardev) return make(t, kind, chardev) end) end)
  end
end

test("isa-serial: input that waits outside is not lost when the state is spoilt and put back", { no_torture = "it tortures" }, function(t)
  local u = make(t, "isa-serial")
  u.write(FCR, 0x07)
  local text = "more than the sixteen bytes of its buffer"
  u.chr:write(text)
  u.vm:pause()
  for _, kind in ipairs { "snapshot", "stream" } do t.ok(u.vm:_torture(kind)) end
  t.eq(u.drain(), text)
end)

both("registers have their values of reset", function(t, new)
  local u = new()
  t.eq(u.read(IER), 0x00, "IER")
  t.eq(u.read(IIR), 0x01, "IIR")
  t.eq(u.read(LCR), 0x00, "LCR")
  t.eq(u.read(MCR), 0x00, "MCR")
  t.eq(u.read(LSR), 0x60, "LSR")
  t.eq(u.read(MSR) & 0x0f, 0x00, "MSR deltas")
  t.eq(u.read(SCR), 0x00, "SCR")
  t.eq(u.line(), 0, "line")
  u.write(LCR, 0x80)
  t.eq(u.read(0) | u.read(1) << 8, 12, "divisor")
end)

both("registers read back what they keep", function(t, new)
  local u = new()
  for _, value in ipairs { 0x00, 0x55, 0xaa, 0xff } do
    u.write(SCR, value)
    t.eq(u.read(SCR), value, "SCR")
    u.write(LCR, value & 0xbf)
    t.eq(u.read(LCR), value & 0xbf, "LCR")
  end
  u.write(LCR, 0x03)
  u.write(IER, 0xf0)
  t.eq(u.read(IER), 0x00, "IER has four bits")
  u.write(IER, 0x0d)
  t.eq(u.read(IER), 0x0d, "IER")
  u.write(MCR, 0xe3)
  t.eq(u.read(MCR), 0x03, "MCR has five bits")
end)

both("a reset of the machine brings the values of reset back", function(t, new)
  local u = new()
  u.write(LCR, 0x80)
  u.write(0, 1)
  u.write(LCR, 0x1b)
  u.write(IER, 0x0f)
  u.write(FCR, 0xc1)
  u.write(MCR, 0x1b)
  u.write(SCR, 0x5a)
  u.write(THR, 0x41)
  u.vm:reset()
  t.eq({ u.read(IER), u.read(IIR), u.read(LCR), u.read(MCR), u.read(LSR), u.read(SCR) }, { 0, 1, 0, 0, 0x60, 0 })
  t.eq(u.line(), 0)
  u.write(LCR, 0x80)
  t.eq(u.read(0) | u.read(1) << 8, 12)
end)

both("DLAB shows the divisor in place of RBR and IER", function(t, new)
  local u = new()
  u.write(IER, 0x05)
  u.write(LCR, 0x83)
  u.write(0, 0x34)
  u.write(1, 0x12)
  t.eq({ u.read(0), u.read(1) }, { 0x34, 0x12 })
  u.write(LCR, 0x03)
  t.eq(u.read(IER), 0x05)
  t.eq(u.vm.serial[1]:history(), "", "no byte was sent")
end)

both("a byte that is written reaches the outside", function(t, new)
  local u = new()
  for c in ("Hello"):gmatch "." do
    t.eq(u.read(LSR) & 0x20, 0x20)
    u.write(THR, c:byte())
  end
  t.eq(u.chr:history(), "Hello")
  t.eq(u.read(LSR), 0x60)
end)

both("a byte from outside shows in LSR and is read once", function(t, new)
  local u = new()
  u.chr:write "A"
  t.eq(u.read(LSR), 0x61)
  t.eq(u.read(RBR), 0x41)
  t.eq(u.read(LSR), 0x60)
end)

both("without FIFOs the outside waits until a byte was read", function(t, new)
  local u = new()
  u.chr:write "xyz"
  t.eq(u.drain(), "xyz")
  t.eq(u.read(LSR) & 0x02, 0, "nothing was overrun")
end)

both("with FIFOs sixteen bytes are taken and the rest waits outside", function(t, new)
  local u = new()
  u.write(FCR, 0x01)
  u.chr:write "0123456789abcdefXYZ"
  t.eq(u.drain(), "0123456789abcdefXYZ")
  t.eq(u.read(LSR) & 0x02, 0, "nothing was overrun")
end)

both("FCR shows in IIR, and only together with its first bit", function(t, new)
  local u = new()
  t.eq(u.read(IIR) & 0xc0, 0x00)
  u.write(FCR, 0x01)
  t.eq(u.read(IIR) & 0xc0, 0xc0)
  u.write(FCR, 0xc0)
  t.eq(u.read(IIR) & 0xc0, 0x00)
end)

both("loopback brings every byte back and none outside", function(t, new)
  local u = new()
  u.loop()
  for byte = 0, 255 do
    u.write(THR, byte)
    t.eq(u.read(LSR) & 0x01, 1)
    t.eq(u.read(RBR), byte)
  end
  t.eq(u.chr:history(), "")
end)

both("in loopback what comes from outside waits", function(t, new)
  local u = new()
  u.loop()
  u.chr:write "w"
  t.eq(u.read(LSR) & 1, 0)
  u.write(MCR, 0)
  t.eq(u.drain(), "w")
end)

both("a full FIFO keeps its bytes and tells of the overrun once", function(t, new)
  local u = new()
  u.loop()
  for i = 1, 18 do u.write(THR, i) end
  t.eq(u.read(LSR), 0x63, "overrun")
  t.eq(u.read(LSR), 0x61, "told once")
  local out = {}
  for i = 1, 16 do out[i] = u.read(RBR) end
  t.eq(out, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 })
  t.eq(u.read(LSR), 0x60)
end)

both("without FIFOs an overrun loses the older byte", function(t, new)
  local u = new()
  u.write(MCR, 0x10)
  u.write(THR, 1)
  u.write(THR, 2)
  t.eq(u.read(LSR), 0x63)
  t.eq(u.read(RBR), 2)
  t.eq(u.read(LSR), 0x60)
end)

both("an empty receiver gives the last byte again", function(t, new)
  local u = new()
  u.chr:write "Q"
  t.eq(u.read(RBR), 0x51)
  t.eq(u.read(RBR), 0x51)
end)

both("FCR clears the receiver, and so does switching the FIFOs", function(t, new)
  local u = new()
  u.loop(0x01)
  u.write(THR, 1)
  u.write(FCR, 0x03)
  t.eq(u.read(LSR), 0x60)
  u.write(THR, 2)
  u.write(FCR, 0x00)
  t.eq(u.read(LSR), 0x60)
  u.write(THR, 3)
  u.write(FCR, 0x01)
  t.eq(u.read(LSR), 0x60)
end)

both("the received-data interrupt comes and goes with the byte", function(t, new)
  local u = new()
  u.write(MCR, 0x08)
  u.write(IER, 0x01)
  t.eq(u.line(), 0)
  u.chr:write "A"
  t.eq(u.read(IIR), 0x04)
  t.eq(u.line(), 1)
  u.read(RBR)
  t.eq(u.read(IIR), 0x01)
  t.eq(u.line(), 0)
end)

both("the interrupt leaves the chip only while OUT2 is driven", function(t, new)
  local u = new()
  u.write(IER, 0x01)
  u.chr:write "A"
  t.eq(u.read(IIR), 0x04)
  t.eq(u.line(), 0)
  u.write(MCR, 0x08)
  t.eq(u.line(), 1)
  u.write(MCR, 0x00)
  t.eq(u.line(), 0)
  u.write(MCR, 0x18)
  t.eq(u.line(), 0, "loopback forces OUT2 off")
end)

both("the trigger level decides when received data interrupts", function(t, new)
  for fcr, level in pairs { [0x01] = 1, [0x41] = 4, [0x81] = 8, [0xc1] = 14 } do
    local u = new()
    u.loop(fcr)
    u.write(IER, 0x01)
    for i = 1, level - 1 do
      u.write(THR, i)
      t.eq(u.read(IIR), 0xc1, ("FCR 0x%02x, %d bytes"):format(fcr, i))
    end
    u.write(THR, 0)
    t.eq(u.read(IIR), 0xc4, ("FCR 0x%02x, %d bytes"):format(fcr, level))
    u.read(RBR)
    t.eq(u.read(IIR), 0xc1, "below the level again")
  end
end)

both("bytes below the trigger level interrupt after four character times", function(t, new)
  local u = new()
  u.write(FCR, 0xc1)
  u.write(MCR, 0x08)
  u.write(IER, 0x01)
  u.vm:start()
  u.chr:write "ab"
  t.wait_for(function() return u.line() == 1 end, 10, "no timeout interrupt came")
  t.eq(u.read(IIR), 0xcc)
  u.read(RBR)
  t.eq(u.read(IIR), 0xc1, "a read ends it")
  t.wait_for(function() return u.read(IIR) == 0xcc end, 10, "the byte that is left brought no interrupt")
  t.eq(u.drain(), "b")
  t.eq(u.line(), 0)
end)

both("time stands still for the timeout while the machine does", function(t, new)
  local u = new()
  u.write(FCR, 0xc1)
  u.write(IER, 0x01)
  u.chr:write "a"
  t.sleep(0.05)
  t.eq(u.read(IIR), 0xc1)
end)

both("an empty transmitter interrupts when asked, and once a byte", function(t, new)
  local u = new()
  u.write(MCR, 0x08)
  u.write(IER, 0x02)
  t.eq(u.line(), 1)
  t.eq(u.read(IIR), 0x02)
  t.eq(u.read(IIR), 0x01, "reading IIR answers it")
  t.eq(u.line(), 0)
  u.write(THR, 0x41)
  t.eq(u.line(), 1)
  t.eq(u.read(IIR), 0x02)
  u.write(IER, 0x00)
  t.eq(u.read(IIR), 0x01)
  u.write(IER, 0x02)
  t.eq(u.read(IIR), 0x02, "enabling it again asks again")
end)

both("line errors interrupt and LSR answers them", function(t, new)
  local u = new()
  u.loop(0x00)
  u.write(IER, 0x04)
  u.write(THR, 1)
  t.eq(u.read(IIR), 0x01)
  u.write(THR, 2)
  t.eq(u.read(IIR), 0x06)
  u.read(LSR)
  t.eq(u.read(IIR), 0x01)
end)

both("interrupts are told by priority", function(t, new)
  local u = new()
  u.loop(0x00)
  u.write(IER, 0x0f)
  t.eq(u.read(IIR), 0x02)
  u.write(THR, 1)
  u.write(THR, 2)
  u.write(MCR, 0x11) -- DTR comes back as DSR
  t.eq(u.read(IIR), 0x06, "line status first")
  u.read(LSR)
  t.eq(u.read(IIR), 0x04, "then received data")
  u.read(RBR)
  t.eq(u.read(IIR), 0x02, "then the transmitter")
  t.eq(u.read(IIR), 0x00, "then the modem")
  u.read(MSR)
  t.eq(u.read(IIR), 0x01)
end)

both("in loopback the modem outputs come back as inputs", function(t, new)
  local u = new()
  u.write(MCR, 0x10)
  u.read(MSR)
  t.eq(u.read(MSR), 0x00)
  for mcr, msr in pairs { [0x01] = 0x22, [0x02] = 0x11, [0x08] = 0x88 } do
    u.write(MCR, 0x10 | mcr)
    t.eq(u.read(MSR), msr, ("MCR 0x%02x"):format(mcr))
    t.eq(u.read(MSR), msr & 0xf0, "deltas are told once")
    u.write(MCR, 0x10)
    t.eq(u.read(MSR), msr & 0x0f, "the end is a change too")
  end
end)

both("of the ring indicator only the end is noted", function(t, new)
  local u = new()
  u.write(MCR, 0x10)
  u.read(MSR)
  u.write(MCR, 0x14)
  t.eq(u.read(MSR), 0x40)
  u.write(MCR, 0x10)
  t.eq(u.read(MSR), 0x04)
end)

both("a break from outside is a zero with its mark", function(t, new)
  local u = new()
  u.write(IER, 0x04)
  u.chr:send_break()
  t.eq(u.read(IIR), 0x06)
  t.eq(u.read(LSR) & 0x11, 0x11)
  t.eq(u.read(LSR) & 0x10, 0x00, "told once")
  t.eq(u.read(RBR), 0)
  t.eq(u.read(LSR), 0x60)
end)

both("in a FIFO the mark of a break waits for its byte", function(t, new)
  local u = new()
  u.write(FCR, 0x01)
  u.chr:write "a"
  u.chr:send_break()
  t.eq(u.read(LSR) & 0x91, 0x81, "an error is somewhere in the FIFO")
  t.eq(u.read(RBR), 0x61)
  t.eq(u.read(LSR) & 0x11, 0x11)
  t.eq(u.read(RBR), 0)
  t.eq(u.read(LSR), 0x60)
end)

both("a break that is held in loopback comes back, and bytes do not", function(t, new)
  local u = new()
  u.loop()
  u.write(LCR, 0x43)
  t.eq(u.read(LSR) & 0x11, 0x11)
  t.eq(u.read(RBR), 0)
  u.write(THR, 0x41)
  t.eq(u.read(LSR) & 0x01, 0)
  u.write(LCR, 0x03)
  u.write(THR, 0x42)
  t.eq(u.read(RBR), 0x42)
end)

both("two ports on a null-modem cable see each other's lines", function(t, new)
  local ends
  local a = new(function(m)
    ends = table.pack(core.link(m, m))
    return ends[1]
  end)
  local b = new(function() return ends[2] end)
  b.read(MSR)
  a.write(MCR, 0x03)
  -- The cable carries on the main loop, as the two ends belong to different machines.
  local msr = 0
  t.wait_for(function()
    msr = msr | b.read(MSR)
    return msr & 0x33 == 0x33
  end, 10, "DTR and RTS did not arrive as DSR and CTS with their changes")
  a.write(THR, 0x5a)
  t.wait_for(function() return b.read(LSR) & 1 == 1 end, 10, "no byte arrived")
  t.eq(b.read(RBR), 0x5a)
  b.write(THR, 0xa5)
  t.wait_for(function() return a.read(LSR) & 1 == 1 end, 10, "no byte came back")
  t.eq(a.read(RBR), 0xa5)
  a.write(LCR, 0x43)
  t.wait_for(function() return b.read(LSR) & 0x10 == 0x10 end, 10, "no break arrived")
end)

both("wide accesses reach the registers one by one", function(t, new)
  local u = new()
  u.vm.io:write_u16(BASE + 3, 0x0b03) -- LCR and MCR
  t.eq(u.read(LCR), 0x03)
  t.eq(u.read(MCR), 0x0b)
  t.eq(u.vm.io:read_u16(BASE + 3), 0x0b03)
end)

both("LSR and MSR cannot be written", function(t, new)
  local u = new()
  local lsr, msr = u.read(LSR), u.read(MSR)
  u.write(LSR, 0xff)
  u.write(MSR, 0xff)
  t.eq(u.read(LSR), lsr)
  t.eq(u.read(MSR), msr & 0xf0)
end)

both("the state survives a snapshot in the middle of a transfer", function(t, new)
  local u = new()
  u.loop(0xc1)
  u.write(LCR, 0x83)
  u.write(0, 0x03)
  u.write(LCR, 0x03)
  u.write(IER, 0x05)
  u.write(SCR, 0x77)
  for i = 1, 5 do u.write(THR, i) end
  local snapshot = u.vm:snapshot()
  local function look()
    local seen = { u.read(IER), u.read(LCR), u.read(MCR), u.read(SCR), u.read(LSR) }
    for _ = 1, 5 do seen[#seen + 1] = u.read(RBR) end
    seen[#seen + 1] = u.read(LSR)
    u.write(LCR, 0x83)
    seen[#seen + 1] = u.read(0)
    u.write(LCR, 0x03)
    return seen
  end
  local before = look()
  u.write(SCR, 0)
  u.write(FCR, 0)
  u.write(MCR, 0)
  u.vm:restore(snapshot)
  t.eq(look(), before)
end)

both("a snapshot restores the level of the line", function(t, new)
  local u = new()
  u.write(MCR, 0x08)
  u.write(IER, 0x01)
  u.chr:write "A"
  t.eq(u.line(), 1)
  local snapshot = u.vm:snapshot()
  u.read(RBR)
  t.eq(u.line(), 0)
  u.vm:restore(snapshot)
  t.eq(u.line(), 1)
  t.eq(u.read(RBR), 0x41)
  t.eq(u.line(), 0)
end)

both("random accesses by a guest break nothing", function(t, new)
  local u = new()
  math.randomseed(16550)
  for _ = 1, 20000 do
    local reg = math.random(0, 7)
    if math.random(2) == 1 then u.write(reg, math.random(0, 255)) else u.read(reg) end
    if math.random(50) == 1 then u.chr:write(string.char(math.random(0, 255))) end
  end
  t.eq(u.vm.status ~= "error", true)
  u.vm:reset()
  t.eq({ u.read(IIR), u.read(LCR), u.read(LSR) & 0x60 }, { 1, 0, 0x60 })
end)

test("both devices answer the same to the same random accesses", function(t)
  local a, b = make(t, "isa-serial"), make(t, "lua-16550")
  math.randomseed(42)
  local history = {}
  for n = 1, 5000 do
    local reg, value, kind = math.random(0, 7), math.random(0, 255), math.random(10)
    if kind <= 5 then
      history[#history + 1] = ("write %d 0x%02x"):format(reg, value)
      a.write(reg, value)
      b.write(reg, value)
    elseif kind == 6 then
      a.chr:write(string.char(value))
      b.chr:write(string.char(value))
      history[#history + 1] = ("receive 0x%02x"):format(value)
    else
      local x, y = a.read(reg), b.read(reg)
      history[#history + 1] = ("read %d"):format(reg)
      if x ~= y or a.line() ~= b.line() then
        for i = math.max(1, #history - 20), #history do t.log(history[i]) end
        t.fail("after %d accesses register %d is 0x%02x in C and 0x%02x in Lua, the lines are %d and %d", n, reg, x, y, a.line(),
          b.line())
      end
    end
  end
  t.ok(api.is_object(a.vm))
end)

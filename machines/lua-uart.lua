--[[
A complete 16550A serial port in Lua, and a board that has it: how a device is written against the script interface.
It passes the same register tests as the one in C (tests/functional/serial_registers.lua runs over both).

Data sheet: National Semiconductor PC16550D, "Universal Asynchronous Receiver/Transmitter with FIFOs", section 8.

    offset   read                 write                with LCR bit 7 (DLAB)
    0        RBR received byte    THR byte to send     divisor, low byte
    1        IER interrupts       IER                  divisor, high byte
    2        IIR which interrupt  FCR FIFO control
    3        LCR line control     LCR
    4        MCR modem control    MCR
    5        LSR line status
    6        MSR modem status
    7        SCR scratch          SCR

A device is a type: properties say what a board may choose, state is what a snapshot saves, and realize, reset and
post_load are the moments of its life. All of its registers live in declared state (`dev.ier` reads and writes it),
so that saving and restoring need not a line more. What is no state, as the chardev's end, is kept in `dev.data`.

Not emulated: RXRDY and TXRDY, OUT1, the time that a byte takes on the line (it arrives at once).
]]
local machine = require "vmlua.machine"
local qom = require "vmlua.qom"

-- Interrupt enable, interrupt identification (in order of priority), and what the other registers' bits are called.
local IER_RX, IER_TX, IER_LINE, IER_MODEM = 0x01, 0x02, 0x04, 0x08
local IIR_LINE, IIR_TIMEOUT, IIR_RX, IIR_TX, IIR_MODEM, IIR_NONE = 0x06, 0x0c, 0x04, 0x02, 0x00, 0x01
local IIR_FIFOS = 0xc0
local FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX, FCR_KEPT = 0x01, 0x02, 0x04, 0xc9
local LCR_BREAK, LCR_DLAB = 0x40, 0x80
local MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
local LSR_READY, LSR_OVERRUN, LSR_PARITY, LSR_FRAMING, LSR_BREAK = 0x01, 0x02, 0x04, 0x08, 0x10
local LSR_TX_EMPTY, LSR_FIFO_ERROR = 0x60, 0x80
local LSR_ERRORS = 0x1e
local MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
local MSR_LINES, MSR_DELTAS, MSR_TERI = 0xf0, 0x0f, 0x04
local TRIGGER = { [0] = 1, 4, 8, 14 }
local FIFO_SIZE = 16

local function fifos(dev) return dev.fcr & FCR_ENABLE ~= 0 end
local function loopback(dev) return dev.mcr & MCR_LOOP ~= 0 end
local function room(dev) return (fifos(dev) and FIFO_SIZE or 1) - dev.rx_count end

-- ---- interrupts -----------------------------------------------------------------------------------

-- The most urgent of what is pending and enabled: what IIR shows.
local function pending(dev)
  local ier = dev.ier
  if ier & IER_LINE ~= 0 and dev.lsr & LSR_ERRORS ~= 0 then return IIR_LINE end
  if ier & IER_RX ~= 0 then
    if dev.timeout then return IIR_TIMEOUT end
    if dev.rx_count >= (fifos(dev) and TRIGGER[dev.fcr >> 6] or 1) then return IIR_RX end
  end
  if ier & IER_TX ~= 0 and dev.tx_asks then return IIR_TX end
  if ier & IER_MODEM ~= 0 and dev.msr & MSR_DELTAS ~= 0 then return IIR_MODEM end
  return IIR_NONE
end

-- A PC lets the interrupt out only while the guest drives OUT2; loopback forces that pin off.
local function update_line(dev)
  local level = pending(dev) ~= IIR_NONE and dev.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
  if level ~= dev.level then
    dev.level = level
    dev.data.intr:set(level)
  end
end

-- ---- receiver -----------------------------------------------------------------------------------------

-- Bytes that stay below the trigger level are told after four character times of silence.
local function restart_timeout(dev)
  local timer = dev.data.timer
  if not fifos(dev) or dev.rx_count == 0 then
    dev.timeout = false
    timer:cancel()
  elseif not dev.timeout then
    local bits = 1 + 5 + (dev.lcr & 3) + (dev.lcr >> 3 & 1) + 1 + (dev.lcr >> 2 & 1)
    timer:after(4 * bits * math.max(dev.divisor, 1) * 1000000000 // dev.baudbase)
  end
end

local function push(dev, byte, errors)
  local n = dev.rx_count
  if room(dev) > 0 then
    dev.rx[n + 1], dev.rx_errors[n + 1] = byte, errors
    dev.rx_count = n + 1
    if errors ~= 0 and fifos(dev) then dev.lsr = dev.lsr | LSR_FIFO_ERROR end
    if n == 0 then dev.lsr = dev.lsr | errors end -- errors show when their byte is the next to be read
  else
    dev.lsr = dev.lsr | LSR_OVERRUN
    if not fifos(dev) then -- without FIFOs the newcomer replaces the old byte, with them it is lost
      dev.rx[1], dev.rx_errors[1] = byte, errors
      dev.lsr = dev.lsr | errors
    end
  end
  restart_timeout(dev)
end

local function pop(dev)
  local n = dev.rx_count
  if n == 0 then return dev.rbr end
  local rx, errors = dev.rx, dev.rx_errors
  dev.rbr = rx[1]
  for i = 1, n - 1 do rx[i], errors[i] = rx[i + 1], errors[i + 1] end
  dev.rx_count = n - 1
  if n > 1 then dev.lsr = dev.lsr | errors[1] end
  dev.timeout = false
  restart_timeout(dev)
  update_line(dev)
  if dev.data.front then dev.data.front:accept_input() end
  return dev.rbr
end

-- A line that is low for a whole frame: a zero without a stop bit, and of the wrong parity where that would be a one.
local function receive_break(dev)
  push(dev, 0, LSR_BREAK | LSR_FRAMING | (dev.lcr & 0x18 == 0x08 and LSR_PARITY or 0))
  update_line(dev)
end

-- While the guest holds its line low, either the outside sees a break or, in loopback, its own receiver.
local function update_break(dev, old_lcr, old_mcr)
  local was, is = old_lcr & LCR_BREAK ~= 0, dev.lcr & LCR_BREAK ~= 0
  local was_loop, is_loop = old_mcr & MCR_LOOP ~= 0, loopback(dev)
  local before, now = was and not was_loop, is and not is_loop
  if before ~= now and dev.data.front then dev.data.front:send_break(now) end
  if is and is_loop and not (was and was_loop) then receive_break(dev) end
end

local function clear_rx(dev)
  dev.rx_count = 0
  dev.lsr = dev.lsr & ~LSR_FIFO_ERROR
  dev.timeout = false
  restart_timeout(dev)
end

-- ---- modem lines -----------------------------------------------------------------------------------------

-- In loopback the four outputs come back as the four inputs.
local function modem_inputs(dev)
  local mcr, cts, dsr, ri, dcd = dev.mcr, false, false, false, false
  if loopback(dev) then
    cts, dsr, ri, dcd = mcr & MCR_RTS ~= 0, mcr & MCR_DTR ~= 0, mcr & MCR_OUT1 ~= 0, mcr & MCR_OUT2 ~= 0
  elseif dev.data.front then
    cts, dsr, ri, dcd = dev.data.front:modem()
  end
  return (cts and MSR_CTS or 0) | (dsr and MSR_DSR or 0) | (ri and MSR_RI or 0) | (dcd and MSR_DCD or 0)
end

-- The low half of MSR notes changes; of RI only that it ended.
local function update_modem(dev)
  local now = modem_inputs(dev)
  local changed = ((dev.msr ~ now) & MSR_LINES) >> 4
  if now & MSR_RI ~= 0 then changed = changed & ~MSR_TERI end
  dev.msr = now | dev.msr & MSR_DELTAS | changed
end

local function drive_modem(dev)
  if dev.data.front then
    local out = loopback(dev) and 0 or dev.mcr
    dev.data.front:set_modem(out & MCR_DTR ~= 0, out & MCR_RTS ~= 0)
  end
end

-- ---- registers -----------------------------------------------------------------------------------------------

local function update_params(dev)
  if not dev.data.front or dev.divisor == 0 then return end
  local lcr = dev.lcr
  local parity = lcr & 0x08 == 0 and "N" or (lcr & 0x20 ~= 0 and (lcr & 0x10 ~= 0 and "S" or "M"))
    or (lcr & 0x10 ~= 0 and "E" or "O")
  dev.data.front:set_params {
    baud = math.max(1, dev.baudbase // dev.divisor), data_bits = 5 + (lcr & 3), stop_bits = lcr & 4 ~= 0 and 2 or 1, parity = parity,
  }
end

local function set_divisor(dev, divisor)
  dev.divisor = divisor
  update_params(dev)
end

local read, write = {}, {}

read[0] = pop

write[0] = function(dev, value)
  local heard = dev.lcr & LCR_BREAK == 0 -- while the line is held low nobody sees a byte
  if heard and loopback(dev) then
    push(dev, value, 0)
  elseif heard and dev.data.front then
    dev.data.front:write(string.char(value))
  end
  dev.tx_asks = true -- sent at once, so that the transmitter asks for more
end

read[1] = function(dev) return dev.ier end

write[1] = function(dev, value)
  local risen = ~dev.ier & value
  dev.ier = value & 0x0f
  if risen & IER_TX ~= 0 then dev.tx_asks = true end
end

read[2] = function(dev)
  local id = pending(dev)
  if id == IIR_TX then
    dev.tx_asks = false -- that it asks is told once
    update_line(dev)
  end
  return id | (fifos(dev) and IIR_FIFOS or 0)
end

write[2] = function(dev, value)
  local toggled = (dev.fcr ~ value) & FCR_ENABLE ~= 0
  if value & FCR_ENABLE == 0 then value = 0 end -- the other bits count only together with this one
  dev.fcr = value & FCR_KEPT
  if toggled or value & FCR_CLEAR_RX ~= 0 then clear_rx(dev) end
  if toggled or value & FCR_CLEAR_TX ~= 0 then dev.tx_asks = true end
  restart_timeout(dev)
  if dev.data.front then dev.data.front:accept_input() end
end

read[3] = function(dev) return dev.lcr end

write[3] = function(dev, value)
  local old = dev.lcr
  dev.lcr = value
  if (old ~ value) & ~(LCR_DLAB | LCR_BREAK) ~= 0 then update_params(dev) end
  update_break(dev, old, dev.mcr)
end

read[4] = function(dev) return dev.mcr end

write[4] = function(dev, value)
  local old = dev.mcr
  dev.mcr = value & 0x1f
  drive_modem(dev)
  update_modem(dev)
  update_break(dev, dev.lcr, old)
  if old & MCR_LOOP ~= 0 and not loopback(dev) and dev.data.front then dev.data.front:accept_input() end
end

read[5] = function(dev)
  local value = dev.lsr | LSR_TX_EMPTY | (dev.rx_count > 0 and LSR_READY or 0)
  dev.lsr = 0 -- errors are told once
  if dev.rx_count > 0 then
    dev.rx_errors[1] = 0
    if fifos(dev) then
      for i = 2, dev.rx_count do
        if dev.rx_errors[i] ~= 0 then dev.lsr = LSR_FIFO_ERROR end
      end
    end
  end
  update_line(dev)
  return value
end

write[5] = function(dev, value) dev:log("guest", ("write of 0x%02x to LSR, which is read-only"):format(value)) end

read[6] = function(dev)
  local value = dev.msr
  dev.msr = value & MSR_LINES
  update_line(dev)
  return value
end

write[6] = function(dev, value) dev:log("guest", ("write of 0x%02x to MSR, which is read-only"):format(value)) end

read[7] = function(dev) return dev.scr end

write[7] = function(dev, value) dev.scr = value end

local handlers = {
  sizes = { 1, 2, 4 }, impl = { 1 }, unaligned = true, name = "lua-16550",
  read = function(dev, offset)
    if dev.lcr & LCR_DLAB ~= 0 and offset < 2 then return dev.divisor >> offset * 8 & 0xff end
    return read[offset](dev)
  end,
  write = function(dev, offset, _, value)
    if dev.lcr & LCR_DLAB ~= 0 and offset == 0 then
      set_divisor(dev, dev.divisor & 0xff00 | value)
    elseif dev.lcr & LCR_DLAB ~= 0 and offset == 1 then
      set_divisor(dev, dev.divisor & 0x00ff | value << 8)
    else
      write[offset](dev, value)
      update_line(dev)
    end
  end,
}

-- ---- the type --------------------------------------------------------------------------------------------------

-- A script may be run again in the same process; a type is there once.
if not qom.class "lua-16550" then
  qom.type {
    name = "lua-16550", parent = "isa-device",
    doc = "A 16550A serial port written in Lua",
    properties = {
      iobase = { "uint32", default = 0x3f8, doc = "first of its eight I/O ports" },
      line = { "int32", default = 4, doc = "GSI that its interrupt goes to; -1: none" },
      chardev = { "link", type = "chardev", doc = "what it is connected to" },
      baudbase = { "uint32", default = 115200, doc = "the speed of divisor 1" },
    },
    state = {
      divisor = "uint16", rbr = "uint8", ier = "uint8", fcr = "uint8", lcr = "uint8", mcr = "uint8", lsr = "uint8", msr = "uint8",
      scr = "uint8", rx = "uint8[16]", rx_errors = "uint8[16]", rx_count = "uint8", tx_asks = "bool", timeout = "bool", level = "bool",
    },
    realize = function(dev)
      local data = dev.data
      data.intr = dev:irq_out "intr"
      if dev.line >= 0 then dev:connect("intr", 0, dev.line) end
      data.timer = dev:timer(function()
        if fifos(dev) and dev.rx_count > 0 then
          dev.timeout = true
          update_line(dev)
        end
      end)
      if dev.chardev then
        data.front = dev:front(dev.chardev, {
          room = function() return loopback(dev) and 0 or room(dev) end,
          receive = function(_, bytes)
            for i = 1, #bytes do push(dev, bytes:byte(i), 0) end
            update_line(dev)
          end,
          event = function(_, what)
            if what == "break" then return receive_break(dev) end
            if not loopback(dev) then update_modem(dev) end
            update_line(dev)
          end,
        })
      end
      dev:pio(dev.iobase, 8, handlers)
    end,
    unrealize = function(dev)
      if dev.data.front then dev.data.front:detach() end
    end,
    reset = function(dev)
      local held = dev.lcr & LCR_BREAK ~= 0 and not loopback(dev)
      dev.rbr, dev.ier, dev.fcr, dev.lcr, dev.mcr, dev.scr, dev.lsr = 0, 0, 0, 0, 0, 0, 0
      dev.divisor = 12 -- 9600 baud; the data sheet leaves it open
      dev.tx_asks = false
      if held and dev.data.front then dev.data.front:send_break(false) end
      clear_rx(dev)
      drive_modem(dev)
      dev.msr = modem_inputs(dev)
      update_params(dev)
      update_line(dev)
      if dev.data.front then dev.data.front:accept_input() end
    end,
    -- What a stream says is checked before it is used, and the outside is told again.
    post_load = function(dev)
      if dev.rx_count > (fifos(dev) and FIFO_SIZE or 1) then return nil, "more bytes received than there is room for" end
      dev.data.intr:set(dev.level)
      update_params(dev)
      drive_modem(dev)
    end,
  }
end

local guest = "\xbe\x14\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\x30\xc0\xe6\xf4\xf4\x90" -- as in hello.lua
  .. "Hello through a UART that is written in Lua.\r\n\0"

return machine.define {
  name = "lua-uart", doc = "Prints a line through a serial port written in Lua", ram = "1M",
  init = function(m)
    m.memory:add(0, m.ram)
    m:device("lua-16550", { iobase = 0x3f8, line = 4, chardev = m:serial(0) })
    m:place(0x7c00, guest)
    m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    m:pio { port = 0xf4, write = true }:on(function(_, x)
      m:shutdown("the guest is done", x.value)
      return true
    end)
  end,
}

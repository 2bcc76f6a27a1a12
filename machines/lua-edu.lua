--[[
A PCI device in Lua, and the Standard PC with it: how a device with BARs, interrupts and DMA is written against the
script interface. Its registers are those of the educational device that kernel courses write their first driver for
(PCI ID 1234:11e8, "edu"), so such a driver runs here.

    vmlua lua-edu.lua -hda disk.img            a PC whose slot 5 has the device

    BAR 0, 1 MiB   read                          write
    0x00           0x010000ed: version, "ed"
    0x04           what was written, inverted    a value to invert
    0x08           the factorial                 a number: its factorial is worked out, which takes time
    0x20           bit 0: working; bit 7         bit 7: interrupt when the factorial is there
    0x24           pending interrupts
    0x60                                         raises these interrupts
    0x64                                         takes these back
    0x80, 0x88     DMA: source, destination (8 bytes each); one of them lies in the buffer at 0x40000
    0x90           DMA: number of bytes
    0x98           DMA: bit 0 goes from 1 to 0   bit 0: start; bit 1: from the buffer to memory; bit 2: interrupt at the end

Registers below 0x80 take accesses of 4 bytes, the others of 4 or 8. An interrupt is a message where the guest has
switched on MSI, else pin A is held until nothing is pending. The factorial is that modulo 2^32.
]]
local machine = require "vmlua.machine"
local qom = require "vmlua.qom"

local ID = 0x010000ed
local BUFFER, BUFFER_SIZE = 0x40000, 4096
local STATUS_WORKING, STATUS_IRQ = 0x01, 0x80
local IRQ_FACTORIAL, IRQ_DMA = 0x01, 0x100
local DMA_RUN, DMA_TO_MEMORY, DMA_IRQ = 1, 2, 4
local FACTORIAL_NS, DMA_NS = 1000000, 100000

local function update_irq(dev)
  if not dev.msi_enabled then dev:set_irq(dev.pending ~= 0) end
end

local function raise(dev, bits)
  dev.pending = dev.pending | bits
  if dev.pending ~= 0 and not dev:notify(0) then update_irq(dev) end
end

local function work_out(dev)
  local product = 1
  -- Beyond 34 the factorial has 32 factors of 2: no guest makes us count further than that.
  for n = 2, math.min(dev.number, 34) do product = product * n & 0xffffffff end
  dev.number, dev.working = product, false
  if dev.irq_wanted then raise(dev, IRQ_FACTORIAL) end
end

-- Where in the buffer a transfer begins; nil: not all of it is there.
local function in_buffer(dev, addr)
  local at = addr - BUFFER
  if math.ult(at, BUFFER_SIZE) and not math.ult(BUFFER_SIZE - at, dev.dma_count) then return at end
  dev:log("guest", ("DMA of %u bytes at %#x: outside of the buffer"):format(dev.dma_count, addr))
end

local function transfer(dev)
  local out = dev.dma_command & DMA_TO_MEMORY ~= 0
  local at = in_buffer(dev, out and dev.dma_source or dev.dma_target)
  if at then
    local done, why
    if out then
      done, why = dev.dma:write(dev.dma_target, dev.buffer:sub(at + 1, at + dev.dma_count))
    else
      done, why = dev.dma:read(dev.dma_source, dev.dma_count)
      if done then dev.buffer = dev.buffer:sub(1, at) .. done .. dev.buffer:sub(at + #done + 1) end
    end
    if not done then dev:log("guest", why) end
  end
  dev.dma_command = dev.dma_command & ~DMA_RUN
  if dev.dma_command & DMA_IRQ ~= 0 then raise(dev, IRQ_DMA) end
end

local dma_register = { [0x80] = "dma_source", [0x88] = "dma_target", [0x90] = "dma_count" }

local function read(dev, off, size)
  if off < 0x80 then
    if off == 0x00 then return ID end
    if off == 0x04 then return ~dev.check & 0xffffffff end
    if off == 0x08 then return dev.number end
    if off == 0x20 then return (dev.working and STATUS_WORKING or 0) | (dev.irq_wanted and STATUS_IRQ or 0) end
    if off == 0x24 then return dev.pending end
    return nil
  end
  if off >= BUFFER and off - BUFFER < BUFFER_SIZE then
    return (string.unpack("<I" .. size, dev.buffer, off - BUFFER + 1))
  end
  local value = off & ~7 == 0x98 and dev.dma_command or dma_register[off & ~7] and dev[dma_register[off & ~7]]
  if not value then return nil end
  if size == 8 then return value end
  return value >> (off & 4) * 8 & 0xffffffff
end

local function write_dma(dev, off, size, value)
  if dev.dma_command & DMA_RUN ~= 0 then
    return dev:log("guest", "its DMA registers are written while it transfers")
  end
  if off == 0x98 then
    dev.dma_command = value & 7
    if value & DMA_RUN ~= 0 then dev.data.dma_timer:after(DMA_NS) end
    return
  end
  local name = dma_register[off & ~7]
  if not name then return dev:log("guest", ("a write of %#x"):format(off)) end
  if size == 4 then
    local shift = (off & 4) * 8
    value = dev[name] & ~(0xffffffff << shift) | value << shift
  end
  dev[name] = value
end

local function write(dev, off, size, value)
  if off >= BUFFER and off - BUFFER < BUFFER_SIZE then
    local at = off - BUFFER
    dev.buffer = dev.buffer:sub(1, at) .. string.pack("<I" .. size, value & (size < 8 and (1 << 8 * size) - 1 or -1))
      .. dev.buffer:sub(at + size + 1)
  elseif off >= 0x80 then
    write_dma(dev, off, size, value)
  elseif off == 0x04 then
    dev.check = value
  elseif off == 0x08 and not dev.working then
    dev.number, dev.working = value, true
    dev.data.timer:after(FACTORIAL_NS)
  elseif off == 0x20 then
    dev.irq_wanted = value & STATUS_IRQ ~= 0
  elseif off == 0x60 then
    raise(dev, value)
  elseif off == 0x64 then
    dev.pending = dev.pending & ~value
    update_irq(dev)
  end
end

qom.type {
  name = "edu", parent = "pci-device",
  doc = "A device to write a first PCI driver for, in Lua",
  pci = { vendor = 0x1234, device = 0x11e8, revision = 0x10, class = 0x00ff00, pin = "A" },
  state = {
    check = "uint32", number = "uint32", working = "bool", irq_wanted = "bool", pending = "uint32",
    dma_source = "uint64", dma_target = "uint64", dma_count = "uint64", dma_command = "uint8", buffer = "bytes:4096",
  },
  realize = function(dev)
    dev:bar(0, "memory", "1M", { name = "registers", sizes = { 4, 8 }, read = read, write = write })
    dev:use_msi()
    dev.data.timer = dev:timer(work_out)
    dev.data.dma_timer = dev:timer(transfer)
  end,
  reset = function(dev)
    dev.check, dev.number, dev.working, dev.irq_wanted, dev.pending = 0, 0, false, false, 0
    dev.dma_source, dev.dma_target, dev.dma_count, dev.dma_command = 0, 0, 0, 0
    dev.buffer = ("\0"):rep(BUFFER_SIZE)
    dev.data.timer:cancel()
    dev.data.dma_timer:cancel()
  end,
  -- What a stream says is checked before it is used.
  post_load = function(dev)
    if dev.dma_command > 7 then error("a DMA command that no guest can give") end
  end,
}

return machine.find "pc":extend {
  name = "lua-edu", doc = "The Standard PC with a PCI device written in Lua",
  init = function(m) m:device("edu", { id = "edu", addr = "5.0" }) end, -- after the PC's own
}

--[[
A guest that is answered by Lua. The board below is the whole machine; its guest is tests/guests/demo.asm, assembled.

The guest prints over the serial port, takes five interrupts of the timer, and then asks a question by writing it to
port 0x500, where no device is: two hooks in Lua listen there and answer. It ends through isa-debug-exit.
]]
local irqchip = require "vmlua.irqchip"
local machine = require "vmlua.machine"

-- nasm -f bin tests/guests/demo.asm; tests/functional/boards.lua compares the two.
local guest = ([[
  31c08ed88ec08ed0bc007cfcbafb03b080eebaf803b001ee42b000eebafb03b0
  03ee4ab007eebed07ce88700c7068000a37cc70682000000b011e620b020e621
  b004e621b001e621b0fee621b034e643b89c2ee64088e0e640fbf4803ecf7c05
  72f8fab0ffe621be1a7de84600be417de84000be657de83a00be657dba0005ac
  ee84c075fabe7e7de82800ba0005ec84c07405e82800ebf3be967de81500b010
  e6f4f450fe06cf7cb02ee81100b020e62058cfac84c07405e80300ebf6c35250
  bafd03eca82074fb58baf803ee5ac30067756573743a2068656c6c6f2066726f
  6d207265616c206d6f64652c206f7665722074686520554152540d0a67756573
  743a2077616974696e6720666f72207468652074696d657220000d0a67756573
  743a20666976652074696d657220696e74657272757074732074616b656e0d0a
  0067756573743a20492061736b20746865206d616368696e6527732061757468
  6f723a200077686174206973207369782074696d657320736576656e3f000d0a
  67756573743a2074686520616e7377657220697320000d0a67756573743a2062
  79650d0a00
]]):gsub("%s", ""):gsub("..", function(hex) return string.char(tonumber(hex, 16)) end)

local ASK, EXIT_OK = 0x500, 0x10 << 1 | 1

local function say(format, ...) print(("script: " .. format):format(...)) end

-- Answers what the guest asks: "six times seven" in words.
local numbers = { one = 1, two = 2, three = 3, four = 4, five = 5, six = 6, seven = 7, eight = 8, nine = 9, ten = 10 }
local function answer(question)
  local a, b = question:match "is (%a+) times (%a+)"
  if numbers[a] and numbers[b] then return ("%d (said %s)"):format(numbers[a] * numbers[b], _VERSION) end
  return "nobody knows"
end

return machine.define {
  name = "demo", doc = "Prints, takes timer interrupts, and is answered by Lua", ram = "1M", accel = { "kvm", "soft" },
  init = function(m)
    m.memory:add(0, m.ram)
    irqchip.add(m)
    m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
    m:device("isa-debug-exit", { iobase = 0xf4 })
    m:place(0x7c00, guest)
    m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }

    local question, reply, at = {}, nil, 0
    m:pio { port = ASK, write = true }:on(function(_, x)
      if x.value ~= 0 then
        question[#question + 1] = string.char(x.value)
      else
        reply, at = answer(table.concat(question)), 0
        question = {}
      end
      return true
    end)
    m:pio { port = ASK, write = false }:on(function(_, x)
      at = at + 1
      x.value = reply and reply:byte(at) or 0
      return true
    end)

    m:notify(function(status, reason)
      if status ~= "shutdown" then return end
      say("the guest has ended: %s", reason)
      say("%d port accesses came out to us, %d of them to a function in Lua", m.stats.exits.pio or 0, m.stats.script)
      if m.exit_code == EXIT_OK then m.exit_code = 0 end
    end)
    say("%s runs on %s", m.id, m.accel)
  end,
}

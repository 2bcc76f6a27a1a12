-- Two machines in one script: wired, stopped apart, closed in any order, again and again.
local core = require "vmlua.core.chardev"
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local test = require "vmlua.test"

-- A guest that echoes each byte from its serial port, plus one, by polling.
--   next: mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait; mov dl, 0xf8; in al, dx; inc al; out dx, al; jmp next
local ECHO = "\xba\xfd\x03\xec\xa8\x01\x74\xfb\xb2\xf8\xec\xfe\xc0\xee\xeb\xf0"

-- A guest that counts in memory at 0x500 and writes the low byte to port 0x80.
--   xor ax, ax; next: inc ax; mov [0x500], ax; out 0x80, al; jmp next
local COUNT = "\x31\xc0\x40\xa3\x00\x05\xe6\x80\xeb\xf8"

local n = 0
local function make(t, guest, conf)
  n = n + 1
  return t.machine({
    name = ("pair-%d"):format(n), ram = "64K",
    init = function(m)
      m.memory:add(0, m.ram)
      m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = conf and conf.serial or m:serial(0) })
      m:place(0x7c00, guest)
      m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    end,
  })
end

test("two machines talk over a null-modem cable", function(t)
  local a_end, b_end = core.link()
  t.ok(a_end, tostring(b_end))
  local a, b = make(t, ECHO, { serial = a_end }), make(t, ECHO, { serial = b_end })
  local bytes = {}
  b_end:on_data(function(data)
    for c in data:gmatch "." do bytes[#bytes + 1] = c:byte() end
  end, "from-guest")
  a:start()
  b:start()
  -- The first byte is put on the wire by hand; each side answers with one more, so that it counts up for ever.
  a_end:write "\1"
  t.wait_for(function() return #bytes >= 20 end, 20)
  for i = 1, 20 do t.eq(bytes[i], (1 + 2 * i) & 0xff, "byte " .. i) end
end)

test("one machine runs on while the other is paused", function(t)
  local a, b = make(t, COUNT), make(t, COUNT)
  local hits = { 0, 0 }
  a:pio { port = 0x80, write = true }:on(function() hits[1] = hits[1] + 1 end)
  b:pio { port = 0x80, write = true }:on(function() hits[2] = hits[2] + 1 end)
  a:start()
  b:start()
  t.wait_for(function() return hits[1] > 10 and hits[2] > 10 end)
  a:pause()
  t.eq(a.status, "paused")
  t.eq(b.status, "running")
  local stopped, rip = hits[1], a.cpus[1].rip
  local went = hits[2]
  t.wait_for(function() return hits[2] > went + 100 end)
  t.eq(hits[1], stopped)
  t.eq(a.cpus[1].rip, rip)
  local time = a.time
  t.sleep(0.02)
  t.eq(a.time, time, "the paused machine's clock stands")
  a:resume()
  t.wait_for(function() return hits[1] > stopped + 10 end)
end)

test("a callback that both machines share hears from both, with their own CPUs", function(t)
  local a, b = make(t, COUNT), make(t, COUNT)
  local seen = {}
  local function shared(cpu, x)
    seen[cpu.machine.id] = (seen[cpu.machine.id] or 0) + 1
    t.eq(x.addr, 0x80)
  end
  a:pio { port = 0x80, write = true }:on(shared)
  b:pio { port = 0x80, write = true }:on(shared)
  a:start()
  b:start()
  t.wait_for(function() return (seen[a.id] or 0) > 50 and (seen[b.id] or 0) > 50 end)
end)

test("a line of one machine drives a line of the other through a function", function(t)
  local a, b = make(t, COUNT), make(t, COUNT)
  local from, to = a:gsi(5), b:gsi(7)
  a:irq(5):on(function(_, x) to:set(x.value) end)
  from:raise()
  t.eq(to.level, 1)
  from:lower()
  t.eq(to.level, 0)
end)

test("an error in one machine leaves the other alone", function(t)
  local a, b = t.may_fail(make(t, COUNT)), make(t, COUNT)
  local hits = 0
  a:pio { port = 0x80, write = true }:on(function() error "not today" end)
  b:pio { port = 0x80, write = true }:on(function() hits = hits + 1 end)
  b:start()
  a:start()
  t.wait_for(function() return a.status == "error" end)
  t.match(a.reason, "two_machines.lua:%d+: not today")
  local before = hits
  t.wait_for(function() return hits > before + 20 end)
  t.eq(b.status, "running")
end)

test("pairs are made, wired, run and closed in any order, a hundred times", { timeout = 240 }, function(t)
  collectgarbage()
  collectgarbage()
  local memory = {}
  for round = 1, 100 do
    local a_end, b_end = core.link()
    local board = { name = "round", ram = "64K", init = function(m)
      m.memory:add(0, m.ram)
      m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m.conf.name == "first" and a_end or b_end })
      m:place(0x7c00, ECHO)
      m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    end }
    if round == 1 then machine.define(board) end
    -- The class is defined once; its init finds this round's ends.
    local class = machine.find "round"
    rawset(class, "init", board.init)
    local a, b = t.watch(machine.new(class, { name = "first" })), t.watch(machine.new(class, { name = "second" }))
    local got = 0
    b_end:on_data(function(data) got = got + #data end, "from-guest")
    a:start()
    b:start()
    a_end:write "x"
    t.wait_for(function() return got >= 2 end)
    local order = round % 4
    if order == 0 then
      a:close()
      b:close()
    elseif order == 1 then
      b:close()
      a:close()
    elseif order == 2 then
      a:pause()
      b:close()
      a:close()
    else
      a_end:close()
      a:close()
      b:close()
    end
    t.eq(#machine.list(), 0)
    a_end:close()
    b_end:close()
    collectgarbage()
    if round % 25 == 0 then memory[#memory + 1] = loop.rss() end
  end
  -- What a hundred rounds leave is far less than one machine takes.
  t.log(memory)
  if os.getenv "ASAN_OPTIONS" then return end -- its quarantine keeps what was freed; it finds leaks itself
  t.ok(memory[4] - memory[1] < 4 << 20, "memory grew from %d to %d bytes", memory[1], memory[4])
end)

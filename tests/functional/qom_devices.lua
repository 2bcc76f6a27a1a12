-- Devices in Lua: ports, MMIO, lines, timers, DMA, saved state, and what happens when their functions go wrong.
local core = require "vmlua.core.machine"
local qom = require "vmlua.qom"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

require("vmlua.machine").define { name = "device-test", doc = "A machine without accelerator", init = function() end }

local count = 0

-- A machine whose spaces are there and nothing else; and a type of a fresh name.
local function new_machine(t)
  local m = assert(core.new "device-test")
  return t.watch(m)
end

local function define(spec)
  count = count + 1
  spec.name = spec.name or ("test-device-%d"):format(count)
  spec.parent = spec.parent or "device"
  qom.type(spec)
  return spec.name
end

local function realize(m, type_name, id, props)
  local dev = qom.new(type_name, props)
  assert(dev:realize(m, id))
  return dev
end

local function nothing() end

-- A machine that is complete: it has a state to save. Under whatever accelerator there is.
local function complete_machine(t, init)
  t.accel()
  return t.machine { ram = "1M", irqchip = "off", init = init }
end

test("a device in Lua answers its ports", function(t)
  local m = new_machine(t)
  local seen = {}
  local region
  local dev = realize(m, define {
    properties = { port = { "uint16", default = 0x510, doc = "I/O port" } },
    state = { count = "uint64" },
    realize = function(dev)
      region = dev:pio(dev.port, 2, {
        write = function(d, off, size, value)
          t.ok(d == dev)
          d.count = d.count + 1
          seen[#seen + 1] = { off, size, value }
        end,
        read = function(d, off) return d.count + 16 * off end,
      })
    end,
    reset = function(dev) dev.count = 3 end,
  }, "blinker0", { port = 0x520 })
  t.eq({ m.io:read_u8(0x520), m.io:read_u8(0x521), m.io:read_u8(0x522), m.io:read_u8(0x510) }, { 3, 19, 0xff, 0xff })
  m.io:write_u8(0x521, 0xab)
  m.io:write_u16(0x520, 0x1234)
  t.eq(seen, { { 1, 1, 0xab }, { 0, 2, 0x1234 } })
  t.eq({ dev.count, region.hits, region.addr, region.len, region.enabled }, { 5, 4, 0x520, 2, true })
  t.eq({ dev.id, dev.name, dev.realized, dev.path }, { "blinker0", "blinker0", true, m.path .. "/blinker0" })
  t.ok(dev.machine == m)
  dev:reset()
  t.eq(dev.count, 3)
  region:enable(false)
  t.eq(m.io:read_u8(0x520), 0xff)
  region:enable(true)
  region:move(0x600)
  t.eq({ m.io:read_u8(0x520), m.io:read_u8(0x600), region.addr }, { 0xff, 3, 0x600 })
  t.raises("cannot change once the device is realized", function() dev.port = 1 end)
  region:remove()
  t.eq({ m.io:read_u8(0x600), region.gone }, { 0xff, true })
end)

test("access sizes are kept to, split and ordered as asked for", function(t)
  local m = new_machine(t)
  local seen = {}
  local function log(_, off, size, value) seen[#seen + 1] = ("%d/%d=%x"):format(off, size, value) end
  local function taken()
    local s = table.concat(seen, " ")
    seen = {}
    return s
  end
  realize(m, define { realize = function(dev)
    dev:mmio(0x1000, 16, { sizes = { 4 }, read = function(_, off) return 0x11111111 * (off // 4 + 1) end, write = log })
    dev:mmio(0x2000, 16, { sizes = { 1, 2, 4, 8 }, impl = { 1 }, read = function(_, off) return off end, write = log })
    dev:mmio(0x3000, 16, { endian = "big", read = function() return 0x11223344 end, write = log })
    dev:mmio(0x4000, 16, { sizes = { 1, 4 }, read = function() return 0 end, write = log })
    dev:mmio(0x5000, 16, { sizes = 2, unaligned = true, read = function(_, off) return off end, write = log })
  end })
  t.eq(m.memory:read_u32(0x1004), 0x22222222)
  t.eq(m.memory:read_u8(0x1004), 0xff, "a size that is not allowed reads as nothing")
  m.memory:write_u32(0x1008, 0xabcd)
  t.eq(taken(), "8/4=abcd")
  m.memory:write_u8(0x1008, 1)
  t.eq(taken(), "")
  t.eq(m.memory:read_u32(0x2004), 0x07060504)
  m.memory:write_u32(0x2000, 0x44332211)
  t.eq(taken(), "0/1=11 1/1=22 2/1=33 3/1=44")
  t.eq(m.memory:read_u32(0x3000), 0x44332211)
  t.eq(m.memory:read_u16(0x4000), 0xffff)
  t.eq(m.memory:read_u8(0x4000), 0)
  t.eq(m.memory:read_u16(0x5003), 3)
end)

test("read-only and write-only regions, and a read that says nothing", function(t)
  local m = new_machine(t)
  realize(m, define { realize = function(dev)
    dev:pio(0x10, 1, { read = function() return 5 end })
    dev:pio(0x11, 1, { write = nothing })
    dev:pio(0x12, 1, { read = nothing })
    dev:pio(0x13, 1, { read = function() return -2 end })
    dev:pio(0x14, 1, { read = function() return 7.0 end })
  end })
  m.io:write_u8(0x10, 1)
  t.eq({ m.io:read_u8(0x10), m.io:read_u8(0x11), m.io:read_u8(0x12), m.io:read_u8(0x13), m.io:read_u8(0x14) }, { 5, 0xff, 0xff, 0xfe, 7 })
  t.eq(m.status, "building")
end)

test("an error in a handler pauses the machine with name and traceback", function(t)
  local m = new_machine(t)
  t.may_fail(m)
  realize(m, define { realize = function(dev)
    dev:pio(0x10, 1, { name = "regs", read = function() error "broken read" end, write = function() error {} end })
  end }, "bad0")
  t.eq(m.io:read_u8(0x10), 0xff)
  t.eq(m.status, "error")
  t.match(m.reason, "bad0 regs: read handler at [^\n]*qom_devices.lua:%d+: .*broken read\nstack traceback:")
end)

test("an error that is no text pauses the machine too", function(t)
  local m = new_machine(t)
  t.may_fail(m)
  realize(m, define { realize = function(dev) dev:pio(0x10, 1, { write = function() error {} end }) end }, "bad1")
  m.io:write_u8(0x10, 1)
  t.match(m.reason, "bad1 port%-0x10: write handler at .*error object is a table value")
end)

test("a handler that answers with the wrong kind of value is an error", function(t)
  local m = new_machine(t)
  t.may_fail(m)
  realize(m, define { realize = function(dev) dev:pio(0x10, 1, { read = function() return "5" end }) end })
  t.eq(m.io:read_u8(0x10), 0xff)
  t.match(m.reason, "a whole number expected, got a string")
end)

test("a handler may take its own region, or its device, away", function(t)
  local m = new_machine(t)
  local region
  local dev = realize(m, define { realize = function(d)
    region = d:pio(0x10, 1, { read = function() region:remove() collectgarbage() return 1 end })
    d:pio(0x20, 1, { read = function(self) self:remove() collectgarbage() return 2 end })
  end })
  t.eq({ m.io:read_u8(0x10), m.io:read_u8(0x10) }, { 1, 0xff })
  t.eq({ m.io:read_u8(0x20), m.io:read_u8(0x20) }, { 2, 0xff })
  t.ok(dev.gone)
  t.eq(m.status, "building")
end)

test("wrong regions are refused with what is wrong", function(t)
  local m = new_machine(t)
  local dev = realize(m, define {}, "d")
  local ok = { read = nothing }
  t.raises("d:pio%(0xffff, 2%): does not fit the I/O port space", function() dev:pio(0xffff, 2, ok) end)
  t.raises("does not fit", function() dev:pio(0x10, 0, ok) end)
  t.raises("does not fit the memory space", function() dev:mmio(-16, 17, ok) end)
  t.raises("neither a read nor a write", function() dev:pio(0x10, 1, {}) end)
  t.raises("unknown.*raed.*read", function() dev:pio(0x10, 1, { raed = nothing }) end)
  t.raises("read: a function expected, got a number", function() dev:pio(0x10, 1, { read = 5 }) end)
  t.raises("cannot be lockless", function() dev:pio(0x10, 1, { read = nothing, lockless = true }) end)
  t.raises("access sizes are 1, 2, 4 and 8, not 3", function() dev:pio(0x10, 1, { read = nothing, sizes = { 1, 3 } }) end)
  t.raises("impl: a size between", function() dev:pio(0x10, 1, { read = nothing, impl = { 1, 4 } }) end)
  t.raises("no size is left", function() dev:pio(0x10, 1, { read = nothing, sizes = {} }) end)
  t.raises("priority", function() dev:pio(0x10, 1, { read = nothing, priority = 1 }) end)
  t.raises("table expected", function() dev:pio(0x10, 1) end)
  local region = dev:pio(0x10, 4, ok)
  local other = dev:pio(0x20, 4, ok)
  t.raises("port%-0x12.*overlap.*port%-0x10", function() dev:pio(0x12, 1, ok) end)
  t.raises("overlap", function() other:move(0x11) end)
  t.eq({ region.addr, other.addr }, { 0x10, 0x20 })
  t.raises("does not fit", function() other:move(0xffff) end)
  local loose = qom.new(define {})
  t.raises("not realized: do this in realize", function() loose:pio(0x10, 1, ok) end)
  t.raises("realized device", function() loose:timer(nothing) end)
  t.raises("no DMA before it is realized", function() loose.dma:read(0, 1) end)
end)

test("realize that fails leaves nothing behind", function(t)
  local m = new_machine(t)
  local undone = 0
  local name = define { realize = function(dev)
    dev:pio(0x10, 1, { read = function() return 1 end })
    dev:timer(nothing, "realtime"):after(1000000000)
    error "cannot"
  end, unrealize = function() undone = undone + 1 end }
  local dev = qom.new(name)
  t.refuses("cannot", dev.realize, dev, m, "x")
  t.eq({ dev.gone, m.io:read_u8(0x10), undone }, { true, 0xff, 0 })
  t.eq(m:child "x", nil)
  local child = define { parent = name }
  t.refuses("cannot", function() return qom.new(child):realize(m, "x") end)
  realize(m, define {}, "x")
  t.refuses("child 'x' already", function() return qom.new(define {}):realize(m, "x") end)
  local polite = qom.new(define { realize = function() return nil, "no such file" end })
  t.refuses("^no such file$", polite.realize, polite, m)
  t.ok(polite.gone)
  local needy = qom.new(define { properties = { must = { "link", type = "device", required = true } } })
  t.refuses("'must' must be set", needy.realize, needy, m)
end)

test("parents realize and reset first, unrealize last", function(t)
  local m = new_machine(t)
  local ran = {}
  local function note(what) return function() ran[#ran + 1] = what end end
  local function level(parent, n)
    return define { parent = parent, init = note("init" .. n), realize = note("realize" .. n), reset = note("reset" .. n),
      unrealize = note("unrealize" .. n) }
  end
  local dev = realize(m, level(level(level("device", 1), 2), 3))
  t.eq(table.concat(ran, " "), "init1 init2 init3 realize1 realize2 realize3 reset1 reset2 reset3")
  ran = {}
  dev:unrealize()
  t.eq(table.concat(ran, " "), "unrealize3 unrealize2 unrealize1")
  ran = {}
  t.ok(dev:realize(m))
  t.eq(table.concat(ran, " "), "realize1 realize2 realize3 reset1 reset2 reset3")
end)

test("a device of C can be the parent: its own parts stay", function(t)
  local m = new_machine(t)
  local name = define {
    parent = "isa-debug-exit", state = { seen = "uint8" },
    properties = { iobase = { default = 0x501 } },
    realize = function(dev)
      dev:pio(dev.iobase + 16, 1, { read = function(d) return d.seen end, write = function(d, _, _, v) d.seen = v end })
    end,
  }
  local dev = realize(m, name)
  t.eq({ dev.iobase, dev.iosize, m.io:read_u8(0x501), m.io:read_u8(0x511) }, { 0x501, 4, 0, 0 })
  m.io:write_u8(0x511, 9)
  t.eq({ dev.seen, dev.state.seen }, { 9, 9 })
  t.ok(dev:is_a "isa-debug-exit")
  dev:unrealize()
  t.eq({ m.io:read_u8(0x501), m.io:read_u8(0x511) }, { 0xff, 0xff })
end)

test("lines go from output to input, to functions, and back to nothing", function(t)
  local m = new_machine(t)
  local seen = {}
  local sink = realize(m, define { realize = function(dev)
    dev:irq_in("in", 4, function(d, n, level)
      t.ok(d == dev)
      seen[#seen + 1] = ("%d=%d"):format(n, level)
    end)
  end }, "sink")
  local out, list
  local source = realize(m, define { realize = function(dev)
    out = dev:irq_out()
    list = dev:irq_out("many", 3)
  end }, "source")
  local function taken()
    local s = table.concat(seen, " ")
    seen = {}
    return s
  end
  t.eq({ #list, out.connected, out.level }, { 3, false, 0 })
  out:raise()
  source:connect(nil, 0, sink:irq("in", 2))
  source:connect("many", 1, sink:irq("in", 3))
  taken()
  out:set(1)
  out:lower()
  out:pulse()
  list[2]:set(true)
  t.eq(taken(), "2=1 2=0 2=1 2=0 3=1")
  t.eq({ list[2].level, list[2].connected, list[1].connected }, { 1, true, false })
  local wire = {}
  source:connect("many", 2, function(level) wire[#wire + 1] = level end)
  list[3]:pulse()
  t.eq(wire, { 1, 0 })
  source:connect("many", 2, nil)
  list[3]:pulse()
  t.eq(#wire, 2)
  t.eq(source:lines(), { { input = false, count = 1 }, { name = "many", input = false, count = 3 } })
  t.raises("no input line 'on'; did you mean 'in'", function() sink:irq("on") end)
  t.raises("numbers 0 to 3, not 4", function() sink:irq("in", 4) end)
  t.raises("numbers 0 to 2, not 3", function() source:connect("many", 3, nothing) end)
  t.raises("an output line 'many' already", function() source:irq_out("many") end)
  t.raises("vmlua.irq expected", function() source:connect("many", 0, {}) end)
  t.raises("function expected", function() sink:irq_in("x", 1, 5) end)
  sink:remove()
  out:raise()
  t.eq(taken(), "")
  source:remove()
  t.raises("source: is gone", function() out:raise() end)
end)

test("an error in a line's function pauses the machine", function(t)
  local m = new_machine(t)
  t.may_fail(m)
  local dev = realize(m, define { realize = function(d) d:irq_in(nil, 1, function() error "bad line" end) end }, "lines")
  dev:irq():raise()
  t.match(m.reason, "lines: input line '' at .*bad line")
end)

test("timers fire once an arming, and not when cancelled or gone", function(t)
  local m = new_machine(t)
  local fired = {}
  local one, two
  local dev = realize(m, define { realize = function(d)
    one = d:timer(function(self, timer)
      t.ok(self == d and timer == one)
      fired[#fired + 1] = "one"
      if #fired < 3 then timer:after(1000) end
    end, "realtime")
    two = d:timer(function() fired[#fired + 1] = "two" end, "realtime")
  end }, "timed")
  t.eq(one.expires, nil)
  two:after(1000)
  two:cancel()
  t.eq(two.expires, nil)
  one:arm(one.now)
  t.ok(one.expires)
  local deadline = os.time() + 20
  while #fired < 3 and os.time() < deadline do sched.sleep(0.001) end
  t.eq(fired, { "one", "one", "one" })
  t.eq(one.expires, nil)
  one:after(0)
  dev:remove()
  sched.sleep(0.005)
  t.eq(#fired, 3)
  t.raises("is gone", function() one:after(1) end)
  t.raises("from 0, expected", function() realize(m, define {}):timer(nothing):after(-1) end)
  t.raises("invalid option 'wall'", function() realize(m, define {}):timer(nothing, "wall") end)
end)

test("an error in a timer pauses the machine", function(t)
  local m = new_machine(t)
  t.may_fail(m)
  realize(m, define { realize = function(d) d:timer(function() error "tick" end, "realtime"):after(0) end }, "ticker")
  local deadline = os.time() + 20
  while m.status ~= "error" and os.time() < deadline do sched.sleep(0.001) end
  t.match(m.reason, "ticker: timer at .*tick")
end)

test("DMA reaches RAM and says where it does not", function(t)
  local m = new_machine(t)
  m.memory:add(0x10000, m:region { size = 0x2000, name = "ram" })
  local dev = realize(m, define {}, "master")
  t.ok(dev.dma:write(0x10ffe, "abcd"))
  t.eq({ dev.dma:read(0x10ffe, 4), m.memory:read(0x10ffe, 4), dev.dma:read(0x10000, 0) }, { "abcd", "abcd", "" })
  t.ok(dev.dma:write_u32(0x10000, 0x11223344))
  t.eq({ dev.dma:read_u8(0x10000), dev.dma:read_u16(0x10000), dev.dma:read_u32(0x10000) }, { 0x44, 0x3344, 0x11223344 })
  t.ok(dev.dma:write_u64("64K", -1))
  t.eq(dev.dma:read_u64(0x10000), -1)
  t.refuses("master: DMA read of 4 bytes at .*nothing answers", function() return dev.dma:read(0x20000, 4) end)
  t.refuses("DMA write", function() return dev.dma:write(0x11fff, "ab") end)
  t.raises("length", function() dev.dma:read(0, -1) end)
  t.raises("string expected", function() dev.dma:write(0, {}) end)
end)

test("declared state and timers are saved and loaded with the machine", function(t)
  local calls = {}
  local timer
  local base = define {
    state = { count = "uint64", fifo = "uint8[4]", on = "bool", blob = "bytes:3" },
    realize = function(d)
      timer = d:timer(nothing)
      d:timer(nothing, "realtime")
    end,
    pre_save = function(d) calls[#calls + 1] = "save " .. d.count end,
    post_load = function(d, version) calls[#calls + 1] = ("load %d v%d"):format(d.count, version) end,
  }
  local name = define { parent = base, version = 4, state = { leaf = "int16" } }
  local dev
  local m = complete_machine(t, function(m) dev = m:device(name) end)
  dev.count, dev.fifo, dev.on, dev.blob, dev.leaf = 77, { 1, 2, 3, 4 }, true, "xyz", -5
  timer:arm(123456)
  local saved = m:save_devices()
  dev.count, dev.fifo, dev.on, dev.blob, dev.leaf = 0, {}, false, "", 0
  timer:cancel()
  t.ok(m:load_devices(saved))
  -- What is there is saved first, to go back to if the loading fails.
  t.eq(calls, { "save 77", "save 0", "load 77 v4" })
  t.eq({ dev.count, dev.fifo[4], dev.on, dev.blob, dev.leaf, timer.expires }, { 77, 4, true, "xyz", -5, 123456 })
end)

test("a state that post_load refuses is refused with its message", function(t)
  local name = define {
    state = { level = "uint8" },
    post_load = function(d) if d.level > 3 then error("level " .. d.level .. " is too high", 0) end end,
  }
  local dev
  local m = complete_machine(t, function(m) dev = m:device(name) end)
  t.may_fail(m)
  dev.level = 9
  local saved = m:save_devices()
  dev.level = 1
  t.refuses("level 9 is too high", m.load_devices, m, saved)
end)

test("the state of a device of C can be read and written by name", function(t)
  local m = new_machine(t)
  local uart = realize(m, "isa-serial", "com", { iobase = 0x3f8, irq = 4 })
  m.io:write_u8(0x3ff, 0x5a)
  local found
  for path, value in pairs(uart.state) do
    if value == 0x5a then found = path end
    if type(value) == "userdata" then
      for k, v in pairs(value) do if v == 0x5a then found = { path, k } end end
    end
  end
  t.ok(found, "the scratch register is among the state")
end)

test("an error in reset pauses the machine", function(t)
  local m = new_machine(t)
  t.may_fail(m)
  realize(m, define { reset = function() error "no reset" end })
  t.eq(m.status, "error")
  t.match(m.reason, "%.reset at .*no reset")
end)

test("a failing init is told by realize when C made the object", function(t)
  local m = new_machine(t)
  local name = define { init = function() error "half made" end }
  t.raises("half made", qom.new, name)
  t.raises("half made", function() m:device(name) end)
end)

test("the engine makes objects of a script's type as any other", function(t)
  local made = {}
  qom.type {
    name = "made-by-c", parent = "device-test", state = { level = "uint8" },
    properties = { color = { "enum", words = { "red", "blue" }, default = "blue" } },
    init = function(o) o.level = 7 made[#made + 1] = o end,
    methods = { describe = function(o) return o.color .. o.level end },
  }
  local m = t.watch(assert(core.new("made-by-c", "by-c")))
  t.ok(made[1] == m)
  t.eq({ m:describe(), m.type, m.level, m.status }, { "blue7", "made-by-c", 7, "building" })
  t.raises("cannot be removed by a script", function() m:remove() end)
end)

test("log lines carry the device's name, and a wrong mask is named", function(t)
  local m = new_machine(t)
  local dev = realize(m, define {}, "chatty")
  dev:log("guest", "quiet unless asked for")
  t.raises("guset", function() dev:log("guset", "x") end)
  t.raises("string expected", function() dev:log(nil) end)
end)

test("what scripts gave a machine's devices is freed with the machine", function(t)
  local weak = setmetatable({}, { __mode = "v" })
  local name = define { realize = function(dev)
    local held = {}
    weak[#weak + 1] = held
    dev:pio(0x10, 1, { read = function() return held and dev.path and 1 end })
    dev:irq_in("in", 1, function() return held, dev end)
    dev:irq_out "out"
    dev:connect("out", 0, function() return held, dev end)
    dev:timer(function() return held, dev end)
    dev.data.held = held
  end }
  for _ = 1, 20 do
    local m <close> = assert(core.new "device-test")
    realize(m, name)
    t.eq(m.io:read_u8(0x10), 1)
  end
  for _ = 1, 3 do
    collectgarbage()
    sched.yield()
  end
  t.eq(next(weak), nil)
end)

test("a guest under an accelerator reaches a device in Lua", function(t)
  local name = define {
    state = { sum = "uint32" },
    realize = function(dev)
      dev:pio(0x510, 1, {
        write = function(d, _, _, value) d.sum = d.sum + value end,
        read = function(d) return d.sum * 2 end,
      })
      dev:mmio(0xfe000000, 0x1000, { read = nothing })
    end,
  }
  local dev
  local vm = complete_machine(t, function(m)
    m.memory:add(0, m.ram)
    dev = m:device(name, { id = "lua0" })
    -- mov dx, 0x510; mov al, 7; out dx, al; mov al, 5; out dx, al; in al, dx; mov [0x8000], al; mov al, 1; out 0xf4, al; hlt
    m:place(0x7c00, "\xba\x10\x05\xb0\x07\xee\xb0\x05\xee\xec\xa2\x00\x80\xb0\x01\xe6\xf4\xf4")
    m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    m:device "isa-debug-exit"
  end)
  vm:start()
  vm:wait { rt = 60 }
  t.eq({ vm.status, dev.sum, vm.memory:read_u8(0x8000) }, { "shutdown", 12, 24 })
end)

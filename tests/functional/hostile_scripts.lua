-- What scripts can do to bindings that no script should: metamethods called by hand, parts made alone, structures without an
-- end, finalisers in the middle of things. Each is an error or has an effect, and ends nothing.
local api = require "vmlua.core.api"
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local process = require "vmlua.core.process"
local qom = require "vmlua.qom"
local test = require "vmlua.test"

machine.define {
  name = "hostile-board", ram = "1M",
  init = function(m)
    m.memory:add(0, m.ram)
    m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
    m:place(0x7c00, "\xe6\x80\xeb\xfc") -- out 0x80, al; jmp -2
    m.cpus[1]:set { cs = 0, rip = 0x7c00 }
  end,
}
local function nothing() end
local function new(t) return t.machine("hostile-board", { serial = "null" }) end

-- One of each class of userdata.
local function userdata(vm)
  local dev = qom.new "isa-serial"
  return {
    vm, vm.memory, vm.cpus[1].cpuid, vm:pio { port = 1 }:on(nothing), vm:pio { port = 1 }:trace(2), vm.serial[1]:on_data(nothing),
    vm.serial[1]:text "x":trace(2), vm:notify(nothing), vm:snapshot(), vm:gsi(1), loop.timer(1 << 40, nothing), dev, dev.dma, dev.state,
    process.spawn { argv = { "true" } },
  }
end

test("a metamethod that is called by hand takes its own class only", function(t)
  local vm = new(t)
  for _, u in ipairs(userdata(vm)) do
    local mt = getmetatable(u)
    for _, name in ipairs { "__gc", "__close", "__index", "__newindex", "__tostring", "__len" } do
      local fn = rawget(mt, name)
      if fn then
        for _, wrong in ipairs { 1, "x", {}, io.stdout, nothing, vm.cpus[1], vm.serial[1] } do
          if getmetatable(wrong) ~= mt then pcall(fn, wrong, "value", 1) end
        end
        pcall(fn)
      end
    end
  end
  t.eq(vm.status, "paused")
  t.eq(vm:gsi(1) == vm, false)
  t.raises("another class", function() getmetatable(vm.cpus[1]).__index(vm, "rip") end)
  t.raises("another class", function() getmetatable(vm.cpus[1]).__newindex(vm.serial[1], "rip", 1) end)
end)

test("a userdata that was collected by hand is inert", function(t)
  local vm = new(t)
  for _, u in ipairs(userdata(vm)) do
    local mt = getmetatable(u)
    if mt.__gc and u ~= vm then
      mt.__gc(u)
      mt.__gc(u)
      for _, d in ipairs(api.list()) do
        if d.name == mt.__name then
          for _, f in ipairs(d.functions) do pcall(f.fn, u, "a", 1, nothing) end
          for _, f in ipairs(d.fields) do pcall(function() return u[f.name] end) end
        end
      end
      t.ok(tostring(u))
    end
  end
  loop.iterate(false)
  t.eq(vm.status, "paused")
end)

test("taking the fields out of a metatable breaks what the script does, not the program", function(t)
  local vm = new(t)
  local mt, kept = getmetatable(vm.serial[1]), {}
  for k, v in pairs(mt) do kept[k] = v end
  t.cleanup(function() for k, v in pairs(kept) do mt[k] = v end end)
  for k in pairs(kept) do mt[k] = nil end
  collectgarbage()
  collectgarbage()
  t.eq(kept.__index(vm.serial[1], "open"), true)
  t.raises("no member", function() kept.__index(vm.serial[1], "nonsense") end)
end)

test("the event of a callback is told from other values", function(t)
  local vm = new(t)
  local mt, event
  vm:pio { port = 0x80, write = true }:on(function(_, x)
    mt, event = getmetatable(x), x
    return "pause"
  end)
  vm:resume()
  t.wait_for(function() return vm.status == "paused" end)
  t.raises("over", function() return event.value end)
  for _, wrong in ipairs { 1, {}, io.stdout, vm, nothing } do
    t.raises("event expected", mt.__index, wrong, "value")
    t.raises("event expected", mt.__newindex, wrong, "value", 1)
    t.raises("event expected", mt.__tostring, wrong)
  end
end)

test("parts of the engine are not made alone", function(t)
  local parts = { "x86-cpu", "hostile-board", "console", "block-file", "block-backend", "memory-region", "device-timer", "pci-bus" }
  for _, name in ipairs(parts) do
    t.raises("^" .. name:gsub("%-", "%%-") .. ": ", qom.new, name)
  end
  t.raises("machine%.new", qom.new, "hostile-board")
end)

test("leaving a block takes no part of a machine away", function(t)
  local vm = new(t)
  t.raises("cannot be removed", function() local _ <close> = vm.cpus[1] end)
  t.raises("cannot be removed", function() local _ <close> = qom.root() end)
  t.eq(#vm.cpus, 1)
  t.eq(vm.cpus[1].rip, 0x7c00)
end)

test("a tree of objects has its depth, and one that a script tied into a knot is refused", function(t)
  qom.type { name = "hostile-node", parent = "object" }
  local top = qom.new "hostile-node"
  local at, levels = top, 0
  local message = t.raises("levels deep", function()
    while true do
      local child = qom.new "hostile-node"
      at:add_child("c", child)
      at, levels = child, levels + 1
    end
  end)
  t.match(message, "256")
  t.eq(levels, 255)
  t.eq(#tostring(top:tree()) > 0, true)
  local outer = qom.new "hostile-node"
  t.raises("levels deep", function() outer:add_child("in", top) end)
  t.raises("more than 256 levels", require("vmlua.core.qom").container, ("/c"):rep(1000))
  local knot = top:tree()
  knot[1] = knot
  t.raises("deeper than", tostring, knot)
  knot = new(t).memory:tree()
  knot[1] = knot
  t.ok(tostring(knot))
end)

test("names have a length that saved state has room for", function(t)
  local vm = new(t)
  local long = ("n"):rep(70000)
  t.raises("letters, digits", qom.type, { name = "hostile-long", parent = "device", state = { [long:sub(1, 256)] = "uint8" } })
  t.raises("at most 128 bytes", qom.type, { name = long, parent = "device" })
  t.raises("at most 128 bytes", machine.define, { name = long, init = nothing })
  t.refuses("at most 200 bytes", function() return qom.new("isa-debugcon"):realize(vm, long) end)
  t.refuses("at most 200 bytes", function() return vm:region { name = long, size = "4K" } end)
  qom.type { name = ("t"):rep(128), parent = "device", state = { [long:sub(1, 200)] = "uint8" } }
  t.ok(qom.new(("t"):rep(128)):realize(vm, long:sub(1, 200)))
  t.ok(#vm:save_devices() > 0)
end)

test("a length that a metamethod makes up writes nowhere", function(t)
  qom.type { name = "hostile-state", parent = "object", state = { a = "uint8", f = "uint32[3]" } }
  local o = qom.new "hostile-state"
  o.a = 7
  t.raises("values for 3", function() o.f = setmetatable({}, { __len = function() return -2 end }) end)
  t.eq(o.a, 7)
end)

test("numbers that do not fit are refused, not cut", function(t)
  local vm = new(t)
  local r = vm:region { kind = "ram", name = "r", size = "4K" }
  t.raises("priority", function() vm.memory:add(0x1000000, r, 1 << 32) end)
  t.raises("exit code", function() vm:shutdown("x", 1 << 32) end)
  local fs = require "vmlua.core.fs"
  t.raises("descriptor", fs.isatty, 1 << 32)
  t.raises("descriptor", fs.read, (1 << 32) + 1)
  t.raises("number of bytes", fs.read, 0, -1)
  local p = process.spawn { argv = { "true" } }
  t.raises("signal", function() p:kill(1 << 32) end)
end)

test("a finaliser may end everything while it is being listed", function(t)
  for round = 1, 20 do
    local vm = new(t)
    local hooks, rings = {}, {}
    for i = 1, 20 do
      hooks[i] = vm:pio { port = i }:on(nothing)
      rings[i] = vm.serial[1]:text("x"):trace(4)
    end
    local dev = qom.new "isa-serial"
    t.ok(dev:realize(vm, "late"))
    local ring = vm:pio { port = 0x80 }:trace(1000)
    local done
    setmetatable({}, { __gc = function()
      for i = 1, 20 do
        hooks[i]:remove()
        rings[i]:remove()
      end
      ring:remove()
      dev:remove()
      vm:close()
      done = true
    end })
    while not done do
      local list = { pcall(vm.hooks, vm), pcall(ring.list, ring), vm:tree(), vm.memory:flat(), vm.io:tree(), vm.stats, vm.cpus[1]:msrs() }
      for _, r in ipairs(rings) do list[#list + 1] = { pcall(r.list, r) } end
      for _, o in ipairs(vm:children()) do list[#list + 1] = o:properties() end
    end
    t.eq(vm.gone, false, "not in the middle of it")
    loop.iterate(false)
    t.eq(vm.gone, true)
    t.eq(dev.gone, true)
    t.ok(round)
  end
end)

test("a finaliser cannot wait", function(t)
  local ok, message
  setmetatable({}, { __gc = function() ok, message = pcall(loop.iterate, false) end })
  collectgarbage()
  t.eq(ok, false)
  t.match(message, "finaliser")
end)

test("what a program's standard input does not take now, it gets later", function(t)
  local size = 1 << 20
  local got, code = 0, nil
  local p = process.spawn {
    argv = { "cat" }, stdin = true, stdout = function(s) got = got + #s end, on_exit = function(c) code = c end,
  }
  t.eq(p:write(("x"):rep(size)), size)
  t.eq(p:write "y", 1)
  p:close_stdin()
  t.eq(p:write "z", nil)
  t.wait_for(function() return code end)
  t.eq(got, size + 1)
  t.eq(code, 0)
end)

test("room of a chardev's front that is no number is an error", function(t)
  local vm = new(t)
  t.may_fail(vm)
  local chr = require("vmlua.core.chardev").new("ring", vm, "extra")
  qom.type { name = "hostile-front", parent = "device" }
  local dev = qom.new "hostile-front"
  t.ok(dev:realize(vm, "front"))
  dev:front(chr, { room = function() return {} end, receive = nothing })
  chr:write "x"
  t.match(vm.reason, "whole number expected, got a table")
end)

test("a processor's description that a metamethod collects while it is written is not freed under the writer", function(t)
  local policy = new(t).cpus[1].cpuid
  local collected = 0
  policy:set(setmetatable({ ["function"] = 0x40000000, eax = 1 }, { __index = function()
    if collected == 0 then getmetatable(policy).__gc(policy) end
    collected = collected + 1
  end }))
  t.ok(collected > 0)
  t.raises("given away", policy.list, policy)
end)

-- A program that collects handles where Lua has no room left to run their finalisers, at every depth up to the limit.
local lost_handles = [[
local machine = require "vmlua.machine"
local qom = require "vmlua.core.qom"
machine.define {
  name = "lost-board", ram = "1M",
  init = function(m)
    m.memory:add(0, m.ram)
    m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
  end,
}
local vm = machine.new("lost-board", { serial = "null" })
local calls = 0
local function count() calls = calls + 1 end
local handles = {}
for i = 1, 250 do
  handles[i] = { vm:pio { port = 1 }:on(count), vm:pio { port = 1 }:trace(2), vm.serial[1]:on_data(count),
    vm.serial[1]:text "x":trace(1), qom.new "isa-serial" }
end
local depth, lost = 0, 0
local function dig()
  depth = depth + 1
  handles[depth] = setmetatable({}, { __gc = function() lost = lost - 1 end })
  lost = lost + 1
  handles[depth] = nil
  pcall(collectgarbage)
  pcall(string.gsub, "x", "x", dig)
end
dig()
-- What the handles were made of is used again: a hook or watch that still knew one would write into these.
local others = {}
for size = 8, 200 do
  for i = 1, 40 do others[#others + 1] = ("%d."):format(i):rep(size):sub(1, size) end
end
vm.io:write_u8(1, 1)
vm.io:write_u8(0x3f8, 0x78)
vm:close()
collectgarbage()
local at = 0
for size = 8, 200 do
  for i = 1, 40 do
    at = at + 1
    assert(others[at] == ("%d."):format(i):rep(size):sub(1, size), "a string was written into")
  end
end
print(depth > 20, lost > 0, calls > 20)
]]

test("handles whose finalisers had no stack to run on are no more than forgotten", function(t)
  local r = t.vmlua { t.file("lost.lua", lost_handles) }
  t.eq({ r.status, r.err, r.out }, { 0, "", "true\ttrue\ttrue\n" })
end)

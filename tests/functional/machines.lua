-- Boards and machines without running a guest: defining, finding, making, closing, what is refused.
local api = require "vmlua.core.api"
local core = require "vmlua.core.machine"
local machine = require "vmlua.machine"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

local function empty(m) m.memory:add(0, m.ram) end

test("a handle of a closed machine says so, and closing twice is fine", function(t)
  local m = assert(core.new("machine-test-plain"))
  t.eq({ m.status, m.gone }, { "building", false })
  t.eq(m, core.list()[#core.list()])
  m:close()
  m:close()
  t.eq({ m.status, m.gone }, { "closed", true })
  t.match(tostring(m), "gone")
  t.raises("machine%-test%-plain.*: is gone", function() return m.time end)
  t.raises("is gone", function() m:pause() end)
  t.raises("is gone", function() m.exit_code = 3 end)
end)

test("there is one handle an object, also after garbage collection", function(t)
  local m <close> = assert(core.new "machine-test-plain")
  t.ok(rawequal(core.list()[#core.list()], m))
  api.data(m).note = "kept"
  local id = m.id
  for _ = 1, 3 do
    collectgarbage()
    sched.yield()
  end
  for _, other in ipairs(core.list()) do
    if other.id == id then t.eq(api.data(other).note, "kept") end
  end
end)

test("a to-be-closed machine is closed on every way out", function(t)
  local seen
  pcall(function()
    local m <close> = core.new "machine-test-plain"
    seen = m
    error "on the way"
  end)
  t.eq(seen.status, "closed")
end)

test("unknown members name the nearest", function(t)
  local m <close> = core.new "machine-test-plain"
  t.raises("no member 'statsu'; the nearest is 'stat", function() return m.statsu end)
  t.raises("no member 'exitcode'; the nearest is 'exit_code'", function() m.exitcode = 1 end)
  t.raises("status cannot be assigned to", function() m.status = "running" end)
  t.raises("close cannot be assigned to", function() m.close = nil end)
  t.raises("a member's name is expected", function() return m[1] end)
  t.raises("0x100 is not within", function() m.exit_code = 256 end)
  t.raises("machine expected, got table", m.pause, {})
  t.raises("machine expected, got string", m.pause, "vm")
end)

test("boards are defined from strict tables", function(t)
  t.raises('unknown key "int".*"init"', machine.define, { name = "x", int = empty })
  t.raises("needs a name", machine.define, { init = empty })
  t.raises("needs an init function", machine.define, { name = "x" })
  t.raises("ram: expected a size", machine.define, { name = "x", init = empty, ram = "many" })
  t.raises("ram is to be integer or string", machine.define, { name = "x", init = empty, ram = {} })
  local message = t.raises("unknown key", function() machine.define { name = "x", int = empty } end)
  t.match(message, "machines%.lua:%d+:")
end)

test("a name that no board has names the nearest", function(t)
  local value, message = machine.find "machine-test-plian"
  t.eq(value, nil)
  t.match(message, "machine%-test%-plain")
  t.raises("machine%-test%-plain", machine.new, "machine-test-plian")
  t.raises('unknown key "rma".*"ram"', machine.new, "machine-test-plain", { rma = 1 })
end)

test("boards are found by alias, and derived boards know their parent", function(t)
  t.eq(machine.find("mtp").name, "machine-test-plain")
  local child = machine.find("machine-test-plain"):extend { name = "machine-test-child", doc = "a child" }
  t.eq(child.ram, 1 << 20)
  t.eq(child.doc, "a child")
  t.eq(machine.find "machine-test-child", child)
  t.eq(machine.is_class(child), true)
  t.eq(machine.is_class {}, false)
end)

test("versions of a board keep their shape by compatibility properties", function(t)
  local newest = machine.versions({
    name = "vers", doc = "for this test", ram = "1M",
    init = function(m) m:device("isa-serial", { id = "com", iobase = 0x3f8, irq = 4, chardev = m:serial(0) }) end,
  }, {
    { version = "1.0", compat = { { "isa-serial", "baudbase", 57600 } } }, -- what 1.1 made different
    { version = "1.1", compat = { { "isa-serial", "pace", "on" }, { "isa-device", "out2-gate", false } } },
    { version = "2.0", compat = {} },
  })
  t.eq({ newest.name, newest.alias }, { "vers-2.0", "vers" })
  local function shape(name, global)
    local com = t.machine(name, { accel = "soft", serial = "null", global = global }).com
    return { com.baudbase, com.pace, com:get "out2-gate" }
  end
  t.eq(shape "vers", { 115200, false, true })
  t.eq(shape "vers-1.1", { 115200, true, false })
  t.eq(shape "vers-1.0", { 57600, true, false })
  -- -global comes after the version's.
  t.eq(shape("vers-1.0", { { "isa-serial", "baudbase", "38400" } }), { 38400, true, false })
end)

test("a board that another file has defined is not replaced", function(t)
  local path = t.file("other.lua", [[
    require("vmlua.machine").define { name = "machine-test-plain", init = function() end }
  ]])
  t.raises("already defined at .*machines%.lua:%d+", dofile, path)
end)

test("state watches and reset handlers come and go", function()
  for i = 1, 50 do
    local a, b = core.new "machine-test-plain", core.new "machine-test-plain"
    a:notify(function() end):remove()
    local watch = b:notify(function() end)
    b:on_reset(function() end)
    if i % 2 == 0 then a:close() b:close() else b:close() a:close() end
    watch:remove()
    watch:remove()
  end
  collectgarbage()
end)

test("a watch is told of the end", function(t)
  local m = core.new "machine-test-plain"
  local told = {}
  m:notify(function(status) told[#told + 1] = status end)
  m:close()
  t.eq(told[#told], "closed")
end)

test("a wait on a machine that is closed meanwhile answers closed", function(t)
  local m = core.new "machine-test-plain"
  local task = sched.spawn(function() return sched.await { vm = m, arm = function() end } end)
  sched.yield()
  sched.yield()
  m:close()
  t.eq(table.pack(task:join()), { nil, "closed", n = 2 })
  t.eq(table.pack(sched.await { vm = m, arm = function() end }), { nil, "closed", n = 2 })
end)

test("lines are values: driven, read, the same for the same number", function(t)
  local m <close> = core.new "machine-test-plain"
  local a, b = m:gsi(5), m:gsi(5)
  t.ok(a == b)
  t.ok(a ~= m:gsi(6))
  a:raise()
  t.eq(b.level, 1)
  b:lower()
  t.eq(a.level, 0)
  t.raises("is not within", m.gsi, m, 100000)
  m:close()
  a:raise() -- leads nowhere now
end)

test("what only a missing accelerator prevents is refused by name", function(t)
  t.refuses("nonesuch", core.select_accel, { "nonesuch" })
  t.raises("1 to 32 names", core.select_accel, {})
end)

test("RAM comes from a memory back end, and is as large as it", function(t)
  t.accel()
  local backend = { { "memory-backend-memfd", id = "mem0", size = "2M" } }
  local vm = t.machine("machine-test-plain", { object = backend, props = { ["memory-backend"] = "mem0" } })
  t.eq({ vm.ram_size, vm.memory:flat()[1].size }, { 2 << 20, 2 << 20 })
  t.raises('unknown memory back end "mem1".*"mem0"', machine.new, "machine-test-plain",
    { object = backend, props = { ["memory-backend"] = "mem1" } })
  t.raises("mem0 has 2M, the machine was given 4M", machine.new, "machine-test-plain",
    { ram = "4M", object = backend, props = { ["memory-backend"] = "mem0" } })
end)

machine.define { name = "machine-test-plain", alias = "mtp", doc = "RAM only", ram = "1M", init = empty }

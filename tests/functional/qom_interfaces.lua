-- Interfaces of C, implemented by scripts and called through their function pointers.
local fs = require "vmlua.core.fs"
local qom = require "vmlua.qom"
local test = require "vmlua.test"

-- tests/modules/clicker.c, beside the program in the build tree.
local module = fs.realpath("/proc/self/exe"):gsub("/bindings/vmlua$", "") .. "/tests/modules/clicker.so"
local there = fs.stat(module) ~= nil
local clicker = there and assert(package.loadlib(module, "luaopen_clicker"))()
local options = { skip = not there and "the module of the tests was not built" or nil }

local count = 0
local function make(spec)
  count = count + 1
  spec.name, spec.parent = ("clicks-%d"):format(count), spec.parent or "object"
  qom.type(spec)
  return qom.new(spec.name), spec.name
end

test("C reaches the Lua methods of an interface, with every kind of argument and result", options, function(t)
  local seen
  local o = make {
    interfaces = { ["test-counter"] = {
      click = function(self, times, how)
        seen = { self, times, how }
        return times > 1
      end,
      settle = function(_, on, other) seen = { on, other } end,
      count = function(_, from, to) return from + to end,
      narrow = function(_, by) return by + 0xffffffff end,
    } },
  }
  t.eq(clicker.click(o, 0xffffffff, "hard"), true)
  t.eq(seen, { o, 0xffffffff, "hard" })
  t.eq(clicker.click(o, 2), true)
  t.eq(seen, { o, 2 })
  t.eq(clicker.settle(o, true, o), true)
  t.eq(seen, { true, o })
  t.eq(clicker.settle(o, false), true)
  t.eq(seen, { false })
  t.eq(clicker.level(o), -7, "the interface's own")
  t.eq(clicker.count(o, -5, 7), 2)
  t.eq(clicker.count(o, math.mininteger, 0), math.mininteger)
  t.eq(clicker.narrow(o, -1), 0xfffffffe)
end)

test("a type below overrides, and inherits what it does not", options, function(t)
  local _, base = make { interfaces = { ["test-clicker"] = {
    click = function() return true end, level = function() return 1 end,
  } } }
  local o = make { parent = base, methods = { level = function() return -2147483648 end } }
  t.eq(clicker.level(o), -2147483648)
  t.eq(clicker.click(o, 1), true)
  local c = make { parent = "test-c-clicker", methods = { level = function() return 5 end } }
  t.eq(clicker.level(c), 5)
  t.eq(clicker.click(c, 1), true, "the parent's in C")
  t.eq(clicker.click(c, 2), false)
  t.eq(clicker.level(qom.new "test-c-clicker"), -7, "the C type is as it was")
end)

test("an error of the method is the caller's, and so is a refusal", options, function(t)
  local answer
  local o = make { interfaces = { ["test-clicker"] = { click = function() return answer() end } } }
  for _, case in ipairs {
    { function() error "boo" end, "clicks%-%d+%.click: .*boo" },
    { function() return nil, "not today" end, "clicks%-%d+%.click: not today$" },
    { function() return false, "nor now" end, "nor now$" },
    { function() return false end, "click: refused$" },
    { function() return 3 end, "click: true or false expected as the result, got 3$" },
    { function() return {} end, "true or false expected as the result, got table$" },
    { function() error({}) end, "clicks%-%d+%.click" },
  } do
    answer = case[1]
    t.refuses(case[2], clicker.click, o, 1)
  end
  answer = function() end
  t.eq(clicker.click(o, 1), true, "nothing said against it")
end)

test("where C takes no error, the machine of a device stops with it", options, function(t)
  local _, name = make { parent = "device", interfaces = { ["test-counter"] = {
    click = function() return true end,
    level = function() return 1 << 40 end,
    count = function() return "many" end,
    narrow = function() return -1 end,
    settle = function() error "unsettled" end,
  } } }
  for what, call in pairs {
    ["level: a whole number of 32 bits expected as the result, got 1099511627776"] = function(d) return clicker.level(d) end,
    ["count: a whole number expected as the result, got string"] = function(d) return clicker.count(d, 1, 2) end,
    ["narrow: a whole number from 0 of 32 bits"] = function(d) return clicker.narrow(d, 1) end,
    ["unsettled"] = function(d) return clicker.settle(d, true) and 0 end,
  } do
    local vm = t.may_fail(t.machine("bare", { idle = true }))
    local dev = vm:device(name)
    t.eq(call(dev), 0, what)
    t.eq(vm.status, "error")
    t.ok(vm.reason:find(what, 1, true), vm.reason)
  end
end)

test("a type without what the interface requires is refused, and qom.class lists it", options, function(t)
  t.raises("interface 'test%-clicker' requires the method 'click'", qom.type,
    { name = "clicks-bad", parent = "object", interfaces = { "test-counter" } })
  local methods = qom.class("test-clicker").methods
  t.eq(#methods, 3)
  t.eq(methods[1], { name = "click", doc = "Clicks so often.", signature = "b(use)", required = true })
  t.eq(qom.class("test-c-clicker").methods, nil)
end)

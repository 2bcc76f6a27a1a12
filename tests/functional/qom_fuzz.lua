-- Everything a script can call on types, objects and devices, with arguments of every kind: errors, never a crash.
-- VMLUA_FUZZ_SEED repeats or varies a run; the seed is part of the log of a failing test.
local core = require "vmlua.core.machine"
local qom = require "vmlua.core.qom"
local test = require "vmlua.test"

require("vmlua.machine").define { name = "fuzz-board", init = function() end }

local function nothing() end

qom.type {
  name = "fuzzed", parent = "device",
  properties = {
    a = "uint8", s = "string", l = { "link" }, li = { "list", element = "int16" }, e = { "enum", words = { "x", "y" } },
  },
  state = { c = "uint32", f = "uint8[3]", b = "bytes:5" },
  realize = function(d)
    d:pio(0x10, 1, { read = function() return 1 end })
    d:timer(nothing)
    d:irq_out("o", 2)
    d:irq_in("i", 2, nothing)
  end,
}

local function values(dev, m)
  return {
    true, false, 0, 1, -1, 2 ^ 53, 1.5, math.maxinteger, math.mininteger, 0 / 0, 1 / 0, "", "a", "/", "..", "d", "fuzzed", "object",
    "interface", "device", "machine", "x/y", "\0", ("z"):rep(300), {}, { 1, 2, 3 }, { name = "q" }, print, dev, m, qom.root(), dev.f,
    dev.state, dev.dma, coroutine.create(print), { "uint8" }, io.stdout, "i", "o", "c", "f", { read = nothing, write = nothing },
    { "enum", words = { "k" }, default = "k" }, "uint16", "bytes:3", "uint8[4]", qom.new "fuzzed",
  }
end

-- What would take away the objects that the rest is tried on.
local spared = { remove = true, close = true, unrealize = true }

local function targets()
  local list = {}
  local function add(name, fn, of_object) list[#list + 1] = { name = name, fn = fn, of_object = of_object } end
  for name, fn in pairs(qom) do
    if name ~= "type" then add(name, fn) end
  end
  for _, type in ipairs { "object", "device", "device-region", "device-timer" } do
    for name, fn in pairs(qom.methods(type)) do
      if not spared[name] then add(type .. ":" .. name, fn, true) end
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local spec_keys = {
  "name", "parent", "doc", "abstract", "properties", "state", "version", "interfaces", "methods", "init", "realize", "pre_save",
  "requires", "reset", "minimum_version",
}

test("calls with arguments of every kind end in a result or an error", function(t)
  local seed = tonumber(os.getenv "VMLUA_FUZZ_SEED") or 1
  t.log("seed", seed)
  math.randomseed(seed)
  local m = t.watch(assert(core.new "fuzz-board"))
  t.may_fail(m)
  local dev = qom.new "fuzzed"
  assert(dev:realize(m, "d"))
  local pool, list = values(dev, m), targets()
  local handles = { dev, dev["port-0x10"], dev["timer-0"], m, qom.root() }
  local fields = { "a", "s", "l", "li", "e", "c", "f", "b" }
  local function any() return pool[math.random(0, #pool)] end -- index 0: nil
  local function some(of) return of[math.random(#of)] end

  local results, errors = 0, 0
  for i = 1, 6000 do
    local target, args, n = some(list), {}, math.random(0, 5)
    for k = 1, n do args[k] = any() end
    if target.of_object and math.random() < 0.9 then args[1], n = some(handles), math.max(n, 1) end
    if pcall(target.fn, table.unpack(args, 1, n)) then results = results + 1 else errors = errors + 1 end

    local key, value, handle = any(), any(), some(handles)
    pcall(function() return handle[key] end)
    pcall(function() handle[key] = value end)
    pcall(function() return dev.state[key], #dev.state, tostring(dev.state) end)
    pcall(function() dev.state[key] = value end)
    pcall(function() dev.f[key] = value end)
    pcall(function() dev[some(fields)] = value end)

    if i % 10 == 0 then
      local spec = { name = "fuzz-" .. i, parent = some { "fuzzed", "object", "device", "interface" } }
      for _ = 1, math.random(4) do spec[some(spec_keys)] = any() end
      if math.random() < 0.5 then
        spec.properties = { [tostring(any())] = { any(), default = any(), words = any(), element = any(), type = any(), set = any() } }
      end
      if math.random() < 0.5 then spec.state = { [tostring(any())] = any() } end
      if pcall(qom.type, spec) then pcall(qom.new, spec.name) end
    end
  end
  t.ok(results > 100 and errors > 100, "both are seen")
end)

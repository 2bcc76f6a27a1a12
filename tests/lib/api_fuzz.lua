-- Calls everything that C declares, with arguments of every kind, in an order that a seed gives: run by
-- tests/functional/api_fuzz.lua in a process of its own. VMLUA_FUZZ_TRACE=1 prints each call before it is made.
local api = require "vmlua.core.api"
local core = require "vmlua.core.machine"
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local qom = require "vmlua.qom"

local seed, calls, accel = math.tointeger(arg[1]), math.tointeger(arg[2]), arg[3]
local trace = os.getenv "VMLUA_FUZZ_TRACE"

local state = seed * 0x9E3779B97F4A7C15 + 1
local function random(low, high)
  state = state * 6364136223846793005 + 1442695040888963407
  return low + ((state >> 33) % (high - low + 1))
end
local function some(list) return list[random(1, #list)] end

-- What ends the process, waits for input, or changes the host, by its purpose.
local spared = {
  ["vmlua.core.process"] = { spawn = true, signal = true, detach = true, runas = true, sandbox = true, pidfile = true },
  ["vmlua.core.fs"] = { unlink = true, mkdir = true, mkdtemp = true, rmtree = true, setenv = true, write = true, read = true },
  ["vmlua.core.loop"] = {
    iterate = true, limit = true, budget = true, watch = true, on_error = true, on_sigint = true, on_signal = true, shielded = true,
  },
  ["vmlua.core.log"] = { file = true, sink = true, write = true, warning = true, error = true, set = true },
  ["vmlua.core.edit"] = { start = true, history_load = true, history_save = true },
  ["vmlua.core.chardev"] = { new = true }, -- opens files and sockets by names that are made up
  ["vmlua.core.block"] = { open = true, node = true, drive = true, adopt = true },
  ["vmlua.core.machine"] = { new = true, register = true },
  ["address-space"] = { load = true },
}

local function nothing() end

qom.type {
  name = "api-fuzzed", parent = "device",
  properties = { a = "uint8", s = "string", l = { "link" }, e = { "enum", words = { "x", "y" } } },
  state = { c = "uint32", f = "uint8[3]", b = "bytes:5" },
  realize = function(d)
    d:pio(0x510, 2, { read = function() return 1 end, write = function() end })
    d:timer(nothing)
    d:irq_out("o", 2)
    d:irq_in("i", 2, nothing)
  end,
}

local board = machine.define {
  name = "api-fuzz-board", ram = "2M", accel = accel,
  init = function(m)
    m.memory:add(0, m.ram)
    m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
    -- again: out 0x80, al; mov dx, 0x510; out dx, al; in al, dx; jmp again
    m:place(0x7c00, "\xe6\x80\xba\x10\x05\xee\xec\xeb\xf7")
    m.cpus[1]:set { cs = 0, rip = 0x7c00 }
  end,
}
local _ = board

local vm, pool, targets
local depth = 0
local call_one

-- Callbacks that do what callbacks should not, and what they may.
local callbacks = {
  nothing,
  function() return true end,
  function() return "pause" end,
  function() error "a callback's" end,
  function() error(setmetatable({}, { __tostring = function() error "again" end })) end,
  function() coroutine.yield() end,
  function() collectgarbage() end,
  function(...) return ... end,
  function() return 1 / 0 end,
  function() if not vm.gone then vm:close() end end,
  function() if not vm.gone then vm:pause() end end,
  function() if depth < 3 then call_one() end end,
  function() loop.iterate(false) end,
}

local values = {
  true, false, 0, 1, -1, 2, 3, 0x80, 0x3f8, 0x510, 0x7c00, 1 << 20, 1 << 31, 1 << 32, 1 << 53, 1 << 62, math.maxinteger,
  math.mininteger, 0.5, -0.0, 1e15, 2 ^ 53, 2 ^ 63, 1e300, -1e300, 0 / 0, 1 / 0, -1 / 0, "", "a", "0x10", "2G", "1e400", "/", "..",
  "a/b", "\0", "x\0y", ("z"):rep(300), "%s%n", "rip", "value", "i", "o", "c", "f", "null", "ring", "pio", "api-fuzzed", "device",
  "object", "machine", "x86-cpu", "soft", "kvm", "on", "uint8", "guest", {}, { 1, 2, 3 }, { name = "q" }, { kind = "ram", size = 4096 },
  { kind = "container", size = 1 << 63 },
  { kind = "alias", of = {} }, { source = "pio", addr = 0x80 }, { source = "exec", addr = 0x7c00 },
  { source = "mem", addr = 0, len = -1 }, { "uint8" }, { read = nothing, write = nothing },
  setmetatable({}, { __len = function() return 7 end }),
  setmetatable({}, { __len = function() return -5 end }),
  setmetatable({}, { __index = function(_, k) return k end }),
  print, io.stdout, coroutine.create(print), string.rep, 1, 4096,
}

local function show(v)
  local ok, s = pcall(tostring, v)
  s = ok and s or "?"
  return (type(v) == "string" and ("%q"):format(v) or s):sub(1, 60)
end

local function any()
  local r = random(1, 10)
  if r == 1 then return nil end
  if r <= 4 and #pool > 0 then return some(pool) end
  if r == 5 then return some(callbacks) end
  return some(values)
end

local function remember(v)
  if type(v) ~= "userdata" then return end
  if #pool > 80 then pool[random(1, #pool)] = v else pool[#pool + 1] = v end
end

local function attempt(what, fn, ...)
  if trace then
    local list = table.pack(...)
    for i = 1, list.n do list[i] = show(list[i]) end
    io.stderr:write(what, "(", table.concat(list, ", "), ")\n")
  end
  depth = depth + 1
  local r = table.pack(pcall(fn, ...))
  depth = depth - 1
  for i = 2, math.min(r.n, 4) do remember(r[i]) end
  return r[1]
end

local function start()
  local m = assert(machine.new("api-fuzz-board", { serial = "null" }))
  local dev = qom.new "api-fuzzed"
  assert(dev:realize(m, "d"))
  vm = m
  pool = { m, m.memory, m.io, m.cpus[1], m.serial[1], dev, dev.dma, dev.state, dev["timer-0"], dev["port-0x510"], qom.root() }
  remember(m.cpus[1].cpuid)
  for o in m:walk() do pool[#pool + 1] = o end
  attempt("more", function()
    remember(m:pio { port = 0x80, write = true }:on(some(callbacks)))
    remember(m:exec(0x7c02):on(some(callbacks)))
    remember(m:resets():on(some(callbacks)))
    remember(m:pio { port = 0x80 }:trace(3))
    remember(m.serial[1]:on_data(some(callbacks)))
    remember(m.serial[1]:text "a":on(some(callbacks)))
    remember(m:notify(some(callbacks)))
    remember(m:gsi(4))
    remember(loop.timer(1000, some(callbacks), m))
    remember(m:snapshot())
  end)
end

local function list_targets()
  local list = {}
  for _, d in ipairs(api.list()) do
    for _, f in ipairs(d.functions) do
      if not (spared[d.name] or {})[f.name] then
        list[#list + 1] = { name = d.name .. "." .. f.name, fn = f.fn, of = d.kind ~= "module" and d.name }
      end
    end
  end
  return list
end

local metamethods = { "__index", "__newindex", "__gc", "__close", "__eq", "__tostring", "__len", "__call", "__pairs" }

local function is_a(v, name)
  if api.is_object(v) then return v:is_a(name) end
  local mt = getmetatable(v)
  return type(mt) == "table" and mt.__name == name
end

-- An object of the class, in most cases.
local function fitting(name)
  for _ = 1, 20 do
    local v = some(pool)
    local ok, fits = pcall(is_a, v, name)
    if ok and fits then return v end
  end
  return any()
end

function call_one()
  local r, args = random(1, 20), {}
  local n = random(0, 5)
  for i = 1, n do args[i] = any() end
  if r <= 12 then
    local target = some(targets)
    if target.of and random(1, 12) > 1 then
      args[1] = fitting(target.of)
      n = math.max(n, 1)
    end
    attempt(target.name, target.fn, table.unpack(args, 1, n))
  elseif r <= 17 then
    local v = some(pool)
    local ok, names = pcall(api.members, v)
    local key = any()
    if ok and random(1, 8) > 1 then
      local list = {}
      for name in pairs(names) do list[#list + 1] = name end
      table.sort(list)
      key = some(list)
    end
    if random(1, 2) == 1 then
      attempt("get " .. show(v), function(k) return v[k] end, key)
    elseif key ~= "machine" then
      attempt("set " .. show(v), function(k, x) v[k] = x end, key, args[1])
    end
  elseif r <= 18 then
    local mt = getmetatable(some(pool))
    local name = some(metamethods)
    local fn = type(mt) == "table" and rawget(mt, name)
    if fn and (name ~= "__gc" or random(1, 4) == 1) then
      attempt(tostring(mt.__name) .. name, fn, some { some(pool), any() }, table.unpack(args, 1, n))
    end
  elseif r <= 19 then
    setmetatable({}, { __gc = function()
      if depth < 3 and pool then call_one() end
    end })
  else
    attempt("iterate", loop.iterate, false)
  end
end

targets = list_targets()
loop.on_error(nothing)
loop.budget(5)
start()
for i = 1, calls do
  call_one()
  if i % 64 == 0 then attempt("resume", function() vm:resume() end) end
  if i % 32 == 0 then attempt("iterate", loop.iterate, false) end
  if vm.gone or i % 500 == 0 then
    for _, m in ipairs(core.list()) do attempt("close", m.close, m) end
    attempt("iterate", loop.iterate, false)
    start()
  end
end
for _, m in ipairs(core.list()) do m:close() end
pool, vm = nil, nil
print "done"
os.exit(0, true)

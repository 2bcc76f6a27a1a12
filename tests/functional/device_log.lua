-- dev:log(): what devices say of their guests, as a source.
local core = require "vmlua.core.machine"
local log = require "vmlua.core.log"
local qom = require "vmlua.qom"
local test = require "vmlua.test"

-- again: mov al, 0x80; out 0x92, al; inc word [0x500]; jmp again
local code = "\x31\xc0\x8e\xd8" .. "\xb0\x80\xe6\x92\xff\x06\x00\x05\xeb\xf6"

local port92
local board = {
  ram = "1M",
  init = function(m)
    m.memory:add(0, m.ram)
    port92 = m:device("port92", { id = "port92" })
    m:place(0x7c00, code)
    m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
  end,
}

-- A machine with one device in Lua that says what is written to its port.
local count = 0
local function chatty(t)
  count = count + 1
  local name = "chatty-" .. count
  qom.type {
    name = name, parent = "device", doc = "a test",
    realize = function(dev)
      dev:pio(0x510, 1, { write = function(_, _, _, value) dev:log("guest", ("value %d"):format(value)) end })
    end,
  }
  local dev
  local vm = t.machine { name = "chatty-board-" .. count, ram = "64K", init = function(m)
    m.memory:add(0, m.ram)
    dev = m:device(name, { id = "chatty" })
  end }
  return vm, dev
end

test("a model in C and the guest: on, wait, trace and run_until", function(t)
  local accel, why = core.select_accel { "auto" }
  if not accel then t.skip(why) end
  local vm = t.machine(board)
  local src = port92:log()
  local ring, calls = src:trace(3), 0
  local hook = src:on(function(cpu, x)
    t.eq({ cpu, x.kind, x.mask }, { nil, "log", "guest" })
    t.match(x.text, "port92: reserved bits set: 0x80")
    calls = calls + 1
  end)
  t.eq(hook.how, "lines of its log")
  for _ = 1, 3 do
    -- Paused where it is logged: the instruction after the OUT has not been executed.
    local x = assert(src:run_until { rt = 20 })
    t.eq({ vm.status, vm.reason }, { "paused", "log of port92" })
    t.eq(vm.memory:read_u16(0x500), ring.total - 1)
    t.ok(x.value < ring.total)
  end
  vm:resume()
  local a = assert(src:wait { rt = 20 })
  local b = assert(src:wait { rt = 20 })
  t.ok(a.value < b.value and a.time <= b.time)
  vm:pause()
  t.ok(calls > 0)
  local list = ring:list()
  t.eq(#list, 3)
  t.eq({ list[1].kind, list[1].mask, list[3].value - list[1].value }, { "log", "guest", 2 })
  t.match(list[1].text, "reserved bits")
end)

test("a device in Lua is followed, filtered by mask and text", function(t)
  local vm, dev = chatty(t)
  local all, some = {}, {}
  dev:log():on(function(_, x) all[#all + 1] = x.mask .. ": " .. x.text end)
  dev:log { mask = "guest,unimp", text = "value 7" }:on(function(_, x) some[#some + 1] = x.text end)
  for value = 5, 8 do vm.io:write_u8(0x510, value) end
  dev:log("unimp", "value 79")
  dev:log("script", "value 7 of a script")
  dev:log "plain"
  t.eq(#all, 0) -- a device that logs is in the middle of something
  t.wait_for(function() return #all == 7 end)
  t.eq(all[1], "guest: chatty: value 5")
  t.eq({ all[6], all[7] }, { "script: chatty: value 7 of a script", "script: chatty: plain" })
  t.eq(some, { "chatty: value 7", "chatty: value 79" })
end)

test("an access that a device refuses is said of it, too", function(t)
  local vm, dev = chatty(t)
  local src = dev:log { text = "write-only" }
  vm.io:read_u8(0x510)
  local x = assert(src:wait { rt = 20 })
  t.eq(x.mask, "guest")
end)

test("waits count what was said since the last match, each line once", function(t)
  local vm, dev = chatty(t)
  vm.io:write_u8(0x510, 1) -- nobody has asked yet
  local src = dev:log()
  vm.io:write_u8(0x510, 2)
  vm.io:write_u8(0x510, 3)
  t.eq({ src:wait { rt = 20 }.text, src:wait { rt = 20 }.text }, { "chatty: value 2", "chatty: value 3" })
  t.eq({ src:wait { rt = 0 } }, { nil, "timeout" })
  for value = 0, 299 do vm.io:write_u8(0x510, value % 256) end
  t.eq(src:wait { rt = 20 }.value, 46) -- 302 lines so far, the last 256 are kept
end)

test("lines are seen whatever the log shows, and the log shows them whoever sees them", function(t)
  local vm, dev = chatty(t)
  local shown, seen, masks = {}, {}, {}
  for _, m in ipairs(log.masks()) do if m.enabled then masks[#masks + 1] = m.name end end
  t.cleanup(function()
    log.sink(nil)
    log.set(table.concat(masks, ","))
  end)
  log.sink(function(_, line) shown[#shown + 1] = line end)
  local hook = dev:log():on(function(_, x) seen[#seen + 1] = x.text end)
  log.set ""
  vm.io:write_u8(0x510, 1)
  log.set "guest"
  vm.io:write_u8(0x510, 2)
  t.wait_for(function() return #seen == 2 and #shown == 1 end)
  hook:remove()
  vm.io:write_u8(0x510, 3)
  t.wait_for(function() return #shown == 2 end)
  t.eq({ shown[1], shown[2], #seen }, { "chatty: value 2", "chatty: value 3", 2 })
end)

test("callbacks may do anything: remove themselves, the device, log again, fail", function(t)
  local vm, dev = chatty(t)
  local calls, hook = 0, nil
  hook = dev:log():on(function()
    calls = calls + 1
    hook:remove()
    dev:log("guest", "again")
  end)
  vm.io:write_u8(0x510, 1)
  vm.io:write_u8(0x510, 2)
  t.wait_for(function() return calls == 1 end)
  t.eq(hook.armed, false)
  local ring = dev:log():trace(2)
  local last = dev:log():on(function() dev:remove() end)
  dev:log():on(function() calls = calls + 1 end)
  vm.io:write_u8(0x510, 3)
  t.wait_for(function() return dev.gone end)
  t.eq({ last.armed, ring.how, #ring:list(), calls }, { false, "closed", 1, 1 })

  vm, dev = chatty(t)
  t.may_fail(vm)
  vm:start()
  dev:log():on(function() error "no taste" end)
  dev:log "x"
  t.wait_for(function() return vm.status == "error" end)
  t.match(vm.reason, "device_log.lua:%d+: no taste")
end)

test("a pause that a callback asks for is one", function(t)
  local vm, dev = chatty(t)
  vm:start()
  dev:log():on(function() return "pause" end)
  dev:log "stop"
  t.wait_for(function() return vm.status == "paused" end)
  t.match(vm.reason, "log of chatty: chatty: stop")
end)

test("wrong use is refused by name", function(t)
  local _, dev = chatty(t)
  t.raises("unknown option \"maks\".*mask", dev.log, dev, { maks = "guest" })
  t.raises("text.*string", dev.log, dev, { text = 5 })
  t.raises("guset", function() dev:log { mask = "guset" }:on(print) end)
  t.raises("nothing would ever match", function() dev:log { mask = "none" }:trace(1) end)
  t.raises("takes a function", function() dev:log():on(5) end)
  t.raises("in no machine", function() qom.new "port92":log() end)
end)

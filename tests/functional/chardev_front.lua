-- The device's end of a chardev, as devices in Lua have it.
local core = require "vmlua.core.chardev"
local qom = require "vmlua.core.qom"
local test = require "vmlua.test"

local count = 0
-- A machine with one device whose realize is given.
local function make(t, realize, conf)
  count = count + 1
  local name = "front-" .. count
  qom.type {
    name = name, parent = "device", doc = "a test", realize = realize,
    properties = { chardev = { "link", type = "chardev", doc = "its other end" } },
  }
  local dev
  local vm = t.machine { name = "front-board-" .. count, ram = "64K", init = function(m)
    m.memory:add(0, m.ram)
    dev = m:device(name, { chardev = conf and conf.chardev or m:serial(0) })
  end }
  return vm, dev
end

test("bytes go both ways, and no more than there is room for", function(t)
  local got, room = {}, 3
  local vm, dev = make(t, function(dev)
    dev.data.front = dev:front(dev.chardev, {
      room = function() return room end,
      receive = function(_, bytes)
        got[#got + 1] = bytes
        room = room - #bytes
      end,
    })
  end)
  vm.serial[1]:write "abcdef"
  t.eq(table.concat(got), "abc")
  room = 10
  dev.data.front:accept_input()
  t.eq(table.concat(got), "abcdef")
  dev.data.front:write "answer"
  t.eq(vm.serial[1]:history(), "answer")
  t.eq(dev.data.front.congested, false)
  t.eq(dev.data.front.attached, true)
end)

test("events of the outside arrive", function(t)
  local events = {}
  local vm = make(t, function(dev)
    dev:front(dev.chardev, { event = function(_, what) events[#events + 1] = what end })
  end)
  vm.serial[1]:send_break()
  t.eq(events[#events], "break")
end)

test("an error in a handler stops the machine with its place", function(t)
  local vm = make(t, function(dev)
    dev:front(dev.chardev, { receive = function() error "no taste" end })
  end)
  t.may_fail(vm)
  vm:start()
  vm.serial[1]:write "x"
  t.wait_for(function() return vm.status == "error" end)
  t.match(vm.reason, "chardev_front.lua:%d+: no taste")
end)

test("wrong use is refused by name", function(t)
  local vm, dev = make(t, function() end)
  local chr = vm.serial[1]
  t.raises("chardev expected", dev.front, dev, 5, {})
  t.raises("table expected", dev.front, dev, chr)
  t.raises("recieve.*receive", dev.front, dev, chr, { recieve = print })
  t.raises("room: a function expected, got number", dev.front, dev, chr, { room = 5 })
  local front = dev:front(chr, {})
  t.raises("string expected", front.write, front)
  t.raises("baud", front.set_params, front, { baud = 0, data_bits = 8, stop_bits = 1, parity = "N" })
  t.raises("data_bits", front.set_params, front, { baud = 9600, data_bits = 9, stop_bits = 1, parity = "N" })
  t.raises("parity is", front.set_params, front, { baud = 9600, data_bits = 8, stop_bits = 1, parity = "X" })
  t.raises("chardev", dev.front, dev, chr, {}) -- it has its front already
end)

test("a detached front is silent, and its chardev is free for another", function(t)
  local got = ""
  local vm, dev = make(t, function(dev)
    dev.data.front = dev:front(dev.chardev, { receive = function(_, bytes) got = got .. bytes end })
  end)
  dev.data.front:detach()
  dev.data.front:detach()
  t.eq(dev.data.front.attached, false)
  dev.data.front:write "nobody"
  t.eq(vm.serial[1]:history(), "")
  dev:front(vm.serial[1], { receive = function(_, bytes) got = got .. "second " .. bytes end })
  vm.serial[1]:write "x"
  t.match(got, "second x$")
end)

test("a front of a machine that is gone raises", function(t)
  local vm, dev = make(t, function(dev) dev.data.front = dev:front(dev.chardev, {}) end)
  local front = dev.data.front
  vm:close()
  t.raises("gone", front.write, front, "x")
end)

test("a cable whose machine is closed leaves the other end alive", function(t)
  local a_end, b_end = core.link()
  local got = ""
  local a, a_dev = make(t, function(dev) dev.data.front = dev:front(dev.chardev, {}) end, { chardev = a_end })
  local _, b_dev = make(t, function(dev)
    dev.data.front = dev:front(dev.chardev, { receive = function(_, bytes) got = got .. bytes end })
  end, { chardev = b_end })
  a_dev.data.front:write "hello"
  t.wait_for(function() return got == "hello" end)
  a:close()
  b_dev.data.front:write "into nothing"
  t.sleep(0.01)
  t.eq(got, "hello")
end)

-- The A20 gate: with it closed the second megabyte is the first one, as real mode's programs of old want it.
local test = require "vmlua.test"

local guest = "\x31\xc0\x8e\xd8\x48\x8e\xc0" -- xor ax, ax; mov ds, ax; dec ax; mov es, ax
  .. "\xc6\x06\x00\x05\x11"                   -- mov byte [0x500], 0x11
  .. "\x26\xc6\x06\x10\x05\x22"               -- mov byte [es:0x510], 0x22: 0x100500
  .. "\xa0\x00\x05\xe6\x80"                   -- out 0x80, [0x500]
  .. "\xb0\x02\xe6\x92"                       -- open
  .. "\x26\xc6\x06\x10\x05\x33"               -- mov byte [es:0x510], 0x33
  .. "\xa0\x00\x05\xe6\x80"                   -- out 0x80, [0x500]
  .. "\x26\xa0\x10\x05\xe6\x80"               -- out 0x80, [es:0x510]
  .. "\xb0\x00\xe6\x92"                       -- close
  .. "\x26\xa0\x10\x05\xe6\x80"               -- out 0x80, [es:0x510]
  .. "\x26\xc7\x06\x10\x06\xcb\x90"           -- mov word [es:0x610], retf
  .. "\x9a\x10\x06\xff\xff"                   -- call 0xffff:0x610
  .. "\xe6\xf4\xf4"                           -- out 0xf4, al; hlt

local function board(lines)
  return {
    ram = "4M",
    init = function(m)
      m.memory:add(0, m.ram)
      local port = m:device("port92", { id = "port92" })
      port:connect("a20", 0, m:a20 "port92")
      m:device("isa-debug-exit", {})
      m:place(0x7c00, guest)
      m.cpus[1]:set { cs = 0, ds = 0, ss = 0, rsp = 0x7000, rip = 0x7c00 }
      if lines then lines(m) end
    end,
  }
end

local function run(t, accel, lines)
  local vm = t.machine(board(lines), { accel = accel })
  local seen = {}
  vm:pio { port = 0x80, write = true }:on(function(_, x) seen[#seen + 1] = x.value end)
  vm:start()
  t.eq(vm:wait { rt = 20 }, "shutdown")
  return seen, vm
end

for _, accel in ipairs { "soft", "kvm" } do
  test("a guest sees memory wrap at 1 MiB while the gate is closed, on " .. accel, function(t)
    t.accel(accel)
    local seen, vm = run(t, accel)
    t.eq(seen, { 0x22, 0x22, 0x33, 0x22 })
    t.eq(vm.memory:read_u8(0x100500), 0x33)
    t.eq(vm.memory:read_u16(0x600), 0x90cb)
  end)

  test("the gate is open while either of its lines is high, on " .. accel, function(t)
    t.accel(accel)
    local seen = run(t, accel, function(m) m:a20("keyboard"):raise() end)
    t.eq(seen, { 0x11, 0x11, 0x33, 0x33 })
  end)

  test("a closed gate is part of a snapshot, on " .. accel, function(t)
    t.accel(accel)
    local vm = t.machine(board(), { accel = accel })
    local n, last = 0, nil
    vm:pio { port = 0x80, write = true }:on(function(_, x)
      n, last = n + 1, x.value
      if n == 1 then return "pause" end
    end)
    vm:start()
    t.eq(vm:wait { rt = 20 }, "paused")
    local closed = vm:snapshot()
    vm:resume()
    t.eq(vm:wait { rt = 20 }, "shutdown")
    vm:a20("keyboard"):raise()
    vm:restore(closed)
    t.eq(vm:a20("keyboard").level, 0)
    vm:resume()
    t.eq(vm:wait { rt = 20 }, "shutdown")
    t.eq(last, 0x22)
  end)
end

test("only parts that have a line to the gate can be named", function(t)
  local vm = t.machine(board(), { accel = "soft" })
  t.raises("invalid option", function() vm:a20 "mouse" end)
end)

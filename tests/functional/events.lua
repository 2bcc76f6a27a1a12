-- Sources of events: every source with every verb, and what is refused.
local sched = require "vmlua.sched"
local test = require "vmlua.test"

local function guest(name, fn)
  test(name, function(t)
    t.accel()
    fn(t)
  end)
end

-- l: out 0x80,al; mov [0xd0000],al; in al,0x81; "hi" to the serial port; jmp l
local code = "\xb8\x00\xd0\x8e\xd8\x30\xc0" -- mov ax,0xd000; mov ds,ax; xor al,al
  .. "\xe6\x80\xa2\x00\x00\xe4\x81\xba\xf8\x03\xb0\x68\xee\xb0\x69\xee\xeb\xee" -- … out "h", out "i"; jmp

local function board(guest_code)
  return {
    ram = "512K",
    init = function(m)
      m.memory:add(0, m.ram)
      m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
      m:place(0x7c00, guest_code or code)
      m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    end,
  }
end

local function sources(vm)
  return {
    pio = vm:pio { port = 0x80, write = true },
    ["pio read"] = vm:pio { port = 0x81, read = true },
    mmio = vm:mmio { addr = 0xd0000 },
    exec = vm:exec(0x7c07),
    ["any exit"] = vm:exit(),
    ["port exits"] = vm:exit "pio",
    text = vm.serial[1]:text "hi",
  }
end

local function answers_all_verbs(t, vm, name, src)
  local calls = 0
  local hook = src:on(function() calls = calls + 1 end)
  local ring = src:trace(4)
  t.eq({ type(hook.how), hook.hits, hook.armed }, { "string", 0, true }, name)
  vm:resume()
  t.ok(src:wait { rt = 20 }, name .. ": wait")
  t.ok(src:wait { t = 20, rt = 20 }, name .. ": wait again")
  vm:pause()
  t.ok(src:run_until { rt = 20 }, name .. ": run_until")
  t.eq(vm.status, "paused", name)
  t.ok(calls >= 2, name .. ": calls")
  t.eq(hook.hits, calls, name .. ": hits")
  t.ok(ring.total >= 2 and #ring:list() == math.min(4, ring.total), name .. ": ring")
  t.eq(type(ring.how), "string")
  hook:remove()
  hook:remove()
  ring:remove()
  t.eq(hook.armed, false)
  local before = calls
  vm:resume()
  t.ok(src:wait { rt = 20 }, name)
  vm:pause()
  t.eq(calls, before, name .. ": called after remove")
  t.raises("removed", ring.list, ring)
end

-- A machine each: a text that the guest wrote for another source before would count for a wait, and not for a hook.
guest("every source answers on, wait, trace and run_until", function(t)
  for name in pairs(sources(t.machine(board()))) do
    local vm <close> = t.machine(board())
    answers_all_verbs(t, vm, name, sources(vm)[name])
  end
end)

guest("an exit is named, and a wrong name is refused with the nearest", function(t)
  local halting = board "\xfa\xf4\xeb\xfd"
  halting.irqchip = "off"
  local vm = t.machine(halting)
  local x = t.ok(vm:exit "hlt":run_until { rt = 20 })
  t.eq(x.kind, "exit")
  t.raises("unknown exit kind 'htl'.*hlt", vm:exit "htl".on, vm:exit "htl", print)
end)

guest("a reset and a change of state are events", function(t)
  local vm = t.machine(board())
  local resets, changes = 0, 0
  vm:resets():on(function() resets = resets + 1 end)
  vm:status_changes():on(function() changes = changes + 1 end)
  vm:reset()
  t.eq(resets, 1)
  vm:resume()
  vm:pause()
  t.ok(changes >= 2)
end)

guest("a hook that is used up keeps its figures", function(t)
  local vm = t.machine(board())
  local calls = 0
  local hook = vm:pio { port = 0x80, limit = 3, skip = 2 }:on(function() calls = calls + 1 end)
  vm:pio({ port = 0x80, skip = 10 }):run_until { rt = 20 }
  t.eq({ calls, hook.armed }, { 3, false })
  t.ok(hook.hits >= 3, "hits is " .. hook.hits)
end)

guest("what can never happen is refused, at the line of the script that asks", function(t)
  local vm = t.machine(board())
  local here = "events.lua:%d+: "
  local function never(pattern, fn) t.raises(here .. ".*" .. pattern, fn) end
  never("cpu is to be 1 to 1, got 2", function() vm:pio { port = 1, cpu = 2 } end)
  never("cpu is to be 1 to 1, got 0", function() vm:pio { port = 1, cpu = 0 } end)
  never("skip is to be 0 or more", function() vm:pio { port = 1, skip = -1 } end)
  never("limit is to be 1 or more", function() vm:exec(1, { limit = 0 }) end)
  never("go beyond the last, 0xffff", function() vm:pio { port = 0xffff, len = 2 } end)
  never("go beyond the last", function() vm:pio { port = -1 } end)
  never("go beyond the last", function() vm:mmio { addr = -1, len = 2 } end)
  never("go beyond the last, 0xffffffff", function() vm:msr { index = 1 << 32 } end)
  never("is ram @", function() local _ = vm:mmio { addr = 0x1000 }:on(print) end)
  never("is ram @", function() local _ = vm:mmio { addr = 0x1000 }:wait { rt = 1 } end)
  never("no interrupt line 4444", function() local _ = vm:irq(4444):on(print) end)
  never("trace%(%) takes how many", function() local _ = vm:exit():trace(0) end)
  never("trace%(%) takes how many", function() local _ = vm:exit():trace() end)
end)

guest("a wait with a wrong limit, or that cannot resume, leaves nothing armed", function(t)
  local vm = t.machine(board())
  local before = #vm:hooks()
  for _, limits in ipairs { { rt = 0 / 0 }, { rt = -1 }, { t = -1 }, { t = 0 / 0 } } do
    t.raises("events.lua:%d+: .* 0 or more seconds", function() local _ = vm:pio({ port = 0x80 }):wait(limits) end)
  end
  t.raises("unknown option \"tr\"", function() local _ = vm:pio({ port = 0x80 }):wait { tr = 1 } end)
  vm:stop()
  t.raises("reset it to run it again", function() local _ = vm:pio({ port = 0x80 }):run_until { rt = 1 } end)
  t.eq(#vm:hooks(), before)
end)

guest("limits beyond all time are none", function(t)
  local vm = t.machine(board())
  vm:resume()
  t.ok(vm:pio({ port = 0x80 }):wait { t = math.huge, rt = 1e300 })
end)

guest("a wait may wait in many tasks at once", function(t)
  local vm = t.machine(board())
  local tasks = {}
  for i = 1, 10 do
    tasks[i] = sched.spawn(function() return vm:pio({ port = 0x80, skip = i }):wait { rt = 20 } end)
  end
  vm:resume()
  for _, task in ipairs(tasks) do t.ok(task:join()) end
end)

guest("a machine that is stopped has stopped", function(t)
  local vm = t.machine(board())
  vm:resume()
  vm:stop "enough"
  t.eq({ vm.status, vm.reason }, { "shutdown", "enough" })
end)

guest("a restore that is refused ends no wait", function(t)
  local vm, other = t.machine(board()), t.machine(board(), { smp = 2 })
  local foreign = other:snapshot()
  local task = sched.spawn(function() return vm:wait { rt = 20 } end)
  local second = sched.spawn(function() return vm:pio({ port = 0x7777 }):wait { rt = 20 } end)
  vm:resume()
  sched.yield()
  sched.yield()
  t.raises("has a 'cpu' 1, which this machine has not", vm.restore, vm, foreign)
  t.raises("snapshot expected", vm.restore, vm, nil)
  vm:stop "over"
  t.eq({ task:join() }, { "shutdown", "over" })
  second:cancel()
end)

guest("an event says what it is, also when it is over", function(t)
  local vm = t.machine(board())
  local seen, kept
  vm:pio { port = 0x80, write = true }:on(function(_, x)
    seen, kept = tostring(x), x
    return "pause"
  end)
  vm:resume()
  vm:wait { rt = 20 }
  t.eq(seen, "pio write of 1 byte at 0x80: 0x0 (cpu 1)")
  t.eq(tostring(kept), "event (over)")
end)

guest("each wait for a text is answered by one occurrence of it", function(t)
  -- "AAA" to the serial port, then 0x80, then nothing
  local vm = t.machine(board "\xba\xf8\x03\xb0A\xee\xee\xee\xe6\x80\xfa\xf4\xeb\xfd")
  local source = vm.serial[1]:text "A"
  t.ok(vm:pio({ port = 0x80 }):run_until { rt = 20 })
  for i = 1, 3 do
    t.eq(t.ok(source:wait { rt = 20 }, "occurrence %d", i).value, i)
  end
  t.eq({ source:wait { rt = 0.05 } }, { nil, "timeout" })
end)

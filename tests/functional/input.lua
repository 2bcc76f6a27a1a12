-- Keys and mouse through scripts, to guests that take them from the controller.
local layouts = require "vmlua.layouts"
local sched = require "vmlua.sched"
local test = require "vmlua.test"

-- Polls port 0x64 and stores each byte of port 0x60 from 0x8000 on, its status in bit 5 (mouse) beside it; a byte is
-- taken only after a long wait, as by a busy guest. The count is at 0x7000.
local guest = "\x31\xc0\x8e\xd8\x8e\xc0" -- xor ax, ax; mov ds, ax; mov es, ax
  .. "\xbf\x00\x80"                      -- mov di, 0x8000
  .. "\xb9\x00\x01\xe2\xfe"              -- again: mov cx, 256; loop $
  .. "\xe4\x64\xa8\x01\x74\xf5"          -- in al, 0x64; test al, 1; jz again
  .. "\x88\xc4\xe4\x60"                  -- mov ah, al; in al, 0x60
  .. "\x89\x05\x47\x47"                  -- mov [di], ax; inc di; inc di
  .. "\xff\x06\x00\x70"                  -- inc word [0x7000]
  .. "\xeb\xe7"                          -- jmp again

local boards = 0
local function make(t, props)
  boards = boards + 1
  return t.machine {
    name = ("input-test-%d"):format(boards), ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      local p = { id = "kbc" }
      for k, v in pairs(props or {}) do p[k] = v end
      local kbc = m:device("i8042", p)
      kbc:connect("kbd-irq", 0, 1)
      kbc:connect("aux-irq", 0, 12)
      kbc:connect("a20", 0, m:a20 "keyboard")
      m:place(0x7c00, guest)
      m:on_reset(function() m.cpus[1]:set { cs = 0, rip = 0x7c00, rflags = 2 } end)
      m.cpus[1]:set { cs = 0, rip = 0x7c00, rflags = 2 }
    end,
  }
end

local function taken(vm, aux)
  local out = {}
  for i = 0, vm.memory:read_u16(0x7000) - 1 do
    local v = vm.memory:read_u16(0x8000 + 2 * i)
    if v & 0x2000 == 0 == not aux then out[#out + 1] = ("%02x"):format(v & 0xff) end
  end
  return table.concat(out, " ")
end

-- Set 1 codes of a US keyboard as text again.
local us = {}
local function decode(vm)
  if not next(us) then
    local rows = { [0x02] = "1234567890-=\b\tqwertyuiop[]\n", [0x1e] = "asdfghjkl;'`", [0x2b] = "\\zxcvbnm,./", [0x39] = " " }
    local shifted = { [0x02] = "!@#$%^&*()_+\b\tQWERTYUIOP{}\n", [0x1e] = "ASDFGHJKL:\"~", [0x2b] = "|ZXCVBNM<>?", [0x39] = " " }
    for first, row in pairs(rows) do
      for i = 1, #row do us[first + i - 1] = { row:sub(i, i), shifted[first]:sub(i, i) } end
    end
  end
  local out, shift = {}, false
  for code in taken(vm):gmatch "%x+" do
    local n = tonumber(code, 16)
    if n & 0x7f == 0x2a then shift = n < 0x80
    elseif n < 0x80 then out[#out + 1] = us[n] and us[n][shift and 2 or 1] or ("<%02x>"):format(n) end
  end
  return table.concat(out)
end

test("typed text reaches a slow guest, and no key of it is lost", function(t)
  local vm = make(t)
  vm:start()
  local str = "The quick brown fox jumps over the lazy dog; 0123456789 !@#$%^&*()_+-=[]{}|\\:\"',.<>/?`~\n"
  t.ok(vm.keyboard:type(str, { gap = 0, rt = 60 }))
  t.eq(decode(vm), str)
end)

test("a layout decides which keys make a character", function(t)
  local vm = make(t)
  vm:start()
  t.ok(vm.keyboard:type("zyä", { layout = "de", rt = 60 }))
  t.eq(taken(vm), "15 95 2c ac 28 a8")
  vm.keyboard.layout = "fr"
  t.eq(vm.keyboard.layout, "fr")
  t.ok(vm.keyboard:type("a1@", { rt = 60 }))
  t.eq(taken(vm):sub(19), "10 90 2a 02 82 aa e0 38 0b 8b e0 b8")
  t.raises("unknown keyboard layout \"dvorak\"", function() vm.keyboard.layout = "dvorak" end)
  t.raises("no key for", function() vm.keyboard:type("\u{4e2d}") end)
end)

test("every layout makes ASCII", function(t)
  for _, name in ipairs { "us", "gb", "de", "fr", "es" } do
    local map = layouts.map(name)
    for c = 32, 126 do t.ok(map[string.char(c)], "layout %s has no %q", name, string.char(c)) end
  end
  t.eq(layouts.map "de"["ê"], { level = 9, { "grave_accent" }, { "e" } })
  t.eq(layouts.map "de"["^"], { level = 1, { "grave_accent" }, { "spc" } })
end)

test("a combination is held together and let go in reverse", function(t)
  local vm = make(t)
  vm:start()
  t.ok(vm.keyboard:combo("ctrl-alt-delete", { rt = 60 }))
  t.eq(taken(vm), "1d 38 e0 53 e0 d3 b8 9d")
  t.raises("did you mean \"?'?delete", function() vm.keyboard:combo "ctrl-alt-delet" end)
end)

test("keys are pressed and released one by one", function(t)
  local vm = make(t)
  vm:start()
  t.ok(vm.keyboard:press("shift", { rt = 60 }))
  t.ok(vm.keyboard:press("enter", { rt = 60 }))
  t.ok(vm.keyboard:release("ret", { rt = 60 }))
  vm.keyboard:release_all()
  t.wait_for(function() return vm:input().keyboard_idle end, 30, "the last key was not taken")
  t.wait_for(function() return taken(vm) == "2a 1c 9c aa" end, 30, "other codes came")
end)

test("typing to a guest that takes nothing ends at its limit", function(t)
  local vm = make(t)
  local ok, why = vm.keyboard:type("ab", { rt = 0.05 })
  t.eq({ ok == nil, why }, { true, "timeout" })
end)

test("typing ends when the machine is closed or restored", function(t)
  local vm = make(t)
  local s = vm:snapshot()
  local task = sched.spawn(function() return vm.keyboard:type "a" end)
  t.sleep(0.02)
  vm:restore(s)
  t.eq(table.pack(task:join()), { nil, "restored", n = 2 })
  task = sched.spawn(function() return vm.keyboard:type "a" end)
  t.sleep(0.02)
  vm:close()
  t.eq(table.pack(task:join()), { nil, "closed", n = 2 })
  t.raises("gone", function() vm.keyboard:type "a" end)
end)

test("two tasks type on two machines at once", function(t)
  local a, b = make(t), make(t)
  a:start()
  b:start()
  local one = sched.spawn(function() return a.keyboard:type("aaaa", { rt = 60 }) end)
  local two = sched.spawn(function() return b.keyboard:type("bbbb", { rt = 60 }) end)
  t.ok(one:join())
  t.ok(two:join())
  t.eq({ decode(a), decode(b) }, { "aaaa", "bbbb" })
end)

test("LEDs are the guest's, and with Caps Lock letters are typed the other way round", function(t)
  local vm = make(t)
  t.eq(vm.keyboard.leds, { scroll = false, num = false, caps = false })
  vm.io:write_u8(0x60, 0xed)
  vm.io:read_u8(0x60)
  vm.io:write_u8(0x60, 0x06)
  vm.io:read_u8(0x60)
  t.eq(vm.keyboard.leds, { scroll = false, num = true, caps = true })
  vm:start()
  t.ok(vm.keyboard:type("aB1", { rt = 60 }))
  t.eq(decode(vm), "Ab1")
end)

test("the mouse moves, clicks and turns its wheel", function(t)
  local vm = make(t)
  local function tell(...)
    for _, byte in ipairs { ... } do
      vm.io:write_u8(0x64, 0xd4)
      vm.io:write_u8(0x60, byte)
      t.eq(vm.io:read_u8(0x60), 0xfa)
    end
  end
  tell(0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf4)
  vm:start()
  t.ok(vm.mouse:move(10, -5, { rt = 60 }))
  t.ok(vm.mouse:click("right", { rt = 60 }))
  t.ok(vm.mouse:wheel(-1, { rt = 60 }))
  t.wait_for(function() return taken(vm, true) == "08 0a 05 00 0a 00 00 00 08 00 00 00 08 00 00 ff" end, 30, "other packets came")
  t.raises("unknown mouse button", function() vm.mouse:click "lft" end)
  t.raises("takes motion", function() vm.mouse:to(0.5, 0.5) end)
end)

test("a machine without a keyboard says so", function(t)
  local vm = t.machine { name = "no-keyboard", ram = "64K", init = function(m) m.memory:add(0, m.ram) end }
  t.raises("has no keyboard", function() vm.keyboard:type "a" end)
  t.raises("has no mouse", function() vm.mouse:click() end)
  t.raises("unknown key", function() vm:input():key("nokey", true) end)
  t.raises("unknown option", function() make(t).keyboard:type("a", { gab = 1 }) end)
end)

test("the controller resets the machine", function(t)
  local vm = make(t)
  local resets = 0
  vm:on_reset(function() resets = resets + 1 end)
  vm.io:write_u8(0x64, 0xfe)
  t.wait_for(function() return resets == 1 end, 10, "no reset came")
  vm.io:write_u8(0x64, 0xd1)
  vm.io:write_u8(0x60, 0x02)
  t.wait_for(function() return resets == 2 end, 10, "no second reset came")
end)

test("the controller opens and closes A20", function(t)
  local vm = make(t)
  vm.io:write_u8(0x64, 0xdd)
  t.eq(vm:a20("keyboard").level, 0)
  vm.io:write_u8(0x64, 0xdf)
  t.eq(vm:a20("keyboard").level, 1)
end)

test("a snapshot between two codes of a key keeps the second", function(t)
  local vm = make(t, { throttle = 0 })
  vm:input():key("up", true)
  t.eq(vm.io:read_u8(0x60), 0xe0)
  local s = vm:snapshot()
  t.eq(vm.io:read_u8(0x60), 0x48)
  vm:restore(s)
  t.eq(vm.io:read_u8(0x64) & 1, 1)
  t.eq(vm.io:read_u8(0x60), 0x48)
end)

-- vm.screen: characters, pixels, pictures, texts that are waited for. The machine has a VGA on the ISA bus that the
-- test programs through its ports, and a guest that writes to its memory.
local core = require "vmlua.core.machine"
local test = require "vmlua.test"

local function hex(s) return (s:gsub("%s", ""):gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)) end

-- IBM's table for mode 3 and for mode 13h: misc; sequencer 1-4; CRTC; attributes; graphics.
local modes = {
  text = {
    hex "67", hex "00030002",
    hex "5f4f508255 81bf1f004f0d0e00000000 9c8e8f281f96b9a3ff",
    hex "000102030405140738393a3b3c3d3e3f0c000f0800", hex "0000000000100e00ff",
  },
  pixels = {
    hex "63", hex "010f000e",
    hex "5f4f50825480bf1f0041000000000000 9c8e8f284096b9a3ff",
    hex "000102030405060708090a0b0c0d0e0f41000f0000", hex "000000000040050fff",
  },
}

local function set_mode(vm, name)
  local misc, seq, crtc, attr, gc = table.unpack(modes[name])
  local io = vm.io
  local function indexed(port, first, bytes)
    for i = 1, #bytes do
      io:write_u8(port, first + i - 1)
      io:write_u8(port + 1, bytes:byte(i))
    end
  end
  io:write_u8(0x3c2, misc:byte())
  indexed(0x3c4, 1, seq)
  indexed(0x3d4, 0x11, "\x0e")
  indexed(0x3d4, 0, crtc)
  indexed(0x3ce, 0, gc)
  io:read_u8(0x3da)
  for i = 1, #attr do
    io:write_u8(0x3c0, i - 1)
    io:write_u8(0x3c0, attr:byte(i))
  end
  io:write_u8(0x3c0, 0x20)
  io:write_u8(0x3c6, 0xff)
  io:write_u8(0x3c8, 0)
  for i = 0, 255 do
    for _, shift in ipairs { 0, 1, 2 } do io:write_u8(0x3c9, (i << shift) & 0x3f) end
  end
end

local function clear(vm) vm.memory:write(0xb8000, (" \x07"):rep(80 * 25)) end

local function put(vm, column, row, text, attr)
  local out = {}
  for i = 1, #text do out[i] = text:sub(i, i) .. string.char(attr or 7) end
  vm.memory:write(0xb8000 + 2 * (80 * (row - 1) + column - 1), table.concat(out))
end

local boards = 0
local function machine(t, guest)
  boards = boards + 1
  local vm = t.machine {
    name = ("screen-%d"):format(boards), ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      m:device("isa-vga", { id = "vga" })
      m:device("isa-debug-exit", { iobase = 0xf4 })
      m:place(0x7c00, guest or "\xf4\xeb\xfd")
      m.cpus[1]:set { cs = 0, ds = 0, es = 0, ss = 0, rip = 0x7c00, rsp = 0x7c00, rflags = 2 }
    end,
  }
  set_mode(vm, "text")
  clear(vm)
  return vm
end

test("text() is what stands on the screen, as UTF-8, without blanks at the ends of rows", function(t)
  local vm = machine(t)
  put(vm, 1, 1, "hello")
  put(vm, 3, 2, "\xc9\xcd\xbb \x80 \x01")
  local text = vm.screen:text()
  local rows = vm.screen:text { rows = true }
  t.eq(#rows, 25)
  t.eq(rows[1], "hello")
  t.eq(rows[2], "  ╔═╗ Ç ☺")
  t.eq(rows[3], "")
  t.eq(text, "hello\n  ╔═╗ Ç ☺\n" .. ("\n"):rep(23))
  t.eq(vm.screen.mode, "text")
end)

test("another code page gives other characters, an unknown one is refused", function(t)
  local vm = machine(t)
  put(vm, 1, 1, "\xd5\xa4")
  vm.screen.codepage = "cp850"
  t.eq(vm.screen:text { rows = true }[1], "ıñ")
  vm.screen.codepage = "cp437"
  t.eq(vm.screen:text { rows = true }[1], "╒ñ")
  t.raises("codepage 'klingon' is not known", function() vm.screen.codepage = "klingon" end)
  t.raises("not one of one byte", function() vm.screen.codepage = "utf-16" end)
end)

test("cells have colours and attributes", function(t)
  local vm = machine(t)
  put(vm, 2, 1, "x", 0x9e)
  local cell = vm.screen:text { cells = true }[1][2]
  t.eq(cell.char, "x")
  t.eq(cell.code, 0x78)
  t.eq(cell.fg, 14)
  t.eq(cell.bg, 1)
  t.eq(cell.blink, true)
  t.eq(cell.underline, false)
end)

test("the cursor is where the CRTC has it, or nowhere", function(t)
  local vm = machine(t)
  local function crtc(i, v)
    vm.io:write_u8(0x3d4, i)
    vm.io:write_u8(0x3d5, v)
  end
  crtc(0x0e, 0)
  crtc(0x0f, 80 + 4)
  local column, row = vm.screen:cursor()
  t.eq(column, 5)
  t.eq(row, 2)
  crtc(0x0a, 0x20)
  t.eq(vm.screen:cursor(), nil)
end)

test("graphics modes have no text, and say so", function(t)
  local vm = machine(t)
  set_mode(vm, "pixels")
  local text, why = vm.screen:text()
  t.eq(text, nil)
  t.match(why, "graphics mode %(640 x 400%)")
  t.eq(vm.screen.mode, "graphics")
  t.eq(select("#", vm.screen:size()), 2)
  vm.memory:write(0xa0000, "\x15" .. ("\0"):rep(1000))
  t.eq(vm.screen:pixel(0, 0), 0x55aa51)
  t.eq(vm.screen:pixel(1, 1), 0x55aa51)
  t.eq(vm.screen:pixel(2, 2), 0)
  t.raises("y", function() vm.screen:pixel(0, 400) end)
end)

test("a picture written as PNG matches, and a changed one does not", function(t)
  local vm = machine(t)
  local file = t.tmpdir() .. "/screen.png"
  set_mode(vm, "pixels")
  vm.memory:write(0xa0000, ("\x10\x20\x30\x40"):rep(1000))
  t.eq(vm.screen:png(file), true)
  t.eq(vm.screen:match(file), true)
  local before = vm.screen:hash()
  t.eq(#before, 64)
  vm.memory:write(0xa0000 + 320 * 100 + 7, "\x3f")
  t.ne(vm.screen:hash(), before)
  t.eq(vm.screen:hash { 0, 0, 640, 200 }, vm.screen:hash { 0, 0, 640, 200 })
  local same, info = vm.screen:match(file)
  t.eq(same, false)
  t.eq(info.different, 4)
  t.eq(info.x, 14)
  t.eq(info.y, 200)
  t.eq(info.compared, 640 * 400)
  t.eq(vm.screen:match(file, { roi = { 0, 0, 640, 200 } }), true)
  t.eq(vm.screen:match(file, { tolerance = 255 }), true)
  t.eq(vm.screen:match(file, { tolerance = info.worst - 1 }), false)
  t.eq(vm.screen:match(file, { pixels = 4 }), true)
  t.eq(vm.screen:match(file, { pixels = 3 }), false)
end)

test("a mask leaves out what is black in it", function(t)
  local vm = machine(t)
  local file, mask = t.tmpdir() .. "/screen.png", t.tmpdir() .. "/mask.png"
  set_mode(vm, "pixels")
  vm.memory:write(0xa0000, ("\x3f"):rep(64000))
  vm.memory:write(0xa0000 + 10, "\0")
  vm.screen:png(mask) -- black at one pixel
  vm.memory:write(0xa0000 + 10, "\x3f")
  vm.screen:png(file)
  vm.memory:write(0xa0000 + 10, "\x15")
  t.eq(vm.screen:match(file), false)
  t.eq(vm.screen:match(file, { mask = mask }), true)
end)

test("pictures that cannot be compared give a message", function(t)
  local vm = machine(t)
  local same, why = vm.screen:match "/does/not/exist.png"
  t.eq(same, nil)
  t.match(why, "No such file")
  local file = t.tmpdir() .. "/x.png"
  vm.screen:png(file)
  set_mode(vm, "pixels")
  same, why = vm.screen:match(file)
  t.eq(same, nil)
  t.match(why, "has 720 x 400 pixels, what is compared 640 x 400")
  local f = assert(io.open(file, "wb"))
  f:write "this is no picture"
  f:close()
  same, why = vm.screen:match(file)
  t.eq(same, nil)
  t.match(why, "x.png")
  t.raises('unknown option "tolerence"', function() vm.screen:match(file, { tolerence = 1 }) end)
  t.raises("roi", function() vm.screen:match(file, { roi = { 0, 0, 9999, 1 } }) end)
end)

-- Counts 65536 * 20 times, then writes "Ok" and halts.
local late = "\xb8\x00\xb8\x8e\xc0" -- mov ax, 0xb800; mov es, ax
  .. "\xba\x14\x00\x31\xc9"         -- mov dx, 20; outer: xor cx, cx
  .. "\xe2\xfe\x4a\x75\xf9"         -- loop $; dec dx; jnz outer
  .. "\x26\xc7\x06\xa0\x00\x4f\x07" -- mov word [es:160], 'O' | 7 << 8
  .. "\x26\xc7\x06\xa2\x00\x6b\x07" -- mov word [es:162], 'k' | 7 << 8
  .. "\xf4\xeb\xfd"

local function need_accel(t)
  local accel, why = core.select_accel { "auto" }
  if not accel then t.skip(why) end
end

test("wait ends when the guest has written the text", function(t)
  need_accel(t)
  local vm = machine(t, late)
  vm:start()
  local x, why = vm.screen:text "Ok":wait { rt = 60 }
  t.eq(why, nil)
  t.eq(x.text, "Ok")
  t.eq(vm.screen:text { rows = true }[2], "Ok")
  -- What stands there already counts, also while the machine stands.
  t.ne(vm.screen:text "Ok":wait { rt = 60 }, nil)
  vm:pause()
  t.ne(vm.screen:text "Ok":wait { rt = 60 }, nil)
end)

test("wait gives up after its time", function(t)
  need_accel(t)
  local vm = machine(t)
  vm:start()
  local x, why = vm.screen:text "never":wait { rt = 0.1 }
  t.eq(x, nil)
  t.eq(why, "timeout")
end)

test("run_until pauses the machine when the text stands there", function(t)
  need_accel(t)
  local vm = machine(t, late)
  local x = vm.screen:text "Ok":run_until { rt = 60 }
  t.eq(x.text, "Ok")
  t.eq(vm.status, "paused")
end)

test("a text that comes just before the machine stops is seen", function(t)
  need_accel(t)
  local vm = machine(t, late:sub(1, -4) .. "\xb0\x01\xe6\xf4\xf4") -- out 0xf4, al: ends the run
  local seen = 0
  vm.screen:text("Ok"):on(function() seen = seen + 1 end)
  vm:start()
  vm:wait { rt = 60 }
  t.eq(vm.status, "shutdown")
  t.eq(seen, 1)
end)

test("on sees a text each time it comes, trace keeps when, until they are removed", function(t)
  need_accel(t)
  local vm = machine(t)
  put(vm, 1, 1, "again")
  local seen = 0
  local hook = vm.screen:text("again"):on(function(_, x)
    seen = seen + 1
    t.eq(x.kind, "text")
  end)
  local ring = vm.screen:text("again"):trace(2)
  vm:start()
  local function show(shown)
    put(vm, 1, 1, shown and "again" or "     ")
    local sentinel = shown and "sentinel" or "SENTINEL"
    put(vm, 1, 3, sentinel)
    t.ne(vm.screen:text(sentinel):wait { rt = 60 }, nil)
    require("vmlua.sched").sleep(0.03, vm) -- of the machine's time: three looks
  end
  t.eq(seen, 0) -- it stood there before
  for n = 1, 3 do
    show(false)
    t.eq(seen, n - 1)
    show(true)
    t.eq(seen, n)
  end
  t.eq(ring.total, 3)
  local list = ring:list()
  t.eq(#list, 2)
  t.eq(list[1].text, "again")
  t.ok(list[1].time < list[2].time)
  t.eq(hook.hits, 3)
  hook:remove()
  show(false)
  show(true)
  t.eq(seen, 3)
  t.eq(ring.total, 4)
  ring:remove()
  t.raises("removed", function() ring:list() end)
end)

test("a text may go over rows, and is never found in a graphics mode", function(t)
  need_accel(t)
  local vm = machine(t)
  put(vm, 1, 4, "one")
  put(vm, 1, 5, "two")
  t.ne(vm.screen:text("one\ntwo"):wait { rt = 60 }, nil)
  set_mode(vm, "pixels")
  local _, why = vm.screen:text("one"):wait { rt = 0.05 }
  t.eq(why, "timeout")
  t.raises("empty", function() vm.screen:text "" end)
end)

test("an error in a callback pauses the machine with the callback's name", function(t)
  need_accel(t)
  local vm = machine(t, late)
  t.may_fail(vm)
  vm.screen:text("Ok"):on(function() error "on purpose" end)
  vm:start()
  local status, reason = vm:wait { rt = 60 }
  t.eq(status, "error")
  t.match(reason, "on purpose")
end)

-- Counts for a while, writes 64 pixels at the beginning of row 100, and ends the run.
local painter = "\xb8\x00\xa0\x8e\xc0" -- mov ax, 0xa000; mov es, ax
  .. "\xba\x04\x00\x31\xc9"            -- mov dx, 4; outer: xor cx, cx
  .. "\xe2\xfe\x4a\x75\xf9"            -- loop $; dec dx; jnz outer
  .. "\xbf\x00\x7d\xb9\x40\x00"        -- mov di, 32000; mov cx, 64
  .. "\xb0\x21\xf3\xaa"                -- mov al, 0x21; rep stosb
  .. "\xb0\x01\xe6\xf4\xf4"

test("one who follows the picture is told what the guest has changed, and no more", function(t)
  need_accel(t)
  local vm = machine(t, painter)
  set_mode(vm, "pixels")
  vm.memory:write(0xa0000, ("\0"):rep(65536))
  vm.screen:refresh()
  local left, top, right, bottom = 1 << 20, 1 << 20, 0, 0
  local follower = vm.screen:on_change(function(x, y, width, height)
    left, top = math.min(left, x), math.min(top, y)
    right, bottom = math.max(right, x + width), math.max(bottom, y + height)
  end, 0.002)
  vm.screen:refresh() -- from here on writes are logged
  left, top, right, bottom = 1 << 20, 1 << 20, 0, 0
  vm:start()
  vm:wait { rt = 60 }
  vm.screen:refresh()
  t.eq(vm.screen:pixel(0, 200), vm.screen:pixel(127, 201))
  t.ne(vm.screen:pixel(0, 200), 0)
  t.eq(("%d %d %d %d"):format(left, top, right, bottom), "0 200 128 202")
  t.ok(follower.hits >= 1)
  follower:remove()
  t.eq(follower.armed, false)
  vm.memory:write(0xa0000, "\x3f")
  t.ne(vm.screen:pixel(0, 0), 0) -- a look of one who does not follow
end)

test("an error of one who follows pauses the machine; a follower may remove itself", function(t)
  need_accel(t)
  local vm = machine(t)
  t.may_fail(vm)
  local once
  once = vm.screen:on_change(function() once:remove() end, 1)
  put(vm, 1, 1, "x")
  vm.screen:refresh()
  put(vm, 1, 1, "y")
  vm.screen:refresh()
  t.eq(once.hits, 1)
  vm:start()
  vm.screen:on_change(function() error "on purpose" end, 1)
  put(vm, 1, 1, "z")
  vm.screen:refresh()
  local status, reason = vm:wait { rt = 60 }
  t.eq(status, "error")
  t.match(reason, "on purpose")
  t.raises("seconds", function() vm.screen:on_change(print, 0) end)
end)

test("a snapshot brings the screen back, and hooks go on", function(t)
  need_accel(t)
  local vm = machine(t)
  put(vm, 1, 1, "before")
  local seen = 0
  vm.screen:text("before"):on(function() seen = seen + 1 end)
  vm:start()
  local snapshot = vm:snapshot()
  set_mode(vm, "pixels")
  t.eq(vm.screen:text(), nil)
  require("vmlua.sched").sleep(0.03, vm) -- of the machine's time: three looks
  t.eq(seen, 0)
  vm:restore(snapshot)
  t.eq(vm.screen:text { rows = true }[1], "before")
  t.ne(vm.screen:text("before"):wait { rt = 60 }, nil)
  t.eq(seen, 1)
end)

test("two machines have a screen each, and a closed one is gone", function(t)
  local a, b = machine(t), machine(t)
  put(a, 1, 1, "A")
  put(b, 1, 1, "B")
  t.eq(a.screen:text { rows = true }[1], "A")
  t.eq(b.screen:text { rows = true }[1], "B")
  t.eq(#a.screens, 1)
  local screen = a.screen
  a:close()
  t.raises("gone", function() screen:text() end)
  t.eq(b.screen:text { rows = true }[1], "B")
end)

test("a machine without a display has no screen", function(t)
  boards = boards + 1
  local vm = t.machine { name = ("screen-%d"):format(boards), ram = "64K", init = function(m) m.memory:add(0, m.ram) end }
  t.eq(vm.screen, nil)
  t.eq(#vm.screens, 0)
end)

-- Runs fn() with a collector that is always at work, and meddle() as a finaliser of what it finds.
local function while_collected(t, meddle, fn)
  local active, runs = true, 0
  local function arm()
    setmetatable({}, { __gc = function()
      if not active then return end
      runs = runs + 1
      meddle(runs)
      arm()
    end })
  end
  local mode = collectgarbage "incremental"
  local pause, multiplier = collectgarbage("setpause", 1), collectgarbage("setstepmul", 1000)
  t.cleanup(function()
    active = false
    collectgarbage("setpause", pause)
    collectgarbage("setstepmul", multiplier)
    collectgarbage(mode)
  end)
  arm()
  local result = fn()
  active = false
  return result, runs
end

test("what a script's finaliser does to the screen meanwhile does no harm", function(t)
  local vm = machine(t)
  put(vm, 1, 1, "hello")
  -- Columns displayed, less one: the characters are laid out anew, in other memory.
  local function other_size(n)
    vm.io:write_u16(0x3d4, 0x0e11) -- protects the others no more
    vm.io:write_u16(0x3d4, ({ [0] = 79, 99, 119, 39 })[n % 4] << 8 | 1)
    vm.screen:text()
  end
  local cells, runs = while_collected(t, other_size, function()
    other_size(0)
    return vm.screen:text { cells = true }
  end)
  t.ok(runs > 0)
  local columns = {}
  for _, row in ipairs(cells) do columns[#row] = true end
  t.eq(columns, { [#cells[1]] = true })
  other_size(0)
  t.eq(vm.screen:text { rows = true }[1], "hello")
end)

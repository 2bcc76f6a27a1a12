-- What -d int, in_asm and exec show of the software CPU.
local log = require "vmlua.core.log"
local test = require "vmlua.test"

local function board(code)
  return {
    ram = "512K", accel = "soft",
    init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, code)
      m:place(6 * 4, "\x00\x7e\x00\x00") -- #UD: 0:7e00
      m:place(0x21 * 4, "\x10\x7e\x00\x00")
      m:place(0x7e00, "\xf4")
      m:place(0x7e10, "\xcf")
      m.cpus[1]:set { cs = 0, ds = 0, ss = 0, rsp = 0x7000, rip = 0x7c00 }
    end,
  }
end

-- Runs to the HLT with these masks; what was logged, as one text.
local function logged(t, masks, code, filter)
  local dir = t.file("log.txt", "")
  assert(log.file(dir))
  t.cleanup(function() log.set "" log.file() log.filter() end)
  if filter then assert(log.filter(filter)) end
  assert(log.set(masks))
  local vm = t.machine(board(code))
  t.ok(vm:exit "hlt":run_until { rt = 20 })
  assert(log.set "")
  log.file()
  local f <close> = assert(io.open(dir))
  return f:read "a"
end

-- int 0x21; mov al,5; ud2
local code = "\xcd\x21\xb0\x05\x0f\x0b"

test("-d int shows vector, kind and place of software interrupts and exceptions", function(t)
  local out = logged(t, "int", code)
  t.match(out, "int: cpu 0: software v=21  ip=0000:0000000000007c02 cpl=0 sp=0000:0000000000007000")
  t.match(out, "int: cpu 0: exception v=06 #UD ip=0000:0000000000007c04")
  local _, lines = out:gsub("\n", "")
  t.eq(lines, 2)
end)

test("-d int,cpu shows the registers too", function(t)
  local out = logged(t, "int,cpu", code)
  t.match(out, "cpu:   RAX 0000000000000005")
end)

test("-d in_asm shows each block once, with addresses and bytes", function(t)
  -- mov cx,3; loop itself; ud2
  local out = logged(t, "in_asm", "\xb9\x03\x00\xe2\xfe\x0f\x0b")
  t.match(out, "in_asm: cpu 0: block at 0000000000007c00 %(0000:7c00%) 16%-bit cpl 0\n"
    .. "in_asm:   0000000000007c00:  b90300 +mov cx, 0x3\n"
    .. "in_asm:   0000000000007c03:  e2fe +loop 0x7c03\n")
  local _, times = out:gsub("block at 0000000000007c03", "")
  t.eq(times, 1)
end)

test("-d exec shows each execution, and -dfilter what is looked at", function(t)
  local looping = "\xb9\x03\x00\xe2\xfe\x0f\x0b"
  local out = logged(t, "exec", looping)
  local _, times = out:gsub("exec: cpu 0: 0000000000007c03", "")
  t.eq(times, 2) -- the first round belongs to the block before it
  out = logged(t, "exec,in_asm", looping, "0x7e00+0x100")
  t.match(out, "exec: cpu 0: 0000000000007e00")
  t.match(out, "in_asm: cpu 0: block at 0000000000007e00")
  t.ok(not out:find "7c00")
end)

test("a wrong address filter is wrong usage", function(t)
  local filtered, err = log.filter "12..x"
  t.eq(filtered, nil)
  t.match(err, "'12%.%.x' is no range")
end)

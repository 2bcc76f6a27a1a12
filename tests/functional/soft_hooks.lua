-- Hooks on instructions and on memory accesses, which only the software CPU serves; breakpoints without limit; disassembly.
local test = require "vmlua.test"

local function hex(s)
  return (s:gsub(";[^\n]*", ""):gsub("%s", ""):gsub("..", function(b) return string.char(tonumber(b, 16)) end))
end

local code = hex [[
  b80100          ; 7c00 mov ax,1
  40              ; 7c03 inc ax
  83c005          ; 7c04 add ax,5
  e680            ; 7c07 out 0x80,al
  40              ; 7c09 inc ax
  a30050          ; 7c0a mov [0x5000],ax
  8b1e0050        ; 7c0d mov bx,[0x5000]
  53              ; 7c11 push bx
  59              ; 7c12 pop cx
  f08306005003    ; 7c13 lock add word [0x5000],3
  bffd5f          ; 7c19 mov di,0x5ffd
  66c70544332211  ; 7c1c mov dword [di],0x11223344
  b90500          ; 7c23 mov cx,5
  b077            ; 7c26 mov al,0x77
  f3aa            ; 7c28 rep stosb
  c706317c3412    ; 7c2a mov word [0x7c31],0x1234
  ba0000          ; 7c30 mov dx,0, which the instruction before changes
  f4              ; 7c33 hlt
]]

local function board(t, bytes, conf)
  local c = {
    ram = "512K", accel = "soft", cpus = conf and conf.cpus or 1,
    init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, bytes or code)
      for _, cpu in ipairs(m.cpus) do cpu:set { cs = 0, ds = 0, es = 0, ss = 0, rsp = 0x7000, rip = 0x7c00 } end
    end,
  }
  for k, v in pairs(conf or {}) do c[k] = v end
  return t.machine(c)
end

local function to_end(t, vm)
  t.ok(vm:exit "hlt":run_until { rt = 20 })
end

-- What a source sees until the HLT, as a list of what fn makes of each.
local function seen(t, vm, src, fn)
  local list = {}
  local hook = src:on(function(cpu, x) list[#list + 1] = fn(x, cpu) end)
  to_end(t, vm)
  t.eq(hook.hits, #list)
  hook:remove()
  return list
end

local function text(x) return x.text end
local function place(x) return ("%x"):format(x.addr) end

test("an instruction hook without a filter sees every instruction once, in order", function(t)
  local vm = board(t)
  t.eq(seen(t, vm, vm:insn(), text), {
    "mov ax, 0x1", "inc ax", "add ax, 0x5", "out 0x80, al", "inc ax", "mov [0x5000], ax",
    "mov bx, [0x5000]", "push bx", "pop cx", "lock add word ptr [0x5000], 0x3", "mov di, 0x5ffd",
    "mov dword ptr [di], 0x11223344", "mov cx, 0x5", "mov al, 0x77", "rep stosb", "mov word ptr [0x7c31], 0x1234",
    "mov dx, 0x1234", "hlt",
  })
end)

test("instructions are chosen by place, mnemonic, category, bytes and privilege", function(t)
  local function run(filter)
    local vm = board(t)
    return seen(t, vm, vm:insn(filter), place)
  end
  t.eq(run { addr = 0x7c09 }, { "7c09" })
  t.eq(run { addr = 0x7c07, len = 4 }, { "7c07", "7c09", "7c0a" })
  t.eq(run { mnemonic = "inc" }, { "7c03", "7c09" })
  t.eq(run { mnemonic = "INC", addr = 0x7c04, len = 0x100 }, { "7c09" })
  t.eq(run { category = "io" }, { "7c07" })
  t.eq(run { category = "stringop" }, { "7c28" })
  t.eq(run { bytes = "\x40" }, { "7c03", "7c09" })
  t.eq(run { bytes = "\xb8\x00", mask = "\xf8\x00" }, { "7c00", "7c19", "7c23", "7c30" })
  t.eq(#run { cpl = 0 }, 18)
  t.eq(run { cpl = { 1, 2, 3 } }, {})
  t.eq(run { mnemonic = "inc", skip = 1 }, { "7c09" })
  t.eq(run { mnemonic = "inc", limit = 1 }, { "7c03" })
end)

test("a filter that can never match is refused with the nearest word", function(t)
  local vm = board(t)
  t.raises("unknown mnemonic 'pusj'.*push", vm:insn { mnemonic = "pusj" }.on, vm:insn { mnemonic = "pusj" }, print)
  t.raises("unknown category 'stringo'", vm:insn { category = "stringo" }.on, vm:insn { category = "stringo" }, print)
  t.raises("mask", vm.insn, vm, { bytes = "ab", mask = "a" })
  t.raises("1 to 15", vm.insn, vm, { bytes = ("x"):rep(16) })
  t.raises("len without addr", vm.insn, vm, { len = 4 })
  t.raises("cpl", vm.insn, vm, { cpl = 4 })
  t.raises("cpu is to be 1 to 1", vm.insn, vm, { cpu = 2 })
  t.raises("mnemnic.*mnemonic", vm.insn, vm, { mnemnic = "x" })
  t.raises("phys and virt", vm.mem, vm, { addr = 0, phys = true, virt = true })
  t.raises("linear", vm.mem, vm, { addr = 0, phys = true, fetch = true })
end)

test("a hook sees registers as they are before its instruction, and changes count for it", function(t)
  local vm = board(t)
  vm:insn { addr = 0x7c04 }:on(function(cpu, x)
    t.eq({ cpu.rax, cpu.rip, x.rip }, { 2, 0x7c04, 0x7c04 })
    cpu.rax = 100
  end)
  local out
  vm:pio { port = 0x80 }:on(function(_, x) out = x.value end)
  to_end(t, vm)
  t.eq(out, 105)
  t.eq(vm.memory:read_u16(0x5000), 106 + 3)
end)

test("true skips the instruction, also when registers were changed", function(t)
  local vm = board(t)
  vm:insn { mnemonic = "inc" }:on(function(cpu, x)
    if x.addr == 0x7c09 then cpu.rdi = 7 end
    return true
  end)
  to_end(t, vm)
  t.eq(vm.memory:read_u16(0x5000), 6 + 3)
end)

test("a hook may send the guest elsewhere", function(t)
  local vm = board(t)
  vm:insn { addr = 0x7c07 }:on(function(cpu) cpu.rip = 0x7c33 end)
  to_end(t, vm)
  t.eq(vm.memory:read_u16(0x5000), 0)
end)

test("pause stops before the instruction, once", function(t)
  local vm = board(t)
  local calls = 0
  vm:insn { addr = 0x7c09 }:on(function()
    calls = calls + 1
    return "pause"
  end)
  vm:resume()
  t.eq(vm:wait { rt = 20 }, "paused")
  t.eq({ vm.cpus[1].rip, vm.cpus[1].rax }, { 0x7c09, 7 })
  to_end(t, vm)
  t.eq(calls, 1)
end)

test("insn and mem take the verbs of every source", function(t)
  local vm = board(t, hex "a10050 40 a30050 ebf7") -- mov ax,[0x5000]; inc ax; mov [0x5000],ax; jmp
  for _, src in ipairs { vm:insn { mnemonic = "inc" }, vm:mem { addr = 0x5000, write = true }, vm:mem { addr = 0x5000, phys = true } } do
    local ring = src:trace(4)
    vm:resume()
    t.ok(src:wait { rt = 20 })
    t.ok(src:wait { t = 20, rt = 20 })
    vm:pause()
    local x = t.ok(src:run_until { rt = 20 })
    t.eq(vm.status, "paused")
    t.ok(x.kind == "mem" and x.old or x.kind == "mem-phys" or x.text == "inc ax")
    local list = ring:list()
    t.ok(ring.total >= 3)
    t.eq(#list, math.min(4, ring.total))
    t.eq(list[#list].text, x.text)
    ring:remove()
  end
  for _, h in ipairs(vm:hooks()) do t.ok(not h.source:find "^mem" and h.source ~= "insn", h.source) end
  local ok, err
  vm:insn { mnemonic = "inc", limit = 1 }:on(function(_, x)
    ok, err = pcall(function() return x.old end)
  end)
  vm:resume()
  t.ok(vm:insn { mnemonic = "inc" }:wait { rt = 20 })
  t.eq(ok, false)
  t.match(err, "no field 'old'")
end)

test("a removed hook is not called, and the guest goes on without it", function(t)
  local vm = board(t, hex "40 ebfd")
  local n = 0
  local hook = vm:insn { mnemonic = "inc" }:on(function() n = n + 1 end)
  vm:resume()
  t.ok(vm:insn { mnemonic = "inc" }:wait { rt = 20 })
  vm:pause()
  hook:remove()
  local before = n
  t.ok(n > 0)
  local rax = vm.cpus[1].rax
  vm:resume()
  require("vmlua.sched").sleep(0.02)
  vm:pause()
  t.eq(n, before)
  t.ok(vm.cpus[1].rax ~= rax)
end)

test("a hook that is armed while the guest runs is asked", function(t)
  local vm = board(t, hex "40 ebfd")
  vm:resume()
  require("vmlua.sched").sleep(0.01)
  t.ok(vm:insn { mnemonic = "jmp" }:wait { rt = 20 })
  t.ok(vm:exec(0x7c00):wait { rt = 20 })
end)

test("two hundred breakpoints are served at once", function(t)
  local vm = board(t, ("\x40"):rep(200) .. "\xf4")
  local order = {}
  for i = 0, 199 do
    vm:exec(0x7c00 + i):on(function(cpu) order[#order + 1] = cpu.rip - 0x7c00 end)
  end
  to_end(t, vm)
  t.eq(#order, 200)
  for i = 0, 199 do t.eq(order[i + 1], i) end
  t.eq(vm.cpus[1].rax, 200)
end)

test("a breakpoint and an instruction hook at one place are both asked, in that order", function(t)
  local vm = board(t)
  local log = {}
  vm:insn { addr = 0x7c09 }:on(function() log[#log + 1] = "insn" end)
  vm:exec(0x7c09):on(function() log[#log + 1] = "exec" end)
  to_end(t, vm)
  t.eq(log, { "exec", "insn" })
end)

test("a hook on code that changes sees what is there now", function(t)
  -- mov cx,3; again: mov al,0; inc byte [0x7c04]; loop again; hlt
  local vm = board(t, hex "b90300 b000 fe06047c e2f8 f4")
  t.eq(seen(t, vm, vm:insn { addr = 0x7c03 }, text), { "mov al, 0x0", "mov al, 0x1", "mov al, 0x2" })
end)

test("an instruction over the end of a page is hooked, and so is one in memory seen at two addresses", function(t)
  local vm = board(t, "\xe9\xfb\x73") -- jmp 0xeffe
  vm.memory:write(0xeffe, "\xb8\x34\x12\xf4") -- mov ax,0x1234
  t.eq(seen(t, vm, vm:insn { addr = 0xeffe }, text), { "mov ax, 0x1234" })
  t.eq(vm.cpus[1].rax, 0x1234)
  -- The same bytes by segment 0 and by segment 0x10: another linear address is another place, the same one the same.
  vm = board(t, hex "ea 007b 1000") -- jmp 0x10:0x7b00, linear 0x7c00 again
  vm.memory:write(0x7c00, hex "40 83f802 7405 ea 007b 1000 f4") -- inc ax; cmp ax,2; je hlt; jmp 0x10:0x7b00
  t.eq(seen(t, vm, vm:insn { addr = 0x7c00 }, function(x) return x.rip end), { 0x7c00, 0x7b00 })
end)

test("a repeated string instruction is one instruction, however it is interrupted", function(t)
  for _, conf in ipairs { {}, { icount = true } } do
    local vm = board(t, hex "b90030 bf0010 f3aa f4", conf) -- mov cx,0x3000; mov di,0x1000; rep stosb
    t.eq(#seen(t, vm, vm:insn { mnemonic = "stosb" }, place), 1)
    t.eq(vm.cpus[1].rcx, 0)
  end
end)

test("a memory hook sees what is read, written and replaced", function(t)
  local vm = board(t)
  local function access(x)
    return ("%s %x %d %x%s"):format(x.write and "w" or "r", x.addr, x.size, x.value, x.old and (" was %x"):format(x.old) or "")
  end
  t.eq(seen(t, vm, vm:mem { addr = 0x5000, len = 2 }, access),
    { "w 5000 2 8 was 0", "r 5000 2 8", "r 5000 2 8", "w 5000 2 b was 8" })
  vm = board(t)
  t.eq(seen(t, vm, vm:mem { addr = 0x6ffe, len = 2 }, access), { "w 6ffe 2 8 was 0", "r 6ffe 2 8" }) -- push, pop
  vm = board(t)
  t.eq(seen(t, vm, vm:mem { addr = 0x5ffd, len = 0x10, write = true }, access), {
    "w 5ffd 4 11223344 was 0", "w 5ffd 1 77 was 44", "w 5ffe 1 77 was 33", "w 5fff 1 77 was 22", "w 6000 1 77 was 11",
    "w 6001 1 77 was 0",
  })
  vm = board(t)
  t.eq(seen(t, vm, vm:mem { addr = 0x5fff, len = 2, write = true, phys = true, size = 1 }, access),
    { "w 6000 1 11 was 0", "w 5fff 1 77 was 22", "w 6000 1 77 was 11" }) -- the lower part of the first access has three bytes
  vm = board(t)
  t.eq(seen(t, vm, vm:mem { addr = 0, len = 0x80000, value = 0x1234 }, access), { "w 7c31 2 1234 was 0" })
end)

test("a memory hook replaces what is read and what is written", function(t)
  local vm = board(t)
  vm:mem { addr = 0x5000, len = 2, read = true }:on(function(_, x)
    if x.rip == 0x7c0d then
      x.value = 0x4242
      return true
    end
  end)
  vm:mem { addr = 0x5ffd, len = 4, size = 4 }:on(function(_, x)
    x.value = x.old
    return true
  end)
  vm:mem { addr = 0x7c31, write = true }:on(function(_, x)
    x.value = 0x99
    return true
  end)
  to_end(t, vm)
  t.eq({ vm.cpus[1].rbx, vm.cpus[1].rdx }, { 0x4242, 0x99 })
  t.eq(vm.memory:read_u16(0x5000), 11)
  t.eq(vm.memory:read(0x5ffd, 6), "\x77\x77\x77\x77\x77\0")
end)

test("registers that a memory hook changes count after the instruction, and pause comes after it", function(t)
  local vm = board(t)
  vm:mem { addr = 0x5000, write = true, value = 8 }:on(function(cpu)
    cpu.rsi = 0x55
    return "pause"
  end)
  vm:resume()
  t.eq(vm:wait { rt = 20 }, "paused")
  t.eq({ vm.cpus[1].rip, vm.cpus[1].rsi, vm.memory:read_u16(0x5000) }, { 0x7c0d, 0x55, 8 })
  to_end(t, vm)
end)

test("execution of code is an access when it is asked for", function(t)
  local vm = board(t)
  t.eq(seen(t, vm, vm:mem { addr = 0x7c08, len = 3, fetch = true }, function(x)
    return ("%x %d %s"):format(x.addr, x.size, x.fetch)
  end), { "7c07 2 true", "7c09 1 true", "7c0a 3 true" })
  vm = board(t)
  t.eq(seen(t, vm, vm:mem { addr = 0x7c31, fetch = true, write = true }, function(x)
    return x.fetch and "fetch" or "write"
  end), { "write", "fetch" })
end)

test("an error in a hook stops the machine, and it is where the hook was", function(t)
  local path = t.file("board.lua", [[
    return require("vmlua.machine").define { name = "failing", ram = "64K", accel = "soft", init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x1000, "\x90\x40\xf4") m.cpus[1]:set { cs = 0, rip = 0x1000 }
      m:insn { mnemonic = "inc" }:on(function() error "no such luck" end)
    end }]])
  local r = t.vmlua { path, "-monitor", "none" }
  t.eq(r.status, 1)
  t.match(r.err, "stopped by an error: .*board.lua:4: no such luck")
  t.match(r.err, "RIP 0*1001")
end)

test("locked instructions on a watched page are atomic between processors", function(t)
  -- Starts the second processor; both add 1 to [0x5000] 20000 times.
  local guest = hex [[
    31c08ed88ec08ed0bc007cbe8f7cbf0080b91600f3a40f0116407c0f20c00c010f22c0ea467c08000000000000000000ffff0000009bcf00ffff0000
    0093cf001700287c0000b8100000008ed88ec08ed0bb0000e0fec783f0000000ff010000c7831003000000000001c7830003000000450000c7831003
    000000000001c7830003000008460000bdb0000000eb2431c08ed80f0116407c0f20c00c010f22c0eaa57c0800b8100000008ed88ed0bda0000000b9
    204e0000f0ff0500500000e2f7f0ff050406000081fdb00000007402faf4f390833d040600000272f5b001e6f4f4
  ]]
  local vm = t.machine("bare", { kernel = t.file("guest.bin", guest), accel = "soft", smp = 2 })
  local n = 0
  vm:mem { addr = 0x5000, len = 4, write = true, value = 0, mask = 0xff }:on(function() n = n + 1 end)
  vm:start()
  t.eq(vm:wait { rt = 60 }, "shutdown")
  t.eq(vm.memory:read_u32(0x5000), 40000)
  t.eq(n, 40000 // 256)
end)

test("with icount the events of hooks are the same in each run", function(t)
  local first
  for _ = 1, 2 do
    local vm = board(t, nil, { icount = true })
    local list = {}
    vm:insn():on(function(_, x) list[#list + 1] = ("%x@%d"):format(x.addr, x.time) end)
    vm:mem { addr = 0x5000, len = 0x2000 }:on(function(_, x) list[#list + 1] = ("%x=%x@%d"):format(x.addr, x.value, x.time) end)
    to_end(t, vm)
    local all = table.concat(list, " ")
    first = first or all
    t.eq(all, first)
    t.match(all, "7c03@8 7c04@16 ")
  end
end)

test("a step over a hooked instruction asks the hook", function(t)
  local vm = board(t)
  local n = 0
  vm:insn { addr = 0x7c00 }:on(function() n = n + 1 end)
  t.ok(vm.cpus[1]:step())
  t.eq(vm:wait { rt = 20 }, "paused")
  t.eq({ vm.cpus[1].rip, n }, { 0x7c03, 1 })
end)

test("code is disassembled in the mode it will run in", function(t)
  local vm = board(t)
  local list = t.ok(vm.cpus[1]:disassemble(nil, 3))
  t.eq({ list[1].text, list[2].text, list[3].text }, { "mov ax, 0x1", "inc ax", "add ax, 0x5" })
  t.eq({ list[3].addr, list[3].len, list[3].bytes, list[3].mnemonic }, { 0x7c04, 3, "\x83\xc0\x05", "add" })
  t.eq(vm.cpus[1]:disassemble(0x7c13)[1].text, "lock add word ptr [0x5000], 0x3")
  vm.memory:write(0x6000, "\x0f\xff\xff")
  t.eq(#vm.cpus[1]:disassemble(0x6000, 2), 2)
end)

test("KVM refuses to watch instructions and RAM at the call", function(t)
  t.accel "kvm"
  local vm = board(t, nil, { accel = "kvm" })
  t.raises("need the accelerator soft", vm:insn().on, vm:insn(), print)
  t.raises("need the accelerator soft", vm:mem { addr = 0 }.on, vm:mem { addr = 0 }, print)
end)

-- The boards that come with the program: bare in every mode and with every image, hello, demo, lua-uart.
local core = require "vmlua.core.chardev"
local test = require "vmlua.test"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

local EXIT = "\xb0\x00\xe6\xf4\xf4" -- mov al, 0; out 0xf4, al; hlt
local function say(c) return "\xb0" .. c .. "\xe6\xe9" end -- mov al, c; out 0xe9, al: the same in all modes

-- Runs a bare machine to its end; answers it.
local function run(t, conf)
  local vm = t.machine("bare", conf)
  vm:start()
  local status, reason = vm:wait { rt = 20 }
  t.log(status, reason)
  t.eq(status, "shutdown")
  return vm
end
local function said(vm) return vm.data.debugcon:history() end

test("a flat binary runs at 0x7c00 in real mode", function(t)
  -- call next; next: pop ax; out 0xe9, al; mov al, ah; out 0xe9, al
  local vm = run(t, { kernel = t.file("a.bin", "\xe8\x00\x00\x58\xe6\xe9\x88\xe0\xe6\xe9" .. EXIT) })
  t.eq(said(vm), "\x03\x7c")
  t.eq(vm.exit_code, 1)
end)

test("a flat binary runs elsewhere in real mode, above 64 KiB too", function(t)
  t.eq(said(run(t, { kernel = t.file("a.bin", say "L" .. EXIT), addr = 0x500 })), "L")
  -- mov ax, cs; mov al, ah; out 0xe9, al
  t.eq(said(run(t, { kernel = t.file("a.bin", "\x8c\xc8\x88\xe0\xe6\xe9" .. EXIT), addr = "0x80000" })), "\x80")
end)

test("a flat binary runs in protected mode", function(t)
  -- mov eax, 0x12345678; shr eax, 24; out 0xe9, al
  local vm = run(t, { kernel = t.file("a.bin", "\xb8\x78\x56\x34\x12\xc1\xe8\x18\xe6\xe9" .. EXIT), addr = "1M", mode = "protected" })
  t.eq(said(vm), "\x12")
end)

test("a flat binary runs in long mode", function(t)
  -- mov rax, 0x1122334455667788; shr rax, 56; out 0xe9, al
  local code = "\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11\x48\xc1\xe8\x38\xe6\xe9" .. EXIT
  t.eq(said(run(t, { kernel = t.file("a.bin", code), addr = "1M", mode = "long" })), "\x11")
end)

test("long mode reaches memory above what is below 4 GiB", function(t)
  -- mov rbx, 0x100000010; mov byte [rbx], 'H'; mov al, [rbx]; out 0xe9, al
  local code = "\x48\xbb\x10\x00\x00\x00\x01\x00\x00\x00\xc6\x03H\x8a\x03\xe6\xe9" .. EXIT
  local vm = run(t, { kernel = t.file("a.bin", code), addr = "1M", mode = "long", ram = "3100M" })
  t.eq(said(vm), "H")
  t.eq(vm.memory:read_u8(0x100000010), ("H"):byte())
end)

test("the entry point and the stack can be named", function(t)
  -- at 4: mov ax, sp; out 0xe9, al; mov al, ah; out 0xe9, al
  local code = "\xf4\xf4\xf4\xf4\x89\xe0\xe6\xe9\x88\xe0\xe6\xe9" .. EXIT
  t.eq(said(run(t, { kernel = t.file("a.bin", code), entry = 0x7c04, stack = 0x1234 })), "\x34\x12")
end)

local function elf(class, machine, code, addr, memsz)
  if class == 1 then
    return "\127ELF\1\1\1" .. ("\0"):rep(9)
      .. string.pack("<I2I2I4I4I4I4I4I2I2I2I2I2I2", 2, machine, 1, addr, 52, 0, 0, 52, 32, 1, 40, 0, 0)
      .. string.pack("<I4I4I4I4I4I4I4I4", 1, 84, addr, addr, #code, memsz or #code, 7, 4096) .. code
  end
  return "\127ELF\2\1\1" .. ("\0"):rep(9)
    .. string.pack("<I2I2I4i8i8i8I4I2I2I2I2I2I2", 2, machine, 1, addr, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    .. string.pack("<I4I4i8i8i8i8i8i8", 1, 7, 120, addr, addr, #code, memsz or #code, 4096) .. code
end

test("ELF executables of both sizes run in their modes", function(t)
  t.eq(said(run(t, { kernel = t.file("a.elf", elf(1, 3, "\xb8\x78\x56\x34\x12\xc1\xe8\x18\xe6\xe9" .. EXIT, 0x100000)) })), "\x12")
  local code = "\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11\x48\xc1\xe8\x38\xe6\xe9" .. EXIT
  t.eq(said(run(t, { kernel = t.file("a.elf", elf(2, 62, code, 0x200000)) })), "\x11")
end)

-- A Multiboot kernel that prints its command line, if it was started by the rules.
local function multiboot_kernel()
  local header = string.pack("<I4I4I4I4I4I4I4I4", 0x1BADB002, 0x10003, -(0x1BADB002 + 0x10003) & 0xffffffff, 0x100000, 0x100000, 0, 0,
    0x100020)
  -- cmp eax, 0x2badb002; jne end; mov esi, [ebx+16]; next: lodsb; test al, al; jz end; out 0xe9, al; jmp next; end:
  return header .. "\x3d\x02\xb0\xad\x2b\x75\x0c\x8b\x73\x10\xac\x84\xc0\x74\x04\xe6\xe9\xeb\xf7" .. EXIT
end

test("a Multiboot kernel is started by the rules, with its command line", function(t)
  local path = t.file("kernel", multiboot_kernel())
  t.eq(said(run(t, { kernel = path, append = "one=1 two" })), path .. " one=1 two")
end)

test("modules of a Multiboot kernel are in memory", function(t)
  local module = t.file("module.img", "the module's bytes")
  local vm = run(t, { kernel = t.file("kernel", multiboot_kernel()), initrd = module .. " arg" })
  local at = t.ok(vm.memory:find("the module's bytes", 0x100000))
  t.eq(at % 4096, 0)
end)

test("a reset loads the image and the registers again", function(t)
  -- inc byte [cs:data]; mov al, [cs:data]; out 0xe9, al; hlt … data: '0'
  local code = "\x2e\xfe\x06\x0c\x7c\x2e\xa0\x0c\x7c\xe6\xe9\xf4" .. "0"
  local vm = t.machine("bare", { kernel = t.file("a.bin", code) })
  vm:start()
  t.wait_for(function() return said(vm) == "1" end)
  t.eq(vm.memory:read_u8(0x7c0c), ("1"):byte())
  vm:reset()
  t.wait_for(function() return said(vm) == "11" end)
end)

test("firmware begins at the reset vector, below 4 GiB and below 1 MiB", function(t)
  local rom = (say "B" .. EXIT):gsub("$", "")
  rom = rom .. ("\xff"):rep(0xfff0 - #rom) .. "\xea\x00\x00\x00\xf0" -- jmp 0xf000:0
  rom = rom .. ("\xff"):rep(0x10000 - #rom)
  local vm = run(t, { bios = t.file("bios.bin", rom) })
  t.eq(said(vm), "B")
  t.eq(vm.memory:read(0xfffffff0, 5), "\xea\x00\x00\x00\xf0")
  t.eq(vm.memory:read(0xffff0, 5), "\xea\x00\x00\x00\xf0")
  t.refuses(".", vm.memory.write, vm.memory, 0xffff0, "x")
end)

test("symbols of the image name addresses for hooks", function(t)
  local path = t.file("a.bin", "\x90\x90" .. say "S" .. EXIT)
  local vm = t.machine("bare", { kernel = path, symbols = t.file("a.sym", "7c00 T start\n7c02 T say\n") })
  local at
  vm:exec("say"):on(function(cpu) at = cpu.rip end)
  vm:start()
  t.eq(vm:wait { rt = 20 }, "shutdown")
  t.eq(at, 0x7c02)
  t.raises("no symbol 'nowhere'", vm.exec, vm, "nowhere")
end)

-- ---- what bare refuses ---------------------------------------------------------------------------------

local function refused(t, pattern, conf)
  return t.raises(pattern, t.machine, "bare", conf)
end

test("bare says what is wrong with its settings", function(t)
  refused(t, "^board bare has nothing to start: %-kernel FILE, %-bios FILE, or %-idle$", {})
  refused(t, "^%-kernel: /nonexistent: No such file or directory$", { kernel = "/nonexistent" })
  refused(t, "^%-kernel: .*empty: is empty$", { kernel = t.file("empty", "") })
  refused(t, "^%-kernel: .*big: image needs 0x100000 bytes at 0x7c00, RAM is 64K$",
    { kernel = t.file("big", ("\0"):rep(1 << 20)), ram = "64K" })
  refused(t, "^%-kernel: .*a.bin: modules", { kernel = t.file("a.bin", EXIT), initrd = t.file("m", "x") })
  refused(t, "^%-initrd: /nonexistent: No such file", { kernel = t.file("k", multiboot_kernel()), initrd = "/nonexistent" })
  refused(t, "^%-kernel: .*a.bin: a command line", { kernel = t.file("a.bin", EXIT), append = "x" })
  refused(t, "^%-bios: .*: 100 bytes are no whole number of pages$", { bios = t.file("b", ("\0"):rep(100)) })
  refused(t, "^%-symbols: .*:1: expected an address", { kernel = t.file("a.bin", EXIT), symbols = t.file("s", "nonsense\n") })
  refused(t, "^%-addr: expected a size", { kernel = t.file("a.bin", EXIT), addr = "there" })
  refused(t, 'unknown mode "lnog"', { kernel = t.file("a.bin", EXIT), mode = "lnog" })
  refused(t, 'unknown key "kernle" %(did you mean "kernel"%?%)', { kernle = "x" })
  refused(t, "serial ports", { idle = true, serial = { "null", "null" } })
  refused(t, "uuid", { idle = true, uuid = "2d9a1e3c-8f04-4c55-9f0a-0c6ea1a3b1f7" })
end)

test("a refused machine leaves nothing behind", function(t)
  local machine = require "vmlua.machine"
  for _ = 1, 20 do refused(t, "nothing to start", {}) end
  t.eq(#machine.list(), 0)
end)

-- ---- the others -----------------------------------------------------------------------------------------

test("hello prints its line and ends with status 0", function(t)
  local r = t.vmlua { "hello.lua" }
  t.eq(r.out, "Hello from a board nobody compiled.\r\n")
  t.eq(r.status, 0)
end)

test("lua-uart prints through its own UART", function(t)
  local r = t.vmlua { "-machine", "lua-uart" }
  t.eq(r.out, "Hello through a UART that is written in Lua.\r\n")
  t.eq(r.status, 0)
end)

test("demo prints, takes its interrupts, is answered, and ends with status 0", function(t)
  local r = t.vmlua { "demo.lua" }
  t.log(r.out, r.err)
  t.match(r.out, "hello from real mode")
  t.match(r.out, "waiting for the timer %.%.%.%.%.\r\n")
  t.match(r.out, "the answer is 42")
  t.match(r.out, "script: the guest has ended: isa%-debug%-exit")
  t.eq(r.status, 0)
end)

test("demo's guest is what its source says", function(t)
  if not require("vmlua.core.fs").stat "/usr/bin/nasm" then t.skip "nasm is not installed" end
  local out = t.tmpdir() .. "/demo.bin"
  local r = t.vmlua { argv0 = "/usr/bin/nasm", "-f", "bin", here .. "/../guests/demo.asm", "-o", out }
  t.eq(r.status, 0, r.err)
  local vm = t.machine("demo", { serial = { "ring" } })
  local f = t.ok(io.open(out, "rb"))
  local bytes = f:read "a"
  f:close()
  t.eq(vm.memory:read(0x7c00, #bytes) == bytes, true, "machines/demo.lua holds other bytes")
end)

test("two demos run in one process", function(t)
  local seen = {}
  local vms = {}
  for i = 1, 2 do
    vms[i] = t.machine("demo", { serial = { t.ok(core.script(function(bytes) seen[i] = (seen[i] or "") .. bytes end)) } })
    vms[i]:start()
  end
  for i = 1, 2 do
    t.eq(vms[i]:wait { rt = 20 }, "shutdown")
    t.match(seen[i], "the answer is 42")
  end
end)

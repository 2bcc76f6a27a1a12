-- Starting kernels on the pc board without firmware, and what its tables say by the command line.
local machine = require "vmlua.machine"
local test = require "vmlua.test"

-- A Multiboot kernel that writes the first byte at each address to the debug console, and ends.
local function kernel(addresses)
  local code = {}
  for _, a in ipairs(addresses) do code[#code + 1] = "\xa0" .. string.pack("<I4", a) .. "\xe6\xe9" end -- mov al, [a]; out 0xe9, al
  code = table.concat(code) .. "\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef\xf4" -- mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt
  local flags = 0x10000
  return string.pack("<I4I4I4I4I4I4I4I4", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xffffffff, 0x200000, 0x200000, 0, 0, 0x200020) .. code
end

local function board(t, conf)
  conf.kernel = conf.kernel or t.file("k", kernel { 0x9fc10, 0xf0000, 0x413 })
  conf.serial = conf.serial or "null"
  return t.machine("pc", conf)
end

test("a kernel finds ACPI's root pointer, SMBIOS and the BIOS data area, and powers off through the PM registers", function(t)
  local vm = board(t, { ram = "16M" })
  local log = {}
  vm:pio { port = 0xe9, write = true }:on(function(_, x) log[#log + 1] = string.char(x.value); return true end)
  vm:start()
  t.eq(vm:wait { rt = 20 }, "shutdown")
  t.eq(table.concat(log), "R_\x7f")
end)

-- A bzImage that says at which of its two entry points it began, and ends.
local function bzimage()
  local function say(c) return "\xb0" .. c .. "\xe6\xe9\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef\xf4" end
  local code = say "3" .. ("\xf4"):rep(0x200 - #say "3") .. say "6" .. ("\0"):rep(0x100)
  local head = ("\0"):rep(0x1f1) .. string.pack("<I1I2I4I2I2I2I2", 3, 0, #code // 16, 0, 0xffff, 0, 0xaa55) .. "\xeb\x66HdrS"
    .. string.pack("<I2", 0x020f) .. ("\0"):rep(8)
    .. string.pack("<I1I1I2I4I4I4I4I2I1I1I4I4I4I1I1I2I4", 0, 1, 0, 0x100000, 0, 0, 0, 0, 0, 0,
      0, 0x7fffffff, 0x200000, 1, 21, 1, 255) .. ("\0"):rep(28) .. string.pack("<i8I4I4", 0x1000000, 0x100000, 0)
  return head .. ("\0"):rep(4 * 512 - #head) .. code
end

test("a Linux kernel is entered in 64-bit mode, or in 32-bit mode by -protocol 32", function(t)
  for protocol, expected in pairs { auto = "6", ["64"] = "6", ["32"] = "3" } do
    local vm = board(t, { ram = "64M", kernel = t.file("k", bzimage()), protocol = protocol })
    local seen
    vm:pio { port = 0xe9, write = true }:on(function(_, x) seen = string.char(x.value); return true end)
    vm:start()
    t.eq({ (vm:wait { rt = 20 }), seen }, { "shutdown", expected })
  end
  local r = t.vmlua { "pc.lua", "-kernel", t.file("k", bzimage()), "-protocol", "16" }
  t.eq(r.status, 1)
  t.match(r.err, 'unknown boot protocol "16"')
  t.raises("without firmware", board, t, { bios = "bios-256k.bin", kernel = t.file("k", bzimage()), protocol = "32" })
end)

test("a kernel finds the VGA in its text mode, at each start", function(t)
  local vm = board(t, { ram = "16M" })
  if not require("vmlua.core.firmware").find "vgabios-stdvga.bin" then t.skip "package seabios is not installed" end
  for _ = 1, 2 do
    vm.memory:write(0xb8000, "H\7i\7!\x1f")
    t.match(vm.screen:text(), "^Hi!")
    t.eq({ vm.screen:size() }, { 720, 400 })
    -- Light grey on black: H has a stroke at its left; white on blue: the exclamation mark in the middle of its cell.
    local function colour(x, y) return vm.screen:pixel(x, y) & 0xffffff end
    t.eq({ colour(0, 2), colour(3, 2), colour(18 + 3, 4), colour(18, 4) }, { 0xaaaaaa, 0x000000, 0xffffff, 0x0000aa })
    t.eq({ vm.memory:read_u8(0x449), vm.memory:read_u16(0x44a), vm.memory:read_u16(0x463) }, { 3, 80, 0x3d4 })
    vm.io:write_u16(0x3c4, 0x0001)
    vm.io:write_u16(0x3d4, 0x0001)
    vm:reset()
  end
  t.ok(not require("vmlua.vgatext").font(("x"):rep(40000)))
  t.eq(board(t, { ram = "16M", vga = "none" }).screen, nil)
end)

test("all of it is there again after a reset", function(t)
  local vm = board(t, { ram = "16M" })
  vm.memory:write(0x9fc10, "gone")
  vm:reset()
  t.eq(vm.memory:read(0x9fc10, 8), "RSD PTR ")
  t.eq(vm.memory:read(0xf0000, 4), "_SM_")
end)

test("a boot sector is no kernel, and a kernel that does not fit is refused", function(t)
  t.raises("neither Linux, Multiboot, PVH nor ELF", board, t, { kernel = t.file("k", "\xf4") })
  t.raises("too small", board, t, { ram = "2M" })
  t.raises("No such file", board, t, { kernel = "/nonexistent" })
end)

local function tables_of(vm)
  local at = vm.memory:read_u32(0x9fc10 + 16)
  local found = {}
  for i = 36, vm.memory:read_u32(at + 4) - 1, 4 do
    local addr = vm.memory:read_u32(at + i)
    found[vm.memory:read(addr, 4)] = vm.memory:read(addr, vm.memory:read_u32(addr + 4))
  end
  return found
end

test("-numa makes nodes of memory and processors, with their distances", function(t)
  local vm = board(t, { ram = "64M", smp = 2, numa = { { kind = "node", cpus = "0", mem = 48 << 20 }, { kind = "node",
    cpus = "1", mem = 16 << 20 },
    { kind = "dist", src = 0, dst = 1, val = 33 } } })
  local found = tables_of(vm)
  local srat = t.ok(found.SRAT)
  t.eq(#srat, 48 + 2 * 16 + 2 * 40)
  local domain, _, first, size = string.unpack("<I4I2i8i8", srat, 48 + 32 + 40 + 3)
  t.eq({ domain, first, size }, { 1, 48 << 20, 16 << 20 })
  t.eq({ found.SLIT:byte(45, 48) }, { 10, 33, 33, 10 })
  t.raises("node 2 is named where node 0 comes next", board, t, { numa = { { kind = "node", nodeid = 2 } } })
  t.raises("the machine has processors 0 to 0", board, t, { numa = { { kind = "node", cpus = "1" } } })
  t.raises("the nodes have 1M of memory, the machine 16M", board, t, { ram = "16M", numa = { { kind = "node", mem = 1 << 20 } } })
end)

test("the memory of nodes is that of back ends which are named", function(t)
  local function object(id, size) return { "memory-backend-ram", id = id, size = size } end
  local function node(id) return { kind = "node", memdev = id } end
  local conf = { ram = "64M", object = { object("a", "48M"), object("b", "16M") }, numa = { node "a", node "b" } }
  local vm = board(t, conf)
  local domain, _, first, size = string.unpack("<I4I2i8i8", tables_of(vm).SRAT, 48 + 16 + 40 + 3)
  t.eq({ domain, first, size }, { 1, 48 << 20, 16 << 20 })
  vm.memory:write((48 << 20) - 4, "abcdefgh")
  t.eq(vm.memory:read((48 << 20) - 4, 8), "abcdefgh")
  local s <close> = vm:snapshot()
  vm.memory:write((48 << 20) - 4, "ABCDEFGH")
  vm:restore(s)
  t.eq(vm.memory:read((48 << 20) - 4, 8), "abcdefgh")
  local function refused(pattern, more)
    local other = {}
    for k, v in pairs(conf) do other[k] = v end
    for k, v in pairs(more) do other[k] = v end
    t.raises(pattern, board, t, other)
  end
  refused("the nodes have 64M of memory, the machine 32M", { ram = "32M" })
  refused("all nodes have memdev=, or none", { numa = { node "a", { kind = "node" } } })
  refused("memdev=a is in two nodes", { numa = { node "a", node "a" } })
  refused('unknown memory back end "c"', { numa = { node "a", node "c" } })
end)

test("-smbios and -acpitable add to the tables", function(t)
  local smbios = require "vmlua.smbios"
  local path = t.file("table", "TEST" .. string.pack("<I4I1I1c6c8I4c4I4", 40, 1, 0, "ME", "MINE", 1, "ME", 1) .. "abcd")
  local vm = board(t, { ram = "16M", smbios = { assert(smbios.parse "type=1,serial=S-42") }, acpitable = { path } })
  t.match(vm.memory:read(0xf0000, 2048), "S%-42")
  t.match(vm.memory:read(0xf0000, 5), "^_SM_")
  t.eq(board(t, { ram = "16M", smbios_entry_point_type = "64" }).memory:read(0xf0000, 5), "_SM3_")
  t.raises("32 or 64 expected", board, t, { ram = "16M", smbios_entry_point_type = "48" })
  t.eq(tables_of(vm).TEST:sub(-4), "abcd")
  t.raises("no ACPI table, by its length", board, t, { acpitable = { t.file("bad", "TEST") } })
end)

test("the command line's forms of them are checked", function(t)
  local function refused(pattern, ...)
    local r = t.vmlua { "pc.lua", ... }
    t.eq(r.status, 2)
    t.match(r.err, pattern)
  end
  refused("%-numa: cpus: a number or FIRST%-LAST expected", "-numa", "node,cpus=x")
  refused("%-numa: expected node or dist", "-numa", "nod")
  refused('%-smbios: .*unknown key "seriel"', "-smbios", "type=1,seriel=1")
  refused("%-acpitable: file= is expected", "-acpitable", "file=")
end)

test("other boards refuse these settings by name", function(t)
  t.raises("numa", machine.new, "bare", { idle = true, numa = { { kind = "node" } } })
end)

-- Guest images: every way in which a header can be wrong is refused by name, and sizes are checked against RAM.
local loader = require "vmlua.loader"
local symbols = require "vmlua.symbols"
local test = require "vmlua.test"

local MAGIC = 0x1BADB002

-- An ELF32 executable with one segment; fields can be overridden.
local function elf32(o)
  o = o or {}
  local code = o.code or "\xf4"
  local addr = o.addr or 0x100000
  local ph = string.pack("<I4I4I4I4I4I4I4I4", o.ptype or 1, o.offset or 84, o.vaddr or addr, addr, o.filesz or #code,
    o.memsz or #code, 5, 4096)
  return "\127ELF" .. string.char(o.class or 1, o.data or 1, 1) .. ("\0"):rep(9)
    .. string.pack("<I2I2I4I4I4I4I4I2I2I2I2I2I2", o.type or 2, o.machine or 3, 1, o.entry or addr, o.phoff or 52, 0, 0, 52,
      o.phentsize or 32, o.phnum or 1, 40, 0, 0) .. ph .. code
end

local function elf64(o)
  o = o or {}
  local code = o.code or "\xf4"
  local addr = o.addr or 0x100000
  local ph = string.pack("<I4I4i8i8i8i8i8i8", 1, 5, 120, addr, addr, o.filesz or #code, o.memsz or #code, 4096)
  return "\127ELF\2\1\1" .. ("\0"):rep(9) .. string.pack("<I2I2I4i8i8i8I4I2I2I2I2I2I2", 2, o.machine or 62, 1, o.entry or addr, 64, 0, 0,
    64, 56, 1, 64, 0, 0) .. ph .. code
end

local function multiboot(flags, rest)
  return string.pack("<I4I4I4", MAGIC, flags, -(MAGIC + flags) & 0xffffffff) .. (rest or "")
end

local function refused(t, pattern, bytes, opts) return t.refuses(pattern, loader.parse, bytes, "k", opts) end

test("a flat binary goes to 0x7c00 in real mode, or where it is told", function(t)
  local image = assert(loader.parse("\xf4", "k"))
  t.eq(image.format, "flat")
  t.eq(image.mode, "real")
  t.eq(image.entry, 0x7c00)
  image = assert(loader.parse("\xf4", "k", { addr = 0x10000, entry = 0x10004, mode = "protected" }))
  t.eq(image.segments[1].addr, 0x10000)
  t.eq(image.entry, 0x10004)
end)

test("an empty image is refused", function(t) refused(t, "^k: is empty", "") end)

test("a file that is not there is refused with the reason", function(t)
  t.refuses("nonexistent.*No such file", loader.read, "/nonexistent")
end)

test("real mode cannot begin above one MiB", function(t)
  refused(t, "real mode cannot begin at 0x200000", "\xf4", { addr = 0x200000 })
end)

test("an unknown format and mode are refused with the nearest", function(t)
  refused(t, 'unknown image format "elff" %(did you mean "elf"%?%)', "\xf4", { format = "elff" })
  refused(t, 'unknown mode "lang"', "\xf4", { mode = "lang" })
end)

test("ELF executables of both sizes are read", function(t)
  local image = assert(loader.parse(elf32 { memsz = 64 }, "k"))
  t.eq(image.format, "elf32")
  t.eq(image.mode, "protected")
  t.eq(image.entry, 0x100000)
  t.eq(image.segments[1].size, 64)
  image = assert(loader.parse(elf64(), "k"))
  t.eq(image.format, "elf64")
  t.eq(image.mode, "long")
end)

test("an entry point is translated from virtual to physical", function(t)
  local image = assert(loader.parse(elf32 { addr = 0x100000, vaddr = 0xc0100000, entry = 0xc0100000 }, "k"))
  t.eq(image.entry, 0x100000)
  -- Linux' own ELF image names a physical entry point.
  image = assert(loader.parse(elf32 { addr = 0x100000, vaddr = 0xc0100000, entry = 0x100000 }, "k"))
  t.eq(image.entry, 0x100000)
end)

test("malformed ELF headers are refused", function(t)
  refused(t, "cut short", elf32():sub(1, 40))
  refused(t, "class 7", elf32 { class = 7 })
  refused(t, "not little%-endian", elf32 { data = 2 })
  refused(t, "for ARM .*not for x86", elf32 { machine = 40 })
  refused(t, "ELF64 but not for x86%-64", elf64 { machine = 3 })
  refused(t, "relocatable object", elf32 { type = 1 })
  refused(t, "position%-independent", elf32 { type = 3 })
  refused(t, "entries are 33 bytes", elf32 { phentsize = 33 })
  refused(t, "is outside the file", elf32 { phoff = 0x1000 })
  refused(t, "is outside the file", elf32 { phnum = 65535 })
  refused(t, "is outside the file", elf32 { offset = 0x1000 })
  refused(t, "2 bytes in the file but only 1", elf32 { code = "\xf4\xf4", memsz = 1 })
  refused(t, "nothing to load", elf32 { ptype = 4 })
  refused(t, "dynamically linked", elf32 { ptype = 3 })
  refused(t, "entry point 0x5 is in none", elf32 { entry = 5 })
  refused(t, "wraps around", elf64 { addr = -16, memsz = 64, entry = -16 })
  refused(t, "beyond 2%^63", elf64 { filesz = -1 })
end)

test("every cut of an ELF file is refused or read, never an error", function(t)
  local whole = elf64 { code = ("\x90"):rep(32) }
  for n = 1, #whole - 1 do
    local ok, image, message = pcall(loader.parse, whole:sub(1, n), "k")
    t.ok(ok, "cut at %d: %s", n, tostring(image))
    t.ok(image or type(message) == "string")
  end
end)

test("random damage to headers never raises an error", function(t)
  math.randomseed(7)
  local kernel = multiboot(0x10003, string.pack("<I4I4I4I4I4", 0x100000, 0x100000, 0, 0, 0x100020) .. "\xf4")
  for _, whole in ipairs { elf32(), elf64(), kernel } do
    for _ = 1, 3000 do
      local bytes = { whole:byte(1, -1) }
      for _ = 1, math.random(1, 4) do bytes[math.random(#bytes)] = math.random(0, 255) end
      local damaged = string.char(table.unpack(bytes))
      local ok, image, message = pcall(loader.parse, damaged, "k")
      t.ok(ok, "%s", tostring(image))
      if image then
        local placed_ok, placement, why = pcall(loader.place, image, { ram = 16 << 20 })
        t.ok(placed_ok, "%s", tostring(placement))
        t.ok(placement or type(why) == "string")
      else
        t.eq(type(message), "string")
      end
    end
  end
end)

test("segments that overlap are refused", function(t)
  local ph = string.pack("<I4I4I4I4I4I4I4I4", 1, 116, 0x100000, 0x100000, 4, 4, 5, 4096)
  local ph2 = string.pack("<I4I4I4I4I4I4I4I4", 1, 116, 0x100002, 0x100002, 4, 4, 5, 4096)
  local head = "\127ELF\1\1\1" .. ("\0"):rep(9)
    .. string.pack("<I2I2I4I4I4I4I4I2I2I2I2I2I2", 2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 2, 40, 0, 0)
  refused(t, "segment 1 at 0x100002 overlaps segment 0 at 0x100000", head .. ph .. ph2 .. "\xf4\xf4\xf4\xf4")
end)

test("a Multiboot kernel with addresses of its own is read", function(t)
  local header = multiboot(0x10000, string.pack("<I4I4I4I4I4", 0x100000, 0x100000, 0, 0x100200, 0x100020))
  local image = assert(loader.parse(header .. "\xf4", "k"))
  t.eq(image.format, "multiboot")
  t.eq(image.mode, "protected")
  t.eq(image.entry, 0x100020)
  t.eq(image.segments[1].size, 0x200)
end)

test("a Multiboot kernel that is an ELF file takes its addresses from there", function(t)
  local image = assert(loader.parse(elf32 { code = ("\x90"):rep(12) .. multiboot(0), entry = 0x100000 }, "k"))
  t.eq(image.format, "multiboot")
  t.eq(image.entry, 0x100000)
end)

test("malformed Multiboot headers are refused", function(t)
  local function addresses(...) return string.pack("<I4I4I4I4I4", ...) end
  refused(t, "requires features 0x8", multiboot(8))
  refused(t, "asks for a graphics mode", multiboot(4, ("\0"):rep(64)))
  refused(t, "cut short before its video mode", multiboot(4))
  refused(t, "without load addresses", multiboot(0))
  refused(t, "cut short before its addresses", multiboot(0x10000))
  refused(t, "load address 0x200000 is above", multiboot(0x10000, addresses(0x100000, 0x200000, 0, 0, 0)))
  refused(t, "begins 16 bytes before the file", multiboot(0x10000, addresses(0x100010, 0x100000, 0, 0, 0)))
  refused(t, "load end 0xfffff is below", multiboot(0x10000, addresses(0x100000, 0x100000, 0xfffff, 0, 0)))
  refused(t, "asks for 0x1000 bytes", multiboot(0x10000, addresses(0x100000, 0x100000, 0x101000, 0, 0x100000)))
  refused(t, "bss end 0x100001 is below", multiboot(0x10000, addresses(0x100000, 0x100000, 0, 0x100001, 0x100000)))
  refused(t, "entry point 0x50 is outside", multiboot(0x10000, addresses(0x100000, 0x100000, 0, 0, 0x50)))
  refused(t, "no valid Multiboot header", "\xf4", { format = "multiboot" })
  refused(t, "starts in protected mode", multiboot(0x10000, addresses(0x100000, 0x100000, 0, 0, 0x100020) .. "\xf4"), { mode = "long" })
end)

test("a header with a wrong checksum is no Multiboot header", function(t)
  local bytes = string.pack("<I4I4I4", MAGIC, 0, 1)
  t.eq(assert(loader.parse(bytes, "k")).format, "flat")
end)

test("what does not fit in RAM is refused with both sizes", function(t)
  local image = assert(loader.parse(elf32 { memsz = 1 << 20 }, "k"))
  t.refuses("k: segment 0 needs 0x100000 bytes at 0x100000, RAM is 1M", loader.place, image, { ram = 1 << 20 })
  image = assert(loader.parse("\xf4", "k", { addr = 0xffff0 }))
  t.refuses("image needs 0x1 bytes at 0xffff0, RAM is 64K", loader.place, image, { ram = 64 << 10 })
end)

test("tables that would overlap the image are refused", function(t)
  local image = assert(loader.parse(("\x90"):rep(60 << 10), "k", { addr = 0x1000, mode = "long" }))
  t.refuses("overlap; more RAM", loader.place, image, { ram = 64 << 10 })
end)

test("long mode gets page tables that map memory one to one", function(t)
  local image = assert(loader.parse("\xf4", "k", { addr = 0x100000, mode = "long" }))
  local p = assert(loader.place(image, { ram = 16 << 20 }))
  local tables = p.segments[#p.segments]
  local cr3 = p.registers.cr3
  local function entry(addr, i) return string.unpack("<i8", tables.data, addr - tables.addr + i * 8 + 1) end
  for _, addr in ipairs { 0, 0x100000, 0x3fe00000, 0x40000000, 0xfee00000 } do
    local pml4e = entry(cr3, addr >> 39 & 511)
    t.eq(pml4e & 1, 1)
    local pdpte = entry(pml4e & ~0xfff, addr >> 30 & 511)
    t.eq(pdpte & 1, 1)
    local pde = entry(pdpte & ~0xfff, addr >> 21 & 511)
    t.eq(pde & 0x81, 0x81)
    t.eq(pde & ~0x1fffff, addr & ~0x1fffff)
  end
  t.eq(string.unpack("<i8", tables.data, 9), 0x00AF9B000000FFFF)
end)

test("a Multiboot kernel finds its command line, modules and memory map", function(t)
  local bytes = multiboot(0x10003, string.pack("<I4I4I4I4I4", 0x100000, 0x100000, 0, 0, 0x100020) .. "\xf4")
  local image = assert(loader.parse(bytes, "kern"))
  local p = assert(loader.place(image, { ram = 32 << 20, cmdline = "a=1 b", modules = {
    { name = "m1", data = ("x"):rep(5000), cmdline = "m1 arg" }, { name = "m2", data = "y" } } }))
  t.eq(p.registers.rax, 0x2BADB002)
  local info = p.registers.rbx
  local function read(addr, format)
    for _, s in ipairs(p.segments) do
      if addr >= s.addr and addr < s.addr + s.size then return string.unpack(format, s.data, addr - s.addr + 1) end
    end
    t.fail("0x%x is in no segment", addr)
  end
  local flags, low, high, _, cmdline, count, mods = read(info, "<I4I4I4I4I4I4I4")
  t.eq(flags & 0x4d, 0x4d)
  t.eq(low, 640)
  t.eq(high, (31 << 20) >> 10)
  t.eq((read(cmdline, "z")), "kern a=1 b")
  t.eq(count, 2)
  local first, last, text = read(mods, "<I4I4I4")
  t.eq(last - first, 5000)
  t.eq(first % 4096, 0)
  t.eq((read(text, "z")), "m1 arg")
  t.eq(read(first, "c3"), "xxx")
  local length, map = read(info + 44, "<I4I4")
  t.eq(length, 24)
  local size, addr, bytes_there, kind = read(map, "<I4i8i8I4")
  t.eq({ size, addr, bytes_there, kind }, { 20, 0, 32 << 20, 1 })
end)

test("modules and a command line need a kernel that takes them", function(t)
  local image = assert(loader.parse("\xf4", "k"))
  t.refuses("modules %(%-initrd%) need a Multiboot, PVH or Linux kernel", loader.place, image, {
    ram = 1 << 20, modules = { { name = "m", data = "" } } })
  t.refuses("command line %(%-append%) needs a Multiboot, PVH or Linux kernel", loader.place, image, { ram = 1 << 20, cmdline = "x" })
end)

-- A bzImage: boot sector with the header, three more sectors of set-up code, and the kernel.
local function bzimage(o)
  o = o or {}
  local code = o.code or ("\xf4"):rep(0x300)
  local head = ("\0"):rep(0x1f1) .. string.pack("<I1I2I4I2I2I2I2", 3, 0, o.syssize or #code // 16, 0, 0xffff, 0, 0xaa55)
    .. "\xeb" .. string.char(0x66) .. "HdrS" .. string.pack("<I2", o.version or 0x020f) .. ("\0"):rep(6) .. string.pack("<I2", 0)
    .. string.pack("<I1I1I2I4I4I4I4I2I1I1I4I4I4I1I1I2I4", 0, o.loadflags or 1, 0, 0x100000, 0, 0, 0, 0, 0, 0, 0, o.initrd_max or 0x7fffffff,
      o.alignment or 0x200000, 1, 21, o.xloadflags or 1, 255)
    .. ("\0"):rep(28) .. string.pack("<i8I4I4", o.preferred or 0x1000000, o.init_size or 0x100000, 0)
  return head .. ("\0"):rep(4 * 512 - #head) .. code
end

test("a Linux kernel is laid out by its boot protocol", function(t)
  local image = assert(loader.parse(bzimage(), "k"))
  t.eq(image.format, "linux")
  t.eq(image.mode, "long")
  local p = assert(loader.place(image, { ram = 64 << 20, cmdline = "a b",
    modules = { { name = "i", data = "xyz" }, { name = "j", data = "4567" } } }))
  local function read(addr, format)
    for _, s in ipairs(p.segments) do
      if addr >= s.addr and addr < s.addr + s.size then return (string.unpack(format, s.data, addr - s.addr + 1)) end
    end
    t.fail("0x%x is in no segment", addr)
  end
  local params = p.registers.rsi
  t.eq(p.registers.rip, 0x1000200)
  t.eq(read(params + 0x202, "c4"), "HdrS")
  t.eq(read(params + 0x210, "<I1"), 0xff)
  t.eq(read(params + 0x214, "<I4"), 0x1000000)
  t.eq(read(read(params + 0x228, "<I4"), "z"), "a b")
  local initrd = read(params + 0x218, "<I4")
  t.eq(read(params + 0x21c, "<I4"), 8)
  t.eq(read(initrd, "c8"), "xyz\0" .. "4567")
  t.eq(initrd % 4096, 0)
  t.eq(read(params + 0x1e8, "<I1"), 1)
  t.eq(read(params + 0x2d8, "<i8"), 64 << 20)
  t.eq(read(p.registers.cr3, "<i8") & 1, 1)
end)

test("a Linux kernel is entered in 32-bit mode when it has no other or is asked to", function(t)
  local image = assert(loader.parse(bzimage { xloadflags = 0 }, "k"))
  t.eq(image.mode, "protected")
  image = assert(loader.parse(bzimage(), "k", { protocol = "32" }))
  t.eq(assert(loader.place(image, { ram = 64 << 20 })).registers.rip, 0x1000000)
  refused(t, "has no 64%-bit entry point", bzimage { xloadflags = 0 }, { protocol = "64" })
  refused(t, 'unknown boot protocol "31"', bzimage(), { protocol = "31" })
end)

test("Linux kernels that are cut short, too old or too large are refused", function(t)
  refused(t, "boot protocol 2.04; 2.05 is the oldest", bzimage { version = 0x0204 })
  refused(t, "its header speaks of 0x10000 bytes of code", bzimage { syssize = 0x1000 })
  refused(t, "zImage, which runs below 1 MiB", bzimage { loadflags = 0 })
  refused(t, "alignment of 0x300000", bzimage { alignment = 0x300000 })
  refused(t, "cut short: its code begins at 0x800", bzimage():sub(1, 0x800))
  local image = assert(loader.parse(bzimage(), "k"))
  t.refuses("the command line has 256 characters, this kernel takes 255", loader.place, image, { ram = 64 << 20, cmdline = ("x"):rep(256) })
  t.refuses("initrd of 60M does not fit", loader.place, image, { ram = 64 << 20, modules = { { name = "i", data = ("x"):rep(60 << 20) } } })
  image = assert(loader.parse(bzimage { init_size = 128 << 20 }, "k"))
  t.refuses("needs 0x8000000 bytes at 0x200000, RAM is 64M", loader.place, image, { ram = 64 << 20 })
  -- No prefix and no damaged byte of the header may do more than be refused.
  local whole = bzimage()
  for at = 0x1f1, 0x268 do
    for _, value in ipairs { 0, 1, 0x7f, 0x80, 0xff } do
      local ok, parsed = pcall(loader.parse, whole:sub(1, at) .. string.char(value) .. whole:sub(at + 2), "k")
      t.ok(ok, "%s", tostring(parsed))
      if parsed then t.ok(pcall(loader.place, parsed, { ram = 32 << 20 })) end
    end
  end
end)

test("a kernel with a PVH note is entered by it", function(t)
  local note = string.pack("<I4I4I4c4I4", 4, 4, 18, "Xen\0", 0x100010)
  local code = ("\xf4"):rep(0x20) .. note
  local load_at = 52 + 64
  local function ph(kind, offset, size)
    return string.pack("<I4I4I4I4I4I4I4I4", kind, offset, 0x100000, 0x100000, size, size, 5, 4)
  end
  local bytes = "\127ELF\1\1\1" .. ("\0"):rep(9)
    .. string.pack("<I2I2I4I4I4I4I4I2I2I2I2I2I2", 2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 2, 40, 0, 0)
    .. ph(1, load_at, #code) .. ph(4, load_at + 0x20, #note) .. code
  local image = assert(loader.parse(bytes, "k"))
  t.eq(image.format, "pvh")
  t.eq(image.entry, 0x100010)
  local p = assert(loader.place(image, { ram = 16 << 20, cmdline = "hi", rsdp = 0xe0000, modules = { { name = "m", data = "abc" } } }))
  local info
  for _, s in ipairs(p.segments) do
    if s.addr == p.registers.rbx then info = s end
  end
  local magic, version, _, modules, list, cmdline, rsdp, map, entries = string.unpack("<I4I4I4I4i8i8i8i8I4", info.data)
  t.eq({ magic, version, modules, rsdp, entries }, { 0x336ec578, 1, 1, 0xe0000, 1 })
  t.eq((string.unpack("z", info.data, cmdline - info.addr + 1)), "hi")
  t.eq((string.unpack("<i8", info.data, list - info.addr + 9)), 3)
  t.eq((string.unpack("<i8", info.data, map - info.addr + 9)), 16 << 20)
end)

test("a cpio archive holds files, folders, links and devices as cpio lists them", function(t)
  local cpio = require "vmlua.cpio"
  local bytes = cpio.pack { { "a/b/file", data = "hello", mode = "0755" },
    { "link", link = "a/b/file" }, { "dev/console", char = { 5, 1 } } }
  t.eq(#bytes % 512, 0)
  local names = {}
  local at = 1
  while true do
    t.eq(bytes:sub(at, at + 5), "070701")
    local function field(n) return tonumber(bytes:sub(at + 6 + n * 8, at + 13 + n * 8), 16) end
    local name = bytes:sub(at + 110, at + 108 + field(11))
    if name == "TRAILER!!!" then break end
    names[#names + 1] = ("%s %o %d"):format(name, field(1), field(6))
    local data = (at + 110 + field(11) + 2) // 4 * 4 + 1
    at = data + (field(6) + 3) // 4 * 4
  end
  t.eq(names, { "a 40755 0", "a/b 40755 0", "a/b/file 100755 5", "link 120777 8", "dev 40755 0", "dev/console 20600 0" })
  t.raises('x: unknown option "dat" %(did you mean "data"%?%)', cpio.pack, { { "x", dat = "" } })
end)

test("symbols are found by name and by address", function(t)
  local s = assert(symbols.list("0000000000007c00 T start\n0000000000007c10 t putc\n7c20 msg\n# comment\n"))
  t.eq(s:addr "start", 0x7c00)
  t.eq(s:addr "putc+4", 0x7c14)
  t.eq(s:name(0x7c12), "putc+0x2")
  t.eq(s:name(0x7c20), "msg")
  t.eq(s:name(0x100), nil)
  t.refuses('unknown symbol "strat" %(did you mean "start"%?%)', s.addr, s, "strat")
end)

test("a list of symbols that is none is refused with its line", function(t)
  t.refuses("symbols:2: expected an address and a name", symbols.list, "7c00 T start\nhello\n")
end)

test("the symbol table of an ELF file is checked against the file", function(t)
  -- sections: null, symtab, strtab
  local strings = "\0start\0loop\0"
  local syms = ("\0"):rep(16) .. string.pack("<I4I4I4BBI2", 1, 0x1000, 8, 0x12, 0, 1) .. string.pack("<I4I4I4BBI2", 7, 0x1008, 0, 0, 0, 1)
  local function file(o)
    local at = 52
    local function sh(kind, offset, size, link, entsize)
      return string.pack("<I4I4I4I4I4I4I4I4I4I4", 0, kind, 0, 0, offset, size, link, 0, 1, entsize)
    end
    local data_at = at + 120
    return "\127ELF\1\1\1" .. ("\0"):rep(9)
      .. string.pack("<I2I2I4I4I4I4I4I2I2I2I2I2I2", 2, 3, 1, 0, 0, o.shoff or at, 0, 52, 32, 0, 40, 3, 0)
      .. ("\0"):rep(40) .. sh(2, o.offset or data_at, #syms, o.link or 2, o.entsize or 16)
      .. sh(3, data_at + #syms, o.strsize or #strings, 0, 0) .. syms .. strings
  end
  local s = assert(symbols.elf(file {}))
  t.eq(s:addr "start", 0x1000)
  t.eq(s:name(0x1009), "loop+0x1")
  t.refuses("entries are 17 bytes", symbols.elf, file { entsize = 17 })
  t.refuses("symbol table is outside", symbols.elf, file { offset = 0x10000 })
  t.refuses("names string section 9 of 3", symbols.elf, file { link = 9 })
  t.refuses("string table is outside", symbols.elf, file { strsize = 0x10000 })
  t.refuses("section header table", symbols.elf, file { shoff = 0x10000 })
end)

test("a Linux kernel's code and a lone initrd go from their files to where their bytes would go", function(t)
  local code = ("\x90\xf4"):rep(40000)
  local bytes = bzimage { code = code }
  local path, first, second = t.file("bzImage", bytes), t.file("first", "one of them"), t.file("second", "another")
  local by_file, by_bytes = assert(loader.read(path)), assert(loader.parse(bytes, path))
  t.eq(by_file.segments[1].file, { path = path, from = 2048, length = #code })
  t.eq(by_bytes.segments[1].data == code, true)
  for _, spec in ipairs { first, first .. "," .. second } do
    local vm = t.machine({ ram = "32M", init = function(m) m.memory:add(0, m.ram) end }, { accel = "soft" })
    local modules = loader.modules(spec)
    local a = assert(loader.place(by_file, { ram = 32 << 20, modules = modules }))
    local b = assert(loader.place(by_bytes, { ram = 32 << 20, modules = loader.modules(spec) }))
    t.eq(#a.segments, #b.segments)
    for i, s in ipairs(a.segments) do t.eq({ s.addr, s.size, s.name }, { b.segments[i].addr, b.segments[i].size, b.segments[i].name }) end
    loader.install(vm, a)
    t.eq(vm.memory:read(a.segments[4].addr, #code) == code, true)
    local initrd = a.segments[#a.segments]
    t.eq(vm.memory:read(initrd.addr, initrd.size), spec == first and "one of them" or "one of them\0another\0")
  end
end)

test("what a file lacks is said, with its size", function(t)
  local vm = t.machine({ ram = "1M", init = function(m) m.memory:add(0, m.ram) end }, { accel = "soft" })
  local path = t.file("ten", "0123456789")
  t.eq(vm.memory:load(path, 0x1000, 3, 4), 4)
  t.eq(vm.memory:read(0x1000, 5), "3456\0")
  t.eq(vm.memory:load(path, 0x1000, 10), 0)
  t.refuses("the file has 10 bytes, 8 from 3 on", vm.memory.load, vm.memory, path, 0, 3, 8)
  t.refuses("the file has 10 bytes, 0 from 11 on", vm.memory.load, vm.memory, path, 0, 11)
  t.refuses("the file has 10 bytes, 1 from %-1 on", vm.memory.load, vm.memory, path, 0, -1, 1)
  t.raises("%-initrd: .*/none: No such file", loader.modules, "/none")
  t.raises("%-initrd: /: Is a directory", loader.modules, "/")
end)

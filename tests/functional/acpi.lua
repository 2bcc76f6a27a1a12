-- ACPI tables: their bytes against the specification, their sums, and what Intel's compiler makes of them.
local acpi = require "vmlua.acpi"
local aml = acpi.aml
local test = require "vmlua.test"

local function build(more)
  local config = {
    cpus = 2, pm_base = 0x600, gpe_base = 0x60c, pci_hole = { 0xc0000000, 0xfec00000 }, pci_hole64 = { 0x100000000, 0x200000000 },
    serial = { { iobase = 0x3f8, irq = 4 }, { iobase = 0x2f8, irq = 3 } }, parallel = { { iobase = 0x378, irq = 7 } },
    keyboard = true, floppy = 1, vga = true, hpet = 0x8086a201, fw_cfg = true, pvpanic = 0x505,
    nodes = { { cpus = { 0 }, memory = { { 0, 0xa0000 } } }, { cpus = { 1 }, memory = { { 0x100000, 0x100000 } } } },
    distances = { { 10, 20 }, { 20, 10 } },
  }
  for k, v in pairs(more or {}) do config[k] = v end
  return acpi.build(config)
end

local function sum(bytes)
  local total = 0
  for i = 1, #bytes do total = total + bytes:byte(i) end
  return total & 0xff
end

test("AML is encoded as the specification's grammar says", function(t)
  local function is(bytes, hex) t.eq((bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)), hex) end
  is(aml.int(0), "00")
  is(aml.int(1), "01")
  is(aml.int(0xff), "0aff")
  is(aml.int(0x100), "0b0001")
  is(aml.int(0x12345678), "0c78563412")
  is(aml.int(0x123456789), "0e8967452301000000")
  is(aml.int(-1), "ff")
  is(aml.path "_CRS", "5f435253")
  is(aml.path "\\_SB.PCI0", "5c2e5f53425f50434930")
  is(aml.path "^A", "5e415f5f5f")
  is(aml.path "\\A.B.C", "5c2f03415f5f5f425f5f5f435f5f5f")
  is(aml.eisaid "PNP0A03", "0c41d00a03")
  is(aml.string "ok", "0d6f6b00")
  is(aml.name("X", 5), "08585f5f5f0a05")
  is(aml.package { 1, 2 }, "120502010a02")
  is(aml.buffer "\1\2", "11050a020102")
  t.eq(#aml.scope("\\", ("\0"):rep(100)), 1 + 2 + 2 + 100)
  t.eq(aml.scope("\\", ("\0"):rep(100)):sub(1, 3), "\x10\x48\x06") -- 104 = 0x68: two bytes of length
  t.raises('"_crs" is no name of ACPI', aml.path, "_crs")
  t.raises('"PNP" is no PnP identifier', aml.eisaid, "PNP")
  t.raises("integer or bytes, got boolean", aml.name, "X", true)
end)

test("tables laid out at an address point to each other and sum to zero", function(t)
  local set = build()
  local base = 0xe0000
  local p = set:place(base)
  local function at(addr, n) return p.bytes:sub(addr - base + 1, addr - base + n) end
  t.eq(p.root:sub(1, 8), "RSD PTR ")
  t.eq(sum(p.root:sub(1, 20)), 0)
  t.eq(sum(p.root), 0)
  t.eq(#p.root, 36)
  local function tab(addr)
    local signature, length = string.unpack("<c4I4", at(addr, 8))
    local bytes = at(addr, length)
    t.eq(#bytes, length)
    if signature ~= "FACS" then t.eq(sum(bytes), 0, signature) end
    return signature, bytes
  end
  local seen = {}
  local function follow(root, size)
    local _, bytes = tab(root)
    for i = 36, #bytes - 1, size do
      local signature, inner = tab((string.unpack("<I" .. size, bytes, i + 1)))
      seen[signature] = (seen[signature] or 0) + 1
      if signature == "FACP" then
        t.eq((tab((string.unpack("<I4", inner, 37)))), "FACS")
        t.eq((tab((string.unpack("<I4", inner, 41)))), "DSDT")
        t.eq((tab((string.unpack("<i8", inner, 141)))), "DSDT")
        t.eq((string.unpack("<I4", inner, 37)) % 64, 0)
      end
    end
  end
  follow((string.unpack("<I4", p.root, 17)), 4)
  follow((string.unpack("<i8", p.root, 25)), 8)
  t.eq(seen, { FACP = 2, APIC = 2, HPET = 2, WAET = 2, SRAT = 2, SLIT = 2 })
end)

-- What firmware does with the commands, byte for byte.
local function firmware(t, files, where)
  local blobs, address = {}, {}
  local content = { ["etc/acpi/tables"] = files.tables, ["etc/acpi/rsdp"] = files.rsdp }
  for i = 1, #files.loader, 128 do
    local c = files.loader:sub(i, i + 127)
    local number = string.unpack("<I4", c)
    local function name(n) return (c:sub(n, n + 55):gsub("%z+$", "")) end
    if number == 1 then
      local file = name(5)
      blobs[file], address[file] = content[file], where[file]
      t.eq(where[file] % string.unpack("<I4", c, 61), 0)
    elseif number == 2 then
      local file, to = name(5), name(61)
      local offset, size = string.unpack("<I4I1", c, 117)
      local b = blobs[file]
      local value = string.unpack("<I" .. size, b, offset + 1) + address[to]
      blobs[file] = b:sub(1, offset) .. string.pack("<I" .. size, value) .. b:sub(offset + size + 1)
    elseif number == 3 then
      local file = name(5)
      local offset, start, length = string.unpack("<I4I4I4", c, 61)
      local b = blobs[file]
      local value = (b:byte(offset + 1) - sum(b:sub(start + 1, start + length))) & 0xff
      blobs[file] = b:sub(1, offset) .. string.char(value) .. b:sub(offset + 2)
    else
      t.fail("command %d", number)
    end
  end
  return blobs
end

test("the loader's commands give the same tables as laying them out", function(t)
  local set = build()
  local base = 0x7ff00000
  local blobs = firmware(t, set:files(), { ["etc/acpi/tables"] = base, ["etc/acpi/rsdp"] = 0xf5000 })
  local placed = set:place(base)
  t.ok(blobs["etc/acpi/tables"] == placed.bytes, "the tables differ")
  t.ok(blobs["etc/acpi/rsdp"] == placed.root, "the root pointers differ")
end)

test("iasl takes every table apart and compiles the DSDT again without an error or a warning", { timeout = 60 }, function(t)
  local dir = t.tmpdir()
  local set = build()
  local p = set:place(0xe0000)
  if not os.execute "command -v iasl >/dev/null" then t.skip "iasl (package acpica-tools) is not installed" end
  local function iasl(arguments)
    local pipe = assert(io.popen(("iasl %s 2>&1"):format(arguments)))
    local text = pipe:read "a"
    t.log(text)
    return pipe:close(), text
  end
  for _, entry in ipairs(set.list) do
    local path = ("%s/%s.dat"):format(dir, entry.signature)
    t.file(path, p.bytes:sub(1 + entry.offset, entry.offset + #entry.bytes))
    local ok, text = iasl("-d " .. path)
    t.ok(ok)
    text = text:lower()
    t.ok(not text:find "warning" and not text:find "invalid", "iasl -d %s complains", entry.signature)
  end
  local _, text = iasl(dir .. "/DSDT.dsl")
  t.match(text, "0 Errors, 0 Warnings")
end)

test("a board without devices says so, and wrong keys are refused", function(t)
  local set = build { keyboard = false, vga = false, serial = {}, hpet = 0 }
  local fadt
  for _, x in ipairs(set.list) do
    if x.signature == "FACP" then fadt = x.bytes end
  end
  t.eq((string.unpack("<I2", fadt, 110)), 1 | 4)
  t.raises('acpi: unknown option "cpu" %(did you mean "cpus"%?%)', build, { cpu = 1 })
  t.raises("not a multiple of 64", set.place, set, 0xe0010)
end)

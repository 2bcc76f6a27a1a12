-- SMBIOS tables: what dmidecode reads out of them, sums, and settings that are wrong.
local smbios = require "vmlua.smbios"
local test = require "vmlua.test"

local UUID = "550e8400-e29b-41d4-a716-446655440000"

local function build(more)
  local config = { cpus = 4, cores = 2, ram = 20 << 30, uuid = UUID, ranges = { { 0, 3 << 30 }, { 4 << 30, 17 << 30 } } }
  for k, v in pairs(more or {}) do config[k] = v end
  return smbios.build(config)
end

local function sum(bytes)
  local total = 0
  for i = 1, #bytes do total = total + bytes:byte(i) end
  return total & 0xff
end

test("both entry points sum to zero and name length and place", function(t)
  local set = build()
  local bytes = set.place(0xf0000)
  t.eq(sum(bytes:sub(1, 31)), 0)
  t.eq(sum(bytes:sub(17, 31)), 0)
  t.eq({ string.unpack("<I2I4I2", bytes, 23) }, { #set.tables, 0xf0020, set.count, 31 })
  t.ok(bytes:sub(33) == set.tables)
  bytes = build({ entry = "64" }).place(0xf0000)
  t.eq(sum(bytes:sub(1, 24)), 0)
  t.eq((string.unpack("<i8", bytes, 17)), 0xf0020)
end)

test("structures end where their strings do, and the last is type 127", function(t)
  local bytes, at, kinds = build().tables, 1, {}
  while at <= #bytes do
    local kind, length = string.unpack("<I1I1", bytes, at)
    kinds[#kinds + 1] = kind
    at = assert(bytes:find("\0\0", at + length, true)) + 2
  end
  t.eq(at, #bytes + 1)
  t.eq(kinds, { 1, 3, 4, 4, 16, 17, 17, 19, 19, 32, 127 })
end)

test("dmidecode reads what was set", function(t)
  if not os.execute "command -v dmidecode >/dev/null" then t.skip "dmidecode is not installed" end
  local overrides = {}
  for _, argument in ipairs { "type=0,vendor=acme,version=7,date=01/02/2026,release=1.2", "type=1,serial=42,family=f",
    "type=2,product=board",
    "type=4,manufacturer=maker", "type=11,value=one", "type=11,value=two", "type=17,speed=3200" } do
    overrides[#overrides + 1] = assert(smbios.parse(argument))
  end
  for _, entry in ipairs { "32", "64" } do
    local path = t.file("dmi.bin", build({ overrides = overrides, entry = entry }).place(0))
    local pipe = assert(io.popen(("dmidecode --from-dump %s 2>&1"):format(path)))
    local text = pipe:read "a"
    pipe:close()
    t.log(text)
    for _, line in ipairs { "Vendor: acme", "BIOS Revision: 1.2", "Serial Number: 42", "UUID: " .. UUID, "Product Name: board",
      "Manufacturer: maker", "String 2: two", "Size: 16 GB", "Size: 4 GB", "Speed: 3200 MT/s", "Maximum Capacity: 20 GB", "Core Count: 2",
      "Range Size: 17 GB" } do
      t.ok(text:find(line, 1, true), "no line %q", line)
    end
    t.ok(not text:lower():find "truncated" and not text:lower():find "invalid" and not text:lower():find "wrong", "dmidecode complains")
  end
end)

test("texts may have commas, come several at once, and from files", function(t)
  local one = assert(smbios.parse "type=11,value=a,,b=c,value=two")
  t.eq(one.value, { "a,b=c", "two" })
  local two = assert(smbios.parse("type=11,path=" .. t.file("text", "of a file")))
  t.match(build({ overrides = { one, two } }).tables, "\11\5\0\14\3a,b=c\0two\0of a file\0\0")
  t.raises("No such file", build, { overrides = { assert(smbios.parse "type=11,path=/no/such") } })
  t.raises("a text is expected", build, { overrides = { assert(smbios.parse("type=11,path=" .. t.file("bytes", "a\0b"))) } })
end)

test("port connectors are listed, and a processor may have another identity", function(t)
  local set = build { cpus = 1, overrides = {
    assert(smbios.parse "type=8,internal_reference=J1,external_reference=COM,connector_type=8,port_type=9"),
    assert(smbios.parse "type=8,external_reference=LPT"), assert(smbios.parse "type=4,processor-id=0x1122334455667788") } }
  t.match(set.tables, "\8\9\0\8\1\0\2\8\9J1\0COM\0\0\8\9\1\8\0\0\1\0\0LPT\0\0")
  t.match(set.tables, "\x88\x77\x66\x55\x44\x33\x22\x11")
end)

test("a wrong -smbios is refused by name", function(t)
  t.refuses("release: expected two numbers", smbios.parse, "type=0,release=1")
  t.refuses("uefi: expected on or off", smbios.parse, "type=0,uefi=maybe")
  t.refuses("speed: expected a number from 0 to 65535, got \"fast\"", smbios.parse, "type=17,speed=fast")
  t.refuses("serial: expected a text of up to 255 bytes", smbios.parse, "type=1,serial=" .. ("x"):rep(256))
  t.refuses("file= stands alone", smbios.parse, "file=x,type=1")
  t.refuses("type is one of 0, 1", smbios.parse, "type=9,x=1")
  t.refuses('unknown key "seriel" %(did you mean "serial"%?%)', smbios.parse, "type=1,seriel=1")
  t.refuses('"serial" is not key=value', smbios.parse, "type=1,serial")
  t.refuses("serial is given twice", smbios.parse, "type=1,serial=1,serial=2")
  t.refuses("uuid: expected a UUID", smbios.parse, "type=1,uuid=1234")
end)

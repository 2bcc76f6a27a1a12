-- Damaged image files and random command lines: refused with a message, never an error with a traceback, and never
-- for ever. VMLUA_FUZZ_SEED varies a run; VMLUA_LONG=1 makes it a hundred times as long.
local loader = require "vmlua.loader"
local options = require "vmlua.options"
local symbols = require "vmlua.symbols"
local test = require "vmlua.test"

local SEED = tonumber(os.getenv "VMLUA_FUZZ_SEED") or 1
local TIMES = os.getenv "VMLUA_LONG" and 100 or 1

-- A generator of our own: the same numbers from the same seed with any Lua.
local function random(seed)
  local state = seed * 0x9E3779B97F4A7C15 + 1
  return function(low, high)
    state = state * 6364136223846793005 + 1442695040888963407
    return low + ((state >> 33) % (high - low + 1))
  end
end

local function elf(wide, segments)
  local head = wide and 64 or 52
  local entsize = wide and 56 or 32
  local data_at = head + entsize * #segments
  local table_, data = {}, {}
  for i, s in ipairs(segments) do
    if wide then
      table_[i] = string.pack("<I4I4i8i8i8i8i8i8", 1, 5, data_at, s.addr, s.addr, #s.data, s.size or #s.data, 4096)
    else
      table_[i] = string.pack("<I4I4I4I4I4I4I4I4", 1, data_at, s.addr, s.addr, #s.data, s.size or #s.data, 5, 4096)
    end
    data[i] = s.data
    data_at = data_at + #s.data
  end
  local ident = "\127ELF" .. string.char(wide and 2 or 1, 1, 1) .. ("\0"):rep(9)
  local entry = segments[1].addr
  local rest
  if wide then
    rest = string.pack("<I2I2I4i8i8i8I4I2I2I2I2I2I2", 2, 62, 1, entry, head, 0, 0, 64, 56, #segments, 64, 0, 0)
  else
    rest = string.pack("<I2I2I4I4I4I4I4I2I2I2I2I2I2", 2, 3, 1, entry, head, 0, 0, 52, 32, #segments, 40, 0, 0)
  end
  return ident .. rest .. table.concat(table_) .. table.concat(data)
end

local function multiboot()
  local flags = 0x10003
  return string.pack("<I4I4I4I4I4I4I4I4", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xffffffff, 0x100000, 0x100000, 0, 0x101000,
    0x100020) .. ("\xf4"):rep(64)
end

-- An ELF64 file with one symbol table of `n` entries that all name the string at 1.
local function with_symbols(n, strings, sections)
  local at = 64
  local syms = string.pack("<I4BBI2i8i8", 1, 0x12, 0, 1, 0x1000, 4):rep(n)
  local shoff = at + #syms + #strings
  local function section(kind, offset, size, link, entsize)
    return string.pack("<I4I4i8i8i8i8I4I4i8i8", 0, kind, 0, 0, offset, size, link, 0, 1, entsize)
  end
  local head = "\127ELF\2\1\1" .. ("\0"):rep(9)
    .. string.pack("<I2I2I4i8i8i8I4I2I2I2I2I2I2", 2, 62, 1, 0, 0, shoff, 0, 64, 56, 0, 64, sections + 1, 0)
  return head .. syms .. strings .. section(3, at + #syms, #strings, 0, 0) .. section(2, at, #syms, 0, 24):rep(sections)
end

-- Runs fn with a bound on the instructions it may take: what hangs fails here.
local function bounded(millions, fn, ...)
  local n = 0
  debug.sethook(function()
    n = n + 1
    if n > millions * 10 then
      debug.sethook()
      error "takes for ever"
    end
  end, "", 100000)
  local result = table.pack(xpcall(fn, debug.traceback, ...))
  debug.sethook()
  return table.unpack(result, 1, result.n)
end

local odd = { 0, 1, 2, 4, 0x7f, 0x80, 0xff }

local function mutate(rnd, bytes)
  for _ = 1, rnd(1, 6) do
    local at = rnd(1, #bytes)
    local how = rnd(1, 8)
    if how == 1 then
      bytes = bytes:sub(1, at) -- cut short
    elseif how == 2 then
      bytes = bytes:sub(1, at) .. bytes:sub(rnd(1, #bytes)) -- a piece twice, or left out
    elseif how == 3 then
      bytes = bytes:sub(1, at - 1) .. ("\xff"):rep(rnd(1, 8)) .. bytes:sub(at + 8)
    else
      local v = how < 6 and odd[rnd(1, #odd)] or rnd(0, 255)
      bytes = bytes:sub(1, at - 1) .. string.char(v) .. bytes:sub(at + 1)
    end
    if #bytes == 0 then return "x" end
  end
  return bytes
end

local function check(t, what, bytes, ok, result, message)
  t.ok(ok, "%s with seed %d: %s\n%q", what, SEED, tostring(result), bytes)
  t.ok(result ~= nil or (type(message) == "string" and #message > 0), "%s is refused without a word", what)
  return result
end

test("damaged image files are refused or loaded, whatever is wrong with them", function(t)
  local rnd = random(SEED)
  local two = { { addr = 0x100000, data = "\xf4\xf4\xf4\xf4" }, { addr = 0x200000, data = "abcd", size = 0x3000 } }
  local seeds = { elf(false, two), elf(true, two), multiboot(), with_symbols(3, "\0name\0", 2) }
  local modes = { "real", "protected", "long" }
  local loaded, refused = 0, 0
  for _ = 1, 6000 * TIMES do
    local bytes = mutate(rnd, seeds[rnd(1, #seeds)])
    local opts = { mode = rnd(1, 4) == 1 and modes[rnd(1, 3)] or nil }
    local image = check(t, "parsing", bytes, bounded(20, loader.parse, bytes, "k", opts))
    if image then
      local ram = 1 << rnd(12, 30)
      local place = { ram = ram, cmdline = rnd(1, 2) == 1 and "a=b" or nil }
      local placed = check(t, "placing", bytes, bounded(20, loader.place, image, place))
      for _, s in ipairs(placed and placed.segments or {}) do
        t.ok(s.addr >= 0 and #s.data <= s.size and s.addr + s.size <= ram, "%s is outside RAM", s.name)
      end
      loaded = loaded + 1
    else
      refused = refused + 1
    end
    check(t, "reading symbols", bytes, bounded(20, symbols.elf, bytes, "k"))
  end
  t.ok(loaded > 100 and refused > 100, "%d loaded, %d refused: the damage is too much or too little", loaded, refused)
end)

test("an executable with the most segments there can be is read at once", function(t)
  local segments = {}
  for i = 1, 65535 do segments[i] = { addr = 0x100000 + (i * 7919 % 65535) * 16, data = "", size = 16 } end
  local bytes = elf(true, segments)
  local image = check(t, "parsing", "", bounded(40, loader.parse, bytes, "k"))
  t.eq(#image.segments, 65535)
  segments[40000].size = 17
  local ok, none, message = bounded(40, loader.parse, elf(true, segments), "k")
  t.ok(ok and none == nil, "overlapping segments were accepted")
  t.match(message, "overlaps")
end)

test("the same symbol table named a thousand times is read once", function(t)
  local syms = check(t, "reading symbols", "", bounded(20, symbols.elf, with_symbols(2000, "\0name\0", 1000), "k"))
  t.eq(#syms.sorted, 2000)
end)

test("symbols that share one endless name are refused", function(t)
  local ok, none, message = bounded(20, symbols.elf, with_symbols(2000, "\0" .. ("n"):rep(100000) .. "\0", 1), "k")
  t.ok(ok, "%s", none)
  t.ok(none == nil, "they were accepted")
  t.match(message, "longer names")
  ok, none, message = bounded(20, symbols.elf, with_symbols(2000, "\0" .. ("n"):rep(100000), 1), "k")
  t.ok(ok and none == nil, "a table without an end was accepted")
  t.match(message, "longer names")
end)

test("more memory than page tables can map is refused in words", function(t)
  local image = assert(loader.parse(elf(true, { { addr = 0x100000, data = "\xf4" } }), "k"))
  t.refuses("map 512 ?G", loader.place, image, { ram = 1 << 40 })
end)

-- ---- the command line -------------------------------------------------------------------------

local words = {
  "", "0", "1", "-1", "64", "1G", "1.5G", "99999999999999999999", "0x", "0x10", "on", "off", "help", "?", ",", ",,", "=", "a=b", "=b",
  "a=", "id=x", "stdio", "null", "file:", "file:/x", "pty", "ring:0", "tcp::1", "tcp:[::1]:2", "socket,id=c,host=h,port=1", "kvm", "soft",
  "auto", "kvm:soft", "pc", "none", "bare,accel=kvm", "irqchip=split", "host", "host,+avx,-sse", "max,model=", "cpus=2,cores=1",
  "2,sockets=3", "order=c", "guest,unimp", "all", "serial_*", "[", "%", "%d", "%s%n", "\0", "\xff\xfe", ("x"):rep(300), ("a=b,"):rep(50),
  "isa-serial,iobase=0x2f8", "isa-serial,id=", "driver=x", "{\"driver\":\"x\"}", "00000000-0000-0000-0000-000000000000", "vm,x=y",
}

test("random command lines are taken or refused as wrong use", function(t)
  local rnd = random(SEED + 7)
  local names = {}
  for _, o in ipairs(options.list) do
    names[#names + 1] = o.name
    for _, a in ipairs(o.aliases or {}) do names[#names + 1] = a end
  end
  local taken, refused = 0, 0
  local first = {} -- each option with each word alone, then at random
  for _, name in ipairs(names) do
    for _, w in ipairs(words) do first[#first + 1] = { "-" .. name, w } end
  end
  for i = 1, #first + 3000 * TIMES do
    local argv = first[i] or {}
    if i > #first then
      for _ = 1, rnd(0, 6) do
        local how = rnd(1, 6)
        if how <= 3 then
          argv[#argv + 1] = (rnd(1, 4) == 1 and "--" or "-") .. names[rnd(1, #names)]
        end
        if how >= 2 then
          local w = words[rnd(1, #words)]
          if how == 6 then w = w .. "," .. words[rnd(1, #words)] end
          argv[#argv + 1] = w
        end
      end
    end
    local ok, result = pcall(options.parse, argv)
    if ok then
      taken = taken + 1
      t.eq(type(result.conf), "table")
    else
      refused = refused + 1
      t.ok(options.is_usage_error(result), "%s: %s", table.concat(argv, " "), tostring(result))
      t.ok(type(result.message) == "string" and #result.message > 0, "%s: refused without a word", table.concat(argv, " "))
    end
  end
  t.ok(taken > 100 and refused > 100, "%d taken, %d refused", taken, refused)
end)

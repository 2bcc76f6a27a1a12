-- `vmlua img` beside qemu-img on what changes an image without its content: bitmaps, sizes, versions; names in JSON; what
-- a check finds.
local cjson = require "cjson"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local images = dofile(here .. "/../lib/images.lua")
local test = require "vmlua.test"

local img, ok, must = images.img, images.ok, images.must

local function json(t, ...) return cjson.decode(ok(t, ...)) end
local function their_json(t, ...) return cjson.decode(must(t, "qemu-img", ...)) end

-- The bitmaps of an image as qemu-img tells them, which have to be those that we tell.
local function bitmaps(t, path)
  local theirs = their_json(t, "info", "--output=json", path)["format-specific"].data.bitmaps
  t.eq(json(t, "info", "--output=json", path)["format-specific"].data.bitmaps, theirs)
  return theirs
end

local function be(bytes, at, n) return (string.unpack(">I" .. n, bytes, at + 1)) end

-- The bits of a bitmap that is in the file, up to the end of the disk, one character each.
local function bits_of(path, name)
  local file = images.read(path)
  local cluster, at = 1 << be(file, 20, 4), be(file, 100, 4)
  while be(file, at, 4) ~= 0x23852875 do at = at + 8 + (be(file, at + 4, 4) + 7) // 8 * 8 end
  local entry = be(file, at + 24, 8)
  while file:sub(entry + 25, entry + 24 + be(file, entry + 18, 2)) ~= name do
    entry = entry + (24 + be(file, entry + 18, 2) + 7) // 8 * 8
  end
  local granularity, size, out = 1 << file:byte(entry + 18), be(file, 24, 8), {}
  for i = 0, be(file, entry + 8, 4) - 1 do
    local place = be(file, be(file, entry, 8) + i * 8, 8)
    for k = 0, cluster - 1 do
      local byte = place > 1 and file:byte(place + k + 1) or place * 255
      for bit = 0, 7 do out[#out + 1] = byte >> bit & 1 end
    end
  end
  return table.concat(out, "", 1, (size + granularity - 1) // granularity)
end

local function sound(t, path)
  t.eq(their_json(t, "check", "--output=json", path), json(t, "check", "--output=json", path))
  must(t, "qemu-img", "check", path)
end

local function fresh(t, dir, options, size)
  local path = dir .. "/b.qcow2"
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, size)
  return path
end

test("bitmaps are changed as qemu-img changes them", function(t)
  local dir = t.tmpdir()
  for _, options in ipairs { "cluster_size=64k", "cluster_size=512", "extended_l2=on" } do
    local ours, theirs = fresh(t, dir, options, "3M"), dir .. "/theirs.qcow2"
    must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, theirs, "3M")
    local function both(...)
      ok(t, "bitmap", ...)
      local words = { "qemu-img", "bitmap", ... }
      for i, w in ipairs(words) do words[i] = w == ours and theirs or w end
      must(t, table.unpack(words))
      t.eq(bitmaps(t, ours), bitmaps(t, theirs))
      sound(t, ours)
    end
    local function write(what)
      for _, path in ipairs { ours, theirs } do must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", what, path) end
    end
    both("--add", ours, "a")
    both("--add", "-g", "512", "--disable", ours, "fine")
    write "write 100k 20k"
    both("--enable", ours, "fine")
    both("--add", "-g", "1M", ours, "coarse")
    write "write 1M 300k"
    both("--merge", "a", ours, "fine")
    both("--add", "--merge", "fine", "--merge", "coarse", ours, "all")
    both("--disable", ours, "all")
    write "write 2M 4k"
    for _, name in ipairs { "a", "fine", "coarse", "all" } do t.eq(bits_of(ours, name), bits_of(theirs, name), name) end
    both("--clear", ours, "a")
    t.eq(bits_of(ours, "a"), bits_of(theirs, "a"))
    must(t, "cp", theirs, dir .. "/source")
    both("--merge", "fine", "-b", dir .. "/source", "-F", "qcow2", ours, "coarse")
    t.eq(bits_of(ours, "coarse"), bits_of(theirs, "coarse"))
    for _, name in ipairs { "fine", "a", "all", "coarse" } do both("--remove", ours, name) end
    t.eq(bitmaps(t, ours), nil)
  end
end)

test("what cannot be done with a bitmap is said", function(t)
  local dir = t.tmpdir()
  local q = fresh(t, dir, "cluster_size=64k", "3M")
  ok(t, "bitmap", "--add", q, "a")
  local before = images.read(q)
  local function refused(pattern, ...)
    local r = img(t, "bitmap", ...)
    t.eq(r.status, 1)
    t.match(r.err, pattern)
    t.ok(images.read(q) == before, "%s: the image has changed", pattern)
  end
  refused("no bitmap 'b'", "--clear", q, "b")
  refused("no bitmap 'b'", "--remove", q, "b")
  refused("has a bitmap 'a' already", "--add", q, "a")
  refused("power of 2 from 512", "--add", "-g", "1000", q, "b")
  refused("power of 2 from 512", "--add", "-g", "256", q, "b")
  refused("power of 2 from 512", "--add", "-g", "4G", q, "b")
  refused("1 to 1023 bytes", "--add", q, "")
  refused("1 to 1023 bytes", "--add", q, ("x"):rep(1024))
  refused("one of %-%-add", q, "a")
  refused("%-g is for %-%-add", "--clear", "-g", "4k", q, "a")
  refused("%-b is for %-%-merge", "--clear", "-b", q, q, "a")
  refused("expected FILE BITMAP", "--clear", q)
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", dir .. "/other", "2M")
  must(t, "qemu-img", "bitmap", "--add", dir .. "/other", "o")
  refused("3145728 and 2097152 bytes", "--merge", "o", "-b", dir .. "/other", "-F", "qcow2", q, "a")
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", dir .. "/old", "2M")
  refused("version 2", "--add", dir .. "/old", "b")
  refused("raw has no bitmaps", "-f", "raw", "--add", t.file("x.raw", ("x"):rep(512)), "b")
  -- One that was in use when its writer died can be removed only.
  local file = images.read(q)
  local at = be(file, 100, 4)
  while be(file, at, 4) ~= 0x23852875 do at = at + 8 + (be(file, at + 4, 4) + 7) // 8 * 8 end
  local f = io.open(q, "r+b")
  f:seek("set", be(file, at + 24, 8) + 12)
  f:write("\0\0\0\3")
  f:close()
  before = images.read(q)
  refused("inconsistent", "--clear", q, "a")
  t.match(img(t, "resize", q, "4M").err, "inconsistent")
  t.ok(images.read(q) == before)
  ok(t, "bitmap", "--remove", q, "a")
  ok(t, "resize", q, "4M")
  sound(t, q)
end)

test("bitmaps follow the size of the disk", function(t)
  local dir = t.tmpdir()
  for _, options in ipairs { "cluster_size=64k", "cluster_size=512" } do
    local ours, theirs = fresh(t, dir, options, "3M"), dir .. "/theirs.qcow2"
    for _, path in ipairs { ours, theirs } do
      must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "3M")
      must(t, "qemu-img", "bitmap", "--add", "-g", "512", path, "fine")
      must(t, "qemu-img", "bitmap", "--add", "-g", "64k", path, "off")
      must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", "write 1M 2M", path)
      must(t, "qemu-img", "bitmap", "--disable", path, "off")
    end
    for _, size in ipairs { "8M", "2500k", "1234k", "40M", "40M", "512", "3M" } do
      ok(t, "resize", "-q", "--shrink", ours, size)
      must(t, "qemu-img", "resize", "-q", "--shrink", theirs, size)
      sound(t, ours)
      t.eq(bitmaps(t, ours), bitmaps(t, theirs))
      for _, name in ipairs { "fine", "off" } do t.eq(bits_of(ours, name), bits_of(theirs, name), name .. " at " .. size) end
    end
    -- Back to a snapshot of another size.
    ok(t, "snapshot", "-c", "small", ours)
    ok(t, "resize", "-q", ours, "9M")
    ok(t, "snapshot", "-c", "large", ours)
    ok(t, "snapshot", "-a", "small", ours)
    sound(t, ours)
    t.eq(#bits_of(ours, "fine"), (3 << 20) // 512)
    ok(t, "snapshot", "-a", "large", ours)
    sound(t, ours)
    t.eq(#bits_of(ours, "fine"), (9 << 20) // 512)
    bitmaps(t, ours)
  end
end)

test("an L1 table that is longer than the disk stays, as with qemu-img", function(t)
  local dir = t.tmpdir()
  local ours, theirs = fresh(t, dir, "cluster_size=4k", "200M"), dir .. "/theirs.qcow2"
  must(t, "cp", ours, theirs)
  for _, path in ipairs { ours, theirs } do must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", "write 190M 64k", path) end
  ok(t, "resize", "-q", "--shrink", ours, "20M")
  must(t, "qemu-img", "resize", "-q", "--shrink", theirs, "20M")
  t.eq(be(images.read(ours), 36, 4), be(images.read(theirs), 36, 4))
  sound(t, ours)
end)

test("names in JSON describe an image, also below another", function(t)
  local dir = t.tmpdir()
  local base, top = dir .. "/base.qcow2", dir .. "/top.qcow2"
  local name = ('json:{"driver":"qcow2","file":{"driver":"file","filename":%q}}'):format(base)
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
  must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", "write -P 7 0 1M", base)
  ok(t, "create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", top)
  local theirs = their_json(t, "info", "--output=json", top)
  local ours = json(t, "info", "--output=json", top)
  t.eq(ours["backing-filename"], name)
  for _, key in ipairs { "backing-filename", "full-backing-filename", "backing-filename-format" } do t.eq(ours[key], theirs[key]) end
  must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", base, top)
  ok(t, "compare", "-f", "qcow2", "-F", "qcow2", base, top)
  ok(t, "compare", "-f", "qcow2", name, top)
  t.eq(#json(t, "info", "--backing-chain", "--output=json", top), 2)
  -- The forms that qemu-img takes too.
  for _, text in ipairs {
    '{"driver":"qcow2","file.driver":"file","file.filename":%q}', '{"file":{"driver":"file","filename":%q}}',
    ' { "driver" : "qcow2", "file" : { "driver":"host_device" , "filename":%q } , "read-only": true }',
    '{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":%q,"cache":{"direct":false}}}',
  } do
    local given = "json:" .. text:format(base)
    if not text:find "host_device" then t.eq(their_json(t, "info", "--output=json", given)["virtual-size"], 1048576.0) end
    t.eq(json(t, "info", "--output=json", given)["virtual-size"], 1048576.0, given)
    t.eq(json(t, "info", "--output=json", given).filename, base)
  end
  local function refused(pattern, given)
    local r = img(t, "info", "json:" .. given)
    t.eq(r.status, 1, given)
    t.match(r.err, pattern)
  end
  refused("an object is expected at byte 0", "[]")
  refused("driver is missing", "{}")
  refused("driver qcow2 needs a node in 'file'", '{"driver":"qcow2"}')
  refused("unknown block driver 'qcow3'", '{"driver":"qcow3"}')
  refused("':' is expected", '{"driver" "qcow2"}')
  refused("',' or '}' is expected", '{"driver":"qcow2"')
  refused("given already", '{"driver":"raw","driver":"raw"}')
  refused("a string does not end", '{"driver":"raw')
  refused("unknown escape", [[{"driver":"\x"}]])
  refused("cannot be", [[{"driver":"\ud800"}]])
  refused("true or false is expected", '{"driver":[]}')
  refused("something follows", '{"driver":"null"} x')
  refused("filenam", ('{"driver":"file","filenam":%q}'):format(base))
  refused("described here, not named", '{"driver":"qcow2","file":"node0"}')
  refused("within each other", ('{"a":'):rep(40))
  refused("too many properties", "{" .. ('"a%d":1,'):rep(300):gsub("%%d", function() return tostring(math.random(1 << 50)) end) .. '"b":1}')
  t.match(t.vmlua { "img", "info", 'json:{"a":"' .. ("x"):rep(70000) .. '"}' }.err, "64 KiB") -- not into the log
end)

test("a chain that leads back to itself through JSON is refused", function(t)
  local path = t.tmpdir() .. "/a.qcow2"
  local name = ('json:{"driver":"qcow2","file":{"driver":"file","filename":%q}}'):format(path)
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
  must(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", path)
  t.match(img(t, "map", path).err, "leads back to")
end)

test("check says each finding on standard error", function(t)
  local dir = t.tmpdir()
  local q = fresh(t, dir, "cluster_size=4k", "1M")
  must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", "write 0 64k", q)
  local f = io.open(q, "r+b")
  f:seek("set", 2 * 4096 + 2 * 6)
  f:write("\0\3\0\0")
  f:close()
  local r = img(t, "check", q)
  t.eq(r.status, 2)
  t.match(r.err, "leaked cluster 6: refcount 3, 1 references")
  t.match(r.err, "wrong cluster 7: refcount 0, 1 references")
  t.eq(img(t, "check", "--output=json", "-r", "all", q).status, 0)
  r = img(t, "check", q)
  t.eq(r.status, 0)
  t.eq(r.err, "")
end)

test("a snapshot whose entry is damaged is given up by -r all only, and nothing is taken for a leak until then", function(t)
  local dir = t.tmpdir()
  local q = fresh(t, dir, "cluster_size=4k", "1M")
  local function write(byte) must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", ("write -P %d 0 64k"):format(byte), q) end
  write(1)
  must(t, "qemu-img", "snapshot", "-c", "first", q)
  write(2)
  must(t, "qemu-img", "snapshot", "-c", "second", q)
  write(3)
  local file = images.read(q)
  local table_at = be(file, 64, 8)
  local second = table_at + (40 + be(file, table_at + 36, 4) + be(file, table_at + 12, 2) + be(file, table_at + 14, 2) + 7) // 8 * 8
  local f = io.open(q, "r+b")
  f:seek("set", second + 36)
  f:write("\127\0\0\0")
  f:close()
  file = images.read(q)
  local r = img(t, "check", "-r", "leaks", q)
  t.eq(r.status, 2)
  t.match(r.err, "entry 1 of the snapshot table is damaged")
  t.ok(not r.out:find "leaked", "%s", r.out)
  t.ok(images.read(q) == file, "-r leaks has changed the image")
  t.eq(img(t, "check", "-r", "all", q).status, 0)
  sound(t, q)
  local left = their_json(t, "info", "--output=json", q).snapshots
  t.eq(#left, 1)
  t.eq(left[1].name, "first")
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 3 0 64k", q)
  ok(t, "snapshot", "-a", "first", q)
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 0 64k", q)
end)

test("images become version 2 and 3 again", function(t)
  local dir = t.tmpdir()
  local base, q, theirs = dir .. "/base.raw", dir .. "/q.qcow2", dir .. "/theirs.qcow2"
  images.mixed(base, 1 << 20, 5)
  for _, path in ipairs { q, theirs } do
    must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path, "2M")
    must(t, "qemu-io", "-t", "unsafe", "-f", "qcow2", "-c", "write -P 3 0 200k", "-c", "write -z 64k 300k", "-c",
      "write -z -u 900k 500k", path)
  end
  local raw = dir .. "/raw"
  must(t, "qemu-img", "convert", "-O", "raw", q, raw)
  ok(t, "amend", "-o", "compat=0.10", q)
  must(t, "qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", theirs)
  t.eq(json(t, "info", "--output=json", q)["format-specific"], their_json(t, "info", "--output=json", q)["format-specific"])
  t.eq(their_json(t, "info", "--output=json", q)["format-specific"].data.compat, "0.10")
  sound(t, q)
  must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", q, raw)
  must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", q, theirs) -- theirs allocates behind the end of the backing file too
  ok(t, "amend", "-o", "compat=1.1", q)
  sound(t, q)
  must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", q, raw)
end)

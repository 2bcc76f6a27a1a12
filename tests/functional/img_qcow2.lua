-- `vmlua img` on qcow2, beside qemu-img and qemu-io: images made by either are read, checked and compared by the other.
local cjson = require "cjson"
local fs = require "vmlua.core.fs"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local images = dofile(here .. "/../lib/images.lua")
local test = require "vmlua.test"

local img, ok, must = images.img, images.ok, images.must

-- Where both have a key, the values are the same.
local function same_json(t, ours, theirs, where)
  where = where or "json"
  for key, value in pairs(theirs) do
    if type(value) == "table" and type(ours[key]) == "table" then
      same_json(t, ours[key], value, where .. "." .. key)
    elseif ours[key] ~= nil then
      t.eq(ours[key], value, where .. "." .. key)
    end
  end
end

local function json(t, ...) return cjson.decode(ok(t, ...)) end
local function their_json(t, ...) return cjson.decode(must(t, "qemu-img", ...)) end

-- The image says the same of itself to both, and is sound for both.
local function agree(t, path, what)
  t.log(what or path)
  must(t, "sync", path) -- what it takes on the host does not change any more
  same_json(t, json(t, "info", "--output=json", path), their_json(t, "info", "--output=json", path))
  same_json(t, json(t, "check", "--output=json", path), their_json(t, "check", "--output=json", path))
end

local function map_of(list)
  local out = {}
  for _, e in ipairs(list) do
    if not e.data and e.zero then e.offset = nil end -- where nothing is, qemu-img tells the cluster's place
    local last = out[#out]
    if last and last.depth == e.depth and last.zero == e.zero and last.data == e.data and last.present == e.present
      and (last.offset == nil) == (e.offset == nil) and (not e.offset or last.offset + last.length == e.offset) then
      last.length = last.length + e.length
    else
      out[#out + 1] = e
    end
  end
  return out
end

local function same_map(t, path)
  t.eq(map_of(json(t, "map", "--output=json", path)), map_of(their_json(t, "map", "--output=json", path)))
end

local variants = {
  {}, { "compat=0.10" }, { "cluster_size=512" }, { "cluster_size=2M" }, { "refcount_bits=1" }, { "refcount_bits=64" },
  { "lazy_refcounts=on" }, { "extended_l2=on" }, { "extended_l2=on,cluster_size=16k" }, { "preallocation=metadata" },
  { "preallocation=falloc" }, { "preallocation=full" }, { "compression_type=zstd" }, { "cluster_size=4k,refcount_bits=8" },
}

test("images of every kind, made by us: qemu-img finds them sound and the same", function(t)
  local dir = t.tmpdir()
  local source, target = dir .. "/s.raw", dir .. "/t.qcow2"
  images.mixed(source, (3 << 20) + 1536, 21)
  for _, v in ipairs(variants) do
    local o = v[1] and { "-o", v[1] } or {}
    ok(t, "create", "-q", "-f", "qcow2", table.unpack(v[1] and { "-o", v[1], target, "3M" } or { target, "3M" }))
    agree(t, target, "created " .. (v[1] or ""))
    local words = { "convert", "-f", "raw", "-O", "qcow2", table.unpack(o) }
    words[#words + 1], words[#words + 2] = source, target
    ok(t, table.unpack(words))
    agree(t, target, "converted " .. (v[1] or ""))
    must(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, target)
    if not (v[1] or ""):match "prealloc" then same_map(t, target) end -- there qemu-img looks for holes in the file below
  end
  t.eq(#fs.listdir(dir), 2)
end)

test("images of every kind, made by qemu-img: read, converted back, compared", function(t)
  local dir = t.tmpdir()
  local source, target = dir .. "/s.raw", dir .. "/t.qcow2"
  images.mixed(source, (3 << 20) + 1536, 22)
  for _, v in ipairs(variants) do
    local words = { "qemu-img", "convert", "-f", "raw", "-O", "qcow2", table.unpack(v[1] and { "-o", v[1] } or {}) }
    words[#words + 1], words[#words + 2] = source, target
    must(t, table.unpack(words))
    agree(t, target, v[1])
    if not (v[1] or ""):match "prealloc" then same_map(t, target) end
    ok(t, "compare", "-f", "raw", "-F", "qcow2", source, target)
    ok(t, "convert", "-O", "raw", target, dir .. "/back.raw")
    t.ok(images.read(dir .. "/back.raw") == images.read(source), "%s", v[1])
  end
end)

test("compressed images: the same every time, and read by both", function(t)
  local dir = t.tmpdir()
  local source, target = dir .. "/s.raw", dir .. "/t.qcow2"
  images.mixed(source, 5 << 20, 23)
  for _, o in ipairs { "compression_type=zlib", "compression_type=zstd", "cluster_size=4k" } do
    ok(t, "convert", "-c", "-O", "qcow2", "-o", o, "-m", "8", source, target)
    agree(t, target, o)
    local first = images.read(target)
    must(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, target)
    ok(t, "convert", "-c", "-O", "qcow2", "-o", o, "-m", "1", source, target)
    t.ok(images.read(target) == first, "%s: not the same file", o)
    ok(t, "convert", "-c", "-W", "-O", "qcow2", "-o", o, source, target)
    must(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, target)
    must(t, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", o, source, target)
    ok(t, "compare", source, target)
    agree(t, target, "theirs, " .. o)
    t.match(img(t, "map", target).err, "compressed")
  end
end)

test("measure foresees the size of the file", function(t)
  local dir = t.tmpdir()
  local source = dir .. "/s.raw"
  images.mixed(source, 4 << 20, 24)
  must(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, dir .. "/s.qcow2")
  for _, o in ipairs { "cluster_size=64k", "cluster_size=4k", "cluster_size=2M", "refcount_bits=64", "extended_l2=on",
    "preallocation=full" } do
    for _, size in ipairs { "1", "10M", "100G", "3T" } do
      t.eq(json(t, "measure", "--output=json", "-O", "qcow2", "-o", o, "--size", size),
        their_json(t, "measure", "--output=json", "-O", "qcow2", "-o", o, "--size", size), o .. " " .. size)
    end
    for _, file in ipairs { source, dir .. "/s.qcow2" } do
      t.eq(json(t, "measure", "--output=json", "-O", "qcow2", "-o", o, file),
        their_json(t, "measure", "--output=json", "-O", "qcow2", "-o", o, file), o .. " " .. file)
    end
  end
  t.match(img(t, "measure", "-O", "qcow2", "-o", "cluster_size=3k", "--size", "1M").err, "power of two")
end)

-- A base, and an image on it with data of its own, zeroes and a discard; made by qemu-io.
local function chain(t, dir)
  local base, mid, top = dir .. "/base.qcow2", dir .. "/mid.qcow2", dir .. "/top.qcow2"
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "2M")
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 2M", base)
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", mid, "3M")
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 2 100k 300k", "-c", "write -P 3 2500k 100k", mid)
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", top)
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 4 1M 200k", "-c", "write -z 64k 128k", "-c", "write -c -P 5 2M 64k", top)
  return base, mid, top
end

local function flat(t, image)
  must(t, "qemu-img", "convert", "-O", "raw", image, image .. ".raw")
  return images.read(image .. ".raw")
end

test("images on top of each other: info, map, create, convert -B", function(t)
  local dir = t.tmpdir()
  local _, _, top = chain(t, dir)
  must(t, "sync", dir)
  local theirs = their_json(t, "info", "--backing-chain", "--output=json", top)
  local ours = json(t, "info", "--backing-chain", "--output=json", top)
  t.eq(#ours, 3)
  same_json(t, ours, theirs)
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 5 2M 64k", top) -- no compressed clusters any more
  same_map(t, top)
  t.eq(ok(t, "map", top), must(t, "qemu-img", "map", top))
end)

test("create on a backing file takes its size, and has to be told its format", function(t)
  local dir = t.tmpdir()
  local base, _, top = chain(t, dir)
  local new = dir .. "/new.qcow2"
  t.match(img(t, "create", "-f", "qcow2", "-b", "top.qcow2", new).err, "%-F %(it looks like qcow2%)")
  ok(t, "create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", new)
  t.eq(json(t, "info", "--output=json", new)["virtual-size"] | 0, 3 << 20)
  agree(t, new)
  must(t, "qemu-img", "compare", new, top)
  t.match(img(t, "create", "-f", "qcow2", "-b", "gone.qcow2", "-F", "qcow2", new).err, "gone.qcow2.*No such file")
  ok(t, "create", "-u", "-f", "qcow2", "-b", "gone.qcow2", "-F", "qcow2", new, "1M")
  t.eq(json(t, "info", "--output=json", new)["backing-filename"], "gone.qcow2")
  t.match(img(t, "map", new).err, "gone.qcow2")
  t.match(img(t, "create", "-f", "qcow2", "-o", "encryption=on", new, "1M").err, "encrypt")
  -- What a source holds itself, on another image of the same contents below.
  ok(t, "convert", "-O", "qcow2", "-B", "mid.qcow2", "-F", "qcow2", top, dir .. "/copy.qcow2")
  must(t, "qemu-img", "compare", dir .. "/copy.qcow2", top)
  agree(t, dir .. "/copy.qcow2")
  t.ok(fs.stat(base))
end)

test("commit writes into the image below, and empties the one above", function(t)
  for _, how in ipairs { "next", "keep", "base" } do
    local dir = t.tmpdir()
    local base, mid, top = chain(t, dir)
    local before = flat(t, top)
    if how == "next" then
      t.eq(ok(t, "commit", top), "Image committed.\n")
      t.eq(map_of(their_json(t, "map", "--output=json", top))[1].depth > 0, true)
    elseif how == "keep" then
      ok(t, "commit", "-d", top)
    else
      ok(t, "commit", "-q", "-b", base, top)
    end
    t.ok(flat(t, top) == before, "the top image shows the same: %s", how)
    t.ok(flat(t, how == "base" and base or mid) == before, "the lower one shows it too: %s", how)
    for _, image in ipairs { base, mid, top } do
      if how ~= "base" or image ~= mid then agree(t, image) end
    end
  end
  local dir = t.tmpdir()
  local _, _, top = chain(t, dir)
  t.match(img(t, "commit", "-b", "other", top).err, "not in the chain")
  t.match(img(t, "commit", dir .. "/base.qcow2").err, "has no backing file")
end)

test("rebase keeps what an image shows; -u only changes the name", function(t)
  local dir = t.tmpdir()
  local base, _, top = chain(t, dir)
  local before = flat(t, top)
  ok(t, "rebase", "-b", "base.qcow2", "-F", "qcow2", top)
  t.ok(flat(t, top) == before)
  agree(t, top)
  t.eq(json(t, "info", "--output=json", top)["backing-filename"], "base.qcow2")
  ok(t, "rebase", "-b", "", top)
  t.ok(flat(t, top) == before)
  agree(t, top)
  t.eq(json(t, "info", "--output=json", top)["backing-filename"], nil)
  os.remove(base)
  ok(t, "rebase", "-b", "mid.qcow2", "-F", "qcow2", "-u", top)
  t.eq(json(t, "info", "--output=json", top)["backing-filename"], "mid.qcow2")
  t.match(img(t, "rebase", "-b", "mid.qcow2", "-F", "qcow2", top).err, "base.qcow2")
  t.match(img(t, "rebase", top).err, "%-b is expected")
end)

test("rebase of an image without one below hides the new one", function(t)
  local dir = t.tmpdir()
  local base = chain(t, dir)
  local alone = dir .. "/alone.qcow2"
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", alone, "2M")
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 64k 64k", alone)
  local before = flat(t, alone)
  ok(t, "rebase", "-b", base, "-F", "qcow2", alone)
  t.ok(flat(t, alone) == before)
  agree(t, alone)
end)

test("resize and amend", function(t)
  local dir = t.tmpdir()
  local path = dir .. "/r.qcow2"
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "2M")
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 2M", path)
  ok(t, "resize", path, "+100M")
  agree(t, path)
  t.eq(json(t, "info", "--output=json", path)["virtual-size"] | 0, 102 << 20)
  t.match(img(t, "resize", path, "1M").err, "%-%-shrink")
  ok(t, "resize", "--shrink", path, "1M")
  agree(t, path)
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 0 1M", path)
  ok(t, "resize", path, "3M")
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 0 1M 2M", path)
  for _, mode in ipairs { "metadata", "falloc", "full" } do
    ok(t, "resize", "--preallocation", mode, path, "+1M")
    agree(t, path, mode)
  end
end)

test("snapshots inside an image, made and used by either", function(t)
  local dir = t.tmpdir()
  local path = dir .. "/s.qcow2"
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "2M")
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", path)
  ok(t, "snapshot", "-c", "ours", path)
  must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 2 0 1M", path)
  must(t, "qemu-img", "snapshot", "-c", "theirs", path)
  agree(t, path)
  ok(t, "convert", "-l", "ours", "-O", "raw", path, dir .. "/ours.raw")
  must(t, "qemu-img", "convert", "-l", "snapshot.name=ours", "-O", "raw", path, dir .. "/theirs.raw")
  t.ok(images.read(dir .. "/ours.raw") == images.read(dir .. "/theirs.raw"))
  t.match(ok(t, "snapshot", "-l", path), "Snapshot list:.*1 +ours.*2 +theirs")
  ok(t, "snapshot", "-a", "ours", path)
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 0 1M", path)
  must(t, "qemu-img", "snapshot", "-a", "theirs", path)
  ok(t, "snapshot", "-d", "ours", path)
  agree(t, path)
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 2 0 1M", path)
  t.match(img(t, "snapshot", "-a", "nobody", path).err, "nobody")
  t.match(img(t, "snapshot", "-a", "x", "-d", "y", path).err, "only one of")
end)

test("check finds and repairs leaks and damage, with qemu-img's statuses", function(t)
  local dir = t.tmpdir()
  local path = dir .. "/c.qcow2"
  local function fresh()
    must(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "2M")
    must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", path)
  end
  local function patch(at, bytes)
    local f = assert(io.open(path, "r+b"))
    f:seek("set", at)
    f:write(bytes)
    f:close()
  end
  local function header(at)
    return (string.unpack(">I8", images.read(path), at + 1))
  end
  fresh()
  t.eq(ok(t, "check", path), must(t, "qemu-img", "check", path))
  -- a reference too many: a leak
  local block = string.unpack(">I8", images.read(path), header(48) + 1)
  patch(block + 2 * 60, "\0\1")
  must(t, "truncate", "-s", tostring(61 * 65536), path)
  local r = img(t, "check", path)
  t.eq(r.status, 3)
  t.match(r.out, "1 leaked clusters were found")
  t.eq(select(2, images.run("qemu-img", "check", path)), 3)
  local theirs = images.run("qemu-img", "check", "--output=json", path):gsub("^[^{]*", "")
  same_json(t, cjson.decode(img(t, "check", "--output=json", path).out), cjson.decode(theirs))
  r = img(t, "check", "-r", "leaks", path)
  t.eq(r.status, 0)
  t.match(r.out, "repaired:\n\n +1 leaked clusters\n +0 corruptions")
  agree(t, path)
  -- one too few: damage
  fresh()
  local l2 = string.unpack(">I8", images.read(path), header(40) + 1) & 0x00fffffffffffe00
  local data = string.unpack(">I8", images.read(path), l2 + 1) & 0x00fffffffffffe00
  block = string.unpack(">I8", images.read(path), header(48) + 1)
  patch(block + 2 * (data // 65536), "\0\0")
  r = img(t, "check", path)
  t.eq(r.status, 2)
  t.match(r.out, "errors were found on the image")
  r = img(t, "check", "-r", "all", path)
  t.eq(r.status, 0)
  agree(t, path)
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 0 1M", path)
end)

test("random writes by qemu-io, read by us; written by us, read by qemu-io", function(t)
  local dir = t.tmpdir()
  local path, model = dir .. "/r.qcow2", dir .. "/model.raw"
  must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "4M")
  must(t, "truncate", "-s", "4M", model)
  local x, words, raw = 99, {}, {}
  local function random(n)
    x = x * 6364136223846793005 + 1442695040888963407
    return (x >> 33) % n
  end
  for i = 1, 60 do
    local length = (random(120) + 1) * 512
    local offset = random((4 << 20) // 512 - length // 512) * 512
    local command = random(4) == 0 and ("write -z %d %d"):format(offset, length) or ("write -P %d %d %d"):format(i, offset, length)
    words[#words + 1], words[#words + 2] = "-c", command
    raw[#raw + 1], raw[#raw + 2] = "-c", command
  end
  words[#words + 1], raw[#raw + 1] = path, model
  must(t, "qemu-io", "-f", "qcow2", table.unpack(words))
  must(t, "qemu-io", "-f", "raw", table.unpack(raw))
  ok(t, "compare", "-f", "qcow2", "-F", "raw", path, model)
  same_map(t, path)
  local node = assert(require("vmlua.core.block").open(path, {}))
  local tool = require "vmlua.core.blocktool"
  local f = assert(io.open(model, "r+b"))
  for i = 1, 120 do
    local length = random(30000) + 1
    local offset = random((4 << 20) - length)
    local bytes = images.noise(length, i)
    if random(4) == 0 then
      bytes = ("\0"):rep(length)
      assert(tool.request(node, "zero", offset, length, random(2) == 0))
    else
      assert(tool.request(node, "write", offset, bytes))
    end
    f:seek("set", offset)
    f:write(bytes)
  end
  f:close()
  assert(tool.close(node))
  agree(t, path)
  must(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, model)
end)

test("dd, bench, convert -n and several sources with qcow2", function(t)
  local dir = t.tmpdir()
  local source, image = dir .. "/s.raw", dir .. "/s.qcow2"
  images.mixed(source, 2 << 20, 31)
  ok(t, "convert", "-O", "qcow2", source, image)
  ok(t, "dd", "-O", "qcow2", "if=" .. image, "of=" .. dir .. "/d.qcow2", "bs=64k", "skip=2", "count=10")
  must(t, "qemu-img", "dd", "-f", "raw", "-O", "raw", "if=" .. source, "of=" .. dir .. "/d.raw", "bs=64k", "skip=2", "count=10")
  must(t, "qemu-img", "compare", dir .. "/d.qcow2", dir .. "/d.raw")
  ok(t, "convert", "-O", "qcow2", source, image, dir .. "/two.qcow2")
  must(t, "qemu-img", "convert", "-O", "raw", source, source, dir .. "/two.raw")
  must(t, "qemu-img", "compare", dir .. "/two.qcow2", dir .. "/two.raw")
  ok(t, "convert", "-n", "-O", "qcow2", image, dir .. "/two.qcow2")
  agree(t, dir .. "/two.qcow2")
  ok(t, "bench", "-q", "-w", "-c", "300", "--pattern=9", image)
  agree(t, image)
  must(t, "qemu-io", "-f", "qcow2", "-c", "read -P 9 0 1200k", image)
  ok(t, "info", "--image-opts", "driver=qcow2,file.driver=file,file.filename=" .. image)
  t.match(ok(t, "info", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"' .. image .. '"}}'), "file format: qcow2")
end)

-- `vmlua img` on raw images, beside qemu-img; command lines that are wrong; targets that are never half there.
local cjson = require "cjson"
local fs = require "vmlua.core.fs"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local images = dofile(here .. "/../lib/images.lua")
local process = require "vmlua.core.process"
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

test("img without a command, with an unknown one and with --help", function(t)
  local r = img(t)
  t.eq(r.status, 1)
  t.match(r.out, "convert +Copies images")
  r = img(t, "convrt")
  t.eq(r.status, 1)
  t.match(r.err, 'unknown command "convrt" %(did you mean "convert"%?%)')
  t.match(ok(t, "--help"), "Usage: vmlua img COMMAND")
  for _, name in ipairs { "amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd", "info", "map", "measure",
    "rebase", "resize", "snapshot" } do
    local help = ok(t, name, "-h")
    t.match(help, "^Usage: vmlua img " .. name)
    t.match(help, "%-h, %-%-help")
  end
end)

test("wrong options are refused by name, with the nearest known one", function(t)
  local raw = t.file("a.raw", ("x"):rep(4096))
  local function refused(pattern, ...)
    local r = img(t, ...)
    t.eq(r.status, 1)
    t.match(r.err, pattern)
    t.eq(r.out, "")
  end
  refused('unknown option "%-%-outptu" %(did you mean "%-%-output"%?%)', "info", "--outptu=json", raw)
  refused('unknown option "%-x"', "info", "-x", raw)
  refused('unknown option "%-O" %(did you mean "%-o"%?%)', "create", "-f", "raw", "-O", raw, "1M")
  refused('unknown word "jsno" %(did you mean "json"%?%)', "info", "--output=jsno", raw)
  refused("expected FMT", "info", "-f")
  refused("%-%-quiet takes no value", "create", "--quiet=yes", raw, "1M")
  refused("expected FILE", "info")
  refused('what is "b" for', "info", raw, "b")
  refused("size is expected", "create", raw .. ".new")
  refused("expected a size", "create", raw .. ".new", "1Q")
  refused('unknown option of raw "sizze" %(did you mean "size"%?%)', "create", "-o", "sizze=1M", raw .. ".new")
  refused("cannot be compressed", "convert", "-c", raw, raw .. ".new")
  refused("from 1 to 16", "convert", "-m", "99", raw, raw .. ".new")
  refused("multiple of 512", "convert", "-S", "700", raw, raw .. ".new")
  refused("%-%-shrink", "resize", raw, "512")
  refused("unknown cache mode", "convert", "-T", "sometimes", raw, raw .. ".new")
  refused("No such file", "info", raw .. ".gone")
  refused("directory", "info", t.tmpdir())
  refused("json: a name in quotes is expected at byte 1", "info", "json:{")
  refused('unknown block driver "?\'?qcow3', "info", "-f", "qcow3", raw)
  refused("cannot be created", "convert", raw, "ram:1M")
  refused("cannot be created", "create", "nbd://localhost/", "1M")
  t.eq(img(t, "compare", raw, raw .. ".gone").status, 2)
  t.eq(img(t, "compare", "--no-such-option", raw, raw).status, 2)
  t.eq(img(t, "check", raw).status, 63)
  t.eq(fs.stat(raw .. ".new"), nil)
end)

test("info says of raw images what qemu-img says", function(t)
  for _, size in ipairs { 512, 1000, 65536, 10 << 20 } do
    local path = t.file("x.raw", images.noise(math.min(size, 5000), size))
    must(t, "truncate", "-s", size, path)
    local theirs = cjson.decode(must(t, "qemu-img", "info", "-f", "raw", "--output=json", path))
    local ours = cjson.decode(ok(t, "info", "--output=json", path))
    same_json(t, ours, theirs)
    t.eq(ours["virtual-size"], theirs["virtual-size"])
    t.eq(ours["actual-size"], theirs["actual-size"])
    local human = ok(t, "info", path)
    for line in must(t, "qemu-img", "info", "-f", "raw", path):gmatch "[^\n]+" do
      t.ok(human:find(line, 1, true), "%q is missing in %s", line, human)
    end
  end
  local chain = cjson.decode(ok(t, "info", "--backing-chain", "--output=json", t.file("y.raw", ("y"):rep(512))))
  t.eq(#chain, 1)
end)

test("create, resize and map a raw image", function(t)
  local path = t.tmpdir() .. "/new.raw"
  t.match(ok(t, "create", path, "1M"), "^Formatting .*fmt=raw size=1048576")
  t.eq(fs.stat(path).size, 1 << 20)
  t.eq(ok(t, "resize", "-f", "raw", path, "+512K"), "Image resized.\n")
  t.eq(fs.stat(path).size, 1536 << 10)
  ok(t, "resize", "-q", "--shrink", path, "-1M")
  t.eq(fs.stat(path).size, 512 << 10)
  ok(t, "resize", "--preallocation=falloc", path, "1M")
  t.ok(cjson.decode(ok(t, "info", "--output=json", path))["actual-size"] >= 512 << 10)
  t.eq(img(t, "resize", path, "-2M").status, 1)
  ok(t, "create", "-q", "-o", "preallocation=falloc", path, "64k")
  t.eq(cjson.decode(ok(t, "info", "--output=json", path))["actual-size"] | 0, 65536)
  images.mixed(path, 3 << 20, 7)
  t.eq(cjson.decode(ok(t, "map", "--output=json", path)),
    cjson.decode(must(t, "qemu-img", "map", "-f", "raw", "--output=json", path)))
  t.eq(ok(t, "map", path), must(t, "qemu-img", "map", "-f", "raw", path))
  t.eq(cjson.decode(ok(t, "map", "--output=json", "--start-offset=64k", "--max-length", "256k", path)),
    cjson.decode(must(t, "qemu-img", "map", "-f", "raw", "--output=json", "--start-offset=64k", "--max-length", "256k", path)))
  t.eq(ok(t, "measure", "--size", "10M"), must(t, "qemu-img", "measure", "--size", "10M"))
end)

test("convert copies every byte, keeps holes, and fills with -S 0", function(t)
  local dir = t.tmpdir()
  local source, target = dir .. "/s.raw", dir .. "/t.raw"
  images.mixed(source, (9 << 20) + 512 * 3, 3)
  for _, options in ipairs { {}, { "-S", "64k" }, { "-S", "0" }, { "-W", "-m", "16" }, { "-m", "1" }, { "-C" },
    { "-t", "none", "-T", "none" },
    { "-t", "writeback", "-p" }, { "-r", "1G" }, { "--salvage" } } do
    local words = { "convert", table.unpack(options) }
    words[#words + 1], words[#words + 2] = source, target
    ok(t, table.unpack(words))
    t.ok(images.read(source) == images.read(target), "convert %s", table.concat(options, " "))
    local actual = cjson.decode(ok(t, "info", "--output=json", target))["actual-size"]
    if options[2] == "0" then t.ok(actual >= 9 << 20) else t.ok(actual < 9 << 20, "no holes: %d", actual) end
    t.match(must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, target), "identical")
  end
  t.eq(#fs.listdir(dir), 2)
end)

test("convert puts sources one after the other, and into an image that is there", function(t)
  local dir = t.tmpdir()
  local a, b, target = t.file("a", images.noise(1000, 1)), t.file("b", images.noise(70000, 2)), dir .. "/t"
  ok(t, "convert", a, b, target)
  must(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", a, b, target .. ".q")
  t.ok(images.read(target) == images.read(target .. ".q"))
  local there = t.file("there", ("z"):rep(200000))
  ok(t, "convert", "-n", "-f", "raw", "-O", "raw", b, there)
  t.ok(images.read(there) == images.read(b) .. ("\0"):rep(70144 - 70000) .. ("z"):rep(200000 - 70144)
    or images.read(there) == images.read(b) .. ("z"):rep(130000))
  local r = img(t, "convert", "-n", "-O", "raw", there, a)
  t.eq(r.status, 1)
  t.match(r.err, "less than")
  t.ok(images.read(a) == images.noise(1000, 1))
end)

test("dd copies a part", function(t)
  local dir = t.tmpdir()
  local source = t.file("s", images.noise(100000, 5))
  ok(t, "dd", "if=" .. source, "of=" .. dir .. "/t", "bs=4k", "skip=3", "count=8")
  must(t, "qemu-img", "dd", "-f", "raw", "-O", "raw", "if=" .. source, "of=" .. dir .. "/q", "bs=4k", "skip=3", "count=8")
  t.ok(images.read(dir .. "/t") == images.read(dir .. "/q"))
  t.match(img(t, "dd", "iff=x", "of=y").err, 'unknown operand "iff" %(did you mean "if"%?%)')
end)

test("compare: the same, different, of different size, unreadable", function(t)
  local bytes = images.noise(3 << 20, 9)
  local a, b = t.file("a", bytes), t.file("b", bytes)
  t.eq(ok(t, "compare", a, b), "Images are identical.\n")
  local function both(expected, ...)
    local words = { "-f", "raw", "-F", "raw", ... }
    local theirs, status = images.run("qemu-img", "compare", table.unpack(words))
    local r = img(t, "compare", table.unpack(words))
    t.eq(r.status, status)
    t.eq(r.status, expected)
    t.eq(r.out, theirs)
  end
  local f = assert(io.open(b, "r+b"))
  f:seek("set", 2100000)
  f:write "difference"
  f:close()
  both(1, a, b)
  local longer, other = t.file("longer", bytes .. ("\0"):rep(1 << 20)), t.file("other", bytes .. ("\0"):rep(4096) .. "x" .. ("\0"):rep(511))
  both(0, a, longer)
  both(1, "-s", a, longer)
  both(1, a, other)
  t.eq(img(t, "compare", "-q", a, other).out, "")
end)

test("a target that somebody uses, or that cannot be written, stays as it is", function(t)
  local dir = t.tmpdir()
  local source, target = t.file("s", images.noise(65536, 1)), t.file("t", "precious")
  local block = require "vmlua.core.block"
  local node = assert(block.open(target, { format = "raw" }))
  local r = img(t, "convert", source, target)
  t.eq(r.status, 1)
  t.match(r.err, "in use")
  t.eq(images.read(target), "precious")
  require("vmlua.core.blocktool").close(node)
  ok(t, "convert", "-q", source, target)
  t.match(img(t, "convert", source, dir .. "/no/such/folder").err, "No such file")
  t.match(img(t, "convert", source, dir).err, "is a folder")
  -- A name that points elsewhere stays one, and permissions stay.
  must(t, "ln", "-s", target, dir .. "/link")
  must(t, "chmod", "600", target)
  ok(t, "convert", "-q", source, dir .. "/link")
  t.eq(fs.stat(target).mode, tonumber("600", 8))
  t.eq(must(t, "readlink", dir .. "/link"), target .. "\n")
end)

test("a copy that a signal ends leaves no target", function(t)
  local dir = t.tmpdir()
  local source, target = t.file("s", images.noise(2 << 20, 1)), dir .. "/t/target"
  fs.mkdir(dir .. "/t")
  for _, signal in ipairs { 2, 15 } do
    local left, status
    local p = assert(process.spawn {
      argv = { "/proc/self/exe", "img", "convert", "-r", "100k", source, target },
      on_exit = function(code, by) left, status = true, code or by end,
    })
    t.wait_for(function() return #fs.listdir(dir .. "/t") > 0 end, 30, "the copy has begun")
    t.eq(fs.stat(target), nil)
    p:kill(signal)
    t.wait_for(function() return left end, 30, "it has ended")
    t.eq(status, 128 + signal)
    t.eq(#fs.listdir(dir .. "/t"), 0)
  end
end)

test("bench makes the requests it is asked for", function(t)
  local path = t.file("x", ("x"):rep(1 << 20))
  t.match(ok(t, "bench", "-f", "raw", "-c", "500", "-d", "8", path), "Sending 500 read requests, 4096 bytes each, 8 in parallel")
  ok(t, "bench", "-f", "raw", "-w", "-c", "256", "--pattern", "65", "--flush-interval", "16", path)
  t.ok(images.read(path) == ("A"):rep(1 << 20))
  ok(t, "bench", "-f", "raw", "-w", "-c", "64", "-d", "4", "--pattern=66", "--flush-interval", "8", "--no-drain", "-i", "threads", path)
  t.ok(images.read(path):sub(1, 64 * 4096) == ("B"):rep(64 * 4096))
  ok(t, "bench", "-q", "-f", "raw", "-c", "100", "-s", "64k", "-S", "12288", "-t", "none", "-n", path)
  t.match(img(t, "bench", "-s", "2M", path).err, "do not fit")
end)

test("what is long shows a bar on a terminal, and figures with -p elsewhere", function(t)
  local talk = dofile(here .. "/../lib/talk.lua")
  local source, target = t.file("s", images.noise(2 << 20, 1)), t.tmpdir() .. "/t"
  local r = talk.terminal(t, ("exec %s img convert -r 2M %s %s"):format(fs.realpath "/proc/self/exe", source, target),
    function(expect) expect "convert [" end)
  t.eq(r.status, 0)
  t.match(r.out, "%[#+%.*%] +%d+%.%d %%")
  t.ok(images.read(target) == images.read(source))
  t.match(ok(t, "convert", "-p", source, target), "^    %(0%.00/100%%%)\r.*%(100%.00/100%%%)\r\n$")
  t.eq(ok(t, "convert", source, target), "")
  t.eq(ok(t, "compare", "-q", "-p", source, target):gsub("%s*%(.-%)\r", ""), "\n")
end)

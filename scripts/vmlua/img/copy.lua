-- convert, dd, compare.
local core = require "vmlua.core.block"
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local output = require "vmlua.img.output"
local jobs = require "vmlua.core.blockjob"
local text = require "vmlua.text"
local tool = require "vmlua.core.blocktool"

local fail = options.fail

-- ---- convert -------------------------------------------------------------------------------------

local convert = {
  name = "convert", synopsis = "FILE [FILE…] TARGET", doc = "Copies images into a new one, of another format too.", files = { 2, nil },
  options = options.with("format quiet progress cache source_cache rate share image_opts object", {
    { short = "O", key = "target_format", arg = "FMT", doc = "Format of the target (raw)." },
    { short = "o", key = "o", arg = "OPTIONS", list = true, doc = "Options of the target, key=value,…; -o help lists them." },
    { short = "c", long = "compress", doc = "Compress the clusters of the target." },
    { short = "B", long = "backing", key = "backing", arg = "FILE",
      doc = "The target lies on that image, and gets only what FILE itself holds." },
    { short = "F", key = "backing_format", arg = "FMT", doc = "The format of that image." },
    { short = "l", key = "snapshot", arg = "SNAPSHOT", doc = "The contents of that snapshot in FILE." },
    { short = "n", long = "no-create", key = "existing", doc = "The target is there already." },
    { short = "S", long = "sparse-size", key = "sparse", arg = "BYTES",
      doc = "So many zero bytes become a hole (4k); 0: the target is allocated as a whole." },
    { short = "m", long = "parallel", key = "workers", arg = "N", doc = "Pieces that are copied at a time, 1 to 16." },
    { short = "W", key = "unordered", doc = "Write the target in any order." },
    { short = "C", key = "offload", doc = "Let the kernel copy from file to file where it can." },
    { long = "salvage", doc = "Take what cannot be read for zeroes, and go on." },
    { long = "target-is-zero", key = "target_is_zero", doc = "With -n: the target reads as zeroes everywhere." },
    { long = "target-image-opts", key = "target_image_opts", doc = "With -n: the target is a list of properties." },
    { long = "bitmaps", doc = "Refused: bitmaps are not copied." },
  }),
}

local function snapshot_name(word)
  return word and (word:match "^snapshot%.name=([^,]*)" or word:match "^snapshot%.id=([^,]*)" or word)
end

local function open_sources(s, list)
  local size = 0
  for n = 1, #s - 1 do
    list[n] = image.open(s[n], {
      format = s.format, read_only = true, cache = s.source_cache, share = s.share, image_opts = s.image_opts,
      snapshot = snapshot_name(s.snapshot),
    })
    size = size + list[n]:sectors()
  end
  return size
end

local Sources = { __close = function(list)
  for _, i in ipairs(list) do getmetatable(i).__close(i) end
end }

local function check_convert(s)
  if s.bitmaps then fail "convert: --bitmaps is not supported" end
  if s.compress and s.existing == nil and (s.target_format or "raw") ~= "qcow2" then
    fail("convert: %s cannot be compressed (-c goes with -O qcow2)", s.target_format or "raw")
  end
  if s.target_is_zero and not s.existing then fail "convert: --target-is-zero goes with -n" end
  if s.target_image_opts and not s.existing then fail "convert: --target-image-opts goes with -n" end
  if s.existing and (s.o or s.backing) then fail "convert: -n: an image that is there takes no -o and -B" end
  if s.compress and s.sparse and text.size(s.sparse) == 0 then fail "convert: -c and -S 0 exclude each other" end
  if s.offload and (s.compress or s.sparse) then fail "convert: -C excludes -c and -S" end
  if s.backing and #s > 2 then fail "convert: -B goes with one source" end
  if s.snapshot and #s > 2 then fail "convert: -l goes with one source" end
end

-- How an image is copied into the target.
local function copy_spec(s, sources, target, fresh)
  local cluster, nodes = target:cluster(), {}
  for n, i in ipairs(sources) do nodes[n] = i.node end
  local sparse = options.size(convert, "-S", s.sparse, 0, 1 << 20)
  if sparse and sparse > 0 and (sparse < 512 or sparse & 511 ~= 0) then fail "convert: -S: a multiple of 512 is expected" end
  -- Through the host's cache a file is written to by one at a time anyhow.
  local cached = s.cache ~= "none" and s.cache ~= "directsync"
  return {
    sources = nodes, target = target.node, compress = s.compress, cluster = cluster,
    target_is_zero = s.target_is_zero or (fresh and not s.backing), max_depth = s.backing and 0 or nil,
    in_order = not s.unordered and (cluster > 0 or cached), offload = s.offload, salvage = s.salvage, sparse = sparse,
    rate = options.size(convert, "-r", s.rate, 1, 1 << 62), workers = options.size(convert, "-m", s.workers, 1, 16) or 4,
  }
end

local function run_copy(s, spec, what)
  local progress <close> = output.progress(s, what)
  local job, why, failed = image.run(function(done) return jobs.copy(spec, done) end, progress)
  if not job then fail("%s: %s", what, why or failed) end
  progress:finish(true)
  if job:salvaged() > 0 then
    io.stderr:write(("vmlua img %s: %d bytes could not be read, and are zeroes now\n"):format(what, job:salvaged()))
  end
end

local function convert_into_existing(s, sources, size)
  local target <close> = image.open(s[#s], {
    format = s.target_format, cache = s.cache or "unsafe", image_opts = s.target_image_opts, discard = true,
  })
  if target.size < size and target.format ~= "raw" or target:sectors() < size then
    fail("convert: the target has %d bytes, less than the source's %d", target.size, size)
  end
  run_copy(s, copy_spec(s, sources, target, false), "convert")
  target:close()
end

local function convert_into_new(s, sources, size)
  local format = s.target_format or "raw"
  local values = image.creation_options(format, s.o)
  values.size = values.size or tostring(size)
  values.backing_file = s.backing or values.backing_file
  values.backing_fmt = s.backing_format or values.backing_fmt
  s.backing = values.backing_file
  if s.backing and format == "raw" then fail "convert: a raw image has no backing file" end
  if s.backing and not values.backing_fmt then fail "convert: the format of the backing file has to be said with -F" end
  local place <close> = image.target(s[#s])
  image.create(place, format, values)
  local target <close> = image.open(place.path, { format = format, cache = s.cache or "unsafe", discard = true })
  run_copy(s, copy_spec(s, sources, target, true), "convert")
  target:close()
  place:done()
end

function convert.run(s)
  check_convert(s)
  local format = s.target_format or "raw"
  if not s.existing and image.creation_options(format, s.o) == true then return image.print_creation_options(format) end
  local sources <close> = setmetatable({}, Sources)
  local size = open_sources(s, sources)
  if s.existing then
    convert_into_existing(s, sources, size)
  else
    convert_into_new(s, sources, size)
  end
end

-- ---- dd ------------------------------------------------------------------------------------------

local dd = {
  name = "dd", synopsis = "if=FILE of=FILE [bs=BYTES] [count=N] [skip=N]", doc = "Copies a part of an image into a new one.",
  files = { 2, 5 },
  options = options.with("format share image_opts object quiet progress", {
    { short = "O", key = "target_format", arg = "FMT", doc = "Format of the target (raw)." },
  }),
}

local function dd_operands(s)
  local words, out = { "if", "of", "bs", "count", "skip" }, {}
  for _, word in ipairs(s) do
    local key, value = word:match "^(%w+)=(.*)$"
    local known = false
    for _, w in ipairs(words) do known = known or w == key end
    if not known then fail("dd: %s", text.unknown("operand", key or word, words)) end
    out[key] = value
  end
  if not out["if"] or not out.of then fail "dd: if= and of= are expected" end
  return out
end

function dd.run(s)
  local o, format = dd_operands(s), s.target_format or "raw"
  local bs = options.size(dd, "bs", o.bs, 1, 1 << 30) or 512
  local count = options.size(dd, "count", o.count, 0, 1 << 62)
  local skip = options.size(dd, "skip", o.skip, 0, 1 << 62) or 0
  local source <close> = image.open(o["if"], { format = s.format, read_only = true, share = s.share, image_opts = s.image_opts })
  local size = source:sectors()
  if count and count < size // bs + 1 then size = math.min(size, count * bs) end
  local from = skip < size // bs + 1 and skip * bs or size
  local length = math.max(0, size - from)
  local place <close> = image.target(o.of)
  image.create(place, format, image.creation_options(format, nil) and { size = tostring((length + 511) & ~511) })
  local target <close> = image.open(place.path, { format = format, cache = "unsafe", discard = true })
  if length > 0 and from < source.size then
    local part, why = core.node "raw"
    if not part then fail("dd: %s", why) end
    part:set("file", source.node)
    part:set("read-only", true)
    part:parse("offset", tostring(from))
    part:parse("size", tostring(math.min(length, source.size - from)))
    local ok
    ok, why = part:open()
    if not ok then fail("dd: %s", why) end
    source.closed = true -- it goes with what lies on it
    local view <close> = setmetatable({}, { __close = function() tool.close(part) end })
    run_copy(s, copy_spec({ workers = "4" }, { { node = part } }, target, true), "dd")
    getmetatable(view).__close()
  end
  target:close()
  place:done()
end

-- ---- compare -------------------------------------------------------------------------------------

local compare = {
  name = "compare", synopsis = "FILE FILE", doc = "Tells whether two images show the same.", files = { 2, 2 }, trouble = 2,
  options = options.with("quiet progress source_cache share image_opts object", {
    { short = "f", key = "format", arg = "FMT", doc = "Format of the first image." },
    { short = "F", key = "format2", arg = "FMT", doc = "Format of the second image." },
    { short = "s", long = "strict", doc = "What is allocated, and the size, have to be the same too." },
    { short = "m", long = "parallel", key = "workers", arg = "N", doc = "Pieces that are compared at a time, 1 to 16." },
  }),
}

-- Exit statuses, as qemu-img's.
local SAME, DIFFERENT, CANNOT_OPEN, CANNOT_READ = 0, 1, 2, 4

function compare.run(s)
  local function open(name, format)
    return image.open(name, { format = format, read_only = true, cache = s.source_cache, share = s.share,
      image_opts = s.image_opts, status = CANNOT_OPEN })
  end
  local function say(format, ...)
    if not s.quiet then print(format:format(...)) end
  end
  local a <close> = open(s[1], s.format)
  local b <close> = open(s[2], s.format2)
  local other_size = a:sectors() ~= b:sectors()
  if other_size and s.strict then
    say "Strict mode: Image size mismatch!"
    return DIFFERENT
  end
  if other_size then say "Warning: Image size mismatch!" end
  local progress <close> = output.progress(s, "compare")
  local workers = options.size(compare, "-m", s.workers, 1, 16) or 4
  local job, why = image.run(function(done) return jobs.compare(a.node, b.node, s.strict or false, workers, done) end, progress)
  if not job then options.fail_with(why, CANNOT_READ) end
  progress:finish(true)
  local what, at = job:difference()
  if what == "content" then
    say("Content mismatch at offset %d!", at)
    return DIFFERENT
  elseif what == "allocation" then
    say("Strict mode: Offset %d block status mismatch!", at)
    return DIFFERENT
  end
  say "Images are identical."
  return SAME
end

return { convert, dd, compare, run_copy = run_copy }

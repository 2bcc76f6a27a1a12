-- bench: how fast requests to an image are.
local core = require "vmlua.core.block"
local image = require "vmlua.img.image"
local loop = require "vmlua.core.loop"
local options = require "vmlua.img.options"
local jobs = require "vmlua.core.blockjob"

local fail = options.fail

local bench = {
  name = "bench", synopsis = "FILE", doc = "Makes requests to an image, and measures how long they take.", files = { 1, 1 },
  options = options.with("format quiet cache share image_opts object", {
    { short = "c", key = "count", arg = "N", doc = "How many requests (75000)." },
    { short = "d", key = "depth", arg = "N", doc = "How many at a time (64)." },
    { short = "s", key = "bytes", arg = "BYTES", doc = "The size of each (4k)." },
    { short = "S", key = "step", arg = "BYTES", doc = "How far the next one begins from the last (its size)." },
    { short = "o", key = "offset", arg = "OFFSET", doc = "Where the first one begins (0)." },
    { short = "w", key = "write", doc = "Write instead of reading: what is in the image is lost." },
    { short = "n", key = "native", doc = "The same as -i native." },
    { short = "i", key = "aio", arg = "AIO", values = { "threads", "native", "io_uring", "auto" }, doc = "How requests reach the kernel." },
    { long = "pattern", arg = "BYTE", doc = "What is written (0)." },
    { long = "flush-interval", key = "flush", arg = "N", doc = "Flush after so many writes." },
    { long = "no-drain", key = "no_drain", doc = "Do not wait for the requests in flight before a flush." },
  }),
}

function bench.run(s)
  local function number(key, what, low, high, default) return options.size(bench, what, s[key], low, high) or default end
  local spec = {
    write = s.write, count = number("count", "-c", 0, 1 << 40, 75000), depth = number("depth", "-d", 1, 1 << 16, 64),
    bytes = number("bytes", "-s", 1, 1 << 30, 4096), offset = number("offset", "-o", 0, 1 << 62, 0),
    pattern = number("pattern", "--pattern", 0, 255, 0), flush = number("flush", "--flush-interval", 0, 1 << 40, 0),
    drain = not s.no_drain,
  }
  spec.step = number("step", "-S", 0, 1 << 62, spec.bytes)
  if spec.flush > 0 and not s.write then fail "bench: --flush-interval goes with -w" end
  if s.no_drain and spec.flush == 0 then fail "bench: --no-drain goes with --flush-interval" end
  local i <close> = image.open(s[1], {
    format = s.format, read_only = not s.write, cache = s.cache, share = s.share, image_opts = s.image_opts,
    aio = s.aio or s.native and "native" or nil,
  })
  local drive, why = core.drive(nil, nil, i.node)
  if not drive then fail("bench: %s", why) end
  drive:parse("max-in-flight", tostring(spec.depth))
  if not s.quiet then
    print(("Sending %d %s requests, %d bytes each, %d in parallel (starting at offset %d, step size %d)"):format(
      spec.count, s.write and "write" or "read", spec.bytes, spec.depth, spec.offset, spec.step))
    if spec.flush > 0 then
      print(("Sending flush every %d %srequests"):format(spec.flush, s.no_drain and "" or "drained "))
    end
  end
  io.stdout:flush()
  local start = loop.now()
  local job
  job, why = image.run(function(done) return jobs.bench(drive, spec, done) end)
  if not job then fail("bench: %s", why) end
  if not s.quiet then print(("Run completed in %.3f seconds."):format((loop.now() - start) / 1e9)) end
  i.closed = true -- with the drive
  drive:eject(true)
end

return { bench }

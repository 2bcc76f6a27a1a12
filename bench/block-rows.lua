-- Disk images beside qemu-img: vmlua bench/block-rows.lua [FOLDER [PART…]], PART one of requests, images, snapshots, memory.
-- The same file, the same requests, one program after the other, the best of three each; ratio: how many times as fast we are.
-- requests: `img bench` of both (4 KiB at random, by a large step; 1 MiB one after the other) on 512 MiB; qemu-img with native AIO
-- for cache=none, and its threads for writeback. images: whole commands, with targets that are new. snapshots: inside an image
-- whose tables map 10 GiB. memory: the most that is resident while an image of 64 GiB is read all over, by the bound of its L2 tables.
local fs = require "vmlua.core.fs"
local images = dofile(debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$" .. "/../tests/lib/images.lua")
local loop = require "vmlua.core.loop"

local folder = arg and arg[1] or os.getenv "TMPDIR" or "/var/tmp"
local parts = { requests = true, images = true, snapshots = true, memory = true }
if arg and arg[2] then
  parts = {}
  for i = 2, #arg do parts[arg[i]] = true end
end

local dir = ("%s/vmlua-block-rows.%d"):format(folder, require("vmlua.core.process").pid())
assert(fs.mkdir(dir))
local us = fs.realpath "/proc/self/exe"

local SIZE = 512 << 20
local RUNS = 3

local function must(...)
  local out, status = images.run(...)
  if status ~= 0 then error(table.concat({ ... }, " ") .. ":\n" .. out, 0) end
  return out
end

local function timed(...)
  local start = loop.now()
  must(...)
  return (loop.now() - start) / 1e9
end

-- ---- requests ------------------------------------------------------------------------------------

local function noise(path, size)
  local f = assert(io.open(path, "wb"))
  local piece = images.noise(1 << 20, 7)
  for _ = 1, size >> 20 do f:write(piece) end
  f:close()
end

-- name; how the image is made anew in `path`
local kinds = {
  { "raw", "raw", function(path) noise(path, SIZE) end },
  { "qcow2, allocated", "qcow2", function(path)
    noise(dir .. "/noise", SIZE)
    must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", dir .. "/noise", path)
  end },
  { "qcow2, unallocated", "qcow2", function(path) must("qemu-img", "create", "-q", "-f", "qcow2", path, tostring(SIZE)) end },
  { "qcow2, backed", "qcow2", function(path)
    if not fs.stat(dir .. "/base") then
      noise(dir .. "/noise", SIZE)
      must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", dir .. "/noise", dir .. "/base")
    end
    must("qemu-img", "create", "-q", "-f", "qcow2", "-b", dir .. "/base", "-F", "qcow2", path)
  end },
}
local RANDOM = tostring(4096 * 10007)
-- name; options; how many with cache=none, with writeback
local requests = {
  { "4 KiB random read, QD 1", { "-d", "1", "-S", RANDOM }, 4000, 30000 },
  { "4 KiB random read, QD 32", { "-d", "32", "-S", RANDOM }, 15000, 60000 },
  { "4 KiB random write, QD 1", { "-d", "1", "-w", "-S", RANDOM }, 3000, 10000 },
  { "4 KiB random write, QD 32", { "-d", "32", "-w", "-S", RANDOM }, 8000, 20000 },
  { "1 MiB sequential read, QD 4", { "-d", "4", "-s", "1M" }, 512, 1024 },
  { "1 MiB sequential write, QD 4", { "-d", "4", "-w", "-s", "1M" }, 512, 512 },
}

local function bench_seconds(program, format, cache, count, options, path)
  local words = { table.unpack(program) }
  for _, w in ipairs { "bench", "-f", format, "-t", cache, "-c", tostring(count) } do words[#words + 1] = w end
  for _, w in ipairs(options) do words[#words + 1] = w end
  if cache == "none" then words[#words + 1] = "-n" end
  words[#words + 1] = path
  return tonumber(must(table.unpack(words)):match "completed in ([%d.]+) seconds")
end

local function request_rows()
  print "| image | cache | requests | vmlua | qemu-img | ratio |\n| --- | --- | --- | ---: | ---: | ---: |"
  local path = dir .. "/image"
  for _, kind in ipairs(kinds) do
    for _, cache in ipairs { "none", "writeback" } do
      kind[3](path)
      must("sync", dir)
      for _, r in ipairs(requests) do
        local count, writes = cache == "none" and r[3] or r[4], table.concat(r[2], " "):find "%-w"
        local best = {}
        for _ = 1, RUNS do
          for who, program in pairs { ours = { us, "img" }, theirs = { "qemu-img" } } do
            if writes and kind[1]:find "una" or writes and kind[1]:find "back" then kind[3](path) end -- writes allocate
            local seconds = bench_seconds(program, kind[2], cache, count, r[2], path)
            best[who] = math.min(best[who] or math.huge, seconds)
          end
        end
        local function speed(seconds)
          return r[1]:find "MiB" and ("%.0f MiB/s"):format(count / seconds) or ("%.0f /s"):format(count / seconds)
        end
        print(("| %s | %s | %s | %s | %s | %.2f |"):format(kind[1], cache, r[1], speed(best.ours), speed(best.theirs),
          best.theirs / best.ours))
        if writes and kind[1]:find "una" or writes and kind[1]:find "back" then kind[3](path) end
      end
      os.remove(path)
    end
  end
end

-- ---- whole images --------------------------------------------------------------------------------

local function mixed(path)
  local f = assert(io.open(path, "wb"))
  local piece = images.noise(1 << 20, 7)
  local line = ("a line of text that can be packed, %d\n"):rep(30000):sub(1, 1 << 20)
  for i = 0, 767 do
    f:seek("set", i << 20)
    if i % 8 < 3 then f:write(piece) elseif i % 8 < 5 then f:write(line) elseif i % 8 == 5 then f:write(("\0"):rep(1 << 20)) end
  end
  f:close()
  must("truncate", "-s", "768M", path)
end

local function image_rows()
  local raw, q, target, big = dir .. "/s.raw", dir .. "/s.qcow2", dir .. "/target", dir .. "/big.qcow2"
  mixed(raw)
  must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, q)
  must("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", big, "10G")
  must("qemu-img", "resize", "-q", big, "100G")
  local rows = {
    { "convert raw to qcow2", { "convert", "-f", "raw", "-O", "qcow2", raw, target } },
    { "convert qcow2 to raw", { "convert", "-f", "qcow2", "-O", "raw", q, target } },
    { "convert raw to raw", { "convert", "-f", "raw", "-O", "raw", raw, target } },
    { "convert raw to compressed qcow2, 2 workers", { "convert", "-c", "-m", "2", "-f", "raw", "-O", "qcow2", raw, target } },
    { "the same, out of order (-W)", { "convert", "-c", "-m", "2", "-W", "-f", "raw", "-O", "qcow2", raw, target } },
    { "compare raw with qcow2", { "compare", "-f", "raw", "-F", "qcow2", raw, q } },
    { "check of 100 GiB, 10 GiB of them allocated", { "check", "-f", "qcow2", big } },
    { "map of the same", { "map", "--output=json", "-f", "qcow2", big } },
  }
  print "\n| whole images | vmlua | qemu-img | ratio |\n| --- | ---: | ---: | ---: |"
  for _, row in ipairs(rows) do
    local best = {}
    for _ = 1, RUNS do
      for who, program in pairs { ours = { us, "img" }, theirs = { "qemu-img" } } do
        os.remove(target)
        local words = { table.unpack(program) }
        for _, w in ipairs(row[2]) do words[#words + 1] = w end
        best[who] = math.min(best[who] or math.huge, timed(table.unpack(words)))
      end
    end
    print(("| %s | %.2f s | %.2f s | %.2f |"):format(row[1], best.ours, best.theirs, best.theirs / best.ours))
  end
end

-- ---- snapshots -----------------------------------------------------------------------------------

local function snapshot_rows()
  local programs = { ours = { us, "img" }, theirs = { "qemu-img" } }
  local rows = { { "create", "-c" }, { "apply", "-a" }, { "delete", "-d" } }
  local best = { {}, {}, {} }
  for who in pairs(programs) do
    must("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", dir .. "/" .. who, "10G")
    must("sync", dir .. "/" .. who)
  end
  for _ = 1, RUNS + 2 do
    for who, program in pairs(programs) do
      for i, row in ipairs(rows) do
        local words = { table.unpack(program) }
        for _, w in ipairs { "snapshot", row[2], "s", dir .. "/" .. who } do words[#words + 1] = w end
        best[i][who] = math.min(best[i][who] or math.huge, timed(table.unpack(words)))
      end
    end
  end
  print "\n| a snapshot inside an image, 10 GiB mapped | vmlua | qemu-img | ratio |\n| --- | ---: | ---: | ---: |"
  for i, row in ipairs(rows) do
    print(("| %s | %.3f s | %.3f s | %.2f |"):format(row[1], best[i].ours, best[i].theirs, best[i].theirs / best[i].ours))
  end
end

-- ---- memory --------------------------------------------------------------------------------------

-- The most that was resident, in KiB: looked at until the program has ended.
local function peak(...)
  local words = {}
  for i, w in ipairs { ... } do words[i] = ("'%s'"):format(w) end
  local out = must("sh", "-c", table.concat(words, " ")
    .. " >/dev/null & p=$!; while grep -s VmHWM /proc/$p/status; do sleep 0.02; done; wait $p")
  local most = 0
  for kib in out:gmatch "VmHWM:%s*(%d+) kB" do most = math.max(most, tonumber(kib)) end
  return most
end

local function memory_rows()
  local path = dir .. "/large.qcow2"
  must("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "64G")
  local function both(extra)
    local file = ("driver=qcow2,%sfile.driver=file,file.filename=%s"):format(extra, path)
    local out = {}
    for who, program in pairs { ours = { us, "img" }, theirs = { "qemu-img" } } do
      local words = { table.unpack(program) }
      for _, w in ipairs { "bench", "--image-opts", "-c", "60000", "-d", "8", "-S", tostring(65536 * 10007), file } do
        words[#words + 1] = w
      end
      out[who] = peak(table.unpack(words))
    end
    return out
  end
  print "\n| resident while 64 GiB are read all over | vmlua | qemu-img |\n| --- | ---: | ---: |"
  for _, row in ipairs { { "l2-cache-size=1M", "l2-cache-size=1M," }, { "by default", "" } } do
    local kib = both(row[2])
    print(("| %s | %.1f MiB | %.1f MiB |"):format(row[1], kib.ours / 1024, kib.theirs / 1024))
  end
end

local ok, why = pcall(function()
  if parts.requests then request_rows() end
  if parts.images then image_rows() end
  if parts.snapshots then snapshot_rows() end
  if parts.memory then memory_rows() end
end)
must("rm", "-rf", dir)
if not ok then error(why, 0) end

-- info, map, measure.
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local output = require "vmlua.img.output"
local text = require "vmlua.text"
local tool = require "vmlua.core.blocktool"

local fail = options.fail

-- ---- info ----------------------------------------------------------------------------------------

local info = {
  name = "info", synopsis = "FILE", doc = "Says what an image is.", files = { 1, 1 },
  options = options.with("format output share image_opts object", {
    { long = "backing-chain", key = "chain", doc = "The images below it too." },
  }),
}

-- Facts of a driver that stand outside of what is specific to its format.
local general = {
  ["cluster-size"] = "integer", ["backing-filename"] = "string", ["backing-filename-format"] = "string",
  ["full-backing-filename"] = "string", ["dirty-flag"] = "boolean", encrypted = "boolean", compressed = "boolean",
}
-- Those that stay text, whatever they look like.
local texts = { compat = true, ["compression-type"] = true, ["data-file"] = true, filename = true, name = true }

local function typed(key, value)
  if general[key] == "string" or texts[key] then return value end
  if value == "true" or value == "false" then return value == "true" end
  return value:match "^%d+$" and math.tointeger(tonumber(value)) or value
end

local function bitmap(line)
  local name, granularity, flags = line:match "^(.*)\t(%d+)\t(.-)$"
  local list = { list = true }
  for flag in (flags or ""):gmatch "[^,]+" do list[#list + 1] = flag end
  return { name = name, granularity = math.tointeger(tonumber(granularity)), flags = list }
end

local function snapshot_entry(sn)
  local entry = {
    id = sn.id, name = sn.name, ["vm-state-size"] = sn.vm_state_size, ["date-sec"] = sn.date_sec,
    ["date-nsec"] = sn.date_nsec, ["vm-clock-sec"] = sn.vm_clock_ns // 1000000000, ["vm-clock-nsec"] = sn.vm_clock_ns % 1000000000,
  }
  if sn.icount ~= -1 then entry.icount = sn.icount end
  return entry
end

--- What is known of an open image, as qemu-img's JSON has it.
---@param i Image
---@return table
local function describe(i)
  local name = image.is_json(i.name) and tool.filename(i.node) or i.name
  local out = { filename = name, format = i.format, ["virtual-size"] = i:sectors(), ["dirty-flag"] = false,
    ["actual-size"] = tool.actual_size(i.node) }
  local facts, specific = i:facts(), {}
  for key, value in pairs(facts) do
    if general[key] then
      out[key] = typed(key, value)
    elseif key ~= "bitmaps" and key ~= "snapshots" then
      specific[key] = typed(key, value)
    end
  end
  for n, line in ipairs(facts.bitmaps) do
    specific.bitmaps = specific.bitmaps or {}
    specific.bitmaps[n] = bitmap(line)
  end
  if out["backing-filename"] and not out["full-backing-filename"] then
    out["full-backing-filename"] = image.beside(i.name, out["backing-filename"])
  end
  local snapshots = next(specific) and tool.snapshots(i.node) or {}
  for n, sn in ipairs(snapshots) do
    out.snapshots = out.snapshots or {}
    out.snapshots[n] = snapshot_entry(sn)
  end
  if next(specific) then out["format-specific"] = { type = i.format, data = specific } end
  return out
end

-- The table of snapshots; also what `snapshot -l` prints.
local function snapshot_table(list)
  local lines = { ("%-9s %-16s %8s %20s %13s %11s"):format("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT") }
  for _, sn in ipairs(list) do
    local clock = sn["vm-clock-sec"] * 1000000000 + sn["vm-clock-nsec"]
    lines[#lines + 1] = ("%-9s %-16s %8s %20s %13s %11s"):format(sn.id, sn.name, output.size(sn["vm-state-size"]),
      os.date("%Y-%m-%d %H:%M:%S", sn["date-sec"]), output.clock(clock), sn.icount and tostring(sn.icount) or "")
  end
  return table.concat(lines, "\n")
end

local function print_specific(data, indent)
  for _, key in ipairs(text.keys(data)) do
    local value, label = data[key], key:gsub("%-", " ")
    if type(value) == "table" then
      print(("%s%s:"):format(indent, label))
      for n, v in ipairs(value) do
        if type(v) == "table" then
          print(("%s    [%d]:"):format(indent, n - 1))
          print_specific(v, indent .. "        ")
        else
          print(("%s    [%d]: %s"):format(indent, n - 1, v))
        end
      end
    else
      print(("%s%s: %s"):format(indent, label, value))
    end
  end
end

local function print_info(d)
  print("image: " .. d.filename)
  print("file format: " .. d.format)
  print(("virtual size: %s (%d bytes)"):format(output.size(d["virtual-size"]), d["virtual-size"]))
  print("disk size: " .. (d["actual-size"] and output.size(d["actual-size"]) or "unavailable"))
  if d.encrypted then print "encrypted: yes" end
  if d["cluster-size"] then print("cluster_size: " .. d["cluster-size"]) end
  if d["dirty-flag"] then print "cleanly shut down: no" end
  if d["backing-filename"] then
    local full = d["full-backing-filename"]
    print(("backing file: %s%s"):format(d["backing-filename"], full ~= d["backing-filename"] and (" (actual path: %s)"):format(full) or ""))
    if d["backing-filename-format"] then print("backing file format: " .. d["backing-filename-format"]) end
  end
  if d.snapshots then print("Snapshot list:\n" .. snapshot_table(d.snapshots)) end
  if d["format-specific"] then
    print "Format specific information:"
    print_specific(d["format-specific"].data, "    ")
  end
end

local function describe_chain(s)
  local out, name, format, seen = { list = true }, s[1], s.format, {}
  repeat
    if seen[name] then fail("info: the chain of backing files of '%s' is a loop", s[1]) end
    seen[name] = true
    local i <close> = image.open(name, {
      format = format, read_only = true, share = s.share, image_opts = #out == 0 and s.image_opts or nil, no_backing = true,
    })
    local d = describe(i)
    out[#out + 1] = d
    name, format = s.chain and d["full-backing-filename"], d["backing-filename-format"]
  until not name
  return out
end

function info.run(s)
  local list = describe_chain(s)
  if s.output == "json" then
    print(output.json(s.chain and list or list[1]))
    return
  end
  for n, d in ipairs(list) do
    if n > 1 then print "" end
    print_info(d)
  end
end

-- ---- map -----------------------------------------------------------------------------------------

local map = {
  name = "map", synopsis = "FILE", doc = "Says where the data of an image is.", files = { 1, 1 },
  options = options.with("format output share image_opts object", {
    { short = "s", long = "start-offset", key = "start", arg = "OFFSET", doc = "Where to begin." },
    { short = "l", long = "max-length", key = "length", arg = "BYTES", doc = "How much to look at." },
  }),
}

local STEP = 4096 -- extents asked for at a time

-- Calls fn for each extent, neighbours joined.
local function each_extent(i, from, to, fn)
  local kept
  local function same(a, b)
    return a.depth == b.depth and a.data == b.data and a.zero == b.zero and a.allocated == b.allocated and
      a.compressed == b.compressed and (a.offset ~= nil) == (b.offset ~= nil) and (not a.offset or a.offset + a.length == b.offset)
  end
  while from < to do
    local list, why = tool.map(i.node, from, to - from, STEP)
    if not list then fail("%s", why) end
    for _, e in ipairs(list) do
      if kept and same(kept, e) then
        kept.length = kept.length + e.length
      else
        if kept then fn(kept) end
        kept = e
      end
      from = e.start + e.length
    end
  end
  if kept then fn(kept) end
end

-- The file of each image of the chain, by depth.
local function chain_files(i)
  local out, node, depth = {}, i.node, 0
  while node do
    out[depth] = depth == 0 and i.name or tool.filename(node) or node.driver
    node, depth = tool.backing(node), depth + 1
  end
  return out
end

local function print_map(i, from, to)
  print(("%-16s%-16s%-16s%s"):format("Offset", "Length", "Mapped to", "File"))
  local files = chain_files(i)
  local run
  local function out()
    if run then print(("%#-16x%#-16x%#-16x%s"):format(run.start, run.length, run.offset, run.file)) end
  end
  each_extent(i, from, to, function(e)
    if e.data and not e.offset then fail "map: the image has compressed or encrypted clusters, or its data is in another file" end
    if not e.data or e.zero then return end
    local file = files[e.depth] or i.name
    if run and run.file == file and run.start + run.length == e.start and run.offset + run.length == e.offset then
      run.length = run.length + e.length
    else
      out()
      run = { start = e.start, length = e.length, offset = e.offset, file = file }
    end
  end)
  out()
end

function map.run(s)
  local i <close> = image.open(s[1], { format = s.format, read_only = true, share = s.share, image_opts = s.image_opts })
  local from = options.size(map, "--start-offset", s.start, 0, 1 << 62) or 0
  local length = options.size(map, "--max-length", s.length, 1, 1 << 62)
  local to = length and math.min(i.size, from + length) or i.size
  if s.output ~= "json" then return print_map(i, from, to) end
  local first = true
  each_extent(i, from, to, function(e)
    io.write(first and "[" or ",\n", ('{ "start": %d, "length": %d, "depth": %d, "present": %s, "zero": %s, "data": %s%s}'):format(
      e.start, e.length, e.depth, e.allocated or e.data, e.zero, e.data, e.offset and (', "offset": %d'):format(e.offset) or ""))
    first = false
  end)
  print(first and "[]" or "]")
end

-- ---- measure -------------------------------------------------------------------------------------

local measure = {
  name = "measure", synopsis = "FILE | --size SIZE", doc = "Says how large the file of a new image would be.", files = { 0, 1 },
  options = options.with("format output share image_opts object", {
    { long = "size", arg = "SIZE", doc = "An empty image of that size, instead of FILE." },
    { short = "O", key = "target_format", arg = "FMT", doc = "Format of the new image (raw)." },
    { short = "o", key = "o", arg = "OPTIONS", list = true, doc = "Its options, as for create." },
    { short = "l", key = "snapshot", arg = "SNAPSHOT", doc = "The contents of that snapshot in FILE." },
  }),
}

local function up(n, to) return (n + to - 1) // to * to end

-- Clusters of reference counts for so many clusters; they count themselves too.
local function refcount_clusters(clusters, cluster, bits)
  local per_block, per_table = cluster * 8 // bits, cluster // 8
  local blocks, tables = 0, 0
  local before
  repeat
    before = blocks + tables
    blocks = up(clusters + blocks + tables, per_block) // per_block
    tables = up(blocks, per_table) // per_table
  until blocks + tables == before
  return blocks + tables
end

-- Everything but the data of a qcow2 image: header, L1, L2, reference counts.
local function qcow2_overhead(size, cluster, bits, extended)
  local entry = extended and 16 or 8
  local l2 = up(up(size, cluster) // cluster, cluster // entry)
  local l1 = up(l2 * entry // cluster, cluster // 8)
  local bytes = cluster + l2 * entry + l1 * 8
  return bytes + refcount_clusters((bytes + up(size, cluster)) // cluster, cluster, bits) * cluster
end

local function option_size(values, key, default)
  local n, err = text.size(values[key] or default)
  if not n then fail("measure: %s: %s", key, err) end
  return n
end

local function measure_qcow2(size, source, values)
  local cluster = option_size(values, "cluster_size", 65536)
  local bits = option_size(values, "refcount_bits", 16)
  if cluster < 512 or cluster > 2 << 20 or cluster & (cluster - 1) ~= 0 then fail "measure: cluster_size: a power of two from 512 to 2M" end
  if bits < 1 or bits > 64 or bits & (bits - 1) ~= 0 then fail "measure: refcount_bits: a power of two from 1 to 64" end
  local extended = text.boolean(values.extended_l2 or "off")
  local overhead = qcow2_overhead(size, cluster, bits, extended)
  local whole, needed, counted = up(size, cluster), 0, 0
  if source then
    each_extent(source, 0, source.size, function(e)
      if e.zero or not e.data then return end
      local first, last = math.max(counted, e.start // cluster), up(e.start + e.length, cluster) // cluster
      needed = needed + math.max(0, last - first) * cluster
      counted = math.max(counted, last)
    end)
  end
  local mode = values.preallocation
  if mode == "full" or mode == "falloc" then needed = whole end
  return { required = overhead + needed, ["fully-allocated"] = overhead + whole }
end

function measure.run(s)
  local format = s.target_format or "raw"
  local values = image.creation_options(format, s.o)
  if values == true then return image.print_creation_options(format) end
  if s.size and s[1] or not (s.size or s[1]) then fail "measure: either a FILE or --size is expected" end
  local source <close> = s[1] and image.open(s[1], {
    format = s.format, read_only = true, share = s.share, image_opts = s.image_opts, snapshot = s.snapshot,
  }) or nil
  local size = source and source:sectors() or options.size(measure, "--size", s.size, 0, 1 << 62)
  local result
  if format == "qcow2" then
    result = measure_qcow2(size, source, values)
    if source and source.format == "qcow2" and source:facts().compat ~= "0.10" then result.bitmaps = 0 end
  else
    result = { required = up(size, 512), ["fully-allocated"] = up(size, 512) }
  end
  if s.output == "json" then
    print(output.json(result))
    return
  end
  print("required size: " .. result.required)
  print("fully allocated size: " .. result["fully-allocated"])
  if result.bitmaps then print("bitmaps size: " .. result.bitmaps) end
end

return { info, map, measure, describe = describe, snapshot_table = snapshot_table }

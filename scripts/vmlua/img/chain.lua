-- commit, rebase: images that lie on each other.
local core = require "vmlua.core.block"
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local tool = require "vmlua.core.blocktool"

local fail = options.fail

local function run_copy(...) return require("vmlua.img.copy").run_copy(...) end

-- ---- commit --------------------------------------------------------------------------------------

local commit = {
  name = "commit", synopsis = "FILE", doc = "Writes what an image holds into the one below it.", files = { 1, 1 },
  options = options.with("format quiet progress cache rate image_opts object", {
    { short = "b", key = "base", arg = "BASE", doc = "Write into this image of the chain, and leave FILE as it is." },
    { short = "d", key = "keep", doc = "Leave FILE as it is, instead of emptying it." },
  }),
}

-- The image that is written, by its place in the chain: { depth =, name =, format =, size = of the top }.
local function find_base(s)
  local top <close> = image.open(s[1], { format = s.format, image_opts = s.image_opts })
  local node, name, depth, found = top.node, top.name, 0, nil
  repeat
    local facts = image.facts(node)
    local backing = facts["backing-filename"]
    if not backing or not tool.backing(node) then break end
    local full = facts["full-backing-filename"] or image.beside(name, backing)
    node, depth, name = tool.backing(node), depth + 1, full
    if not s.base or s.base == full or s.base == backing then
      found = { depth = depth, name = full, format = node.driver, size = top.size, top_format = top.format }
    end
  until found
  if not found and s.base then fail("commit: '%s' is not in the chain of backing files of '%s'", s.base, s[1]) end
  return found or fail("commit: '%s' has no backing file", s[1])
end

function commit.run(s)
  if s.image_opts or image.is_json(s[1]) then fail "commit: the image has to be named by its file" end
  local found = find_base(s)
  -- Nobody else writes the image meanwhile; what is read of it does not lock what is below, which is written.
  local held <close> = image.open(s[1], { format = "raw" })
  local base <close> = image.open(found.name, { format = found.format, cache = s.cache, discard = true })
  local top <close> = image.open(s[1], { format = found.top_format, read_only = true, locking = "off" })
  if base.size < found.size then
    local ok, why = tool.resize(base.node, found.size)
    if not ok then fail("commit: '%s' is smaller, and %s", found.name, why) end
  end
  run_copy(s, {
    sources = { top.node }, target = base.node, max_depth = found.depth - 1, cluster = base:cluster(), workers = 4,
    in_order = base:cluster() > 0, rate = options.size(commit, "-r", s.rate, 1, 1 << 62),
  }, "commit")
  base:close()
  top:close()
  held:close()
  if not s.keep and not s.base then
    local emptied <close> = image.open(s[1], { format = found.top_format, cache = s.cache })
    local ok, why = tool.make_empty(emptied.node)
    if not ok then fail("commit: the data is in '%s' now, but %s", found.name, why) end
    emptied:close()
  end
  if not s.quiet then print "Image committed." end
end

-- ---- rebase --------------------------------------------------------------------------------------

local rebase = {
  name = "rebase", synopsis = "-b BACKING FILE", doc = "Gives an image another backing file; what it shows stays.", files = { 1, 1 },
  options = options.with("format quiet progress cache source_cache share image_opts object", {
    { short = "b", key = "backing", arg = "FILE", doc = 'The new backing file; "" for none.' },
    { short = "F", key = "backing_format", arg = "FMT", doc = "Its format." },
    { short = "u", key = "unsafe", doc = "Change the name only: the contents are the same as before." },
  }),
}

-- The image that will be below; a disk of zeroes where there is none.
local function new_below(s, size)
  if s.backing ~= "" then
    return image.open(image.beside(s[1], s.backing), { format = s.backing_format, read_only = true, cache = s.source_cache,
      share = s.share })
  end
  local node, why = core.node "null"
  if not node then fail("rebase: %s", why) end
  node:parse("size", tostring(size))
  local ok
  ok, why = node:open()
  if not ok then fail("rebase: %s", why) end
  return image.wrap(node, "")
end

function rebase.run(s)
  if not s.backing then fail "rebase: -b is expected" end
  local top <close> = image.open(s[1], { format = s.format, image_opts = s.image_opts, cache = s.cache, no_backing = s.unsafe })
  local format = s.backing_format
  if not s.unsafe then
    local below <close> = new_below(s, top.size)
    if s.backing ~= "" then
      if not format then fail("rebase: the format of the backing file has to be said with -F (it looks like %s)", below.format) end
    end
    run_copy(s, {
      sources = { top.node }, target = top.node, reference = below.node, cluster = top:cluster(), in_order = true, workers = 4,
    }, "rebase")
  end
  local name = s.backing ~= "" and s.backing or nil
  local ok, why = tool.change_backing(top.node, name, name and format)
  if not ok then fail("rebase: %s", why) end
  top:close()
end

return { commit, rebase }

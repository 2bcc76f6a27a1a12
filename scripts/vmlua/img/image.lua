-- Images as the commands of `vmlua img` open and make them, and jobs that are waited for.
local block = require "vmlua.block"
local core = require "vmlua.core.block"
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local options = require "vmlua.img.options"
local sched = require "vmlua.sched"
local text = require "vmlua.text"
local tool = require "vmlua.core.blocktool"

local image = {}
local fail = options.fail

local caches = { "writeback", "none", "writethrough", "directsync", "unsafe" }

local function cache_word(word)
  if not word then return nil end
  for _, c in ipairs(caches) do
    if c == word then return word end
  end
  fail("%s", text.unknown("cache mode", word, caches))
end

-- ---- opening -------------------------------------------------------------------------------------

---@class Image
---@field node block-node
---@field name string as it was given
---@field format string
---@field size integer bytes that it shows
local Image = {}
Image.__index = Image

--- Closes it; a flush that fails is an error.
function Image:close()
  if self.closed then return end
  self.closed = true
  local ok, why = tool.close(self.node)
  if not ok then fail("%s", why) end
end

-- The way out of an error: what else fails is not told.
Image.__close = function(self)
  if not self.closed then
    self.closed = true
    tool.close(self.node)
  end
end

--- Pairs of a node's driver as a table; bitmaps as a list.
---@param node block-node
---@return table<string, any>
function image.facts(node)
  local out = { bitmaps = {} }
  for _, pair in ipairs(tool.info(node)) do
    if pair[1] == "bitmap" then
      table.insert(out.bitmaps, pair[2])
    else
      out[pair[1]] = pair[2]
    end
  end
  return out
end

--- The same of this image.
function Image:facts() return image.facts(self.node) end

--- Bytes of a cluster; 0: the format has none.
function Image:cluster() return tonumber(self:facts()["cluster-size"]) or 0 end

--- The image as tools count it: whole sectors.
function Image:sectors() return (self.size + 511) & ~511 end

local function wrap(node, name)
  return setmetatable({ node = node, name = name, format = node.driver, size = node.length }, Image)
end

--- An image from an open node.
---@param node block-node
---@param name string
---@return Image
function image.wrap(node, name) return wrap(node, name) end

local function open_described(name, spec, o)
  if o.read_only then spec["read-only"] = "on" end
  local ok, node = pcall(block.build, spec)
  if not ok then fail("could not open '%s': %s", name, text.without_place(node)) end
  return wrap(node, name)
end

--- Whether a name is a description ("json:{…}").
---@param name string
---@return boolean
function image.is_json(name) return name:sub(1, 5) == "json:" end

-- --image-opts describes nodes.
local function described(name, o)
  if not o.image_opts then return nil end
  local values, why = text.keyval(name)
  if not values then fail("--image-opts: %s", why) end
  if not values.driver then fail("--image-opts: driver= is missing in '%s'", name) end
  return block.nested(values)
end

--- Opens an image. o: format, read_only, cache, share, image_opts, no_backing, snapshot, discard, locking.
---@param name string
---@param o table
---@return Image
function image.open(name, o)
  local spec = described(name, o)
  if o.format and (o.image_opts) then fail("--image-opts and a format exclude each other") end
  if o.snapshot then
    if spec or image.is_json(name) then fail("a snapshot of an image that is described by properties is named there") end
    spec = { driver = o.format or "qcow2", snapshot = o.snapshot, file = { driver = "file", filename = name } }
  end
  if spec then return open_described(name, spec, o) end
  local node, why = core.open(name, {
    format = o.format, read_only = o.read_only, cache = cache_word(o.cache), no_backing = o.no_backing,
    locking = (o.share or o.locking == "off") and "off" or nil, discard = o.discard, aio = o.aio, for_check = o.for_check,
  })
  if not node then options.fail_with(("could not open '%s': %s"):format(name, why), o.status) end
  return wrap(node, name)
end

-- ---- making --------------------------------------------------------------------------------------

-- What can be given with -o, by format.
local creation = {
  raw = {
    { "size", "size of the image" },
    { "preallocation", "off, falloc, or full" },
  },
  qcow2 = {
    { "size", "size of the image" },
    { "backing_file", "image that shows through" },
    { "backing_fmt", "its format" },
    { "cluster_size", "bytes of a cluster, 512 to 2M (64k)" },
    { "compat", "0.10 (version 2) or 1.1 (version 3)" },
    { "compression_type", "zlib or zstd" },
    { "data_file", "file that holds the data" },
    { "data_file_raw", "the data file is to be readable as a raw image" },
    { "encryption", "refused: encrypted images are not supported" },
    { "extended_l2", "subclusters: on or off" },
    { "lazy_refcounts", "on or off" },
    { "preallocation", "off, metadata, falloc, or full" },
    { "refcount_bits", "bits of a reference count, 1 to 64 (16)" },
  },
}
creation.file = creation.raw

--- Prints what -o takes for a format.
---@param format string
function image.print_creation_options(format)
  print "Supported options:"
  for _, o in ipairs(creation[format] or fail("format %s cannot be created", format)) do
    print(("  %-18s - %s"):format(o[1], o[2]))
  end
end

--- Reads the -o options: a table of key = value; true when help was asked for.
---@param format string
---@param list string[]?
---@return table<string, string>|true
function image.creation_options(format, list)
  local out, names = {}, {}
  if not creation[format] then fail("%s", text.unknown("format that can be created", format, text.keys(creation))) end
  for _, o in ipairs(creation[format]) do names[#names + 1] = o[1] end
  for _, part in ipairs(list or {}) do
    if part == "help" or part == "?" then return true end
    local values, keys = text.keyval(part)
    if not values then fail("-o: %s", keys) end
    for _, key in ipairs(keys) do
      local known = false
      for _, n in ipairs(names) do known = known or n == key end
      if not known then fail("-o: %s", text.unknown("option of " .. format, key, names)) end
      out[key] = values[key]
    end
  end
  return out
end

local function pairs_list(format, values)
  local out = {}
  for _, o in ipairs(creation[format]) do
    if values[o[1]] then out[#out + 1] = { o[1], values[o[1]] } end
  end
  return out
end

--- "Formatting 'x', fmt=raw size=1024".
function image.describe_creation(name, format, values)
  local parts = {}
  for _, pair in ipairs(pairs_list(format, values)) do parts[#parts + 1] = pair[1] .. "=" .. pair[2] end
  return ("Formatting '%s', fmt=%s %s"):format(name, format, table.concat(parts, " "))
end

-- Somebody who has the file open must not lose it.
local function refuse_if_used(path)
  local node, why = core.open(path, { format = "raw" })
  if not node then fail("'%s' cannot be replaced: %s", path, why) end
  tool.close(node)
end

---@class Target
---@field path string where the new image is made
local Target = {}
Target.__index = Target

--- The image is whole: it takes its place.
function Target:done()
  if not self.file then return end
  local ok, why = self.file:keep(self.final)
  if not ok then fail("%s", why) end
end

Target.__close = function(self)
  if self.file then self.file:remove() end
end

-- What stands before the colon of names that are no files.
local no_files = { null = true, ram = true, nbd = true, nbds = true, ["nbd+unix"] = true, ["nbds+unix"] = true, json = true }

--- A place for a new image: a name of its own beside the one it will have, so that nothing half-written ever bears
--- that name. Devices and other special files are written where they are.
---@param name string
---@return Target
function image.target(name)
  local scheme = name:match "^(%a[%w+.-]*):"
  if scheme and no_files[scheme] then fail("'%s' cannot be created (-n takes a target that is there)", name) end
  local path = name:gsub("^file:", "")
  local st = fs.stat(path)
  local final = st and fs.realpath(path) or path
  if st and st.type == "directory" then fail("'%s' is a folder", name) end
  if st and st.type ~= "file" then return setmetatable({ path = path, final = path }, Target) end
  if st then refuse_if_used(path) end
  local folder, base = final:match "^(.*/)([^/]*)$"
  if base == "" or final == "" then fail("'%s' is no name of a file", name) end
  folder, base = folder or "", base or final
  local temporary = ("%s.%s.%d.part"):format(folder, base:sub(1, 200), require("vmlua.core.process").pid())
  if fs.stat(temporary) then os.remove(temporary) end
  return setmetatable({ path = temporary, final = final, mode = st and st.mode, file = tool.temporary(temporary) }, Target)
end

--- Makes the image of a target.
---@param target Target
---@param format string
---@param values table<string, string>
function image.create(target, format, values)
  local ok, why = tool.create(format == "raw" and "file" or format, target.path, pairs_list(format, values))
  if not ok then fail("%s: %s", target.final, (why:gsub(target.path, target.final, 1, true))) end
  if target.mode and target.path ~= target.final then fs.chmod(target.path, target.mode) end
end

--- Where a backing file is that an image names: beside the image, unless its path is absolute or a URI.
---@param name string of the image
---@param backing string
---@return string
function image.beside(name, backing)
  if backing:sub(1, 1) == "/" or backing:match "^%a[%w+.%-]*:" then return backing end
  local folder = name:gsub("^file:", ""):match "^(.*/)[^/]*$"
  return (folder or "") .. backing
end

-- ---- jobs ----------------------------------------------------------------------------------------

local Guard = { __close = function(g)
  if g.job then g.job:close() end
end }

--- Runs a job to its end: start(done) returns it. Answers it; an error of the job is raised.
---@param start fun(done: function): userdata?, string?
---@param progress? table of output.progress
---@return userdata job
function image.run(start, progress)
  local guard <close> = setmetatable({}, Guard)
  local ok, why = sched.await { arm = function(done)
    local timer
    local function tick()
      progress:show(guard.job:progress())
      timer = loop.timer(50000000, tick)
    end
    local job, err = start(function(...)
      if timer then timer:cancel() end
      done(...)
    end)
    if not job then
      loop.later(function() done(nil, err) end)
      return nil
    end
    guard.job = job
    if progress then timer = loop.timer(50000000, tick) end
    return function()
      if timer then timer:cancel() end
    end
  end }
  local job = guard.job
  if not ok then return nil, why, job end
  return job
end

return image

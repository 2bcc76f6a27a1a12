-- create, resize, amend.
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local text = require "vmlua.text"
local tool = require "vmlua.core.blocktool"

local fail = options.fail

-- The backing file of a new image, as it will be found: its size, and that its format is said.
local function backing_size(name, values)
  local backing = image.beside(name, values.backing_file)
  local b <close> = image.open(backing, { format = values.backing_fmt, read_only = true })
  if not values.backing_fmt then
    fail("create: the format of the backing file has to be said with -F (it looks like %s)", b.format)
  end
  return b:sectors()
end

local create = {
  name = "create", synopsis = "FILE [SIZE]", doc = "Makes a new image.", files = { 1, 2 },
  options = options.with("quiet object", {
    { short = "f", key = "format", arg = "FMT", doc = "Format (raw)." },
    { short = "o", key = "o", arg = "OPTIONS", list = true, doc = "Options of the format, key=value,…; -o help lists them." },
    { short = "b", key = "backing", arg = "FILE", doc = "The image that shows through where this one holds nothing." },
    { short = "F", key = "backing_format", arg = "FMT", doc = "The format of that image." },
    { short = "u", key = "unsafe", doc = "The backing file need not be there; SIZE has to be given." },
  }),
}

function create.run(s)
  local name, format = s[1], s.format or "raw"
  local values = image.creation_options(format, s.o)
  if values == true then return image.print_creation_options(format) end
  local size = s[2] or values.size
  if size then
    local bytes, err = text.size(size)
    if not bytes then fail("create: size: %s", err) end
    size = (bytes + 511) & ~511
  end
  values.backing_file = s.backing or values.backing_file
  values.backing_fmt = s.backing_format or values.backing_fmt
  if values.backing_file == "" then values.backing_file, values.backing_fmt = nil, nil end
  if values.backing_file and format == "raw" then fail "create: a raw image has no backing file" end
  if values.backing_fmt and not values.backing_file then fail "create: -F needs a backing file (-b)" end
  if values.backing_file and not s.unsafe then
    local below = backing_size(name, values)
    size = size or below
  end
  if not size then fail "create: a size is expected after the name" end
  values.size = tostring(size)
  local target <close> = image.target(name)
  if not s.quiet then print(image.describe_creation(name, format, values)) end
  image.create(target, format, values)
  target:done()
end

local resize = {
  name = "resize", synopsis = "FILE [+|-]SIZE", doc = "Changes the length of an image.", files = { 2, 2 }, numbers = true,
  options = options.with("format quiet image_opts object", {
    { long = "shrink", doc = "Really cut off what is beyond the new end." },
    { long = "preallocation", arg = "MODE", values = { "off", "metadata", "falloc", "full" },
      doc = "What the new part is: off, metadata, falloc, full." },
  }),
}

function resize.run(s)
  local sign, amount = s[2]:match "^([+-]?)(.*)$"
  local bytes, err = text.size(amount)
  if not bytes then fail("resize: size: %s", err) end
  local i <close> = image.open(s[1], { format = s.format, image_opts = s.image_opts })
  local now = i:sectors()
  if sign ~= "" and bytes == 0 then fail "resize: a change of nothing" end
  local new = sign == "+" and now + bytes or sign == "-" and now - bytes or bytes
  if new <= 0 or new < 0 then fail("resize: the new size would not be positive") end
  new = (new + 511) & ~511
  if new < now and not s.shrink then
    fail "resize: --shrink is needed to make an image shorter: it loses all data beyond the new end"
  end
  if new < now and s.preallocation then fail "resize: there is nothing to preallocate in a shorter image" end
  local ok, why = tool.resize(i.node, new, s.preallocation)
  if not ok then fail("resize: %s", why) end
  i:close()
  if not s.quiet then print "Image resized." end
end

local amend = {
  name = "amend", synopsis = "FILE", doc = "Changes options that an image was created with.", files = { 1, 1 },
  options = options.with("format quiet progress cache image_opts object", {
    { short = "o", key = "o", arg = "OPTIONS", list = true, doc = "Options of the format, key=value,…; -o help lists them." },
    { long = "force", doc = "Also changes that could lose data." },
  }),
}

function amend.run(s)
  if not s.o then fail "amend: -o is expected" end
  local i <close> = image.open(s[1], { format = s.format, image_opts = s.image_opts, cache = s.cache })
  local values = image.creation_options(i.format, s.o)
  if values == true then return image.print_creation_options(i.format) end
  local list = {}
  for _, key in ipairs(text.keys(values)) do list[#list + 1] = { key, values[key] } end
  local ok, why = tool.amend(i.node, list)
  if not ok then fail("amend: %s", why) end
  i:close()
end

return { create, resize, amend }

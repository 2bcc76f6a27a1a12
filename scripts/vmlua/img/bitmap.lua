-- bitmap: the bitmaps in an image that say which parts of the disk were written to.
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local tool = require "vmlua.core.blocktool"

local fail = options.fail

local bitmap = {
  name = "bitmap", synopsis = "FILE BITMAP", doc = "Changes bitmaps that say what was written to.", files = { 2, 2 },
  options = options.with("format image_opts object", {
    { long = "add", log = "actions", doc = "Make it; it is enabled then." },
    { short = "g", key = "granularity", arg = "BYTES", doc = "With --add: how much of the disk a bit stands for (a cluster)." },
    { long = "remove", log = "actions", doc = "It goes." },
    { long = "clear", log = "actions", doc = "Nothing was written to." },
    { long = "enable", log = "actions", doc = "From now on it says what is written to." },
    { long = "disable", log = "actions", doc = "It stays as it is." },
    { long = "merge", arg = "SOURCE", log = "actions", doc = "Add what the bitmap SOURCE says." },
    { short = "b", long = "source-file", key = "source_file", arg = "FILE", doc = "With --merge: the image that SOURCE is in." },
    { short = "F", long = "source-format", key = "source_format", arg = "FMT", doc = "The format of that image." },
  }),
}

local function check(s)
  if not s.actions then fail "bitmap: one of --add, --remove, --clear, --enable, --disable, --merge is expected" end
  local given = {}
  for _, action in ipairs(s.actions) do given[action[1]] = true end
  if s.granularity and not given.add then fail "bitmap: -g is for --add" end
  if s.source_file and not given.merge then fail "bitmap: -b is for --merge" end
  if s.source_format and not s.source_file then fail "bitmap: -F is the format of a file (-b)" end
end

function bitmap.run(s)
  check(s)
  local name, granularity = s[2], options.size(bitmap, "-g", s.granularity, 1, 1 << 62)
  local source <close> = s.source_file and
    image.open(s.source_file, { format = s.source_format, read_only = true, no_backing = true }) or nil
  local i <close> = image.open(s[1], { format = s.format, image_opts = s.image_opts, no_backing = true })
  for _, action in ipairs(s.actions) do
    local word, from = action[1], action[2]
    local ok, why = tool.bitmap(i.node, word, name, word == "add" and granularity or nil,
      word == "merge" and source and source.node or nil, from)
    if not ok then fail("bitmap: --%s: %s", word, why) end
  end
  i:close()
end

return { bitmap }

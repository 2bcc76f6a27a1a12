-- snapshot: the snapshots inside an image.
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local tool = require "vmlua.core.blocktool"

local fail = options.fail

local snapshot = {
  name = "snapshot", synopsis = "[-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILE", doc = "Snapshots inside an image.",
  files = { 1, 1 },
  options = options.with("format quiet share image_opts object", {
    { short = "l", key = "list", doc = "List them (this is the default)." },
    { short = "a", key = "apply", arg = "SNAPSHOT", doc = "Go back to this one." },
    { short = "c", key = "create", arg = "SNAPSHOT", doc = "Keep the present contents under this name." },
    { short = "d", key = "delete", arg = "SNAPSHOT", doc = "Delete this one." },
  }),
}

local actions = { create = tool.snapshot_create, apply = tool.snapshot_goto, delete = tool.snapshot_delete }

function snapshot.run(s)
  local action
  for key in pairs { list = true, create = true, apply = true, delete = true } do
    if s[key] then
      if action then fail "snapshot: only one of -l, -a, -c, -d can be given" end
      action = key
    end
  end
  local change = actions[action]
  local i <close> = image.open(s[1], {
    format = s.format, read_only = not change, share = s.share, image_opts = s.image_opts, no_backing = not change,
  })
  if change then
    local ok, why = change(i.node, s[action])
    if not ok then fail("snapshot: %s", why) end
    return i:close()
  end
  local inspect = require "vmlua.img.inspect"
  local d = inspect.describe(i)
  if d.snapshots then print("Snapshot list:\n" .. inspect.snapshot_table(d.snapshots)) end
end

return { snapshot }

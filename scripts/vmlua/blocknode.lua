-- Nodes of the block layer from descriptions: { driver = "raw", file = { driver = "file", filename = "disk.img" } }.
local core = require "vmlua.core.block"
local text = require "vmlua.text"

local nodes = {}

--- Raises without a place: the mistake is in what the user gave.
---@param format string
function nodes.fail(format, ...) error(format:format(...), 0) end
local fail = nodes.fail

--- The value of an option that is on or off; nil stays nil.
---@param key string
---@param value any
---@return boolean?
function nodes.boolean(key, value)
  if value == nil or type(value) == "boolean" then return value end
  local b, err = text.boolean(value)
  if b == nil then fail("%s: %s", key, err) end
  return b
end
local boolean = nodes.boolean

--- Sets properties from texts, or from objects.
---@param object object
---@param values table<string, any>
function nodes.set_all(object, values)
  for key, value in pairs(values) do
    local ok, err
    if type(value) == "userdata" then
      ok, err = pcall(object.set, object, key, value)
    else
      ok, err = pcall(object.parse, object, key, math.type(value) == "float" and ("%d"):format(value // 1 | 0) or tostring(value))
    end
    if not ok then fail("%s", text.without_place((tostring(err):gsub("^[^\n:]+:%d+: ", "")))) end
  end
end

--- A filter on top of a node.
---@param driver string
---@param below block-node
---@param values? table<string, any>
---@return block-node
function nodes.on_top(driver, below, values)
  local node, err = core.node(driver)
  if not node then error(err, 0) end
  nodes.set_all(node, { file = below, ["read-only"] = below["read-only"] })
  nodes.set_all(node, values or {})
  local ok
  ok, err = node:open()
  if not ok then error(err, 0) end
  return node
end

--- Nested tables from keys with points in them: "file.driver" = "file" becomes file = { driver = "file" }.
---@param values table
---@return table
function nodes.nested(values)
  local out = {}
  for key, value in pairs(values) do
    local at, parts = out, {}
    for part in tostring(key):gmatch "[^.]+" do parts[#parts + 1] = part end
    if #parts == 0 then fail("%q is no key", key) end
    for i = 1, #parts - 1 do
      if type(at[parts[i]]) ~= "table" then at[parts[i]] = {} end
      at = at[parts[i]]
    end
    at[parts[#parts]] = type(value) == "table" and nodes.nested(value) or value
  end
  return out
end

-- QEMU's names of drivers that have another here.
local aliases = {
  host_device = "file", host_cdrom = "file", ["null-co"] = "null", ["null-aio"] = "null",
}

-- cache.direct and cache.no-flush are the file's, wherever they are given.
local function cache_mode(value)
  if type(value) ~= "table" then return value end
  for key in pairs(value) do
    if key ~= "direct" and key ~= "no-flush" then fail("%s", text.unknown("property of cache", key, { "direct", "no-flush" })) end
  end
  local direct, no_flush = boolean("cache.direct", value.direct), boolean("cache.no-flush", value["no-flush"])
  return no_flush and "unsafe" or direct and "none" or "writeback"
end

local MAX_DEPTH = 64 -- of a description

local function build(spec, find, depth)
  if depth > MAX_DEPTH then fail "more than 64 nodes are described within each other" end
  local driver = spec.driver
  if not driver then fail "driver= is missing" end
  driver = aliases[driver] or driver
  local node, err = core.node(driver)
  if not node then error(err, 0) end
  local values = {}
  local function child(value, read_only)
    if type(value) == "userdata" then return value end
    if type(value) ~= "table" then return find(value) end
    if value["read-only"] == nil then value["read-only"] = read_only end
    if spec.cache and driver ~= "file" and value.cache == nil then value.cache = spec.cache end
    return build(value, find, depth + 1)
  end
  for key, value in pairs(spec) do
    if key == "file" or key == "backing" then
      values[key] = child(value, key == "backing" or spec["read-only"])
    elseif key == "cache" then
      if driver == "file" then values.cache = cache_mode(value) end
    elseif type(value) == "table" then -- server = { type =, path = } is "server.type", "server.path"
      for inner, v in pairs(value) do values[key .. "." .. inner] = v end
    elseif key ~= "driver" then
      values[key] = value
    end
  end
  nodes.set_all(node, values)
  local ok
  ok, err = node:open()
  if not ok then error(err, 0) end
  return node
end

--- An open node, and those below that are described with it. `find` answers the node of a name.
---@param spec table nested
---@param find fun(name: string): block-node
---@return block-node
function nodes.build(spec, find) return build(spec, find, 1) end

return nodes

-- Strict option tables: an unknown key is an error that names it, the place of the call and the nearest known key.
local text = require "vmlua.text"

local strict = {}

local function keys_of(spec)
  local names = {}
  for name in pairs(spec) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function matches(value, kinds)
  for kind in kinds:gmatch "[^|]+" do
    if kind == "any" or type(value) == kind or (kind == "integer" and math.type(value) == "integer") then return true end
  end
  return false
end

--- Checks the keys and types of an option table; raises at the caller's caller.
---@param what string what the table is: "machine", "vm:pio"
---@param t table
---@param spec table<string, string> key to types: "string", "integer|string", "any"; a leading "!" means required
---@param level? integer as for error(); 2 is the caller of the function that calls check
---@return table t
function strict.check(what, t, spec, level)
  level = (level or 2) + 1
  if type(t) ~= "table" then
    error(("%s: a table of options is expected, got %s"):format(what, type(t)), level)
  end
  for key, value in pairs(t) do
    local kinds = spec[key]
    if kinds == nil then
      if type(key) ~= "string" then
        error(("%s: options are named, got a value at [%s]"):format(what, tostring(key)), level)
      end
      error(("%s: %s"):format(what, text.unknown("option", key, keys_of(spec))), level)
    end
    kinds = kinds:gsub("^!", "")
    if not matches(value, kinds) then
      error(("%s: %s is to be %s, got %s"):format(what, key, (kinds:gsub("|", " or ")), type(value)), level)
    end
  end
  for key, kinds in pairs(spec) do
    if kinds:sub(1, 1) == "!" and t[key] == nil then
      error(("%s: %s is missing"):format(what, key), level)
    end
  end
  return t
end

--- Makes reading or writing an undeclared global an error, so that a misspelt name does not stay nil.
---@param env table the table of globals
function strict.globals(env)
  local meta = getmetatable(env) or {}
  function meta.__index(_, name)
    error(("undeclared global '%s'"):format(tostring(name)), 2)
  end
  function meta.__newindex(_, name)
    error(("assignment to undeclared global '%s' (write 'local %s')"):format(tostring(name), tostring(name)), 2)
  end
  setmetatable(env, meta)
end

return strict

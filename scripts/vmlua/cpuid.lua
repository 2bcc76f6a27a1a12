-- CPU models: what -cpu says, as a CPUID policy.
--
--   host                everything the accelerator can do on this host
--   max                 the same (under an accelerator that computes itself: all it implements)
--   host,+pcid,-avx2    with features switched; a feature the accelerator lacks is refused
local core = require "vmlua.core.cpuid"
local text = require "vmlua.text"

local cpuid = {}

--- Models by name: doc, and make(accel) -> policy or nil, message. Scripts may add their own.
---@type table<string, { doc: string, make: fun(accel: string): cpuid-policy?, string? }>
cpuid.models = {
  host = { doc = "All that the accelerator supports on this host", make = core.supported },
  max = { doc = "All that the accelerator supports", make = core.supported },
}

--- The names of all models, sorted.
---@return string[]
function cpuid.names()
  local names = {}
  for name in pairs(cpuid.models) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- "+avx2", "-avx2", "avx2", "avx2=on", "avx2=off"
local function feature_of(word)
  local sign, name = word:match "^([+-])(.+)$"
  if sign then return name, sign == "+" end
  local key, value = word:match "^([^=]+)=(.+)$"
  if not key then return word, true end
  if value == "on" then return key, true end
  if value == "off" then return key, false end
  return nil, ("-cpu: %s: on or off is expected, got '%s'"):format(key, value)
end

--- Builds the policy that a -cpu text says.
---@param spec string "host", "max,-avx2", …
---@param accel string short name of the accelerator
---@return cpuid-policy? policy nil and a message when the model or a feature is unknown or not supported
---@return string? message
function cpuid.make(spec, accel)
  local words = {}
  for word in spec:gmatch "[^,]+" do words[#words + 1] = word end
  local model = cpuid.models[words[1] or ""]
  if not model then
    return nil, "-cpu: " .. text.unknown("model", words[1] or "", cpuid.names())
  end
  local policy, why = model.make(accel)
  if not policy then return nil, why end
  local supported = core.supported(accel)
  for i = 2, #words do
    local name, on = feature_of(words[i])
    if not name then return nil, on --[[@as string]] end
    local known, message = pcall(policy.feature, policy, name)
    if not known then return nil, "-cpu: " .. message:gsub("^.-: ", "") end
    if on and supported and not supported:feature(name) then
      return nil, ("-cpu: +%s: %s does not support it on this host"):format(name, accel)
    end
    policy:set_feature(name, on --[[@as boolean]])
  end
  return policy
end

return cpuid

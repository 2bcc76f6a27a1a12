--[[
What can be asked on the command line: `-machine help`, `-device NAME,help`, `-accel help` … Each prints its answer; a function a
topic, with what was asked for in detail and the board that the command line names, if any.
]]
local options = require "vmlua.options"
local text = require "vmlua.text"

local queries = {}

local function print_properties(type_name)
  local qom = require "vmlua.core.qom"
  local list, err = qom.properties(type_name)
  if not list then options.usage_error("%s", err or ("unknown type " .. type_name)) end
  if #list == 0 then print(type_name .. " has no properties") end
  for _, p in ipairs(list) do
    print(("  %-20s %-12s %s%s"):format(p.name, p.type or "", p.doc or "",
      p.default ~= nil and (" (default: %s)"):format(tostring(p.default)) or ""))
  end
end

function queries.help(_, class)
  io.stdout:write(require("vmlua.optiondoc").help(class and require("vmlua.launcher").options_of(class)))
end

function queries.version() print("vmlua " .. require("vmlua.launcher").version) end

function queries.machine(detail)
  local machine = require "vmlua.machine"
  if detail then
    local class = require("vmlua.launcher").board(detail)
    print_properties(class.name)
    for _, o in ipairs(class.options) do print(("  -%-19s %-12s %s"):format(o.name, o.arg or "", o.doc)) end
    return
  end
  print "Boards:"
  for _, b in ipairs(machine.classes()) do
    print(("  %-16s %s%s"):format(b.name, b.doc, b.alias and (" (also: %s)"):format(b.alias) or ""))
  end
end

function queries.accel()
  print "Accelerators:"
  for _, a in ipairs(require("vmlua.core.machine").accels()) do
    print(("  %-8s %s%s"):format(a.name, a.doc or "", a.available and "" or (" (not here: %s)"):format(a.reason or "")))
  end
end

function queries.cpu()
  local cpuid = require "vmlua.cpuid"
  print "CPU models:"
  for _, name in ipairs(cpuid.names()) do print(("  %-16s %s"):format(name, cpuid.models[name].doc)) end
  print "Features:"
  for _, line in ipairs(text.wrap(table.concat(require("vmlua.core.cpuid").features(), " "), 96)) do print("  " .. line) end
end

function queries.log()
  print "Log masks:"
  for _, m in ipairs(require("vmlua.core.log").masks()) do print(("  %-12s %s"):format(m.name, m.doc)) end
end

function queries.trace()
  for _, p in ipairs(require("vmlua.core.log").trace_points()) do print(("  %-32s %s"):format(p.name, p.format)) end
end

function queries.device(detail)
  if detail then
    local why = require("vmlua.vm").refuse_type(detail)
    if why then options.usage_error("-device: %s", why) end
    return print_properties(detail)
  end
  local qom = require "vmlua.core.qom"
  print "Devices (-device NAME,help lists the properties):"
  for _, c in ipairs(qom.classes "device") do
    if not c.abstract and c.user_creatable ~= false then print(("  %-20s %s"):format(c.name, c.doc or "")) end
  end
end

-- Types by their short names, or the properties of the one that was asked for.
local function list_short_names(title, types, width, detail)
  if detail then return print_properties(types[detail] or detail) end
  local qom = require "vmlua.core.qom"
  local names = {}
  for name in pairs(types) do names[#names + 1] = name end
  table.sort(names)
  print(title)
  for _, name in ipairs(names) do print(("  %-" .. width .. "s %s"):format(name, qom.class(types[name]).doc or "")) end
end

function queries.chardev(detail)
  local backends = require("vmlua.core.chardev").backends()
  return list_short_names("Character devices (-chardev NAME,help lists the properties):", backends, 10, detail)
end

function queries.blockdev(detail)
  local drivers = require("vmlua.core.block").drivers()
  return list_short_names("Nodes of the block layer (-blockdev DRIVER,help lists the properties):", drivers, 14, detail)
end

function queries.object(detail)
  if detail then return print_properties(detail) end
  local qom = require "vmlua.core.qom"
  print "Objects:"
  for _, c in ipairs(qom.classes "memory-backend") do
    if not c.abstract then print(("  %-24s %s"):format(c.name, c.doc or "")) end
  end
end

return queries

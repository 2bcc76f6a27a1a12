--[[
`local vmlua = require "vmlua"`: the whole library; each part is loaded when it is first named.

    vmlua.machine   boards and machines            vmlua.event    what happens in them
    vmlua.sched     tasks that wait                vmlua.qom      types, objects, devices in Lua
    vmlua.test      tests                          vmlua.cpuid    what a guest's CPUID shows
]]
local modules = {
  machine = "vmlua.machine", event = "vmlua.event", sched = "vmlua.sched", qom = "vmlua.qom", cpuid = "vmlua.cpuid",
  test = "vmlua.test", acpi = "vmlua.acpi", loader = "vmlua.loader", cpio = "vmlua.cpio", symbols = "vmlua.symbols",
  pretty = "vmlua.pretty", text = "vmlua.text",
  strict = "vmlua.strict", screen = "vmlua.screen", log = "vmlua.core.log", fs = "vmlua.core.fs",
}

---@class vmlua
local vmlua = {
  --- Version of the script interface: the first number changes when a script that worked may not work any more.
  api = "0.1",
}

return setmetatable(vmlua, {
  __index = function(t, key)
    local module = modules[key]
    if not module then
      local names = { "api" }
      for name in pairs(modules) do names[#names + 1] = name end
      error(require("vmlua.text").unknown("part of vmlua", tostring(key), names), 2)
    end
    local value = require(module)
    rawset(t, key, value)
    return value
  end,
})

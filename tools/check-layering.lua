#!/usr/bin/env lua5.4
-- Who may include whom. Reads the #include lines of engine/ and bindings/ and names each that breaks the
-- layering of docs/architecture.md. `--self-test` shows that it finds what it should.

-- folder -> folders it may include besides itself; the longest prefix of a path wins
local rules = {
  ["engine/qom"] = { "engine/core" },
  ["engine/core"] = { "engine/qom" },
  ["engine/memory"] = { "engine/core", "engine/qom" },
  ["engine/state"] = { "engine/core", "engine/qom", "engine/memory" },
  ["engine/cpu"] = { "engine/core", "engine/qom", "engine/memory", "engine/state" },
  ["engine/accel"] = { "engine/core", "engine/qom", "engine/memory", "engine/state", "engine/cpu" },
  ["engine/machine"] = {
    "engine/core", "engine/qom", "engine/memory", "engine/state", "engine/cpu", "engine/accel",
  },
  ["engine/hw"] = {
    "engine/core", "engine/qom", "engine/memory", "engine/state", "engine/cpu", "engine/machine",
    "engine/chardev", "engine/block", "engine/net", "engine/display",
  },
  ["engine/chardev"] = { "engine/core", "engine/qom" },
  ["engine/block"] = { "engine/core", "engine/qom" },
  ["engine/net"] = { "engine/core", "engine/qom" },
  ["engine/display"] = { "engine/core", "engine/qom" },
  ["bindings"] = { "engine" },
}
-- Accelerators see each other's common part, never each other.
for _, name in ipairs { "kvm", "soft" } do
  rules["engine/accel/" .. name] = {
    "engine/core", "engine/qom", "engine/memory", "engine/state", "engine/cpu", "engine/accel/",
  }
end

local function folder_of(path)
  return path:match("^(.*)/[^/]*$") or "."
end

local function is_below(path, folder)
  if folder:sub(-1) == "/" then -- only files directly in it
    return folder_of(path) .. "/" == folder
  end
  return path:sub(1, #folder + 1) == folder .. "/"
end

local function rule_for(path)
  local best
  for folder in pairs(rules) do
    if is_below(path, folder) and (not best or #folder > #best) then
      best = folder
    end
  end
  return best
end

local function check_include(path, folder, header)
  if header:match("^engine/") or header:match("^bindings/") then
    if header:match("[_-]priv%.h$") and folder_of(header) ~= folder_of(path) then
      return "is private to " .. folder_of(header)
    end
    if is_below(header, folder) and rule_for(header) == folder then
      return nil
    end
    for _, allowed in ipairs(rules[folder]) do
      if is_below(header, allowed) then
        return nil
      end
    end
    return ("%s may not include from %s"):format(folder, folder_of(header))
  elseif header:match("/") == nil and not path:match("^bindings/") then
    return "is named without its folder"
  end
end

-- files: path -> text. Returns a sorted list of findings.
local function check(files)
  local found = {}
  local function report(path, line, header, why)
    found[#found + 1] = ("%s:%d: #include of %s: %s"):format(path, line, header, why)
  end
  for path, text in pairs(files) do
    local folder = rule_for(path)
    if not folder then
      found[#found + 1] = ("%s:1: its folder has no rule in tools/check-layering.lua"):format(path)
    end
    local number = 0
    for line in (text .. "\n"):gmatch("(.-)\n") do
      number = number + 1
      local quote, header = line:match('^%s*#%s*include%s*([<"])([^>"]+)[>"]')
      if header and path:match("^engine/") and header:match("^lua%w*%.h$") or header == "lauxlib.h" and
        path:match("^engine/") then
        report(path, number, header, "the engine knows nothing of Lua")
      elseif header and quote == '"' and folder then
        local why = check_include(path, folder, header)
        if why then
          report(path, number, header, why)
        end
      end
    end
  end
  table.sort(found)
  return found
end

local function self_test()
  local cases = { -- path, include, what the finding must say (nil: none)
    { "engine/core/a.c", '#include "engine/core/lock.h"' },
    { "engine/core/a.c", '#include "engine/memory/memory.h"', "engine/core may not include" },
    { "engine/qom/a.c", '#include "engine/core/error.h"' },
    { "engine/qom/a.c", '#include "engine/cpu/cpu.h"', "engine/qom may not include" },
    { "engine/memory/a.c", '#include "engine/state/vmstate.h"', "engine/memory may not include" },
    { "engine/state/a.c", '#include "engine/machine/machine.h"', "engine/state may not include" },
    { "engine/cpu/a.c", '#include "engine/accel/accel.h"', "engine/cpu may not include" },
    { "engine/accel/accel.c", '#include "engine/cpu/cpu.h"' },
    { "engine/accel/accel.c", '#include "engine/accel/kvm/kvm_priv.h"', "is private to engine/accel/kvm" },
    { "engine/accel/accel.c", '#include "engine/accel/kvm/kvm.h"', "may not include from engine/accel/kvm" },
    { "engine/accel/kvm/a.c", '#include "engine/accel/accel.h"' },
    { "engine/accel/kvm/a.c", '#include "engine/accel/soft/soft.h"', "may not include from engine/accel/soft" },
    { "engine/accel/kvm/a.c", '#include "engine/machine/machine.h"', "engine/accel/kvm may not include" },
    { "engine/machine/a.c", '#include "engine/accel/accel.h"' },
    { "engine/machine/a.c", '#include "engine/hw/core/device.h"', "engine/machine may not include" },
    { "engine/chardev/a.c", '#include "engine/machine/machine.h"', "engine/chardev may not include" },
    { "engine/hw/char/a.c", '#include "engine/chardev/chardev.h"' },
    { "engine/hw/char/a.c", '#include "engine/hw/core/device.h"' },
    { "engine/hw/char/a.c", '#include "engine/accel/accel.h"', "engine/hw may not include" },
    { "engine/hw/char/a.c", '  #  include "engine/cpu/cpu_priv.h"', "is private to engine/cpu" },
    { "engine/hw/char/a.c", '#include "device.h"', "without its folder" },
    { "engine/hw/char/a.c", "#include <lua.h>", "knows nothing of Lua" },
    { "engine/core/a.h", '#include "lauxlib.h"', "knows nothing of Lua" },
    { "engine/core/a.h", "#include <lualib.h>", "knows nothing of Lua" },
    { "engine/sound/a.c", "#include <stdio.h>", "has no rule" },
    { "bindings/a.c", '#include "engine/accel/accel.h"' },
    { "bindings/a.c", "#include <lua.h>" },
    { "bindings/a.c", '#include "bindings/binding_priv.h"' },
    { "bindings/a.c", '#include "engine/memory/memory-priv.h"', "is private to engine/memory" },
  }
  local bad = 0
  for _, case in ipairs(cases) do
    local path, include, expected = case[1], case[2], case[3]
    local found = check { [path] = "/* a file */\n" .. include .. "\n" }
    local right = not expected and #found == 0 or expected and #found == 1 and found[1]:find(expected, 1, true)
    if not right then
      bad = bad + 1
      print(("self-test: %s with %s: expected %s, got %s"):format(path, include, expected or "nothing",
        found[1] or "nothing"))
    end
  end
  print(("layering self-test: %d cases, %d wrong"):format(#cases, bad))
  return bad == 0
end

local function read_tree()
  local files = {}
  local root = arg[0]:match("^(.*)/tools/[^/]*$") or "."
  local list = assert(io.popen(("cd '%s' && find engine bindings -name '*.[ch]'"):format(root)))
  for path in list:lines() do
    local f = assert(io.open(root .. "/" .. path))
    files[path] = f:read("a")
    f:close()
  end
  list:close()
  return files
end

if arg[1] == "--self-test" then
  os.exit(self_test())
elseif arg[1] then
  io.stderr:write("usage: tools/check-layering.lua [--self-test]\n")
  os.exit(2)
end
local files = read_tree()
local found = check(files)
for _, line in ipairs(found) do
  print(line)
end
local n = 0
for _ in pairs(files) do
  n = n + 1
end
if n == 0 then
  print("check-layering: found no sources")
end
os.exit(#found == 0 and n > 0)

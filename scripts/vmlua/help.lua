-- `help(x)`: the documentation of a value, a handle or a name, as text for the prompt.
local docgen = require "vmlua.docgen"
local text = require "vmlua.text"

local help = {}

local function print_function(out, f)
  out[#out + 1] = f.name .. f.sig
  if f.doc and f.doc ~= "" then
    for line in f.doc:gmatch("[^\n]+") do out[#out + 1] = "    " .. line end
  end
  for _, p in ipairs(f.params or {}) do
    if p.doc ~= "" then out[#out + 1] = ("      %s: %s"):format(p.name, p.doc) end
  end
end

local function first_line(s) return (s or ""):match("^[^\n]*") end

local function print_entry(out, e)
  out[#out + 1] = ("%s %s"):format(e.kind, e.name)
  for line in e.doc:gmatch("[^\n]+") do out[#out + 1] = "  " .. line end
  if #e.fields > 0 then
    out[#out + 1] = "fields:"
    for _, f in ipairs(e.fields) do
      out[#out + 1] = ("  %-20s %-18s %s%s"):format(f.name, f.type or "", first_line(f.doc), f.readonly and " (read-only)" or "")
    end
  end
  if #e.functions > 0 then
    out[#out + 1] = e.kind == "module" and "functions:" or "methods:"
    for _, f in ipairs(e.functions) do
      out[#out + 1] = "  " .. f.name .. f.sig
      if f.doc ~= "" then out[#out + 1] = "      " .. first_line(f.doc) end
    end
  end
end

-- How people call what they have: `help "vm:pio"`.
local usual = {
  vm = "machine", m = "machine", dev = "device", cpu = "x86-cpu", src = "Source", source = "Source", h = "event-hook",
  hook = "event-hook", handle = "event-hook", ring = "event-ring", chr = "chardev", port = "chardev", serial = "chardev",
  task = "Task", mem = "address-space", memory = "address-space", io = "address-space", region = "memory-region",
  obj = "object", x = "event", line = "vmlua.irq", front = "vmlua.front",
}

-- "vm.memory:read" is a member of what the field is: an address space.
local function spelled(entries, name)
  local head, sep, member = name:match "^(.-)([%.:])([%w_]+)$"
  if not head then return usual[name] or name end
  local last = head:gsub("%[%d+%]$", ""):match "([%w_]+)$"
  if last == "cpus" then last = "cpu" end
  for _, e in ipairs(entries) do
    if e.name == head then return name end -- a module or class of that very name
  end
  local class = usual[last or ""]
  return class and class:match "[%w_%-]+$" .. sep .. member or name
end

local function by_name(entries, name)
  local out, names = {}, {}
  local asked = name
  name = spelled(entries, name)
  for _, e in ipairs(entries) do
    names[#names + 1] = e.name
    names[#names + 1] = e.name:match("[%w_%-]+$")
    if e.name == name or asked == name and e.name:match("[%w_%-]+$") == name then print_entry(out, e) end
  end
  local plain = name:gsub("^vmlua%.", ""):gsub(":", ".")
  for _, e in ipairs(entries) do
    for _, f in ipairs(e.functions) do
      names[#names + 1] = f.name
      if f.name:gsub(":", ".") == plain or f.short == name or (e.name .. "." .. f.short) == name then
        print_function(out, f)
      end
    end
    for _, f in ipairs(e.fields) do
      local short = e.name:match("[%w_%-]+$")
      if f.name == name or short .. "." .. f.name == name or short .. ":" .. f.name == name then
        out[#out + 1] = ("%s.%s: %s\n    %s"):format(e.name, f.name, f.type or "any", f.doc or "")
      end
    end
  end
  if #out > 0 then return out end
  local register = name:match "^x86%-cpu%.(%l[%l%d]+)$"
  if register then
    return { name, "    A register, where the CPU has one of that name: cpu:get() lists them; cpu:set{ … } sets several." }
  end
  return { text.unknown("name", name, names) }
end

-- The name by which a C function is reached.
local function find_function(entries, fn)
  local info = debug.getinfo(fn, "S")
  if info.what ~= "C" then
    for _, e in ipairs(entries) do
      for _, f in ipairs(e.functions) do
        local source = f.source or e.source
        if f.line == info.linedefined and source and info.source == "@" .. source then return f end
      end
    end
    return nil
  end
  for _, e in ipairs(entries) do
    for _, f in ipairs(e.functions) do
      if f.fn == fn then return f end
    end
  end
  return nil
end

local function describe_handle(entries, x)
  local ok, qom = pcall(require, "vmlua.core.qom")
  local out = {}
  local path = tostring(x)
  local is_object, class = pcall(qom.typename, x)
  if not (ok and is_object) then -- an address space, a hook, a snapshot …: their classes have a name only
    local mt = getmetatable(x)
    class = type(mt) == "table" and mt.__name
  end
  out[#out + 1] = class and ("%s, a %s"):format(path, tostring(class)) or path
  local chain = {}
  if class and qom.ancestors then
    local got, list = pcall(qom.ancestors, class)
    if got then chain = list end
  end
  if #chain == 0 and class then chain = { class } end
  if not is_object then ok = false end
  for _, name in ipairs(chain) do
    for _, e in ipairs(entries) do
      if e.name == name then print_entry(out, e) end
    end
  end
  if ok and qom.properties then
    local got, props = pcall(qom.properties, x)
    if got and type(props) == "table" and #props > 0 then
      out[#out + 1] = "properties:"
      for _, p in ipairs(props) do
        out[#out + 1] = ("  %-20s %-18s %s"):format(p.name, p.type or "", p.doc or "")
      end
    end
  end
  return out
end

local general = [[
help(x)            what is known about a value: a function, a module, a handle; help "name" looks a name up
machines()         the machines of this process; vm is the last one that was made
vm:pause() vm:resume() vm:reset() vm:close()         vm.status, vm.reason
vm.cpus[1].rip     registers (of a machine that is paused); print(vm.cpus[1]:dump()) shows them all
vm.memory:read(addr, len)   vm.memory:read_u32(addr)   vm.memory:tree()   vm:tree()
vm:pio{port=0x80, write=true}:on(function(cpu, x) print(x.value) end)
vmlua help options lists the command line; docs/script-reference.md has all of this to read.]]

--- Documentation of a value or of a name, as text.
---@param x any
---@return string
function help.text(x)
  if x == nil then return general end
  local entries = docgen.collect()
  local out
  if type(x) == "string" then
    out = by_name(entries, x)
  elseif type(x) == "function" then
    local f = find_function(entries, x)
    out = {}
    if f then
      print_function(out, f)
    else
      local info = debug.getinfo(x, "Su")
      out[1] = info.what == "C" and "a C function without a declaration of its own"
        or ("a function of %d arguments%s, %s:%d; it has no documentation"):format(info.nparams, info.isvararg and " or more" or "",
          info.short_src, info.linedefined)
    end
  elseif type(x) == "userdata" then
    out = describe_handle(entries, x)
  elseif type(x) == "table" then
    for name, module in pairs(package.loaded) do
      if module == x then
        out = by_name(entries, name)
        if package.searchpath(name, package.path) == nil and not name:match("^vmlua") then out = { "the Lua module " .. name } end
      end
    end
    out = out or { "a table: " .. require("vmlua.pretty").format(x, { depth = 2 }) }
  else
    out = { ("%s, a %s"):format(tostring(x), type(x)) }
  end
  return table.concat(out, "\n")
end

--- Prints it: what the prompt calls help.
---@param x any
function help.show(x) print(help.text(x)) end

return help

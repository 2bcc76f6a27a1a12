--[[
Types, objects and devices from Lua.

    local qom = require "vmlua.qom"
    qom.type {
      name = "blinker", parent = "isa-device",
      doc = "Counts writes to one port.",
      properties = { port = { "uint16", default = 0x510, doc = "I/O port" } },
      state = { count = "uint64" },                     -- saved, restored, visible in dev.state
      realize = function(dev)
        dev:pio(dev.port, 1, {
          write = function(dev, off, size, value) dev.count = dev.count + 1 end,
          read = function(dev, off, size) return dev.count end,
        })
      end,
      reset = function(dev) dev.count = 0 end,
    }
    for name, class in qom.classes "device" do print(name, class.doc) end

A type is for good: it can be used, from C and from Lua alike, until the process ends.

The functions of a type and of its script parents all run, the parent's first: `init(obj)` when an object has been
made, `realize(dev)` when it becomes part of a machine (an error, or nil and a message, refuses it, and what was done
is undone),
`reset(dev)`; `unrealize(dev)` runs the other way round. So none of them calls its parent's. `pre_save(dev)` and
`post_load(dev, version)` surround saving and restoring the declared state. `methods` are different: one of the same
name replaces the parent's, which stays reachable as `qom.methods(parent).name(obj, …)`.
]]
local core = require "vmlua.core.qom"
local text = require "vmlua.text"

---@class TypeSpec what qom.type takes
---@field name string
---@field parent string "device", "isa-device", "object", "interface", or any other type
---@field doc? string one line
---@field abstract? boolean has no instances
---@field properties? table<string, PropertySpec|string> "uint16", or { "uint16", default = 1, doc = "…" }
---@field state? table<string, string> "bool", "uint8" … "int64", "double", "uint8[16]", "bytes:64"
---@field version? integer of the saved state (1)
---@field minimum_version? integer the oldest that still loads (version)
---@field interfaces? table names, or name = { methods }
---@field methods? table<string, function> what handles of the type can do
---@field requires? string[] interfaces only: methods that an implementer must have
---@field init? fun(obj: object)
---@field realize? fun(dev: device): any, string? may refuse with nil and a message
---@field reset? fun(dev: device)
---@field unrealize? fun(dev: device)
---@field pre_save? fun(dev: device)
---@field post_load? fun(dev: device, version: integer)
---@field user_creatable? boolean devices: -device may make it (true)

---@class PropertySpec
---@field [1] string "bool", "uint8" … "int64", "size", "string", "enum", "link", "list", "double"
---@field default? any
---@field doc? string
---@field words? string[] of an enum
---@field type? string what a link points at ("object")
---@field element? string the kind of a list's elements
---@field required? boolean links, strings and lists: realize refuses while it is not set
---@field mutable? boolean may change after realize
---@field strong? boolean links: keeps its target alive (true)
---@field hidden? boolean not in help
---@field get? fun(obj: object): any computes the value; nothing is stored then
---@field set? fun(obj: object, value: any) is asked first; an error refuses the value

---@class ClassInfo
---@field name string
---@field doc string
---@field abstract boolean
---@field parent? string
---@field interfaces string[]
---@field user_creatable? boolean devices only
---@field methods? { name: string, doc: string, signature: string, required: boolean }[] of an interface: what C calls

---@class PropertyInfo
---@field name string
---@field kind string
---@field type string "uint16", "link<chardev>", "enum(a|b)"
---@field doc string
---@field default any
---@field owner? string the type that declares it; nil when the object itself does
---@field words? string[]
---@field link_type? string
---@field readonly? boolean
---@field until_realized? boolean
---@field required? boolean
---@field hidden? boolean

---@class RegionHandlers what dev:pio and dev:mmio take
---@field read? fun(dev: device, off: integer, size: integer): integer?
---@field write? fun(dev: device, off: integer, size: integer, value: integer)
---@field sizes? integer[] accesses that a guest may use ({1, 2, 4}, of memory also 8)
---@field impl? integer[] accesses that the functions take, without gaps; others are split or widened (sizes)
---@field unaligned? boolean
---@field endian? "little"|"big"
---@field enabled? boolean
---@field name? string
---@field priority? integer memory only

local qom = {}

--- Registers a type. Whatever is wrong with it is an error that names it, and nothing is registered.
---@param spec TypeSpec
function qom.type(spec)
  local ok, err = pcall(core.type, spec)
  if not ok then error(err, 2) end
end

--- An object of a type that is in no tree yet.
---@param type string
---@param props? table
---@return object
function qom.new(type, props)
  local ok, obj = pcall(core.new, type, props)
  if not ok then error(obj, 2) end
  return obj
end

--- Iterates over the classes that descend from or implement a type, by name: `for name, class in qom.classes "device"`.
---@param parent? string all, when left out
---@param abstract? boolean also those that have no instances
---@return fun(): string?, ClassInfo?
function qom.classes(parent, abstract)
  local list, i = core.classes(parent, abstract), 0
  return function()
    i = i + 1
    if list[i] then return list[i].name, list[i] end
  end
end

--- The names of all types, sorted.
---@return string[]
function qom.types() return core.types() end

--- What is known of one class.
---@param name string
---@return ClassInfo? class
---@return string? message
function qom.class(name) return core.class(name) end

--- The type, its parent, and so on up to the root.
---@param name string
---@return string[]
function qom.ancestors(name) return core.ancestors(name) end

--- The properties of a type or of an object: its own first, each once.
---@param x string|object
---@return PropertyInfo[]?
---@return string? message
function qom.properties(x) return core.properties(x) end

--- The open table of a type's methods: what is added there, handles of the type and its descendants have.
---@param type string
---@return table<string, function>
function qom.methods(type) return core.methods(type) end

--- The open table of a type's fields: functions that take the handle and return the value.
---@param type string
---@return table<string, function>
function qom.getters(type) return core.getters(type) end

--- The object at a path: "/machines/pc/com1", or a partial path that is unique in the whole tree.
---@param path string
---@param type? string only objects of this type count
---@return object? obj
---@return string? message
function qom.resolve(path, type) return core.resolve(path, type) end

--- The object "/".
---@return object
function qom.root() return core.root() end

--- Makes what -object asks for: an object below <machine>/objects, its properties read from text.
---@param m machine
---@param spec table the type at [1], `id`, and properties
---@param index? integer of the -object, for messages
---@return object
function qom.create_object(m, spec, index)
  local what = ("object %s"):format(spec.id or index or "?")
  local type_name = spec[1]
  local class, err = core.class(type_name)
  if not class then error(("%s: %s"):format(what, err), 0) end
  if class.abstract then error(("%s: type '%s' is abstract"):format(what, type_name), 0) end
  for _, ancestor in ipairs(core.ancestors(type_name)) do
    if ancestor == "device" or ancestor == "machine" then
      error(("%s: '%s' is a %s, use -%s"):format(what, type_name, ancestor, ancestor), 0)
    end
  end
  if type(spec.id) ~= "string" or spec.id == "" then error(("%s: it needs an id"):format(what), 0) end
  local obj = core.new(type_name)
  local keys = {}
  for key in pairs(spec) do
    if key ~= 1 and key ~= "id" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local value = spec[key]
    local ok, problem = pcall(type(value) == "string" and obj.parse or obj.set, obj, key, value)
    if not ok then error(("%s: %s"):format(what, problem), 0) end
  end
  if require("vmlua.core.api").is_object(obj, "memory-backend") then
    local ok, problem = obj:complete()
    if not ok then error(("%s: %s"):format(what, problem), 0) end
  end
  core.container(m.path .. "/objects"):add_child(spec.id, obj)
  return obj
end

return setmetatable(qom, {
  __index = function(_, key)
    local names = {}
    for name in pairs(qom) do names[#names + 1] = name end
    error(text.unknown("part of vmlua.qom", tostring(key), names), 2)
  end,
})

-- Types, objects and properties from Lua: what qom.type accepts, what it refuses and with which words.
local qom = require "vmlua.qom"
local test = require "vmlua.test"

local function keys(t)
  local list = {}
  for k in pairs(t) do list[#list + 1] = k end
  table.sort(list)
  return list
end

local function names(list)
  local out = {}
  for i, x in ipairs(list) do out[i] = x.name end
  return out
end

test("types and classes can be listed with their docs", function(t)
  qom.type { name = "list-base", parent = "object", abstract = true, doc = "what lists are made of" }
  qom.type { name = "list-b", parent = "list-base", doc = "second" }
  qom.type { name = "list-a", parent = "list-base", doc = "first" }
  local seen = {}
  for name, class in qom.classes "list-base" do seen[#seen + 1] = name .. ": " .. class.doc end
  t.eq(seen, { "list-a: first", "list-b: second" })
  seen = {}
  for name, class in qom.classes("list-base", true) do seen[name] = class.abstract end
  t.eq(seen, { ["list-a"] = false, ["list-b"] = false, ["list-base"] = true })
  t.eq(qom.ancestors "list-a", { "list-a", "list-base", "object" })
  t.eq(qom.class("list-a").parent, "list-base")
  t.refuses("unknown type 'list%-c' %(did you mean 'list%-", qom.class, "list-c")
  t.raises("unknown type 'list%-c'", qom.classes, "list-c")
  local all = table.concat(qom.types(), " ")
  t.match(all, "list%-a list%-b list%-base")
end)

test("each kind of property has its default and keeps what it is given", function(t)
  qom.type {
    name = "kinds", parent = "object",
    properties = {
      flag = { "bool", default = true, doc = "a flag" },
      u8 = { "uint8", default = 200 }, u16 = "uint16", u32 = { "uint32" }, u64 = { "uint64", default = -1 },
      s8 = { "int8", default = -100 }, s16 = "int16", s32 = "int32", s64 = { "int64", default = math.mininteger },
      size = { "size", default = "64K" }, text = { "string", default = "hello" }, ratio = { "double", default = 0.5 },
      color = { "enum", words = { "red", "green" }, default = "green" },
      peer = { "link", type = "kinds" }, any = { "link" },
      bytes = { "list", element = "uint8", default = { 1, 2, 255 } }, words = { "list", element = "string" },
      ["with-dash"] = { "uint8", default = 3 },
    },
  }
  local o = qom.new "kinds"
  t.eq({ o.flag, o.u8, o.u16, o.u64, o.s8, o.s64, o.size, o.text, o.ratio, o.color },
    { true, 200, 0, -1, -100, math.mininteger, 65536, "hello", 0.5, "green" })
  t.eq(o.bytes, { 1, 2, 255 })
  t.eq(o.words, {})
  t.eq(o["with-dash"], 3)
  t.eq(o.peer, nil)
  o.flag, o.u8, o.s8, o.size, o.text, o.ratio, o.color = false, 255, 127, "1M", nil, 2, "red"
  o.bytes, o.words = { 9 }, { "a", "b" }
  t.eq({ o.flag, o.u8, o.s8, o.size, o.ratio, o.color }, { false, 255, 127, 1 << 20, 2.0, "red" })
  t.eq(o.text, nil)
  t.eq({ o.bytes, o.words }, { { 9 }, { "a", "b" } })
  local other = qom.new("kinds", { u8 = 7, peer = o })
  t.ok(other.peer == o)
  other.peer = nil
  t.eq(other.peer, nil)
  o:parse("u16", "0xffff")
  o:parse("flag", "on")
  o:parse("bytes", "1,0x10")
  t.eq({ o.u16, o.flag, o.bytes }, { 65535, true, { 1, 16 } })
  t.eq(o:get "u16", 65535)
  o:set("u16", 1)
  t.eq(o.u16, 1)
end)

test("a bad value names object, property and value, and changes nothing", function(t)
  local o = qom.new "kinds"
  local function set(key, value) return function() o[key] = value end end
  t.raises("kinds: property 'u8': 256 is out of range %(0 to 255%)", set("u8", 256))
  t.raises("'u8': %-1 is out of range", set("u8", -1))
  t.raises("'s8': %-129 is out of range %(%-128 to 127%)", set("s8", -129))
  t.raises("'u8': uint8 expected, got double '1.5'", set("u8", 1.5))
  t.raises("'u8': uint8 expected, got string 'x'", set("u8", "x"))
  t.raises("u8.*table cannot be its value", set("u8", {}))
  t.raises("'flag': bool expected", set("flag", 1))
  t.raises("'size': '1Q' is not a size", set("size", "1Q"))
  t.raises("'color': 'gren' is not one of red, green %(did you mean 'green'%?%)", set("color", "gren"))
  t.raises("'peer': '[^']*' is a 'container', not a 'kinds'", set("peer", qom.root()))
  t.raises("element 2", set("bytes", { 1, 256 }))
  t.raises("a table expected", set("bytes", 5))
  t.raises("nearest is 'color'", set("colour", "red"))
  t.raises("no member 'u9'", function() return o.u9 end)
  t.raises("has no property 'u9'", function() return o:get "u9" end)
  t.raises("has no property 'u9' %(did you mean", function() o:set("u9", 1) end)
  t.raises("out of range", qom.new, "kinds", { u8 = 999 })
  t.raises("unknown type 'kindz' %(did you mean 'kinds'", qom.new, "kindz")
  t.eq({ o.u8, o.s8, o.flag, o.color, o.bytes }, { 200, -100, true, "green", { 1, 2, 255 } })
end)

test("properties are listed with kind, default, doc and owner", function(t)
  local by_name = {}
  for _, p in ipairs(qom.properties "kinds") do by_name[p.name] = p end
  t.eq(by_name.flag, { name = "flag", kind = "bool", type = "bool", doc = "a flag", default = true, owner = "kinds",
    until_realized = true })
  t.eq(by_name.color.type, "enum(red|green)")
  t.eq(by_name.color.words, { "red", "green" })
  t.eq(by_name.peer.type, "link<kinds>")
  t.eq(by_name.bytes.type, "list<uint8>")
  t.eq(by_name.size.default, 65536)
  t.eq(names(qom.new("kinds"):properties()), names(qom.properties "kinds"))
  t.refuses("unknown type", qom.properties, "no-such-type")
end)

test("getters and setters in Lua compute, check and refuse", function(t)
  local log = {}
  qom.type {
    name = "computed", parent = "object",
    properties = {
      celsius = { "double", default = 20 },
      kelvin = { "double", get = function(o) return o.celsius + 273.0 end, set = function(o, v) o.celsius = v - 273.0 end },
      even = { "uint32", default = 4, set = function(_, v)
        log[#log + 1] = v
        if v % 2 == 1 then error("only even numbers", 0) end
      end },
      fixed = { "string", get = function() return "always" end },
      broken = { "uint8", get = function() return 300 end },
    },
  }
  local o = qom.new "computed"
  t.eq(log, {}, "the default does not go through the setter")
  t.eq({ o.kelvin, o.even, o.fixed }, { 293.0, 4, "always" })
  o.kelvin = 300
  t.eq(o.celsius, 27.0)
  o.even = 8
  t.raises("only even numbers", function() o.even = 3 end)
  t.eq({ o.even, log }, { 8, { 8, 3 } })
  t.raises("'fixed' is read%-only", function() o.fixed = "x" end)
  t.raises("300 is out of range", function() return o.broken end)
end)

test("declared state is there as fields, with ranges", function(t)
  qom.type {
    name = "stateful", parent = "object",
    state = {
      on = "bool", a8 = "uint8", b16 = "int16", c64 = "uint64", d = "double", fifo = "uint8[4]", blob = "bytes:4", big = "int64[2]",
    },
  }
  local o = qom.new "stateful"
  t.eq({ o.on, o.a8, o.b16, o.c64, o.d, o.blob, #o.fifo, o.fifo[4] }, { false, 0, 0, 0, 0.0, "\0\0\0\0", 4, 0 })
  o.on, o.a8, o.b16, o.c64, o.d, o.blob = true, 255, -32768, -1, 1.5, "ab"
  t.eq({ o.on, o.a8, o.b16, o.c64, o.d, o.blob }, { true, 255, -32768, -1, 1.5, "ab\0\0" })
  o.fifo[1], o.fifo[4] = 10, 40
  local sum = 0
  for i, v in pairs(o.fifo) do sum = sum + i * v end
  t.eq(sum, 10 + 160)
  o.fifo = { 1, 2 }
  t.eq({ o.fifo[1], o.fifo[2], o.fifo[3], o.fifo[4] }, { 1, 2, 0, 0 })
  o.big[2] = math.mininteger
  t.eq(o.big[2], math.mininteger)
  t.ok(o.fifo == o.fifo)
  t.raises("stateful: state 'a8': 256 does not fit uint8 %(0 to 255%)", function() o.a8 = 256 end)
  t.raises("state 'b16': %-32769 does not fit int16", function() o.b16 = -32769 end)
  t.raises("state 'a8': a whole number %(uint8%) expected, got 1.5", function() o.a8 = 1.5 end)
  t.raises("a whole number %(uint8%) expected, got 5", function() o.a8 = "5" end)
  t.raises("state 'on': true or false expected, got a number", function() o.on = 1 end)
  t.raises("state 'd': a number expected", function() o.d = "x" end)
  t.raises("at most 4 bytes", function() o.blob = "12345" end)
  t.raises("elements 1 to 4, no 5", function() o.fifo[5] = 1 end)
  t.raises("elements 1 to 4, no 0", function() return o.fifo[0] end)
  t.raises("elements 1 to 4, no x", function() return o.fifo.x end)
  t.raises("'fifo': 256 does not fit", function() o.fifo[1] = 256 end)
  t.raises("5 values for 4 elements", function() o.fifo = { 1, 2, 3, 4, 5 } end)
  t.raises("does not fit", function() o.fifo = { 7, 999 } end)
  t.eq(o.fifo[1], 1, "nothing is stored when one value is bad")
end)

test("object.state names all saved state and reads and writes it", function(t)
  local o = qom.new "stateful"
  o.fifo[2] = 7
  t.eq({ o.state.fifo[2], #o.state.fifo, o.state.on }, { 7, 4, false })
  o.state.fifo[1] = 3
  o.state.c64 = 99
  t.eq({ o.fifo[1], o.c64 }, { 3, 99 })
  local got = {}
  for k in pairs(o.state) do got[#got + 1] = k end
  t.eq(got, { "a8", "b16", "big", "blob", "c64", "d", "fifo", "on" })
  got = {}
  for i, v in pairs(o.state.fifo) do got[i] = v end
  t.eq(got, { 3, 7, 0, 0 })
  t.raises("no state 'nothing'", function() return o.state.nothing end)
  t.raises("no state 'fifo%[4%]'", function() return o.state.fifo[5] end)
  t.raises("not a single value", function() o.state.fifo = 1 end)
  t.raises("does not fit uint8", function() o.state.a8 = 1000 end)
end)

test("a subclass inherits properties, state, methods and may change defaults", function(t)
  local ran = {}
  qom.type {
    name = "sub-base", parent = "object", doc = "base",
    properties = { port = { "uint16", default = 1, doc = "a port" } }, state = { count = "uint8" },
    methods = { who = function() return "base" end, twice = function(o) return 2 * o.port end },
    init = function(o) ran[#ran + 1] = "base " .. o.port end,
  }
  qom.type {
    name = "sub-leaf", parent = "sub-base",
    properties = { port = { default = 5 }, extra = "uint8" }, state = { more = "uint32[2]" },
    methods = { who = function(o) return "leaf over " .. qom.methods("sub-base").who(o) end },
    init = function(o) ran[#ran + 1] = "leaf" o.more[1] = 4000000000 end,
  }
  local o = qom.new "sub-leaf"
  t.eq(ran, { "base 5", "leaf" })
  t.eq({ o.port, o:twice(), o:who(), o.count, o.more[1] }, { 5, 10, "leaf over base", 0, 4000000000 })
  o.count, o.extra = 9, 8
  t.eq({ o.count, o.extra, o.port, o.more[1] }, { 9, 8, 5, 4000000000 })
  t.eq(qom.new("sub-base").port, 1)
  t.eq(names(qom.properties "sub-leaf"), { "extra", "port" })
  t.eq(keys(qom.methods "sub-leaf"), { "who" })
  t.ok(o:is_a "sub-base")
  t.ok(not qom.new("sub-base"):is_a "sub-leaf")
  qom.methods("sub-base").late = function() return "added later" end
  t.eq(o:late(), "added later")
end)

test("interfaces bring default methods, demand others, and share their top", function(t)
  qom.type {
    name = "face-top", parent = "interface", doc = "top", requires = { "id_number" },
    methods = { greet = function(o) return "top " .. o:id_number() end },
  }
  qom.type { name = "face-left", parent = "face-top", methods = { left = function() return "left" end } }
  qom.type { name = "face-right", parent = "face-top", methods = { greet = function(o) return "right " .. o:id_number() end } }
  qom.type {
    name = "diamond", parent = "object",
    interfaces = { "face-left", ["face-right"] = { id_number = function() return 42 end } },
  }
  local o = qom.new "diamond"
  t.eq({ o:left(), o:id_number() }, { "left", 42 })
  t.match(o:greet(), "42")
  for _, name in ipairs { "face-top", "face-left", "face-right", "interface" } do t.ok(o:is_a(name), name) end
  t.eq(#qom.class("diamond").interfaces, 3)
  local found = {}
  for name in qom.classes "face-top" do found[#found + 1] = name end
  t.eq(found, { "diamond" })
  qom.type { name = "diamond-child", parent = "diamond", interfaces = { "face-left" }, methods = { left = function() return "mine" end } }
  t.eq({ qom.new("diamond-child"):left(), qom.new("diamond-child"):id_number() }, { "mine", 42 })
  t.raises("interface 'face%-top' requires the method 'id_number'", qom.type,
    { name = "diamond-bad", parent = "object", interfaces = { "face-left" } })
  t.raises("'diamond' is not an interface", qom.type, { name = "diamond-bad", parent = "object", interfaces = { "diamond" } })
  t.raises("unknown type 'face%-lef' %(did you mean 'face%-left'", qom.type,
    { name = "diamond-bad", parent = "object", interfaces = { "face-lef" } })
  t.raises("'state' is for types with instances", qom.type, { name = "face-bad", parent = "interface", state = { x = "bool" } })
  t.raises("abstract", qom.new, "face-top")
end)

test("a wrong type is refused with what is wrong, and its name stays free", function(t)
  local function refused(pattern, spec)
    spec.name = spec.name or "wrong"
    spec.parent = spec.parent or "object"
    t.raises(pattern, qom.type, spec)
    t.refuses("unknown type", qom.class, "wrong")
  end
  t.raises("a type needs a name", qom.type, { parent = "object" })
  t.raises("table expected", qom.type, "x")
  t.raises("no parent given", qom.type, { name = "wrong" })
  refused("unknown type 'objekt' %(did you mean 'object'", { parent = "objekt" })
  refused("propertys.*properties", { propertys = {} })
  refused("'doc' must be a string", { doc = 5 })
  refused("'abstract' must be true or false", { abstract = "yes" })
  refused("'init' must be a function", { init = 5 })
  refused("'realize' is for types below 'device'", { realize = function() end })
  refused("property 'x': unknown kind 'uint17' %(did you mean 'uint1", { properties = { x = "uint17" } })
  refused("property 'x': no kind given", { properties = { x = {} } })
  refused("property 'x'.*defualt.*default", { properties = { x = { "uint8", defualt = 1 } } })
  refused("property 'x': default: .*300 is out of range", { properties = { x = { "uint8", default = 300 } } })
  refused("property 'x': default: .*uint8 expected", { properties = { x = { "uint8", default = "a" } } })
  refused("property 'x': an enum needs words", { properties = { x = { "enum" } } })
  refused("property 'x': a list needs element", { properties = { x = { "list" } } })
  refused("property 'x': unknown type 'containr' %(did you mean 'container'", { properties = { x = { "link", type = "containr" } } })
  refused("property 'x': only links, strings and lists", { properties = { x = { "bool", required = true } } })
  refused("property 'x': a link has no default", { properties = { x = { "link", default = "a" } } })
  refused("property 'a b': a name has letters", { properties = { ["a b"] = "bool" } })
  refused("property 'path' would be hidden", { properties = { path = "string" } })
  refused("names are expected as keys", { properties = { "bool" } })
  refused("state 'path' would be hidden", { state = { path = "uint8" } })
  refused("state 'x' would be hidden", { state = { x = "uint8" }, methods = { x = function() end } })
  refused("state 'x': it is a property too", { state = { x = "uint8" }, properties = { x = "bool" } })
  refused("state 'x': unknown type 'uint9' %(did you mean 'uint", { state = { x = "uint9" } })
  refused("state 'x': 'uint8%[0%]': a length expected", { state = { x = "uint8[0]" } })
  refused("state 'x': 'uint8%[4': a length expected", { state = { x = "uint8[4" } })
  refused("state 'x': 'bytes:': a length expected", { state = { x = "bytes:" } })
  refused("state 'x': more than 64 MiB", { state = { x = "bytes:100000000" } })
  refused("state 'x': a type like", { state = { x = 5 } })
  refused("minimum_version 3 is above version 2", { version = 2, minimum_version = 3 })
  refused("'version' must be a whole number from 1", { version = 0 })
  refused("table of named functions", { methods = { x = 5 } })
  refused("the parent has a state of that name", { parent = "sub-base", state = { count = "uint8" } })
  refused("the parent has a property of that name", { parent = "sub-base", state = { port = "uint8" } })
  refused("of kind uint16", { parent = "sub-base", properties = { port = { "uint8" } } })
  refused("'set' stays as the parent has it", { parent = "sub-base", properties = { port = { set = function() end } } })
  t.raises("registered already", qom.type, { name = "sub-base", parent = "object" })
  t.raises("no '/'", qom.type, { name = "a/b", parent = "object" })
  local err = t.raises("qom_types.lua:%d+: ", function() qom.type { name = "wrong", parent = "object", nane = 1 } end)
  t.match(err, "name")
  qom.type { name = "wrong", parent = "object" }
end)

test("a failing init is told by qom.new", function(t)
  qom.type { name = "init-fails", parent = "object", init = function() error "no way" end }
  t.raises("init%-fails.init at .*no way", qom.new, "init-fails")
end)

test("the tree can be walked, printed and searched", function(t)
  local top = qom.root():add_child("walk-" .. t.name:gsub("%W", "-"), qom.new "stateful")
  t.cleanup(function() if not top.gone then top:remove() end end)
  local a = top:add_child("a", qom.new "stateful")
  local b = a:add_child("b", qom.new "kinds")
  t.eq(b.path, top.path .. "/a/b")
  t.ok(b.parent == a and a:child "b" == b and a.b == b)
  t.eq(a:child "none", nil)
  t.eq(#top:children(), 1)
  local seen = {}
  for o, depth in top:walk() do seen[#seen + 1] = depth .. o.type end
  t.eq(seen, { "0stateful", "1stateful", "2kinds" })
  t.match(tostring(top:tree()), "^walk[^\n]* %(stateful%)\n  a %(stateful%)\n    b %(kinds%)\n$")
  t.eq(top:tree()[1][1].name, "b")
  t.ok(qom.resolve(b.path) == b)
  t.ok(qom.resolve("a/b", "kinds") == b)
  t.ok(top:resolve "b" == b)
  t.refuses("no object 'a/c'", qom.resolve, "a/c")
  t.refuses("no object", qom.resolve, b.path, "stateful")
  a:add_child("twice", qom.new "kinds")
  b:add_child("twice", qom.new "kinds")
  local _, message = top:resolve "twice"
  t.match(message, "ambiguous")
  t.raises("has a child 'b' already", function() a:add_child("b", qom.new "kinds") end)
  t.raises("not a name for a child", function() a:add_child("x/y", qom.new "kinds") end)
  t.raises("in the tree already", function() b:add_child("x", top) end)
  local loose = qom.new "kinds"
  t.raises("below itself", function() loose:add_child("x", loose) end)
  t.raises("cannot be removed", function() qom.root():remove() end)
  a:remove()
  t.eq({ a.gone, b.gone, top.gone }, { true, true, false })
  t.raises("b: is gone", function() return b.path end)
  t.eq(tostring(b), "b (gone)")
end)

test("links to an object that leaves the tree become nil", function(t)
  local top = qom.root():add_child("links", qom.new "kinds")
  local peer = qom.root():add_child("linked", qom.new "kinds")
  t.cleanup(function() top:remove() end)
  top.peer, peer.peer = peer, top
  peer:remove()
  t.eq(top.peer, nil)
  t.raises("not a live object", function() top.peer = peer end)
  top:parse("any", "links")
  t.ok(top.any == top)
  t.raises("no object 'linked'", function() top:parse("any", "linked") end)
end)

test("objects that nothing holds are collected with all that scripts gave them", function(t)
  local weak = setmetatable({}, { __mode = "v" })
  for i = 1, 50 do
    local o = qom.new "stateful"
    o.fifo[1] = i
    weak[i] = o
  end
  collectgarbage()
  collectgarbage()
  t.eq(next(weak), nil)
end)

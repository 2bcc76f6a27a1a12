-- The prompt's logic without a terminal: what is a whole line, what is completed, how values are shown.
local pretty = require "vmlua.pretty"
local repl = require "vmlua.repl"
local test = require "vmlua.test"
local text = require "vmlua.text"

local function talk(t, ...)
  local out = {}
  local session = repl.session(repl.environment(), function(s) out[#out + 1] = s end)
  for _, line in ipairs { ... } do
    local run = session:feed(line)
    if run then run() end
  end
  t.log(table.concat(out))
  return table.concat(out), session
end

test("expressions print their values, statements do not", function(t)
  t.eq(talk(t, "1 + 1"), "2\n")
  t.eq(talk(t, "= 'a', nil, 3"), '"a"\tnil\t3\n')
  t.eq(talk(t, "x = 5"), "")
  t.eq(talk(t, "x = 5", "x * 2"), "10\n")
  t.eq(talk(t, "1 + 1", "_ + 1"), "2\n3\n")
end)

test("an unfinished piece goes on in the next line", function(t)
  local out, session = talk(t, "for i = 1, 2 do", "y = i")
  t.eq(out, "")
  t.eq(session:prompt(), ">> ")
  session:feed("end")()
  t.eq(session:prompt(), "> ")
  t.eq(talk(t, "s = [[one", "two]]", "s"), '"one\\ntwo"\n')
  t.eq(talk(t, "f(", "", "1)"):match("attempt to call a nil value"), "attempt to call a nil value")
end)

test("cancelling drops the unfinished piece", function(t)
  local _, session = talk(t, "function f()")
  t.eq(session:cancel(), true)
  t.eq(session:cancel(), false)
  t.eq(session:prompt(), "> ")
end)

test("errors are shown and the session goes on", function(t)
  local out, session = talk(t, "error 'boo'", "foo bar", "2")
  t.match(out, "prompt:1: boo\n")
  t.match(out, "syntax error near 'bar'\n")
  t.match(out, "2\n$")
  t.eq(session.failed, true)
end)

test("an error in a function shows where it was called", function(t)
  local out = talk(t, "local function inner() error 'deep' end local function outer() inner() end outer()")
  t.match(out, "deep\nstack traceback:.*inner.*outer")
end)

test("names, fields and methods are completed", function(t)
  local env = repl.environment()
  t.eq(repl.complete("string.re", env), { "string.rep", "string.reverse" })
  t.eq(repl.complete("x = string.re", env), { "string.rep", "string.reverse" })
  env.box = { lid = {}, open = function() end, nested = { { depth = 1 } } }
  t.eq(repl.complete("box.", env), { "box.lid", "box.nested", "box.open" })
  t.eq(repl.complete("box:", env), { "box:open" })
  t.eq(repl.complete("box.nested[1].d", env), { "box.nested[1].depth" })
  t.eq(repl.complete("nothing.here.", env), {})
  t.eq(repl.complete("whi", env), { "while" })
end)

test("completing never calls what a script wrote into __index", function(t)
  local env = repl.environment()
  env.trap = setmetatable({}, { __index = function() error "called" end })
  t.eq(repl.complete("trap.x.y", env), {})
end)

test("tables are printed with sorted keys, cycles by path, addresses in hex", function(t)
  t.eq(pretty.format { b = 1, a = 2, 10 }, "{ 10, a = 2, b = 1 }")
  local cycle = { name = "x" }
  cycle.inner = { up = cycle }
  t.eq(pretty.format(cycle), '{ inner = { up = <cycle> }, name = "x" }')
  t.eq(pretty.format { rip = 0x7c00, count = 31744 }, "{ count = 31744, rip = 0x7c00 }")
  t.eq(pretty.format { ["end"] = 1, ["a b"] = 2 }, '{ ["a b"] = 2, ["end"] = 1 }')
  t.eq(pretty.format("a\0b\27"), '"a\\x00b\\x1b"')
  t.eq(pretty.format(-1), "-1")
  t.eq(pretty.format(1.0), "1.0")
  t.eq(pretty.format(1 / 0), "inf")
end)

test("deep, wide and long values are cut", function(t)
  t.eq(pretty.format({ { { 1 } } }, { depth = 2 }), "{ { {…} } }")
  t.match(pretty.format({ 1, 2, 3, 4 }, { items = 2 }), "… 2 more")
  t.match(pretty.format({ ("x"):rep(1000) }, { string = 10 }), '"x+"… %(1000 bytes%)')
  local wide = pretty.format({ ("a"):rep(60), ("b"):rep(60) }, { width = 80 })
  t.eq(select(2, wide:gsub("\n", "")), 3)
end)

test("a value whose tostring fails is still shown", function(t)
  t.match(pretty.format(setmetatable({}, { __tostring = function() error "no" end })), "its tostring failed")
end)

test("sizes are read with their units", function(t)
  t.eq(text.size "64K", 65536)
  t.eq(text.size "1.5G", 3 << 29)
  t.eq(text.size "2GiB", 2 << 30)
  t.eq(text.size("16", 1 << 20), 16 << 20)
  t.eq(text.size "0x1000", 4096)
  t.refuses("expected a size", text.size, "")
  t.refuses("negative", text.size, -1)
  t.refuses("no whole number", text.size, "1.3b")
  t.refuses("too large", text.size, "16E")
end)

test("object paths and members of handles are completed", function(t)
  local vm = t.machine("bare", { idle = true })
  local env = repl.environment { vm = vm }
  t.eq(repl.complete("/mach", env), { "/machines" })
  t.eq(repl.complete("/machines/", env), { "/machines/" .. vm.id })
  t.eq(repl.complete("/machines/" .. vm.id .. "/isa-s", env), { "/machines/" .. vm.id .. "/isa-serial-0" })
  t.eq(repl.complete('object "/machines/b', env), { "/machines/" .. vm.id })
  t.eq(repl.complete("vm:snap", env), { "vm:snapshot" })
  t.eq(repl.complete("vm.stat", env), { "vm.state", "vm.stats", "vm.status", "vm.status_changes" })
  t.eq(repl.complete("vm.cpus[1].rfl", env), { "vm.cpus[1].rflags" })
  local out = {}
  local session = repl.session(env, function(s) out[#out + 1] = s end)
  session:feed("/machines/" .. vm.id)()
  session:feed "vm.cpus[1].rip"()
  t.eq(table.concat(out), tostring(vm) .. "\n0x7c00\n")
end)

test("help knows values, handles and names", function(t)
  local help = require "vmlua.help"
  local vm = t.machine("bare", { idle = true })
  t.match(help.text(vm), "bare.*machine:pause")
  t.match(help.text(vm.memory), "a address%-space\n.*read_u32")
  t.match(help.text(vm:snapshot()), "a vmlua%.snapshot\n.*device_bytes")
  t.match(help.text(vm.pause), "machine:pause%(reason: string%?%)")
  t.match(help.text(require("vmlua.loader").parse), "loader.parse%(bytes: string")
  t.match(help.text "machine.define", "Defines a board")
  t.match(help.text "snapshot", "The present state of the whole machine")
  t.match(help.text "machine:wait", "Waits until it does not run any more")
  t.match(help.text(vm.wait), "machine:wait%(limits")
  t.match(help.text "machine:pio", "Port accesses")
  t.match(help.text(5), "5, a number")
  t.match(help.text(function() end), "it has no documentation")
end)

test("who types exit or quit is told how to leave", function(t)
  t.match(t.vmlua({ input = "exit\n" }).out, "Ctrl%-D leaves")
  t.match(t.vmlua({ input = "quit()\n" }).out, "Ctrl%-D leaves")
end)

test("help knows the sources of events before the first was used", function(t)
  local r = t.vmlua { input = 'help(require("vmlua.core.api").methods("machine").pio)\n' }
  t.match(r.out, "Port accesses")
end)

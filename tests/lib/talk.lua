-- Conversations with a program: the test types when it sees what it waits for.
local fs = require "vmlua.core.fs"

local talk = {}

-- fn(expect, type): what is expected is looked for behind what was seen last; `round`: brings more to see.
local function converse(t, seen, type, fn, child, round)
  local from = 1
  local function expect(what)
    local stop
    t.wait_for(function()
      if round then round() end
      stop = select(2, seen():find(what, from, true))
      return stop
    end, 20, "no " .. what .. " in " .. seen())
    from = stop + 1
  end
  fn(expect, type, child)
end

--- With a child of t.vmlua, over its pipes.
---@param t table
---@param r table what t.vmlua gives to on_start beside the child
---@param child table
---@param fn fun(expect: fun(what: string), type: fun(text: string), child: table)
function talk.pipes(t, r, child, fn)
  converse(t, function() return r.out end, function(text) child:write(text) end, fn, child)
end

--- Runs a shell's command line on a terminal, which script(1) makes. A program that is to be the only one to get the
--- terminal's signals begins with "exec".
---@param t table
---@param command string
---@param fn fun(expect: fun(what: string), type: fun(text: string), child: table)
---@param env? table besides TERM, COLUMNS and an empty history
---@return table r what t.vmlua answers
function talk.terminal(t, command, fn, env)
  if not fs.stat "/usr/bin/script" then t.skip "script(1) is not installed" end
  -- script(1) asks SHELL which shell runs the command, and shells differ in what a Ctrl-C leaves of an exit status.
  local full = { TERM = "xterm", COLUMNS = "100", VMLUA_HISTORY = "", SHELL = "/bin/sh" }
  for k, v in pairs(env or {}) do full[k] = v end
  local r = t.vmlua { argv0 = "/usr/bin/script", "-qefc", command, "/dev/null", env = full,
    on_start = function(child, r) talk.pipes(t, r, child, fn) end }
  t.log((r.out:gsub("\27", "^[")))
  return r
end

--- With whoever listens on a unix socket: from a machine whose serial port is connected there.
---@param t table
---@param socket string
---@param fn fun(expect: fun(what: string), type: fun(text: string))
function talk.socket(t, socket, fn)
  local out = ""
  local vm = t.machine("bare", { idle = true, serial = { "null" } })
  -- Its file is there before somebody listens.
  local chr = t.wait_for(function() return fs.stat(socket) and require("vmlua.core.chardev").new("unix:" .. socket, vm, "client") end)
  chr:on_data(function(bytes) out = out .. bytes end, "to-guest")
  -- Someone has to take the bytes: a device whose end reads them.
  vm:device("isa-serial", { iobase = 0x2f8, irq = 3, chardev = chr })
  local function read()
    while vm.io:read_u8(0x2fd) & 1 ~= 0 do vm.io:read_u8(0x2f8) end
  end
  local function type(text)
    for c in text:gmatch "." do vm.io:write_u8(0x2f8, c:byte()) end
  end
  converse(t, function() return out end, type, fn, nil, read)
end

return talk

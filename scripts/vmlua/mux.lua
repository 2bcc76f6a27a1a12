--[[
One terminal for a serial port and the prompt: `-serial mon:stdio`, `-nographic`, `-serial mon:SPEC`.

    Ctrl-A c   to the prompt and back to the serial port        Ctrl-A b   a break on the line
    Ctrl-A x   ends the program                                 Ctrl-A h   this list
    Ctrl-A Ctrl-A   sends Ctrl-A

The guest's port has a back end that is this file. While the port is in front, the outside is a chardev of its own (a
terminal in raw mode, so that Ctrl-C is the guest's), whose device's end is here, too. While the prompt is in front, the
line editor has the terminal and what the guest says is printed above it; where the outside is no terminal, the lines
that come from there are evaluated.

What is typed while the guest does not read waits up to a bound: the keys above always work.
]]
local console = require "vmlua.console"
local core = require "vmlua.core.chardev"
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"

local mux = {}

local ESCAPE = "\1"
local QUEUE_MAX = 65536
local RETRY_NS = 5000000

local help = [[

Ctrl-A h   this help
Ctrl-A c   to the prompt and back
Ctrl-A b   send a break
Ctrl-A x   end
Ctrl-A Ctrl-A   send Ctrl-A
]]

---@class Mux
---@field chardev chardev the back end for the serial port
---@field left boolean the user wants the end
---@field session? table the prompt's, while it is in front on a terminal
local Mux = {}
Mux.__index = Mux

--- The two ends, before there is a machine.
---@param spec string the outside: "stdio", "tcp:…"
---@return Mux
function mux.new(spec)
  local self = setmetatable({ spec = spec, left = false, in_front = "serial", queue = "", escaped = false }, Mux)
  self.chardev = assert(core.script(loop.shielded(function(bytes) self:from_guest(bytes) end)))
  self.terminal = spec == "stdio" and fs.isatty(0) and fs.isatty(1)
  return self
end

function Mux:from_guest(bytes)
  if self.session then
    console.say(bytes)
  elseif self.front then
    self.front:write(bytes)
  end
end

function Mux:tell(what)
  if self.front then self.front:write((what:gsub("\n", "\r\n"))) end
end

-- A guest that does not read gets it later, and not without end.
function Mux:to_guest(bytes)
  self.queue = (self.queue .. bytes):sub(1, QUEUE_MAX)
  local taken = self.chardev:write(self.queue)
  self.queue = self.queue:sub(taken + 1)
  if self.queue ~= "" and not self.retry then
    self.retry = loop.timer(RETRY_NS, loop.shielded(function()
      self.retry = nil
      self:to_guest ""
    end))
  end
end

function Mux:plain(bytes)
  if bytes == "" then return end
  if self.in_front == "serial" then self:to_guest(bytes) else self.conversation.take(bytes) end
end

--- A key that came after the escape key.
---@param key string
function Mux:command(key)
  if key == ESCAPE then
    self:plain(key)
  elseif key == "x" then
    self.left = true
  elseif key == "b" then
    self.chardev:send_break()
  elseif key == "h" or key == "?" then
    if self.session then console.say(help) else self:tell(help) end
  elseif key == "c" then
    -- Outside of the callbacks of what is closed now.
    if self.terminal then loop.later(loop.shielded(function() self:switch() end)) else self:switch() end
  end
end

function Mux:typed(bytes)
  local from = 1
  while from <= #bytes do
    if self.escaped then
      self.escaped = false
      self:command(bytes:sub(from, from))
      from = from + 1
    else
      local at = bytes:find(ESCAPE, from, true)
      self:plain(bytes:sub(from, (at or 0) - 1))
      if not at then break end
      self.escaped = true
      from = at + 1
    end
  end
end

-- The outside becomes ours: of a terminal, its raw mode.
function Mux:attach()
  self.outside = assert(core.new(self.spec == "stdio" and "stdio,escape=none" or self.spec, self.vm, "terminal"))
  self.front = self.device:front(self.outside, {
    receive = loop.shielded(function(_, bytes) self:typed(bytes) end),
    event = loop.shielded(function(_, what)
      if what == "break" then self.chardev:send_break() end
    end),
  })
end

function Mux:detach()
  self.front:detach()
  self.front = nil
  self.outside:close()
  self.outside:remove()
  self.outside = nil
end

--- From the serial port to the prompt, or back.
function Mux:switch()
  if self.vm.gone then return end
  if self.in_front == "serial" then
    self.in_front = "prompt"
    if self.terminal then
      self:detach()
      io.stdout:write("\n")
      self.session = console.start(self.env, { escape = function(key) self:command(key) end })
    else
      self.conversation = self.conversation
        or console.conversation(self.env, function(s) self:tell(s) end, self.spec ~= "stdio")
      self.conversation.start()
    end
  else
    self.in_front = "serial"
    if self.session then
      self.session.stop()
      self.session = nil
      io.stdout:write("\n")
      io.stdout:flush()
      self:attach()
    end
  end
end

--- Begins, when the machine is built.
---@param vm machine
---@param env table what the prompt knows
function Mux:begin(vm, env)
  local qom = require "vmlua.core.qom"
  if not qom.class "lua-terminal" then
    qom.type { name = "lua-terminal", parent = "device", doc = "A terminal shared by a serial port and the prompt", user_creatable = false }
  end
  self.vm, self.env = vm, env
  self.device = vm:device("lua-terminal", {})
  self:attach()
end

--- Gives the terminal back.
function Mux:stop()
  if self.session then self.session.stop() end
  if self.front and not self.vm.gone then self:detach() end
  self.session = nil
end

return mux

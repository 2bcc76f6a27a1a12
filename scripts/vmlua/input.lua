--[[
The keyboard and the mouse of a machine, for scripts:

    vm.keyboard:type("ls /boot\n")              waits for the guest: no key is lost
    vm.keyboard:combo "ctrl-alt-delete"
    vm.keyboard:press "shift"   vm.keyboard:release "shift"
    vm.mouse:move(10, -5)   vm.mouse:click()   vm.mouse:wheel(1)

Whatever is sent waits until the guest has taken it from the device, so it is called from a script or a task, not from
a callback of the engine. The limits `t` (guest time) and `rt` (real time) are seconds for each key; without them it
waits for as long as it takes.

A BIOS puts keys into a buffer of 15 in its data area. Where typing moves that buffer's end, the next key waits until
somebody has taken the one before out of it.
]]
local layouts = require "vmlua.layouts"
local loop = require "vmlua.core.loop"
local api = require "vmlua.core.api"
local sched = require "vmlua.sched"
local text = require "vmlua.text"

local input = {}

local GAP = 0.005 -- seconds of guest time between two keys
local BIOS_POLL = 0.002
local BIOS_HEAD, BIOS_TAIL, BIOS_FIRST, BIOS_LAST = 0x41a, 0x41c, 0x1e, 0x3c

local function check_options(what, o, known)
  for key, value in pairs(o or {}) do
    if not known[key] then
      local names = {}
      for k in pairs(known) do names[#names + 1] = k end
      table.sort(names)
      error(("%s: %s"):format(what, text.unknown("option", tostring(key), names)), 3)
    end
    if type(value) ~= known[key] then
      error(("%s: %s is to be a %s, got a %s"):format(what, key, known[key], type(value)), 3)
    end
  end
  return o or {}
end

-- ---- waiting ------------------------------------------------------------------------------------------------

-- Waits until test() holds, asked again whenever the guest took something.
local function wait_until(vm, test, o)
  if test() then return true end
  local data = api.data(vm)
  data.input_waits = data.input_waits or {}
  local waits, hub = data.input_waits, vm:input()
  return sched.await { vm = vm, t = o.t, rt = o.rt, arm = function(done)
    local function look()
      if test() then done(true) end
    end
    if not next(waits) then
      hub:on_change(function()
        local list = {}
        for fn in pairs(waits) do list[#list + 1] = fn end
        for _, fn in ipairs(list) do fn() end
      end)
    end
    waits[look] = true
    return function()
      waits[look] = nil
      if not next(waits) and not hub.gone then hub:on_change(nil) end
    end
  end }
end

local function bios_buffer(vm)
  local head, tail = vm.memory:read_u16(BIOS_HEAD), vm.memory:read_u16(BIOS_TAIL)
  if head < BIOS_FIRST or head > BIOS_LAST or tail < BIOS_FIRST or tail > BIOS_LAST then return nil end
  return head, tail
end

-- After a key: when the BIOS took it into its buffer, until it is out of there.
local function wait_bios(vm, before, o)
  local head, tail = bios_buffer(vm)
  if not before or not tail or tail == before or head == tail then return true end
  return sched.await { vm = vm, t = o.t, rt = o.rt, arm = function(done)
    local timer
    local function look()
      head, tail = bios_buffer(vm)
      if not head or head == tail then return done(true) end
      timer = loop.timer(sched.ns(BIOS_POLL), look)
    end
    timer = loop.timer(sched.ns(BIOS_POLL), look)
    return function() timer:cancel() end
  end }
end

-- ---- the keyboard -------------------------------------------------------------------------------------------

---@class Keyboard
---@field leds { scroll: boolean, num: boolean, caps: boolean } as the guest set them
---@field layout string what `type` takes the guest's layout for ("us"); assign another name of vmlua.layouts
local Keyboard = {}
local states = setmetatable({}, { __mode = "k" })

local function vm_of(self)
  local vm = states[self].vm
  if vm.gone then error("the machine is gone", 3) end
  if not vm:input().has_keyboard then error(("%s has no keyboard"):format(vm.id), 3) end
  return vm
end

-- Holds the keys in order and lets go of them in reverse. All of it goes to the keyboard at once where it fits, so that
-- no key is held for long enough to repeat.
local function send_chord(vm, hub, keys, o)
  local ok, why = wait_until(vm, function() return hub.keyboard_room and hub.keyboard_idle end, o)
  if not ok then return nil, why end
  local steps = {}
  for _, key in ipairs(keys) do steps[#steps + 1] = { key, true } end
  for i = #keys, 1, -1 do steps[#steps + 1] = { keys[i], false } end
  for _, step in ipairs(steps) do
    if not hub.keyboard_room then
      ok, why = wait_until(vm, function() return hub.keyboard_room end, o)
      if not ok then
        hub:release_all()
        return nil, why
      end
    end
    hub:key(step[1], step[2])
  end
  return wait_until(vm, function() return hub.keyboard_idle end, o)
end

-- One chord after the other, with the pauses that a guest needs.
local function send(vm, chords, o)
  local hub = vm:input()
  for _, keys in ipairs(chords) do
    local _, tail = bios_buffer(vm)
    local ok, why = send_chord(vm, hub, keys, o)
    if ok and o.gap > 0 then
      ok, why = sched.await { vm = vm, rt = o.rt, arm = function(done)
        local timer = loop.timer(sched.ns(o.gap), function() done(true) end, vm)
        return function() timer:cancel() end
      end }
    end
    if ok then ok, why = wait_bios(vm, tail, o) end
    if not ok then return nil, why end
  end
  return true
end

local type_options = { layout = "string", gap = "number", t = "number", rt = "number" }

--- Types a text, waiting for the guest after each key. Options: layout, the guest's keyboard layout; gap, seconds of
--- guest time between two keys (0.005); t and rt, limits for each key. nil and "timeout", "restored" or "closed" when
--- it did not get to the end.
---@param str string UTF-8; \n is Enter, \t Tab, \b Backspace, \27 Escape
---@param options? { layout?: string, gap?: number, t?: number, rt?: number }
---@return boolean?
---@return string? message
function Keyboard:type(str, options)
  local vm = vm_of(self)
  local o = check_options("keyboard:type", options, type_options)
  if type(str) ~= "string" then error(("keyboard:type: a string expected, got %s"):format(type(str)), 2) end
  if not utf8.len(str) then error("keyboard:type: the text is not UTF-8", 2) end
  local name = o.layout or self.layout
  local map = layouts.map(name)
  local chords, caps = {}, vm:input().leds.caps
  for _, code in utf8.codes(str) do
    local c = utf8.char(code)
    -- With Caps Lock on, letters are the other way round.
    local swapped = caps and (c:lower() ~= c and c:lower() or c:upper())
    local way = map[swapped and swapped ~= c and map[swapped] and swapped or c]
    if not way then error(("keyboard:type: layout %s has no key for %q (U+%04X)"):format(name, c, code), 2) end
    for _, keys in ipairs(way) do chords[#chords + 1] = keys end
  end
  return send(vm, chords, { gap = o.gap or GAP, t = o.t, rt = o.rt })
end

local function parse_combo(hub, combo)
  local keys = {}
  for word in (combo .. "-"):gmatch "(.-)%-" do
    keys[#keys + 1] = hub:key_name(word:lower())
  end
  return keys
end

--- Presses keys together and lets go of them: "ctrl-alt-delete", "alt-f2", "ret".
---@param combo string names of keys with - between them
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Keyboard:combo(combo, options)
  local vm = vm_of(self)
  local o = check_options("keyboard:combo", options, { t = "number", rt = "number" })
  return send(vm, { parse_combo(vm:input(), combo) }, { gap = GAP, t = o.t, rt = o.rt })
end

local function one_key(self, key, down, options)
  local vm = vm_of(self)
  local o = check_options("keyboard", options, { t = "number", rt = "number" })
  local hub = vm:input()
  key = hub:key_name(key)
  local ok, why = wait_until(vm, function() return hub.keyboard_room end, o)
  if not ok then return nil, why end
  hub:key(key, down)
  return wait_until(vm, function() return hub.keyboard_idle end, o)
end

--- Holds a key down; the keyboard repeats it until it is released.
---@param key string
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Keyboard:press(key, options) return one_key(self, key, true, options) end

--- Lets go of a key.
---@param key string
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Keyboard:release(key, options) return one_key(self, key, false, options) end

--- Lets go of everything that is held.
function Keyboard:release_all() vm_of(self):input():release_all() end

--- The names of all keys.
---@return string[]
function Keyboard:keys() return vm_of(self):input():keys() end

local keyboard_mt = {
  __name = "keyboard",
  __index = function(self, key)
    if Keyboard[key] then return Keyboard[key] end
    if key == "leds" then return vm_of(self):input().leds end
    if key == "layout" then return states[self].layout end
    error(text.unknown("member of keyboard", tostring(key),
      { "combo", "keys", "layout", "leds", "press", "release", "release_all", "type" }), 2)
  end,
  __newindex = function(self, key, value)
    if key ~= "layout" then error(("keyboard: %s cannot be assigned"):format(tostring(key)), 2) end
    layouts.map(value)
    states[self].layout = value
  end,
  __tostring = function(self) return "keyboard of " .. tostring(states[self].vm) end,
}

-- ---- the mouse ----------------------------------------------------------------------------------------------

---@class Mouse
local Mouse = {}
local buttons = { left = 1, right = 2, middle = 4, side = 8, extra = 16 }
local button_names = { "extra", "left", "middle", "right", "side" }

local function hub_of(self)
  local vm = states[self].vm
  if vm.gone then error("the machine is gone", 3) end
  local hub = vm:input()
  if not hub.has_pointer then error(("%s has no mouse"):format(vm.id), 3) end
  return vm, hub
end

local function button_mask(name)
  local mask = buttons[name or "left"]
  if not mask then error(text.unknown("mouse button", tostring(name), button_names), 3) end
  return mask
end

local function pointed(self, options, act)
  local vm, hub = hub_of(self)
  local o = check_options("mouse", options, { t = "number", rt = "number" })
  local ok, why = wait_until(vm, function() return hub.pointer_room end, o)
  if not ok then return nil, why end
  act(hub)
  return wait_until(vm, function() return hub.pointer_idle end, o)
end

--- Moves the mouse; right and down are positive.
---@param dx integer
---@param dy integer
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Mouse:move(dx, dy, options)
  return pointed(self, options, function(hub)
    if not hub:motion(dx, dy) then error("the pointer takes places: use mouse:to(x, y)", 0) end
  end)
end

--- Places an absolute pointer: 0 to 1 from the left and from the top.
---@param x number
---@param y number
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Mouse:to(x, y, options)
  local px, py = math.floor(x * 0x7fff + 0.5), math.floor(y * 0x7fff + 0.5)
  return pointed(self, options, function(hub)
    if not hub:position(px, py) then error("the pointer is a mouse that takes motion: use mouse:move(dx, dy)", 0) end
  end)
end

--- Holds a button: "left" (default), "right", "middle", "side", "extra".
---@param button? string
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Mouse:press(button, options)
  local mask = button_mask(button)
  return pointed(self, options, function(hub) hub:set_buttons(hub.buttons | mask) end)
end

--- Lets go of a button.
---@param button? string
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Mouse:release(button, options)
  local mask = button_mask(button)
  return pointed(self, options, function(hub) hub:set_buttons(hub.buttons & ~mask) end)
end

--- Presses a button and lets go of it.
---@param button? string
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Mouse:click(button, options)
  local ok, why = self:press(button, options)
  if not ok then return nil, why end
  return self:release(button, options)
end

--- Turns the wheel; towards the user is positive.
---@param steps integer
---@param options? { t?: number, rt?: number }
---@return boolean?
---@return string? message
function Mouse:wheel(steps, options)
  return pointed(self, options, function(hub) hub:wheel(steps) end)
end

local mouse_mt = {
  __name = "mouse", __index = Mouse,
  __tostring = function(self) return "mouse of " .. tostring(states[self].vm) end,
}

local function made(vm, key, mt, state)
  local data = api.data(vm)
  if not data[key] then
    local self = setmetatable({}, mt)
    state.vm = vm
    states[self] = state
    data[key] = self
  end
  return data[key]
end

--- The keyboard of a machine: vm.keyboard.
---@param vm machine
---@return Keyboard
function input.keyboard(vm) return made(vm, "keyboard", keyboard_mt, { layout = "us" }) end

--- The mouse of a machine: vm.mouse.
---@param vm machine
---@return Mouse
function input.mouse(vm) return made(vm, "mouse", mouse_mt, {}) end

return input

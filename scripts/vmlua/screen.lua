--[[
Screens: what a machine's display shows, as characters and as pictures.

    print(vm.screen:text())                                -- rows, as UTF-8
    local x, why = vm.screen:text "login:":wait { rt = 60 }
    vm.screen:png "boot.png"
    assert(vm.screen:match("boot.png", { tolerance = 4 }))

A picture is drawn when somebody looks at it; a text that is waited for is looked for every 10 ms of the machine's
time, while somebody waits.
]]
local api = require "vmlua.core.api"
local event = require "vmlua.event"
local strict = require "vmlua.strict"

local screen = {}

local function machine_of(obj)
  while obj do
    if api.is_object(obj, "machine") then return obj end
    obj = obj.parent
  end
end

local function text_source(console, what)
  if what == "" then error("screen:text: an empty text is everywhere", 3) end
  local machine = machine_of(console)
  if not machine then error("screen:text: this screen belongs to no machine", 3) end
  local function arm(fn, once)
    return console:_watch(what, function(generation)
      if fn(nil, { kind = "text", text = what, value = generation }) == "pause" then machine:pause("text " .. what) end
    end, once)
  end
  local function ring(n) return console:_ring(what, n) end
  return event.source(machine, ("screen text %q"):format(what), arm, ring)
end

local function plain_rows(console)
  local text, why = console:_text()
  if not text then return nil, why end
  local rows = {}
  for row in text:gmatch "([^\n]*)\n" do rows[#rows + 1] = row end
  return rows
end

local console = api.methods "console"

--- What stands on the screen: without an argument all of it, rows ended by "\n" and without blanks at their ends;
--- with { rows = true } a list of rows; with { cells = true } a list of rows, each a list of { char, code, fg, bg,
--- blink, underline }. nil and a message in graphics modes.
---
--- With a text it is a source: `:wait{…}` and `:run_until{…}` end when the text stands there (also when it does
--- already), `:on(fn)` and `:trace(n)` see it come each time. "\n" in it goes from one row to the next.
---@param what? string|{ rows?: boolean, cells?: boolean }
---@return string|string[]|table[][]|Source|nil
---@return string? message
function console:text(what)
  if type(what) == "string" then
    local source = text_source(self, what)
    return source
  end
  if what ~= nil then strict.check("screen:text", what, { rows = "boolean", cells = "boolean" }) end
  if what and what.cells then return self:_cells() end
  if what and what.rows then return plain_rows(self) end
  return self:_text()
end

local match_spec = { roi = "table", mask = "string", tolerance = "integer", pixels = "integer" }

---@class MatchInfo
---@field compared integer pixels that were looked at
---@field different integer those that differ
---@field worst integer the largest difference of a colour, of 255
---@field x? integer where the first different one is
---@field y? integer

--- Whether the screen looks like a PNG file. Its transparent pixels are not looked at, nor those where the PNG file
--- `mask` is black; `roi` = { x, y, width, height } compares only that part (the file may be of the whole screen or
--- of the part); colours may differ by `tolerance` (0) of 255, and `pixels` (0) pixels by more.
---@param reference string file
---@param opts? { roi?: integer[], mask?: string, tolerance?: integer, pixels?: integer }
---@return boolean? same nil and a message when a file cannot be read or has another size
---@return MatchInfo|string info
function console:match(reference, opts)
  opts = strict.check("screen:match", opts or {}, match_spec)
  local compared, different, worst, x, y = self:_compare(reference, opts.roi, opts.mask, opts.tolerance or 0)
  if not compared then return nil, different end
  if compared == 0 then return nil, "nothing is compared: the mask leaves out every pixel" end
  local info = { compared = compared, different = different, worst = worst }
  if different > 0 then info.x, info.y = x, y end
  return different <= (opts.pixels or 0), info
end

return screen

-- What `vmlua img` prints: JSON as qemu-img lays it out, sizes for people, progress.
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local text = require "vmlua.text"

local output = {}

-- ---- JSON ----------------------------------------------------------------------------------------

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quote(s)
  s = s:gsub('[%c"\\\127]', function(c) return escapes[c] or ("\\u%04x"):format(c:byte()) end)
  if not utf8.len(s) then s = s:gsub("[\128-\255]", function() return "\u{fffd}" end) end
  return '"' .. s .. '"'
end

--- Text of a value: tables with a "list" field or an array part are arrays; keys are sorted.
---@param value any
---@param indent? string
---@return string
function output.json(value, indent)
  indent = indent or ""
  if type(value) == "string" then return quote(value) end
  if math.type(value) == "integer" then return ("%u"):format(value):gsub("^-", "") end
  if type(value) ~= "table" then return tostring(value) end
  local inner, parts = indent .. "    ", {}
  if value.list or #value > 0 then
    for _, v in ipairs(value) do parts[#parts + 1] = inner .. output.json(v, inner) end
    return #parts == 0 and "[\n" .. indent .. "]" or "[\n" .. table.concat(parts, ",\n") .. "\n" .. indent .. "]"
  end
  for _, key in ipairs(text.keys(value)) do
    parts[#parts + 1] = ("%s%s: %s"):format(inner, quote(key), output.json(value[key], inner))
  end
  return #parts == 0 and "{\n" .. indent .. "}" or "{\n" .. table.concat(parts, ",\n") .. "\n" .. indent .. "}"
end

-- ---- sizes ---------------------------------------------------------------------------------------

local units = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" }

--- "1.5 GiB": three digits, of the largest unit that leaves at least one before the point.
---@param bytes integer
---@return string
function output.size(bytes)
  local n, unit = bytes + 0.0, 1
  while n >= 1000 and unit < #units do
    n, unit = n / 1024, unit + 1
  end
  local shown = ("%.3g"):format(n)
  if shown:find("e", 1, true) then shown = ("%d"):format(math.floor(n + 0.5)) end
  return shown .. " " .. units[unit]
end

--- Seconds as HH:MM:SS.mmm.
---@param ns integer
---@return string
function output.clock(ns)
  local s = ns // 1000000000
  return ("%02d:%02d:%02d.%03d"):format(s // 3600, s // 60 % 60, s % 60, ns // 1000000 % 1000)
end

-- ---- progress ------------------------------------------------------------------------------------

local Progress = {}
Progress.__index = Progress
Progress.__close = function(p) p:finish() end

local BAR = 40

local function bar_line(p, share)
  local seconds = (loop.now() - p.start) / 1e9
  local full = math.floor(share * BAR)
  local rest = share > 0.01 and seconds > 1 and (" %3.0f s left"):format(seconds / share - seconds) or ""
  return ("\r%s [%s%s] %5.1f %%%s\27[K"):format(p.what, ("#"):rep(full), ("."):rep(BAR - full), share * 100, rest)
end

--- What shows how far a command is: a bar on a terminal, qemu-img's figures with -p elsewhere, nothing with -q.
--- Closing it ends the line; SIGUSR1 prints where it is.
---@param s table settings with progress, quiet
---@param what string
function output.progress(s, what)
  local bar = not s.quiet and fs.isatty(2)
  local p = setmetatable({ what = what, bar = bar, plain = s.progress and not bar, start = loop.now(), share = 0 }, Progress)
  p.usr1 = loop.on_signal("usr1", function() io.stderr:write(("%s    (%.2f/100%%)\n"):format(bar and "\n" or "", p.share * 100)) end)
  if p.plain then p:show(0, 1) end
  return p
end

--- How much is done of how much.
---@param done integer
---@param total integer
function Progress:show(done, total)
  local share = total > 0 and math.min(1, done / total) or 1
  if self.bar and (not self.last or loop.now() - self.last > 100000000) then
    if loop.now() - self.start < 300000000 then return end -- what is quick needs no bar
    self.last = loop.now()
    io.stderr:write(bar_line(self, share))
    io.stderr:flush()
  elseif self.plain and (not self.printed or share - self.printed >= 0.01) then
    self.printed = share
    io.stdout:write(("    (%.2f/100%%)\r"):format(share * 100))
    io.stdout:flush()
  end
  self.share = share
end

--- Something else is written to standard error: the bar's line is free for it.
function Progress:interrupt()
  if self.bar and self.last then io.stderr:write "\r\27[K" end
end

--- Its end; `whole`: everything is done.
---@param whole? boolean
function Progress:finish(whole)
  if self.over then return end
  self.over = true
  loop.on_signal("usr1", self.usr1)
  if self.bar and self.last then io.stderr:write("\r\27[K") end
  if self.plain then
    if whole then io.stdout:write "    (100.00/100%)\r" end
    io.stdout:write "\n"
  end
end

return output

-- Text that people type: nearest words, sizes, key=value lists, quoting. Plain Lua, no engine.
local text = {}

--- Edit distance with transpositions counted as one.
---@param a string
---@param b string
---@return integer
function text.distance(a, b)
  local la, lb = #a, #b
  local before, last = {}, {}
  for j = 0, lb do last[j] = j end
  for i = 1, la do
    local row = { [0] = i }
    for j = 1, lb do
      local ca, cb = a:byte(i), b:byte(j)
      local cost = ca == cb and 0 or 1
      local d = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and ca == b:byte(j - 1) and a:byte(i - 1) == cb then
        d = math.min(d, before[j - 2] + 1)
      end
      row[j] = d
    end
    before, last = last, row
  end
  return last[lb]
end

--- The word of a list that is nearest to what was typed; nil when none is near.
---@param word string
---@param words string[]
---@return string?
function text.nearest(word, words)
  local best, best_distance = nil, math.max(1, (#word + 2) // 3) + 1
  local low = word:lower()
  for _, candidate in ipairs(words) do
    local c = candidate:lower()
    local d = text.distance(low, c)
    if #low >= 3 and d >= best_distance and (c:sub(1, #low) == low or low:sub(1, #c) == c and #c >= 3) then
      d = best_distance - 1 -- a prefix is near, though longer by any length
    end
    if d < best_distance then best, best_distance = candidate, d end
  end
  return best
end

--- `unknown option "foo" (did you mean "fob"?)`, the words shared by all who refuse a name.
---@param what string
---@param word string
---@param words string[]
---@return string
function text.unknown(what, word, words)
  local near, more = text.nearest(word, words), ""
  if near then
    more = (' (did you mean "%s"?)'):format(near)
  elseif #words > 0 and #words <= 8 then
    more = (" (known: %s)"):format(table.concat(words, ", "))
  end
  return ('unknown %s "%s"%s'):format(what, word, more)
end

--- An error's text without the places of vmlua's own files that stand before it: the mistake is its caller's.
---@param message any
---@return string
function text.without_place(message)
  local s, n = tostring(message), 1
  while n > 0 do s, n = s:gsub("^[^\n:]*/vmlua/[%w_%-/]+%.lua:%d+: ", "") end
  return s
end

local suffixes = { b = 0, k = 10, m = 20, g = 30, t = 40, p = 50, e = 60 }

--- Bytes from an integer or a text like "64K", "1.5G", "0x1000". A bare number counts `unit` bytes.
---@param value integer|string
---@param unit? integer bytes that a number without a suffix stands for (1)
---@return integer? bytes
---@return string? message
function text.size(value, unit)
  unit = unit or 1
  local function refuse(why)
    return nil, ("expected a size such as 64K, 1.5G or 0x1000, got %q%s"):format(tostring(value), why or "")
  end
  if math.type(value) == "integer" then
    if value < 0 then return refuse(", which is negative") end
    return value * unit
  end
  if type(value) ~= "string" then return refuse() end
  local s = value:lower():match("^%s*(.-)%s*$")
  local hex = s:match("^0x(%x+)$")
  if hex then
    if #hex:gsub("^0+", "") > 16 then return refuse(", which is too large") end
    return tonumber(hex, 16)
  end
  local number, suffix = s:match("^(%d+%.?%d*)([bkmgtpe]?)i?b?$")
  if not number then return refuse() end
  local shift = suffix ~= "" and suffixes[suffix] or nil
  local scale = shift and (1 << shift) or unit
  local n = math.tointeger(tonumber(number))
  if n and not number:find(".", 1, true) then
    if n ~= 0 and math.ult(math.maxinteger // n, scale) then return refuse(", which is too large") end
    return n * scale
  end
  local f = tonumber(number) * scale
  if f >= 2.0 ^ 63 then return refuse(", which is too large") end
  local bytes = math.tointeger(f)
  if not bytes then return refuse(", which is no whole number of bytes") end
  return bytes
end

--- A size for people: the largest unit in which it is whole.
---@param bytes integer
---@return string
function text.format_size(bytes)
  for _, u in ipairs { { 40, "T" }, { 30, "G" }, { 20, "M" }, { 10, "K" } } do
    if bytes ~= 0 and bytes & ((1 << u[1]) - 1) == 0 then return ("%d%s"):format(bytes >> u[1], u[2]) end
  end
  return ("%d bytes"):format(bytes)
end

--- "on", "yes", "true", "1" and their opposites.
---@param value string|boolean
---@return boolean? value
---@return string? message
function text.boolean(value)
  if type(value) == "boolean" then return value end
  local v = tostring(value):lower()
  if v == "on" or v == "yes" or v == "true" or v == "1" or v == "y" then return true end
  if v == "off" or v == "no" or v == "false" or v == "0" or v == "n" then return false end
  return nil, ("expected on or off, got %q"):format(tostring(value))
end

--- Splits a list at commas; a doubled comma is one that belongs to the text.
---@param s string
---@return string[]
function text.commas(s)
  local out, part, i = {}, {}, 1
  while i <= #s do
    local c = s:sub(i, i)
    if c == "," then
      if s:sub(i + 1, i + 1) == "," then
        part[#part + 1] = ","
        i = i + 1
      else
        out[#out + 1] = table.concat(part)
        part = {}
      end
    else
      part[#part + 1] = c
    end
    i = i + 1
  end
  out[#out + 1] = table.concat(part)
  return out
end

--- Reads "first,key=value,flag" into a table. `implied` names the key of a first part without "=".
--- A later part without "=" is a flag, on. Order is kept in the array part as keys.
---@param s string
---@param implied? string
---@return table<string, string>? values
---@return string|string[] keys_or_message
function text.keyval(s, implied)
  local values, keys = {}, {}
  for i, part in ipairs(text.commas(s)) do
    local key, value = part:match("^([%w_%-%.%[%]]+)=(.*)$")
    if not key then
      if i == 1 and implied then
        key, value = implied, part
      elseif part:match("^[%w_%-%.%[%]]+$") then
        key, value = part, "on"
      else
        return nil, ("expected key=value, got %q"):format(part)
      end
    end
    if values[key] ~= nil then return nil, ("%s is given twice"):format(key) end
    values[key] = value
    keys[#keys + 1] = key
  end
  return values, keys
end

--- A word as a POSIX shell reads it back.
---@param s string
---@return string
function text.shell_quote(s)
  if s:match("^[%w_%-%./:=@%%+,]+$") then return s end
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

--- Breaks text into lines of at most `width` columns.
---@param s string
---@param width integer
---@return string[]
function text.wrap(s, width)
  local lines, line = {}, ""
  for word in s:gmatch("%S+") do
    if line ~= "" and #line + 1 + #word > width then
      lines[#lines + 1] = line
      line = word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return lines
end

--- Sorted keys of a table, as strings.
---@param t table
---@return string[]
function text.keys(t)
  local out = {}
  for k in pairs(t) do out[#out + 1] = tostring(k) end
  table.sort(out)
  return out
end

--- Cuts what comes in pieces into lines, in a time that grows with the length of both: `feed(piece)` calls `line` for each that
--- has ended, without its end; `rest()` is what came behind the last end, and is taken. A line that grows beyond `limit` bytes
--- loses what it has.
---@param line fun(text: string)
---@param limit? integer
---@return fun(piece: string) feed
---@return fun(): string rest
function text.line_splitter(line, limit)
  local pieces, length = {}, 0
  local function rest()
    local all = table.concat(pieces)
    pieces, length = {}, 0
    return all
  end
  local function keep(part)
    length = length + #part
    if limit and length > limit then rest() else pieces[#pieces + 1] = part end
  end
  return function(piece)
    local from = 1
    local at = piece:find("\n", from, true)
    while at do
      keep(piece:sub(from, at - 1))
      line(rest())
      from = at + 1
      at = piece:find("\n", from, true)
    end
    if from <= #piece then keep(piece:sub(from)) end
  end, rest
end

--- Whole contents of a file.
---@param path string
---@param limit? integer most bytes that are accepted
---@return string? bytes
---@return string? message
function text.read_file(path, limit)
  local f, err = io.open(path, "rb")
  if not f then return nil, err end
  local bytes, read_err = f:read(limit and limit + 1 or "a")
  f:close()
  if not bytes then
    if read_err then return nil, ("%s: %s"):format(path, read_err) end
    bytes = "" -- an empty file answers nil to a counted read
  end
  if limit and #bytes > limit then return nil, ("%s: larger than %s"):format(path, text.format_size(limit)) end
  return bytes
end

--- How many lines of a traceback are a script's: those of the library and of C say nothing about it.
---@param lines string[]
---@return integer
function text.script_frames(lines)
  local n = 0
  for _, line in ipairs(lines) do
    if not line:find("[C]:", 1, true) and not line:find("(...tail calls...)", 1, true) and not line:find("/scripts/vmlua/", 1, true) then
      n = n + 1
    end
  end
  return n
end

return text

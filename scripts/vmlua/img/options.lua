--[[
Options of the commands of `vmlua img`: parsing in the way of getopt_long, and help, from one declaration.

An option: { short = "f", long = "output", key = "format", arg = "FMT", doc = "…", list = true }. Without arg it is a
switch; list: it may be given several times; log: it goes, with its value, to the list of that name, where options stand in
the order they were given in. Options and file names may be mixed; "--" ends the options.
]]
local text = require "vmlua.text"

local options = {}

local Failure = { __tostring = function(e) return e.message end }

--- Ends the command with a message and an exit status (1).
---@param message string
---@param status? integer
function options.fail_with(message, status) error(setmetatable({ message = message, status = status or 1 }, Failure), 0) end

--- The same with a format.
---@param format string
function options.fail(format, ...) options.fail_with(format:format(...)) end
local fail = options.fail

--- Whether an error is one of these.
---@param e any
---@return boolean
function options.is_failure(e) return type(e) == "table" and getmetatable(e) == Failure end

local function spelled(o)
  local out = {}
  if o.short then out[#out + 1] = "-" .. o.short end
  if o.long then out[#out + 1] = "--" .. o.long end
  return table.concat(out, ", ")
end

local function by_long(command, word)
  local found = {}
  for _, o in ipairs(command.options) do
    if o.long == word then return o end
    if o.long and o.long:sub(1, #word) == word then found[#found + 1] = o end
  end
  if #found == 1 then return found[1] end
  local words = {}
  for _, o in ipairs(#found > 1 and found or command.options) do words[#words + 1] = o.long and "--" .. o.long end
  if #found > 1 then fail("%s: --%s may be %s", command.name, word, table.concat(words, " or ")) end
  fail("%s: %s", command.name, text.unknown("option", "--" .. word, words))
end

local function by_short(command, letter)
  local words = {}
  for _, o in ipairs(command.options) do
    if o.short == letter then return o end
    if o.short then words[#words + 1] = "-" .. o.short end
  end
  local other = letter:upper() == letter and letter:lower() or letter:upper()
  for _, w in ipairs(words) do
    if w == "-" .. other then fail('%s: unknown option "-%s" (did you mean "%s"?)', command.name, letter, w) end
  end
  fail('%s: unknown option "-%s" (vmlua img %s --help lists them)', command.name, letter, command.name)
end

local function set(command, s, o, value)
  local key = o.key or o.long
  if o.values and value then
    local known = false
    for _, v in ipairs(o.values) do known = known or v == value end
    if not known then fail("%s: %s: %s", command.name, spelled(o), text.unknown("word", value, o.values)) end
  end
  if o.log then
    s[o.log] = s[o.log] or {}
    table.insert(s[o.log], { key, value })
  elseif o.list then
    s[key] = s[key] or {}
    table.insert(s[key], value)
  else
    s[key] = o.arg and value or true
  end
end

--- Reads a command's arguments.
---@param command table
---@param argv string[]
---@return table settings options by key; the file names in its array part
function options.parse(command, argv)
  local s, i = {}, 1
  local function argument(o, word)
    i = i + 1
    return argv[i] or fail("%s: %s: expected %s", command.name, word, o.arg)
  end
  while i <= #argv do
    local word = argv[i]
    if word == "--" then
      for j = i + 1, #argv do s[#s + 1] = argv[j] end
      break
    elseif word:sub(1, 2) == "--" then
      local name, value = word:match "^%-%-([^=]*)=?(.*)$"
      local o = by_long(command, name)
      if not word:find("=", 1, true) then
        value = o.arg and argument(o, word)
      elseif not o.arg then
        fail("%s: --%s takes no value", command.name, o.long)
      end
      set(command, s, o, value)
    elseif word:sub(1, 1) == "-" and #word > 1 and not (command.numbers and word:match "^%-%d") then
      local at = 2
      while at <= #word do
        local o = by_short(command, word:sub(at, at))
        at = at + 1
        if o.arg then
          local value = at <= #word and word:sub(at) or argument(o, "-" .. o.short)
          set(command, s, o, value)
          break
        end
        set(command, s, o)
      end
    else
      s[#s + 1] = word
    end
    i = i + 1
  end
  local low, high = command.files[1], command.files[2]
  if not s.help and (#s < low or (high and #s > high)) then
    fail("%s: %s (vmlua img %s --help)", command.name,
      #s < low and ("expected %s"):format(command.synopsis) or ("what is %q for? expected %s"):format(s[high + 1], command.synopsis),
      command.name)
  end
  return s
end

--- A number of an option, as a size.
---@param command table
---@param what string
---@param value string?
---@param low integer
---@param high integer
---@return integer?
function options.size(command, what, value, low, high)
  if value == nil then return nil end
  local n, err = text.size(value)
  if not n then fail("%s: %s: %s", command.name, what, err) end
  if n < low or n > high then fail("%s: %s: from %d to %d is possible, not %s", command.name, what, low, high, value) end
  return n
end

--- The help text of a command.
---@param command table
---@return string
function options.help(command)
  local out = { ("Usage: vmlua img %s [OPTION…] %s"):format(command.name, command.synopsis), command.doc, "" }
  for _, o in ipairs(command.options) do
    out[#out + 1] = ("  %s%s"):format(spelled(o), o.arg and " " .. o.arg or "")
    for _, line in ipairs(text.wrap(o.doc, 90)) do out[#out + 1] = "      " .. line end
  end
  return table.concat(out, "\n") .. "\n"
end

-- ---- options that several commands share -------------------------------------------------------------------

local shared = {
  help = { short = "h", long = "help", doc = "This text." },
  format = { short = "f", key = "format", arg = "FMT", doc = "Format of the image; without it, it is found by looking at the content." },
  quiet = { short = "q", long = "quiet", doc = "Print nothing but errors." },
  progress = { short = "p", long = "progress", doc = "Show the progress, also where the output is no terminal." },
  output = { long = "output", arg = "FORMAT", values = { "human", "json" }, doc = "human (default) or json." },
  share = { short = "U", long = "force-share", key = "share", doc = "Open the image although somebody else writes it." },
  image_opts = { long = "image-opts", key = "image_opts", doc = "File names are lists of properties: driver=qcow2,file.filename=…" },
  object = { long = "object", arg = "DEF", list = true, doc = "A secret for the image: none is needed here, and it is refused." },
  cache = { short = "t", key = "cache", arg = "CACHE",
    doc = "Cache of what is written: writeback, none, writethrough, directsync, unsafe." },
  source_cache = { short = "T", key = "source_cache", arg = "CACHE", doc = "Cache of what is read." },
  rate = { short = "r", long = "rate-limit", key = "rate", arg = "RATE", doc = "At most so many bytes a second." },
}

--- The shared options of those names, and help.
---@param names string
---@param own? table[]
---@return table[]
function options.with(names, own)
  local out = {}
  for name in names:gmatch "%S+" do out[#out + 1] = shared[name] end
  for _, o in ipairs(own or {}) do out[#out + 1] = o end
  out[#out + 1] = shared.help
  return out
end

return options

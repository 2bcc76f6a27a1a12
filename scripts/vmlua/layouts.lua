--[[
Keyboard layouts: which keys make a character. A layout is a table: the name of a key on a US keyboard, and what it
makes alone, with Shift, and with AltGr. A character after which the keyboard waits for another (a dead key) is in
`dead` as well; alone it is typed with a space after it.

    local layouts = require "vmlua.layouts"
    layouts.nordic = { parent = "us", keys = { semicolon = { "ö", "Ö" } } }
]]
local text = require "vmlua.text"

local layouts = {}

-- Rows of characters onto the keys of the same row; a space: the key makes nothing there.
local rows = {
  { "grave_accent", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "minus", "equal" },
  { "q", "w", "e", "r", "t", "y", "u", "i", "o", "p", "bracket_left", "bracket_right" },
  { "a", "s", "d", "f", "g", "h", "j", "k", "l", "semicolon", "apostrophe", "backslash" },
  { "less", "z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash" },
}

local function from_rows(...)
  local keys = {}
  for level, lines in ipairs { ... } do
    for r, line in ipairs(lines) do
      local i = 0
      for _, c in utf8.codes(line) do
        i = i + 1
        local key = rows[r][i]
        if c ~= 32 and key then
          keys[key] = keys[key] or {}
          keys[key][level] = utf8.char(c)
        end
      end
    end
  end
  return keys
end

---@class Layout
---@field keys table<string, string[]> what a key makes: alone, with Shift, with AltGr, with both
---@field parent? string a layout that has what this one does not
---@field dead? table<string, string> a dead character and the letters that it changes: ["^"] = "aâeê"

--- The layouts by name: us, gb, de, fr, es, it; add to it.
---@type table<string, Layout>
layouts.us = {
  keys = from_rows(
    { "`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", " zxcvbnm,./" },
    { "~!@#$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:\"|", " ZXCVBNM<>?" }),
}
layouts.gb = {
  keys = from_rows(
    { "`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./" },
    { "¬!\"£$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?" },
    { "¦   €        ", "            ", "            ", "           " }),
}
layouts.de = {
  keys = from_rows(
    { "^1234567890ß´", "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-" },
    { "°!\"§$%&/()=?`", "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_" },
    { "  ²³   {[]}\\ ", "@ €        ~", "            ", "|      µ   " }),
  dead = { ["^"] = "aâeêiîoôuûAÂEÊIÎOÔUÛ", ["´"] = "aáeéiíoóuúAÁEÉIÍOÓUÚ", ["`"] = "aàeèiìoòuùAÀEÈIÌOÒUÙ" },
}
layouts.fr = {
  keys = from_rows(
    { "²&é\"'(-è_çà)=", "azertyuiop^$", "qsdfghjklmù*", "<wxcvbn,;:!" },
    { " 1234567890°+", "AZERTYUIOP¨£", "QSDFGHJKLM%µ", ">WXCVBN?./§" },
    { "  ~#{[|`\\^@]}", "  €        ¤", "            ", "           " }),
  dead = { ["^"] = "aâeêiîoôuûAÂEÊIÎOÔUÛ", ["¨"] = "aäeëiïoöuüAÄEËIÏOÖUÜ" },
}
-- AltGr makes these without waiting; the key of ^ alone waits.
layouts.fr.direct = { ["^"] = { "9", 3 }, ["`"] = { "7", 3 }, ["~"] = { "2", 3 } }
layouts.es = {
  keys = from_rows(
    { "º1234567890'¡", "qwertyuiop`+", "asdfghjklñ´ç", "<zxcvbnm,.-" },
    { "ª!\"·$%&/()=?¿", "QWERTYUIOP^*", "ASDFGHJKLÑ¨Ç", ">ZXCVBNM;:_" },
    { "\\|@#~€¬      ", "          []", "          {}", "           " }),
  dead = { ["`"] = "aàeèiìoòuù", ["´"] = "aáeéiíoóuúAÁEÉIÍOÓUÚ", ["^"] = "aâeêiîoôuû", ["¨"] = "uüUÜ" },
}
layouts.it = {
  keys = from_rows(
    { "\\1234567890'ì", "qwertyuiopè+", "asdfghjklòàù", "<zxcvbnm,.-" },
    { "|!\"£$%&/()=?^", "QWERTYUIOPé*", "ASDFGHJKLç°§", ">ZXCVBNM;:_" },
    { "     €       ", "  €       []", "         @# ", "           " }),
}

-- What every keyboard has.
local common = {
  [" "] = { { "spc" } }, ["\n"] = { { "ret" } }, ["\r"] = { { "ret" } }, ["\t"] = { { "tab" } }, ["\b"] = { { "backspace" } },
  ["\127"] = { { "delete" } }, ["\27"] = { { "esc" } },
}
local levels = { {}, { "shift" }, { "alt_r" }, { "shift", "alt_r" } }

local function chord(key, level)
  local keys = { table.unpack(levels[level]) }
  keys[#keys + 1] = key
  return keys
end

local function add_layout(map, layout)
  for key, makes in pairs(layout.keys) do
    for level = 1, 4 do
      local c = makes[level]
      -- The simplest way to a character that has several.
      if c and (not map[c] or map[c].level > level) then map[c] = { level = level, chord(key, level) } end
    end
  end
  for c, letters in pairs(layout.dead or {}) do
    local way = map[c]
    if way then
      local from
      for _, code in utf8.codes(letters) do
        local letter = utf8.char(code)
        if from then
          if not map[letter] and map[from] then map[letter] = { level = 9, way[1], map[from][1] } end
          from = nil
        else
          from = letter
        end
      end
      map[c] = { level = way.level, way[1], { "spc" } }
    end
  end
  for c, way in pairs(layout.direct or {}) do map[c] = { level = way[2], chord(way[1], way[2]) } end
end

local maps = setmetatable({}, { __mode = "k" })

--- The ways to type with a layout: for a character the chords, one after the other, each a list of keys to hold.
---@param name string
---@return table<string, string[][]>
function layouts.map(name)
  local layout = rawget(layouts, name)
  if type(layout) ~= "table" then
    local names = {}
    for k, v in pairs(layouts) do
      if type(v) == "table" then names[#names + 1] = k end
    end
    table.sort(names)
    error(text.unknown("keyboard layout", tostring(name), names), 2)
  end
  if not maps[layout] then
    local map = {}
    for c, way in pairs(common) do map[c] = { level = 1, table.unpack(way) } end
    add_layout(map, layout)
    local parent = layout.parent and layouts.map(layout.parent)
    for c, way in pairs(parent or {}) do map[c] = map[c] or way end
    maps[layout] = map
  end
  return maps[layout]
end

return layouts

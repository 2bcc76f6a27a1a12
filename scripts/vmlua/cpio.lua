--[[
Archives of files as an initramfs is one: the "newc" format of cpio, which Linux unpacks at its start.
Source: the kernel's documentation, "initramfs buffer format".

    local cpio = require "vmlua.cpio"
    local bytes = cpio.pack {
      { "init", data = script, mode = "0755" }, { "dev", dir = true }, { "dev/console", char = { 5, 1 } },
      { "bin/sh", link = "busybox" },
    }
]]
local strict = require "vmlua.strict"

local cpio = {}

local S_DIR, S_REG, S_LNK, S_CHR = 0x4000, 0x8000, 0xa000, 0x2000
local KEYS = { data = "string", mode = "integer|string", dir = "boolean", link = "string", char = "table" }

local function header(number, name, mode, size, major, minor)
  local head = ("070701" .. ("%08x"):rep(13)):format(number, mode, 0, 0, 1, 0, size, 0, 0, major, minor, #name + 1, 0)
  return head .. name .. "\0" .. ("\0"):rep(-(#head + #name + 1) & 3)
end

---@class CpioEntry
---@field [1] string path without a leading slash
---@field data? string contents of a file
---@field mode? integer|string permissions, octal as a string ("0755"; files "0644", folders "0755")
---@field dir? boolean a folder
---@field link? string a symbolic link to that
---@field char? integer[] a character device { major, minor }

--- Makes an archive. Folders that entries are in and that nothing names are made too.
---@param entries CpioEntry[]
---@return string bytes
function cpio.pack(entries)
  local out, number, made = {}, 0, {}
  local function add(name, kind, mode, data, major, minor)
    number = number + 1
    made[name] = true
    out[#out + 1] = header(number, name, kind | mode, #data, major or 0, minor or 0) .. data .. ("\0"):rep(-#data & 3)
  end
  local function parents(name)
    for at in name:gmatch "()/" do
      local folder = name:sub(1, at - 1)
      if folder ~= "" and not made[folder] then add(folder, S_DIR, 493, "") end
    end
  end
  for i, e in ipairs(entries) do
    local name = e[1]
    if type(name) ~= "string" or name == "" or name:find "\0" then error(("entry %d has no name"):format(i), 2) end
    name = name:gsub("^/+", "")
    local named = {}
    for key, value in pairs(e) do
      if key ~= 1 then named[key] = value end
    end
    strict.check(name, named, KEYS)
    local mode = e.mode
    if type(mode) == "string" then mode = tonumber(mode, 8) end
    if e.mode and not mode then error(("%s: mode %s is no octal number"):format(name, tostring(e.mode)), 2) end
    parents(name)
    if e.dir then
      add(name, S_DIR, mode or 493, "")
    elseif e.link then
      add(name, S_LNK, 511, e.link)
    elseif e.char then
      add(name, S_CHR, mode or 384, "", e.char[1], e.char[2])
    else
      add(name, S_REG, mode or 420, e.data or "")
    end
  end
  out[#out + 1] = header(0, "TRAILER!!!", 0, 0, 0, 0)
  local bytes = table.concat(out)
  return bytes .. ("\0"):rep(-#bytes & 511)
end

return cpio

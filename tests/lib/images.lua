-- Disk images for tests: programs to compare with, contents that differ everywhere.
local images = {}

local text = require "vmlua.text"

--- Runs a program and waits: its output (standard error too) and its exit status.
---@param ... string
---@return string output
---@return integer status
function images.run(...)
  local words = {}
  for i, word in ipairs { ... } do words[i] = text.shell_quote(tostring(word)) end
  local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1", "r"))
  local output = pipe:read "a"
  local _, how, code = pipe:close()
  return output, how == "exit" and code or 128 + code
end

--- The same, where a failure is one of the test.
---@param t table
---@param ... string
---@return string output
function images.must(t, ...)
  local output, status = images.run(...)
  if status ~= 0 then t.fail("%s: status %d\n%s", table.concat({ ... }, " "), status, output) end
  return output
end

--- Runs `vmlua img` with these words.
---@param t table
---@param ... string
---@return { status: integer, out: string, err: string }
function images.img(t, ...)
  local r = t.vmlua { "img", ... }
  t.log(table.concat({ "img", ... }, " "), r.status, r.out, r.err)
  return r
end

--- The same, where a failure is one of the test. Answers what it printed.
---@param t table
---@param ... string
---@return string
function images.ok(t, ...)
  local r = images.img(t, ...)
  if r.status ~= 0 then t.fail("img %s: status %s\n%s%s", table.concat({ ... }, " "), r.status or r.signal, r.out, r.err) end
  return r.out
end

--- Bytes that differ everywhere and look the same in each run.
---@param n integer
---@param seed? integer
---@return string
function images.noise(n, seed)
  local parts, x = {}, (seed or 1) * 0x9E3779B97F4A7C15 | 1
  for i = 1, (n + 7) // 8 do
    x = x ~ (x << 13)
    x = x ~ (x >> 7)
    x = x ~ (x << 17)
    parts[i] = string.pack("<I8", x)
  end
  return table.concat(parts):sub(1, n)
end

--- A raw file with data, holes, zeroes that are written, and text.
---@param path string
---@param size integer
---@param seed? integer
function images.mixed(path, size, seed)
  local f = assert(io.open(path, "wb"))
  local at, n = 0, seed or 1
  while at < size do
    n = n * 1103515245 + 12345 & 0x7fffffff
    local length = math.min(size - at, ((n >> 8) % 40 + 1) * 4096)
    local kind = (n >> 16) % 4
    if kind == 0 then
      f:seek("set", at)
      f:write(images.noise(length, n))
    elseif kind == 1 then
      f:seek("set", at)
      f:write((("line %d\n"):format(n):rep(length // 8 + 1)):sub(1, length))
    elseif kind == 2 then
      f:seek("set", at)
      f:write(("\0"):rep(length))
    end
    at = at + length
  end
  f:close()
  assert(os.execute(("truncate -s %d %s"):format(size, text.shell_quote(path))))
end

--- Whole contents of a file.
---@param path string
---@return string
function images.read(path)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read "a"
  f:close()
  return bytes
end

return images

-- Makes the bundle of bytecode that the program starts from (its format: bindings/bundle.c).
local fs = require "vmlua.core.fs"

local bundle = {}

-- The modules below a folder: name, path relative to it.
local function modules(root)
  local out = {}
  local function walk(path, name)
    local names = assert(fs.listdir(root .. path))
    table.sort(names)
    for _, n in ipairs(names) do
      local relative = path .. "/" .. n
      local stem = n:match "^([%w_]+)%.lua$"
      if fs.stat(root .. relative).type == "directory" then
        walk(relative, name .. n .. ".")
      elseif stem then
        out[#out + 1] = { name = stem == "init" and name:sub(1, -2) or name .. stem, path = relative:sub(2) }
      end
    end
  end
  walk("", "")
  return out
end

--- Compiles every module below `scripts`. `shown` is where tracebacks say that it was. A module that does not parse is
--- left out: running it from its source tells why.
---@param scripts string
---@param shown string
---@param out string
---@param version string
function bundle.build(scripts, shown, out, version)
  local parts = { "VMLUABC1", ("<s4"):pack(version) }
  for _, m in ipairs(modules(scripts)) do
    local path = scripts .. "/" .. m.path
    local f = assert(io.open(path, "rb"))
    local source = f:read "a"
    f:close()
    local st = assert(fs.stat(path))
    local chunk = load(source, ("@%s/%s"):format(shown, m.path), "t")
    if chunk then
      parts[#parts + 1] = ("<s4s4i8i8s4"):pack(m.name, m.path, st.size, st.mtime_ns, string.dump(chunk))
    end
  end
  -- In one step: a vmlua that runs, the one that makes this among them, has the old file mapped.
  local new = out .. ".new"
  local f = assert(io.open(new, "wb"))
  assert(f:write(table.concat(parts)))
  assert(f:close())
  assert(os.rename(new, out))
end

return bundle

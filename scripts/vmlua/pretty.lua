-- The pretty printer: what the REPL shows for a value. Plain Lua; handles say their own path.
local pretty = {}

local keywords = {}
for w in ([[and break do else elseif end false for function goto if in local nil not or repeat
return then true until while]]):gmatch("%a+") do keywords[w] = true end

-- Fields that hold addresses and bit patterns read better in hex.
local hex_names = {}
for w in ([[addr address base entry rip eip ip pc paddr vaddr offset port iobase mask efer
rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 eax ebx ecx edx esi edi ebp esp
cr0 cr2 cr3 cr4 cr8 rflags eflags cs ds es fs gs ss ldt tr dr0 dr1 dr2 dr3 dr6 dr7 xcr0
apic_base selector limit start stop magic]]):gmatch("%S+") do
  hex_names[w] = true
end

local named = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

local function escape(c)
  return named[c] or ("\\x%02x"):format(c:byte())
end

--- A string as Lua would read it, printable; long ones are cut with their length named.
---@param s string
---@param limit? integer
---@return string
function pretty.quote(s, limit)
  local cut = limit and #s > limit and s:sub(1, limit) or s
  local body = cut:gsub('[%c"\\\127]', escape)
  if not utf8.len(cut) then body = cut:gsub('[%c"\\\127-\255]', escape) end
  if cut ~= s then return ('"%s"… (%d bytes)'):format(body, #s) end
  return '"' .. body .. '"'
end

--- An integer: addresses and anything large in hex.
---@param n number
---@param name? string the field it came from
---@return string
function pretty.number(n, name)
  if math.type(n) ~= "integer" then
    if n ~= n then return "nan" end
    if n == math.huge then return "inf" elseif n == -math.huge then return "-inf" end
    local s = ("%.14g"):format(n)
    return s:find("[%.e]") and s or s .. ".0"
  end
  if n >= 0 and n < 10 then return ("%d"):format(n) end
  local as_hex = name and (hex_names[name] or tostring(name):match("_base$") or tostring(name):match("_addr$"))
  if as_hex or n > 0xffffff or n < -0xffffffff then return ("0x%x"):format(n) end
  return ("%d"):format(n)
end

local function order(a, b)
  local ta, tb = math.type(a) and "number" or type(a), math.type(b) and "number" or type(b)
  if ta ~= tb then return ta == "number" or (ta == "string" and tb ~= "number") end
  if ta == "number" or ta == "string" then return a < b end
  return tostring(a) < tostring(b)
end

local function key_text(k)
  if type(k) == "string" then
    if k:match("^[%a_][%w_]*$") and not keywords[k] then return k end
    return "[" .. pretty.quote(k) .. "]"
  end
  if type(k) == "number" then return "[" .. pretty.number(k) .. "]" end
  return "[" .. tostring(k) .. "]"
end

local function safe_tostring(v)
  local ok, s = pcall(tostring, v)
  return ok and s or ("%s: (its tostring failed: %s)"):format(type(v), tostring(s))
end

local function function_text(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return safe_tostring(f):gsub("^function: ", "C function: ") .. "" end
  return ("function: %s:%d"):format(info.short_src, info.linedefined)
end

local render

local function render_table(t, state, depth, indent)
  if state.seen[t] then return "<" .. state.seen[t] .. ">" end
  local mt = getmetatable(t)
  if type(mt) == "table" and rawget(mt, "__tostring") then return safe_tostring(t) end
  if next(t) == nil then return "{}" end
  if depth >= state.depth then return "{…}" end
  state.seen[t] = state.path
  local path = state.path
  local items, n = {}, rawlen(t)
  local count = 0
  local function add(head, v, name)
    count = count + 1
    if count > state.items then return end
    state.path = path .. (head == "" and "" or "." .. head)
    items[#items + 1] = (head == "" and "" or head .. " = ") .. render(v, state, depth + 1, indent + 2, name)
  end
  for i = 1, n do add("", rawget(t, i)) end
  local keys = {}
  for k in next, t do
    if not (math.type(k) == "integer" and k >= 1 and k <= n) then keys[#keys + 1] = k end
  end
  table.sort(keys, order)
  for _, k in ipairs(keys) do add(key_text(k), rawget(t, k), k) end
  state.path = path
  state.seen[t] = nil
  if count > state.items then items[#items + 1] = ("… %d more"):format(count - state.items) end
  local single, total = true, indent + 4
  for _, item in ipairs(items) do
    total = total + (utf8.len(item) or #item) + 2
    if item:find("\n", 1, true) then single = false end
  end
  if single and total <= state.width then return "{ " .. table.concat(items, ", ") .. " }" end
  local pad = (" "):rep(indent + 2)
  return "{\n" .. pad .. table.concat(items, ",\n" .. pad) .. ",\n" .. (" "):rep(indent) .. "}"
end

function render(v, state, depth, indent, name)
  local kind = type(v)
  if kind == "string" then return pretty.quote(v, depth > 0 and state.string or nil) end
  if kind == "number" then return pretty.number(v, name) end
  if kind == "table" then return render_table(v, state, depth, indent) end
  if kind == "function" then return function_text(v) end
  return safe_tostring(v)
end

---@class PrettyOptions
---@field width? integer columns (100)
---@field depth? integer how deep tables are opened (6)
---@field items? integer entries shown of one table (200)
---@field name? string the field that the value came from
---@field string? integer bytes shown of a string inside a table (200)

--- Text of any value: sorted keys, cycles as the path of the table they lead back to, addresses in hex.
---@param v any
---@param opts? PrettyOptions
---@return string
function pretty.format(v, opts)
  opts = opts or {}
  local state = {
    width = opts.width or 100, depth = opts.depth or 6, items = opts.items or 200,
    string = opts.string or 200, seen = {}, path = "cycle",
  }
  return render(v, state, 0, 0, opts.name)
end

--- Bytes as a hex dump of 16 a line.
---@param bytes string
---@param addr? integer address of the first byte
---@return string
function pretty.hexdump(bytes, addr)
  addr = addr or 0
  local lines = {}
  for i = 1, #bytes, 16 do
    local chunk = bytes:sub(i, i + 15)
    local hex = chunk:gsub(".", function(c) return ("%02x "):format(c:byte()) end)
    lines[#lines + 1] = ("%08x  %-48s |%s|"):format(addr + i - 1, hex, (chunk:gsub("[^\32-\126]", ".")))
  end
  return table.concat(lines, "\n")
end

return pretty

--[[
Documentation from declarations: C functions carry their signature and text (vmlua.core.api), Lua functions
their `---` comments. From both come the script reference, what `help(x)` prints, and LuaLS annotations.
]]
local text = require "vmlua.text"

local docgen = {}

---@class DocFunction
---@field name string as it is called: "loader.parse", "machine:pause"
---@field short string "parse"
---@field sig string LuaLS spelling: "(bytes: string): Image?, string?"
---@field doc string
---@field line? integer where it is defined

---@class DocEntry
---@field kind "module"|"class"|"userdata"|"type"
---@field name string
---@field doc string
---@field functions DocFunction[]
---@field fields { name: string, type: string, doc: string, readonly?: boolean }[]
---@field source? string

-- ---- Lua sources ----------------------------------------------------------------------------------

-- "name? type rest": types may hold spaces inside brackets and around "|".
local function take_type(s)
  local depth, i = 0, 1
  while i <= #s do
    local c = s:sub(i, i)
    if c:match("[%(%[{<]") then depth = depth + 1 elseif c:match("[%)%]}>]") then depth = depth - 1 end
    if c == " " and depth <= 0 then
      local before, after = s:sub(1, i - 1), s:sub(i + 1)
      if not (before:match("[:|,]$") or after:match("^[|:]")) then break end
    end
    i = i + 1
  end
  return s:sub(1, i - 1), s:sub(i + 1):match("^%s*(.-)%s*$")
end

local function signature(block, args)
  local params, returns = {}, {}
  local types = {}
  for _, p in ipairs(block.params) do types[p.name] = p end
  for arg in args:gmatch("[%w_%.]+") do
    local p = types[arg]
    params[#params + 1] = p and ("%s%s: %s"):format(arg, p.optional and "?" or "", p.type) or arg
  end
  for _, r in ipairs(block.returns) do returns[#returns + 1] = r end
  return ("(%s)%s"):format(table.concat(params, ", "), #returns > 0 and ": " .. table.concat(returns, ", ") or "")
end

local function new_block() return { doc = {}, params = {}, returns = {}, fields = {} } end

local function read_tag(block, line)
  local tag, rest = line:match("^@(%w+)%s*(.*)$")
  if tag == "param" then
    local name, after = rest:match("^([%w_%.]+%??)%s+(.*)$")
    if name then
      local kind, doc = take_type(after)
      block.params[#block.params + 1] = { name = name:gsub("%?$", ""), optional = name:match("%?$") ~= nil, type = kind, doc = doc }
    end
  elseif tag == "return" then
    block.returns[#block.returns + 1] = (take_type(rest))
  elseif tag == "class" then
    block.class = rest:match("^[%w_%.%-]+")
  elseif tag == "field" then
    local name, after = rest:match("^([%w_%.%[%]]+%??)%s+(.*)$")
    if name then
      local kind, doc = take_type(after)
      block.fields[#block.fields + 1] = { name = name, type = kind, doc = doc }
    end
  end
end

--- Reads the documentation comments of one Lua source.
---@param source string
---@param module string "vmlua.loader"
---@return DocEntry module
---@return DocEntry[] classes declared in it, and additions to classes of the engine
function docgen.parse(source, module)
  local entry = { kind = "module", name = module, doc = "", functions = {}, fields = {} }
  local classes, by_class = {}, {}
  local short = module:match("[%w_]+$")
  local exported = source:match("\nreturn%s+([%a_][%w_]*)%s*$") or source:match("\nreturn%s+setmetatable%(([%a_][%w_]*)")
  entry.doc = source:match("^%-%-%[%[%s*(.-)%s*%]%]") or ""
  if entry.doc == "" then
    local head = {}
    for line in source:gmatch("[^\n]*") do
      local comment = line:match("^%-%-%s?([^%-].*)$")
      if not comment then break end
      head[#head + 1] = comment
    end
    entry.doc = table.concat(head, "\n")
  end
  -- `local vm = api.methods "machine"`: what is added to such a table, handles of that type have.
  local extends = {}
  for name, what, type_name in source:gmatch('local%s+([%w_]+)%s*=%s*[%w_]+%.([mg]et[%w]+)%s*%(?%s*"([%w%-]+)"') do
    if what == "methods" or what == "getters" then
      local entry_of = { kind = "class", name = type_name, doc = "", functions = {}, fields = {}, addition = true }
      classes[#classes + 1] = entry_of
      extends[name] = { entry = entry_of, what = what }
    end
  end
  local block, number = nil, 0
  for line in (source .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    local comment = line:match("^%s*%-%-%-%s?(.*)$")
    if comment and not comment:match("^%-") then
      block = block or new_block()
      if comment:match("^@") then
        read_tag(block, comment)
      else
        block.doc[#block.doc + 1] = comment
      end
    else
      if block then
        local owner, sep, name, args = line:match("^%s*function ([%a_][%w_]*)([%.:])([%a_][%w_]*)%s*(%b())")
        if block.class and not by_class[block.class] then
          local class = { kind = "class", name = block.class, doc = table.concat(block.doc, "\n"), functions = {}, fields = block.fields,
            plain = true }
          by_class[block.class] = class
          classes[#classes + 1] = class
        end
        local extended = owner and extends[owner]
        if extended and extended.what == "getters" then
          local fields = extended.entry.fields
          fields[#fields + 1] = { name = name, type = block.returns[1] or "any", doc = table.concat(block.doc, "\n"), readonly = true }
        elseif extended then
          local shown = extended.entry.name:match("[%w_%-]+$") .. ":" .. name
          local functions = extended.entry.functions
          functions[#functions + 1] = { short = name, name = shown, sig = signature(block, args:sub(2, -2)),
            doc = table.concat(block.doc, "\n"), line = number, params = block.params }
        elseif owner and (owner == exported or by_class[owner] or by_class[owner:upper()]) then
          local target = by_class[owner] or by_class[owner:upper()] or entry -- `t` is how a T is called
          local f = { short = name, name = (owner == exported and short or owner) .. sep .. name, sig = signature(block, args:sub(2, -2)),
            doc = table.concat(block.doc, "\n"), line = number, params = block.params }
          target.functions[#target.functions + 1] = f
        end
      end
      if not line:match("^%s*$") or (block and not block.class) then block = nil end
    end
  end
  return entry, classes
end

--- Where the Lua sources of a module are.
---@param module string
---@return string?
function docgen.source_of(module)
  return package.searchpath(module, package.path)
end

-- Modules whose functions people call; the others serve these.
docgen.modules = {
  "vmlua", "vmlua.machine", "vmlua.vm", "vmlua.event", "vmlua.sched", "vmlua.qom", "vmlua.block",
  "vmlua.cpuid", "vmlua.loader", "vmlua.cpio",
  "vmlua.symbols", "vmlua.screen", "vmlua.acpi", "vmlua.acpi.aml", "vmlua.smbios", "vmlua.test",
  "vmlua.text", "vmlua.pretty", "vmlua.strict", "vmlua.options", "vmlua.help", "vmlua.docgen", "vmlua.irqchip",
}

-- The colon of a method's name says that there is a self.
local function plain(sig)
  return sig and (sig:gsub("^%(self,%s*", "("):gsub("^%(self%)", "()")) or "()"
end

local function core_entries()
  local ok, api = pcall(require, "vmlua.core.api")
  if not ok then return {} end
  local out, known = {}, {}
  for _, d in ipairs(api.list()) do
    -- Several files may declare members of one class.
    local key = d.kind .. " " .. d.name
    local entry = known[key] or { kind = d.kind, name = d.name, doc = "", functions = {}, fields = {} }
    if not known[key] then
      known[key] = entry
      out[#out + 1] = entry
    end
    if d.doc and d.doc ~= "" then entry.doc = d.doc end
    for _, f in ipairs(d.fields) do
      entry.fields[#entry.fields + 1] = { name = f.name, type = f.type or "any", doc = f.doc or "", readonly = not f.writable }
    end
    local short = d.name:match("[%w_%-]+$")
    local sep = d.kind == "module" and "." or ":"
    for _, f in ipairs(d.functions) do
      if not f.name:match("^_") then
        entry.functions[#entry.functions + 1] =
          { name = short .. sep .. f.name, short = f.name, sig = plain(f.sig), doc = f.doc or "", fn = f.fn }
      end
    end
  end
  return out
end

--- All documentation there is, modules first.
---@return DocEntry[]
function docgen.collect()
  local out = {}
  for _, name in ipairs(docgen.modules) do
    local path = docgen.source_of(name)
    local bytes = path and text.read_file(path)
    if bytes then
      local entry, classes = docgen.parse(bytes, name)
      entry.source = path
      if #entry.functions > 0 then out[#out + 1] = entry end
      for _, c in ipairs(classes) do
        c.source = path
        out[#out + 1] = c
      end
    end
  end
  local by_name = {}
  for _, e in ipairs(core_entries()) do
    out[#out + 1] = e
    if e.kind == "class" then by_name[e.name] = e end
  end
  -- What scripts add to the engine's classes stands with them.
  for i = #out, 1, -1 do
    local e = out[i]
    local target = e.addition and by_name[e.name]
    if target then
      local known = {}
      for _, f in ipairs(e.functions) do
        known[f.short] = true
        f.source = e.source
      end
      for j = #target.functions, 1, -1 do
        if known[target.functions[j].short] then table.remove(target.functions, j) end
      end
      for _, f in ipairs(e.functions) do target.functions[#target.functions + 1] = f end
      for _, f in ipairs(e.fields) do
        local at = #target.fields + 1
        for j, g in ipairs(target.fields) do
          if g.name == f.name then at = j end
        end
        target.fields[at] = f
      end
      table.remove(out, i)
    end
  end
  for _, e in ipairs(out) do
    if e.kind == "class" and not e.plain then
      table.sort(e.functions, function(a, b) return a.short < b.short end)
    end
  end
  local rank = { module = 1, class = 2, userdata = 3 }
  local place = {}
  for i, n in ipairs(docgen.modules) do place[n] = i end
  table.sort(out, function(a, b)
    if rank[a.kind] ~= rank[b.kind] then return rank[a.kind] < rank[b.kind] end
    local pa, pb = place[a.name] or 1000, place[b.name] or 1000
    if pa ~= pb then return pa < pb end
    return a.name < b.name
  end)
  return out
end

local titles = { module = "Modules", class = "Classes", userdata = "Other handles" }

local function markdown_escape(s) return (s:gsub("|", "\\|"):gsub("\n", " ")) end

--- The script reference, in Markdown.
---@return string
function docgen.markdown()
  local out = { "# Script reference", "",
    "Written by `vmlua help reference` from the declarations in `bindings/` and the comments in `scripts/`; do not edit.", "" }
  local kind
  for _, e in ipairs(docgen.collect()) do
    if #e.functions > 0 or #e.fields > 0 then
      if e.kind ~= kind then
        kind = e.kind
        out[#out + 1] = "# " .. titles[kind]
        out[#out + 1] = ""
      end
      out[#out + 1] = "## " .. e.name
      out[#out + 1] = ""
      if e.doc ~= "" then
        out[#out + 1] = e.doc
        out[#out + 1] = ""
      end
      if #e.fields > 0 then
        out[#out + 1] = "| field | type | |"
        out[#out + 1] = "| --- | --- | --- |"
        for _, f in ipairs(e.fields) do
          out[#out + 1] = ("| `%s` | `%s` | %s%s |"):format(f.name, (f.type or "any"):gsub("|", "\\|"), markdown_escape(f.doc or ""),
            f.readonly and " (read-only)" or "")
        end
        out[#out + 1] = ""
      end
      for _, f in ipairs(e.functions) do
        out[#out + 1] = ("### `%s%s`"):format(f.name, f.sig)
        out[#out + 1] = ""
        if f.doc ~= "" then
          out[#out + 1] = f.doc
          out[#out + 1] = ""
        end
        for _, p in ipairs(f.params or {}) do
          if p.doc ~= "" then out[#out + 1] = ("- `%s`: %s"):format(p.name, p.doc) end
        end
        if f.params and #f.params > 0 and out[#out] ~= "" then out[#out + 1] = "" end
      end
    end
  end
  local body = table.concat(out, "\n")
  return (body:gsub("\n\n\n+", "\n\n"):gsub("%s+$", "")) .. "\n"
end

--- Writes the script reference to a file.
---@param path string
function docgen.write_reference(path)
  local f = assert(io.open(path, "w"))
  f:write(docgen.markdown())
  f:close()
end

local function luals_name(s) return (s:gsub("[^%w_]", "_")) end

--- Annotations for editors (LuaLS) of everything that is implemented in C.
---@return string
function docgen.luals()
  local out = { "---@meta", "-- Written by `vmlua help luals`.", "" }
  for _, e in ipairs(core_entries()) do
    local var = luals_name(e.name)
    for line in e.doc:gmatch("[^\n]+") do out[#out + 1] = "---" .. line end
    out[#out + 1] = "---@class " .. e.name:gsub("%-", "_")
    for _, f in ipairs(e.fields) do
      out[#out + 1] = ("---@field %s %s %s"):format(f.name, f.type or "any", (f.doc or ""):gsub("\n", " "))
    end
    out[#out + 1] = ("local %s = {}"):format(var)
    out[#out + 1] = ""
    for _, f in ipairs(e.functions) do
      for line in f.doc:gmatch("[^\n]+") do out[#out + 1] = "---" .. line end
      local inside, result = f.sig:match("^(%b())%s*:?%s*(.*)$")
      local args = {}
      if inside then
        local rest = inside:sub(2, -2)
        while rest ~= "" do
          local name, after = rest:match("^%s*([%w_%.]+%??)%s*(.*)$")
          if not name then break end
          local kind = "any"
          if after:match("^:") then
            local depth, i = 0, 2
            while i <= #after do
              local c = after:sub(i, i)
              if c:match("[%(%[{<]") then depth = depth + 1 elseif c:match("[%)%]}>]") then depth = depth - 1 end
              if c == "," and depth == 0 then break end
              i = i + 1
            end
            kind = after:sub(2, i - 1):match("^%s*(.-)%s*$")
            after = after:sub(i)
          end
          if name ~= "self" then
            out[#out + 1] = ("---@param %s %s"):format(name, kind)
            args[#args + 1] = (name:gsub("%?$", ""))
          end
          rest = after:gsub("^%s*,%s*", "")
        end
        if result ~= "" then out[#out + 1] = "---@return " .. result end
      end
      out[#out + 1] = ("function %s%s%s(%s) end"):format(var, e.kind == "module" and "." or ":", f.short, table.concat(args, ", "))
      out[#out + 1] = ""
    end
    if e.kind == "module" then
      out[#out + 1] = ("package.preload[%q] = function() return %s end"):format(e.name, var)
      out[#out + 1] = ""
    end
  end
  return table.concat(out, "\n") .. "\n"
end

return docgen

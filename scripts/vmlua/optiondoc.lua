-- What is written from the table of options: the text of -help, the manual page, completions for bash and zsh.
local options = require "vmlua.options"
local text = require "vmlua.text"

local optiondoc = {}

local function heading(o)
  local t = { "-" .. o.name }
  for _, a in ipairs(o.aliases or {}) do t[#t + 1] = "-" .. a end
  return table.concat(t, ", ") .. (o.arg and " " .. o.arg or "")
end

local function each_group(extra, fn)
  local all = {}
  for _, o in ipairs(options.list) do all[#all + 1] = o end
  for _, o in ipairs(options.check_extra(extra)) do all[#all + 1] = o end
  for _, g in ipairs(options.groups) do
    local members = {}
    for _, o in ipairs(all) do
      if o.group == g[1] then members[#members + 1] = o end
    end
    if #members > 0 then fn(g[2], members) end
  end
end

optiondoc.usage = {
  { "vmlua SCRIPT [OPTION…]", "run a script; a board that it returns is started" },
  { "vmlua -machine NAME [OPTION…]", "start a board by its name" },
  { "vmlua", "a Lua prompt" },
  { "vmlua test PATH… [-j N] [--filter P] [--junit FILE] [--timeout S] [--list] [--long]", "run tests" },
  { "vmlua img COMMAND [OPTION…] FILE…", "make, convert, check and compare disk images (vmlua img --help)" },
  { "vmlua -e CODE [ARG…]", "run a piece of Lua" },
  { "vmlua help [TOPIC]", "options, man, bash, zsh, reference, luals, or a name of the Lua API" },
  { "vmlua --version", "" },
}

--- The text of `-help`.
---@param extra? Option[]
---@param width? integer
---@return string
function optiondoc.help(extra, width)
  width = width or 100
  local out = { "Usage:" }
  for _, u in ipairs(optiondoc.usage) do
    out[#out + 1] = "  " .. u[1] .. (u[2] ~= "" and "\n      " .. u[2] or "")
  end
  each_group(extra, function(title, members)
    out[#out + 1] = "\n" .. title .. ":"
    for _, o in ipairs(members) do
      out[#out + 1] = "  " .. heading(o)
      local doc = o.doc .. (o.needs and (" (needs the %s subsystem, which this build does not have)"):format(o.needs) or "")
      for _, line in ipairs(text.wrap(doc, width - 6)) do out[#out + 1] = "      " .. line end
    end
  end)
  return table.concat(out, "\n") .. "\n"
end

local function roff(s)
  return (s:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("…", "..."):gsub("^([.'])", "\\&%1"):gsub("\n([.'])", "\n\\&%1"))
end

--- The manual page, in the man macros of roff.
---@param version string
---@return string
function optiondoc.man(version)
  local out = { ('.TH VMLUA 1 "" "vmlua %s" "User Commands"'):format(version), ".SH NAME",
    "vmlua \\- x86 machines that are programs in Lua", ".SH SYNOPSIS" }
  for _, u in ipairs(optiondoc.usage) do out[#out + 1] = ".B " .. roff(u[1]) .. "\n.br" end
  out[#out + 1] = [[
.SH DESCRIPTION
vmlua builds and runs x86 virtual machines. A machine is a Lua script that says which memory, CPUs and
devices it has; the engine below runs it on KVM. A script that returns a board is started with the rest of the
command line; any other script is a program that may build as many machines as it likes.
.PP
A script is looked for as a path first, then among the boards that come with vmlua.
Options may begin with one dash or two.
.SH OPTIONS]]
  each_group(nil, function(title, members)
    out[#out + 1] = ".SS " .. roff(title)
    for _, o in ipairs(members) do
      out[#out + 1] = ".TP\n.B " .. roff(heading(o))
      out[#out + 1] = roff(o.doc)
      if o.needs then out[#out + 1] = roff(("Needs the %s subsystem, which this build does not have."):format(o.needs)) end
    end
  end)
  out[#out + 1] = [[
.SH EXIT STATUS
0 on success, and when a machine ended well; the code that the guest gave, when it gave one; 1 when a script or the
machine failed; 2 when the command line was wrong.
.SH ENVIRONMENT
.TP
.B VMLUA_PATH
Folders, separated by colons, in which Lua modules and boards are looked for first.
.TP
.B VMLUA_HISTORY
File that keeps the lines typed at the prompt.
.SH FILES
.TP
.I ~/.local/state/vmlua/history
Lines typed at the prompt, unless VMLUA_HISTORY names another file.
.SH SEE ALSO
.BR lua (1)]]
  return table.concat(out, "\n") .. "\n"
end

--- A completion script for bash.
---@return string
function optiondoc.bash()
  local names, cases = {}, {}
  for _, o in ipairs(options.list) do
    names[#names + 1] = "-" .. o.name
    local pattern = "-" .. o.name .. "|--" .. o.name
    if o.name == "machine" then
      local list = [[$(vmlua -machine help 2>/dev/null | awk '/^ /{print $1}')]]
      cases[#cases + 1] = ('    %s) COMPREPLY=($(compgen -W "%s" -- "$cur")); return ;;'):format(pattern, list)
    elseif o.values then
      cases[#cases + 1] = ('    %s) COMPREPLY=($(compgen -W "%s" -- "$cur")); return ;;'):format(pattern, table.concat(o.values, " "))
    elseif o.arg and o.arg:match("^FILE") then
      cases[#cases + 1] = ('    %s) COMPREPLY=($(compgen -f -- "$cur")); return ;;'):format(pattern)
    elseif o.arg then
      cases[#cases + 1] = ("    %s) return ;;"):format(pattern)
    end
  end
  return ([[
# bash completion for vmlua, written from its table of options
_vmlua() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  case $prev in
%s
  esac
  case $cur in
    -*) COMPREPLY=($(compgen -W "%s" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -f -- "$cur"))
       [ "$COMP_CWORD" -eq 1 ] && COMPREPLY+=($(compgen -W "test img help" -- "$cur")) ;;
  esac
}
complete -o filenames -F _vmlua vmlua
]]):format(table.concat(cases, "\n"), table.concat(names, " "))
end

--- A completion script for zsh.
---@return string
function optiondoc.zsh()
  local specs = {}
  local function escape(s) return (s:gsub("'", "'\\''"):gsub("([%[%]:\\])", "\\%1"):gsub("`", "")) end
  for _, o in ipairs(options.list) do
    local doc = escape(o.doc:match("^(.-)[%.:;]%s") or (o.doc:gsub("%.$", "")))
    local spec = ("'*-%s[%s]"):format(o.name, doc)
    if o.arg then
      local action = o.values and ("(%s)"):format(escape(table.concat(o.values, " "))) or (o.arg:match("^FILE") and "_files" or " ")
      spec = spec .. ":" .. escape(o.arg) .. ":" .. action
    end
    specs[#specs + 1] = "  " .. spec .. "'"
  end
  return "#compdef vmlua\n# zsh completion for vmlua, written from its table of options\n_arguments -S \\\n"
    .. table.concat(specs, " \\\n") .. " \\\n  '1:script:_files' '*:argument:_files'\n"
end

return optiondoc

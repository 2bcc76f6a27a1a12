--[[
`vmlua img`: what people do with disk images, in qemu-img's words.

    vmlua img create -f qcow2 disk.qcow2 20G
    vmlua img convert -p -O qcow2 -c disk.raw disk.qcow2
    vmlua img info --output=json disk.qcow2

Each command is a table in one of the files of this folder: name, synopsis, doc, options, files (how many names it
takes, at least and at most), run(settings), which returns the exit status (0).
]]
local options = require "vmlua.img.options"
local text = require "vmlua.text"

local img = {}

local files = { "make", "inspect", "check", "copy", "chain", "snapshot", "bitmap", "bench" }

--- The commands by name, and their names in order.
---@return table<string, table> commands
---@return string[] names
function img.commands()
  local out = {}
  for _, file in ipairs(files) do
    for _, command in ipairs(require("vmlua.img." .. file)) do out[command.name] = command end
  end
  return out, text.keys(out)
end

local function help()
  local commands, names = img.commands()
  local out = { "Usage: vmlua img COMMAND [OPTION…] FILE…", "" }
  for _, name in ipairs(names) do
    out[#out + 1] = ("  %-9s %s"):format(name, commands[name].doc)
  end
  out[#out + 1] = "\nvmlua img COMMAND --help lists the options of a command. They are those of qemu-img."
  return table.concat(out, "\n") .. "\n"
end

local function complain(e)
  io.stdout:flush()
  io.stderr:write("vmlua img: ", tostring(e), "\n")
end

--- Runs a command line; answers its exit status. Called in a task.
---@param argv string[]
---@return integer
function img.main(argv)
  local name = argv[1]
  if not name or name == "--help" or name == "-h" or name == "help" then
    io.stdout:write(help())
    return name and 0 or 1
  end
  local commands, names = img.commands()
  local command = commands[name]
  if not command then
    complain(text.unknown("command", name, names))
    return 1
  end
  local ok, result = pcall(function()
    local s = options.parse(command, { table.unpack(argv, 2) })
    if s.help then
      io.stdout:write(options.help(command))
      return 0
    end
    if s.object then options.fail "--object: no object is needed for the images that are supported" end
    return command.run(s) or 0
  end)
  if ok then return result end
  if not options.is_failure(result) then error(result, 0) end
  complain(result)
  local status = result.status
  return command.trouble and status == 1 and command.trouble or status
end

return img

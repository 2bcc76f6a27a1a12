--[[
What the program does with its arguments.

    vmlua SCRIPT [OPTION…]      a script; a board that it returns is started with the options
    vmlua -machine NAME …       a board by name
    vmlua                       the prompt
    vmlua img COMMAND …         disk images
    vmlua test …   vmlua -e CODE   vmlua help [TOPIC]   vmlua --version

Statuses: 0, or what the machine's guest gave; 1 a script or a machine failed; 2 wrong use; 128 + signal.
]]
local options = require "vmlua.options"
local text = require "vmlua.text"

local launcher = {}

local STATUS_FAILED, STATUS_USAGE = 1, 2

local function complain(format, ...)
  local message = select("#", ...) > 0 and format:format(...) or format
  io.stdout:flush()
  io.stderr:write("vmlua: ", message, "\n")
end

-- ---- finding scripts ------------------------------------------------------------------------------

local function exists(path)
  local st = require("vmlua.core.fs").stat(path)
  return st ~= nil and st.type ~= "directory"
end

local function machine_folders() return require("vmlua.machine").folders end

--- Where a script is: the path itself, else a board of that name that comes with vmlua.
---@param name string
---@return string? path
---@return string? message
function launcher.find_script(name)
  if exists(name) then return name end
  local names = {}
  if not name:find("/", 1, true) then
    for _, dir in ipairs(machine_folders()) do
      for _, path in ipairs { dir .. "/" .. name, dir .. "/" .. name .. ".lua" } do
        if exists(path) then return path end
      end
      for _, entry in ipairs(require("vmlua.core.fs").listdir(dir) or {}) do
        if entry:match("%.lua$") then names[#names + 1] = entry end
      end
    end
  end
  local st = require("vmlua.core.fs").stat(name)
  if st and st.type == "directory" then return nil, ("%s: is a folder"):format(name) end
  local near = text.nearest(name, names)
  return nil, ("%s: no such script%s"):format(name, near and (" (did you mean %s?)"):format(near) or "")
end

-- ---- running to the end -----------------------------------------------------------------------------

local interrupted -- "int", "term" or "hup", once a signal asked for the end

-- The message of an error as a person reads it; usage errors pass through.
local function trace(e)
  if options.is_usage_error(e) then return e end
  if type(e) == "table" and e.message and getmetatable(e) and getmetatable(e).__tostring then e = tostring(e) end
  local message = type(e) == "string" and e or ("%s (an error value that is a %s)"):format(tostring(e), type(e))
  if message:find("\nstack traceback:", 1, true) then return message end
  local lines = {}
  for line in debug.traceback("", 2):gmatch("[^\n]+") do
    -- Frames of the launcher and the scheduler say nothing about the script.
    local own = false
    for _, mark in ipairs { "vmlua/launcher.lua", "vmlua/sched.lua", "'xpcall'", "'coroutine.resume'", "loop.iterate" } do
      own = own or line:find(mark, 1, true) ~= nil
    end
    if not own then
      lines[#lines + 1] = line
    end
  end
  -- The line that the message names already says nothing more.
  return message .. (text.script_frames(lines) > 1 and "\n" .. table.concat(lines, "\n") or "")
end

-- Which signal ended the code that raised this error; nil: none, whatever its text says. Without an error: what ended
-- code that could not even say so.
local function ended_by(err)
  local why = require("vmlua.core.loop").ended_by()
  local first = err and tostring(err):match "^[^\n]*" or why
  if not why or first:sub(-#why) ~= why then return nil end
  return why == "interrupted" and "int" or why:match "SIGTERM" and "term" or why:match "SIGHUP" and "hup" or nil
end

-- Runs fn as a task with the main loop around it. Answers true and its results, or false and the error.
local function run_task(fn, ...)
  local loop, sched = require "vmlua.core.loop", require "vmlua.sched"
  local args = table.pack(...)
  local results
  local task = sched.spawn(function() results = table.pack(xpcall(fn, trace, table.unpack(args, 1, args.n))) end)
  task.quiet = true -- what ends it is told by whoever called this
  loop.shielded(function()
    while not results and not interrupted and not task.results do loop.iterate(true) end
  end)()
  if results then return table.unpack(results, 1, results.n) end
  if not task.results then
    sched.cancel(task)
    return false, nil
  end
  if not task.stray then interrupted = interrupted or ended_by() end -- a second Ctrl-C, without its last words
  return false, task.error
end

local function signal_status()
  return interrupted == "term" and 143 or interrupted == "hup" and 129 or 130
end

-- A script that waits by rounds of the loop of its own is ended by the error that "true" asks for.
local function on_signals()
  local loop = require "vmlua.core.loop"
  interrupted = nil
  loop.on_sigint(function()
    interrupted = interrupted or "int"
    return true
  end)
  for _, name in ipairs { "term", "hup" } do
    loop.on_signal(name, function()
      interrupted = name
      return true
    end, true)
  end
end

-- After a task: prints its error; answers the status, nil when all is well.
local function judge(ok, err)
  if ok then return nil end
  interrupted = interrupted or ended_by(err)
  if interrupted then
    complain(interrupted == "int" and "interrupted" or interrupted == "term" and "ended by SIGTERM" or "ended by SIGHUP")
    return signal_status()
  end
  if options.is_usage_error(err) then
    complain("%s", err.message)
    return STATUS_USAGE
  end
  complain("%s", tostring(err))
  return STATUS_FAILED
end

-- ---- machines from the command line -------------------------------------------------------------------

local function load_script(path, ...)
  local chunk, err = loadfile(path, "t")
  if not chunk then
    complain("%s", err)
    return false, STATUS_FAILED
  end
  local result = table.pack(run_task(chunk, ...))
  local status = judge(result[1], result[2])
  if status then return false, status end
  return true, result[2]
end

--- The board that a name on the command line means; nil: the default one.
---@param name? string
---@return table
function launcher.board(name)
  local machine = require "vmlua.machine"
  local class = machine.find(name)
  if class then return class end
  if name then
    local names = {}
    for _, b in ipairs(machine.classes()) do names[#names + 1] = b.name end
    options.usage_error("-machine: %s", text.unknown("board", name, names))
  end
  options.usage_error "no board is named: give a script, or -machine NAME (-machine help lists them)"
end

-- ---- one machine ------------------------------------------------------------------------------------------

local function apply_log(run)
  local log = require "vmlua.core.log"
  if run.log_file then
    local ok, err = log.file(run.log_file)
    if not ok then options.usage_error("-D: %s", err) end
  end
  if run.log then
    local ok, err = log.set(run.log)
    if not ok then options.usage_error("-d: %s", err) end
  end
  if run.log_filter then
    local ok, err = log.filter(run.log_filter)
    if not ok then options.usage_error("-dfilter: %s", err) end
  end
  for _, pattern in ipairs(run.trace or {}) do
    if log.trace(pattern) == 0 then options.usage_error("-trace: no trace point matches %s", pattern) end
  end
end

-- What asked for the terminal on the command line, serial ports aside.
local function terminal_users(conf, prompt_here)
  local users = prompt_here and { "-monitor stdio" } or {}
  local function note(option, spec)
    if spec == "stdio" or spec:match "^stdio," then users[#users + 1] = option .. " " .. spec end
  end
  for _, c in ipairs(conf.chardev or {}) do note("-chardev", c.text) end
  for _, spec in ipairs(conf.parallel or {}) do note("-parallel", spec) end
  if conf.debugcon then note("-debugcon", conf.debugcon) end
  return users
end

-- Serial ports, by what else uses the terminal. Answers whether the prompt has it, and what shares it or another chardev.
local function apply_console(s)
  local conf, run = s.conf, s.run
  if run.monitor == "none" then run.monitor = nil end
  local prompt_here, shared = run.monitor == "stdio", nil
  local users = terminal_users(conf, prompt_here)
  conf.serial = conf.serial or run.nographic and not prompt_here and { "mon:stdio" } or nil
  for i, spec in ipairs(conf.serial or {}) do
    local plain = spec:match "^mon:(.*)$"
    if (plain or spec) == "stdio" or spec:match "^stdio," then users[#users + 1] = "-serial " .. spec end
    if plain then
      if run.monitor then options.usage_error("-serial %s has a monitor on it: -monitor %s is a second one", spec, run.monitor) end
      if shared then options.usage_error("-serial %s: only one port can share its place with the monitor", spec) end
      shared = require("vmlua.mux").new(plain)
      conf.serial[i] = shared.chardev
    end
  end
  if #users > 1 then options.usage_error("%s and %s both want the terminal", users[2], users[1]) end
  if run.daemonize then
    if #users > 0 then options.usage_error("-daemonize leaves no terminal for %s", users[1]) end
    conf.console = "null"
  end
  -- The terminal is the first serial port's, where the board has one and nothing else was said.
  if not conf.console and #users == 0 then conf.console = "stdio" end
  return prompt_here, shared
end

-- A value that calls fn when its scope is left, on any way out.
local function at_end(fn) return setmetatable({}, { __close = fn }) end

-- The file goes with the scope that the answer is closed in.
local function write_pidfile(path)
  local process = require "vmlua.core.process"
  local ok, err = process.pidfile(path)
  if not ok then options.usage_error("-pidfile: %s", err) end
  return at_end(function() process.pidfile() end)
end

local READY = "\0vmlua is ready\0"

-- The process that the user started waits until the one in the background has built its machine.
local function daemonize(argv)
  local fs, loop, process = require "vmlua.core.fs", require "vmlua.core.loop", require "vmlua.core.process"
  local full = { (fs.realpath "/proc/self/exe") }
  for _, a in ipairs(argv) do full[#full + 1] = a end
  local seen, status = "", nil
  local child, err = process.spawn {
    argv = full, detached = true, env = { VMLUA_DAEMON = "1" },
    stdout = function(data)
      seen = seen .. data
      if seen:find(READY, 1, true) then status = 0 end
    end,
    on_exit = function(code) status = status or code or STATUS_FAILED end,
  }
  if not child then options.usage_error("-daemonize: %s", err) end
  loop.shielded(function()
    while not status and not interrupted do loop.iterate(true) end
  end)()
  return status or signal_status()
end

local function report_stop(vm)
  local status, reason = vm.status, vm.reason
  if status == "error" then
    complain("%s: stopped by an error: %s", tostring(vm), reason or "no reason known")
    for i, cpu in ipairs(vm.cpus) do
      local ok, dump = pcall(function() return cpu:dump() end)
      if ok then io.stderr:write(("cpu %d:\n%s\n"):format(i, (dump:gsub("\n+$", "")))) end
    end
    return STATUS_FAILED
  end
  return vm.exit_code
end

-- Beside a machine, until it or the user has had enough. Answers whether the user left by the terminal's escape key.
local function stay(vm, s, session, shared)
  local loop = require "vmlua.core.loop"
  local told
  local left = false
  require("vmlua.core.chardev").on_escape(function(key)
    if key == "x" then left = true end
    return left
  end)
  local function over()
    local now = vm.status
    if shared then
      session = shared.session
      left = left or shared.left
    end
    if left or now == "closed" or session and session.ended then return true end
    local ended = now == "error" or (now == "shutdown" and not s.run.no_shutdown)
    if ended and not session then return true end
    if now ~= told then
      told = now
      if session and (ended or now == "paused") then
        require("vmlua.console").say(("%s: %s%s\n"):format(tostring(vm), now, vm.reason and " (" .. vm.reason .. ")" or ""))
      elseif now == "paused" and shared then
        shared:tell(("\n%s: paused%s; Ctrl-A c is the prompt\n"):format(tostring(vm), vm.reason and " (" .. vm.reason .. ")" or ""))
      elseif now == "paused" and not s.run.paused and not s.run.monitor then
        complain("%s: paused%s; nothing here can resume it (Ctrl-C ends it)", tostring(vm),
          vm.reason and " (" .. vm.reason .. ")" or "")
      end
    end
    return false
  end
  loop.shielded(function()
    while not interrupted and not over() do loop.iterate(true) end
  end)()
  return left
end

-- A message about what the user asked for names the option, and is wrong use.
local function option_of(err)
  local key, rest = tostring(err):match "^(%l+): (.*)$"
  local known = { ram = "m", machine = "machine", device = "device" }
  if not key or not known[key] or options.is_usage_error(err) then return err end
  return options.make_usage_error(("-%s: %s"):format(known[key], rest))
end

-- What -runas, -sandbox and -daemonize ask for, once everything that needs the user's rights is open.
local function settle(run)
  local process = require "vmlua.core.process"
  for _, name in ipairs { "runas", "sandbox" } do
    if run[name] then
      local ok, why = process[name](run[name])
      if not ok then options.usage_error("-%s: %s", name, why) end
    end
  end
  if run.daemonize then
    io.stdout:write(READY)
    io.stdout:flush()
    process.detach()
  end
end

-- A prompt where it was asked for: the one on our own terminal is answered.
local function open_prompt(vm, s, prompt_here, shared)
  if not prompt_here and not s.run.monitor and not shared then return nil end
  local env = require("vmlua.repl").environment { vm = vm }
  if prompt_here then return require("vmlua.console").start(env) end
  if s.run.monitor then
    require("vmlua.console").listen(vm, s.run.monitor, env)
  else
    shared:begin(vm, env)
  end
  return nil
end

-- Runs a machine to its end. Shielded, as what is left behind has to be taken away whenever a signal comes.
local function run_machine(vm, s, prompt_here, shared)
  local _ <close> = at_end(function() vm:close() end)
  local _ <close> = s.run.pidfile and write_pidfile(s.run.pidfile) or nil
  settle(s.run)
  local session = open_prompt(vm, s, prompt_here, shared)
  local _ <close> = at_end(function()
    if session then session.stop() end
    if shared then shared:stop() end
  end)
  if not s.run.paused then
    local ok, why = pcall(vm.start, vm)
    if not ok then return judge(false, why) end
  end
  local left = stay(vm, s, session, shared)
  if interrupted then return signal_status() end
  if left or vm.status == "closed" then return 0 end
  return report_stop(vm)
end

--- Builds a machine from a class and settings and runs it to its end. Answers the exit status.
---@param class any
---@param s LaunchSettings
---@return integer
function launcher.launch(class, s)
  if s.run.daemonize and not os.getenv "VMLUA_DAEMON" then return daemonize(launcher.arguments) end
  apply_log(s.run)
  local prompt_here, shared = apply_console(s)
  if prompt_here then s.conf.console = require("vmlua.console").serial() end
  -- Through pcall: an error without a place of its own is what the user asked for, and gets none here.
  local ran, built, vm = run_task(pcall, require("vmlua.machine").new, class, s.conf)
  local status = judge(ran, built)
  if status then return status end
  if not built then return judge(false, option_of(vm)) end
  return require("vmlua.core.loop").shielded(run_machine)(vm, s, prompt_here, shared)
end

-- Options that a board and those it was derived from declare.
local function options_of(class)
  local out = {}
  while class do
    for _, o in ipairs(rawget(class, "options") or {}) do out[#out + 1] = o end
    class = class.parent
  end
  return out
end

launcher.options_of = options_of

-- The board that a command line without a script names: its own options are known only after it is found.
local function named_board(argv)
  for i = 1, #argv - 1 do
    if argv[i]:match("^%-%-?[mM]a?c?h?i?n?e?$") and (argv[i]:match("machine$") or argv[i]:match("%-M$")) then
      local value = argv[i + 1]
      local first = text.commas(value)[1]
      local name = first:match("^type=(.*)$") or (not first:find("=", 1, true) and first) or nil
      if name and name ~= "" and name ~= "help" and name ~= "?" then return name end
    end
  end
  return nil
end

-- A board and the rest of the command line.
local function launch_with(class, argv)
  local name = named_board(argv)
  if name then class = launcher.board(name) end
  local s = options.parse(argv, class and options_of(class))
  if #s.query > 0 then
    for _, q in ipairs(s.query) do require("vmlua.queries")[q.topic](q.detail, class) end
    return 0
  end
  return launcher.launch(class or launcher.board(nil), s)
end

-- ---- the other ways in ---------------------------------------------------------------------------------------

local function run_script(name, argv)
  local path, err = launcher.find_script(name)
  if not path then
    complain("%s", err)
    return STATUS_USAGE
  end
  _G.arg = { [0] = path, table.unpack(argv) }
  require("vmlua.strict").globals(_G)
  local ok, result = load_script(path, table.unpack(argv))
  if not ok then return result end
  local machine = require "vmlua.machine"
  if machine.is_class(result) then return launch_with(result, argv) end
  if math.type(result) == "integer" then return result & 0xff end
  if result == false then return STATUS_FAILED end
  return 0
end

local function run_code(code, argv)
  if not code then options.usage_error "-e: expected a piece of Lua" end
  local chunk, err = load("return " .. code, "=(command line)", "t")
  if not chunk then chunk, err = load(code, "=(command line)", "t") end
  if not chunk then
    complain("%s", err)
    return STATUS_FAILED
  end
  _G.arg = { [0] = "-e", table.unpack(argv) }
  local results = table.pack(run_task(chunk, table.unpack(argv)))
  local status = judge(results[1], results[2])
  if status then return status end
  if results.n > 1 then
    local pretty, out = require "vmlua.pretty", {}
    for i = 2, results.n do out[#out + 1] = type(results[i]) == "string" and results[i] or pretty.format(results[i]) end
    print(table.concat(out, "\t"))
  end
  return 0
end

local function run_prompt()
  return require("vmlua.console").main(function() return interrupted and signal_status() end)
end

local topics = {
  options = function() return require("vmlua.optiondoc").help() end,
  man = function() return require("vmlua.optiondoc").man(launcher.version) end,
  bash = function() return require("vmlua.optiondoc").bash() end,
  zsh = function() return require("vmlua.optiondoc").zsh() end,
  reference = function() return require("vmlua.docgen").markdown() end,
  luals = function() return require("vmlua.docgen").luals() end,
}

local function run_help(topic)
  if topic and not topics[topic] then
    local answer = require("vmlua.help").text(topic)
    if answer:match("^unknown name") then
      local words = text.keys(topics)
      complain("help: %s; topics: %s", answer, table.concat(words, ", "))
      return STATUS_USAGE
    end
    print(answer)
    return 0
  end
  io.stdout:write(topics[topic or "options"]())
  return 0
end

local function dispatch(args)
  local first = args[1]
  local rest = { table.unpack(args, 2) }
  if first == nil then return run_prompt() end
  if first == "--version" or first == "-version" then
    require("vmlua.queries").version()
    return 0
  end
  if first == "-e" or first == "--e" then return run_code(rest[1], { table.unpack(rest, 2) }) end
  if first == "test" then
    return require("vmlua.testrunner").main(rest, function() return interrupted and signal_status() end)
  end
  if first == "img" then
    local ok, status = run_task(require("vmlua.img").main, rest)
    return ok and status or judge(ok, status) or signal_status()
  end
  if first == "help" then return run_help(rest[1]) end
  if first:sub(1, 1) == "-" and #first > 1 then return launch_with(nil, args) end
  return run_script(first, rest)
end

--- The program. Answers its exit status.
---@param args string[] with share (folder of scripts and machines) and version
---@return integer
function launcher.main(args)
  launcher.share, launcher.version, launcher.arguments = args.share, args.version, args
  if os.getenv "VMLUA_PATH" then
    local machine = require "vmlua.machine"
    local folders = {}
    for dir in os.getenv("VMLUA_PATH"):gmatch("[^:]+") do
      folders[#folders + 1] = dir
      package.path = ("%s/?.lua;%s/?/init.lua;%s"):format(dir, dir, package.path)
    end
    for _, dir in ipairs(machine.folders) do folders[#folders + 1] = dir end
    machine.folders = folders
  end
  on_signals()
  local ok, status = xpcall(dispatch, trace, args)
  if ok then return status end
  return judge(false, status)
end

return launcher

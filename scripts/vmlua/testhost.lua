-- What the test runner needs from the engine: time, processes, files and the main loop.
local fs = require "vmlua.core.fs"
local loop = require "vmlua.core.loop"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local text = require "vmlua.text"

local host = {}

host.program = fs.realpath "/proc/self/exe" or arg[0]

local signals = { [1] = "SIGHUP", [2] = "SIGINT", [3] = "SIGQUIT", [4] = "SIGILL", [5] = "SIGTRAP", [6] = "SIGABRT", [7] = "SIGBUS",
  [8] = "SIGFPE", [9] = "SIGKILL", [11] = "SIGSEGV", [13] = "SIGPIPE", [14] = "SIGALRM", [15] = "SIGTERM", [31] = "SIGSYS" }

--- Seconds of a clock that never jumps.
---@return number
function host.now() return loop.now() / 1e9 end

--- One round of the main loop, of at most so many seconds.
---@param seconds number
function host.step(seconds)
  local timer = loop.timer(math.max(1, math.floor(seconds * 1e9)), function() end)
  loop.iterate(true)
  timer:cancel()
end

--- "file", "dir", or nil.
---@param path string
---@return string?
function host.kind(path)
  local st = fs.stat(path)
  if not st then return nil end
  return st.type == "directory" and "dir" or "file"
end

--- Test files in a folder and those below it, sorted. Files and folders that begin with "_" or "." are helpers.
---@param dir string
---@return string[]
function host.find_lua(dir)
  local out = {}
  local function walk(path)
    local names = fs.listdir(path) or {}
    table.sort(names)
    for _, name in ipairs(names) do
      local full = path .. "/" .. name
      if not name:match("^[_%.]") then
        local kind = host.kind(full)
        if kind == "dir" then walk(full) elseif name:match("%.lua$") then out[#out + 1] = full end
      end
    end
  end
  walk(dir)
  return out
end

--- Runs vmlua in a process group of its own. `line` is called for each line of both outputs; a process that
--- writes nothing for `idle()` seconds is killed; `done` is told how it ended.
---@param argv string[]
---@param opts { idle: fun(): number, line: fun(line: string) }
---@param done fun(how: { status?: integer, signal?: string, hung?: number })
function host.run(argv, opts, done)
  local full = { host.program }
  for _, a in ipairs(argv) do full[#full + 1] = a end
  local child, timer, hung
  local function alive()
    if timer then timer:cancel() end
    local seconds = opts.idle()
    timer = loop.timer(math.floor(seconds * 1e9), function()
      hung = seconds
      child:kill(9)
    end)
  end
  local function lines(prefix)
    local feed, rest = text.line_splitter(function(line) opts.line(prefix .. line) end)
    return function(data)
      feed(data or "")
      alive() -- after the lines, which may say how long the next silence may last
    end, function()
      local last = rest()
      if last ~= "" then opts.line(prefix .. last) end
    end
  end
  local out, out_end = lines ""
  local err, err_end = lines "# "
  local err_message
  child, err_message = process.spawn {
    argv = full, group = true, stdout = out, stderr = err,
    on_exit = function(code, signal, left)
      if timer then timer:cancel() end
      out_end()
      err_end()
      host.children[child] = nil
      done { status = code, hung = hung, left = left and "others of its process group had to be ended" or nil,
        signal = signal and not hung and (signals[signal] or tostring(signal)) or nil }
    end,
  }
  if not child then
    loop.later(function() done { status = 127, left = err_message } end)
    return
  end
  host.children[child] = true
  alive()
end

--- Ends this process by a signal: how the runner's own tests crash one.
---@param signal integer
function host.die(signal) process.signal(signal) end

--- Processes that run at the moment.
host.children = {}

--- Ends them all: on Ctrl-C. They get two seconds to end what they have started themselves.
function host.kill_all()
  for child in pairs(host.children) do child:kill(15) end
  local deadline = host.now() + 2
  while next(host.children) and host.now() < deadline do host.step(0.1) end
  for child in pairs(host.children) do child:kill(9) end
end

--- Runs vmlua (or argv0) and waits for its end; keys beside the arguments: input, env, cwd, argv0, on_start(child).
---@param spec table
---@param t table
---@return { status?: integer, signal?: integer, out: string, err: string }
function host.capture(spec, t)
  local r = { out = "", err = "" }
  local argv = { spec.argv0 or host.program, table.unpack(spec) }
  local child, message
  r.status, r.signal = sched.suspend(function(wake)
    child, message = process.spawn {
      argv = argv, env = spec.env, cwd = spec.cwd, group = true, stdin = spec.input ~= nil or spec.on_start ~= nil,
      stdout = function(data) r.out = r.out .. data end,
      stderr = function(data) r.err = r.err .. data end,
      on_exit = function(code, signal) wake(code, signal) end,
    }
    if not child then
      wake(nil, nil)
      return nil
    end
    t.cleanup(function()
      if child.running then child:kill(9) end
    end)
    if spec.input then
      local rest = spec.input
      while #rest > 0 do
        local n = child:write(rest)
        if not n then break end
        rest = rest:sub(n + 1)
      end
      child:close_stdin()
    end
    if spec.on_start then spec.on_start(child, r) end
    return function() child:kill(9) end
  end)
  if not child then error(message, 2) end
  return r
end

--- What vmlua.test needs inside the process of one file.
---@param log fun(line: string)
---@param stop fun(): any says that a signal wants the end
---@return table
function host.environment(log, stop)
  return {
    log = log,
    stop = stop,
    limit = loop.limit,
    ended_by = loop.ended_by,
    now = host.now,
    step = host.step,
    mkdtemp = function() return assert(fs.mkdtemp "vmlua-test") end,
    rmtree = function(path) return fs.rmtree(path) end,
    sleep = sched.sleep,
    nap = sched.nap,
    before_wait = function(fn) sched.before_wait = fn end,
    vmlua = function(spec, t) return host.capture(spec, t) end,
    spawn = sched.spawn,
    cancel = sched.cancel,
  }
end

return host

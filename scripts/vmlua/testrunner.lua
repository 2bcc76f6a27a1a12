--[[
`vmlua test PATHS…`: runs test files, each in a process of its own, and reports in TAP.

The process of a file (`vmlua test --child FILE …`) writes TAP of its own to its standard output; lines that
begin with "#" before a result belong to it. The parent renumbers, keeps the time, ends a process that hangs,
reports one that a signal killed, and adds how to run a test again.
]]
local text = require "vmlua.text"

local runner = {}

-- ---- settings -----------------------------------------------------------------------------------

local flags = {
  { "-j", "jobs", "N", "files that run at a time (1)" },
  { "--filter", "filter", "P", "only tests whose name, or file and name, contains this text or matches this Lua pattern" },
  { "--junit", "junit", "FILE", "also write the results as JUnit XML" },
  { "--timeout", "timeout", "S", "seconds that one test may take (60)" },
  { "--list", "list", nil, "only list the tests" },
  { "--long", "long", nil, "also run tests marked as long" },
  { "--torture", "torture", "HOW", "at each wait save, spoil and restore the machines of the test: snapshot (with RAM), stream (devices)" },
  { "--verbose", "verbose", nil, "show what passing tests log" },
  { "--child", "child", nil, "run one file in this process" },
}

local function usage_error(format, ...) return require("vmlua.options").usage_error(format, ...) end

local function parse(argv)
  local s = { paths = {}, jobs = 1, timeout = 60 }
  local words = {}
  for _, f in ipairs(flags) do words[#words + 1] = f[1] end
  local i = 1
  while i <= #argv do
    local word, value = argv[i], nil
    if word:match("^%-%-%a+=") then word, value = word:match("^(%-%-%a+)=(.*)$") end
    if word:match("^%-j%d+$") then word, value = "-j", word:sub(3) end
    local found
    for _, f in ipairs(flags) do
      if f[1] == word then found = f end
    end
    if found and found[3] then
      if not value then
        i = i + 1
        value = argv[i]
      end
      if not value then usage_error("%s: expected %s", word, found[3]) end
      s[found[2]] = value
    elseif found then
      if value then usage_error("%s takes no value", word) end
      s[found[2]] = true
    elseif word:sub(1, 1) == "-" and word ~= "-" then
      usage_error("%s", text.unknown("option of vmlua test", word, words))
    else
      s.paths[#s.paths + 1] = word
    end
    i = i + 1
  end
  local jobs, timeout = math.tointeger(tonumber(s.jobs)), tonumber(s.timeout)
  if not jobs or jobs < 1 or jobs > 256 then usage_error("-j: expected a number from 1 to 256, got %q", tostring(s.jobs)) end
  if not timeout or timeout <= 0 or timeout ~= timeout then
    usage_error("--timeout: expected a number of seconds, got %q", tostring(s.timeout))
  end
  s.jobs, s.timeout = jobs, timeout
  if s.torture and s.torture ~= "snapshot" and s.torture ~= "stream" then
    usage_error("--torture: snapshot or stream expected, got %q", s.torture)
  end
  if #s.paths == 0 then usage_error "expected the paths of test files or folders" end
  return s
end

--- Text of `vmlua test --help`.
---@return string
function runner.help()
  local out = { "Usage: vmlua test PATH… [OPTION…]", "" }
  for _, f in ipairs(flags) do
    if f[1] ~= "--child" then out[#out + 1] = ("  %-18s %s"):format(f[1] .. (f[3] and " " .. f[3] or ""), f[4]) end
  end
  return table.concat(out, "\n") .. "\n"
end

local function matches(filter, file, name)
  if not filter then return true end
  local full = file .. ": " .. name
  if full:find(filter, 1, true) then return true end
  local ok, at = pcall(string.find, full, filter)
  if ok and at then return true end
  local ok_name, at_name = pcall(string.find, name, filter)
  return ok_name and at_name ~= nil
end

-- ---- the process of one file ----------------------------------------------------------------------

-- A file's own code, which can be ended, unlike what runs it.
local function load_tests(path, seconds)
  local loop = require "vmlua.core.loop"
  local chunk, err = loadfile(path, "t")
  if not chunk then return nil, err end
  loop.limit(seconds, ("loading took longer than %g seconds"):format(seconds))
  local co = coroutine.create(chunk)
  local ok, load_err = coroutine.resume(co)
  loop.limit(0)
  if not ok then return nil, tostring(load_err), debug.traceback(co, tostring(load_err)) end
  if coroutine.status(co) ~= "dead" then return nil, path .. ": yields while it is loaded" end
  return true
end

local function child(s, stop)
  local host = require "vmlua.testhost"
  local test = require "vmlua.test"
  local path = s.paths[1]
  local out = io.stdout
  out:setvbuf("line")
  local function comment(line)
    for part in (line .. "\n"):gmatch("([^\n]*)\n") do out:write("# ", part, "\n") end
  end
  local env = host.environment(comment, stop)
  env.torture = s.torture
  _G.print = function(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    comment(table.concat(parts, "\t"))
  end
  out:write("TAP version 14\n")
  local ok, err, trace = load_tests(path, s.timeout)
  if not ok then
    if trace then comment(trace) end
    out:write("Bail out! ", (err:match("^[^\n]*")), "\n")
    return 1
  end
  local chosen, exact = {}, nil
  for _, entry in ipairs(test.registered()) do
    if entry.name == s.filter then exact = entry end
  end
  for _, entry in ipairs(test.registered()) do
    entry.file = path
    if exact and entry == exact or not exact and matches(s.filter, path, entry.name) then chosen[#chosen + 1] = entry end
  end
  out:write(("1..%d\n"):format(#chosen))
  local failed = false
  for i, entry in ipairs(chosen) do
    if s.list then
      out:write(("ok %d - %s # LIST\n"):format(i, entry.name))
    else
      out:write(("# limit %g\n# begin %s\n"):format(entry.options.timeout or s.timeout, entry.name))
      local outcome, lines
      if stop() then
        comment "a signal asked for the end"
        return stop()
      elseif entry.options.long and not s.long then
        outcome, lines = "skip", { "long test (--long runs it)" }
      else
        outcome, lines = test.run_one(entry, env, s.timeout)
      end
      if outcome == "skip" then
        out:write(("ok %d - %s # SKIP %s\n"):format(i, entry.name, (table.concat(lines, " "):gsub("[\n#]", " "))))
      else
        for _, line in ipairs(lines) do comment(line) end
        out:write(("%s %d - %s\n"):format(outcome == "ok" and "ok" or "not ok", i, entry.name))
        failed = failed or outcome ~= "ok"
      end
    end
  end
  if env.tortured then out:write(("# tortured %d\n"):format(env.tortured)) end
  out:write("# end\n")
  return failed and 1 or 0
end

-- ---- the parent -------------------------------------------------------------------------------------

local function collect(paths, host)
  local files, seen = {}, {}
  local function add(path)
    if not seen[path] then
      seen[path] = true
      files[#files + 1] = path
    end
  end
  for _, path in ipairs(paths) do
    local clean = #path > 1 and path:gsub("/+$", "") or path
    local kind = host.kind(clean)
    if kind == "dir" then
      for _, f in ipairs(host.find_lua(clean)) do add(f) end
    elseif kind == "file" then
      add(clean)
    else
      usage_error("%s: no such file or folder", path)
    end
  end
  return files
end

-- Reads the TAP of one file's process line by line.
local function new_reader(file)
  local r = { file = file, results = {}, notes = {}, current = nil, planned = nil, ended = false, bail = nil, begun = nil }
  function r.line(line)
    local note = line:match("^# ?(.*)$")
    if note then
      local name, limit = note:match("^begin (.*)$"), tonumber(note:match("^limit (%S+)$"))
      if limit and not r.current then
        r.limit = limit
      elseif name and not r.current then
        r.current, r.notes = name, {}
      elseif note:match "^tortured %d+$" and not r.current then
        r.tortured = tonumber(note:match "%d+")
      elseif note == "end" and not r.current then
        r.ended = true
      else
        r.notes[#r.notes + 1] = note
      end
      return
    end
    local not_ok, name = line:match("^(n?o?t? ?)ok %d+ %- (.*)$")
    if name and (not_ok == "" or not_ok == "not ") then
      local plain, reason = name:match("^(.-) # SKIP ?(.*)$")
      local outcome = plain and "skip" or (not_ok == "" and "ok" or "fail")
      if name:match(" # LIST$") then plain, outcome = name:match("^(.-) # LIST$"), "list" end
      r.results[#r.results + 1] = { file = file, name = plain or name, outcome = outcome, reason = reason, notes = r.notes }
      r.current, r.notes = nil, {}
      return
    end
    local plan = line:match("^1%.%.(%d+)$")
    if plan then
      r.planned = tonumber(plan)
    elseif line:match("^Bail out!") then
      r.bail = line:match("^Bail out! ?(.*)$")
    elseif line ~= "" and not line:match("^TAP version") then
      r.notes[#r.notes + 1] = line
    end
  end
  -- After the process has ended: what it left undone is a failure that says why.
  function r.finish(how)
    local died = how.signal and ("was killed by signal %s"):format(how.signal)
      or (how.hung and ("made no progress for %g seconds and was killed"):format(how.hung))
      or (not r.ended and not r.bail and ("ended early with status %s"):format(tostring(how.status)))
      or (how.status and how.status > 1 and ("ended with status %d"):format(how.status))
    if r.bail then
      table.insert(r.results, { file = file, name = "the file loads", outcome = "fail", notes = r.notes, message = r.bail })
      if #r.notes == 0 then r.results[#r.results].notes = { r.bail } end
    elseif died then
      table.insert(r.notes, 1, "the process of this file " .. died)
      table.insert(r.results, { file = file, name = r.current or "the file runs to its end", outcome = "fail", notes = r.notes })
      local missing = (r.planned or 0) - #r.results
      if missing > 0 then
        r.results[#r.results + 1] = { file = file, name = ("%d more tests could run"):format(missing), outcome = "fail",
          notes = { "they were not reached" } }
      end
    end
    if how.left then
      r.results[#r.results + 1] = { file = file, name = "no process is left behind", outcome = "fail", notes = { how.left } }
    end
  end
  return r
end

local function xml(s)
  s = s:gsub("[%z\1-\8\11\12\14-\31]", "?"):gsub("&", "&amp;"):gsub("<", "&lt;"):gsub(">", "&gt;"):gsub('"', "&quot;")
  if not utf8.len(s) then s = s:gsub("[\128-\255]", "?") end
  return s
end

local function write_junit(path, readers, totals)
  local out = { '<?xml version="1.0" encoding="UTF-8"?>',
    ('<testsuites tests="%d" failures="%d" skipped="%d">'):format(totals.n, totals.fail, totals.skip) }
  for _, r in ipairs(readers) do
    local counts = { ok = 0, fail = 0, skip = 0 }
    for _, x in ipairs(r.results) do counts[x.outcome] = (counts[x.outcome] or 0) + 1 end
    out[#out + 1] = ('  <testsuite name="%s" tests="%d" failures="%d" skipped="%d" time="%.3f">'):format(xml(r.file), #r.results,
      counts.fail, counts.skip, r.seconds or 0)
    for _, x in ipairs(r.results) do
      local head = ('    <testcase classname="%s" name="%s"'):format(xml(r.file), xml(x.name))
      if x.outcome == "fail" then
        out[#out + 1] = ('%s><failure message="%s">%s</failure></testcase>'):format(head, xml(x.notes[1] or "failed"),
          xml(table.concat(x.notes, "\n")))
      elseif x.outcome == "skip" then
        out[#out + 1] = ('%s><skipped message="%s"/></testcase>'):format(head, xml(x.reason or ""))
      else
        out[#out + 1] = head .. "/>"
      end
    end
    out[#out + 1] = "  </testsuite>"
  end
  out[#out + 1] = "</testsuites>\n"
  local f, err = io.open(path, "w")
  if not f then return nil, err end
  f:write(table.concat(out, "\n"))
  f:close()
  return true
end

local function parent(s, stop)
  local host = require "vmlua.testhost"
  local files = collect(s.paths, host)
  local out = io.stdout
  local totals = { n = 0, ok = 0, fail = 0, skip = 0, tortured = 0 }
  local readers, next_file, running, next_print = {}, 1, 0, 1
  out:setvbuf("line")
  if #files == 0 then
    io.stderr:write("vmlua: no test files there\n")
    return 1
  end
  if not s.list then out:write("TAP version 14\n") end

  local function report(r)
    totals.tortured = totals.tortured + (r.tortured or 0)
    for _, x in ipairs(r.results) do
      if x.outcome == "list" then
        out:write(r.file, ": ", x.name, "\n")
        totals.n = totals.n + 1
      else
        totals.n = totals.n + 1
        totals[x.outcome] = totals[x.outcome] + 1
        out:write(("%s %d - %s: %s%s\n"):format(x.outcome == "fail" and "not ok" or "ok", totals.n, r.file, x.name:gsub("#", "\\#"),
          x.outcome == "skip" and " # SKIP " .. x.reason or ""))
        if x.outcome == "fail" or s.verbose then
          for _, note in ipairs(x.notes) do out:write("#   ", note, "\n") end
        end
        if x.outcome == "fail" then
          out:write("#   run it again: ", text.shell_quote(host.program), " test ", text.shell_quote(r.file), " --filter ",
            text.shell_quote(x.name), s.torture and " --torture " .. s.torture or "", "\n")
        end
      end
    end
  end

  local function start(i)
    local file = files[i]
    local r = new_reader(file)
    readers[i] = r
    running = running + 1
    local argv = { "test", "--child", "--timeout", tostring(s.timeout) }
    for _, key in ipairs { "filter", "torture" } do
      if s[key] then argv[#argv + 1], argv[#argv + 2] = "--" .. key, s[key] end
    end
    for _, key in ipairs { "list", "long" } do
      if s[key] then argv[#argv + 1] = "--" .. key end
    end
    argv[#argv + 1] = file
    local begun = host.now()
    -- The child keeps the time of its tests itself; only one whose script never yields is ended from here.
    host.run(argv, { idle = function() return (r.limit or s.timeout) + 10 end, line = r.line }, function(how)
      r.seconds = host.now() - begun
      r.finish(how)
      r.done = true
      running = running - 1
      while readers[next_print] and readers[next_print].done do
        report(readers[next_print])
        next_print = next_print + 1
      end
    end)
  end

  while next_file <= #files or running > 0 do
    while running < s.jobs and next_file <= #files do
      start(next_file)
      next_file = next_file + 1
    end
    host.step(1)
    if stop() then
      host.kill_all()
      io.stderr:write("vmlua: interrupted; ", ("%d passed, %d failed, %d skipped until then\n"):format(totals.ok, totals.fail, totals.skip))
      return stop()
    end
  end
  if s.list then return 0 end
  out:write(("1..%d\n"):format(totals.n))
  local status = totals.fail > 0 and 1 or 0
  if totals.n == 0 then
    io.stderr:write("vmlua: no test matches\n")
    status = 1
  end
  if s.junit then
    local ok, err = write_junit(s.junit, readers, totals)
    if not ok then
      io.stderr:write("vmlua: --junit: ", err, "\n")
      status = 1
    end
  end
  if s.torture then out:write(("# states saved, spoilt and restored: %d\n"):format(totals.tortured)) end
  out:write(("%d passed, %d failed, %d skipped\n"):format(totals.ok, totals.fail, totals.skip))
  return status
end

--- Runs what `vmlua test …` was given; answers the exit status.
---@param argv string[]
---@param stop fun(): integer? the status of a signal that asked for the end
---@return integer
function runner.main(argv, stop)
  for _, a in ipairs(argv) do
    if a == "--help" or a == "-help" then
      io.stdout:write(runner.help())
      return 0
    end
  end
  local s = parse(argv)
  -- What a signal ends is a test, not what reports it.
  return require("vmlua.core.loop").shielded(s.child and child or parent)(s, stop)
end

return runner

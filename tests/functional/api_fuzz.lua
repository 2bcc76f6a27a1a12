-- Everything that C declares, called with arguments of every kind by tests/lib/api_fuzz.lua, in a process that is to come to
-- its end by itself. VMLUA_FUZZ_SEED varies a run, VMLUA_LONG=1 makes it longer.
local test = require "vmlua.test"

local SEED = math.tointeger(os.getenv "VMLUA_FUZZ_SEED") or 1
local LONG = os.getenv "VMLUA_LONG"
local ROUNDS, CALLS = LONG and 40 or 3, LONG and 10000 or 2000

local program = debug.getinfo(1, "S").source:match "^@(.*)functional/[^/]*$" .. "lib/api_fuzz.lua"

local function run(t, accel)
  for round = 0, ROUNDS - 1 do
    local seed = ("%d"):format(SEED + round)
    t.log("seed", seed)
    local r = t.vmlua { program, seed, ("%d"):format(CALLS), accel }
    for _, sign in ipairs { "CRITICAL", "GLib[%w-]*%-WARNING", "bug in the engine", "Sanitizer", "runtime error" } do
      local at = r.err:find(sign)
      if at then t.fail("%s", r.err:sub(at, at + 2000)) end
    end
    if r.status ~= 0 or not r.out:find "done" then
      t.fail("seed %s ended with status %s, signal %s: %s", seed, r.status, r.signal, r.err:sub(-1000))
    end
  end
end

test("calls of every function with arguments of every kind end in a result or an error, on soft", function(t) run(t, "soft") end)

test("the same on the preferred accelerator", function(t) run(t, "auto") end)

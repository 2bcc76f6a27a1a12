-- Event sources: things that happen in a machine, each with the same four verbs.
--
--   vm:pio{port = 0x80, write = true}:on(function(cpu, x) print(x.value) end)
--   local x, why = vm:exec "main":wait{ rt = 10 }
--   local ring = vm:mmio{addr = 0xfed40000, len = 0x1000}:trace(100)
--   vm:exit "shutdown":run_until{ t = 5 }
--
-- Filters are matched in C (bindings/event.c): what does not match never enters Lua.
local api = require "vmlua.core.api"
local loop = require "vmlua.core.loop"
local sched = require "vmlua.sched"
local strict = require "vmlua.strict"
local text = require "vmlua.text"

local event = {}

---@class Source
---@field machine machine
---@field what string for messages: "pio 0x80"
---@field private _arm fun(fn: function, once: boolean, pauses: boolean): table arms a hook; fn(cpu, x) as the user's
---@field private _ring fun(n: integer): table
local Source = {}
Source.__index = Source
Source.__name = "source"

function Source:__tostring()
  return "source: " .. self.what
end

-- A refusal is the mistake of whoever called the verb: no place in this file belongs into it.
local refusal = text.without_place

local function served(arm, ...)
  local ok, handle = pcall(arm, ...)
  if not ok then error(refusal(handle), 3) end
  return handle
end

--- Calls fn(cpu, x) each time it happens, on the thread on which it happens. fn returns nothing (go on as if it were
--- not there), true (handled: x.value is the answer) or "pause". The hook belongs to the machine: it stays until
--- handle:remove() or until the machine is closed.
---@param fn fun(cpu: x86-cpu?, x: event): boolean|string|nil
---@return event-hook handle remove(), hits, how
function Source:on(fn)
  if type(fn) ~= "function" then
    error(("%s: on() takes a function, got %s"):format(self.what, type(fn)), 2)
  end
  local handle = served(self._arm, fn, false)
  return handle
end

--- A ring of the last n occurrences, kept in C: no Lua on the way.
---@param n integer
---@return event-ring ring list(), total, how, remove()
function Source:trace(n)
  if math.type(n) ~= "integer" or n < 1 or n > 1000000 then
    error(("%s: trace() takes how many it keeps, 1 to 1000000, got %s"):format(self.what, tostring(n)), 2)
  end
  local ring = served(self._ring, n)
  return ring
end

local fields = { "addr", "value", "size", "write", "cpu", "rip", "time", "kind", "args" }

-- What a callback saw, as a table that stays valid.
local insn_fields = { "len", "bytes", "mnemonic", "category", "text", "operands", "cpl" }
local memory_fields = { "old", "fetch", "linear", "paddr" }
local more_fields = { insn = insn_fields, mem = memory_fields, ["mem-phys"] = memory_fields }

local function copy(x)
  if type(x) == "table" then return x end
  local t = {}
  for _, k in ipairs(fields) do t[k] = x[k] end
  for _, k in ipairs(more_fields[t.kind] or {}) do t[k] = x[k] end
  return t
end

-- The functions that end the waits pending on a machine.
local function waits_of(machine)
  local data = api.data(machine)
  data.waits = data.waits or {}
  return data.waits
end

local wait_spec = { t = "number", rt = "number" }

-- The limits of a wait in nanoseconds, checked before anything is armed.
local function limits_of(what, limits)
  strict.check(what, limits, wait_spec, 3)
  local out = {}
  for key, seconds in pairs(limits) do
    if seconds ~= seconds or seconds < 0 then
      error(("%s: %s is to be 0 or more seconds, got %s"):format(what, key, seconds), 3)
    end
    out[key] = sched.ns(seconds)
  end
  return out
end

-- Waits for one occurrence. `seen(cpu, x)` decides in the callback what it returns ("pause" for run_until).
local function wait_once(self, limits, answer, before)
  local machine = self.machine
  local refused
  if sched.before_wait then sched.before_wait(machine) end
  local x, why = sched.suspend(function(wake)
    local hook, guest_timer, wall_timer, listener
    local done = false
    local waits = waits_of(machine)
    local finish
    function finish(...)
      if done then return end
      done = true
      waits[finish] = nil
      if hook then hook:remove() end
      if guest_timer then guest_timer:cancel() end
      if wall_timer then wall_timer:cancel() end
      if listener then listener:remove() end
      wake(...)
    end
    -- Armed first: it may be refused, and then nothing has been started.
    local ok, armed = pcall(self._arm, function(_, x)
      if not done then
        local seen = copy(x)
        -- The coroutine goes on from the main loop, never on the thread of the event.
        loop.later(function() finish(seen) end)
      end
      return answer
    end, true, answer == "pause")
    if not ok then
      refused = refusal(armed)
      return wake()
    end
    hook = armed
    waits[finish] = true
    listener = machine:notify(function(status, reason)
      if status == "closed" then
        finish(nil, "closed")
      elseif status == "error" then
        loop.later(function() finish(nil, reason) end)
      end
    end)
    if limits.t then
      guest_timer = loop.timer(limits.t, function() finish(nil, "timeout") end, machine)
    end
    if limits.rt then
      wall_timer = loop.timer(limits.rt, function() finish(nil, "timeout") end)
    end
    local begun, err = pcall(before or function() end)
    if not begun then
      refused = refusal(err)
      return finish()
    end
    return function() finish(nil, "cancelled") end
  end)
  if refused then error(refused, 3) end
  return x, why
end

--- Waits until it happens; the guest goes on meanwhile and afterwards. Yields: other coroutines and the main loop run.
---@param limits? { t?: number, rt?: number } seconds of guest time, seconds of wall time; none: for ever
---@return table? x what happened; nil with "timeout", "restored" (a snapshot was), "closed", or the machine's error
---@return string? why
function Source:wait(limits)
  local x, why = wait_once(self, limits_of(self.what .. ":wait", limits or {}), nil)
  return x, why
end

--- Resumes the machine, and pauses it exactly where it happens. Without an occurrence in time the machine is paused too.
---@param limits? { t?: number, rt?: number }
---@return table? x
---@return string? why
function Source:run_until(limits)
  limits = limits_of(self.what .. ":run_until", limits or {})
  local machine = self.machine
  local x, why = wait_once(self, limits, "pause", function() machine:resume() end)
  if not machine.gone and machine.status == "running" then
    machine:pause(x and self.what or why)
  end
  return x, why
end

-- Which occurrences: what never matches is refused here, so that no hook stays silent for a wrong number.
local function pick(machine, what, filter, t, level)
  local cpus = #machine.cpus
  if t.cpu and (t.cpu < 1 or t.cpu > cpus) then
    error(("%s: cpu is to be 1 to %d, got %d"):format(what, cpus, t.cpu), 4)
  end
  if t.skip and t.skip < 0 then error(("%s: skip is to be 0 or more, got %d"):format(what, t.skip), level + 1) end
  if t.limit and t.limit < 1 then error(("%s: limit is to be 1 or more, got %d"):format(what, t.limit), level + 1) end
  filter.cpu, filter.skip, filter.limit = t.cpu, t.skip, t.limit
  return filter
end

local function new_source(machine, what, arm, ring)
  return setmetatable({ machine = machine, what = what, _arm = arm, _ring = ring }, Source)
end

--- A source of another module: what it is for messages, how a hook is armed, how a ring is made.
---@param machine machine
---@param what string
---@param arm fun(fn: fun(cpu: x86-cpu?, x: table): any, once: boolean, pauses: boolean): table
---@param ring fun(n: integer): table
---@return Source
function event.source(machine, what, arm, ring)
  local source = new_source(machine, what, arm, ring)
  return source
end

local function hub_source(machine, what, filter)
  return new_source(machine, what,
    function(fn) return machine:_hook(filter, fn) end,
    function(n) return machine:_ring(filter, n) end)
end

local function number(what, key, value)
  if math.type(value) == "integer" then return value end
  local v = text.size(value)
  if not v then error(("%s: %s is no number: %s"):format(what, key, tostring(value)), 4) end
  return v
end

local access_spec = {
  len = "integer|string", write = "boolean", read = "boolean", size = "integer|table", value = "integer", mask = "integer",
  cpu = "integer", skip = "integer", limit = "integer",
}

local function spec_with(extra)
  local spec = {}
  for k, v in pairs(access_spec) do spec[k] = v end
  for k, v in pairs(extra) do spec[k] = v end
  return spec
end

-- First and last as unsigned numbers within 0 to max.
local function check_range(what, filter, max, things)
  local last = filter.addr + filter.len - 1
  if filter.len == 0 then error(what .. ": a len of 0 matches nothing", 4) end
  if math.ult(last, filter.addr) or math.ult(max, last) then
    error(("%s: %d %s from %#x on go beyond the last, %#x"):format(what, filter.len, things, filter.addr, max), 4)
  end
end

-- The filter that the options of an access source say.
local function access_filter(machine, what, source, key, t, max, things)
  local filter = { source = source, addr = number(what, key, t[key]), len = t.len and number(what, "len", t.len) or 1 }
  check_range(what, filter, max, things)
  if t.write ~= nil and t.read ~= nil and not t.write and not t.read then
    error(what .. ": neither read nor write: this matches nothing", 4)
  end
  -- write = true alone means writes only, write = false reads only; likewise read.
  if t.write == true and t.read ~= true or t.read == false then filter.writes = true end
  if t.read == true and t.write ~= true or t.write == false then filter.reads = true end
  if t.size then
    local sizes = 0
    for _, s in ipairs(type(t.size) == "table" and t.size or { t.size }) do
      if s ~= 1 and s ~= 2 and s ~= 4 and s ~= 8 then error(what .. ": size is 1, 2, 4 or 8", 3) end
      sizes = sizes | s
    end
    filter.sizes = sizes
  end
  if t.value then filter.value, filter.mask = t.value & (t.mask or -1), t.mask or -1
  elseif t.mask then error(what .. ": mask without value", 3) end
  pick(machine, what, filter, t, 3)
  return filter
end

local vm = api.methods "machine"

local restore = vm.restore
--- Goes back to a snapshot, of this machine or of another of the same shape, under whatever accelerator. Waits that are
--- pending return nil, "restored". A restore that is refused leaves the machine as it was.
---@param snapshot snapshot
function vm:restore(snapshot)
  served(restore, self, snapshot)
  local pending = {}
  for finish in pairs(waits_of(self)) do pending[#pending + 1] = finish end
  for _, finish in ipairs(pending) do finish(nil, "restored") end
end

local pio_spec = spec_with { port = "!integer|string" }
---@class AccessFilter what pio, mmio, msr and hypercall sources take besides the address
---@field len? integer|string how many ports, bytes or registers (1)
---@field write? boolean only writes (false: only reads)
---@field read? boolean only reads (false: only writes)
---@field size? integer|integer[] access sizes that match (all)
---@field value? integer what is written, under `mask` (any)
---@field mask? integer
---@field cpu? integer only this vCPU, counted from 1
---@field skip? integer let the first ones pass
---@field limit? integer the hook is removed after so many

--- Port accesses: { port = …, and what AccessFilter lists }.
---@param t { port: integer|string }|AccessFilter
---@return Source
function vm:pio(t)
  strict.check("vm:pio", t, pio_spec)
  local filter = access_filter(self, "vm:pio", "pio", "port", t, 0xffff, "ports")
  return hub_source(self, ("pio %#x"):format(filter.addr), filter)
end

local mmio_spec = spec_with { addr = "!integer|string" }
--- Accesses to memory that is not RAM. An address in RAM is refused: it makes no exit.
---@param t { addr: integer|string }|AccessFilter
---@return Source
function vm:mmio(t)
  strict.check("vm:mmio", t, mmio_spec)
  local filter = access_filter(self, "vm:mmio", "mmio", "addr", t, -1, "bytes")
  return hub_source(self, ("mmio %#x"):format(filter.addr), filter)
end

local msr_spec = spec_with { index = "!integer|string" }
--- RDMSR and WRMSR. x.fault = true with a return of true injects #GP.
---@param t { index: integer|string }|AccessFilter
---@return Source
function vm:msr(t)
  strict.check("vm:msr", t, msr_spec)
  local filter = access_filter(self, "vm:msr", "msr", "index", t, 0xffffffff, "registers")
  return hub_source(self, ("msr %#x"):format(filter.addr), filter)
end

local hypercall_spec = { nr = "!integer|string", len = "integer", cpu = "integer", skip = "integer", limit = "integer" }
--- VMCALL/VMMCALL with the number in RAX; x.args holds the arguments, x.value is the result.
---@param t { nr: integer|string, len?: integer, cpu?: integer, skip?: integer, limit?: integer }
---@return Source
function vm:hypercall(t)
  strict.check("vm:hypercall", t, hypercall_spec)
  local filter = access_filter(self, "vm:hypercall", "hypercall", "nr", t, -1, "numbers")
  return hub_source(self, ("hypercall %d"):format(filter.addr), filter)
end

-- Symbols of the images that a machine has loaded: api.data(vm).symbols, a list of Symbols (vmlua.symbols).
local function symbol(machine, name)
  for _, symbols in ipairs(api.data(machine).symbols or {}) do
    local addr = symbols:addr(name)
    if addr then return addr end
  end
end

--- The instruction at an address is about to execute. A name is looked up in the symbols of the image that was loaded.
---@param where integer|string a linear address ("0x7c00" too) or a symbol
---@param t? { cpu?: integer, skip?: integer, limit?: integer }
---@return Source
function vm:exec(where, t)
  t = strict.check("vm:exec", t or {}, { cpu = "integer", skip = "integer", limit = "integer" })
  local addr = where
  if type(where) == "string" then
    addr = where:match "^%d" and text.size(where) or symbol(self, where)
    if not addr then error(("vm:exec: no symbol '%s'"):format(where), 2) end
  elseif math.type(where) ~= "integer" then
    error(("vm:exec: an address or a symbol is expected, got %s"):format(type(where)), 2)
  end
  return hub_source(self, type(where) == "string" and "exec " .. where or ("exec %#x"):format(addr),
    pick(self, "vm:exec", { source = "exec", addr = addr, len = 1 }, t, 2))
end

local insn_spec = {
  addr = "integer|string", len = "integer|string", mnemonic = "string", category = "string", bytes = "string", mask = "string",
  cpl = "integer|table", cpu = "integer", skip = "integer", limit = "integer",
}
---@class InsnFilter which instructions; without any: all
---@field addr? integer|string linear address of the first
---@field len? integer|string how many bytes from there on (1)
---@field mnemonic? string "mov", "syscall" …
---@field category? string Zydis' name of the kind: "call", "cond_br", "stringop", "io" …
---@field bytes? string what its bytes begin with
---@field mask? string which bits of `bytes` count, as many bytes (all)
---@field cpl? integer|integer[] privilege levels
---@field cpu? integer only this vCPU, counted from 1
---@field skip? integer let the first ones pass
---@field limit? integer the hook is removed after so many

--- An instruction is about to execute (soft only): x.addr is its linear address, x.rip, x.bytes, x.len, x.mnemonic, x.category,
--- x.text, x.operands and x.cpl describe it. The callback may change registers; true skips the instruction. A repeated string
--- instruction is one, however many elements it has. An instruction that faults and is restarted happens again.
---@param t? InsnFilter
---@return Source
function vm:insn(t)
  t = strict.check("vm:insn", t or {}, insn_spec)
  local filter = { source = "insn", addr = 0, len = -1, mnemonic = t.mnemonic, category = t.category, bytes = t.bytes }
  if t.addr then
    filter.addr = number("vm:insn", "addr", t.addr)
    filter.len = t.len and number("vm:insn", "len", t.len) or 1
    check_range("vm:insn", filter, -1, "bytes")
  elseif t.len then
    error("vm:insn: len without addr", 2)
  end
  if t.bytes and (#t.bytes == 0 or #t.bytes > 15) then error("vm:insn: bytes is to be 1 to 15 bytes", 2) end
  if t.mask and (not t.bytes or #t.mask ~= #t.bytes) then
    error("vm:insn: mask is to have as many bytes as bytes has", 2)
  end
  filter.bytes_mask = t.mask
  if t.cpl then
    filter.cpls = 0
    for _, level in ipairs(type(t.cpl) == "table" and t.cpl or { t.cpl }) do
      if math.type(level) ~= "integer" or level < 0 or level > 3 then
        error(("vm:insn: cpl is to be 0 to 3, got %s"):format(tostring(level)), 2)
      end
      filter.cpls = filter.cpls | 1 << level
    end
  end
  pick(self, "vm:insn", filter, t, 2)
  return hub_source(self, t.addr and ("insn %#x"):format(filter.addr) or "insn " .. (t.mnemonic or t.category or "any"), filter)
end

local mem_spec = spec_with { addr = "!integer|string", phys = "boolean", virt = "boolean", fetch = "boolean" }
--- Guest code reads or writes memory, RAM and stacks too (soft only): x.value is what is read or written, x.old what a write
--- replaces, x.linear and x.paddr where. Return true to put x.value in its place. `fetch` is for execution of code there, alone
--- unless read or write are said too. What the CPU reads by itself (page tables) is not part of it.
---@param t { addr: integer|string, phys?: boolean, virt?: boolean, fetch?: boolean }|AccessFilter addr: linear, or physical
---@return Source
function vm:mem(t)
  strict.check("vm:mem", t, mem_spec)
  if t.phys and t.virt then error("vm:mem: phys and virt exclude each other", 2) end
  local phys = t.phys or t.virt == false
  local filter = access_filter(self, "vm:mem", phys and "mem-phys" or "mem", "addr", t, -1, "bytes")
  if t.fetch then
    if phys then error("vm:mem: fetch goes with linear addresses only", 2) end
    filter.fetches = true
  end
  return hub_source(self, ("%s %#x"):format(filter.source, filter.addr), filter)
end

--- A line of the interrupt controller changed: x.addr is its number, x.value the level.
---@param n integer
---@param t? { value?: integer, skip?: integer, limit?: integer }
---@return Source
function vm:irq(n, t)
  t = strict.check("vm:irq", t or {}, { value = "integer", skip = "integer", limit = "integer" })
  if math.type(n) ~= "integer" or n < 0 then error("vm:irq: the number of a line is expected", 2) end
  return hub_source(self, ("irq %d"):format(n), pick(self, "vm:irq", {
    source = "irq", addr = n, len = 1, writes = true, value = t.value, mask = t.value and -1 or nil,
  }, t, 2))
end

--- A vCPU left the guest: every time, or for one reason ("hlt", "shutdown", …).
---@param kind? string
---@return Source
function vm:exit(kind)
  if kind ~= nil and type(kind) ~= "string" then error("vm:exit: the name of an exit is expected", 2) end
  local filter = { source = "exit", kind = kind }
  return hub_source(self, "exit " .. (kind or "any"), filter)
end

--- The machine is being reset. (vm:reset() is the verb that resets.)
---@return Source
function vm:resets()
  return hub_source(self, "reset", { source = "reset", addr = 0, len = -1 })
end

--- The run state changed: x.value is the new one's number; vm.status its name.
---@return Source
function vm:status_changes()
  return hub_source(self, "status", { source = "status", addr = 0, len = -1 })
end

local chardev = api.methods "chardev"

-- The machine above an object in the tree; nil for a chardev that belongs to none.
local function machine_of(obj)
  while obj do
    if api.is_object(obj, "machine") then return obj end
    obj = obj.parent
  end
end

--- The guest writes a text (plain, not a pattern). For wait and run_until, what it wrote since the last match on this
--- chardev counts too, so that a text that came just before waiting began is not missed.
---@param what string
---@return Source
function chardev:text(what)
  if type(what) ~= "string" or what == "" then
    error("text: the text to wait for is expected", 2)
  end
  local data = api.data(self)
  local machine = machine_of(self)
  if not machine then error("text: this chardev belongs to no machine", 2) end
  local function arm(fn, once)
    local seen, over = { kind = "text", text = what }, false
    return self:_match(what, function(end_at)
      if over then return end -- whoever waits has its answer; what comes now is for the next wait
      over = once
      data.matched = end_at
      seen.value = end_at
      if fn(nil, seen) == "pause" then machine:pause("text " .. what) end
    end, once and (data.matched or 0) or nil)
  end
  local function ring(n) return self:_match_ring(what, n) end
  return new_source(machine, ("text %q"):format(what), arm, ring)
end

local device = api.methods "device"
local log_spec = { mask = "string", text = "string" }

local function log_source(dev, t)
  strict.check("dev:log", t, log_spec, 3)
  local machine, data = dev.machine, api.data(dev)
  if not machine then error(("dev:log: %s is in no machine"):format(dev.name or dev.type), 3) end
  local what = ("log of %s"):format(dev.name)
  dev:_log_keep()
  local function arm(fn, once, pauses)
    local waited -- the lines after the one that a wait ends with are the next wait's
    return dev:_log_watch(t.mask, t.text, function(mask, line, nr, time)
      if waited then return end
      if once then
        waited = true
        data.logged = nr + 1
      end
      local x = { kind = "log", mask = mask, text = line, value = nr, time = time }
      if fn(nil, x) == "pause" then machine:pause(what .. ": " .. line) end
    end, once and (data.logged or 0) or nil, pauses and what or nil)
  end
  local function ring(n) return dev:_log_ring(t.mask, t.text, n) end
  return new_source(machine, what, arm, ring)
end

--- What a device says of its guest: with a mask ("guest", "unimp", …) and a text, a line in the log in its name.
---
--- With nothing, or a table, it is a source of all such lines, of models in C as of scripts, whether the log shows them or not:
--- `dev:log{ mask = "guest" }:on(function(_, x) print(x.mask, x.text) end)`. `mask` and `text` (what the line contains) narrow
--- it. `on` is told soon after, on the main thread, as a device that logs is in the middle of something; `run_until` pauses
--- where it is logged. For wait and run_until, lines since the last one that was waited for count too, from the first call of
--- log() on, 256 of them; x.value is the number of the line.
---@param ... string|{ mask?: string, text?: string } nothing, a table; or a mask and a text
---@return Source?
function device:log(...)
  local what = ...
  if select("#", ...) == 0 or type(what) == "table" then
    local source = log_source(self, what or {})
    return source
  end
  self:_log(...)
end

return event

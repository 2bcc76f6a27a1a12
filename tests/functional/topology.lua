-- Sockets, cores and threads of -smp, as the guest's CPUID shows them.
local options = require "vmlua.options"
local test = require "vmlua.test"

local function guest(name, fn)
  test(name, function(t)
    t.accel()
    fn(t)
  end)
end

-- mov eax, leaf; mov ecx, index; cpuid; then eax, ebx, ecx, edx to port 0x500
local function ask(leaf, index)
  return ("\x66\xb8%s\x66\xb9%s\x0f\xa2\x66\x89\xd6\xba\x00\x05\x66\xef\x66\x89\xd8\x66\xef\x66\x89\xc8\x66\xef\x66\x89\xf0\x66\xef")
    :format(("<I4"):pack(leaf), ("<I4"):pack(index))
end

local function board(...)
  local code = table.concat { ... } .. "\xeb\xfe"
  return {
    ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      m:place(0x7c00, code)
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    end,
  }
end

local function with(smp)
  local conf = options.parse { "-smp", smp }.conf
  return { smp = conf.smp, topology = conf.topology }
end

local function answers(t, vm, n)
  local got = {}
  vm:pio({ port = 0x500, write = true }):on(function(_, x)
    got[#got + 1] = x.value
    return #got == n and "pause" or true
  end)
  vm:resume()
  t.ok(vm:status_changes():wait { rt = 20 })
  return got
end

guest("a guest sees the sockets, cores and threads that -smp asks for", function(t)
  local vm = t.machine(board(ask(1, 0), ask(0xb, 0), ask(0xb, 1)), with "8,sockets=2,cores=2,threads=2")
  local got = answers(t, vm, 12)
  t.eq((got[2] >> 16) & 0xff, 4, "logical processors a package")
  t.eq(got[2] >> 24, 0, "initial APIC id")
  t.eq((got[4] >> 28) & 1, 1, "HTT")
  t.eq({ got[5], got[6], got[7], got[8] }, { 1, 2, 0x100, 0 })
  t.eq({ got[9], got[10], got[11], got[12] }, { 2, 4, 0x201, 0 })
end)

guest("of several CPUs without a shape a guest sees the cores of one socket", function(t)
  local got = answers(t, t.machine(board(ask(0xb, 0), ask(0xb, 1)), with "3"), 8)
  t.eq({ got[1], got[2], got[3], got[4] }, { 0, 1, 0x100, 0 })
  t.eq({ got[5], got[6], got[7], got[8] }, { 2, 3, 0x201, 0 })
end)

guest("one CPU is alone in its package", function(t)
  local vm = t.machine(board(ask(1, 0)))
  local got = answers(t, vm, 4)
  t.eq((got[2] >> 16) & 0xff, 1)
  -- Some kernels set HTT in whatever CPUID they are given: with one logical processor a package it means nothing.
  if vm.accel ~= "kvm" then t.eq((got[4] >> 28) & 1, 0) end
end)

guest("a shape that APIC ids cannot tell apart is refused", function(t)
  t.raises("cores=3 below sockets=2", t.machine, board "", with "6,sockets=2,cores=3")
  t.raises("unknown key \"core\"", t.machine, board "", { smp = 2, topology = { core = 2 } })
end)

-- The real-time clock and its RAM through a machine's I/O space and the script interface.
local cmos = require "vmlua.cmos"
local options = require "vmlua.options"
local test = require "vmlua.test"

local function make(t, props, conf)
  conf = conf or {}
  return t.machine({
    ram = conf.ram or "64K", cpus = conf.cpus,
    init = function(m)
      m.memory:add(0, m.ram)
      local p = { id = "rtc", base = "2024-02-29T23:59:57", clock = "vm" }
      for k, v in pairs(props or {}) do p[k] = v end
      m:device("mc146818rtc", p)
      m:place(0x7c00, "\xf4\xeb\xfd") -- hlt; jmp to it
      m.cpus[1]:set { cs = 0, rip = 0x7c00, rflags = 2 }
    end,
  })
end

local function get(vm, index)
  vm.io:write_u8(0x70, index)
  return vm.io:read_u8(0x71)
end

local function put(vm, index, value)
  vm.io:write_u8(0x70, index)
  vm.io:write_u8(0x71, value)
end

test("the clock shows the date that it was given", function(t)
  local vm = make(t)
  t.eq({ get(vm, 0x32), get(vm, 9), get(vm, 8), get(vm, 7), get(vm, 4), get(vm, 2), get(vm, 0) },
    { 0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x57 })
  t.eq(vm.rtc.time, 1709251197)
  vm.rtc:set_time(0)
  t.eq({ get(vm, 0x32), get(vm, 9), get(vm, 8), get(vm, 7), get(vm, 6) }, { 0x19, 0x70, 0x01, 0x01, 5 })
end)

test("the alarm reaches line 8 of a machine that runs", function(t)
  local vm = make(t)
  put(vm, 5, 0xc0)
  put(vm, 3, 0xc0)
  put(vm, 1, 0x58)
  put(vm, 0x0b, 0x22)
  t.eq(vm:gsi(8).level, 0)
  vm:start()
  t.wait_for(function() return vm:gsi(8).level == 1 end, 30, "no alarm came")
  t.eq(get(vm, 0x0c) & 0xa0, 0xa0)
  t.eq(vm:gsi(8).level, 0)
end)

test("periodic interrupts come while the machine runs, and only then", function(t)
  local vm = make(t)
  put(vm, 0x0a, 0x26)
  put(vm, 0x0b, 0x42)
  t.sleep(0.02)
  t.eq(vm:gsi(8).level, 0)
  vm:start()
  t.wait_for(function() return vm:gsi(8).level == 1 end, 30, "no periodic interrupt came")
end)

test("the machine's clock stands still while it is paused", function(t)
  local vm = make(t)
  local before = vm.rtc.time
  t.sleep(1.1)
  t.eq(vm.rtc.time, before)
end)

test("RAM is written and read by scripts, and survives a reset", function(t)
  local vm = make(t)
  vm.rtc:set_nvram(0x38, 0x30)
  vm.rtc.nvram[0x80] = 0x12
  t.eq({ get(vm, 0x38), vm.rtc.nvram[0x38], #vm.rtc.nvram }, { 0x30, 0x30, 256 })
  vm.io:write_u8(0x72, 0)
  t.eq(vm.io:read_u8(0x73), 0x12)
  vm:reset()
  t.eq({ get(vm, 0x38), vm.rtc.nvram[0x80] }, { 0x30, 0x12 })
  t.raises("index into the RAM", function() vm.rtc:set_nvram(256, 0) end)
  t.raises("value", function() vm.rtc:set_nvram(0, 256) end)
  t.raises("index", function() vm.rtc.nvram.x = 1 end)
end)

test("cmos.fill describes the machine to its firmware", function(t)
  local vm = make(t, nil, { ram = "128M" })
  cmos.fill(vm, vm.rtc, { below_4g = 128 << 20, above_4g = 5 << 30, boot = "adc", floppy = { "1.44M", "1.2M" }, cpus = 3 })
  local n = vm.rtc.nvram
  t.eq(n[0x15] | n[0x16] << 8, 640)
  t.eq(n[0x17] | n[0x18] << 8, 0xffff)
  t.eq(n[0x30] | n[0x31] << 8, 0xffff)
  t.eq((n[0x34] | n[0x35] << 8) << 16, 112 << 20)
  t.eq((n[0x5b] | n[0x5c] << 8 | n[0x5d] << 16) << 16, 5 << 30)
  t.eq({ n[0x3d], n[0x38] }, { 0x31, 0x20 })
  t.eq({ n[0x10], n[0x14], n[0x5f] }, { 0x42, 0x47, 2 })
  local sum = 0
  for i = 0x10, 0x2d do sum = sum + n[i] end
  t.eq(n[0x2e] << 8 | n[0x2f], sum & 0xffff)
  cmos.boot(vm.rtc, "c", false)
  t.eq({ n[0x3d], n[0x38] }, { 0x02, 0x01 })
  cmos.disks(vm.rtc, { [0] = { 1024, 16, 63 }, [1] = { 6241, 16, 63 }, [3] = { 16383, 16, 63 } })
  t.eq({ n[0x12], n[0x19], n[0x1a], n[0x39] }, { 0xff, 47, 47, 0x44 })
  t.eq({ n[0x1b] | n[0x1c] << 8, n[0x1d], n[0x20], n[0x24] | n[0x25] << 8, n[0x2c] }, { 1024, 16, 0xc8, 6241, 63 })
  t.raises("floppy", function() cmos.fill(vm, vm.rtc, { flopy = {} }) end)
  t.raises("boot device", function() cmos.boot(vm.rtc, "x") end)
  t.raises("more than three", function() cmos.boot(vm.rtc, "acdn") end)
  t.raises("did you mean", function() cmos.floppies(vm.rtc, "1.4M") end)
end)

test("a snapshot takes the clock along", function(t)
  local vm = make(t)
  put(vm, 0x40, 0x5a)
  put(vm, 0x0b, 0x22)
  local s = vm:snapshot()
  put(vm, 0x40, 0)
  put(vm, 0, 0x30)
  vm:restore(s)
  t.eq({ get(vm, 0x40), get(vm, 0x0b) }, { 0x5a, 0x22 })
  t.eq(vm.rtc.time, 1709251197)
end)

test("-rtc is read as elsewhere, and its mistakes are named", function(t)
  local function parse(...) return options.parse { "-rtc", ... } end
  t.eq(parse("base=localtime,clock=vm,driftfix=slew").conf.rtc, { base = "localtime", clock = "vm", driftfix = "slew" })
  t.eq(parse("2024-02-29").conf.rtc.base, "2024-02-29")
  for _, bad in ipairs { "base=tomorrow", "clock=rt2", "driftfix=on", "base=utc,zone=utc" } do
    t.raises("^%-rtc: .*" .. bad:match "(%w+)=?%w*$", function() parse(bad) end)
  end
end)

-- The VGA of the PC: found by SeaBIOS, its text read from the screen, its BARs where firmware put them.
local test = require "vmlua.test"

local function need(t, path)
  local f = io.open(path, "rb")
  if not f then t.skip(path .. " is not there") end
  f:close()
end

local function pc(t, conf)
  need(t, "/usr/share/seabios/bios-256k.bin")
  need(t, "/usr/share/seabios/vgabios-stdvga.bin")
  local settings = { ram = "64M" }
  for k, v in pairs(conf or {}) do settings[k] = v end
  return t.machine("pc", settings)
end

local function booted(t, conf)
  local vm = pc(t, conf)
  vm:start()
  t.ne(vm.screen:text "No bootable device":wait { rt = 60 }, nil, "SeaBIOS has looked for something to boot")
  return vm
end

local function config(vm, register)
  vm.io:write_u32(0xcf8, 0x80000000 | 2 << 11 | register)
  return vm.io:read_u32(0xcfc)
end

test("SeaBIOS runs the VGA BIOS, and its banner stands on the screen", function(t)
  local vm = booted(t)
  t.match(vm.screen:text(), "^SeaBIOS %(version [^\n]+%)\n")
  t.eq(vm.screen.mode, "text")
  local width, height = vm.screen:size()
  t.eq(width, 720)
  t.eq(height, 400)
  local _, row = vm.screen:cursor()
  t.ok(row > 2)
  t.eq(vm.memory:read(0xc0000, 2), "\x55\xaa") -- the shadowed BIOS
end)

test("the function, its frame buffer and its registers are where firmware has put them", function(t)
  local vm = booted(t)
  vm:pause()
  t.eq(config(vm, 0), 0x11111234)
  t.eq(config(vm, 8), 0x03000002)
  local lfb, regs = config(vm, 0x10) & ~0xf, config(vm, 0x18) & ~0xf
  t.ne(lfb, 0)
  t.ne(regs, 0)
  local memory = vm.memory
  local function dispi(i, v) memory:write_u16(regs + 0x500 + 2 * i, v) end
  t.eq(memory:read_u16(regs + 0x500), 0xb0c5)
  t.eq(memory:read_u32(regs + 0x600), 8)
  t.eq(memory:read_u32(regs + 0x604), 0x1e1e1e1e)
  t.eq(memory:read_u8(regs + 0x40c), 0x67) -- port 3cc
  dispi(1, 1024)
  dispi(2, 768)
  dispi(3, 32)
  dispi(4, 0x41)
  t.eq(vm.screen:text(), nil)
  t.eq(select(2, vm.screen:size()), 768)
  memory:write_u32(lfb + 4 * (1024 * 700 + 1000), 0x00c0ffee)
  t.eq(vm.screen:pixel(1000, 700), 0xc0ffee)
  memory:write_u32(regs + 0x604, 0xbebebebe)
  t.eq(vm.screen:pixel(1000, 700), 0xffc000)
  t.eq(memory:read_u32(regs + 0x800), 0xffffffff)
end)

test("a snapshot in a VBE mode brings the picture back, also after text", function(t)
  local vm = booted(t)
  vm:pause()
  local text = vm:snapshot()
  local shown = vm.screen:text()
  local lfb = config(vm, 0x10) & ~0xf
  local function dispi(i, v)
    vm.io:write_u16(0x1ce, i)
    vm.io:write_u16(0x1cf, v)
  end
  for i, v in ipairs { 640, 480, 16, 0x41 } do dispi(i, v) end
  vm.memory:write(lfb, ("\x1f\xf8"):rep(640 * 100))
  local hash = vm.screen:hash()
  local graphics = vm:snapshot()
  vm:restore(text)
  t.eq(vm.screen:text(), shown)
  vm:restore(graphics)
  t.eq(vm.screen:text(), nil)
  t.eq(vm.screen:hash(), hash)
  t.eq(vm.screen:pixel(639, 99), 0xff00ff)
  vm:restore(text)
  t.eq(vm.screen:text(), shown)
end)

test("a reset shows the banner again", function(t)
  local vm = booted(t)
  local times = 0
  vm.screen:text("No bootable device"):on(function() times = times + 1 end)
  vm:reset()
  vm:resume()
  t.ne(vm.screen:text "No bootable device":wait { rt = 60 }, nil)
  t.match(vm.screen:text(), "^SeaBIOS")
end)

test("without a graphics card there is no screen, and firmware goes on", function(t)
  local vm = pc(t, { vga = "none" })
  t.eq(vm.screen, nil)
  vm:start()
  t.ne(vm.data.debugcon:text "No bootable device":wait { rt = 60 }, nil)
end)

test("a graphics card that is none is refused", function(t)
  t.raises("vga: std or none expected, got cga", function() pc(t, { vga = "cga" }) end)
  t.raises("vgamem_mb 5", function() pc(t, { vga = "none", device = { { "VGA", vgamem_mb = 5 } } }) end)
end)

test("a second VGA is refused with the reason", function(t)
  t.raises("overlap", function() pc(t, { device = { { "VGA" } } }) end)
end)

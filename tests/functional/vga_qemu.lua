-- The same option ROM, VGA BIOS and mode here and under QEMU: the same picture. The ROM sets a mode through INT 10h,
-- prints, sets pixels and fills video memory, and says that it is done.
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"
local text = require "vmlua.text"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local guests = dofile(here .. "/../lib/guests.lua")

local QEMU = "/usr/bin/qemu-system-x86_64"
local DONE = "\nrom done\n"

local function word(n) return string.pack("<I2", n) end

-- The pieces of code behind the header, with the checksum at the end.
local function option_rom(parts)
  local code = table.concat(parts)
  local image = "\x55\xaa\x04" .. code
  assert(#image <= 2047)
  image = image .. ("\0"):rep(2047 - #image)
  local sum = 0
  for i = 1, #image do sum = sum + image:byte(i) end
  return image .. string.char(-sum & 0xff)
end

-- Runs `code` for each byte of a string, in AL: the string stands in the ROM and is jumped over.
local function each_byte(s, code)
  s = s .. "\0"
  return "\x0e\x1f\xe8" .. word(#s) .. s .. "\x5e" -- push cs; pop ds; call over; …; pop si
    .. "\xac\x84\xc0\x74" .. string.char(#code + 2) .. code -- lodsb; test al, al; jz end
    .. "\xeb" .. string.char((-(#code + 7)) & 0xff)
end

local function rom_for(mode)
  local parts = {}
  local function add(...) parts[#parts + 1] = table.concat { ... } end
  if mode.vbe then
    add("\xbb", word(mode.vbe), "\xb8\x02\x4f\xcd\x10") -- mov bx, mode; mov ax, 4f02; int 10h
  else
    add("\xb8", word(mode.bios), "\xcd\x10")
  end
  add "\xb4\x01\xb9\x00\x20\xcd\x10" -- no cursor: it blinks
  if not mode.vbe then
    add(each_byte("Hello, \xc9\xcd\xbb 0123456789 gjpqy @#\r\nsecond row", "\xb4\x0e\xbb\x0a\x00\xcd\x10"))
  end
  if mode.text then
    add("\xb8", word(mode.text), "\x8e\xc0\xbf\x20\x03") -- mov es, …; mov di, 160 * 5
    add "\xb9\x00\x02\x31\xc0"                            -- mov cx, 512; xor ax, ax
    -- No blinking; and none of b0 to bf, whose ninth dot QEMU has from the eighth (IBM: c0 to df only).
    add "\x50\x25\xef\x7f\xab\x58\x05\x01\x01\xe2\xf5" -- l: push ax; and ax, 7fef; stosw; pop ax; add ax, 101; loop l
  elseif mode.vbe then
    add "\xb8\x00\xa0\x8e\xc0\x31\xff\xb9\x00\x80\x89\xf8\xab\xe2\xfb" -- a000 is filled with 0, 2, 4 …
  else
    add "\xb9\xc7\x00"                                                     -- mov cx, 199
    add "\x88\xc8\x24\x0f\xb4\x0c\x31\xdb\x89\xca\xcd\x10\xe2\xf2"         -- a pixel at cx, cx of colour cl & 15
  end
  add("\xba\x02\x04", each_byte(DONE, "\xee")) -- mov dx, 402; out dx, al
  add "\xfb\xf4\xeb\xfc"                        -- sti; l: hlt; jmp l
  return option_rom(parts)
end

-- A QEMU with a monitor: q.until_true(what, fn) waits, q.screendump(file) writes its picture, q.quit() ends it.
local function qemu(t, ...)
  local said = ""
  local p = assert(process.spawn {
    argv = { QEMU, "-accel", "tcg", "-M", "pc", "-nodefaults", "-display", "none", "-vga", "std", "-monitor", "stdio", ... },
    stdin = "pipe", stdout = function(bytes) said = said .. (bytes or "") end,
  })
  local q = {}
  function q.until_true(what, fn)
    for _ = 1, 3000 do
      if fn() then return end
      if not p.running then break end
      sched.sleep(0.01)
    end
    p:kill(9)
    t.fail(("qemu: %s; it said %q"):format(what, said))
  end
  function q.screendump(file)
    os.remove(file)
    p:write(("screendump %s -f png\n"):format(file))
    q.until_true("no screendump", function()
      local bytes = text.read_file(file, 64 << 20)
      return bytes and bytes:sub(-8, -5) == "IEND"
    end)
  end
  function q.quit()
    p:write "quit\n"
    q.until_true("does not quit", function() return not p.running end)
  end
  return q
end

-- The picture that QEMU has of a mode, as a PNG file.
local function qemu_picture(t, rom, dir)
  local log, png = dir .. "/qemu.log", dir .. "/qemu.png"
  local q = qemu(t, "-m", "64", "-option-rom", rom, "-chardev", "file,id=log,path=" .. log,
    "-device", "isa-debugcon,iobase=0x402,chardev=log")
  q.until_true("the ROM never ended", function()
    local bytes = text.read_file(log, 1 << 20)
    return bytes and bytes:find(DONE, 1, true)
  end)
  q.screendump(png)
  q.quit()
  return png
end

local function need(t, path)
  local f = io.open(path, "rb")
  if not f then t.skip(path .. " is not there") end
  f:close()
end

-- Not 40 columns of text, whose characters of 9 dots QEMU draws with 8; not planar VBE modes, where it shows nothing.
local modes = {
  { name = "80 columns of text", bios = 0x03, text = 0xb800 },
  { name = "monochrome text", bios = 0x07, text = 0xb000 },
  { name = "320 x 200 x 4", bios = 0x04 },
  { name = "640 x 200 x 2", bios = 0x06 },
  { name = "320 x 200 x 16", bios = 0x0d },
  { name = "640 x 200 x 16", bios = 0x0e },
  { name = "640 x 350 x 16", bios = 0x10 },
  { name = "640 x 480 x 2", bios = 0x11 },
  { name = "640 x 480 x 16", bios = 0x12 },
  { name = "320 x 200 x 256", bios = 0x13 },
  { name = "VBE 640 x 480 x 8", vbe = 0x101 },
  { name = "VBE 640 x 480 x 15", vbe = 0x110, tolerance = 7 },
  { name = "VBE 800 x 600 x 16", vbe = 0x114 },
  { name = "VBE 1024 x 768 x 24", vbe = 0x118 },
  { name = "VBE 640 x 480 x 32", vbe = 0x142 },
}

for _, mode in ipairs(modes) do
  test("QEMU has the same picture of " .. mode.name, function(t)
    need(t, QEMU)
    need(t, "/usr/share/seabios/vgabios-stdvga.bin")
    local dir = t.tmpdir()
    local rom = dir .. "/rom.bin"
    local f = assert(io.open(rom, "wb"))
    f:write(rom_for(mode))
    f:close()
    local theirs = qemu_picture(t, rom, dir)
    local vm = t.machine("pc", { ram = "64M", option_rom = rom })
    vm:start()
    t.ne(vm.data.debugcon:text(DONE):wait { rt = 60 }, nil, "the ROM has ended")
    -- 6 bits of a DAC, and 5 of a pixel, are taken to 8 in different ways.
    local same, info = vm.screen:match(theirs, { tolerance = mode.tolerance or 3 })
    t.eq(same, true, type(info) == "table"
      and ("%d pixels differ, first at %s,%s, by up to %d"):format(info.different, info.x, info.y, info.worst) or info)
  end)
end


test("GRUB's rescue CD shows its menu and its shell, as under QEMU", { timeout = 300 }, function(t)
  need(t, QEMU)
  local iso = guests.path(t, "grub-rescue/cdrom.iso")
  local dir = t.tmpdir()
  local vm = t.machine("pc", { ram = "128M", cdrom = iso, boot = "d", accel = "soft" })
  vm:start()
  t.ne(vm.screen:text "Change the colors":wait { rt = 120 }, nil, "the menu is there")
  t.match(vm.screen:text(), "GNU GRUB  version")
  t.match(vm.screen:text(), " │%*GNU/Linux +│\n")
  local q = qemu(t, "-m", "128", "-cdrom", iso, "-boot", "d")
  local png = dir .. "/menu.png"
  q.until_true("its menu does not look as ours", function()
    q.screendump(png)
    -- Below this a countdown goes on.
    return select(2, vm.screen:size()) == 400 and vm.screen:match(png, { tolerance = 3, roi = { 0, 0, 720, 352 } })
  end)
  q.quit()
  vm.keyboard:type "c"
  t.ne(vm.screen:text "grub>":wait { rt = 120 }, nil, "the shell is there")
  vm.keyboard:type "ls (cd)/\n"
  t.ne(vm.screen:text "boot/":wait { rt = 120 }, nil, "the shell lists the CD")
end)

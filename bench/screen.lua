-- A guest that scrolls text and fills frames, here and under QEMU with the same kind of accelerator, from the same option
-- ROM: vmlua bench/screen.lua [soft|kvm]. Nobody looks at the screen meanwhile.
local loop = require "vmlua.core.loop"
local machine = require "vmlua.machine"
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local text = require "vmlua.text"

local accel = arg and arg[1] or "soft"
local ROM, LOG = os.tmpname(), os.tmpname()

local function word(n) return string.pack("<I2", n & 0xffff) end

local function say(byte) return "\xba\x02\x04\xb0" .. byte .. "\xee" end -- mov dx, 402; mov al, byte; out dx, al

-- { what, mode, rounds here and under QEMU, segment, code of a round with ES = DS = segment }
local rounds = {
  { "80 x 25 text scrolled by a line", 0x03, { 60000, 3000 }, 0xb800,
    "\xbe\xa0\x00\x31\xff\xb9\x80\x07\xf3\xa5\xb9\x50\x00\xb8\x41\x07\xf3\xab" }, -- rep movsw of 1920, rep stosw of 80
  { "320 x 200 x 256, a frame filled", 0x13, { 60000, 5000 }, 0xa000, "\x31\xff\xb9\x00\x7d\xf3\xab" },
  { "640 x 480 x 16, a frame filled", 0x12, { 300, 300 }, 0xa000, "\x31\xff\xb9\x00\x96\xf3\xaa" },
  -- 48 banks of 64 KiB: bx counts them, port 1ce selects, rep stosd fills.
  { "1024 x 768 x 32 (VBE), a frame filled", 0x4144, { 1000, 50 }, 0xa000, "\x31\xdb\xba\xce\x01\xb8\x05\x00\xef\x42\x89\xd8\xef\x31\xff"
    .. "\xb9\x00\x40\xf3\x66\xab\x43\x83\xfb\x30\x72\xe7" },
}

local function write_rom(r, rounds_of_it)
  local body = r[5]
  local set = r[2] < 0x100 and "\xb8" .. word(r[2]) or "\xbb" .. word(r[2] & ~0x4000) .. "\xb8\x02\x4f" -- bx: the mode, by banks
  local code = set .. "\xcd\x10\xb8" .. word(r[4]) .. "\x8e\xd8\x8e\xc0" .. say "\x01"
    .. "\xbd" .. word(rounds_of_it) .. body .. "\x4d\x0f\x85" .. word(-(#body + 5)) -- mov bp, n; l: body; dec bp; jnz l
    .. say "\x02" .. "\xfb\xf4\xeb\xfc"
  local image = "\x55\xaa\x04" .. code
  image = image .. ("\0"):rep(2047 - #image)
  local sum = 0
  for i = 1, #image do sum = sum + image:byte(i) end
  local f <close> = assert(io.open(ROM, "wb"))
  f:write(image, string.char(-sum & 0xff))
end

local function here()
  local vm <close> = machine.new("pc", { ram = "64M", accel = accel, option_rom = ROM })
  local began, ended
  vm.data.debugcon:text("\1"):on(function() began = began or loop.now() end)
  local done = vm.data.debugcon:text "\2"
  vm:start()
  assert(done:wait { rt = 300 })
  ended = loop.now()
  return (ended - began) / 1e9
end

local function qemu()
  os.remove(LOG)
  local p = process.spawn {
    argv = { "qemu-system-x86_64", "-accel", accel == "soft" and "tcg" or accel, "-M", "pc", "-m", "64", "-nodefaults",
      "-display", "none", "-vga", "std", "-option-rom", ROM, "-chardev", "file,id=log,path=" .. LOG,
      "-device", "isa-debugcon,iobase=0x402,chardev=log" },
  }
  if not p then return nil end
  local began
  while p.running do
    local bytes = text.read_file(LOG, 1 << 20) or ""
    if bytes:find("\1", 1, true) then began = began or loop.now() end
    if bytes:find("\2", 1, true) then break end
    sched.sleep(0.0005)
  end
  local ended = loop.now()
  p:kill(9)
  return began and (ended - began) / 1e9
end

print(("%-40s %14s %14s %8s"):format("a second, " .. accel, "vmlua", "QEMU", "ratio"))
for _, r in ipairs(rounds) do
  write_rom(r, r[3][1])
  local a = here() / r[3][1]
  write_rom(r, r[3][2])
  local b = qemu()
  b = b and b / r[3][2]
  print(("%-40s %14.0f %14s %8s"):format(r[1], 1 / a, b and ("%.0f"):format(1 / b) or "-", b and ("%.2f"):format(b / a) or "-"))
end
os.remove(ROM)
os.remove(LOG)

--[[
The text mode that a VGA BIOS leaves a kernel in: mode 3, 80 by 25 characters of 9 by 16 dots, colours as of an EGA, and what the BIOS data
area says about it. Registers: IBM VGA/XGA Technical Reference, "Video subsystem", the standard modes. The font is the one in
the VGA BIOS' image: without that there is no text mode.
]]
local firmware = require "vmlua.core.firmware"
local text = require "vmlua.text"

local vgatext = {}

local IMAGE = "vgabios-stdvga.bin"
local GLYPHS, HEIGHT = 256, 16
local BLANK, SMILE = ("\0"):rep(HEIGHT), "\0\0\x7e\x81\xa5\x81\x81\xbd\x99\x81\x81\x7e\0\0\0\0"
local LETTER_A = "\0\0\x10\x38\x6c\xc6\xc6\xfe\xc6\xc6\xc6\xc6\0\0\0\0"

local MISC = 0x67
local SEQUENCER = { 0x03, 0x00, 0x03, 0x00, 0x02 }
local CRTC = {
  0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96,
  0xb9, 0xa3, 0xff,
}
local GRAPHICS = { 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x0f, 0xff }
local ATTRIBUTE = {
  0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00,
}

--- The 8 by 16 font of a VGA BIOS' image: its first glyphs and its A are known. nil: it is not there.
---@param image string
---@return string? font 256 glyphs of 16 bytes
function vgatext.font(image)
  local at = image:find(BLANK .. SMILE, 1, true)
  local font = at and image:sub(at, at + GLYPHS * HEIGHT - 1)
  return font and #font == GLYPHS * HEIGHT and font:sub(65 * HEIGHT + 1, 66 * HEIGHT) == LETTER_A and font or nil
end

local function indexed(io, port, values)
  for i, v in ipairs(values) do io:write_u16(port, i - 1 | v << 8) end
end

local function palette(io)
  io:write_u8(0x3c6, 0xff)
  io:write_u8(0x3c8, 0)
  for i = 0, 63 do -- rgbRGB: a third and two thirds of each
    for _, bit in ipairs { 2, 1, 0 } do
      io:write_u8(0x3c9, (i >> bit & 1) * 0x2a + (i >> bit + 3 & 1) * 0x15)
    end
  end
end

-- Plane 2, 32 bytes a glyph, with the planes laid open.
local function load_font(m, font)
  local glyphs = {}
  for i = 0, GLYPHS - 1 do glyphs[i + 1] = font:sub(i * HEIGHT + 1, (i + 1) * HEIGHT) .. ("\0"):rep(32 - HEIGHT) end
  indexed(m.io, 0x3c4, { 0x03, 0x00, 0x04, 0x00, 0x06 })
  indexed(m.io, 0x3ce, { 0, 0, 0, 0, 0, 0x00, 0x04, 0, 0xff })
  m.memory:write(0xa0000, table.concat(glyphs))
end

local function set(m, font)
  local io = m.io
  io:write_u8(0x3c2, MISC)
  io:write_u16(0x3d4, 0x0011) -- the first CRTC registers are no longer protected
  indexed(io, 0x3d4, CRTC)
  io:read_u8(0x3da)
  for i, v in ipairs(ATTRIBUTE) do
    io:write_u8(0x3c0, i - 1)
    io:write_u8(0x3c0, v)
  end
  io:write_u8(0x3c0, 0x20) -- the screen is on
  palette(io)
  load_font(m, font)
  indexed(io, 0x3ce, GRAPHICS)
  indexed(io, 0x3c4, SEQUENCER)
  m.memory:write(0xb8000, (" \7"):rep(80 * 25))
  m.memory:write(0x449, string.pack("<I1I2I2I2", 3, 80, 0x1000, 0)) -- mode, columns, size of the page, its start
  m.memory:write(0x463, string.pack("<I2I1I1", 0x3d4, 0x29, 0x30)) -- CRTC's port, mode and colour registers of a CGA
  m.memory:write(0x484, string.pack("<I1I2I1", 24, 16, 0x60)) -- rows less one, height of the characters, video control
end

--- Sets the mode now and at each reset. Answers whether there is a VGA, and its BIOS' image for the font.
---@param m machine
---@return boolean
function vgatext.install(m)
  if not m:resolve "vga" then return false end
  local path = firmware.find(IMAGE)
  local image = path and text.read_file(path, 1 << 20)
  local font = image and vgatext.font(image)
  if not font then return false end
  set(m, font)
  m:on_reset(function() set(m, font) end)
  return true
end

return vgatext

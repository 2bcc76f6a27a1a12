--[[
Starting a kernel on a PC without firmware: what firmware leaves behind for it, and nothing else.

    0x00000400  BIOS data area: where the extended one is, base memory in KiB
    0x0009fc00  extended BIOS data area: ACPI's root pointer, where systems look for it
    0x000f0000  SMBIOS entry point and tables (the RAM below the BIOS, opened by the host bridge's PAM registers)
    top of RAM below 4 GiB: ACPI tables, reserved

registers of the chip set: where power management and SMBus are; and the VGA in its text mode.
]]
local firmware = require "vmlua.core.firmware"
local linux = require "vmlua.loader.linux"
local loader = require "vmlua.loader"
local text = require "vmlua.text"
local vgatext = require "vmlua.vgatext"

local directboot = {}

local KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
local EBDA, ROM_AREA = 0x9fc00, 0xf0000
local RESERVED = 2

local function refuse(format, ...) error(format:format(...), 0) end

-- Selectors of fw_cfg by which firmware, or the option ROM linuxboot, finds a kernel.
local FW = {
  kernel_addr = 0x07, kernel_size = 0x08, initrd_addr = 0x0a, initrd_size = 0x0b, kernel = 0x11, initrd = 0x12, cmdline_addr = 0x13,
  cmdline_size = 0x14, cmdline = 0x15, setup_addr = 0x16, setup_size = 0x17, setup = 0x18,
}
local OPTION_ROM = "linuxboot_dma.bin"

--- Gives a Linux kernel to firmware: OVMF takes it from fw_cfg itself; for SeaBIOS an option ROM of the same
--- interface (Debian's package qemu-system-data) loads it, and is first in the boot order. Its set-up code runs in
--- real mode with the BIOS at hand, so that kernels start which a start without firmware cannot serve.
---@param m machine
---@param spec { kernel: string, initrd?: string, append?: string, below: integer }
---@return string device name of the boot order
function directboot.through_firmware(m, spec)
  local bytes, err = text.read_file(spec.kernel, 1 << 31)
  if not bytes then refuse("-kernel: %s", err) end
  local image, why = loader.parse(bytes, spec.kernel, { format = "linux", protocol = spec.protocol })
  if not image then refuse("-kernel: %s (through firmware, -bios)", why) end
  -- Firmware has its own tables at the end of low RAM.
  local items, bad = linux.items(image, bytes, { ram = spec.below - MiB, cmdline = spec.append, modules = loader.modules(spec.initrd) })
  if not items then refuse("-kernel: %s", bad) end
  for _, what in ipairs { "kernel", "initrd", "cmdline", "setup" } do
    m.fw_cfg:set(FW[what .. "_addr"], string.pack("<I4", items[what .. "_addr"]))
    m.fw_cfg:set(FW[what .. "_size"], string.pack("<I4", #items[what]))
    m.fw_cfg:set(FW[what], items[what])
  end
  local path, missing = firmware.find(OPTION_ROM)
  if not path then refuse("-kernel: %s", missing) end
  local rom, unreadable = text.read_file(path, MiB)
  if not rom then refuse("-kernel: %s", unreadable) end
  m.fw_cfg:add("genroms/" .. OPTION_ROM, rom)
  return "/rom@genroms/" .. OPTION_ROM
end

---@class DirectBoot
---@field kernel string path of the image
---@field initrd? string as -initrd has it
---@field append? string command line
---@field protocol? string of a Linux kernel
---@field below integer bytes of RAM below 4 GiB
---@field above integer and above
---@field acpi AcpiSet
---@field smbios { place: fun(base: integer): string }
---@field chipset fun(m: machine) sets the chip set's registers as firmware would; at each reset

--- Makes the machine start with a kernel, now and after each reset.
---@param m machine
---@param spec DirectBoot
function directboot.install(m, spec)
  local image, err = loader.read(spec.kernel, { protocol = spec.protocol })
  if not image then refuse("-kernel: %s", err) end
  if image.mode == "real" then
    refuse("-kernel: %s: neither Linux, Multiboot, PVH nor ELF; a boot sector is a disk's (-hda, -fda)", spec.kernel)
  end
  local reserved = (spec.acpi.size + 64 + 64 * KiB - 1) & -64 * KiB
  local top = spec.below - reserved
  if top < 2 * MiB then refuse("-kernel: %s: a machine with %s of RAM is too small", spec.kernel, text.format_size(spec.below)) end
  local tables = spec.acpi:place(top)
  local map = {
    { addr = 0, size = EBDA }, { addr = EBDA, size = 0xa0000 - EBDA, kind = RESERVED },
    { addr = ROM_AREA, size = MiB - ROM_AREA, kind = RESERVED },
    { addr = MiB, size = top - MiB }, { addr = top, size = reserved, kind = RESERVED },
  }
  if spec.above > 0 then map[#map + 1] = { addr = 4 * GiB, size = spec.above } end
  local placement, why = loader.place(image, {
    ram = top, map = spec.above > 0 and 4 * GiB + spec.above or nil, cmdline = spec.append, modules = loader.modules(spec.initrd),
    memory_map = map, rsdp = EBDA + 16, screen = vgatext.install(m),
  })
  if not placement then refuse("-kernel: %s", why) end
  m:on_reset(function() spec.chipset(m) end)
  spec.chipset(m)
  m:place(0x40e, string.pack("<I2", EBDA >> 4))
  m:place(0x413, string.pack("<I2", EBDA >> 10))
  m:place(EBDA, "\1") -- its size in KiB
  m:place(EBDA + 16, tables.root)
  m:place(top, tables.bytes)
  m:place(ROM_AREA, spec.smbios.place(ROM_AREA))
  loader.install(m, placement)
end

return directboot

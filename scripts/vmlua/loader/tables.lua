--[[
Descriptors and page tables that a boot loader leaves behind. Source: Intel SDM volume 3A, chapters 3 and 4.
]]
local tables = {}

local PAGE = 4096

tables.MAP_MAX = 512 << 30 -- what one page directory pointer table maps

--- A flat 32-bit (and, for code, 64-bit) descriptor table: code at selector `code` (0x08), data right behind it.
---@param long boolean
---@param code? integer
---@return string
function tables.gdt(long, code)
  local descriptor = long and 0x00AF9B000000FFFF or 0x00CF9B000000FFFF
  return ("\0"):rep(code or 8) .. string.pack("<i8i8", descriptor, 0x00CF93000000FFFF)
end

--- How many bytes `page_tables` of so much memory are.
---@param bytes integer
---@return integer
function tables.page_tables_size(bytes)
  return (2 + math.max(1, (bytes + (1 << 30) - 1) >> 30)) * PAGE
end

--- Page tables that map the first `bytes` of memory one to one in 2 MiB pages.
---@param base integer page-aligned address of the tables
---@param bytes integer rounded up to whole GiB
---@return string
function tables.page_tables(base, bytes)
  local gib = math.max(1, (bytes + (1 << 30) - 1) >> 30)
  assert(gib <= tables.MAP_MAX >> 30, "identity map of more than 512 GiB")
  local flags = 0x3 -- present, writable
  local out = { string.pack("<i8", base + PAGE | flags) .. ("\0"):rep(PAGE - 8) }
  local pdpt = {}
  for i = 0, gib - 1 do pdpt[#pdpt + 1] = string.pack("<i8", base + (2 + i) * PAGE | flags) end
  out[#out + 1] = table.concat(pdpt) .. ("\0"):rep(PAGE - 8 * gib)
  for i = 0, gib - 1 do
    local pd = {}
    for j = 0, 511 do pd[#pd + 1] = string.pack("<i8", i << 30 | j << 21 | 0x83) end
    out[#out + 1] = table.concat(pd)
  end
  return table.concat(out)
end

return tables

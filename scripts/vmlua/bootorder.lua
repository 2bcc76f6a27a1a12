--[[
The order in which firmware tries devices, from their property `bootindex`: the file "bootorder" of fw_cfg, a line a
device, in the notation of Open Firmware paths as SeaBIOS (boot.c) and OVMF read it.

    m.fw_cfg:add("bootorder", function() return bootorder.text(m, { strict = true }) end)
]]
local bootorder = {}

-- Names of nodes by base class and subclass.
local kinds = {
  [0x0100] = "scsi", [0x0101] = "ide", [0x0106] = "ide", [0x0200] = "ethernet", [0x0300] = "display", [0x0604] = "pci-bridge",
}

local function pci_path(dev)
  local where = dev.func > 0 and ("%x,%x"):format(dev.slot, dev.func) or ("%x"):format(dev.slot)
  local class = dev:config_read(8) >> 8
  local node = ("%s@%s"):format(kinds[class >> 8] or ("pci%04x,%04x"):format(dev:config_read(0, 2), dev:config_read(2, 2)), where)
  local bridge = dev.pci_bus.parent
  if bridge:is_a "pci-device" then return pci_path(bridge) .. "/" .. node end
  return "/pci@i0cf8/" .. node
end

local function path_of(dev)
  if dev:is_a "pci-device" then
    local class = dev:config_read(8) >> 16
    if class & 0xff00 == 0x0200 then return pci_path(dev) .. "/ethernet-phy@0" end
    if class == 0x0100 then return pci_path(dev) .. "/disk@0,0" end
    return pci_path(dev)
  end
  local channel = dev.bus
  local n = channel.name:match "^ide%.(%d+)$"
  local controller = channel.parent
  if not n or not controller:is_a "pci-device" then return nil end
  return ("%s/drive@%x/disk@%x"):format(pci_path(controller), math.tointeger(n), dev.unit)
end

--- The devices of a machine that have a place in the order: { index, path } each, first the first.
---@param m machine
---@return { index: integer, path: string }[]
function bootorder.list(m)
  local list = {}
  for dev in m:walk() do
    if dev:is_a "pci-device" or dev:is_a "ide-hd" or dev:is_a "ide-cd" then
      local index = dev.bootindex
      local path = index and index >= 0 and path_of(dev)
      if path then list[#list + 1] = { index = index, path = path } end
    end
  end
  table.sort(list, function(a, b) return a.index < b.index or a.index == b.index and a.path < b.path end)
  for i = 2, #list do
    if list[i].index == list[i - 1].index then
      error(("bootindex %d: %s and %s"):format(list[i].index, list[i - 1].path, list[i].path), 0)
    end
  end
  return list
end

--- The file's bytes. Options: first, what is tried before all others; strict, nothing that has no bootindex is tried.
---@param m machine
---@param o? { strict?: boolean, first?: string }
---@return string
function bootorder.text(m, o)
  local lines = {}
  lines[1] = o and o.first
  for _, entry in ipairs(bootorder.list(m)) do lines[#lines + 1] = entry.path end
  if o and o.strict then lines[#lines + 1] = "HALT" end
  if #lines == 0 then return "" end
  return table.concat(lines, "\n") .. "\0"
end

return bootorder

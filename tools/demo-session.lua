--[[
What `./dev demo` does where nobody sits at a terminal: the same machine, a short session in its shell by this script, and its end.

    vmlua tools/demo-session.lua DISK [COMMAND…]

All that the guest writes to its serial port is shown. What it writes to the disk is gone at the end, as with -snapshot.
]]
local machine = require "vmlua.machine"

local BOOT, ANSWER = 900, 120 -- seconds after which something is wrong

local disk, commands = assert(..., "a disk is to be named"), { select(2, ...) }
if #commands == 0 then
  commands = { "cat /etc/debian_version", "systemctl is-system-running --wait", "df -h /", "lspci", "echo 6 x 7 = $((6*7))" }
end
local vm = machine.new("pc", { accel = "auto", ram = "512M", smp = 2, hda = disk, snapshot = true,
  serial = { "stdio" } })

local function expect(text, limit)
  local seen, why = vm.serial[1]:text(text):wait { rt = limit }
  if not seen then error(("the guest did not write %q: %s"):format(text, why), 0) end
end

vm:start()
expect("root@vmlua:~# ", BOOT)
for i, line in ipairs(commands) do
  vm.serial[1]:write(("%s; echo done-%d\n"):format(line, i))
  expect(("\ndone-%d"):format(i), ANSWER)
end
vm.serial[1]:write "poweroff\n"
local status, why = vm:wait { rt = ANSWER }
if status ~= "shutdown" then error(("the guest did not power off: %s"):format(why or status), 0) end
print(("\nscript: the guest powered off (%s), status %d"):format(vm.reason, vm.exit_code))

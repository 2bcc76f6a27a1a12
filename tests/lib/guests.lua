-- Real guests, as tools/fetch-guests leaves them below guests/; a test whose guest is not there is skipped with the reason.
local cpio = require "vmlua.cpio"

local guests = {}

local root = debug.getinfo(1, "S").source:match("^@(.*)/lib/[^/]*$") .. "/../guests/"

--- The path of a guest's file, or the end of the test as skipped.
function guests.path(t, name)
  local path = root .. name
  local f = io.open(path, "rb")
  if not f then t.skip(("guests/%s is not there: tools/fetch-guests"):format(name)) end
  f:close()
  return path
end

local function read(path)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read "a"
  f:close()
  return bytes
end

local INIT = [[
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
stty -echo
PS1="ready> " exec setsid cttyhack sh
]]

--- An initramfs with a shell on the first serial port, as a file.
function guests.initramfs(t, busybox, more)
  local entries = {
    { "init", data = INIT, mode = "0755" }, { "proc", dir = true }, { "sys", dir = true }, { "dev", dir = true },
    { "dev/console", char = { 5, 1 } }, { "bin/busybox", data = read(guests.path(t, "busybox/" .. (busybox or "busybox"))), mode = "0755" },
  }
  for _, e in ipairs(more or {}) do entries[#entries + 1] = e end
  return t.file("initramfs.cpio", cpio.pack(entries))
end

--- A conversation with a shell behind a serial port: shell("uname") answers what it printed.
function guests.shell(t, port, limit)
  local n = 0
  return function(line)
    n = n + 1
    local mark = ("done-%d-"):format(n)
    port:write(("%s; echo %s$?\n"):format(line, mark))
    local from = #port:history()
    local text
    t.wait_for(function()
      text = port:history():sub(from + 1):match("^(.-)" .. mark:gsub("%-", "%%-") .. "%d+\r?\n")
      return text
    end, limit or 30, ("the shell's answer to %q"):format(line))
    return (text:gsub("\r", ""):gsub("^ready> ", ""))
  end
end

return guests

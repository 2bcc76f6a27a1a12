-- Real guests, as tools/fetch-guests leaves them below guests/; a test whose guest is not there is skipped with the reason.
local cpio = require "vmlua.cpio"

local guests = {}

local root = debug.getinfo(1, "S").source:match("^@(.*)/lib/[^/]*$") .. "/../guests/"

--- The path of a guest's file, or the end of the test as skipped.
function guests.path(t, name, maker)
  local path = root .. name
  local f = io.open(path, "rb")
  if not f then t.skip(("guests/%s is not there: %s"):format(name, maker or "tools/fetch-guests")) end
  f:close()
  return path
end

--- All of a file of the host.
function guests.read(path)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read "a"
  f:close()
  return bytes
end
local read = guests.read

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

local n = 0 -- of marks: a second shell behind a port must not find those of the first

--- A conversation with a shell behind a serial port: shell("uname") answers what it printed.
function guests.shell(t, port, limit)
  return function(line)
    n = n + 1
    port:write(("echo begin-%d-; %s; echo done-%d-$?\n"):format(n, line, n))
    local text
    t.wait_for(function()
      -- Between marks, since only the last 64 KiB are kept; where the line itself comes back it has no newline there.
      text = port:history():match(("begin%%-%d%%-\r?\n(.-)done%%-%d%%-%%d+\r?\n"):format(n, n))
      return text
    end, limit or 30, ("the shell's answer to %q"):format(line))
    return (text:gsub("\r", ""):gsub("^ready> ", ""))
  end
end

--- Linux under the software CPU on the pc, with modules of its package loaded, in this order. conf is the machine's; its kernel is a folder
--- below guests/ (linux-amd64). Answers the machine and its shell.
function guests.linux_with(t, modules, conf)
  local folder = conf.kernel or "linux-amd64"
  local files = {}
  for i, m in ipairs(modules) do files[i] = { ("m/%s.ko"):format(m), data = read(guests.path(t, ("%s/%s.ko"):format(folder, m))) } end
  conf.accel, conf.ram, conf.append = "soft", conf.ram or "256M", "console=ttyS0 panic=-1"
  conf.kernel = guests.path(t, folder .. "/vmlinuz")
  conf.initrd = guests.initramfs(t, folder == "linux-686" and "busybox-i386" or "busybox", files)
  local vm = t.machine("pc", conf)
  vm:start()
  t.ok(vm.serial[1]:text "ready> ":wait { rt = 240 }, "no shell came:\n%s", vm.serial[1]:history():sub(-1000))
  local sh = guests.shell(t, vm.serial[1], 300)
  sh "dmesg -n 1"
  for _, m in ipairs(modules) do t.eq(sh(("insmod /m/%s.ko"):format(m)), "") end
  return vm, sh
end

--- Lets the alarm come that a guest has set in the clock, however far away: it is a second before it now.
function guests.soon(vm)
  local function number(index)
    local bcd = vm.rtc.nvram[index]
    return (bcd >> 4) * 10 + (bcd & 15)
  end
  local now, at = vm.rtc.time, number(5) * 3600 + number(3) * 60 + number(1) - 1
  vm.rtc:set_time(now + (at - now) % 86400)
end

--- Ends the test as skipped where a program is not there.
function guests.need(t, program, package)
  if not os.execute(("command -v %s >/dev/null"):format(program)) then t.skip(("%s is missing (package %s)"):format(program, package)) end
end

--- Runs a command of the host; answers what it prints.
function guests.run(t, format, ...)
  local pipe = assert(io.popen(format:format(...) .. " 2>&1"))
  local text = pipe:read "a"
  if not pipe:close() then t.fail("%s:\n%s", format:format(...), text) end
  return text
end

--- A new qcow2 disk that lies over the Debian one of tools/make-debian-disk, which it leaves as it is.
function guests.debian_disk(t)
  local base = guests.path(t, "debian/disk.qcow2", "tools/make-debian-disk")
  local real = guests.run(t, "readlink -f %s", base):gsub("\n", "")
  local path = t.tmpdir() .. "/disk.qcow2"
  local r = t.vmlua { "img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", real, path }
  t.eq(r.status, 0, "%s", r.err)
  return path
end

--- The ELF image in a Linux kernel that was packed by LZ4.
function guests.vmlinux(t, path)
  guests.need(t, "lz4", "lz4")
  local image = read(path)
  local setup = math.max(image:byte(0x1f2), 4)
  local offset, length = string.unpack("<I4I4", image, 0x249)
  local from = (setup + 1) * 512 + offset
  -- The last four bytes are the length of what comes out.
  local packed = t.file("payload.lz4", image:sub(from + 1, from + length - 4))
  local out = t.tmpdir() .. "/vmlinux"
  guests.run(t, "lz4 -qdc %s >%s", packed, out)
  return out
end

return guests

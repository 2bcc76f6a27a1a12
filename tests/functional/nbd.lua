-- The NBD client against nbdkit: unix sockets, TCP, TLS; servers that go, refuse, answer nonsense.
local block = require "vmlua.core.block"
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local images = dofile(here .. "/../lib/images.lua")
local process = require "vmlua.core.process"
local sched = require "vmlua.sched"
local test = require "vmlua.test"
require "vmlua.block"

local function have(program) return (select(2, images.run("which", program))) == 0 end

local function need(t, ...)
  for _, program in ipairs { ... } do
    if not have(program) then t.skip(program .. " is not installed") end
  end
  local drivers = block.drivers()
  if not drivers.nbd then t.skip "this build has no NBD client" end
end

-- Starts nbdkit with these words; ends with the test. Returns the process.
local function nbdkit(t, words)
  local dir = t.tmpdir()
  local argv = { "nbdkit", "-f", "--exit-with-parent", "-P", dir .. "/pid", table.unpack(words) }
  local errors, ended = {}, nil
  local p = assert(process.spawn {
    argv = argv, stderr = function(s) errors[#errors + 1] = s end, stdout = function() end, on_exit = function() ended = true end,
  })
  local function stop()
    p:kill(9)
    t.wait_for(function() return ended end, 20, "nbdkit has ended")
  end
  t.cleanup(stop)
  t.wait_for(function()
    if ended then t.fail("nbdkit: %s", table.concat(errors)) end
    local f = io.open(dir .. "/pid")
    local line = f and f:read "l"
    if f then f:close() end
    return line
  end, 20, "nbdkit is ready")
  return { pid = p.pid, stop = stop }
end

-- The port that the kernel gave to a server on port 0.
local function port_of(pid)
  local listening = {}
  for line in io.lines "/proc/net/tcp" do
    local port, inode = line:match "^%s*%d+: %x+:(%x+) %x+:%x+ 0A %x+:%x+ %x+:%x+ %x+%s+%d+%s+%d+ (%d+)"
    if port then listening[inode] = tonumber(port, 16) end
  end
  local links = images.run("ls", "-l", ("/proc/%d/fd"):format(pid))
  for inode in links:gmatch "socket:%[(%d+)%]" do
    if listening[inode] then return listening[inode] end
  end
end

local function open(t, name, options)
  options = options or {}
  options.format = "raw"
  local node = assert(block.open(name, options))
  local d = assert(block.drive(nil, nil, node))
  t.cleanup(function() d:eject(true) end)
  return d, node
end

local function unix(path, more) return "nbd+unix:///?socket=" .. path .. (more or "") end

-- Random requests against a plain string of the same contents.
local function exercise(t, d, size, rounds, unit)
  local model, x = ("\0"):rep(size), 12345
  local function random(n)
    x = x * 6364136223846793005 + 1442695040888963407
    return (x >> 33) % n
  end
  for i = 1, rounds do
    local length = (random(40000) + 1 + unit - 1) // unit * unit
    local offset = random(size - length) // unit * unit
    local op = random(5)
    if op == 0 then
      t.eq(d:zero(offset, length), true)
      model = model:sub(1, offset) .. ("\0"):rep(length) .. model:sub(offset + length + 1)
    elseif op <= 2 then
      local bytes = images.noise(length, i)
      t.eq(d:write(offset, bytes), true)
      model = model:sub(1, offset) .. bytes .. model:sub(offset + length + 1)
    elseif op == 3 then
      t.ok(d:read(offset, length) == model:sub(offset + 1, offset + length), "round %d: read at %d of %d", i, offset, length)
    else
      t.eq(d:flush(), true)
    end
  end
  t.ok(d:read(0, size) == model, "contents at the end")
end

test("libnbd, which brings a dozen libraries, is loaded by the first NBD node only", function(t)
  need(t)
  local r = t.vmlua { "-e", [[
    require "vmlua.block"
    local block = require "vmlua.core.block"
    local function loaded(library)
      local f = assert(io.open "/proc/self/maps")
      local maps = f:read "a"
      f:close()
      return maps:find(library, 1, true) ~= nil
    end
    local nbd, tls = loaded "libnbd", loaded "libgnutls"
    local node, why = block.open("nbd+unix:///?socket=/no/such/socket", { format = "raw" })
    print(nbd, tls, node, tostring(why):match "No such file", loaded "libnbd")]] }
  t.eq(r.out, "false\tfalse\tnil\tNo such file\ttrue\n")
end)

test("reads, writes, zeroes, flushes and asks for status over a unix socket", function(t)
  need(t, "nbdkit")
  local path = t.tmpdir() .. "/s"
  nbdkit(t, { "-U", path, "memory", "1M" })
  local d = open(t, unix(path), { discard = true })
  t.eq(d.length, 1 << 20)
  t.eq(d.read_only, false)
  exercise(t, d, 1 << 20, 60, 1)
  t.eq(d:zero(0, 1 << 20), true)
  t.eq(d:write(65536, ("x"):rep(65536)), true)
  local st = d:status(65536, 65536)
  t.eq(st.data, true)
  t.eq(st.zero, false)
  t.eq(st.offset, 65536)
  t.eq(d:discard(65536, 65536), true)
  t.eq(d:status(65536, 65536).zero, true)
  t.eq(select(3, d:read((1 << 20) - 1, 2)), "EINVAL")
end)

test("servers that can do less: no FUA, no flush, no zeroes, no trim, no extents, whole blocks only", function(t)
  need(t, "nbdkit")
  for n, words in ipairs {
    { "--filter=fua", "--filter=nozero", "--filter=noextents", "memory", "256k", "zeromode=none" },
    { "--filter=fua", "memory", "256k", "fuamode=emulate" },
    { "--filter=blocksize-policy", "memory", "256k", "blocksize-minimum=4096", "blocksize-preferred=4096",
      "blocksize-maximum=16k", "blocksize-error-policy=error" },
  } do
    local path = t.tmpdir() .. "/s"
    local server = nbdkit(t, { "-U", path, table.unpack(words) })
    local d = open(t, unix(path), { discard = true })
    d["write-cache"] = n ~= 1 -- each write is to be stable
    exercise(t, d, 256 << 10, 60, n == 3 and 256 or 1)
    t.eq(d:discard(100, 50000), true)
    t.ok(d:status(0, 1000).bytes >= 1)
    d:eject(true)
    server.stop()
  end
end)

test("TCP on a port that the kernel chose, exports by name, and QEMU's older names", function(t)
  need(t, "nbdkit")
  local server = nbdkit(t, { "-p", "0", "-i", "127.0.0.1", "--filter=exportname", "memory", "64k", "exportname=one",
    "exportname-strict=true" })
  local port = port_of(server.pid)
  for _, name in ipairs { "nbd://127.0.0.1:%d/one", "nbd:127.0.0.1:%d:exportname=one" } do
    local d = open(t, name:format(port))
    t.eq(d.length, 65536)
    t.eq(d:write(0, "hello"), true)
    t.eq(d:read(0, 5), "hello")
  end
  t.refuses("nbd", block.open, ("nbd://127.0.0.1:%d/two"):format(port), { format = "raw" })
  local r = images.img(t, "info", ("nbd://127.0.0.1:%d/one"):format(port))
  t.match(r.out, "virtual size: 64 KiB")
  server.stop()
  t.refuses("refused", block.open, ("nbd://127.0.0.1:%d/one"):format(port), { format = "raw" })
  t.refuses("expected nbd:HOST:PORT", block.open, "nbd:nonsense", { format = "raw" })
  t.refuses("No such file", block.open, unix "/no/such/socket", { format = "raw" })
  t.refuses("URI", block.open, "nbd://[", { format = "raw" })
end)

test("TLS with certificates, and with keys that both sides have", function(t)
  need(t, "nbdkit", "certtool", "psktool")
  local dir = t.tmpdir()
  local function write(name, content) return t.file(dir .. "/" .. name, content) end
  write("ca.info", "cn = Test CA\nca\ncert_signing_key\n")
  write("server.info", "organization = Test\ncn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n")
  images.must(t, "certtool", "--generate-privkey", "--ecc", "--outfile", dir .. "/ca-key.pem")
  images.must(t, "certtool", "--generate-self-signed", "--load-privkey", dir .. "/ca-key.pem", "--template", dir .. "/ca.info",
    "--outfile", dir .. "/ca-cert.pem")
  images.must(t, "certtool", "--generate-privkey", "--ecc", "--outfile", dir .. "/server-key.pem")
  images.must(t, "certtool", "--generate-certificate", "--load-privkey", dir .. "/server-key.pem", "--load-ca-certificate",
    dir .. "/ca-cert.pem", "--load-ca-privkey", dir .. "/ca-key.pem", "--template", dir .. "/server.info", "--outfile",
    dir .. "/server-cert.pem")
  images.must(t, "psktool", "-u", "alice", "-p", dir .. "/keys.psk")
  local server = nbdkit(t, { "-p", "0", "-i", "127.0.0.1", "--tls=require", "--tls-certificates=" .. dir, "memory", "64k" })
  local port = port_of(server.pid)
  local d = open(t, ("nbds://localhost:%d/?tls-certificates=%s"):format(port, dir))
  exercise(t, d, 65536, 20, 1)
  t.refuses("nbd", block.open, ("nbd://localhost:%d/"):format(port), { format = "raw" })
  local other = t.tmpdir() -- another authority's certificate
  images.must(t, "cp", dir .. "/ca.info", other)
  images.must(t, "certtool", "--generate-privkey", "--ecc", "--outfile", other .. "/ca-key.pem")
  images.must(t, "certtool", "--generate-self-signed", "--load-privkey", other .. "/ca-key.pem", "--template", other .. "/ca.info",
    "--outfile", other .. "/ca-cert.pem")
  t.refuses("certificate", block.open, ("nbds://localhost:%d/?tls-certificates=%s"):format(port, other), { format = "raw" })
  server = nbdkit(t, { "-p", "0", "-i", "127.0.0.1", "--tls=require", "--tls-psk=" .. dir .. "/keys.psk", "memory", "64k" })
  d = open(t, ("nbds://alice@localhost:%d/?tls-psk-file=%s"):format(port_of(server.pid), dir .. "/keys.psk"))
  exercise(t, d, 65536, 20, 1)
end)

-- A node of -blockdev's properties, in a drive.
local function by_properties(t, properties)
  local node = require("vmlua.block").build(properties)
  local d = assert(block.drive(nil, nil, node))
  t.cleanup(function() d:eject(true) end)
  return d
end

test("a server that is killed and comes back: requests wait for it", function(t)
  need(t, "nbdkit")
  local dir = t.tmpdir()
  local disk, path = t.file(dir .. "/disk", ("\0"):rep(1 << 20)), dir .. "/s"
  local server = nbdkit(t, { "-U", path, "file", disk })
  local d = by_properties(t, { driver = "nbd", server = { type = "unix", path = path }, ["reconnect-delay"] = 60 })
  local through, failed = 0, nil
  local tasks = {}
  for n = 1, 4 do
    tasks[n] = sched.spawn(function()
      for i = 0, 63 do
        local ok, why = d:write((n - 1) * 262144 + i * 4096, images.noise(4096, n * 1000 + i))
        if not ok then failed = why end
        through = through + 1
        sched.yield()
      end
    end)
  end
  for _ = 1, 3 do
    local before = through
    t.wait_for(function() return through > before + 10 end, 20, "writes go on")
    server.stop()
    os.remove(path)
    server = nbdkit(t, { "-U", path, "file", disk })
  end
  for _, task in ipairs(tasks) do task:join() end
  t.eq(failed, nil)
  t.eq(d:flush(), true)
  local bytes = images.read(disk)
  for n = 1, 4 do
    for i = 0, 63 do
      local at = (n - 1) * 262144 + i * 4096
      t.ok(bytes:sub(at + 1, at + 4096) == images.noise(4096, n * 1000 + i), "write %d of task %d", i, n)
    end
  end
end)

test("a server that stays away fails what waits; one with another disk is not taken", function(t)
  need(t, "nbdkit")
  local dir = t.tmpdir()
  local path = dir .. "/s"
  local server = nbdkit(t, { "-U", path, "memory", "64k" })
  local d = open(t, unix(path)) -- reconnect-delay=0
  local slow = by_properties(t, { driver = "nbd", server = { path = path }, ["reconnect-delay"] = 1 })
  t.eq(d:write(0, "x"), true)
  server.stop()
  os.remove(path)
  t.eq(select(3, d:read(0, 1)), "EIO")
  t.eq(select(3, d:read(0, 1)), "EIO")
  t.eq(select(3, slow:read(0, 1)), "EIO")
  local smaller = nbdkit(t, { "-U", path, "memory", "32k" })
  t.eq(select(3, d:read(0, 1)), "EIO")
  smaller.stop()
  os.remove(path)
  nbdkit(t, { "-U", path, "memory", "64k" })
  t.wait_for(function() return d:read(0, 1) == "\0" end, 30, "it is connected again")
end)

test("errors of the server arrive, and a read-only disk is one", function(t)
  need(t, "nbdkit")
  local path = t.tmpdir() .. "/s"
  nbdkit(t, { "-U", path, "-r", "--filter=error", "memory", "64k", "error-pread=ENOSPC", "error-pread-rate=1" })
  t.refuses("read%-only", block.open, unix(path), { format = "raw" })
  local d = open(t, unix(path), { read_only = true })
  t.eq(select(3, d:read(0, 1)), "ENOSPC")
  t.eq(select(3, d:write(0, "x")), "EROFS")
  d = open(t, unix(path), { auto_read_only = true })
  t.eq(d.read_only, true)
end)

test("a server that answers nonsense is refused, at every point of the handshake", function(t)
  need(t, "nbdkit")
  local chardev = require "vmlua.core.chardev"
  local magic = "NBDMAGICIHAVEOPT"
  local nonsense = {
    "", images.noise(4096, 5), ("\0"):rep(65536), "HTTP/1.1 400 Bad Request\r\n\r\n", "NBDMAGIC", magic .. "\0\3",
    magic .. "\0\3" .. images.noise(1000, 6),
    -- an answer to an option that nobody asked for; one that claims to be 4 GiB long
    magic .. "\0\3" .. string.pack(">I8 I4 I4 I4", 0x3e889045565a9, 8, 1, 0),
    magic .. "\0\3" .. string.pack(">I8 I4 I4 I4", 0x3e889045565a9, 8, 3, 0xffffffff) .. ("x"):rep(5000),
    -- the oldest handshake, with a disk of 2^63 bytes
    "NBDMAGIC" .. string.pack(">I8 I8 I4", 0x00420281861253, 1 << 63, 0) .. ("\0"):rep(124),
  }
  for i, bytes in ipairs(nonsense) do
    local path = t.tmpdir() .. "/s"
    local c = assert(chardev.new { backend = "socket", path = path, server = true, wait = false })
    local task = sched.spawn(function()
      t.wait_for(function() return c.open end, 20, "the client is there")
      if #bytes > 0 then c:write(bytes) end
      c:close()
    end)
    task.quiet = true
    local r = images.img(t, "info", "-f", "raw", unix(path))
    t.eq(r.status, 1, "nonsense " .. i)
    t.match(r.err, "could not open 'nbd")
    pcall(c.close, c)
  end
end)

test("a machine's drives lie on NBD, by -drive and by -blockdev", function(t)
  need(t, "nbdkit")
  local options = require "vmlua.options"
  local path = t.tmpdir() .. "/s"
  nbdkit(t, { "-U", path, "memory", "64k" })
  local function board()
    return { ram = "1M", init = function(m)
      m.memory:add(0, m.ram)
      m:drives_of("ide", 4)
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    end }
  end
  local s = options.parse { "-drive", "file=nbd:unix:" .. path .. ",format=raw" }
  s.conf.accel = "soft"
  local vm = t.machine(board(), s.conf)
  t.eq(vm.drives.hda, nil)
  t.eq(vm.drives[1]:write(512, "abc"), true)
  vm:close()
  s = options.parse { "-blockdev", "driver=raw,node-name=n0,file.driver=nbd,file.server.type=unix,file.server.path=" .. path
    .. ",file.reconnect-delay=3", "-drive", "if=none,id=x" }
  s.conf.accel = "soft"
  vm = t.machine(board(), s.conf)
  local found = require("vmlua.block").find(vm, "n0")
  t.eq(found:read(512, 3), "abc")
end)

test("convert, compare and bench work on NBD disks", function(t)
  need(t, "nbdkit")
  local dir = t.tmpdir()
  local source, path = dir .. "/source", dir .. "/s"
  images.mixed(source, 3 << 20, 11)
  nbdkit(t, { "-U", path, "memory", "3M" })
  images.ok(t, "convert", "-n", "-f", "raw", "-O", "raw", source, unix(path))
  images.ok(t, "compare", "-f", "raw", "-F", "raw", source, unix(path))
  images.must(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, unix(path))
  images.ok(t, "convert", "-f", "raw", unix(path), dir .. "/back")
  t.ok(images.read(dir .. "/back") == images.read(source))
  t.eq(images.ok(t, "map", "--output=json", "-f", "raw", unix(path)),
    images.must(t, "qemu-img", "map", "--output=json", "-f", "raw", unix(path)))
  images.ok(t, "bench", "-q", "-f", "raw", "-c", "200", unix(path))
end)

test("nbdcopy and we read and write the same disks", function(t)
  need(t, "nbdkit", "nbdcopy")
  local dir = t.tmpdir()
  local source, path = dir .. "/source", dir .. "/s"
  images.mixed(source, (3 << 20) + 512, 12)
  nbdkit(t, { "-U", path, "memory", tostring((3 << 20) + 512) })
  images.must(t, "nbdcopy", source, unix(path))
  images.ok(t, "compare", "-f", "raw", "-F", "raw", source, unix(path))
  images.ok(t, "convert", "-f", "raw", "-O", "qcow2", unix(path), dir .. "/q")
  images.must(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, dir .. "/q")
  images.mixed(source, (3 << 20) + 512, 13)
  images.ok(t, "convert", "-n", "-f", "raw", "-O", "raw", source, unix(path))
  images.must(t, "nbdcopy", unix(path), dir .. "/back")
  t.ok(images.read(dir .. "/back") == images.read(source))
end)

test("convert --salvage takes what a disk does not give for zeroes", function(t)
  need(t, "nbdkit")
  local dir = t.tmpdir()
  local path, bytes = dir .. "/s", images.noise(1 << 20, 3)
  local disk = t.file(dir .. "/disk", bytes)
  -- What touches the 4 KiB at 256 KiB fails.
  nbdkit(t, { "-U", path, "eval", "get_size=echo 1048576",
    "pread=[ $4 -lt 266240 -a $(($4 + $3)) -gt 262144 ] && { echo EIO bad >&2; exit 1; }; dd if=" .. disk
      .. " iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none" })
  local r = images.img(t, "convert", "-f", "raw", "-O", "raw", unix(path), dir .. "/t")
  t.eq(r.status, 1)
  t.match(r.err, "reading at offset")
  r = images.img(t, "convert", "-f", "raw", "-O", "raw", "--salvage", unix(path), dir .. "/t")
  t.eq(r.status, 0)
  t.match(r.err, "4096 bytes could not be read")
  t.ok(images.read(dir .. "/t") == bytes:sub(1, 262144) .. ("\0"):rep(4096) .. bytes:sub(266241))
end)

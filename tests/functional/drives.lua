-- Drives: the options, requests of scripts, media, what is refused.
local options = require "vmlua.options"
local test = require "vmlua.test"

local function image(t, name, bytes)
  local path = t.tmpdir() .. "/" .. name
  local f = assert(io.open(path, "wb"))
  f:write(bytes)
  f:close()
  return path
end

local function board()
  return {
    ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      m:drives_of("ide", 4)
      m:drives_of("floppy", 2)
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    end,
  }
end

test("the short options, -drive and a table open drives with QEMU's names", function(t)
  local a, b, iso = image(t, "a", ("a"):rep(1024)), image(t, "b", ("b"):rep(2048)), image(t, "c.iso", ("c"):rep(4096))
  local s = options.parse { "-hda", a, "-drive", "file=" .. b .. ",format=raw,cache=unsafe,id=second,serial=XYZ", "-cdrom", iso }
  s.conf.accel = "soft"
  local vm = t.machine(board(), s.conf)
  t.eq(vm.drives.hda.id, "ide0-hd0")
  t.eq(vm.drives.hda.length, 1024)
  t.eq(vm.drives.second.length, 2048)
  t.eq(vm.drives.second.serial, "XYZ")
  t.eq(vm.drives.cdrom.read_only, true)
  t.eq(vm.drives["ide1-cd0"], vm.drives.cdrom)
  t.eq(#vm.drives, 3)
  local placed = vm:drives_of("ide", 4)
  t.eq(placed[1].drive, vm.drives.second) -- the first free place
  t.eq(placed[2].media, "cdrom")
end)

test("a script reads, writes, flushes, zeroes and asks what is where", function(t)
  local path = image(t, "disk", ("\0"):rep(65536))
  local vm = t.machine(board(), { accel = "soft", hda = { file = path, format = "raw", discard = "unmap" } })
  local d = vm.drives.hda
  t.eq(d:write(512, ("x"):rep(512)), true)
  t.eq(d:flush(), true)
  t.eq(d:read(511, 3), "\0xx")
  t.eq(d:zero(512, 512), true)
  t.eq(d:read("0x200", 2), "\0\0")
  t.eq(d:discard(0, 65536), true)
  local st = d:status(0, 65536)
  t.eq(st.allocated, true)
  local bytes, message, code = d:read(65536 - 1, 2)
  t.eq(bytes, nil)
  t.eq(code, "EINVAL")
  t.match(message, "nvalid")
  local stats = d:stats()
  t.eq(stats.write.count, 1)
  t.eq(stats.write.bytes, 512)
  t.eq(stats.read.count, 2)
  t.eq(stats.read.errors, 1)
  local sum = 0
  for _, n in ipairs(stats.read.latency) do sum = sum + n end
  t.eq(sum, 2)
  d:reset_stats()
  t.eq(d:stats().read.count, 0)
end)

test("a medium is changed, ejected and refused by its reason", function(t)
  local one, two = image(t, "1.iso", ("1"):rep(2048)), image(t, "2.iso", ("2"):rep(4096))
  local vm = t.machine(board(), { accel = "soft", cdrom = one })
  local d = vm.drives.cdrom
  t.eq(d:change { file = two, readonly = true }, true)
  t.eq(d:read(0, 1), "2")
  local ok, why = d:change "/nonexistent.iso"
  t.eq(ok, nil)
  t.match(why, "No such file")
  t.eq(d:eject(), true)
  t.eq(d.inserted, false)
  local bytes, _, code = d:read(0, 1)
  t.eq(bytes, nil)
  t.eq(code, "ENOMEDIUM")
end)

test("nodes are put together as -blockdev says", function(t)
  local path = image(t, "disk", ("."):rep(512) .. ("!"):rep(1024))
  local s = options.parse { "-blockdev", "driver=file,node-name=f0,filename=" .. path,
    "-blockdev", "driver=raw,node-name=part,file=f0,offset=512,size=512",
    "-blockdev", '{"driver":"raw","node-name":"mem","file":{"driver":"ram","size":"1M"}}' }
  s.conf.accel = "soft"
  local vm = t.machine(board(), s.conf)
  local block = require "vmlua.block"
  t.eq(block.find(vm, "part"):read(0, 4), "!!!!")
  t.eq(block.find(vm, "part").length, 512)
  t.eq(block.find(vm, "mem").length, 1 << 20)
  t.raises("part", function() block.find(vm, "par") end)
end)

test("what is wrong with a drive is said by its name", function(t)
  local path = image(t, "disk", ("\0"):rep(1024))
  local function refused(pattern, ...)
    local argv = { ... }
    t.raises(pattern, function()
      local s = options.parse(argv)
      s.conf.accel = "soft"
      t.machine(board(), s.conf)
    end)
  end
  refused("cach", "-drive", "file=" .. path .. ",cach=none")
  refused("nne", "-drive", "file=" .. path .. ",cache=nne")
  refused("qcow9", "-drive", "file=" .. path .. ",format=qcow9")
  refused("is taken by", "-hda", path, "-drive", "file=" .. path .. ",index=0")
  refused("no place 7", "-drive", "file=" .. path .. ",index=7")
  refused("interface virtio", "-drive", "file=" .. path .. ",if=virtio")
  refused("needs an id", "-drive", "file=" .. path .. ",if=none")
  refused("No such file", "-hda", "/nonexistent")
  refused("in use", "-hda", path, "-hdb", path)
  refused("node%-name", "-blockdev", "driver=file,filename=" .. path)
  refused("unknown block driver", "-blockdev", "driver=fil,node-name=x")
  refused("filename", "-blockdev", "driver=file,node-name=x")
  refused("needs a node", "-blockdev", "driver=raw,node-name=x")
  refused("rerror", "-drive", "file=" .. path .. ",rerror=enospc")
end)

test("-snapshot keeps writes away from the file", function(t)
  local path = image(t, "disk", ("."):rep(8192))
  local s = options.parse { "-snapshot", "-drive", "file=" .. path .. ",format=raw,throttling.iops-total=100000" }
  s.conf.accel = "soft"
  local vm = t.machine(board(), s.conf)
  local d = vm.drives["ide0-hd0"]
  t.eq(d:write(4000, "hello"), true)
  t.eq(d:read(3999, 7), ".hello.")
  t.eq(d:flush(), true)
  local f <close> = assert(io.open(path, "rb"))
  t.eq(f:read "a", ("."):rep(8192))
end)

test("a script answers for a disk", function(t)
  local block = require "vmlua.block"
  local written = {}
  local vm = t.machine(board(), { accel = "soft" })
  local d = vm:drive { id = "made", node = block.script {
    size = "1G",
    read = function(offset, length)
      if offset == 4096 then return nil, "EIO" end
      return ("%016x"):format(offset):rep(length // 16)
    end,
    write = function(offset, bytes) written[offset] = bytes return true end,
  } }
  t.eq(d.length, 1 << 30)
  t.eq(d:read(0x12340, 16), "0000000000012340")
  local bytes, _, code = d:read(4096, 16)
  t.eq(bytes, nil)
  t.eq(code, "EIO")
  t.eq(d:write(512, "abc"), true)
  t.eq(written[512], "abc")
  t.eq(d:flush(), true)
end)

test("faults are injected: errors, delays, torn writes, power cuts", function(t)
  local path = image(t, "disk", ("."):rep(65536))
  local vm = t.machine(board(), { accel = "soft", hda = { file = path, format = "raw" } })
  local d = vm.drives.hda
  d:faults { volatile = true }
  local h = d:on_read(function(r) if r.offset == 512 then return "EIO" end end)
  t.eq(d:read(0, 1), ".")
  t.eq(d:read(512, 1), nil)
  t.eq(h.hits, 2)
  h:remove()
  t.eq(d:read(512, 1), ".")
  h = d:on_write(function(r)
    t.eq(r:data(), "xyz")
    return { torn = 1, error = "ENOSPC", delay = 0.001 }
  end)
  local ok, _, code = d:write(0, "xyz")
  t.eq(ok, nil)
  t.eq(code, "ENOSPC")
  t.eq(d:read(0, 3), "x..")
  h:remove()
  d:flush()
  d:on_write(function() return "powercut" end)
  t.eq(d:write(100, "never"), nil)
  t.eq(d:read(0, 1), nil)
  d:faults():power_on()
  t.eq(d:read(0, 3), "x..")
end)

-- -drive and -blockdev as QEMU spells them: what each option does, nested descriptions, devices of the host.
local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local images = dofile(here .. "/../lib/images.lua")
local options = require "vmlua.options"
local test = require "vmlua.test"

local function board()
  return {
    ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      m:drives_of("ide", 4)
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    end,
  }
end

local function machine(t, ...)
  local s = options.parse { ... }
  s.conf.accel = "soft"
  return t.machine(board(), s.conf)
end

-- The nodes of a drive from the top, by their drivers.
local function chain(drive)
  local out, node = {}, drive.node
  while node do
    out[#out + 1] = node.driver
    node = node.file
  end
  return table.concat(out, " ")
end

local function refused(t, pattern, ...)
  local words = { ... }
  t.raises(pattern, function()
    local s = options.parse(words)
    s.conf.accel = "soft"
    t.machine(board(), s.conf)
  end)
end

test("every option that QEMU's -drive has for the block layer", function(t)
  local path = t.file("d", images.noise(65536))
  local vm = machine(t, "-drive", "file=" .. path .. ",if=ide,index=0,media=disk,format=raw,cache=none,aio=io_uring,discard=unmap,"
    .. "detect-zeroes=unmap,id=d0,werror=report,rerror=stop,node-name=n0,copy-on-read=off,throttling.iops-total=1000,"
    .. "throttling.iops-total-max=2000,throttling.iops-total-max-length=2,throttling.bps-read=1M,throttling.iops-size=4096")
  local d = vm.drives.d0
  t.eq(chain(d), "throttle raw file")
  local raw = d.node.file
  t.eq(raw["node-name"], "n0")
  t.eq(raw["detect-zeroes"], "unmap")
  t.eq(raw.discard, "unmap")
  t.eq(raw.file.cache, "none")
  t.eq(raw.file.aio, "io_uring")
  t.eq(d.node["iops-total-max"], 2000)
  t.eq(d.node["bps-read"], 1 << 20)
  t.eq(d.node["iops-size"], 4096)
  t.eq(d:write(0, ("\0"):rep(32768)), true)
  t.eq(d:status(0, 32768).zero, true) -- a hole now
  vm:close()
  for _, word in ipairs { "writeback", "writethrough", "directsync", "unsafe" } do
    local other = machine(t, "-drive", "file=" .. path .. ",format=raw,cache=" .. word
      .. ",aio=threads,iops_rd=100,bps_wr=1M,iops_rd_max=500")
    t.eq(other.drives[1].node.file.file.cache, word)
    t.eq(other.drives[1].node["iops-read"], 100)
    t.eq(other.drives[1].node["bps-write"], 1 << 20)
    t.eq(other.drives[1].node["iops-read-max"], 500)
    other:close()
  end
end)

test("readonly, snapshot, copy-on-read and the short options", function(t)
  local a, b = t.file("a", ("a"):rep(4096)), t.file("b", ("b"):rep(4096))
  local vm = machine(t, "-hda", a, "-hdb", b, "-cdrom", t.file("c", ("c"):rep(4096)))
  t.eq(vm.drives.hda.length, 4096)
  t.eq(vm.drives.cdrom.read_only, true)
  t.eq(select(3, vm.drives.cdrom:write(0, "x")), "EROFS")
  vm:close()
  vm = machine(t, "-drive", "file=" .. a .. ",format=raw,snapshot=on,id=s", "-drive", "file=" .. b .. ",format=raw,readonly=on,id=r")
  t.eq(vm.drives.s:write(0, "changed"), true)
  t.eq(vm.drives.s:read(0, 7), "changed")
  t.eq(select(3, vm.drives.r:write(0, "x")), "EROFS")
  vm:close()
  t.eq(images.read(a), ("a"):rep(4096))
  vm = machine(t, "-hda", a, "-snapshot")
  t.eq(vm.drives.hda:write(0, "changed"), true)
  vm:close()
  t.eq(images.read(a), ("a"):rep(4096))
end)

test("the file of a drive may be described by properties", function(t)
  local path = t.file("d", images.noise(65536))
  local vm = machine(t, "-drive", "driver=raw,file.driver=file,file.filename=" .. path .. ",offset=512,size=1024,cache.direct=on,id=d0",
    "-drive", "file.filename=" .. path .. ",file.locking=off,id=d1,readonly=on",
    "-drive", "if=none,id=d2,driver=raw,file.driver=null-co,file.size=1M")
  t.eq(vm.drives.d0.length, 1024)
  t.eq(vm.drives.d0.node.file.cache, "none")
  t.eq(vm.drives.d0:read(0, 16), images.noise(65536):sub(513, 528))
  t.eq(vm.drives.d1.length, 65536)
  t.eq(vm.drives.d1.read_only, true)
  t.eq(vm.drives.d2.length, 1 << 20)
end)

test("-blockdev: nested nodes, nodes by name, cache, filters, JSON", function(t)
  local path = t.file("d", images.noise(65536))
  local vm = machine(t, "-blockdev", "driver=host_device,node-name=f0,filename=" .. path .. ",cache.direct=on,discard=unmap",
    "-blockdev", "driver=raw,node-name=r0,file=f0",
    "-blockdev", "driver=throttle,node-name=t0,iops-total=500,file=r0",
    "-blockdev", '{"driver":"copy-on-read","node-name":"c0","file":{"driver":"raw","file":{"driver":"null-co","size":1048576}}}')
  local d = require("vmlua.block").find(vm, "t0")
  t.eq(chain(d), "throttle raw file")
  t.eq(d.node.file.file.cache, "none")
  t.eq(d:read(0, 32), images.noise(65536):sub(1, 32))
  t.eq(require("vmlua.block").find(vm, "c0").length, 1 << 20)
end)

test("what is wrong is refused by its name, with the nearest known one", function(t)
  local path = t.file("d", ("x"):rep(4096))
  refused(t, 'unknown drive property "cahce" %(did you mean "cache"%?%)', "-drive", "cahce=none,file=" .. path)
  refused(t, 'unknown drive property "throttling.iops%-totall"', "-drive", "throttling.iops-totall=5,file=" .. path)
  refused(t, "offset", "-drive", "format=raw,offset=1M,file=" .. path)
  refused(t, 'unknown drive property "l2%-cache%-size"', "-drive", "format=raw,l2-cache-size=1M,file=" .. path)
  refused(t, "exclude each other", "-drive", "file.filename=x,file=" .. path)
  refused(t, "detect%-zeroes", "-drive", "format=raw,detect-zeroes=perhaps,file=" .. path)
  refused(t, "expected on or off", "-drive", "readonly=perhaps,file=" .. path)
  refused(t, "property of cache", "-blockdev", "driver=file,node-name=x,cache.directly=on,filename=" .. path)
  refused(t, "did you mean", "-blockdev", "driver=raw,node-name=x,file.driver=file,file.filenam=" .. path)
  refused(t, "unknown node", "-blockdev", "driver=raw,node-name=x,file=nobody")
  refused(t, "driver= is missing", "-blockdev", "driver=raw,node-name=x,file.filename=" .. path)
  local deep = "driver=raw,node-name=x"
  for i = 1, 100 do deep = deep .. "," .. ("file."):rep(i) .. "driver=raw" end
  refused(t, "nodes are described", "-blockdev", deep)
end)

test("a block device of the host is a disk", function(t)
  local image = t.file("disk", ("\0"):rep(1 << 20))
  local device, status = images.run("losetup", "-f", "--show", image)
  if status ~= 0 then t.skip("no loop device can be made: " .. device:gsub("\n.*", "")) end
  device = device:match "%S+"
  t.cleanup(function() images.run("losetup", "-d", device) end)
  local vm = machine(t, "-drive", "format=raw,cache=none,discard=unmap,id=d,file=" .. device)
  local d = vm.drives.d
  t.eq(d.length, 1 << 20)
  t.eq(d:write(1000, "hello"), true) -- not whole sectors: a detour
  t.eq(d:zero(65536, 65536), true)
  t.eq(d:discard(131072, 65536), true)
  t.eq(d:flush(), true)
  t.eq(d:read(1000, 5), "hello")
  t.eq(select(3, d:read(1 << 20, 1)), "EINVAL")
  vm:close()
  t.eq(images.read(image):sub(1001, 1005), "hello")
  images.ok(t, "compare", "-f", "raw", "-F", "raw", device, image)
  t.match(images.ok(t, "info", device), "virtual size: 1 MiB")
end)

test("a qcow2 disk: found by its content, its driver's options, what lies below described or taken over", function(t)
  local dir = t.tmpdir()
  local base, top = dir .. "/base.qcow2", dir .. "/top.qcow2"
  images.must(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
  images.must(t, "qemu-io", "-f", "qcow2", "-c", "write -P 65 0 1M", base)
  images.must(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
  local vm = machine(t, "-drive", "file=" .. top .. ",id=d,l2-cache-size=1M,cache=none")
  t.eq(chain(vm.drives.d), "qcow2 file")
  t.eq(vm.drives.d.node["l2-cache-size"], 1 << 20)
  t.eq(vm.drives.d.node.file.cache, "none")
  t.eq(vm.drives.d:read(0, 4), "AAAA")
  t.eq(vm.drives.d:write(100, "over"), true)
  vm:close()
  vm = machine(t, "-hda", top, "-snapshot")
  t.eq(vm.drives.hda:read(98, 8), "AAoverAA")
  t.eq(vm.drives.hda:write(0, "gone"), true)
  vm:close()
  vm = machine(t, "-blockdev", "driver=qcow2,node-name=n,file.driver=file,file.filename=" .. top
    .. ",backing.driver=qcow2,backing.file.driver=file,backing.file.filename=" .. base)
  local d = require("vmlua.block").find(vm, "n")
  t.eq(d:read(98, 8), "AAoverAA")
  t.eq(d.node.backing.driver, "qcow2")
  t.eq(d.node.backing["read-only"], true)
  vm:close()
  images.must(t, "qemu-img", "check", "-q", top)
end)

-- A timer's periods are made up for when the host is late: a guest that counts them against its TSC finds them all.
local core = require "vmlua.core.machine"
local loop = require "vmlua.core.loop"
local test = require "vmlua.test"

-- Counts interrupts of the PIT at 1 kHz in [0x500], for 200 ms by its TSC, or for as long as [0x504] says then.
local counts = "\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c" -- xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
  .. "\xc7\x06\x80\x00\x60\x7c\xc7\x06\x82\x00\x00\x00" -- vector 0x20: 0000:7c60
  .. "\xb0\x11\xe6\x20\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xfe\xe6\x21" -- PIC at 0x20, line 0 alone
  .. "\xb0\x34\xe6\x43\xb0\xa9\xe6\x40\xb0\x04\xe6\x40" -- PIT: mode 2, 1193
  .. "\x0f\x31\x66\x89\xc6\xfb" -- rdtsc; mov esi, eax; sti
  .. "\x0f\x31\x66\x29\xf0\x66\x3d\x00\xc2\xeb\x0b\x72\xf3" -- again: rdtsc; sub eax, esi; cmp eax, 200000000; jb again
  .. "\xfa\x0f\x31\x66\x29\xf0\x66\xa3\x04\x05" -- cli; rdtsc; sub eax, esi; mov [0x504], eax
  .. "\xe6\x80\xf4" -- out 0x80, al; hlt
counts = counts .. ("\x90"):rep(0x60 - #counts)
  .. "\x50\xff\x06\x00\x05\xb0\x20\xe6\x20\x58\xcf" -- push ax; inc word [0x500]; mov al, 0x20; out 0x20, al; pop ax; iret

test("ticks of the PIT that the host was late for all arrive, before the guest's TSC goes on", { timeout = 60 }, function(t)
  if not core.select_accel { "soft" } then t.skip "this build has no software CPU" end
  local vm = t.machine("bare", { kernel = t.file("counts.bin", counts), accel = "soft" })
  local over = false
  vm:pio { port = 0x80, write = true }:on(function() over = true end)
  vm:start()
  -- The main loop, whose timers these are, is kept busy for 10 ms at a time.
  while not over do
    local stop = loop.now() + 10000000
    while loop.now() < stop do end
    t.sleep(0.0001)
  end
  local ticks, passed = vm.memory:read_u16(0x500), vm.memory:read_u32(0x504) // 1000000
  t.ok(ticks >= 190 and ticks <= passed + 1, "%d ticks in %d ms", ticks, passed)
end)

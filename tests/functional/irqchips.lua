-- The interrupt controllers of a PC, in the accelerator, half there, and as devices: guests see no difference.
local irqchip = require "vmlua.irqchip"
local test = require "vmlua.test"

local MODES = { "on", "split", "off" }

-- Counts six interrupts of the PIT at 1 kHz in [0x500], halted between them; on a busy host more may come before it looks.
local timer = "\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c" -- xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
  .. "\xc7\x06\x80\x00\x50\x7c\xc7\x06\x82\x00\x00\x00" -- vector 0x20: 0000:7c50
  .. "\xb0\x11\xe6\x20\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xfe\xe6\x21" -- PIC at 0x20, line 0 alone
  .. "\xb0\x34\xe6\x43\xb0\xa9\xe6\x40\xb0\x04\xe6\x40" -- PIT: mode 2, 1193
  .. "\xfb\xf4\x80\x3e\x00\x05\x06\x72\xf8" -- sti; again: hlt; cmp byte [0x500], 6; jb again
  .. "\xfa\xa0\x00\x05\xe6\xf4\xf4" -- cli; mov al, [0x500]; out 0xf4, al; hlt
timer = timer .. ("\x90"):rep(0x50 - #timer)
  .. "\x50\x80\x3e\x00\x05\x06\x80\x16\x00\x05\x00" -- push ax; cmp byte [0x500], 6; adc byte [0x500], 0
  .. "\xb0\x20\xe6\x20\x58\xcf" -- counted: mov al, 0x20; out 0x20, al; pop ax; iret
local counted = 0x7c5b

for _, mode in ipairs(MODES) do
  test("the demo takes its interrupts with irqchip=" .. mode, function(t)
    t.accel "kvm"
    local r = t.vmlua { "demo.lua", "-accel", "kvm,kernel-irqchip=" .. mode }
    t.log(r.out, r.err)
    t.match(r.out, "waiting for the timer %.%.%.%.%.\r\n")
    t.match(r.out, "the answer is 42")
    t.eq(r.status, 0)
  end)

  test("the timer wakes a halted CPU with irqchip=" .. mode, function(t)
    t.accel "kvm"
    local vm = t.machine("bare", { kernel = t.file("timer.bin", timer), accel = "kvm", irqchip = mode })
    t.eq(vm.irqchip, mode)
    vm:start()
    local status, reason = vm:wait { rt = 20 }
    t.log(reason)
    t.eq(status, "shutdown")
    t.eq(vm.exit_code, 13)
  end)

  test("a snapshot of a guest that counts ticks goes on with irqchip=" .. mode, function(t)
    t.accel "kvm"
    local vm = t.machine("bare", { kernel = t.file("timer.bin", timer), accel = "kvm", irqchip = mode })
    local seen
    local hook = vm:pio { port = 0x20, write = true, value = 0x20 }
    -- The end of an interrupt is seen only where the PIC is ours.
    if mode ~= "on" then
      local n = 0
      hook:on(function()
        n = n + 1
        if n == 3 then return "pause" end
      end)
    else
      vm:exec(counted):on(function()
        seen = (seen or 0) + 1
        if seen == 3 then return "pause" end
      end)
    end
    vm:start()
    t.eq(vm:wait { rt = 20 }, "paused")
    local s = vm:snapshot()
    t.eq(vm.memory:read_u8(0x500), 3)
    for _ = 1, 2 do
      vm:resume()
      t.eq(vm:wait { rt = 20 }, "shutdown")
      t.eq(vm.exit_code, 13)
      vm:restore(s)
      t.eq(vm.memory:read_u8(0x500), 3)
    end
  end)
end

test("with the PIT outside, the kernel's interrupt controllers still take its ticks", function(t)
  t.accel "kvm"
  local vm = t.machine("bare", { kernel = t.file("timer.bin", timer), accel = "kvm", irqchip = "on", pit = false })
  t.eq(vm.kernel_pit, false)
  vm:start()
  t.eq(vm:wait { rt = 20 }, "shutdown")
  t.eq(vm.exit_code, 13)
end)

test("local APICs outside of the accelerator are wired to PIC and I/O APIC", function(t)
  t.accel "kvm"
  local made
  local vm = t.machine({
    ram = "1M",
    init = function(m)
      m.memory:add(0, m.ram)
      made = irqchip.add(m, { apic = true })
      m.cpus[1]:set { cs = 0, rip = 0x7c00 }
    end,
  }, { accel = "kvm", irqchip = "off", smp = 2 })
  t.eq(made.apic.cpus, 2)
  t.eq(vm.memory:read_u32(0xfee00030) & 0xff, 0x14)
  t.eq(vm.memory:read_u32(0xfec00000), 0)
  vm:gsi(4):raise()
  t.eq(made.apic:irq("lint0").level, 1)
  t.raises('unknown option "apci"', irqchip.add, vm, { apci = true })
end)

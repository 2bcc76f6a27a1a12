-- The first board to read: RAM, a serial port, and a guest of 20 bytes that prints a line.
local machine = require "vmlua.machine"

local guest = "\xbe\x14\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\x30\xc0\xe6\xf4\xf4\x90" -- hello.asm, below
  .. "Hello from a board nobody compiled.\r\n\0"

return machine.define {
  name = "hello", doc = "Prints a line and ends", ram = "1M",
  init = function(m)
    m.memory:add(0, m.ram)
    m:device("isa-serial", { iobase = 0x3f8, irq = 4, chardev = m:serial(0) })
    m:place(0x7c00, guest)
    m.cpus[1]:set { cs = 0, ds = 0, rip = 0x7c00 }
    m:pio { port = 0xf4, write = true }:on(function(_, x)
      m:shutdown("the guest is done", x.value)
      return true
    end)
  end,
}

--[[ hello.asm
        mov si, text            ; be 14 7c
        mov dx, 0x3f8           ; ba f8 03
next:   lodsb                   ; ac
        test al, al             ; 84 c0
        jz done                 ; 74 03
        out dx, al              ; ee
        jmp next                ; eb f8
done:   xor al, al              ; 30 c0
        out 0xf4, al            ; e6 f4      the script ends the machine with AL as its status
        hlt                     ; f4
        nop                     ; 90
text:   db "Hello …", 13, 10, 0
]]

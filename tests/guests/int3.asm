; The guest's own INT3 and trap flag, in real mode: each handler reports, 0x33 for INT3, 0x11 for #DB.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     word [3 * 4], on_int3
        mov     word [3 * 4 + 2], 0
        mov     word [1 * 4], on_db
        mov     word [1 * 4 + 2], 0
        int3
        nop
        done
on_int3:
        mov     eax, 0x33
        mov     dx, PORT_VALUE
        out     dx, eax
        iret
on_db:
        mov     eax, 0x11
        mov     dx, PORT_VALUE
        out     dx, eax
        iret

; Programs the PIC and the PIT, and counts three timer interrupts from HLT, in real mode.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        cli
        mov     word [0x20 * 4], tick
        mov     word [0x20 * 4 + 2], 0
        mov     al, 0x11                ; ICW1..4 of the master: vectors from 0x20
        out     0x20, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1
        out     0x21, al
        mov     al, 0xfe                ; only line 0
        out     0x21, al
        mov     al, 0x34                ; channel 0, both bytes, rate generator
        out     0x43, al
        mov     al, 0x9c                ; 1193182 / 11932 = 100 Hz
        out     0x40, al
        mov     al, 0x2e
        out     0x40, al
        sti
.wait:
        hlt
        cmp     byte [ticks], 3
        jb      .wait
        movzx   eax, byte [ticks]
        report32 eax
        done
tick:
        push    ax
        inc     byte [ticks]
        mov     al, 0x20
        out     0x20, al
        pop     ax
        iret
ticks:  db      0

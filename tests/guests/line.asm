; Takes interrupts of PIC line 5 (vector 0x25) from HLT in real mode, reports each, ends it at the PIC; after as
; many as the word at PARAM says: PORT_DONE.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        cli
        mov     word [0x25 * 4], handler
        mov     word [0x25 * 4 + 2], 0
        mov     al, 0x11
        out     0x20, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1
        out     0x21, al
        mov     al, 0xdf                ; only line 5
        out     0x21, al
        report32 0xffff
        sti
.wait:
        hlt
        mov     ax, [count]
        cmp     ax, [PARAM]
        jb      .wait
        done
handler:
        push    eax
        push    dx
        inc     word [count]
        movzx   eax, word [count]
        mov     dx, PORT_VALUE
        out     dx, eax
        mov     al, 0x20
        out     0x20, al
        pop     dx
        pop     eax
        iret
count:  dw      0

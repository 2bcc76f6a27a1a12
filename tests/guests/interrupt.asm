; Waits in HLT for external interrupts of vector 0x30, reports each with its number, in real mode.
; After as many as the word at PARAM says: PORT_DONE.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     word [0x30 * 4], handler
        mov     word [0x30 * 4 + 2], 0
        mov     word [2 * 4], nmi
        mov     word [2 * 4 + 2], 0
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
        pop     dx
        pop     eax
        iret
nmi:
        push    eax
        push    dx
        inc     word [count]
        mov     eax, 0x1111
        mov     dx, PORT_VALUE
        out     dx, eax
        pop     dx
        pop     eax
        iret
count:  dw      0

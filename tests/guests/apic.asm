; Real mode with a LAPIC switched on and segments of 4 GiB: takes interrupts of vector 0x40 from HLT,
; reports each and ends it at the LAPIC; after as many as the word at PARAM says: PORT_DONE.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     word [0x40 * 4], handler
        mov     word [0x40 * 4 + 2], 0
        cli
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     8:.prot
.prot:
        mov     ax, 16
        mov     ds, ax
        mov     es, ax
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        jmp     0:.real
.real:
        xor     ax, ax
        mov     ss, ax
        mov     ds, ax                  ; the limit stays 4 GiB
        mov     ebx, 0xfee00000
        mov     dword [ebx + 0xf0], 0x1ff
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
        mov     dword [ebx + 0xb0], 0
        pop     dx
        pop     eax
        iret
count:  dw      0
        align   8
gdt:    dq      0
        dq      0x00009b000000ffff      ; 8: 16-bit code
        dq      0x008f93000000ffff      ; 16: data, 4 GiB
gdtr:   dw      23
        dd      gdt

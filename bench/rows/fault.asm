; Page faults: the handler maps the page, the program unmaps it again.
%include "row.inc"
DIR     equ     0x100000
TAB     equ     0x101000
IDT     equ     0x104000
row:    mov     edi, DIR
        xor     eax, eax
        mov     ecx, 0x1000
        rep stosd
        mov     dword [DIR], TAB | 7
        mov     edi, TAB
        mov     eax, 3
.map:   stosd
        add     eax, 0x1000
        cmp     eax, 0x400000
        jb      .map
        mov     dword [IDT + 14 * 8], handler + 0x80000
        mov     dword [IDT + 14 * 8 + 4], 0x8e00
        lidt    [idtr]
        mov     eax, DIR
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80010000
        mov     cr0, eax
        mov     ecx, ROUNDS * 100
.next:  mov     dword [TAB + 0x300 * 4], 0
        invlpg  [0x300000]
        inc     dword [0x300000]
        dec     ecx
        jnz     .next
        jmp     finish
handler:
        mov     dword [TAB + 0x300 * 4], 0x300003
        add     esp, 4
        iret
idtr:   dw      0x7ff
        dd      IDT

; Long mode with its own page tables (identity, 2 MiB pages, the first GiB): reports a 64-bit sum in two
; halves, then runs into ud2, which has no handler.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     edi, 0x20000            ; PML4, PDPT, PD
        xor     eax, eax
        mov     ecx, 3 * 1024
        cld
        rep stosd
        mov     dword [0x20000], 0x21003
        mov     dword [0x21000], 0x22003
        mov     edi, 0x22000
        mov     eax, 0x83
        mov     ecx, 512
.pd:
        mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        dec     ecx
        jnz     .pd
        mov     eax, 0x20000
        mov     cr3, eax
        mov     eax, cr4
        or      eax, 0x20               ; PAE
        mov     cr4, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x100              ; LME
        wrmsr
        lgdt    [gdtr]
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     8:long64
        align   8
gdt:    dq      0
        dq      0x00209b0000000000      ; 8: 64-bit code
        dq      0x0000930000000000
gdtr:   dw      23
        dd      gdt
        bits    64
long64:
        mov     rax, 0x123456789abcdef0
        mov     rbx, 0x1111111111111111
        add     rax, rbx
        mov     rcx, rax
        mov     dx, PORT_VALUE
        out     dx, eax
        shr     rax, 32
        out     dx, eax
        mov     dx, PORT_DONE
        out     dx, al
place:
        ud2
        hlt

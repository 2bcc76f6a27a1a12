; Page faults of a user in 64-bit code: two pages in turn; the handler maps the one and takes the other away.
%include "row.inc"
PML4    equ     0x100000
PDPT    equ     0x101000
PD      equ     0x102000
PT      equ     0x103000
IDT     equ     0x104000
TSS     equ     0x105000
VA      equ     0x800000
row:    mov     edi, PML4
        xor     eax, eax
        mov     ecx, 0x6000 / 4
        rep stosd
        mov     dword [PML4], PDPT | 7
        mov     dword [PDPT], PD | 7
        mov     dword [PD], 0x87        ; 2 MiB as they are
        mov     dword [PD + (VA >> 21) * 8], PT | 7
        mov     dword [IDT + 14 * 16], handler + 0x80000
        mov     dword [IDT + 14 * 16 + 4], 0x8e00
        mov     dword [TSS + 4], 0x7000
        lgdt    [gdtr64]
        lidt    [idtr]
        mov     eax, PML4
        mov     cr3, eax
        mov     eax, 0x20
        mov     cr4, eax
        mov     ecx, 0xc0000080
        xor     edx, edx
        mov     eax, 0x100
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     8:.long
        bits    64
.long:  mov     eax, 0x28
        ltr     ax
        push    0x23                    ; SS RSP RFLAGS (IOPL 3) CS RIP
        push    0x6000
        push    0x3002
        push    0x1b
        push    user
        iretq
user:   mov     ecx, ROUNDS * 50
.next:  inc     byte [VA]
        inc     byte [VA + 0x1000]
        dec     ecx
        jnz     .next
        jmp     finish
handler:
        mov     rax, cr2
        mov     ebx, eax
        shr     eax, 12
        and     eax, 1
        xor     ebx, 0x1000
        mov     dword [PT + rax * 8], 0x180007
        xor     eax, 1
        mov     dword [PT + rax * 8], 0
        invlpg  [rbx]
        add     rsp, 8
        iretq
        align   8
gdt64:  dq      0, 0x00209b0000000000, 0x00cf93000000ffff, 0x0020fb0000000000, 0x00cff3000000ffff
        dq      0x0000891050000067, 0
gdtr64: dw      $ - gdt64 - 1
        dd      gdt64
idtr:   dw      0xfff
        dd      IDT

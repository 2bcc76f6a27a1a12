; A guest that is moved between accelerators while it runs: tests/functional/moving.lua. It writes the alphabet to the
; debug console, a letter an interrupt, and ends through port 0xf4 with 0x21 when all that it holds is as it was.
;
; Loaded at 0x7c00, entered in real mode. -DLAPIC: with a local APIC and an I/O APIC; -DDEADLINE: with TSC deadlines, too.
;   a-d  real mode, PIT through the PIC, halted             e    an interrupt that was pending while IF was clear
;   f-i  32-bit, the same                                   j-m  32-bit, LAPIC timer, periodic
;   n-q  long mode, LAPIC timer, one-shot                   r-u  long mode, PIT through the I/O APIC
;   v-y  long mode, TSC deadline                            z    FPU, SSE, debug registers and MSRs are what they were
        bits    16
        org     0x7c00
LAPIC_BASE equ  0xfee00000
IOAPIC  equ     0xfec00000
TICK    equ     2386                    ; CLKs: 2 ms
COUNT   equ     125000                  ; divided by 16: 2 ms

start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     word [0x20 * 4], tick16
        mov     word [0x20 * 4 + 2], 0
        call    pic
        mov     al, 0x34
        out     0x43, al
        mov     al, TICK & 255
        out     0x40, al
        mov     al, TICK >> 8
        out     0x40, al
        mov     byte [until], 'd' + 1
.wait:  sti
        hlt
        cli
        mov     al, [letter]
        cmp     al, [until]
        jb      .wait

        mov     al, 0x0a                ; a tick is pending, and is written when it is taken
        out     0x20, al
.irr:   in      al, 0x20
        test    al, 1
        jz      .irr
        mov     al, '!'
        out     0xe9, al
        inc     byte [until]
.again: sti
        nop
        nop
        cli
        mov     al, [letter]
        cmp     al, [until]
        jb      .again

        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 8:prot

tick16: push    ax
        mov     al, [letter]
        cmp     al, [until]
        jae     .no
        out     0xe9, al
        inc     byte [letter]
.no:    mov     al, 0x20
        out     0x20, al
        pop     ax
        iret

pic:    mov     al, 0x11
        out     0x20, al
        out     0xa0, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 0x28
        out     0xa1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xa1, al
        mov     al, 1
        out     0x21, al
        out     0xa1, al
        mov     al, 0xfe
        out     0x21, al
        mov     al, 0xff
        out     0xa1, al
        ret

        bits    32
%macro wait_for 1                       ; until the letter %1 was written
        mov     byte [until], %1 + 1
%%wait: sti
        hlt
        cli
        mov     al, [letter]
        cmp     al, [until]
        jb      %%wait
%endmacro

prot:   mov     eax, 16
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     esp, 0x7000
        mov     edi, 0x10000            ; IDT: 256 gates, all to tick32
        mov     ecx, 256
.gate:  mov     word [edi], tick32
        mov     word [edi + 2], 8
        mov     word [edi + 4], 0x8e00
        mov     word [edi + 6], 0
        add     edi, 8
        loop    .gate
        lidt    [idtr32]
        mov     eax, cr4
        or      eax, 0x600              ; OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        fninit
        fldpi
        fld1
        movups  xmm3, [pattern]
        movups  xmm6, [pattern + 8]
        mov     eax, 0x12345678
        mov     dr1, eax
        mov     ecx, 0x175              ; SYSENTER_ESP
        mov     eax, 0xcafe0000
        xor     edx, edx
        wrmsr
        mov     ecx, 0x277              ; PAT
        mov     eax, 0x00070106
        mov     edx, 0x00070406
        wrmsr
        wait_for 'i'
%ifdef LAPIC
        mov     al, 0xff                ; no PIC any more
        out     0x21, al
        mov     dword [LAPIC_BASE + 0xf0], 0x1ff
        mov     dword [LAPIC_BASE + 0x3e0], 3  ; divide by 16
        mov     dword [LAPIC_BASE + 0x320], 0x20040
        mov     dword [LAPIC_BASE + 0x380], COUNT
        mov     byte [kind], 1
        wait_for 'm'
        mov     dword [LAPIC_BASE + 0x380], 0
%else
        wait_for 'm'
%endif
        mov     edi, 0x20000            ; PML4, PDPT, four PDs: 4 GiB mapped to itself
        xor     eax, eax
        mov     ecx, 6 * 1024
        rep stosd
        mov     dword [0x20000], 0x21003
        mov     eax, 0x22003
        mov     edi, 0x21000
        mov     ecx, 4
.pdpt:  mov     [edi], eax
        add     eax, 0x1000
        add     edi, 8
        loop    .pdpt
        mov     edi, 0x22000
        mov     eax, 0x83
        mov     ecx, 2048
.pd:    mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        loop    .pd
        mov     eax, 0x20000
        mov     cr3, eax
        mov     eax, cr4
        or      eax, 0x20
        mov     cr4, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x100
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     24:long64

tick32: push    eax
        mov     al, [letter]
        cmp     al, [until]
        jae     .no
        out     0xe9, al
        inc     byte [letter]
.no:    cmp     byte [kind], 0
        jne     .lapic
        mov     al, 0x20
        out     0x20, al
        pop     eax
        iret
.lapic: mov     dword [LAPIC_BASE + 0xb0], 0
        pop     eax
        iret

        bits    64
long64: mov     edi, 0x10000
        mov     ecx, 256
.gate:  mov     word [rdi], tick64
        mov     word [rdi + 2], 24
        mov     word [rdi + 4], 0x8e00
        mov     word [rdi + 6], 0
        mov     qword [rdi + 8], 0
        add     edi, 16
        loop    .gate
        lidt    [idtr64]
        mov     r15, 0x0123456789abcdef
%ifdef LAPIC
        mov     eax, LAPIC_BASE
        mov     dword [rax + 0x320], 0x41
        mov     byte [kind], 2
        mov     dword [rax + 0x380], COUNT
        wait_for 'q'
        mov     eax, LAPIC_BASE
        mov     dword [rax + 0x380], 0
        mov     dword [rax + 0x320], 0x10041
        mov     byte [kind], 1
        mov     eax, IOAPIC
        mov     dword [rax], 0x15       ; pin 2: to processor 0, vector 0x42
        mov     dword [rax + 0x10], 0
        mov     dword [rax], 0x14
        mov     dword [rax + 0x10], 0x42
        wait_for 'u'
        mov     eax, IOAPIC
        mov     dword [rax + 0x10], 0x10042
%else
        wait_for 'u'
%endif
%ifdef DEADLINE
        mov     eax, LAPIC_BASE
        mov     dword [rax + 0x320], 0x40043
        mov     byte [kind], 3
        call    deadline
%elifdef LAPIC
        mov     eax, LAPIC_BASE
        mov     byte [kind], 1
        mov     dword [rax + 0x320], 0x20043
        mov     dword [rax + 0x380], COUNT
%endif
        wait_for 'y'

        mov     rax, 0x0123456789abcdef
        mov     ebx, 1
        cmp     r15, rax
        jne     .bad
        inc     ebx
        movups  [scratch], xmm3
        movups  [scratch + 16], xmm6
        mov     rax, [pattern]
        cmp     rax, [scratch]
        jne     .bad
        mov     rax, [pattern + 8]
        cmp     rax, [scratch + 8]
        jne     .bad
        cmp     rax, [scratch + 16]
        jne     .bad
        inc     ebx
        fldpi
        fcomip  st2
        jne     .bad
        fld1
        fcomip  st1
        jne     .bad
        inc     ebx
        mov     rax, dr1
        cmp     eax, 0x12345678
        jne     .bad
        inc     ebx
        mov     ecx, 0x175
        rdmsr
        cmp     eax, 0xcafe0000
        jne     .bad
        mov     ecx, 0x277
        rdmsr
        cmp     eax, 0x00070106
        jne     .bad
        mov     al, 'z'
        out     0xe9, al
        mov     ebx, 0x10
.bad:   mov     eax, ebx
        out     0xf4, al
        hlt

deadline:
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        add     rax, 2000000
        mov     rdx, rax
        shr     rdx, 32
        mov     ecx, 0x6e0
        wrmsr
        ret

tick64: push    rax
        push    rcx
        push    rdx
        mov     al, [letter]
        cmp     al, [until]
        jae     .no
        out     0xe9, al
        inc     byte [letter]
.no:    mov     ecx, LAPIC_BASE
        mov     al, [kind]
        cmp     al, 0
        jne     .lapic
        mov     al, 0x20
        out     0x20, al
        jmp     .out
.lapic: cmp     al, 2
        jne     .deadline
        mov     dword [rcx + 0x380], COUNT
        jmp     .eoi
.deadline:
        cmp     al, 3
        jne     .eoi
        call    deadline
        mov     ecx, LAPIC_BASE
.eoi:   mov     dword [rcx + 0xb0], 0
.out:   pop     rdx
        pop     rcx
        pop     rax
        iretq

letter: db      'a'
until:  db      0
kind:   db      0
        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff      ; 8
        dq      0x00cf93000000ffff      ; 16
        dq      0x00209b0000000000      ; 24
gdtr:   dw      31
        dd      gdt
idtr32: dw      256 * 8 - 1
        dd      0x10000
idtr64: dw      256 * 16 - 1
        dq      0x10000
        align   16
pattern: dq     0x1122334455667788, 0x99aabbccddeeff00, 0x123456789abcdef0
scratch: times 4 dq 0

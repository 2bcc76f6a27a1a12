; What KVM without hardware cannot emulate in long mode: IRETQ to user mode and to the same level, INT n from
; there, SSE in user mode, SYSCALL and SYSRET, SWAPGS.
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
        mov     dword [0x20000], 0x21007
        mov     dword [0x21000], 0x22007
        mov     dword [0x22000], 0x87
        mov     eax, 0x20000
        mov     cr3, eax
        mov     eax, 0x620              ; PAE, OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     ecx, 0xc0000080
        mov     eax, 0x101              ; LME, SCE
        xor     edx, edx
        wrmsr
        lgdt    [gdtr]
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     8:long64
        bits    64
long64:
        mov     ax, 0x10
        mov     ss, ax
        mov     ds, ax
        mov     es, ax
        mov     rsp, 0x7000
        lidt    [idtr]
        mov     ax, 0x28
        ltr     ax
        mov     ecx, 0xc0000081         ; STAR
        xor     eax, eax
        mov     edx, 0x00100008
        wrmsr
        inc     ecx                     ; LSTAR
        mov     eax, system
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000084         ; SFMASK
        mov     eax, 0x200
        wrmsr
        mov     ecx, 0xc0000102         ; KERNEL_GS_BASE
        mov     eax, 0x12340
        wrmsr
        swapgs
        mov     ecx, 0xc0000101         ; GS_BASE
        rdmsr
        mov     dx, PORT_VALUE
        out     dx, eax                 ; 0x12340
        swapgs
        xor     ebx, ebx
        int     0x20                    ; 1
        mov     eax, ebx
        mov     dx, PORT_VALUE
        out     dx, eax
        push    0x1b                    ; SS
        push    0x6000
        push    0x202                   ; IF
        push    0x23                    ; CS
        push    user
        iretq
user:
        movups  xmm0, [floats]
        mulps   xmm0, xmm0
        cvttss2si eax, xmm0
        mov     dx, PORT_VALUE
        out     dx, eax                 ; 2: 1.5 * 1.5
        mov     ebx, 0x10
        int     0x20                    ; 0x11
        mov     eax, ebx
        out     dx, eax
        mov     ebx, 0x20
        syscall
        mov     dx, PORT_VALUE
        mov     eax, ebx
        out     dx, eax                 ; 0x25
        mov     ax, cs
        movzx   eax, ax
        out     dx, eax                 ; 0x23
        fninit
        fld1
        fadd    st0, st0
        fistp   qword [result]
        mov     eax, [result]
        out     dx, eax                 ; 2
        mov     dx, PORT_DONE
        out     dx, al
.stop:  jmp     .stop
handler:
        add     ebx, 1
        iretq
invalid:
        mov     eax, 0xe06
        mov     dx, PORT_VALUE
        out     dx, eax
        mov     dx, PORT_DONE
        out     dx, al
        hlt
system:
        add     ebx, 5
        o64 sysret
        align   16
gdt:    dq      0
        dq      0x00209b0000000000      ; 8: code
        dq      0x0000930000000000      ; 16: data
        dq      0x0000f30000000000      ; 24: user data
        dq      0x0020fb0000000000      ; 32: user code
        dw      tss_end - tss - 1, tss, 0x8900, 0 ; 40: TSS
        dq      0
gdtr:   dw      $ - gdt - 1
        dd      gdt
idt:    times   12 dq 0
        dw      invalid, 8, 0x8e00, 0   ; 6: a KVM that gives user mode #UD instead of an exit
        dq      0
        times   50 dq 0
        dw      handler, 8, 0xee00, 0   ; 0x20
        dq      0
idtr:   dw      $ - idt - 1
        dq      idt
        align   8
result: dq      0
        align   16
floats: dd      1.5, 2.5, 3.5, 4.5
tss:    dd      0
        dq      0x7000
        times   90 db 0
        dw      104                     ; ports up to 0x7ff are allowed
        times   256 db 0
        db      0xff
tss_end:

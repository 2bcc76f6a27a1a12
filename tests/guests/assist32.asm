; What KVM without hardware cannot emulate in 32-bit code: INT n, INT3, IRET, x87, SSE, XSAVE, with results
; reported one by one; a device is read by ADDPS and written by FISTP.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        lidt    [idtr]
        mov     ebx, 0x100
        int     0x20                    ; adds 1
        int3                            ; adds 2
        report32 ebx                    ; 0x103
        pushf
        pop     eax
        and     eax, 0xfff
        report32 eax
        fninit
        fld1
        fadd    st0, st0
        fldpi
        fmulp
        fistp   dword [result]
        fwait
        report32 [result]               ; 2 pi: 6
        fnstcw  [result]
        movzx   eax, word [result]
        report32 eax                    ; 0x37f
        fild    dword [three]
        fistp   dword [MMIO_DEVICE + 0x40]
        mov     eax, cr4
        or      eax, 0x40600            ; OSFXSR, OSXMMEXCPT, OSXSAVE
        mov     cr4, eax
        movups  xmm0, [floats]
        addps   xmm0, xmm0
        cvttss2si eax, xmm0
        report32 eax                    ; 3
        addps   xmm0, [MMIO_DEVICE]     ; reads the device
        xor     ecx, ecx
        xgetbv
        or      eax, 3
        xsetbv
        mov     eax, 3
        xor     edx, edx
        xsave   [area]
        xorps   xmm0, xmm0
        movups  xmm0, [floats]
        addps   xmm0, xmm0
        mov     eax, 2
        xrstor  [area]
        movups  xmm1, [floats]
        addps   xmm1, xmm1
        mov     ecx, 1000               ; a stream
.sum:   addss   xmm2, [one]
        dec     ecx
        jnz     .sum
        cvttss2si eax, xmm2
        report32 eax                    ; 1000
        div     dword [zero]            ; #DE: its handler skips it
        report32 ebx                    ; 0x203
        ud2                             ; #UD likewise
        report32 ebx                    ; 0x303
        done
handler20:
        add     ebx, 1
        iret
handler3:
        add     ebx, 2
        iret
fault6:
        add     ebx, 0x100
        add     dword [esp], 2
        iret
fault0:
        add     ebx, 0x100
        add     dword [esp], 6
        iret
        align   8
%macro gate 1
        dw      (%1 - start + TEST_ADDR) & 0xffff, 8, 0x8e00, 0
%endmacro
idt:    gate    fault0
        times   2 dq 0
        gate    handler3
        times   2 dq 0
        gate    fault6
        times   25 dq 0
        gate    handler20
idtr:   dw      $ - idt - 1
        dd      idt
result: dd      0
three:  dd      3
zero:   dd      0
one:    dd      1.0
        align   16
floats: dd      1.5, 2.5, 3.5, 4.5
        align   64
area:   times   1024 db 0

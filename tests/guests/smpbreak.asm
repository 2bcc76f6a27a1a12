; As smp.asm starts the second processor; then both call the function at 0x9000 for ever, each adding 1
; to its own counter before the call (0x7d00 + 8 * n) and the function adding 1 to the word that si points
; to (0x7d04 + 8 * n).
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     si, ap
        mov     di, 0x8000
        mov     cx, ap_end - ap
        cld
        rep movsb
        mov     si, func
        mov     di, 0x9000
        mov     cx, func_end - func
        rep movsb
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     ebx, 0xfee00000
        mov     dword [ebx + 0xf0], 0x1ff
        mov     dword [ebx + 0x310], 1 << 24
        mov     dword [ebx + 0x300], 0x4500
        mov     dword [ebx + 0x310], 1 << 24
        mov     dword [ebx + 0x300], 0x4608
        jmp     0x18:back               ; a 16-bit segment on the way back to real mode
        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff
        dq      0x00cf93000000ffff
        dq      0x00009b000000ffff      ; 0x18: 16-bit code
gdtr:   dw      31
        dd      gdt
        bits    16
back:
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        jmp     0:real
real:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x6000
        mov     si, 0x7d04
.loop:
        inc     dword [si - 4]
        call    0x9000
        jmp     .loop
ap:
        jmp     0:0x8000 + ap_real - ap
ap_real:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x5000
        mov     si, 0x7d0c
.loop:
        inc     dword [si - 4]
        mov     ax, 0x9000
        call    ax
        jmp     .loop
ap_end:
func:
        inc     dword [si]
        ret
func_end:

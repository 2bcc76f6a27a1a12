; As smp.asm starts the second processor; then both, in 32-bit protected mode, call the function at
; TEST_ADDR + 0x200 for ever, each adding 1 to its own counter before the call (0x7d00 + 8 * n); the function
; adds 1 to the dword that esi points to (0x7d04 + 8 * n).
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     si, ap
        mov     di, 0x8000
        mov     cx, ap_end - ap
        cld
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
        mov     esi, 0x7d04
.loop:
        inc     dword [esi - 4]
        call    func
        jmp     .loop
        bits    16
ap:
        xor     ax, ax
        mov     ds, ax
        jmp     0:ap_low
ap_end:
ap_low:
        enter_flat32 ap32
        bits    32
ap32:
        flat32_segments
        mov     esp, 0x6000
        mov     esi, 0x7d0c
.loop:
        inc     dword [esi - 4]
        call    func
        jmp     .loop
        times   0x200 - ($ - $$) db 0x90
func:
        inc     dword [esi]
        ret

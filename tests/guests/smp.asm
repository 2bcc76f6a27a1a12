; The first processor starts the second by INIT and SIPI; that reports 0xa0 plus its APIC id, then both
; count in their own words at 0x7f00 and 0x7f04 until the first has seen the second count.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     si, ap                  ; the start-up vector is a page: 0x8000
        mov     di, 0x8000
        mov     cx, ap_end - ap
        cld
        rep movsb
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     ebx, 0xfee00000
        mov     dword [ebx + 0xf0], 0x1ff       ; LAPIC on
        mov     dword [ebx + 0x310], 1 << 24
        mov     dword [ebx + 0x300], 0x4500     ; INIT
        mov     dword [ebx + 0x310], 1 << 24
        mov     dword [ebx + 0x300], 0x4608     ; SIPI to 0x8000
.wait:
        inc     dword [0x7f00]
        cmp     dword [0x7f04], 100
        jb      .wait
        mov     eax, 0xb0
        mov     dx, PORT_VALUE
        out     dx, eax
        done
        bits    16
ap:
        xor     ax, ax
        mov     ds, ax
        mov     eax, 1
        cpuid
        shr     ebx, 24
        lea     eax, [ebx + 0xa0]
        mov     dx, PORT_VALUE
        out     dx, eax
.count:
        inc     dword [0x7f04]
        jmp     .count
ap_end:

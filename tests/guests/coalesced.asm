; Ten writes of 0..9 to MMIO_DEVICE + 0x100 (which the machine may coalesce), then one to MMIO_DEVICE, which
; it may not; twice; then the same with ports: PORT 0x520 may be coalesced, PORT_VALUE may not.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     esi, 2
.twice:
        xor     eax, eax
.next:
        mov     [MMIO_DEVICE + 0x100], eax
        inc     eax
        cmp     eax, 10
        jb      .next
        mov     dword [MMIO_DEVICE], 0xff
        dec     esi
        jnz     .twice
        xor     eax, eax
        mov     dx, 0x520
.port:
        out     dx, eax
        inc     eax
        cmp     eax, 10
        jb      .port
        mov     dx, PORT_VALUE
        out     dx, eax
        done

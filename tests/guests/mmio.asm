; Memory-mapped accesses of 1, 2 and 4 bytes from 32-bit protected mode, reads and writes.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     ebx, MMIO_DEVICE
        mov     byte [ebx + 1], 0x11
        mov     word [ebx + 2], 0x2222
        mov     dword [ebx + 4], 0x44444444
        movzx   eax, byte [ebx + 0x21]
        mov     dx, PORT_VALUE
        out     dx, eax
        movzx   eax, word [ebx + 0x42]
        out     dx, eax
        mov     eax, [ebx + 0x84]
        out     dx, eax
        add     dword [ebx + 0x10], 5   ; a read and a write by one instruction
        done

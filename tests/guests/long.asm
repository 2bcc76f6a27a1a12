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
        enter_long64 long64
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

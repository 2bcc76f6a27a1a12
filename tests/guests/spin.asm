; Never leaves the guest by itself: counts at 0x7f00.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        inc     dword [0x7f00]
        jmp     start

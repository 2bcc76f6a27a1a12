; A triple fault: an invalid opcode in protected mode with an interrupt table that is empty.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        lidt    [empty]
        ud2
        hlt
empty:  dw      0
        dd      0

; As breaks.asm, in 32-bit protected mode: six functions 16 bytes apart from TEST_ADDR + 0x100.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        movzx   ecx, word [PARAM]
.round:
        call    f0
        call    f1
        call    f2
        call    f3
        call    f4
        call    f5
        dec     ecx
        jnz     .round
        done
        times   0x100 - ($ - $$) db 0x90
%macro func 1
        align   16
f%1:    inc     dword [0x7e00 + 4 * %1]
        ret
%endmacro
        func 0
        func 1
        func 2
        func 3
        func 4
        func 5

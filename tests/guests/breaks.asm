; Six small functions, 16 bytes apart from TEST_ADDR + 0x100, called in turn for as many rounds as the
; word at PARAM says; each adds 1 to its own counter at 0x7e00 + 4 * n. Then PORT_DONE.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     cx, [PARAM]
.round:
        call    f0
        call    f1
        call    f2
        call    f3
        call    f4
        call    f5
        loop    .round
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

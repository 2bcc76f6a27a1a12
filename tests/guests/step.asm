; For single steps: one-byte and longer instructions, a port read, a port write and a string write,
; at addresses that the test knows.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        nop                             ; 0x1000
        mov     dx, PORT_SOURCE         ; 0x1001
        in      al, dx                  ; 0x1004
        mov     ah, al                  ; 0x1005
        mov     dx, PORT_VALUE          ; 0x1007
        out     dx, al                  ; 0x100a
        mov     si, start               ; 0x100b
        mov     cx, 2                   ; 0x100e
        nop                             ; 0x1011
        outsb                           ; 0x1012
        nop                             ; 0x1013
        done

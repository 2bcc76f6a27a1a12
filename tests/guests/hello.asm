; Prints a line on the debug console (port 0xe9) and on a UART at 0x3f8 (polling its line status).
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     si, text
.next:
        lodsb
        test    al, al
        jz      .end
        out     0xe9, al
        mov     bl, al
        mov     dx, 0x3fd
        mov     cx, 1000
.wait:
        in      al, dx
        test    al, 0x20
        loopz   .wait
        mov     dx, 0x3f8
        mov     al, bl
        out     dx, al
        jmp     .next
.end:
        done
text:   db      "hello from the guest", 10, 0

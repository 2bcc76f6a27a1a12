; Writes al to the port in the word at PARAM for ever. The word at PARAM+2 says how many writes come
; before one to PORT_DONE; 0 means never.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     dx, [PARAM]
        movzx   ecx, word [PARAM + 2]
        jecxz   .ever
.next:
        out     dx, al
        dec     ecx
        jnz     .next
        done
.ever:
        out     dx, al
        jmp     .ever

; Port accesses of every size, single and by string instructions.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     eax, 0x44332211
        mov     dx, PORT_VALUE
        out     dx, al
        out     dx, ax
        out     dx, eax
        mov     dx, PORT_SOURCE
        xor     eax, eax
        in      al, dx                  ; 1
        mov     ebx, eax
        in      ax, dx                  ; 2
        mov     ecx, eax
        in      eax, dx                 ; 3
        mov     edi, eax
        report32 ebx
        report32 ecx
        report32 edi
        mov     si, bytes
        mov     cx, 5
        mov     dx, PORT_VALUE
        cld
        rep outsb                       ; 10 11 12 13 14
        mov     si, words
        mov     cx, 3
        rep outsw                       ; 0x1001 0x1002 0x1003
        mov     di, buffer
        mov     cx, 4
        mov     dx, PORT_SOURCE
        rep insd                        ; 4 5 6 7
        mov     di, buffer
        mov     cx, 4
.sum:
        report32 [di]
        add     di, 4
        loop    .sum
        mov     di, buffer
        mov     cx, 3000                ; more than one exit holds
        mov     dx, PORT_SOURCE
        rep insb
        movzx   eax, di
        report32 eax
        done
bytes:  db      10, 11, 12, 13, 14
words:  dw      0x1001, 0x1002, 0x1003
        align   16
buffer:

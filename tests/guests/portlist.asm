; Works through a list of port accesses at 0x2000, four bytes each: what (0 end, 1 out, 2 in, 3 tell
; the test), value, port. What is read goes to where the value is.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        xor     ax, ax
        mov     ds, ax
        mov     si, 0x2000
next:
        mov     bl, [si]
        mov     al, [si + 1]
        mov     dx, [si + 2]
        cmp     bl, 1
        jb      .end
        je      .out
        cmp     bl, 2
        je      .in
        mov     dx, PORT_VALUE
.out:   out     dx, al
        jmp     .more
.in:    in      al, dx
        mov     [si + 1], al
.more:  add     si, 4
        jmp     next
.end:
        done

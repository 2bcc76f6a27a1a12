; Long mode, where linear 0 and linear 2 MiB are both the first 2 MiB of memory. Calls the function at TEST_ADDR +
; 0x200 by its second address, the first time, then by its first one; reports how often it ran.
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
        mov     qword [0x22008], 0x83
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, 0x200000 + func
        call    rax
        mov     rax, func
        call    rax
        mov     eax, [0x7e00]
        mov     dx, PORT_VALUE
        out     dx, eax
        mov     dx, PORT_DONE
        out     dx, al
stop:   hlt
        jmp     stop
        times   0x200 - ($ - $$) db 0x90
func:
        inc     dword [0x7e00]
        ret

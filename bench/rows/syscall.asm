; SYSENTER and SYSEXIT from ring 3 and back.
%include "row.inc"
row:    xor     edx, edx
        mov     ecx, 0x174
        mov     eax, 8
        wrmsr
        inc     ecx
        mov     eax, 0x7000
        wrmsr
        inc     ecx
        mov     eax, kernel
        wrmsr
        mov     ebx, ROUNDS * 100
        mov     ecx, 0x6000
        mov     edx, user
        sysexit
user:   mov     ecx, esp
        mov     edx, user
        sysenter
kernel: dec     ebx
        jz      near finish
        sysexit

; Integer arithmetic in registers.
%include "row.inc"
row:    mov     ecx, ROUNDS * 1000
        mov     eax, 1
.next:  imul    eax, eax, 1103515245
        add     eax, 12345
        mov     edx, eax
        shr     edx, 7
        xor     ebx, edx
        lea     esi, [ebx + eax * 4 + 3]
        sub     edi, esi
        rol     ebp, 5
        adc     ebp, edi
        and     edx, 0xff
        or      ebx, edx
        dec     ecx
        jnz     .next
        jmp     finish

; Loads, stores and read-modify-write over 4 MiB.
%include "row.inc"
row:    mov     ebp, ROUNDS
.round: mov     esi, 0x200000
        mov     ecx, 1000
.next:  mov     eax, [esi]
        add     eax, [esi + 4]
        mov     [esi + 8], eax
        inc     dword [esi + 12]
        mov     dx, [esi + 2]
        mov     [esi + 1], dl
        add     esi, 4160
        and     esi, 0x5fffff
        or      esi, 0x200000
        dec     ecx
        jnz     .next
        dec     ebp
        jnz     .round
        jmp     finish

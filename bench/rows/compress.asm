; Finds repeats of four bytes and more in 16 KiB of half-random text by a hash table, and writes literals and pairs.
%include "row.inc"
TEXT    equ     0x200000
TABLE   equ     0x210000
OUTPUT  equ     0x220000
SIZE    equ     16384
row:    mov     edi, TEXT
        mov     eax, 1
.fill:  imul    eax, eax, 1103515245
        add     eax, 12345
        mov     edx, eax
        shr     edx, 28
        add     dl, 'a'
        mov     [edi], dl
        inc     edi
        cmp     edi, TEXT + SIZE
        jb      .fill
        mov     ebp, ROUNDS
.round: mov     esi, TEXT
        mov     edi, OUTPUT
.next:  mov     eax, [esi]
        imul    ebx, eax, 0x9e3779b1
        shr     ebx, 22
        mov     ecx, [TABLE + ebx * 4]
        mov     [TABLE + ebx * 4], esi
        cmp     ecx, TEXT
        jb      .plain
        cmp     ecx, esi
        jae     .plain
        cmp     [ecx], eax
        jne     .plain
        mov     edx, 4
.more:  mov     al, [esi + edx]
        cmp     al, [ecx + edx]
        jne     .pair
        inc     edx
        cmp     edx, 255
        jb      .more
.pair:  mov     [edi], dl
        sub     ecx, esi
        mov     [edi + 1], cx
        add     edi, 3
        add     esi, edx
        jmp     .test
.plain: mov     [edi], al
        inc     edi
        inc     esi
.test:  cmp     esi, TEXT + SIZE - 300
        jb      .next
        dec     ebp
        jnz     .round
        jmp     finish

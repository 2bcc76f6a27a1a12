; Reads the first dword of each of the 64 pages from 1 MiB on, for ever. Each page holds its own number
; plus 0x600d0000. What differs is reported: address, value. Each full round adds 1 to [0x7f00].
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
.round:
        mov     ebx, 0x100000
        mov     ecx, 0x600d0000
.page:
        mov     eax, [ebx]
        cmp     eax, ecx
        jne     .wrong
.next:
        add     ebx, 4096
        inc     ecx
        cmp     ebx, 0x140000
        jb      .page
        inc     dword [0x7f00]
        jmp     .round
.wrong:
        mov     esi, eax
        mov     dx, PORT_VALUE
        mov     eax, ebx
        out     dx, eax
        mov     eax, esi
        out     dx, eax
        jmp     .next

; Writes one byte into each page whose number is in the list at PAGE_LIST, adding up a round counter at
; 0x7f00, for as many rounds as the word at PARAM says (0: for ever), then PORT_DONE.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        movzx   ecx, word [PARAM]
.round:
        mov     esi, PAGE_LIST
.page:
        movzx   eax, word [esi]
        add     esi, 2
        test    eax, eax
        jz      .end
        shl     eax, 12
        inc     byte [eax]
        jmp     .page
.end:
        inc     dword [0x7f00]
        dec     ecx
        jnz     .round
        done

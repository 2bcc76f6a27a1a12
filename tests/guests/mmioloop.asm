; Writes 4 bytes to MMIO_DEVICE for ever; with a count in the word at PARAM+2, that often, then PORT_DONE.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     ebx, MMIO_DEVICE
        movzx   ecx, word [PARAM + 2]
        jecxz   .ever
.next:
        mov     [ebx], eax
        dec     ecx
        jnz     .next
        done
.ever:
        mov     [ebx], eax
        jmp     .ever

; Reads and writes MSRs in real mode: SYSENTER_ESP (0x175) and PAT (0x277), three rounds.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        mov     si, 3
.round:
        mov     ecx, 0x175
        movzx   eax, si
        add     eax, 0x5000
        xor     edx, edx
        wrmsr
        xor     eax, eax
        rdmsr
        mov     dx, PORT_VALUE
        out     dx, eax
        mov     ecx, 0x277
        rdmsr
        mov     dx, PORT_VALUE
        out     dx, eax
        dec     si
        jnz     .round
        done

; VMCALL with number 42 and arguments 1, 2, 3, 4, reports the result; then number 1000000, which nobody
; knows, and reports that result.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     eax, 42
        mov     ebx, 1
        mov     ecx, 2
        mov     edx, 3
        mov     esi, 4
        vmcall
        mov     dx, PORT_VALUE
        out     dx, eax
        mov     eax, 1000000
        vmcall
        mov     dx, PORT_VALUE
        out     dx, eax
        done

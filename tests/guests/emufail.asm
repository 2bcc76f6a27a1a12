; An instruction on device memory that KVM cannot emulate: ADDPS. Its address is TEST_ADDR + 0x100.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     eax, cr4
        or      eax, 0x600              ; OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     ebx, MMIO_DEVICE
        jmp     TEST_ADDR + 0x100
        times   0x100 - ($ - $$) db 0x90
        addps   xmm1, [ebx]
        hlt

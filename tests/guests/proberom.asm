; The firmware of probe.inc, the last 4 KiB of 64: what registers have at power on. The list stands before it, from f0000h on.
LINEAR equ 0xff000
LIST   equ 0xf0000

bits 16
org 0
start:
        cli
        mov ax, 0xff00
        mov ds, ax
        o32 lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:LINEAR + flat

%include "probe.inc"
        times 0xff0 - ($ - $$) db 0
bits 16
        jmp 0xf000:0xf000
        times 0x1000 - ($ - $$) db 0

; The boot sector of probe.inc: the list stands from sector 2 on, up to 32 KiB. It runs after firmware.
LINEAR  equ 0
LIST    equ 0x8000
SECTORS equ 64

bits 16
org 0x7c00
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        mov si, packet
        mov ah, 0x42
        int 0x13                        ; the rest, from the drive in DL
        cli
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:flat

        align 4
packet: db 16, 0
        dw SECTORS + 1, 0x7e00, 0
        dq 1
        times 510 - ($ - $$) db 0
        dw 0xaa55

%include "probe.inc"
        times 0x400 - ($ - $$) db 0     ; the list begins here

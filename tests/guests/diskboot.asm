; With CD defined: the same from an El Torito CD, that is without writing.
; A boot sector that proves itself: reads the rest of itself from the disk it was started from (by
; BIOS calls with 64-bit addresses), prints what it finds there on the first serial port, writes a
; sector back, and ends by isa-debug-exit or, failing that, halts.
bits 16
%ifdef CD
COUNT equ 1
FIRST equ 20                ; CD sectors: where the test puts what follows the first four
%else
COUNT equ 8
FIRST equ 1
%endif
org 0x7c00
start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    sti
    mov [drive], dl
    mov si, packet
    mov ah, 0x42            ; read 8 sectors from 1 to 0x8000
    int 0x13
    jc failed
    mov si, 0x8000
    call print
%ifndef CD
    mov word [packet + 2], 1
    mov word [packet + 4], text_written
    mov dword [packet + 8], 20
    mov si, packet
    mov ax, 0x4300          ; write one to 20
    mov dl, [drive]
    int 0x13
    jc failed
%endif
    mov si, done
    call print
    jmp end
failed:
    mov si, bad
    call print
end:
    mov al, 0
    out 0xf4, al
halt:
    hlt
    jmp halt

print:                      ; to the serial port, polled
    lodsb
    test al, al
    jz .over
    mov ah, al
    mov dx, 0x3fd
.wait:
    in al, dx
    test al, 0x20
    jz .wait
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    jmp print
.over:
    ret

drive: db 0
align 4
packet: db 16, 0
    dw COUNT
    dw 0x8000, 0
    dq FIRST
text_written: db "written by the guest", 0
done: db "done", 13, 10, 0
bad: db "failed", 13, 10, 0
times 510 - ($ - $$) db 0
    dw 0xaa55
%ifdef CD
times 2048 - ($ - $$) db 0
%endif
; sector 1
    db "read from the disk", 13, 10, 0
times 65536 - ($ - $$) db 0

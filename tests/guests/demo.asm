; The guest of machines/demo.lua: a boot-sector-sized program in real mode, loaded at 0x7c00.
; It prints over the UART, counts interrupts of the PIT, asks whoever runs it a question, prints the
; answer and ends through isa-debug-exit. Assembled: nasm -f bin demo.asm -o demo.bin

COM1     equ 0x3f8
LSR      equ COM1 + 5
PIC_CMD  equ 0x20
PIC_DATA equ 0x21
PIT_CH0  equ 0x40
PIT_MODE equ 0x43
ASK      equ 0x500              ; a byte of the question out, the answer's bytes in
EXIT     equ 0xf4
TICKS    equ 5
VECTOR   equ 0x20

        bits 16
        org 0x7c00

start:  xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        cld

        mov dx, COM1 + 3        ; 115200 baud, 8 bits, FIFO on
        mov al, 0x80
        out dx, al
        mov dx, COM1
        mov al, 1
        out dx, al
        inc dx
        mov al, 0
        out dx, al
        mov dx, COM1 + 3
        mov al, 3
        out dx, al
        dec dx
        mov al, 7
        out dx, al

        mov si, hello
        call print

        mov word [VECTOR * 4], tick
        mov word [VECTOR * 4 + 2], 0
        mov al, 0x11            ; the first PIC: edge triggered, vectors from VECTOR on
        out PIC_CMD, al
        mov al, VECTOR
        out PIC_DATA, al
        mov al, 4
        out PIC_DATA, al
        mov al, 1
        out PIC_DATA, al
        mov al, 0xfe            ; only line 0
        out PIC_DATA, al
        mov al, 0x34            ; PIT channel 0, rate generator, 100 Hz
        out PIT_MODE, al
        mov ax, 11932
        out PIT_CH0, al
        mov al, ah
        out PIT_CH0, al
        sti
wait_t: hlt
        cmp byte [ticks], TICKS
        jb wait_t
        cli
        mov al, 0xff
        out PIC_DATA, al
        mov si, ticked
        call print

        mov si, asks
        call print
        mov si, question
        call print
        mov si, question
        mov dx, ASK
.out:   lodsb
        out dx, al
        test al, al
        jnz .out
        mov si, answer
        call print
.in:    mov dx, ASK
        in al, dx
        test al, al
        jz .done
        call putc
        jmp .in
.done:  mov si, bye
        call print
        mov al, 0x10
        out EXIT, al
        hlt

tick:   push ax
        inc byte [ticks]
        mov al, '.'
        call putc
        mov al, 0x20
        out PIC_CMD, al
        pop ax
        iret

print:  lodsb
        test al, al
        jz .end
        call putc
        jmp print
.end:   ret

putc:   push dx
        push ax
        mov dx, LSR
.busy:  in al, dx
        test al, 0x20
        jz .busy
        pop ax
        mov dx, COM1
        out dx, al
        pop dx
        ret

ticks:    db 0
hello:    db "guest: hello from real mode, over the UART", 13, 10, "guest: waiting for the timer ", 0
ticked:   db 13, 10, "guest: five timer interrupts taken", 13, 10, 0
asks:     db "guest: I ask the machine's author: ", 0
question: db "what is six times seven?", 0
answer:   db 13, 10, "guest: the answer is ", 0
bye:      db 13, 10, "guest: bye", 13, 10, 0

; The boot sectors of a disk (the first on the first channel of a PIIX3) that read and write it in some ways and tell
; the time of each by bytes on the debug console: for each row 1, then 2. See ide.lua, which defines the counts.
PRD     equ 0x6000
DATA    equ 0x1f0
BUFFER  equ 0x2000              ; segment: 128 KiB from 0x20000
%define MASK (SECTORS - 1)

bits 16
org 0x7c00
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        mov ax, 0x0203
        mov bx, 0x7e00
        mov cx, 2
        mov dx, 0x80
        int 0x13                        ; the rest
        jmp main
        times 510 - ($ - $$) db 0
        dw 0xaa55

main:   cli
        cld
        mov eax, 0x80000920             ; BAR 4 of 1.1
        call config
        and ax, 0xfffc
        mov [bm], ax
        mov eax, 0x80000904
        call config
        or al, 5
        out dx, eax
        mov dword [PRD], 0x20000        ; two pieces of 64 KiB
        mov dword [PRD + 4], 0
        mov dword [PRD + 8], 0x30000
        mov dword [PRD + 12], 0x80000000
        mov dx, DATA + 6
        mov al, 0xe0
        out dx, al
        mov dx, DATA + 2
        mov al, 16
        out dx, al
        mov dx, DATA + 7
        mov al, 0xc6                    ; SET MULTIPLE MODE
        out dx, al
        call ready

        call begin
        mov ebp, PIO_ROUNDS
        xor esi, esi
.pio:   mov cx, 128
        mov al, 0x29                    ; READ MULTIPLE EXT
        call issue
        mov bx, 8
.block: call ready
        mov ax, BUFFER
        mov es, ax
        xor di, di
        mov dx, DATA
        mov cx, 16 * 256
        rep insw
        dec bx
        jnz .block
        add esi, 128
        and esi, MASK
        dec ebp
        jnz .pio
        call finish

        mov dword [PRD + 4], 0
        call begin
        mov ebp, DMA_ROUNDS
        xor esi, esi
.dma:   mov cx, 256
        mov ax, 0x0825
        call transfer
        add esi, 256
        and esi, MASK
        dec ebp
        jnz .dma
        call finish

        call begin
        mov ebp, DMA_ROUNDS
        mov esi, 256                    ; not over this program
.wdma:  mov cx, 256
        mov ax, 0x0035
        call transfer
        add esi, 256
        and esi, MASK
        jnz .w2
        mov esi, 256
.w2:    dec ebp
        jnz .wdma
        call finish

        mov dword [PRD + 4], 0x80001000 ; 4 KiB
        mov word [kind], 0x0825
        call random
        mov word [kind], 0x0035
        call random
        mov al, 3
        call say
stop:   hlt
        jmp stop

random:
        call begin
        mov ebp, RANDOM_ROUNDS
        mov edi, 12345
.next:  imul edi, edi, 1664525
        add edi, 1013904223
        mov esi, edi
        shr esi, 8
        and esi, MASK & ~7
        or esi, 8
        mov cx, 8
        mov ax, [kind]
        call transfer
        dec ebp
        jnz .next
        jmp finish

; AL = command, AH = direction; CX sectors at ESI
transfer:
        push ax
        mov dx, [bm]
        add dx, 2
        mov al, 6
        out dx, al                      ; interrupt and error are cleared
        add dx, 2
        mov eax, PRD
        out dx, eax
        pop ax
        push ax
        mov dx, [bm]
        mov al, ah
        out dx, al
        pop ax
        push ax
        call issue
        pop ax
        mov al, ah
        or al, 1
        mov dx, [bm]
        out dx, al
        add dx, 2
.wait:  in al, dx
        test al, 4
        jz .wait
        sub dx, 2
        xor al, al
        out dx, al
        mov dx, DATA + 7
        in al, dx
        ret

issue:                                  ; AL = command; CX sectors at ESI
        push ax
        mov dx, DATA + 2
        mov al, ch
        out dx, al
        mov al, cl
        out dx, al
        mov eax, esi
        shr eax, 24
        mov dx, DATA + 3
        out dx, al
        mov eax, esi
        out dx, al
        xor al, al
        inc dx
        out dx, al
        mov eax, esi
        shr eax, 8
        out dx, al
        xor al, al
        inc dx
        out dx, al
        mov eax, esi
        shr eax, 16
        out dx, al
        mov dx, DATA + 7
        pop ax
        out dx, al
        ret

ready:  mov dx, DATA + 7
.wait:  in al, dx
        test al, 0x80
        jnz .wait
        ret

config: mov dx, 0xcf8
        out dx, eax
        mov dx, 0xcfc
        in eax, dx
        ret

begin:  mov al, 1
        jmp say
finish: mov al, 2
say:    mov dx, 0x402
        out dx, al
        ret

bm:     dw 0
kind:   dw 0
        times 2048 - ($ - $$) db 0

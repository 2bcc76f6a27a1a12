; A boot sector (of a floppy disk) that reads and writes at random: all ports, the ports of a PC's devices more often,
; configuration space of bus 0, the first MiB of each BAR and of the memory that devices have at fixed addresses. It never ends; what it
; breaks is broken, a reset boots it again. Every BATCH accesses it puts BARs and command registers back and says so.
;
;   in  PORT_SEED    32 bits: where the random numbers begin
;   out PORT_BATCH   MAGIC: another BATCH accesses are done
PORT_SEED  equ 0x5f0
PORT_BATCH equ 0x5f4
MAGIC      equ 0x53454154
BATCH      equ 4096
SECTORS    equ 4                ; of this image
FUNCTIONS  equ 0x9000           ; of bus 0: address of configuration space, command, six BARs (8 dwords each)
MEMORY     equ 0xa000           ; base and mask, 2 dwords each
PORTS      equ 0xb000           ; likewise

bits 16
org 0x7c00
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        mov ax, 0x0200 + SECTORS - 1
        mov bx, 0x7e00
        mov cx, 2
        xor dh, dh
        int 0x13                        ; the rest, from the drive in DL
        cli
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:flat

        align 8
gdt:    dq 0
        dq 0x00cf9b000000ffff
        dq 0x00cf93000000ffff
gdtr:   dw 23
        dd gdt
        times 510 - ($ - $$) db 0
        dw 0xaa55

bits 32
flat:
        mov eax, 16
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov esp, 0x7c00
        mov dx, PORT_SEED
        in eax, dx
        mov ebx, eax                    ; EBX: the random number, never 0
        or ebx, 1
        call copy_fixed
        call find_functions

batch:
        call put_back
        mov ecx, BATCH
.next:
        push ecx
        call one
        pop ecx
        loop .next
        mov dx, PORT_BATCH
        mov eax, MAGIC
        out dx, eax
        jmp batch

; EAX = a new random number (xorshift)
random:
        mov eax, ebx
        shl eax, 13
        xor ebx, eax
        mov eax, ebx
        shr eax, 17
        xor ebx, eax
        mov eax, ebx
        shl eax, 5
        xor ebx, eax
        mov eax, ebx
        ret

one:
        call random
        mov ecx, eax                    ; bits 0-2: where; 3-4: size; 5: write
        and eax, 7
        cmp al, 3
        jb any_port
        cmp al, 5
        jb known_port
        je configuration

memory:
        mov esi, MEMORY
        call pick
        mov edi, edx
        call random
        test cl, 8
        jnz .byte
        test cl, 16
        jnz .word
        test cl, 32
        jz .read4
        mov [edi], eax
        ret
.read4: mov eax, [edi]
        ret
.byte:  test cl, 32
        jz .read1
        mov [edi], al
        ret
.read1: mov al, [edi]
        ret
.word:  test cl, 32
        jz .read2
        mov [edi], ax
        ret
.read2: mov ax, [edi]
        ret

any_port:
        call random
        movzx edx, ax
        jmp port
known_port:
        mov esi, PORTS
        call pick
        jmp port
configuration:
        call random
        and eax, 0x3ffc                 ; devices 0 to 7
        or eax, 0x80000000
        mov dx, 0xcf8
        out dx, eax
        call random
        and eax, 3
        lea edx, [eax + 0xcfc]
port:
        call random
        test cl, 8
        jnz .byte
        test cl, 16
        jnz .word
        test cl, 32
        jz .read4
        out dx, eax
        ret
.read4: in eax, dx
        ret
.byte:  test cl, 32
        jz .read1
        out dx, al
        ret
.read1: in al, dx
        ret
.word:  test cl, 32
        jz .read2
        out dx, ax
        ret
.read2: in ax, dx
        ret

; EDX = an address in one of the ranges of the list at ESI, which begins with their number
pick:
        call random
        xor edx, edx
        div dword [esi]
        lea esi, [esi + edx * 8 + 4]
        call random
        and eax, [esi + 4]
        add eax, [esi]
        mov edx, eax
        ret

copy_fixed:
        cld
        mov esi, fixed_memory
        mov edi, MEMORY
        mov ecx, (fixed_memory_end - fixed_memory) / 4
        rep movsd
        mov esi, fixed_ports
        mov edi, PORTS + 4
        xor ebp, ebp
.port:  movzx eax, word [esi]
        stosd
        movzx eax, word [esi + 2]
        stosd
        add esi, 4
        inc ebp
        cmp esi, fixed_ports_end
        jb .port
        mov [PORTS], ebp
        ret

; Notes each function of bus 0 as firmware left it, and where its BARs are.
find_functions:
        mov edi, FUNCTIONS + 4
        mov dword [FUNCTIONS], 0
        mov ebp, 0x80000000
.next:
        mov eax, ebp
        call config_read
        inc ax
        jz .none
        mov [edi], ebp
        lea eax, [ebp + 4]
        call config_read
        movzx eax, ax
        mov [edi + 4], eax
        xor ecx, ecx
.bar:
        lea eax, [ebp + ecx * 4 + 0x10]
        call config_read
        mov [edi + ecx * 4 + 8], eax
        call note_bar
        inc ecx
        cmp ecx, 6
        jb .bar
        add edi, 32
        inc dword [FUNCTIONS]
.none:
        add ebp, 0x100
        cmp ebp, 0x80010000
        jb .next
        ret

note_bar:
        mov esi, MEMORY
        mov edx, 0xfffff
        test al, 1
        jz .memory
        mov esi, PORTS
        mov edx, 0x1f
        and eax, 0xfffc
        jmp .note
.memory:
        and eax, 0xfffffff0
.note:
        test eax, eax
        jz .no
        push ecx
        mov ecx, [esi]
        mov [esi + ecx * 8 + 4], eax
        mov [esi + ecx * 8 + 8], edx
        inc dword [esi]
        pop ecx
.no:    ret

put_back:
        mov edi, FUNCTIONS + 4
        mov ebp, [FUNCTIONS]
.next:
        xor ecx, ecx
.bar:
        mov eax, [edi]
        lea eax, [eax + ecx * 4 + 0x10]
        mov edx, [edi + ecx * 4 + 8]
        call config_write
        inc ecx
        cmp ecx, 6
        jb .bar
        mov eax, [edi]
        add eax, 4
        mov edx, [edi + 4]
        call config_write
        add edi, 32
        dec ebp
        jnz .next
        ret

; EAX = the dword of configuration space at EAX; EDX is lost
config_read:
        mov dx, 0xcf8
        out dx, eax
        mov dx, 0xcfc
        in eax, dx
        ret

; the dword at EAX = EDX
config_write:
        push edx
        mov dx, 0xcf8
        out dx, eax
        mov dx, 0xcfc
        pop eax
        out dx, eax
        ret

        align 4
fixed_memory:
        dd 4                            ; how many; BARs follow
        dd 0xa0000, 0x1ffff             ; VGA window
        dd 0xfed00000, 0x3ff            ; event timers
        dd 0xfec00000, 0xfff            ; I/O APIC
        dd 0xfffc0000, 0x3fff0          ; firmware
fixed_memory_end:

; Base and mask. Not here, as they would mostly reset the machine: 0x64, 0x92, 0xcf9, and the registers of power management.
fixed_ports:
        dw 0x000, 0x0f, 0x020, 0x01, 0x040, 0x03, 0x060, 0x01, 0x070, 0x03, 0x080, 0x0f, 0x0a0, 0x01, 0x0b2, 0x01
        dw 0x0c0, 0x1f, 0x170, 0x07, 0x1ce, 0x03, 0x1f0, 0x07, 0x278, 0x07, 0x2f8, 0x07, 0x370, 0x07, 0x378, 0x07
        dw 0x3b0, 0x0f, 0x3c0, 0x1f, 0x3f0, 0x07, 0x3f8, 0x07, 0x402, 0x00, 0x4d0, 0x01, 0x510, 0x0f, 0x608, 0x03
        dw 0x700, 0x0f, 0xafe0, 0x03
fixed_ports_end:
        times SECTORS * 512 - ($ - $$) db 0

; Gates, privilege changes, tasks and returns, in -DMODE=PROT32, LONG or COMPAT (SDM 3A chapters 5.8, 6.12 to 6.14, 7).
; Memory is not protected by paging here: a case at level 3 writes the descriptors that it needs by itself.
; Bochs reports the same. QEMU's TCG (7.2) checks no limit of a code segment at IRET and no canonical addresses in gates
; and IRETQ, and gives a task gate of long mode another error code.
%include "sys.inc"
TSS2    equ     0x2400
STACK2  equ     0x6800

%macro put_gate 4                       ; place, selector, offset, type byte << 8 | parameters
        mov     word [%1], %3
        mov     word [%1 + 2], %2
        mov     word [%1 + 4], %4
        mov     word [%1 + 6], 0
%if KB == 64
        mov     dword [%1 + 8], 0
        mov     dword [%1 + 12], 0
%endif
%endmacro

%if KB == 32
; ---- call gates ------------------------------------------------------------------------------------------------------
case "a call gate copies parameters to the inner stack and back", 3, 0x30, -1
        put_gate gdt + SLOT, KCODE, inner, 0xec02
        push    dword 0x1111
        push    dword 0x2222
        call    SLOT:0
        cmp     esp, USTACK
        must    e
        cmp     ebx, 0x3333
        must    e
        mov     ax, cs
        cmp     ax, UCODE
        must    e
        ok
case "a 16-bit call gate pushes words", 3, 0x30, -1
        put_gate gdt + SLOT, KCODE, gate16, 0xe400
        call    SLOT:0
        mov     ax, cs
        cmp     ax, UCODE
        must    e
        ok
case "a call through a gate that is not there", 3, 11, SLOT
        put_gate gdt + SLOT, KCODE, inner, 0x6c00
        here
        call    SLOT:0
endcase
case "a call through a gate of the kernel", 3, 13, SLOT
        put_gate gdt + SLOT, KCODE, inner, 0x8c00
        here
        call    SLOT:0
endcase
case "a call gate to data", 3, 13, KDATA
        put_gate gdt + SLOT, KDATA, inner, 0xec00
        here
        call    SLOT:0
endcase
case "a call gate to null", 3, 13, 0
        put_gate gdt + SLOT, 0, inner, 0xec00
        here
        call    SLOT:0
endcase
case "a call gate to code that is not there", 3, 11, CODE_NP
        put_gate gdt + SLOT, CODE_NP, inner, 0xec00
        here
        call    SLOT:0
endcase
case "a jump through a gate does not change the level", 3, 13, KCODE
        put_gate gdt + SLOT, KCODE, inner, 0xec00
        here
        jmp     SLOT:0
endcase
case "a call of conforming code keeps the level", 3, 0x30, -1
        call    CONFORM:conforming
        cmp     ebx, CONFORM | 3
        must    e
        ok
case "a far call of the kernel", 3, 13, KCODE
        call    KCODE:inner
endcase
case "a far jump to data", 3, 13, UDATA & ~3
        jmp     UDATA:0
endcase
case "a far jump to code that is not there", 0, 11, CODE_NP
        jmp     CODE_NP:0
endcase
case "a far jump behind the limit", 3, 13, 0
        jmp     UCODE16:0x12345
endcase
case "a far return to an inner level", 3, 13, KCODE
        push    dword KCODE
        push    dword inner
        here
        retf
endcase
case "a far return to an outer level", 0, 0x30, -1
        push    dword UDATA
        push    dword USTACK - 64
        push    dword UCODE
        push    dword .there
        retf
.there: mov     ax, ss
        cmp     ax, UDATA
        must    e
        mov     ax, ds                  ; the kernel's data segment is not for here
        cmp     ax, 0
        must    e
        ok

; ---- interrupts --------------------------------------------------------------------------------------------------------
case "an interrupt gate clears IF, a trap gate does not", 7, 0x30, -1
        put_gate IDT + 0x33 * 8, KCODE, note_flags, 0xee00
        sti
        int     0x33
        test    ebx, 0x200
        must    z
        put_gate IDT + 0x33 * 8, KCODE, note_flags, 0xef00
        int     0x33
        test    ebx, 0x200
        must    nz
        cli
        ok
case "a 16-bit interrupt gate", 0, 0x30, -1
        put_gate IDT + 0x33 * 8, KCODE, iret16, 0xe600
        mov     ebx, esp
        int     0x33
        cmp     ebx, esp
        must    e
        cmp     ecx, 6
        must    e
        ok
case "an interrupt to conforming code stays outside", 3, 0x30, -1
        put_gate IDT + 0x33 * 8, CONFORM, note_cs, 0xee00
        int     0x33
        cmp     ebx, CONFORM | 3
        must    e
        ok
case "an interrupt to outer code", 0, 13, UCODE & ~3
        put_gate IDT + 0x33 * 8, UCODE, inner, 0xee00
        here
        int     0x33
endcase

; ---- iret ---------------------------------------------------------------------------------------------------------------
case "iret to code that is not there", 0, 11, CODE_NP
        push    dword 2
        push    dword CODE_NP
        push    dword 0
        here
        iretd
endcase
case "iret to data", 0, 13, KDATA
        push    dword 2
        push    dword KDATA
        push    dword 0
        here
        iretd
endcase
case "iret to null", 0, 13, 0
        push    dword 2
        push    dword 0
        push    dword 0
        here
        iretd
endcase
case "iret to a stack of another level", 0, 13, KDATA
        push    dword KDATA
        push    dword 0
        push    dword 2
        push    dword UCODE
        push    dword 0
        here
        iretd
endcase
case "iret inwards", 3, 13, KCODE
        push    dword 2
        push    dword KCODE
        push    dword 0
        here
        iretd
endcase
case "iret behind the limit", 0, 13, 0
        push    dword UDATA
        push    dword 0
        push    dword 2
        push    dword UCODE16
        push    dword 0x10000
        here
        iretd
endcase
case "iret of a user keeps IOPL and IF", 3, 0x30, -1
        push    dword 0x3202
        push    dword UCODE
        push    dword .there
        iretd
.there: pushf
        pop     eax
        test    eax, 0x3200
        must    z
        ok

; ---- the local table ------------------------------------------------------------------------------------------------------
case "a segment of the local table", 0, 0x30, -1
        mov     eax, SEL_LDT
        lldt    ax
        mov     dword [DATA + 8], 0x100000ff
        mov     dword [DATA + 12], 0x0040f300
        mov     ax, 8 | 7
        mov     fs, ax
        lsl     eax, eax
        cmp     eax, 0xff
        must    e
        ok
case "one that is not there", 0, 11, 8 | 4
        mov     eax, SEL_LDT
        lldt    ax
        mov     dword [DATA + 8], 0x100000ff
        mov     dword [DATA + 12], 0x00407300
        mov     ax, 8 | 7
        here
        mov     fs, ax
endcase
case "one behind its limit", 0, 13, 0x18 | 4
        mov     eax, SEL_LDT
        lldt    ax
        mov     ax, 0x18 | 7
        here
        mov     fs, ax
endcase
case "lldt of something else", 0, 13, KDATA
        mov     eax, KDATA
        here
        lldt    ax
endcase
case "ltr of a busy one", 0, 13, SEL_TSS
        mov     eax, SEL_TSS
        here
        ltr     ax
endcase

; ---- tasks ------------------------------------------------------------------------------------------------------------------
%macro make_task 1                      ; entry; TSS2 in SLOT2
        mov     edi, TSS2
        xor     eax, eax
        mov     ecx, 0x68 / 4
        cld
        rep stosd
        mov     dword [gdt + SLOT2], TSS2 << 16 | 0x67
        mov     dword [gdt + SLOT2 + 4], 0x8900
        mov     dword [TSS2 + 4], STACK2
        mov     word [TSS2 + 8], KDATA
        mov     dword [TSS2 + 0x20], %1
        mov     dword [TSS2 + 0x24], 2
        mov     dword [TSS2 + 0x38], STACK2
        mov     word [TSS2 + 0x48], KDATA
        mov     word [TSS2 + 0x4c], KCODE
        mov     word [TSS2 + 0x50], KDATA
        mov     word [TSS2 + 0x54], KDATA
        mov     dword [gdt + SEL_TSS + 4], 0x8b00
        mov     edi, DATA
%endmacro
case "a call of a task nests, and iret comes back", 0, 0x30, -1
        make_task task_nested
        mov     ebx, 0x1234
        call    SLOT2:0
        cmp     ebx, 0x1234
        must    e
        cmp     word [TSS2], SEL_TSS
        must    e
        cmp     byte [DATA], 1
        must    e
        cmp     byte [gdt + SLOT2 + 5], 0x89
        must    e
        cmp     byte [gdt + SEL_TSS + 5], 0x8b
        must    e
        mov     eax, cr0
        test    al, 8                   ; TS
        must    nz
        ok
case "a jump to a task does not nest", 0, 0x30, -1
        make_task task_jumped
        mov     dword [DATA + 4], .back
        jmp     SLOT2:0
.back:  cmp     byte [DATA], 2
        must    e
        cmp     byte [gdt + SLOT2 + 5], 0x89
        must    e
        ok
case "a task gate in the IDT", 3, 0x30, -1
        make_task task_nested
        put_gate IDT + 0x33 * 8, SLOT2, 0, 0xe500
        int     0x33
        cmp     byte [DATA], 1
        must    e
        ok
case "an exception through a task gate brings its error code", 0, 0x30, -1
        make_task task_error
        put_gate IDT + 11 * 8, SLOT2, 0, 0x8500
        mov     ax, ABSENT
.again: mov     ds, ax                  ; the task puts a good one into EAX of this one
        cmp     dword [DATA], ABSENT & ~3
        must    e
        ok
case "a jump to a busy task", 0, 13, SLOT2
        make_task task_nested
        mov     byte [gdt + SLOT2 + 5], 0x8b
        here
        jmp     SLOT2:0
endcase
case "a jump to a task that is not there", 0, 11, SLOT2
        make_task task_nested
        mov     byte [gdt + SLOT2 + 5], 0x09
        here
        jmp     SLOT2:0
endcase
case "a TSS that is too short", 0, 10, SLOT2
        make_task task_nested
        mov     byte [gdt + SLOT2], 0x66
        here
        jmp     SLOT2:0
endcase
case "a task of the kernel", 3, 13, SLOT2
        make_task task_nested
        here
        jmp     SLOT2:0
endcase
case "iret with NT and a backlink to no TSS", 0, 10, KDATA
        mov     word [TSS], KDATA
        pushf
        or      dword [esp], 0x4000
        popf
        here
        iretd
endcase

        section .text
        bits    32

inner:
        mov     ax, cs
        cmp     ax, KCODE
        must    e
        cmp     dword [esp + 8], 0x2222
        must    e
        cmp     dword [esp + 12], 0x1111
        must    e
        cmp     dword [esp + 16], USTACK - 8
        must    e
        cmp     dword [esp + 20], UDATA
        must    e
        cmp     esp, KSTACK - 24
        must    e
        mov     ebx, 0x3333
        retf    8
gate16: mov     ax, [esp]               ; IP, CS, SP, SS
        cmp     word [esp + 2], UCODE
        must    e
        cmp     esp, KSTACK - 8
        must    e
        o16 retf
conforming:
        mov     bx, cs
        movzx   ebx, bx
        retf
note_flags:
        pushf
        pop     ebx
        iretd
note_cs: mov    bx, cs
        movzx   ebx, bx
        iretd
iret16: mov     ecx, ebx
        sub     ecx, esp
        o16 iret
task_nested:
        pushf
        pop     eax
        test    eax, 0x4000
        must    nz
        str     ax
        cmp     ax, SLOT2
        must    e
        mov     byte [DATA], 1
        iretd
task_jumped:
        pushf
        pop     eax
        test    eax, 0x4000
        must    z
        mov     byte [DATA], 2
        cmp     byte [gdt + SEL_TSS + 5], 0x89
        must    e
        mov     eax, [DATA + 4]
        mov     [TSS + 0x20], eax
        jmp     SEL_TSS:0
task_error:
        pop     dword [DATA]
        mov     dword [TSS + 0x28], KDATA
        iretd
%endif

%if KB == 64
; ---- long mode ----------------------------------------------------------------------------------------------------------
%if MODE == LONG
%define CALL_SLOT call far dword [pointer]
case "a call gate pushes four quadwords", 3, 0x30, -1
        put_gate gdt + SLOT, KCODE64, inner64, 0xec00
        CALL_SLOT
        cmp     rsp, USTACK
        must    e
        cmp     ebx, 0x3333
        must    e
        ok
case "a call gate to 32-bit code", 3, 13, KCODE
        put_gate gdt + SLOT, KCODE, inner64, 0xec00
        here
        CALL_SLOT
endcase
case "a call gate whose upper half has a type", 3, 13, SLOT
        put_gate gdt + SLOT, KCODE64, inner64, 0xec00
        mov     byte [gdt + SLOT + 13], 1
        here
        CALL_SLOT
endcase
case "a call gate to an address that is not canonical", 3, 13, 0
        put_gate gdt + SLOT, KCODE64, inner64, 0xec00
        mov     dword [gdt + SLOT + 8], 0x80000000
        here
        CALL_SLOT
endcase
case "a TSS is not called", 0, 13, SEL_TSS
        mov     word [pointer_tss + 4], SEL_TSS
        here
        call far dword [pointer_tss]
endcase
case "an interrupt pushes the stack at the same level, aligned", 0, 0x30, -1
        put_gate IDT + 0x33 * 16, KCODE64, note64, 0xee00
        sub     rsp, 3
        mov     rbp, rsp
        int     0x33
        cmp     rsp, rbp
        must    e
        mov     rax, rbp
        and     eax, ~15
        sub     eax, 40
        cmp     ebx, eax
        must    e
        ok
case "an interrupt with IST", 3, 0x30, -1
        mov     dword [TSS + 0x24], STACK2
        put_gate IDT + 0x33 * 16, KCODE64, note64, 0xee01
        int     0x33
        cmp     ebx, STACK2 - 40
        must    e
        ok
case "an interrupt to 32-bit code", 0, 13, KCODE
        put_gate IDT + 0x33 * 16, KCODE, note64, 0xee00
        here
        int     0x33
endcase
case "a gate whose upper half is not canonical", 0, 13, 0
        put_gate IDT + 0x33 * 16, KCODE64, note64, 0xee00
        mov     dword [IDT + 0x33 * 16 + 8], 0x80000000
        here
        int     0x33
endcase
case "a task gate", 0, 13, 0x33 * 8 + 2
        put_gate IDT + 0x33 * 16, SEL_TSS, 0, 0xe500
        here
        int     0x33
endcase
case "iretq to an address that is not canonical", 0, 13, 0
        push    KDATA
        push    USTACK
        push    2
        push    KCODE64
        mov     rax, 0x8000000000000000
        push    rax
        here
        iretq
endcase
case "iretq with NT", 0, 13, 0
        pushf
        or      dword [rsp], 0x4000
        popf
        here
        iretq
endcase
case "iretq to null as stack of the kernel", 0, 0x30, -1
        push    0
        push    USTACK - 64
        push    2
        push    KCODE64
        push    .there
        iretq
.there: mov     ax, ss
        test    ax, ax
        must    z
        ok
case "iretq to null as stack of a user", 0, 13, 0
        push    0
        push    USTACK - 64
        push    2
        push    UCODE64
        push    0
        here
        iretq
endcase
case "iretq to a segment that is 32-bit and 64-bit", 0, 13, SLOT2
        mov     dword [gdt + SLOT2], 0xffff
        mov     dword [gdt + SLOT2 + 4], 0x00e09b00
        push    KDATA
        push    USTACK
        push    2
        push    SLOT2
        push    0
        here
        iretq
endcase
case "the place for SYSCALL is made", 0, 0x30, -1
        mov     ecx, 0xc0000081
        xor     eax, eax
        mov     edx, (UCODE & ~3) - 0 << 16 | KCODE64
        wrmsr
        inc     ecx
        mov     eax, syscalled
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000084
        mov     eax, 0x200
        wrmsr
        ok
case "SYSCALL and SYSRET", 7, 0x30, -1
        sti
        syscall
        cmp     ebx, KCODE64
        must    e
        mov     ax, cs
        cmp     ax, (UCODE & ~3) + 16 + 3
        must    e
        pushf
        pop     rax
        test    eax, 0x200
        must    nz
        cli
        ok
case "SYSRET by a user", 3, 13, 0
        sysret
endcase

        section .rodata
pointer:     dd 0
             dw SLOT
pointer_tss: dd 0
             dw SEL_TSS
        section .text
        bits    64
inner64:
        mov     ax, cs
        cmp     ax, KCODE64
        must    e
        mov     ax, ss
        test    ax, ax                  ; null
        must    z
        cmp     qword [rsp + 8], UCODE64
        must    e
        cmp     qword [rsp + 16], USTACK
        must    e
        cmp     qword [rsp + 24], UDATA
        must    e
        mov     ebx, 0x3333
        retfq
note64: mov     rbx, rsp
        iretq
syscalled:
        mov     bx, cs
        movzx   ebx, bx
        pushf
        pop     rax
        test    eax, 0x200
        must    z
        o64 sysret
%else
case "a far jump from 32-bit to 64-bit code and back", 3, 0x30, -1
        call    UCODE64:there64
        cmp     ebx, 0x77
        must    e
        ok
case "a 64-bit segment is no data", 3, 0x30, -1
        lar     eax, ebx
        ok
        section .text
        bits    64
there64:
        mov     rbx, 0x7700000000
        shr     rbx, 32
        retf
%endif
%endif
finish

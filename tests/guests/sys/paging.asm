; The permission matrix of paging: every combination of present, writable, user and no-execute at two levels, CR0.WP,
; CR4.SMEP and SMAP, EFLAGS.AC, EFER.NXE, privilege and kind of access, in pages of both sizes. The guest works out by
; itself what has to come (SDM 3A 4.6, 4.7) and compares vector, error code, CR2 and the accessed and dirty bits.
; -DLEVELS=2 (32-bit with PSE), 3 (PAE) or 4 (long mode). Accessed bits behind a fault are not looked at: that is free.
; Bochs reports the same hashes for all; QEMU's TCG (7.2) for LEVELS=2, and otherwise where a no-execute bit is not reserved.
;
; A line a group: size of page, CPL, kind of access, number of cases, those that were wrong, and a hash of all outcomes.
%define CUSTOM
%if LEVELS == 4
%define MODE LONG
%else
%define MODE PROT32
%endif
%include "sys.inc"
VA      equ     0x800000
ROOT    equ     0x30000
%if LEVELS == 2
ENTRY   equ     4
SHIFT   equ     22
NX_BITS equ     0
%else
ENTRY   equ     8
SHIFT   equ     21
NX_BITS equ     1
%endif
%if LEVELS == 2
PD      equ     ROOT
%elif LEVELS == 3
PD      equ     ROOT + 0x1000
%else
PD      equ     ROOT + 0x2000
%endif
PT0     equ     ROOT + 0x3000
PT1     equ     ROOT + 0x4000
LEAF    equ     PT1 + 0
UPPER   equ     PD + (VA >> SHIFT) * ENTRY
%if LEVELS == 4
ABOVE   equ     ROOT + 0x1000           ; what is above a large page
%endif
USER    equ     0x3000                  ; a page of code for users

        section .text
        bits    KB
main:   call    restore
        mov     edi, ROOT
        xor     eax, eax
        mov     ecx, 0x5000 / 4
        rep stosd
%if LEVELS == 4
        mov     dword [ROOT], ROOT + 0x1007
        mov     dword [ROOT + 0x1000], PD + 7
%elif LEVELS == 3
        mov     dword [ROOT], PD + 1
%endif
        mov     dword [PD], PT0 + 7
        mov     edi, PT0
        mov     eax, 3
        mov     ecx, 512
.low:   mov     [edi], eax
        add     eax, 0x1000
        add     edi, ENTRY
        loop    .low
        or      dword [PT0 + 3 * ENTRY], 4
        mov     word [0], 0x30cd        ; int 0x30: what is executed in the page
        mov     esi, user_code
        mov     edi, USER
        mov     ecx, user_code_end - user_code
        rep movsb
%if LEVELS < 4
        mov     eax, cr4
%if LEVELS == 2
        or      eax, 0x10
%else
        or      eax, 0x20
%endif
        mov     cr4, eax
        mov     eax, ROOT
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
%else
        mov     eax, ROOT
        mov     cr3, rax
%endif
        mov     dword [group], 0

; group: bit 0 large, bit 1 CPL 3, bits 2 and 3 the access (read, write, execute)
next_group:
        mov     dword [index], 0
        mov     dword [wrong], 0
        mov     dword [hash], 0x811c9dc5

; index: bits 0 to 3 P, RW, US, NX of the leaf; 4 to 7 of the level above; 8 WP, 9 SMEP, 10 SMAP, 11 AC, 12 NXE
next_case:
        mov     eax, [index]
        call    set_up
        call    predict
        call    flush
        mov     eax, [index]
        mov     dword [result], 1
        test    dword [group], 2
        jnz     .user
        test    eax, 0x800
        jz      .no_ac
%if KB == 64
        pushf
        or      dword [rsp], 0x40000
        popf
%else
        pushf
        or      dword [esp], 0x40000
        popf
%endif
.no_ac: test    dword [group], 4
        jnz     .write
        test    dword [group], 8
        jnz     .exec
        mov     al, [VA + 0x10]
        int     0x30
.write: mov     [VA + 0x10], al
        int     0x30
.exec:  mov     eax, VA
%if KB == 64
        jmp     rax
.user:  mov     ecx, [group]
        and     ecx, 12
        shl     ecx, 2
        push    UDATA
        push    USTACK
        and     eax, 0x800              ; AC
        shl     eax, 7
        or      eax, 2
        push    rax
        push    UCODE64
        add     ecx, USER
        push    rcx
        iretq
%else
        jmp     eax
.user:  mov     ecx, [group]
        and     ecx, 12
        shl     ecx, 2
        mov     edx, UDATA
        mov     ds, edx
        push    edx
        push    dword USTACK
        and     eax, 0x800
        shl     eax, 7
        or      eax, 2
        push    eax
        push    dword UCODE
        add     ecx, USER
        push    ecx
        iretd
%endif

after:  push    2                       ; AC is clear
        popf
        mov     eax, [got_vector]
        cmp     eax, 14
        mov     ecx, -1
        jne     .no_fault
%if KB == 64
        mov     rdx, cr2
%else
        mov     edx, cr2
%endif
        mov     eax, VA
        test    dword [group], 8
        jnz     .at
        add     eax, 0x10
.at:    cmp     edx, eax
        mov     ecx, 0x100              ; a wrong CR2
        jne     .compare
        mov     ecx, [got_error]
        jmp     .compare
.no_fault:
        cmp     eax, 0x30
        je      .compare
        mov     ecx, 0x200
        or      ecx, eax
.compare:
        mov     edx, [expected]
        cmp     ecx, edx
        je      .bits
        inc     dword [wrong]
.bits:  mov     eax, ecx                ; the outcome goes into the hash
        xor     [hash], eax
        imul    eax, [hash], 0x01000193
        mov     [hash], eax
        cmp     ecx, -1
        jne     .faulted
        ; accessed at both levels, dirty after a write
        mov     edx, 0x20
        test    dword [group], 4
        jz      .clean
        mov     edx, 0x60
.clean: mov     ebx, [leaf_at]
        mov     eax, [ebx]
        and     eax, 0x60
        cmp     eax, edx
        jne     .bad_bits
        mov     ebx, [upper_at]
        test    ebx, ebx
        jz      .done
        test    dword [ebx], 0x20
        jnz     .done
.bad_bits:
        inc     dword [wrong]
        jmp     .done
.faulted:                               ; nothing is dirty that was not written
        mov     ebx, [leaf_at]
        test    dword [ebx], 0x40
        jnz     .bad_bits
.done:  inc     dword [index]
        mov     eax, [index]
        cmp     eax, 0x2000
        jb      next_case

        mov     esi, str_page
        test    dword [group], 1
        jz      .small
        mov     esi, str_large
.small: call    print
        mov     eax, [group]
        shr     eax, 1
        and     al, 1
        add     al, '0'
        cmp     al, '0'
        je      .level
        mov     al, '3'
.level: out     0xe9, al
        mov     esi, str_read
        test    dword [group], 12
        jz      .kind
        mov     esi, str_write
        test    dword [group], 4
        jnz     .kind
        mov     esi, str_exec
.kind:  call    print
        mov     eax, [index]
        call    hex4
        mov     esi, str_wrong
        call    print
        mov     eax, [wrong]
        call    hex4
        mov     esi, str_hash
        call    print
        mov     eax, [hash]
        shr     eax, 16
        call    hex4
        mov     eax, [hash]
        call    hex4
        mov     al, 10
        out     0xe9, al
        mov     eax, [wrong]
        add     [failures], eax
        inc     dword [group]
        cmp     dword [group], 12
        jb      next_group
        jmp     the_end

; The entries and control bits of case eax.
set_up: mov     edx, eax                ; the leaf
        and     edx, 7
        mov     ecx, edx
        xor     edx, edx
        test    eax, 8
        jz      .leaf
        mov     edx, NX_BITS << 31
.leaf:  test    dword [group], 1
        jnz     .large
        mov     [LEAF], ecx
%if ENTRY == 8
        mov     [LEAF + 4], edx
%endif
        mov     dword [leaf_at], LEAF
        mov     ecx, eax
        shr     ecx, 4
        mov     ebx, ecx
        and     ecx, 7
        or      ecx, PT1
        mov     [UPPER], ecx
%if ENTRY == 8
        xor     edx, edx
        test    ebx, 8
        jz      .upper
        mov     edx, NX_BITS << 31
.upper: mov     [UPPER + 4], edx
%endif
        mov     dword [upper_at], UPPER
        jmp     .control
.large: or      ecx, 0x80
        mov     [UPPER], ecx
%if ENTRY == 8
        mov     [UPPER + 4], edx
%endif
        mov     dword [leaf_at], UPPER
        mov     dword [upper_at], 0
.control:
%if KB == 64
        mov     rcx, cr0
        and     ecx, ~0x10000
        mov     edx, eax
        and     edx, 0x100
        shl     edx, 8
        or      ecx, edx
        mov     cr0, rcx
        mov     rcx, cr4
        and     ecx, ~0x300000
        mov     edx, eax
        and     edx, 0x600
        shl     edx, 11
        or      ecx, edx
        mov     cr4, rcx
%else
        mov     ecx, cr0
        and     ecx, ~0x10000
        mov     edx, eax
        and     edx, 0x100
        shl     edx, 8
        or      ecx, edx
        mov     cr0, ecx
        mov     ecx, cr4
        and     ecx, ~0x300000
        mov     edx, eax
        and     edx, 0x600
        shl     edx, 11
        or      ecx, edx
        mov     cr4, ecx
%endif
        mov     ebx, eax
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~0x800
        and     ebx, 0x1000
        shr     ebx, 1
        or      eax, ebx
        wrmsr
        ret

flush:
%if KB == 64
        mov     rax, cr3
        mov     cr3, rax
%else
        mov     eax, cr3
        mov     cr3, eax
%endif
        ret

; [expected] = the error code of case [index] in [group], -1: no fault.
predict:
        mov     eax, [index]
        mov     ebx, [group]
        xor     edx, edx                ; the part of the error code that the access gives
        test    ebx, 4
        jz      .r
        or      edx, 2
.r:     test    ebx, 2
        jz      .s
        or      edx, 4
.s:     test    ebx, 8
        jz      .d
        test    eax, 0x200              ; SMEP, or no-execute in use
        jnz     .i
%if NX_BITS
        test    eax, 0x1000
        jnz     .i
%endif
        jmp     .d
.i:     or      edx, 16
.d:     mov     ecx, eax                ; both levels: US and RW together, NX of any
        and     ecx, 15
        test    ebx, 1
        jnz     .leaf
        mov     ecx, eax
        shr     ecx, 4
        call    .level
        jc      .out
        mov     ecx, eax
        shr     ecx, 4
        and     ecx, 15
        mov     ebx, eax
        and     ebx, 15
        mov     esi, ecx
        and     ecx, ebx                ; P RW US
        or      ebx, esi
        and     ebx, 8
        and     ecx, 7
        or      ecx, ebx
        mov     esi, ecx
        mov     ecx, eax
        call    .level
        jc      .out
        mov     ecx, esi
        jmp     .rights
.leaf:  mov     esi, ecx
        call    .level
        jc      .out
        mov     ecx, esi
.rights:
        mov     ebx, [group]
        or      edx, 1
%if NX_BITS
        test    eax, 0x1000
        jz      .executable
        test    ecx, 8
        jz      .executable
        test    ebx, 8
        jnz     .fault
.executable:
%endif
        test    ebx, 2
        jz      .kernel
        test    ecx, 4
        jz      .fault
        test    ebx, 4
        jz      .fine
        test    ecx, 2
        jz      .fault
        jmp     .fine
.kernel:
        test    ecx, 4
        jz      .own
        test    ebx, 8
        jz      .data
        test    eax, 0x200
        jnz     .fault
        jmp     .fine
.data:  test    eax, 0x400
        jz      .own
        test    eax, 0x800
        jz      .fault
.own:   test    ebx, 4
        jz      .fine
        test    ecx, 2
        jnz     .fine
        test    eax, 0x100
        jnz     .fault
.fine:  mov     dword [expected], -1
        ret
.fault: mov     [expected], edx
.out:   ret
; ecx: one level's bits. Carry: not present or reserved, and [expected] is set.
.level: test    ecx, 1
        jnz     .present
        mov     [expected], edx
        stc
        ret
.present:
%if NX_BITS
        test    ecx, 8
        jz      .legal
        test    eax, 0x1000
        jnz     .legal
        mov     ecx, edx
        or      ecx, 9
        mov     [expected], ecx
        stc
        ret
.legal:
%endif
        clc
        ret

user_code:
        mov     al, [VA + 0x10]
        int     0x30
        times 16 - ($ - user_code) nop
        mov     [VA + 0x10], al
        int     0x30
        times 32 - ($ - user_code) nop
        mov     eax, VA
%if KB == 64
        jmp     rax
%else
        jmp     eax
%endif
user_code_end:

        section .rodata
str_page:  db "pages, CPL ", 0
str_large: db "large pages, CPL ", 0
str_read:  db ", read: ", 0
str_write: db ", write: ", 0
str_exec:  db ", execute: ", 0
str_wrong: db " cases, wrong ", 0
str_hash:  db ", hash ", 0

        absolute 0x600
group:    resd 1
index:    resd 1
wrong:    resd 1
hash:     resd 1
result:   resd 1
expected: resd 1
leaf_at:  resd 1
upper_at: resd 1
        section .text
finish

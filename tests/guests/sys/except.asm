; Every exception with its error code, in the mode -DMODE: what instructions raise, where they leave the instruction
; pointer, and what the delivery of an exception raises (SDM 3A chapter 6, volume 2 by instruction).
;
; Bochs (2.7, corei7_skylake_x, ignore_bad_msrs=0) reports the same in every mode. QEMU's TCG (7.2) does not: it checks no
; segment limits, no rights of data segments and no alignment (the cases whose names begin with "~"), does not know ICEBP,
; executes "lock mov" and "c6 /1", raises no exceptions of x87 and SSE, takes reserved bits of MXCSR, CR0 and CR4, and ends
; with SIGFPE at the most negative number divided by -1 (-DNO_IDIV_MIN leaves that out).
%include "sys.inc"

; ---- 0: divide errors -----------------------------------------------------------------------------------------------
case "div by 0", 0, 0, -1
        div     ecx
endcase
case "div by 0 bytes", 3 * (MODE != REAL), 0, -1
        div     cl
endcase
case "quotient too large", 0, 0, -1
        mov     edx, 1
        mov     ecx, 1
        nop
        here
        div     ecx
endcase
%ifndef NO_IDIV_MIN                     ; ends QEMU's process with SIGFPE
case "idiv min by -1", 0, 0, -1
        mov     edx, 0x80000000
        mov     ecx, -1
        here
        idiv    ecx
endcase
%endif
%if UB != 64
case "aam 0", 0, 0, -1
        aam     0
endcase
%endif

; ---- 1, 3, 4, 5: traps ----------------------------------------------------------------------------------------------
case "icebp", 0, 1, -1
        db      0xf1
        here
endcase
case "single step", 7 * (MODE == V86), 1, -1
%if UB == 16
        pushf
        pop     ax
        or      ax, 0x100
        push    ax
        popf
%elif UB == 32
        pushf
        pop     eax
        or      eax, 0x100
        push    eax
        popf
%else
        pushf
        pop     rax
        or      eax, 0x100
        push    rax
        popf
%endif
        nop
        here
        nop
endcase
case "int3", 3 * (MODE != REAL), 3, -1
        int3
        here
endcase
%if UB != 64
case "into taken", 3 * (MODE != REAL), 4, -1
        mov     al, 0x7f
        inc     al
        into
        here
endcase
case "into not taken", 7 * (MODE != REAL), 0x30, -1
        into
        ok
case "bound below", 3 * (MODE != REAL), 5, -1
        mov     byte [DATA], 3
        mov     byte [DATA + UB / 8], 9
        here
%if UB == 16
        bound   ax, [DATA]
%else
        bound   eax, [DATA]
%endif
endcase
case "bound inside", 7 * (MODE != REAL), 0x30, -1
        mov     byte [DATA], 3
        mov     byte [DATA + UB / 8], 9
        mov     al, 9
%if UB == 16
        bound   ax, [DATA]
%else
        bound   eax, [DATA]
%endif
        ok
%else
case "into", 3, 6, -1
        db      0xce
endcase
case "bound is EVEX here: truncated by nothing, undefined", 3, 6, -1
        db      0x62, 0x00, 0x00, 0x00, 0x00, 0x00
endcase
%endif

; ---- 6: undefined ---------------------------------------------------------------------------------------------------
case "ud2", 0, 6, -1
        ud2
endcase
case "ud2 by a user", 3 * (MODE != REAL), 6, -1
        ud2
endcase
case "ud1", 0, 6, -1
        db      0x0f, 0xb9, 0xc0
endcase
case "mov cs", 0, 6, -1
        db      0x8e, 0xc8
endcase
case "mov to segment 6", 0, 6, -1
        db      0x8e, 0xf0
endcase
case "lock nop", 0, 6, -1
        db      0xf0, 0x90
endcase
case "lock add of a register", 0, 6, -1
        db      0xf0, 0x01, 0xc0
endcase
case "lock mov to memory", 0, 6, -1
        db      0xf0, 0x89, 0x07
endcase
case "lea of a register", 0, 6, -1
        db      0x8d, 0xc0
endcase
case "cmpxchg8b of a register", 0, 6, -1
        db      0x0f, 0xc7, 0xc9
endcase
case "0f ff", 0, 6, -1
        db      0x0f, 0xff, 0xc0
endcase
case "fe /7", 0, 6, -1
        db      0xfe, 0xf8
endcase
case "c6 /1", 0, 6, -1
        db      0xc6, 0xc8, 0
endcase
case "mov cr1", 0, 6, -1
        db      0x0f, 0x20, 0xc8
endcase
%if MODE == REAL || MODE == V86
case "sldt", 3 * (MODE == V86), 6, -1
        sldt    ax
endcase
case "ltr", 0, 6, -1
        ltr     ax
endcase
case "lar", 3 * (MODE == V86), 6, -1
        lar     ax, ax
endcase
case "verr", 3 * (MODE == V86), 6, -1
        verr    ax
endcase
case "arpl", 3 * (MODE == V86), 6, -1
        db      0x63, 0xc0
endcase
%endif
%if UB == 64
%macro invalid 2
case %1, 3, 6, -1
        db      %2
endcase
%endmacro
        invalid "push es", 0x06
        invalid "pop ss", 0x17
        invalid "daa", 0x27
        invalid "aaa", 0x37
        invalid "pusha", 0x60
        invalid "82 /0", 0x82
        invalid "call far direct", 0x9a
        invalid "les is VEX with a wrong map", 0xc4
        invalid "aam", 0xd4
        invalid "salc", 0xd6
        invalid "jmp far direct", 0xea
%endif
%if MODE == PROT32 || MODE == PROT16
case "syscall without EFER.SCE", 3, 6, -1
        syscall
endcase
%endif

; ---- 7, 16, 19: arithmetic units -------------------------------------------------------------------------------------
%if MODE != V86 && UB != 64
case "x87 with TS", 0, 7, -1
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
        here
        fld1
endcase
case "x87 with EM", 0, 7, -1
        mov     eax, cr0
        or      al, 4
        mov     cr0, eax
        here
        fld1
endcase
case "wait with TS but without MP", 0, 0x30, -1
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
        wait
        ok
case "wait with TS and MP", 0, 7, -1
        mov     eax, cr0
        or      al, 10
        mov     cr0, eax
        here
        wait
endcase
case "SSE with TS", 0, 7, -1
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
        here
        xorps   xmm0, xmm0
endcase
case "SSE with EM", 0, 6, -1
        mov     eax, cr0
        or      al, 4
        mov     cr0, eax
        here
        xorps   xmm0, xmm0
endcase
case "SSE without OSFXSR", 0, 6, -1
        mov     eax, cr4
        and     eax, ~0x200
        mov     cr4, eax
        here
        xorps   xmm0, xmm0
endcase
case "an SSE exception without OSXMMEXCPT", 0, 6, -1
        mov     eax, cr4
        and     eax, ~0x400
        mov     cr4, eax
        mov     dword [DATA], 0x1d80
        ldmxcsr [DATA]
        mov     dword [DATA + 16], 0x3f800000
        movups  xmm0, [DATA + 16]
        xorps   xmm1, xmm1
        here
        divss   xmm0, xmm1
endcase
%endif
case "SSE division by 0, unmasked", 3 * (MODE != REAL), 19, -1
        mov     dword [DATA], 0x1d80
        ldmxcsr [DATA]
        mov     dword [DATA + 16], 0x3f800000
        movss   xmm0, [DATA + 16]
        xorps   xmm1, xmm1
        here
        divss   xmm0, xmm1
endcase
case "SSE division by 0, masked", 7 * (MODE != REAL), 0x30, -1
        mov     dword [DATA + 16], 0x3f800000
        movss   xmm0, [DATA + 16]
        xorps   xmm1, xmm1
        divss   xmm0, xmm1
        ok
case "x87 division by 0, at the next instruction that waits", 3 * (MODE != REAL), 16, -1
        mov     word [DATA], 0x37b
        fldcw   [DATA]
        fldz
        fld1
        fdivrp
        fnstsw  ax
        here
        fld1
endcase
case "fnclex takes the exception back", 7 * (MODE != REAL), 0x30, -1
        mov     word [DATA], 0x37b
        fldcw   [DATA]
        fldz
        fld1
        fdivrp
        fnclex
        fld1
        ok
case "ldmxcsr with a reserved bit", 3 * (MODE != REAL), 13, 0 - (MODE == REAL)
        mov     dword [DATA], 0x10000
        here
        ldmxcsr [DATA]
endcase
case "movaps at an odd address", 3 * (MODE != REAL), 13, 0 - (MODE == REAL)
        movaps  xmm0, [DATA + 4]
endcase
%if MODE != V86 && UB != 64
case "mov cr4, reserved bit", 0, 13, 0 - (MODE == REAL)
        mov     eax, 0x80000000
        here
        mov     cr4, eax
endcase
case "mov cr0, NW without CD", 0, 13, 0 - (MODE == REAL)
        mov     eax, cr0
        or      eax, 0x20000000
        and     eax, ~0x40000000
        here
        mov     cr0, eax
endcase
%if MODE == REAL
case "mov cr0, PG without PE", 0, 13, -1
        mov     eax, cr0
        or      eax, 0x80000000
        here
        mov     cr0, eax
endcase
%endif
%endif
%if MODE != V86
case "wrmsr of an unknown register", 0, 13, 0 - (MODE == REAL)
        mov     ecx, 0x12345678
        here
        wrmsr
endcase
case "rdmsr of an unknown register", 0, 13, 0 - (MODE == REAL)
        mov     ecx, 0x12345678
        here
        rdmsr
endcase
%endif
case "15 bytes are an instruction", 7 * (MODE != REAL), 0x30, -1
        times 14 db 0x3e
        nop
        ok
case "16 bytes are none", 3 * (MODE != REAL), 13, 0 - (MODE == REAL)
        times 15 db 0x3e
        nop
endcase

; ---- 12, 13: limits and rights ----------------------------------------------------------------------------------------
%if UB == 16
case "~a word over the end of the segment", 3 * (MODE != REAL), 13, 0 - (MODE == REAL)
        mov     ax, [0xffff]
endcase
case "~a word over the end of the stack segment", 3 * (MODE != REAL), 12, 0 - (MODE == REAL)
        mov     bp, 0xffff
        here
        mov     ax, [bp]
endcase
%if PM
case "~a push over the end of the stack segment", 3, 12, 0
        mov     sp, 1
        here
        push    ax
endcase
%endif
%endif
%if MODE == PROT16
case "~an offset above 64 KiB", 3, 13, 0
        mov     eax, 0x10000
        here
        mov     al, [eax]
endcase
%endif
%if MODE == PROT32 || MODE == COMPAT || MODE == PROT16
case "~a byte behind a small segment", 3, 13, 0
        mov     ax, SMALL
        mov     ds, ax
        here
        mov     al, [0x100]
endcase
case "the last byte of a small segment", 3, 0x30, -1
        mov     ax, SMALL
        mov     ds, ax
        mov     al, [0xff]
        ok
case "~below an expand-down segment's limit", 3, 13, 0
        mov     ax, EXPAND
        mov     ds, ax
        here
        mov     al, [0xfff]
endcase
case "above an expand-down segment's limit", 3, 0x30, -1
        mov     ax, EXPAND
        mov     ds, ax
        mov     al, [0x1000]
        ok
case "~a write to a read-only segment", 3, 13, 0
        mov     ax, RO_DATA
        mov     ds, ax
        here
        mov     [DATA], al
endcase
case "~a write to code", 0, 13, 0
        mov     [cs:DATA], al
endcase
case "~a read through no segment", 0, 13, 0
        mov     ds, dx
        here
        mov     al, [DATA]
endcase
%endif
%if PM && MODE != V86
case "a load of a segment that is not there", 3, 11, ABSENT & ~3
        mov     ax, ABSENT
        here
        mov     ds, ax
endcase
case "a stack that is not there", 0, 12, KDATA_NP
        mov     ax, KDATA_NP
        here
        mov     ss, ax
endcase
case "a segment above the level", 3, 13, KDATA
        mov     ax, KDATA
        here
        mov     es, ax
endcase
case "code that cannot be read as data", 3, 13, EXEC & ~3
        mov     ax, EXEC
        here
        mov     ds, ax
endcase
case "a selector behind the table", 3, 13, 0x7f8
        mov     ax, 0x7fb
        here
        mov     ds, ax
endcase
case "a selector in a missing local table", 3, 13, 4
        mov     ax, 7
        here
        mov     ds, ax
endcase
case "a system segment as data", 0, 13, SEL_TSS
        mov     ax, SEL_TSS
        here
        mov     es, ax
endcase
%if UB != 64
case "null as stack", 0, 13, 0
        mov     ss, dx
endcase
%else
case "null as stack of the kernel", 0, 0x30, -1
        mov     ss, dx
        ok
case "null as stack of a user", 3, 13, 0
        mov     ss, dx
endcase
%endif
case "a stack of another level", 3, 13, KDATA
        mov     ax, KDATA | 3
        here
        mov     ss, ax
endcase
case "a read-only stack", 3, 13, RO_DATA & ~3
        mov     ax, RO_DATA
        here
        mov     ss, ax
endcase
case "a vector without the right to it", 3, 13, 0x31 * 8 + 2
        int     0x31
endcase
case "a vector that is not there", 3, 11, 0x32 * 8 + 2
        int     0x32
endcase
case "a vector behind the table", 3, 13, 0x34 * 8 + 2
        int     0x34
endcase
case "an exception whose gate is not there", 0, 11, 6 * 8 + 3
        mov     byte [IDT + 6 * GATE_SIZE + 5], 0x0e
        here
        ud2
endcase
case "a contributory one in a contributory one", 0, 8, 0
        mov     byte [IDT + 13 * GATE_SIZE + 5], 0x0e
        mov     ax, 0x7f8
        here
        mov     ds, ax
endcase
case "a gate to a missing segment", 0, 13, 0x7f8 + 1
        mov     word [IDT + 6 * GATE_SIZE + 2], 0x7f8
        here
        ud2
endcase
case "a gate to a segment that is not there", 0, 11, CODE_NP + 1
        mov     word [IDT + 6 * GATE_SIZE + 2], CODE_NP
        here
        ud2
endcase
case "a gate to data", 0, 13, KDATA + 1
        mov     word [IDT + 6 * GATE_SIZE + 2], KDATA
        here
        ud2
endcase
case "a gate to no segment", 0, 13, 1
        mov     word [IDT + 6 * GATE_SIZE + 2], 0
        here
        ud2
endcase
case "a gate of another type", 0, 13, 6 * 8 + 3
        mov     byte [IDT + 6 * GATE_SIZE + 5], 0x82
        here
        ud2
endcase
%endif
%if UB == 64
case "an address that is not canonical", 3, 13, 0
        mov     rax, 0x8000000000000000
        here
        mov     al, [rax]
endcase
case "a stack that is not canonical", 3, 12, 0
        mov     rbp, 0x8000000000000000
        here
        mov     al, [rbp]
endcase
case "push to a stack that is not canonical", 3, 12, 0
        mov     rsp, 0x8000000000000000
        here
        push    rax
endcase
case "a jump to where it is not canonical", 3, 13, 0
        mov     rax, 0x8000000000000000
        here
        jmp     rax
endcase
case "mov cr0, upper half", 0, 13, 0
        mov     rax, cr0
        bts     rax, 32
        here
        mov     cr0, rax
endcase
case "mov cr8, reserved bits", 0, 13, 0
        mov     eax, 16
        here
        mov     cr8, rax
endcase
case "PAE cannot be left", 0, 13, 0
        mov     rax, cr4
        and     eax, ~0x20
        here
        mov     cr4, rax
endcase
case "LSTAR that is not canonical", 0, 13, 0
        mov     ecx, 0xc0000082
        mov     edx, 0x80000000
        here
        wrmsr
endcase
case "EFER with a reserved bit", 0, 13, 0
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x200
        here
        wrmsr
endcase
case "x87 with TS", 0, 7, -1
        mov     rax, cr0
        or      al, 8
        mov     cr0, rax
        here
        fld1
endcase
case "cmpxchg16b at an odd address", 3, 13, 0
        lock cmpxchg16b [rdi + 8]
endcase
%endif

; ---- privileges --------------------------------------------------------------------------------------------------------
%if PM
%macro privileged 2+
case %1, 3, 13, 0
        %2
endcase
%endmacro
        privileged "hlt", hlt
        privileged "cli", cli
        privileged "sti", sti
        privileged "clts", clts
        privileged "invd", invd
        privileged "wbinvd", wbinvd
        privileged "lgdt", lgdt [DATA]
        privileged "lidt", lidt [DATA]
        privileged "lmsw", lmsw ax
        privileged "invlpg", invlpg [DATA]
        privileged "rdmsr", rdmsr
        privileged "wrmsr", wrmsr
        privileged "mov from cr0", db 0x0f, 0x20, 0xc0
        privileged "mov to cr3", db 0x0f, 0x22, 0xd8
        privileged "mov from dr7", db 0x0f, 0x21, 0xf8
%if MODE != V86
        privileged "lldt", lldt ax
        privileged "ltr", ltr ax
%endif
case "in of a port that the bitmap refuses", 3, 13, 0
        in      al, 0x80
endcase
case "in of a port that the bitmap allows", 7, 0x30, -1
        in      al, 0x40
        ok
case "a dword over the end of what the bitmap allows", 3, 13, 0
        in      eax, 0x7e
endcase
case "a port behind the bitmap", 3, 13, 0
        mov     dx, 0xfff0
        here
        in      al, dx
endcase
%if MODE != V86
case "out with IOPL 3", 7, 0x30, -1
        out     0x80, al
        ok
case "cli and sti with IOPL 3", 7, 0x30, -1
        sti
        cli
        ok
%else
case "the bitmap counts with IOPL 3, too", 7, 13, 0
        out     0x80, al
endcase
case "cli and sti with IOPL 3", 7, 0x30, -1
        sti
        cli
        ok
        privileged "pushf", pushf
        privileged "popf", popf
        privileged "iret", iret
        privileged "int", int 0x30
case "int to a gate of the kernel", 7, 13, 0x31 * 8 + 2
        int     0x31
endcase
%endif
%endif

; ---- 17: alignment ------------------------------------------------------------------------------------------------------
%if PM
%macro set_ac 0
%if UB == 64
        pushf
        or      dword [rsp], 0x40000
        popf
%elif UB == 32
        pushf
        or      dword [esp], 0x40000
        popf
%else
        pushfd
        mov     bp, sp
        or      dword [bp], 0x40000
        popfd
%endif
%endmacro
%define L3 (3 + 4 * (MODE == V86))
case "~a dword at an odd address", L3, 17, 0
        set_ac
        here
        mov     eax, [DATA + 1]
endcase
case "~a push to an odd address", L3, 17, 0
        set_ac
%if UB == 64
        dec     rsp
%elif UB == 32
        dec     esp
%else
        dec     sp
%endif
        here
        push    ax
endcase
case "bytes are aligned", L3, 0x30, -1
        set_ac
        mov     al, [DATA + 1]
        ok
case "movups is aligned to nothing", L3, 0x30, -1
        set_ac
        movups  xmm0, [DATA + 8]
        ok
%if MODE != V86
case "the kernel is not checked", 0, 0x30, -1
        set_ac
        mov     eax, [DATA + 1]
        ok
%endif
%endif
finish

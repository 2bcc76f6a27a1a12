; Debug registers, single steps, code that changes, interrupt windows, strings over faults, and the saved forms of the FPU, in
; -DMODE=REAL, PROT32 or LONG (SDM 3A chapters 6.8 and 17, volume 1 chapters 8 to 13). A20 is in a20.asm.
; Bochs reports the same.
%include "sys.inc"
%if KB == 64
%define A(r)   r %+ _64
%define ax_64  rax
%define bx_64  rbx
%else
%define A(r)   r %+ _32
%define ax_32  eax
%if KB == 16
%define bx_32  bx
%else
%define bx_32  ebx
%endif
%endif
%macro set_dr 2                         ; number, value
        mov     eax, %2
        mov     dr%1, A(ax)
%endmacro
%macro push_flags 0                     ; as 32 or 64 bits
%if KB == 16
        pushfd
%else
        pushf
%endif
%endmacro
%macro pop_flags 0
%if KB == 16
        popfd
%else
        popf
%endif
%endmacro
%if KB == 64
%define SP_ rsp
%else
%define SP_ esp
%endif

; ---- debug registers -----------------------------------------------------------------------------------------------------
case "a breakpoint on code comes before it", 0, 1, -1
        set_dr  0, here_%[casen]
        set_dr  7, 0x402
        nop
        here
        nop
endcase
case "a breakpoint that is off", 0, 0x30, -1
        set_dr  0, .at
        set_dr  7, 0x400
.at:    nop
        ok
case "a breakpoint on data comes behind a write", 0, 1, -1
        set_dr  1, DATA + 4
        set_dr  7, 0x00d00408           ; four bytes, writes
        mov     eax, [DATA + 4]
        mov     [DATA + 7], al
        here
        nop
endcase
case "a breakpoint on data behind a read", 0, 1, -1
        set_dr  2, DATA + 6
        set_dr  7, 0x07000420           ; two bytes, both
        mov     al, [DATA + 5]
        mov     al, [DATA + 7]
        here
        nop
endcase
case "a breakpoint on data that is not met", 0, 0x30, -1
        set_dr  1, DATA + 4
        set_dr  7, 0x00d00408
        mov     [DATA + 8], eax
        mov     [DATA], eax
        ok
case "a breakpoint on data in the middle of a string", 0, 1, -1
        set_dr  0, DATA + 4
        set_dr  7, 0x00010402
        mov     ecx, 8
        mov     edi, DATA
        here
        rep stosb
endcase
case "a breakpoint on a port", 0, 1, -1
        mov     A(ax), cr4
        or      al, 8
        mov     cr4, A(ax)
        set_dr  3, 0x40
        set_dr  7, 0x20000480
        in      al, 0x41
        in      al, 0x40
        here
        nop
endcase
case "general detect", 0, 1, -1
        set_dr  7, 0x2400
        here
        mov     A(ax), dr0
endcase
case "dr4 is dr6 without DE", 0, 0x30, -1
        mov     A(ax), dr4
        cmp     eax, 0xffff0ff0
        must    e
        ok
case "dr4 with DE", 0, 6, -1
        mov     A(ax), cr4
        or      al, 8
        mov     cr4, A(ax)
        here
        mov     A(ax), dr4
endcase
%if KB != 16
case "RF lets one instruction pass", 0, 0x30, -1
        set_dr  0, .at
        set_dr  7, 0x402
%if KB == 64
        push    KDATA
        push    USTACK
        push    0x10002
        push    KCODE64
        push    .at
        iretq
%else
        push    dword 0x10002
        push    dword KCODE
        push    dword .at
        iretd
%endif
.at:    nop
        ok
%endif
case "a single step of a string is one element", 0, 1, -1
        mov     ecx, 8
        mov     edi, DATA
        push_flags
        or      dword [SP_], 0x100
        pop_flags
        here
        rep stosb
endcase
%if KB != 16
case "a single step over a load of SS comes one later", 0, 1, -1
        mov     ebx, ss
        push_flags
        or      dword [SP_], 0x100
        pop_flags
        mov     ss, ebx
        nop
        here
        nop
endcase
%endif
%if KB == 64
case "dr7, upper half", 0, 13, 0
        mov     rax, 0x100000400
        here
        mov     dr7, rax
endcase
case "dr6, upper half", 0, 13, 0
        mov     rax, 0x1ffff0ff0
        here
        mov     dr6, rax
endcase
%endif

; ---- code that changes ---------------------------------------------------------------------------------------------------
case "the next instruction", 0, 0x30, -1
        mov     byte [.at + 1], 0x55
.at:    mov     al, 0x11
        cmp     al, 0x55
        must    e
        mov     byte [.at + 1], 0x11
        ok
case "an instruction of a loop that has run", 0, 0x30, -1
        xor     eax, eax
        mov     ecx, 3
.again:
.at:    add     eax, byte 1
        inc     byte [.at + 3 - (KB != 16)]
        dec     ecx
        jnz     .again
        cmp     eax, 1 + 2 + 3
        must    e
        mov     byte [.at + 3 - (KB != 16)], 1
        ok
case "a string over what comes behind it", 0, 0x30, -1
        mov     edi, .at
        mov     ecx, 3
        mov     al, 0x90
        rep stosb
.at:    ud2
        nop
        mov     word [.at], 0x0b0f
        ok
case "code that was run, copied over by other code", 0, 0x30, -1
        mov     dword [DATA], 0xc301b0  ; mov al, 1; ret
        mov     ebx, DATA
        call    A(bx)
        cmp     al, 1
        must    e
        mov     byte [DATA + 1], 2
        call    A(bx)
        cmp     al, 2
        must    e
        ok

; ---- interrupt windows -----------------------------------------------------------------------------------------------------
; Line 0 is pending at the PIC (vectors from 0x20, EOI by itself).
%macro pending 0
        call    make_pending
%endmacro
case "an interrupt after STI comes one instruction later", 0, 0x20, -1
        pending
        sti
        nop
        here
        nop
endcase
case "STI and CLI leave no gap", 0, 0x30, -1
        pending
        sti
        cli
        nop
        ok
case "two STI have one shadow", 0, 0x20, -1
        pending
        sti
        sti
        here
        nop
endcase
case "HLT behind STI is left", 0, 0x20, -1
        pending
        sti
        hlt
        here
        nop
endcase
case "POPF has no shadow", 0, 0x20, -1
        pending
        push_flags
        or      dword [SP_], 0x200
        pop_flags
        here
        nop
endcase
case "a load of SS has one", 0, 0x20, -1
        pending
        mov     ebx, ss
        push_flags
        or      dword [SP_], 0x200
        sti
        mov     ss, ebx
        nop
        here
        nop
endcase
%if KB == 32
case "POP SS has one", 0, 0x20, -1
        pending
        push    ss
        sti
        pop     ss
        nop
        here
        nop
endcase
%endif
case "an interrupt ends a string between two elements", 0, 0x20, -1
        pending
        mov     ecx, 4
        mov     edi, DATA
        sti
        here
        rep stosb
endcase

; ---- strings over faults -----------------------------------------------------------------------------------------------------
%if MODE == LONG
HOLE    equ     0x200000                ; two MiB that are not there until the fault
%macro hole 0
        and     byte [TABLES + 0x2008], ~1
        mov     rax, cr3
        mov     cr3, rax
        mov     word [IDT + 14 * 16], fill_hole
        mov     byte [DATA], 0
%endmacro
case "a string that is filled goes on behind a fault", 0, 0x30, -1
        hole
        mov     edi, HOLE - 32
        mov     ecx, 64
        mov     al, 0x5a
        rep stosb
        cmp     byte [DATA], 1
        must    e
        cmp     qword [DATA + 8], 32
        must    e
        cmp     qword [DATA + 16], HOLE
        must    e
        cmp     edi, HOLE + 32
        must    e
        test    ecx, ecx
        must    z
        cmp     dword [HOLE - 2], 0x5a5a5a5a
        must    e
        ok
case "downwards", 0, 0x30, -1
        hole
        mov     edi, HOLE + 0x200000 + 16 - 4
        mov     ecx, 8
        std
        rep stosd
        cld
        cmp     byte [DATA], 1
        must    e
        cmp     qword [DATA + 8], 4
        must    e
        cmp     qword [DATA + 16], HOLE + 0x200000 - 4
        must    e
        ok
case "a move faults at its source", 0, 0x30, -1
        hole
        mov     esi, HOLE - 24
        mov     edi, DATA + 32
        mov     ecx, 6
        rep movsq
        cmp     byte [DATA], 1
        must    e
        cmp     qword [DATA + 8], 3
        must    e
        cmp     edi, DATA + 32 + 48
        must    e
        ok
case "an element over the edge is not half done", 0, 0x30, -1
        hole
        mov     dword [HOLE - 4], 0x77777777
        mov     edi, HOLE - 4
        mov     ecx, 1
        xor     eax, eax
        rep stosq
        cmp     qword [DATA + 8], 1
        must    e
        cmp     dword [DATA + 24], 0x77777777
        must    e
        cmp     dword [HOLE], 0
        must    e
        ok
case "a comparison that faults", 0, 0x30, -1
        hole
        mov     edi, HOLE - 16
        mov     ecx, 16
        xor     eax, eax
        push    rdi
        mov     ecx, 4
        rep stosd
        pop     rdi
        mov     ecx, 8
        repe scasd
        cmp     qword [DATA + 8], 4
        must    e
        ok
case "input to where nothing is", 0, 0x30, -1
        hole
        mov     edi, HOLE - 2
        mov     ecx, 4
        mov     edx, 0x43
        rep insb
        cmp     qword [DATA + 8], 2
        must    e
        cmp     edi, HOLE + 2
        must    e
        ok
case "a push that faults moves nothing", 0, 14, 2
        and     byte [TABLES + 0x2008], ~1
        mov     rax, cr3
        mov     cr3, rax
        mov     ebx, HOLE + 64
        mov     rsp, rbx
        mov     dword [TSS + 0x24], KSTACK
        mov     byte [IDT + 14 * 16 + 4], 1
        here
        push    rax
endcase
%endif

; ---- the FPU's state ------------------------------------------------------------------------------------------------------------
case "FXSAVE has an abridged tag word", 0, 0x30, -1
        fld1
        fldz
        fxsave  [DATA + 0x100]
        cmp     word [DATA + 0x100], 0x37f
        must    e
        mov     ax, [DATA + 0x102]
        shr     ax, 11
        and     ax, 7
        cmp     ax, 6
        must    e
        cmp     byte [DATA + 0x104], 0xc0
        must    e
        cmp     dword [DATA + 0x100 + 32 + 16 + 4], 0x80000000
        must    e
        fninit
        fxrstor [DATA + 0x100]
        fnstsw  ax
        and     ax, 0x3800
        cmp     ax, 0x3000
        must    e
        ok
case "FNSAVE ends in the state of FNINIT", 0, 0x30, -1
        mov     word [DATA], 0x27f
        fldcw   [DATA]
        fld1
        fnsave  [DATA + 0x100]
        cmp     word [DATA + 0x100], 0x27f
        must    e
        fnstcw  [DATA]
        cmp     word [DATA], 0x37f
        must    e
        frstor  [DATA + 0x100]
        fnstcw  [DATA]
        cmp     word [DATA], 0x27f
        must    e
        fnstsw  ax
        cmp     ax, 0x3800
        must    e
        ok
case "the environment has full tags", 0, 0x30, -1
        fldz
        fld1
        fnstenv [DATA + 0x100]
%if KB == 16
        mov     ax, [DATA + 0x104]
%else
        mov     eax, [DATA + 0x108]
%endif
        cmp     ax, 0x4fff              ; valid, zero, empty …
        must    e
        ok
case "MMX makes all valid and the top 0", 0, 0x30, -1
        fld1
        pxor    mm3, mm3
        fnstenv [DATA + 0x100]
%if KB == 16
        mov     bx, [DATA + 0x102]
%else
        mov     ebx, [DATA + 0x104]
%endif
        test    bx, 0x3800
        must    z
        emms
        fnstenv [DATA + 0x100]
%if KB == 16
        mov     ax, [DATA + 0x104]
%else
        mov     eax, [DATA + 0x108]
%endif
        cmp     ax, 0xffff
        must    e
        ok
case "a stack that is full", 0, 0x30, -1
%rep 8
        fld1
%endrep
        fld1
        fnstsw  ax
        and     ax, 0x241               ; C1: over, SF, IE
        cmp     ax, 0x241
        must    e
        ok
case "a stack that is empty", 0, 0x30, -1
        fstp    st0
        fnstsw  ax
        and     ax, 0x241
        cmp     ax, 0x41
        must    e
        ok
case "FXRSTOR of a reserved bit of MXCSR", 0, 13, 0 - (MODE == REAL)
        fxsave  [DATA + 0x100]
        or      dword [DATA + 0x118], 0x80000000
        here
        fxrstor [DATA + 0x100]
endcase
case "FXSAVE at an odd address", 0, 13, 0 - (MODE == REAL)
        fxsave  [DATA + 0x108]
endcase
case "XSAVE without OSXSAVE", 0, 6, -1
        xor     eax, eax
        here
        xsave   [DATA + 0x200]
endcase
%macro osxsave 0
        mov     A(ax), cr4
        or      eax, 0x40000
        mov     cr4, A(ax)
        xor     ecx, ecx
        xor     edx, edx
        mov     eax, 3
        xsetbv
%endmacro
case "XSAVE and XRSTOR", 0, 0x30, -1
        osxsave
        fld1
        pcmpeqd xmm5, xmm5
        mov     eax, 3
        xsave   [DATA + 0x200]
        test    byte [DATA + 0x400], 3
        must    nz
        fninit
        pxor    xmm5, xmm5
        mov     eax, 3
        xrstor  [DATA + 0x200]
        fnstsw  ax
        cmp     ax, 0x3800
        must    e
        movd    eax, xmm5
        cmp     eax, -1
        must    e
        ok
case "XRSTOR of nothing is the initial state", 0, 0x30, -1
        osxsave
        fld1
        mov     edi, DATA + 0x200
        mov     ecx, 0x90
        xor     eax, eax
        rep stosd
        mov     eax, 3
        xor     edx, edx
        mov     dword [DATA + 0x200 + 24], 0x1f80
        xrstor  [DATA + 0x200]
        fnstsw  ax
        test    ax, ax
        must    z
        fnstcw  [DATA]
        cmp     word [DATA], 0x37f
        must    e
        ok
case "XRSTOR of an unknown component", 0, 13, 0 - (MODE == REAL)
        osxsave
        mov     eax, 3
        xor     edx, edx
        xsave   [DATA + 0x200]
        mov     byte [DATA + 0x407], 0x10
        mov     eax, -1
        mov     edx, -1
        here
        xrstor  [DATA + 0x200]
endcase
case "XSETBV without the x87", 0, 13, 0 - (MODE == REAL)
        osxsave
        mov     eax, 2
        here
        xsetbv
endcase
case "XSETBV of AVX without SSE", 0, 13, 0 - (MODE == REAL)
        osxsave
        mov     eax, 5
        here
        xsetbv
endcase

        section .text
        bits    KB
make_pending:
        mov     al, 0x11
        out     0x20, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 3                   ; EOI by itself
        out     0x21, al
        mov     al, 0xfe
        out     0x21, al
        mov     al, 0x30                ; mode 0: OUT rises once
        out     0x43, al
        mov     al, 16
        out     0x40, al
        mov     al, 0
        out     0x40, al
        mov     al, 0x0a
        out     0x20, al
.wait:  in      al, 0x20
        test    al, 1
        jz      .wait
        ret
%if MODE == LONG
fill_hole:
        inc     byte [DATA]
        mov     [DATA + 8], rcx
        mov     [DATA + 16], rdi
        push    rax
        mov     eax, [HOLE - 4]
        mov     [DATA + 24], eax
        or      byte [TABLES + 0x2008], 1
        mov     rax, cr3
        mov     cr3, rax
        pop     rax
        add     rsp, 8
        iretq
%endif
finish

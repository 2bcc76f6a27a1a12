; The A20 gate, by port 92h and by the keyboard controller, in -DMODE=REAL, PROT32 or LONG: what wraps while it is closed
; (data, stack, code, page tables, what crosses 1 MiB), and that nothing old is left when it moves, neither translations nor
; decoded code. Ports 0x60, 0x64 (output port: bit 1 of what command D1 takes) and 0x92 (bit 1).
;
; Where a gate is open by one of the two and closed by the other chip sets differ: `close` closes both.
; Bochs reports the same.
%include "sys.inc"
ODD     equ     0x100000                ; what bit 20 adds
%if MODE == REAL
%define FAR_(x) es: (x) + 0x10
%define RETURN  0xcb
%else
%define FAR_(x) (x) + ODD
%define RETURN  0xc3
%endif
%if KB == 64
%define A(r)   r %+ _64
%define ax_64  rax
%define bx_64  rbx
%define sp_64  rsp
%define bp_64  rbp
%else
%define A(r)   r %+ _32
%define ax_32  eax
%define bx_32  ebx
%define sp_32  esp
%define bp_32  ebp
%endif
SPOT    equ     DATA + 0x80

%macro start 0
        call    open
%if MODE == REAL
        mov     ax, 0xffff
        mov     es, ax
%endif
%endmacro
; "mov al, N; ret"
%macro put_code 2
        mov     dword [%1], RETURN << 16 | %2 << 8 | 0xb0
%endmacro
; Often enough that it is hot; AL is what it answered the last time.
%macro run_here 0
        mov     ecx, 60
%%on:   mov     al, 0
%if MODE == REAL
        call    0:SPOT
%else
        mov     ebx, SPOT
        call    A(bx)
%endif
        dec     ecx
        jnz     %%on
%endmacro
%macro run_far 0
        mov     ecx, 60
%%on:   mov     al, 0
%if MODE == REAL
        call    0xffff:SPOT + 0x10
%else
        mov     ebx, SPOT + ODD
        call    A(bx)
%endif
        dec     ecx
        jnz     %%on
%endmacro
%macro byte_is 2
        cmp     byte [%1], %2
        must    e
%endmacro
%macro al_is 1
        cmp     al, %1
        must    e
%endmacro

; ---- data --------------------------------------------------------------------------------------------------------------
case "open: two places", 0, 0x30, -1
        start
        mov     byte [SPOT], 0x11
        mov     byte [FAR_(SPOT)], 0x22
        byte_is SPOT, 0x11
        byte_is FAR_(SPOT), 0x22
        ok
case "closed: a write wraps", 0, 0x30, -1
        start
        mov     byte [SPOT], 0x11
        call    close
        mov     byte [FAR_(SPOT)], 0x22
        byte_is SPOT, 0x22
        ok
case "closed: a read wraps", 0, 0x30, -1
        start
        mov     byte [FAR_(SPOT)], 0x33
        byte_is FAR_(SPOT), 0x33
        call    close
        mov     byte [SPOT], 0x11
        byte_is FAR_(SPOT), 0x11
        ok
case "what was written before is there again when it opens", 0, 0x30, -1
        start
        mov     byte [FAR_(SPOT)], 0x33
        call    close
        mov     byte [FAR_(SPOT)], 0x44
        call    open
        byte_is FAR_(SPOT), 0x33
        byte_is SPOT, 0x44
        mov     byte [FAR_(SPOT)], 0x55
        byte_is SPOT, 0x44
        ok
case "to and fro, many times", 0, 0x30, -1
        start
        mov     dword [FAR_(SPOT)], 0
        mov     dword [SPOT], 0
        mov     ecx, 100
.again: call    close
        inc     dword [FAR_(SPOT)]
        call    open
        add     dword [FAR_(SPOT)], 2
        dec     ecx
        jnz     .again
        cmp     dword [SPOT], 100
        must    e
        cmp     dword [FAR_(SPOT)], 200
        must    e
        ok
case "an access over 1 MiB ends at 0", 0, 0x30, -1
        start
        mov     dword [FAR_(0)], 0x66666666
        call    close
%if MODE == REAL
        mov     eax, [es: 0xe]
        mov     ecx, [0]
%else
        mov     dword [0], 0x12345678
        mov     eax, [ODD - 2]
        mov     ecx, [0]
%endif
        shr     eax, 16
        cmp     ax, cx
        must    e
        call    open
%if MODE == REAL
        mov     eax, [es: 0xe]
%else
        mov     eax, [ODD - 2]
%endif
        shr     eax, 16
        cmp     ax, 0x6666
        must    e
        ok
case "a string wraps in the middle", 0, 0x30, -1
        start
        mov     dword [FAR_(0)], 0x66666666
        mov     ebx, [0]
        call    close
%if MODE == REAL
        mov     si, 0xc
        push    ds
        push    es
        pop     ds
        xor     ax, ax
        mov     es, ax
%else
        mov     esi, ODD - 4
%endif
        mov     edi, SPOT
        mov     ecx, 8
        rep movsb
%if MODE == REAL
        pop     ds
%endif
        cmp     [SPOT + 4], ebx
        must    e
        ok
%if MODE != REAL
case "only bit 20: the third megabyte stays", 0, 0x30, -1
        start
        mov     byte [SPOT], 0x11
        mov     byte [SPOT + 2 * ODD], 0x22
        mov     byte [SPOT + 3 * ODD], 0x33
        call    close
        byte_is SPOT + 2 * ODD, 0x22
        byte_is SPOT + 3 * ODD, 0x22
        byte_is SPOT + ODD, 0x11
        ok
%endif
case "the stack", 0, 0x30, -1
        start
        call    close
%if MODE == REAL
        push    es
        pop     ss
        mov     sp, SPOT + 0x10 + 0x40
        push    dword 0x12345678
        pop     ebp
        mov     ax, ds
        mov     ss, ax
        mov     sp, USTACK
%else
        mov     A(bp), A(sp)
        mov     esp, SPOT + ODD + 0x40
%if KB == 64
        push    qword 0x12345678
        pop     rdx
%else
        push    dword 0x12345678
        pop     edx
%endif
        mov     A(sp), A(bp)
        mov     ebp, edx
%endif
        cmp     ebp, 0x12345678
        must    e
%if KB == 64
        cmp     dword [SPOT + 0x38], 0x12345678
%else
        cmp     dword [SPOT + 0x3c], 0x12345678
%endif
        must    e
        ok

; ---- what moves the gate --------------------------------------------------------------------------------------------------
case "port 92h reads back", 0, 0x30, -1
        start
        call    close
        in      al, 0x92
        test    al, 2
        must    z
        call    open_port
        in      al, 0x92
        test    al, 2
        must    nz
        ok
case "port 92h opens it alone", 0, 0x30, -1
        start
        mov     byte [FAR_(SPOT)], 0x33
        call    close
        mov     byte [SPOT], 0x11
        call    open_port
        byte_is FAR_(SPOT), 0x33
        ok
case "the keyboard controller opens it alone", 0, 0x30, -1
        start
        mov     byte [FAR_(SPOT)], 0x33
        call    close
        mov     byte [SPOT], 0x11
        call    open_keyboard
        byte_is FAR_(SPOT), 0x33
        ok
case "and closes it", 0, 0x30, -1
        start
        mov     byte [FAR_(SPOT)], 0x33
        mov     byte [SPOT], 0x11
        call    close
        call    open_keyboard
        byte_is FAR_(SPOT), 0x33
        call    close_keyboard
        byte_is FAR_(SPOT), 0x11
        ok
case "its output port says so", 0, 0x30, -1
        start
        call    close
        call    output_port
        test    al, 2
        must    z
        call    open_keyboard
        call    output_port
        test    al, 2
        must    nz
        ok

; ---- code -------------------------------------------------------------------------------------------------------------------
case "code is fetched through it", 0, 0x30, -1
        start
        put_code FAR_(SPOT), 2
        call    close
        put_code SPOT, 1
        run_far
        al_is   1
        ok
case "code that ran is another when it opens, and when it closes", 0, 0x30, -1
        start
        put_code FAR_(SPOT), 2
        put_code SPOT, 1
        run_far
        al_is   2
        call    close
        run_far
        al_is   1
        call    open
        run_far
        al_is   2
        run_here
        al_is   1
        ok
case "code that ran is written to by its other address", 0, 0x30, -1
        start
        call    close
        put_code SPOT, 1
        run_here
        run_far
        al_is   1
        mov     byte [FAR_(SPOT + 1)], 7
        run_here
        al_is   7
        mov     byte [SPOT + 1], 8
        run_far
        al_is   8
        ok
case "code of the other megabyte is no longer written to", 0, 0x30, -1
        start
        put_code FAR_(SPOT), 2
        put_code SPOT, 1
        run_far
        run_here
        call    close
        mov     byte [FAR_(SPOT + 1)], 7
        run_here
        al_is   7
        call    open
        run_far
        al_is   2
        ok
case "code closes it under itself", 0, 0x30, -1
        start
        mov     ebx, close_code         ; out 0x92, al; jmp +0; mov al, 2; ret
.copy:  mov     eax, [ebx]
        mov     [FAR_(SPOT)], eax
        mov     [SPOT], eax
        mov     eax, [ebx + 4]
        mov     [FAR_(SPOT + 4)], eax
        mov     [SPOT + 4], eax
        mov     byte [SPOT + 5], 1      ; which is 1 in the first megabyte
        call    close_keyboard
        call    open_port
        mov     al, 0
%if MODE == REAL
        call    0xffff:SPOT + 0x10
%else
        mov     ebx, SPOT + ODD
        call    A(bx)
%endif
        al_is   1
        ok

; ---- paging -----------------------------------------------------------------------------------------------------------------
%if MODE != REAL
VA      equ     0x800000
TABLE   equ     0x30000
PAGE1   equ     0x40000
PAGE2   equ     0x50000
%if KB == 64
ENTRY   equ     8
%else
ENTRY   equ     4
%endif
; VA's table: at TABLE it leads to the odd megabyte's PAGE1, at TABLE + ODD to the odd one's PAGE2.
%macro tables 0
        mov     edi, TABLE
        mov     ecx, 1024
        xor     eax, eax
        rep stosd
        mov     edi, TABLE + ODD
        mov     ecx, 1024
        rep stosd
        mov     dword [TABLE], (PAGE1 + ODD) | 3
        mov     dword [TABLE + ODD], (PAGE2 + ODD) | 3
        mov     byte [PAGE1], 0x11
        mov     byte [PAGE2], 0x22
        mov     byte [PAGE1 + ODD], 0x33
        mov     byte [PAGE2 + ODD], 0x44
%if KB == 64
        mov     qword [TABLES + 0x2000 + (VA >> 21) * 8], (TABLE + ODD) | 3
        mov     rax, cr3
        mov     cr3, rax
%else
        mov     edi, TABLE - 0x1000
        mov     ecx, 1024
        rep stosd
        mov     edi, TABLE - 0x1000 + ODD
        mov     ecx, 1024
        rep stosd
        mov     dword [TABLE - 0x1000], 0x83
        mov     dword [TABLE - 0x1000 + ODD], 0x83
        mov     dword [TABLE - 0x1000 + (VA >> 22) * 4], (TABLE + ODD) | 3
        mov     dword [TABLE - 0x1000 + ODD + (VA >> 22) * 4], (TABLE + ODD) | 3
        mov     eax, cr4
        or      al, 0x10
        mov     cr4, eax
        mov     eax, TABLE - 0x1000 + ODD
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
%endif
%endmacro
%macro tables_end 0
%if KB == 64
        mov     qword [TABLES + 0x2000 + (VA >> 21) * 8], VA | 0x87
        mov     rax, cr3
        mov     cr3, rax
%else
        mov     eax, cr0
        and     eax, 0x7fffffff
        mov     cr0, eax
%endif
%endmacro
%macro reload 0
        mov     A(ax), cr3
        mov     cr3, A(ax)
%endmacro
case "page tables and pages are behind it", 0, 0x30, -1
        start
        tables
        mov     bl, [VA]
        call    close
        reload
        mov     bh, [VA]
        call    open
        reload
        mov     dl, [VA]
        tables_end
        cmp     bx, 0x1144
        must    e
        cmp     dl, 0x44
        must    e
        ok
case "accessed and dirty bits, too", 0, 0x30, -1
        start
        tables
        call    close
        reload
        mov     byte [VA], 0x77
        call    open
        reload
        tables_end
        cmp     dword [TABLE], (PAGE1 + ODD) | 0x63
        must    e
        cmp     dword [TABLE + ODD], (PAGE2 + ODD) | 3
        must    e
        byte_is PAGE1, 0x77
        byte_is PAGE1 + ODD, 0x33
        ok
%endif

        section .rodata
close_code:
        db      0xe6, 0x92, 0xeb, 0, 0xb0, 2, RETURN, 0x90
        section .text
        bits    KB
open:   call    open_keyboard
open_port:
        in      al, 0x92
        or      al, 2
        and     al, 0xfe
        out     0x92, al
        ret
close:  call    close_keyboard
close_port:
        in      al, 0x92
        and     al, 0xfc
        out     0x92, al
        ret
open_keyboard:
        mov     ah, 0xcf
        jmp     keyboard
close_keyboard:
        mov     ah, 0xcd
keyboard:
        call    keyboard_takes
        mov     al, 0xd1
        out     0x64, al
        call    keyboard_takes
        mov     al, ah
        out     0x60, al
keyboard_takes:
        in      al, 0x64
        test    al, 2
        jnz     keyboard_takes
        ret
output_port:
        call    keyboard_takes
        mov     al, 0xd0
        out     0x64, al
.wait:  in      al, 0x64
        test    al, 1
        jz      .wait
        in      al, 0x60
        ret
finish

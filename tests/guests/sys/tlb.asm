; What has to forget a translation, in -DMODE=PROT32 or LONG: INVLPG, loads of CR3, changes of CR4, INVPCID; of data, of
; code, of the code that does it, of large and of global pages; and what PCID and INVPCID refuse (SDM 3A 4.10, volume 2).
; Bochs reports the same.
%include "sys.inc"
VA      equ     0x800000
TABLE   equ     0x30000
PAGE1   equ     0x40000
PAGE2   equ     0x50000
%if KB == 64
%define A(r)    r %+ _64
%define ax_64   rax
%define bx_64   rbx
DIR_ENTRY equ   TABLES + 0x2000 + (VA >> 21) * 8
LARGE_ENTRY equ DIR_ENTRY + 8
LARGE   equ     VA + 0x200000
LARGE1  equ     0x200000
LARGE2  equ     0x400000
%else
%define A(r)    r %+ _32
%define ax_32   eax
%define bx_32   ebx
DIR     equ     0x31000
DIR_ENTRY equ   DIR + (VA >> 22) * 4
LARGE_ENTRY equ DIR_ENTRY + 4
LARGE   equ     VA + 0x400000
LARGE1  equ     0x400000
LARGE2  equ     0
%endif

; VA is PAGE1, with a large page behind it.
%macro tables 0
        call    make_tables
%endmacro
%macro tables_end 0
        call    drop_tables
%endmacro
%macro point_to 1
        mov     dword [TABLE], %1 | 3
%endmacro
%macro reload 0
        mov     A(ax), cr3
        mov     cr3, A(ax)
%endmacro
%macro flip_cr4 1
        mov     A(ax), cr4
        xor     eax, %1
        mov     cr4, A(ax)
%endmacro
%macro byte_is 2
        cmp     byte [%1], %2
        must    e
%endmacro
; AL of the code at VA, after it ran often enough to be hot.
%macro run 1
        mov     ecx, 60
%%on:   mov     al, 0
        mov     ebx, VA + 0x80
        call    A(bx)
        dec     ecx
        jnz     %%on
        cmp     al, %1
        must    e
%endmacro

; ---- data --------------------------------------------------------------------------------------------------------------
case "INVLPG before a read", 0, 0x30, -1
        tables
        byte_is VA, 0x11
        point_to PAGE2
        invlpg  [VA]
        byte_is VA, 0x22
        tables_end
        ok
case "INVLPG before a write", 0, 0x30, -1
        tables
        mov     byte [VA], 0x55
        point_to PAGE2
        invlpg  [VA]
        mov     byte [VA], 0x66
        tables_end
        byte_is PAGE1, 0x55
        byte_is PAGE2, 0x66
        ok
case "INVLPG of any byte of the page", 0, 0x30, -1
        tables
        byte_is VA, 0x11
        point_to PAGE2
        invlpg  [VA + 0xfff]
        byte_is VA, 0x22
        tables_end
        ok
case "many in turn", 0, 0x30, -1
        tables
        mov     ecx, 100
        xor     edx, edx
.again: point_to PAGE2
        invlpg  [VA]
        add     dl, [VA]
        point_to PAGE1
        invlpg  [VA]
        sub     dl, [VA]
        dec     ecx
        jnz     .again
        tables_end
        cmp     dl, (100 * 0x11) & 0xff
        must    e
        ok
case "a load of CR3", 0, 0x30, -1
        tables
        byte_is VA, 0x11
        point_to PAGE2
        reload
        byte_is VA, 0x22
        tables_end
        ok
case "a page that goes", 0, 14, 0
        tables
        byte_is VA, 0x11
        mov     dword [TABLE], 0
        invlpg  [VA]
        here
        mov     al, [VA]
endcase
case "a right to write that goes", 0, 14, 3
        tables
        mov     A(ax), cr0
        or      eax, 0x10000
        mov     cr0, A(ax)
        mov     byte [VA], 0x55
        mov     dword [TABLE], PAGE1 | 1
        invlpg  [VA]
        byte_is VA, 0x55
        here
        mov     byte [VA], 0x66
endcase
case "a page that comes needs nothing", 0, 0x30, -1
        tables
        mov     dword [TABLE], 0
        invlpg  [VA]
        point_to PAGE2
        byte_is VA, 0x22
        tables_end
        ok
case "a dirty bit that was cleared is set again", 0, 0x30, -1
        tables
        mov     byte [VA], 0x55
        cmp     byte [TABLE], 0x63
        must    e
        point_to PAGE1
        invlpg  [VA]
        mov     al, [VA]
        cmp     byte [TABLE], 0x23
        must    e
        mov     byte [VA], 0x55
        cmp     byte [TABLE], 0x63
        must    e
        tables_end
        ok

; ---- large and global pages -----------------------------------------------------------------------------------------------
case "INVLPG of one page of a large one is for all of it", 0, 0x30, -1
        tables
        mov     byte [LARGE + 0x1000], 0x55
        mov     byte [LARGE + 0x101000], 0x66
%if KB != 64
        mov     byte [LARGE + 0x301000], 0x77 ; the other half of 4 MiB
%endif
        mov     dword [LARGE_ENTRY], LARGE2 | 0x83
        invlpg  [LARGE]
%if KB != 64
        mov     byte [LARGE2 + 0x301000], 0x11
        byte_is LARGE + 0x301000, 0x11
%endif
        mov     bl, [LARGE2 + 0x101000]
        cmp     [LARGE + 0x101000], bl
        must    e
        inc     byte [LARGE + 0x101000]
        inc     bl
        cmp     [LARGE2 + 0x101000], bl
        must    e
        tables_end
        ok
case "a large page becomes small ones", 0, 0x30, -1
        tables
        mov     byte [LARGE], 0x55
        mov     dword [LARGE_ENTRY], TABLE | 3
        invlpg  [LARGE]
        byte_is LARGE, 0x11
        tables_end
        ok
case "INVLPG of a global page", 0, 0x30, -1
        tables
        flip_cr4 0x80
        point_to PAGE1 | 0x100
        invlpg  [VA]
        byte_is VA, 0x11
        point_to PAGE2
        invlpg  [VA]
        byte_is VA, 0x22
        flip_cr4 0x80
        tables_end
        ok
case "global pages go with PGE", 0, 0x30, -1
        tables
        flip_cr4 0x80
        point_to PAGE1 | 0x100
        invlpg  [VA]
        byte_is VA, 0x11
        point_to PAGE2
        flip_cr4 0x80
        byte_is VA, 0x22
        tables_end
        ok

; ---- code -------------------------------------------------------------------------------------------------------------------
case "code that ran", 0, 0x30, -1
        tables
        run     1
        point_to PAGE2
        invlpg  [VA]
        run     2
        point_to PAGE1
        reload
        run     1
        tables_end
        ok
case "the code that does it", 0, 0x30, -1
        tables
        mov     dword [PAGE1 + 0x100], 0x010f3e89
        mov     dword [PAGE1 + 0x104], 0xc301b03b ; mov [esi], edi; invlpg [ebx]; mov al, 1; ret
        mov     dword [PAGE2 + 0x100], 0x010f3e89
        mov     dword [PAGE2 + 0x104], 0xc302b03b
        mov     ecx, 60
.again: point_to PAGE1
        mov     ebx, VA + 0x100
        invlpg  [A(bx)]
        mov     esi, TABLE
        mov     edi, PAGE2 | 3
        mov     al, 0
        call    A(bx)
        cmp     al, 2
        must    e
        dec     ecx
        jnz     .again
        tables_end
        ok
case "a page of code that goes", 0, 14, 0x10 * (MODE == LONG)
        tables
        run     1
        mov     dword [TABLE], 0
        invlpg  [VA]
here_%[casen] equ VA + 0x80
%define here_set 1
        mov     ebx, VA + 0x80
        jmp     A(bx)
endcase

; ---- INVPCID and PCID ---------------------------------------------------------------------------------------------------------
%if MODE == LONG
%macro descriptor 2                     ; PCID, address
        mov     rax, %1
        mov     [DATA + 16], rax
        mov     rax, %2
        mov     [DATA + 24], rax
%endmacro
%macro invpcid_of 1
        mov     ecx, %1
        invpcid rcx, [DATA + 16]
%endmacro
%assign type 0
%rep 4
case {"INVPCID, type ", '0' + type}, 0, 0x30, -1
        tables
        byte_is VA, 0x11
        point_to PAGE2
        descriptor 0, (type == 0) * VA
        invpcid_of type
        byte_is VA, 0x22
        tables_end
        ok
%assign type type + 1
%endrep
case "type 2 is for global pages, too", 0, 0x30, -1
        tables
        flip_cr4 0x80
        point_to PAGE1 | 0x100
        invlpg  [VA]
        byte_is VA, 0x11
        point_to PAGE2
        descriptor 0, 0
        invpcid_of 2
        byte_is VA, 0x22
        flip_cr4 0x80
        tables_end
        ok
case "INVPCID, type 4", 0, 13, 0
        mov     ecx, 4
        here
        invpcid rcx, [DATA + 16]
endcase
case "INVPCID, reserved bits", 0, 13, 0
        descriptor 0x1000, 0
        mov     ecx, 1
        here
        invpcid rcx, [DATA + 16]
endcase
case "INVPCID of an address that is not canonical", 0, 13, 0
        descriptor 0, 0x8000000000000000
        xor     ecx, ecx
        here
        invpcid rcx, [DATA + 16]
endcase
case "INVPCID of a PCID without PCIDE", 0, 13, 0
        descriptor 5, 0
        mov     ecx, 1
        here
        invpcid rcx, [DATA + 16]
endcase
case "INVPCID by a user", 3, 13, 0
        mov     ecx, 2
        here
        invpcid rcx, [DATA + 16]
endcase
case "PCIDE with bits in CR3", 0, 13, 0
        mov     rax, cr3
        or      al, 8
        mov     cr3, rax
        mov     rax, cr4
        or      eax, 0x20000
        mov     rcx, cr3
        here
        mov     cr4, rax
endcase
case "bit 63 of CR3 without PCIDE", 0, 13, 0
        mov     rax, cr3
        and     eax, ~0xfff
        mov     cr3, rax
        bts     rax, 63
        here
        mov     cr3, rax
endcase
case "two PCIDs", 0, 0x30, -1
        tables
        flip_cr4 0x20000
        mov     ebx, TABLES + 1
        mov     cr3, rbx
        byte_is VA, 0x11
        point_to PAGE2
        mov     ebx, TABLES + 2
        mov     cr3, rbx
        byte_is VA, 0x22
        descriptor 1, VA
        invpcid_of 0
        mov     rbx, (1 << 63) | (TABLES + 1)
        mov     cr3, rbx
        byte_is VA, 0x22
        mov     rbx, cr3
        cmp     rbx, TABLES + 1
        must    e
        point_to PAGE1
        mov     cr3, rbx
        byte_is VA, 0x11
        mov     ebx, TABLES
        mov     cr3, rbx
        flip_cr4 0x20000
        tables_end
        ok
%else
case "PCIDE outside of long mode", 0, 13, 0
        mov     eax, cr4
        or      eax, 0x20000
        here
        mov     cr4, eax
endcase
%endif

        section .text
        bits    KB
make_tables:
        call    drop_tables
        mov     edi, TABLE
        mov     ecx, 1024 * 2
        xor     eax, eax
        rep stosd
        point_to PAGE1
        mov     dword [PAGE1], 0x11
        mov     dword [PAGE2], 0x22
        mov     dword [PAGE1 + 0x80], 0xc301b0 ; mov al, N; ret
        mov     dword [PAGE2 + 0x80], 0xc302b0
%if KB == 64
        mov     dword [DIR_ENTRY], TABLE | 3
        mov     dword [LARGE_ENTRY], LARGE1 | 0x83
        mov     eax, TABLES
        mov     cr3, rax
%else
        mov     dword [DIR], 0x83       ; the first 8 MiB as they are
        mov     dword [DIR + 4], 0x400083
        mov     dword [DIR_ENTRY], TABLE | 3
        mov     dword [LARGE_ENTRY], LARGE1 | 0x83
        mov     eax, cr4
        or      al, 0x10
        mov     cr4, eax
        mov     eax, DIR
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
%endif
        ret
drop_tables:
%if KB == 64
        mov     dword [DIR_ENTRY], VA | 0x87
        mov     dword [LARGE_ENTRY], LARGE | 0x87
        mov     eax, TABLES
        mov     cr3, rax
%else
        mov     eax, cr0
        and     eax, 0x7fffffff
        mov     cr0, eax
%endif
        ret
finish

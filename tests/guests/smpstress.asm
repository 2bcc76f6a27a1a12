; Several processors (their number in PARAM) at once: locked operations on RAM, over two pages and on a device
; that keeps a word; a lock; messages through memory; code that another processor changes; a page whose
; translation another processor changes and has dropped by an IPI. Reports five counters: locked additions,
; the same over two pages, on the device, additions under the lock, mistakes.
%include "test.inc"
PD           equ 0x20000
PT           equ 0x21000
PAGE_A       equ 0x30000
PAGE_B       equ 0x34000
CROSS        equ 0x31ffe
WINDOW       equ 0x400000
LAPIC        equ 0xfee00000
LOCKED       equ 4000
CROSSED      equ 300
DEVICES      equ 100
UNDER_LOCK   equ 1000
MESSAGES     equ 20000
PATCHES      equ 100
SHOOTDOWNS   equ 40
        bits    16
        org     TEST_ADDR
start:
        mov     si, ap
        mov     di, 0x8000
        mov     cx, ap_end - ap
        cld
        rep movsb
        enter_flat32 flat
        bits    32
flat:
        flat32_segments
        mov     edi, PD
        xor     eax, eax
        mov     ecx, 2048
        rep stosd
        mov     dword [PD], 0x83
        mov     dword [PD + 4], PT + 3
        mov     dword [PD + (MMIO_DEVICE >> 22) * 4], MMIO_DEVICE + 0x83
        mov     dword [PD + (LAPIC >> 22) * 4], 0xfec00083
        mov     dword [PT], PAGE_A + 3
        call    paging
        mov     dword [LAPIC + 0xf0], 0x1ff
        xor     ebp, ebp                        ; number of this processor
        mov     dword [LAPIC + 0x300], 0xc4500  ; INIT and SIPI to all others
        mov     dword [LAPIC + 0x300], 0xc4608
together:
        lidt    [idtr]
        xor     ebx, ebx                        ; what the barrier will have counted
        call    barrier
        mov     ecx, LOCKED
.add:   lock inc dword [counter]
        loop    .add
        mov     ecx, CROSSED
.cross: lock add dword [CROSS], 1
        loop    .cross
        mov     ecx, DEVICES
.dev:   lock inc dword [MMIO_DEVICE]
        loop    .dev
        mov     ecx, UNDER_LOCK
.take:  mov     eax, 1
        xchg    [lock_word], eax
        test    eax, eax
        jz      .mine
        pause
        jmp     .take
.mine:  inc     dword [plain]
        mov     dword [lock_word], 0
        loop    .take
        call    barrier

        cmp     ebp, 1                          ; ---- messages: 0 sends, 1 reads
        ja      .messages_done
        je      .reader
        mov     ecx, 1
.send:  mov     [data], ecx
        mov     [flag], ecx
        inc     ecx
        cmp     ecx, MESSAGES
        jbe     .send
        jmp     .messages_done
.reader:
        mov     eax, [flag]
        mov     edx, [data]
        cmp     edx, eax
        jae     .newer
        lock inc dword [errors]
.newer: cmp     eax, MESSAGES
        jb      .reader
.messages_done:
        call    barrier

        cmp     ebp, 1                          ; ---- code: 0 writes, 1 executes
        ja      .code_done
        mov     esi, 1
        je      .run
.patch: mov     [function + 1], esi
        mov     [go], esi
.ack:   pause
        cmp     [done_word], esi
        jne     .ack
        inc     esi
        cmp     esi, PATCHES
        jbe     .patch
        jmp     .code_done
.run:   pause
        cmp     [go], esi
        jne     .run
        push    ebx
        xor     eax, eax
        cpuid
        pop     ebx
        call    function
        cmp     eax, esi
        je      .right
        lock inc dword [errors]
.right: mov     [done_word], esi
        inc     esi
        cmp     esi, PATCHES
        jbe     .run
.code_done:
        call    barrier

        mov     esi, 1                          ; ---- translations: 0 changes, all others look
        test    ebp, ebp
        jnz     .look
.shoot: mov     eax, PAGE_A
        test    esi, 1
        jz      .even
        mov     eax, PAGE_B
.even:  mov     [eax], esi
        or      eax, 3
        mov     dword [acks], 0
        mov     [PT], eax
        invlpg  [WINDOW]
        mov     dword [LAPIC + 0x300], 0xc4040
        movzx   ecx, word [PARAM]
        dec     ecx
.acks:  pause
        cmp     [acks], ecx
        jne     .acks
        mov     [turn], esi
        imul    ecx, esi
.looked:
        pause
        cmp     [looks], ecx
        jne     .looked
        inc     esi
        cmp     esi, SHOOTDOWNS
        jbe     .shoot
        report32 [counter]
        report32 [CROSS]
        report32 [MMIO_DEVICE]
        report32 [plain]
        report32 [errors]
        done
.look:  sti
.turn:  pause
        cmp     [turn], esi
        jne     .turn
        mov     eax, [WINDOW]
        cmp     eax, esi
        je      .seen
        lock inc dword [errors]
.seen:  lock inc dword [looks]
        inc     esi
        cmp     esi, SHOOTDOWNS
        jbe     .turn
        cli
        hlt

barrier:
        movzx   eax, word [PARAM]
        add     ebx, eax
        lock inc dword [arrived]
.wait:  pause
        cmp     [arrived], ebx
        jb      .wait
        ret
paging:
        mov     eax, PD
        mov     cr3, eax
        mov     eax, cr4
        or      al, 0x10                        ; PSE
        mov     cr4, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        ret
shootdown:
        invlpg  [WINDOW]
        lock inc dword [acks]
        mov     dword [LAPIC + 0xb0], 0
        iret
ap32:
        mov     eax, 16
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     ebp, 1
        lock xadd [started], ebp
        inc     ebp
        mov     esp, ebp
        shl     esp, 12
        add     esp, 0x50000
        call    paging
        mov     dword [LAPIC + 0xf0], 0x1ff
        jmp     together
        bits    16
ap:
        cli
        xor     ax, ax
        mov     ds, ax
        lgdt    [ap_gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 8:ap32
ap_end:
        bits    32
        align   8
ap_gdt: dq      0
        dq      0x00cf9b000000ffff
        dq      0x00cf93000000ffff
ap_gdtr: dw     23
        dd      ap_gdt
idt:    times   64 dq 0
        dw      shootdown, 8, 0x8e00, 0
idtr:   dw      $ - idt - 1
        dd      idt
        align   64
counter: dd     0
lock_word: dd   0
plain:  dd      0
data:   dd      0
flag:   dd      0
go:     dd      0
done_word: dd   0
acks:   dd      0
turn:   dd      0
looks:  dd      0
errors: dd      0
arrived: dd     0
started: dd     0
        align   4096
function:
        mov     eax, 0
        ret

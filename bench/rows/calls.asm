; Recursive Fibonacci numbers: calls, returns, unpredictable branches.
%include "row.inc"
row:    mov     ebp, ROUNDS
.round: mov     eax, 15
        call    fib
        dec     ebp
        jnz     .round
        jmp     finish
fib:    cmp     eax, 2
        jb      .one
        push    eax
        dec     eax
        call    fib
        xchg    eax, [esp]
        sub     eax, 2
        call    fib
        pop     edx
        add     eax, edx
        ret
.one:   mov     eax, 1
        ret

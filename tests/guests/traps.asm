; Handlers of #DB and #BP at fixed places, which report 0x11 and 0x33 and end: for a test that points the guest's
; vectors at them. The program itself reads one port and is done.
%include "test.inc"
        bits    16
        org     TEST_ADDR
start:
        nop
        nop
        mov     dx, PORT_SOURCE
        in      al, dx
        done
        times   0x40 - ($ - $$) db 0x90
on_db:
        report32 0x11
        done
        times   0x80 - ($ - $$) db 0x90
on_bp:
        report32 0x33
        done
        times   0xc0 - ($ - $$) db 0x90
halting:
        hlt
        done

/* Between the two files of the UART: its line side and its registers. */
#pragma once

#include <string.h>

#include "engine/hw/char/serial-16550.h"

#define LSR_ERRORS  (UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI)
#define LSR_LATCHES (LSR_ERRORS | UART_LSR_FIFO)
#define BYTE_ERRORS (UART_LSR_PE | UART_LSR_FE | UART_LSR_BI)
#define MSR_LINES   (UART_MSR_CTS | UART_MSR_DSR | UART_MSR_RI | UART_MSR_DCD)
#define MSR_DELTAS  (UART_MSR_DCTS | UART_MSR_DDSR | UART_MSR_TERI | UART_MSR_DDCD)

static inline void uart_fifo_clear(UartFifo *f)
{
    memset(f, 0, sizeof(*f));
}

static inline bool uart_fifo_mode(const Serial16550 *s)
{
    return s->fcr & UART_FCR_ENABLE;
}

static inline unsigned uart_fifo_capacity(const Serial16550 *s)
{
    return uart_fifo_mode(s) ? UART_FIFO_SIZE : 1;
}

static inline bool uart_loopback(const Serial16550 *s)
{
    return s->mcr & UART_MCR_LOOP;
}

static inline bool uart_line_in_break(const Serial16550 *s)
{
    return s->lcr & UART_LCR_BREAK;
}

/* Interrupts: the highest of what is pending and enabled; whether the pin reaches the board. */
uint8_t uart_interrupt_id(const Serial16550 *s);
bool uart_irq_gate_open(const Serial16550 *s);
void uart_update_irq(Serial16550 *s);

/* Receiver and transmitter. */
void uart_restart_timeout(Serial16550 *s);
void uart_receive_break(Serial16550 *s);
uint8_t uart_read_rbr(Serial16550 *s);
void uart_write_thr(Serial16550 *s, uint8_t value);

/* What the outside is told, and what it tells. */
void uart_update_params(Serial16550 *s);
uint8_t uart_modem_inputs(const Serial16550 *s);
void uart_update_msr(Serial16550 *s);
void uart_drive_modem(Serial16550 *s);

bool uart_line_connect(Serial16550 *s, Clock *clock, Chardev *chr, GError **error);
void uart_line_disconnect(Serial16550 *s);

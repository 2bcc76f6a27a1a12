/*
 * The 16550A UART itself, without a bus: embedded by the ISA port and by whatever else has one.
 * Registers are numbered 0 to 7; the embedder maps them. Engine lock.
 */
#pragma once

#include "engine/chardev/chardev.h"
#include "engine/core/clock.h"
#include "engine/core/irq.h"
#include "engine/memory/memory.h"
#include "engine/state/vmstate.h"

#define UART_RBR 0 /* read, DLAB=0 */
#define UART_THR 0 /* write, DLAB=0 */
#define UART_DLL 0 /* DLAB=1 */
#define UART_IER 1 /* DLAB=0 */
#define UART_DLM 1 /* DLAB=1 */
#define UART_IIR 2 /* read */
#define UART_FCR 2 /* write */
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5
#define UART_MSR 6
#define UART_SCR 7

#define UART_IER_ERBFI 0x01
#define UART_IER_ETBEI 0x02
#define UART_IER_ELSI  0x04
#define UART_IER_EDSSI 0x08

#define UART_IIR_NONE    0x01
#define UART_IIR_MSI     0x00
#define UART_IIR_THRE    0x02
#define UART_IIR_RDA     0x04
#define UART_IIR_RLS     0x06
#define UART_IIR_TIMEOUT 0x0c
#define UART_IIR_FIFO    0xc0

#define UART_FCR_ENABLE   0x01
#define UART_FCR_CLEAR_RX 0x02
#define UART_FCR_CLEAR_TX 0x04
#define UART_FCR_DMA      0x08
#define UART_FCR_TRIGGER  0xc0

#define UART_LCR_WLS   0x03
#define UART_LCR_STB   0x04
#define UART_LCR_PEN   0x08
#define UART_LCR_EPS   0x10
#define UART_LCR_STICK 0x20
#define UART_LCR_BREAK 0x40
#define UART_LCR_DLAB  0x80

#define UART_MCR_DTR  0x01
#define UART_MCR_RTS  0x02
#define UART_MCR_OUT1 0x04
#define UART_MCR_OUT2 0x08
#define UART_MCR_LOOP 0x10

#define UART_LSR_DR   0x01
#define UART_LSR_OE   0x02
#define UART_LSR_PE   0x04
#define UART_LSR_FE   0x08
#define UART_LSR_BI   0x10
#define UART_LSR_THRE 0x20
#define UART_LSR_TEMT 0x40
#define UART_LSR_FIFO 0x80

#define UART_MSR_DCTS 0x01
#define UART_MSR_DDSR 0x02
#define UART_MSR_TERI 0x04
#define UART_MSR_DDCD 0x08
#define UART_MSR_CTS  0x10
#define UART_MSR_DSR  0x20
#define UART_MSR_RI   0x40
#define UART_MSR_DCD  0x80

#define UART_FIFO_SIZE    16
#define UART_DEFAULT_BAUD 115200 /* divisor 1 at the PC's 1.8432 MHz */

typedef struct UartFifo {
    uint8_t data[UART_FIFO_SIZE];
    uint8_t err[UART_FIFO_SIZE]; /* UART_LSR_PE FE BI that came with the byte; receiver only */
    uint8_t head, count;
} UartFifo;

typedef struct Serial16550 {
    /* Configuration, set by the embedder before serial_16550_realize. */
    uint32_t baudbase; /* baud rate of divisor 1 */
    bool deaf;         /* takes nothing from outside now */
    bool pace;         /* bytes take the time they take on a line */
    bool out2_gate;    /* the interrupt pin only reaches `irq` while OUT2 is on, as on a PC */
    Irq *irq;          /* the embedder's output line points here */
    const char *label; /* for messages */
    Object *owner;     /* what they are said of; may be NULL */

    Clock *clock;
    Chardev *chr; /* counted; NULL: nothing is connected */

    /* Saved state. */
    uint16_t divisor;
    uint8_t rbr; /* what was read last, for reads of an empty receiver */
    uint8_t ier, fcr, lcr, mcr, scr;
    uint8_t lsr; /* only OE PE FE BI and bit 7; the rest is computed */
    uint8_t msr;
    UartFifo rx, tx; /* without FIFOs they hold one byte: RBR and THR */
    uint8_t tsr;
    bool tsr_busy;        /* the transmitter shift register holds a byte on its way */
    bool tx_two;          /* two bytes were in the transmit FIFO since THRE was last set */
    bool thre_pending;    /* the THRE interrupt's latch */
    bool thre_delayed;    /* it is set a character time, less the stop bits, after THRE */
    bool timeout_pending; /* the character timeout interrupt's latch */
    int64_t tx_end;       /* when the byte in the shift register is out */
    Timer tx_timer, rx_timer, timeout_timer;

    int irq_level; /* as last set, so that an access that changes nothing sets nothing */
    bool kicking;  /* tx_kick is at work further up the stack */
} Serial16550;

/* Attaches to `chr` (may be NULL). */
bool serial_16550_realize(Serial16550 *s, Clock *clock, Chardev *chr, GError **error);
void serial_16550_unrealize(Serial16550 *s);
void serial_16550_reset(Serial16550 *s);
uint8_t serial_16550_read(Serial16550 *s, unsigned reg);
uint8_t serial_16550_peek(const Serial16550 *s, unsigned reg); /* without a read's side effects */
void serial_16550_write(Serial16550 *s, unsigned reg, uint8_t value);
/* One character from the line, with the UART_LSR_PE, FE, BI it came with. */
void serial_16550_receive(Serial16550 *s, uint8_t byte, uint8_t errors);
int64_t serial_16550_char_ns(const Serial16550 *s); /* how long one takes, as programmed */

/* Eight byte registers in a row; opaque is the Serial16550. Wider accesses become several. */
extern const MemoryRegionOps serial_16550_ops;
extern const VMStateDescription vmstate_serial_16550;

/*
 * UART 16550A, after National Semiconductor's data sheet PC16550D, "Universal Asynchronous
 * Receiver/Transmitter with FIFOs" (June 1995), section 8 (registers) and 8.10-8.12 (FIFO modes).
 *
 * Registers (DLAB is LCR bit 7):
 *   0 RBR/THR, DLL   1 IER, DLM   2 IIR/FCR   3 LCR   4 MCR   5 LSR   6 MSR   7 SCR
 * One line: INTR, which a PC's board passes on only while MCR.OUT2 drives its pin.
 *
 * Where this model is free:
 * - Without `pace` a byte leaves when it is written and arrives when the outside has it, and words
 *   have eight bits whatever LCR says (guests that never program LCR are common). With it, bytes
 *   take their time at the programmed rate, in both directions, and words have the programmed
 *   length. The character timeout always takes four programmed character times.
 * - An outside that takes bytes slower than the guest writes them holds the transmitter, as a
 *   handshake would; an outside that takes none at all does not.
 * - The divisor latch, which the data sheet leaves undefined, is 12 (9600 baud) after reset; THR,
 *   RBR and SCR are 0. A divisor of 0 counts as 1 and is not passed on.
 * - Not emulated: RXRDY and TXRDY (FCR bit 3 is kept, nobody looks), writes to LSR and MSR (the
 *   data sheet's factory tests), parity and framing errors of a line (none has them), OUT1 (goes
 *   nowhere).
 */
#include "engine/hw/char/serial-16550.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"

#define LSR_ERRORS  (UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI)
#define LSR_LATCHES (LSR_ERRORS | UART_LSR_FIFO)
#define BYTE_ERRORS (UART_LSR_PE | UART_LSR_FE | UART_LSR_BI)
#define FCR_KEPT    (UART_FCR_ENABLE | UART_FCR_DMA | UART_FCR_TRIGGER)
#define MSR_LINES   (UART_MSR_CTS | UART_MSR_DSR | UART_MSR_RI | UART_MSR_DCD)
#define MSR_DELTAS  (UART_MSR_DCTS | UART_MSR_DDSR | UART_MSR_TERI | UART_MSR_DDCD)

#define DEFAULT_DIVISOR   12
#define CONGESTION_ASK_NS (10 * NS_PER_MS)

TRACE_POINT(serial_read, "%s reg=%u value=%#x");
TRACE_POINT(serial_write, "%s reg=%u value=%#x");
TRACE_POINT(serial_irq, "%s level=%d");

static const unsigned trigger_levels[4] = { 1, 4, 8, 14 };

/* ---- FIFOs -------------------------------------------------------------------------------- */

static void fifo_clear(UartFifo *f)
{
    memset(f, 0, sizeof(*f));
}

static void fifo_push(UartFifo *f, uint8_t byte, uint8_t err)
{
    unsigned at = (f->head + f->count) % UART_FIFO_SIZE;

    f->data[at] = byte;
    f->err[at] = err;
    f->count++;
}

static uint8_t fifo_pop(UartFifo *f)
{
    uint8_t byte = f->data[f->head];

    f->head = (f->head + 1) % UART_FIFO_SIZE;
    f->count--;
    return byte;
}

static bool fifo_has_errors(const UartFifo *f)
{
    for (unsigned i = 0; i < f->count; i++) {
        if (f->err[(f->head + i) % UART_FIFO_SIZE]) {
            return true;
        }
    }
    return false;
}

static bool fifo_mode(const Serial16550 *s)
{
    return s->fcr & UART_FCR_ENABLE;
}

static unsigned fifo_capacity(const Serial16550 *s)
{
    return fifo_mode(s) ? UART_FIFO_SIZE : 1;
}

static bool loopback(const Serial16550 *s)
{
    return s->mcr & UART_MCR_LOOP;
}

/* ---- the line's format --------------------------------------------------------------------- */

static unsigned data_bits(const Serial16550 *s)
{
    return 5 + (s->lcr & UART_LCR_WLS);
}

/* In halves: five data bits go with one and a half. */
static unsigned stop_half_bits(const Serial16550 *s)
{
    return !(s->lcr & UART_LCR_STB) ? 2 : data_bits(s) == 5 ? 3 : 4;
}

static int64_t half_bits_ns(const Serial16550 *s, unsigned half_bits)
{
    uint64_t divisor = s->divisor ? s->divisor : 1;

    return (int64_t)(half_bits * divisor * (NS_PER_SEC / 2) / s->baudbase);
}

static unsigned frame_half_bits(const Serial16550 *s)
{
    return 2 * (1 + data_bits(s) + !!(s->lcr & UART_LCR_PEN)) + stop_half_bits(s);
}

int64_t serial_16550_char_ns(const Serial16550 *s)
{
    return half_bits_ns(s, frame_half_bits(s));
}

static uint8_t word_mask(const Serial16550 *s)
{
    return s->pace ? (uint8_t)(0xff >> (8 - data_bits(s))) : 0xff;
}

static void update_params(Serial16550 *s)
{
    ChardevSerialParams p;
    uint8_t lcr = s->lcr;

    if (s->divisor == 0) {
        return;
    }
    p.baud = s->baudbase / s->divisor;
    p.data_bits = (uint8_t)data_bits(s);
    p.stop_bits = lcr & UART_LCR_STB ? 2 : 1;
    p.parity = 'N';
    if (lcr & UART_LCR_PEN) {
        p.parity = lcr & UART_LCR_STICK ? (lcr & UART_LCR_EPS ? 'S' : 'M')
                                        : (lcr & UART_LCR_EPS ? 'E' : 'O');
    }
    chardev_set_serial_params(s->chr, &p);
}

/* ---- interrupts ---------------------------------------------------------------------------- */

static bool rx_triggered(const Serial16550 *s)
{
    return s->rx.count >= (fifo_mode(s) ? trigger_levels[s->fcr >> 6] : 1);
}

/* The highest of what is pending and enabled. */
static uint8_t interrupt_id(const Serial16550 *s)
{
    if ((s->ier & UART_IER_ELSI) && (s->lsr & LSR_ERRORS)) {
        return UART_IIR_RLS;
    }
    if ((s->ier & UART_IER_ERBFI) && s->timeout_pending) {
        return UART_IIR_TIMEOUT;
    }
    if ((s->ier & UART_IER_ERBFI) && rx_triggered(s)) {
        return UART_IIR_RDA;
    }
    if ((s->ier & UART_IER_ETBEI) && s->thre_pending) {
        return UART_IIR_THRE;
    }
    if ((s->ier & UART_IER_EDSSI) && (s->msr & MSR_DELTAS)) {
        return UART_IIR_MSI;
    }
    return UART_IIR_NONE;
}

/* Loopback forces the OUT2 pin off, and the board's gate with it. */
static bool irq_gate_open(const Serial16550 *s)
{
    return !s->out2_gate || ((s->mcr & UART_MCR_OUT2) && !loopback(s));
}

static void update_irq(Serial16550 *s)
{
    int level = interrupt_id(s) != UART_IIR_NONE && irq_gate_open(s);

    if (level != s->irq_level) {
        s->irq_level = level;
        TRACE(serial_irq, s->label, level);
        irq_set(s->irq, level);
    }
}

/* ---- receiver ------------------------------------------------------------------------------ */

/* The timeout counts from the last character that came or was read. One that has struck waits for
 * a read. */
static void restart_timeout(Serial16550 *s)
{
    if (!fifo_mode(s) || s->rx.count == 0) {
        s->timeout_pending = false;
        timer_disarm(&s->timeout_timer);
    } else if (!s->timeout_pending) {
        timer_arm(&s->timeout_timer, clock_now(s->clock) + 4 * serial_16550_char_ns(s));
    }
}

static void timeout_fired(void *opaque)
{
    Serial16550 *s = opaque;

    if (fifo_mode(s) && s->rx.count > 0) {
        s->timeout_pending = true;
        update_irq(s);
    }
}

/* The errors of a byte show in LSR from the moment it is the next to be read. */
static void reveal_errors(Serial16550 *s)
{
    if (s->rx.count > 0) {
        s->lsr |= s->rx.err[s->rx.head];
    }
}

static void rx_push(Serial16550 *s, uint8_t byte, uint8_t err)
{
    if (s->rx.count < fifo_capacity(s)) {
        fifo_push(&s->rx, byte, err);
        if (fifo_mode(s) && err) {
            s->lsr |= UART_LSR_FIFO;
        }
        if (s->rx.count == 1) {
            reveal_errors(s);
        }
    } else {
        /* With FIFOs the newcomer is lost in the shift register, without it replaces the old. */
        s->lsr |= UART_LSR_OE;
        if (!fifo_mode(s)) {
            s->rx.data[s->rx.head] = byte;
            s->rx.err[s->rx.head] = err;
            reveal_errors(s);
        }
    }
    restart_timeout(s);
}

void serial_16550_receive(Serial16550 *s, uint8_t byte, uint8_t errors)
{
    rx_push(s, byte & word_mask(s), errors & BYTE_ERRORS);
    update_irq(s);
}

/* A line that is low for a whole frame: a zero without a stop bit, and with the wrong parity where
 * that would be a one. */
static void receive_break(Serial16550 *s)
{
    bool parity_one = (s->lcr & UART_LCR_PEN) && !(s->lcr & UART_LCR_EPS);

    rx_push(s, 0, UART_LSR_BI | UART_LSR_FE | (parity_one ? UART_LSR_PE : 0));
    update_irq(s);
}

static uint8_t read_rbr(Serial16550 *s)
{
    bool was_full = s->rx.count == fifo_capacity(s);

    if (s->rx.count > 0) {
        s->rbr = fifo_pop(&s->rx);
        s->timeout_pending = false;
        restart_timeout(s);
        reveal_errors(s);
        update_irq(s);
        if (was_full || s->rx.count == 0) {
            chardev_accept_input(s->chr);
        }
    }
    return s->rbr;
}

static size_t fe_can_read(void *opaque)
{
    Serial16550 *s = opaque;
    size_t room = fifo_capacity(s) - s->rx.count;

    /* In loopback SIN is disconnected: what comes then waits outside. */
    if (loopback(s) || (s->pace && timer_armed(&s->rx_timer))) {
        return 0;
    }
    return s->pace ? MIN(room, 1) : room;
}

static void fe_read(void *opaque, const uint8_t *buf, size_t len)
{
    Serial16550 *s = opaque;

    for (size_t i = 0; i < len; i++) {
        rx_push(s, buf[i] & word_mask(s), 0);
    }
    if (s->pace) {
        timer_arm(&s->rx_timer, clock_now(s->clock) + serial_16550_char_ns(s));
    }
    update_irq(s);
}

static void rx_timer_fired(void *opaque)
{
    Serial16550 *s = opaque;

    chardev_accept_input(s->chr);
}

/* ---- modem lines --------------------------------------------------------------------------- */

static uint8_t modem_inputs(const Serial16550 *s)
{
    if (loopback(s)) {
        return (s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
               (s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
               (s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
               (s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
    }
    unsigned tiocm = chardev_get_modem(s->chr);

    return (tiocm & CHARDEV_TIOCM_CTS ? UART_MSR_CTS : 0) |
           (tiocm & CHARDEV_TIOCM_DSR ? UART_MSR_DSR : 0) |
           (tiocm & CHARDEV_TIOCM_RI ? UART_MSR_RI : 0) |
           (tiocm & CHARDEV_TIOCM_DCD ? UART_MSR_DCD : 0);
}

static void update_msr(Serial16550 *s)
{
    uint8_t now = modem_inputs(s), changed = (s->msr ^ now) & MSR_LINES;

    s->msr = now | (s->msr & MSR_DELTAS) | (changed & UART_MSR_CTS ? UART_MSR_DCTS : 0) |
             (changed & UART_MSR_DSR ? UART_MSR_DDSR : 0) |
             (changed & ~now & UART_MSR_RI ? UART_MSR_TERI : 0) |
             (changed & UART_MSR_DCD ? UART_MSR_DDCD : 0);
}

static void drive_modem(Serial16550 *s)
{
    unsigned tiocm = 0;

    if (!loopback(s)) {
        tiocm = (s->mcr & UART_MCR_DTR ? CHARDEV_TIOCM_DTR : 0) |
                (s->mcr & UART_MCR_RTS ? CHARDEV_TIOCM_RTS : 0);
    }
    chardev_set_modem(s->chr, tiocm);
}

static void fe_event(void *opaque, ChardevEvent event)
{
    Serial16550 *s = opaque;

    if (event == CHARDEV_BREAK) {
        receive_break(s);
        return;
    }
    if (!loopback(s)) {
        update_msr(s);
        update_irq(s);
    }
}

/* ---- transmitter --------------------------------------------------------------------------- */

static bool line_in_break(const Serial16550 *s)
{
    return s->lcr & UART_LCR_BREAK;
}

/* The byte in the shift register is out. While SOUT is held low nobody sees it. */
static void tx_finish(Serial16550 *s)
{
    uint8_t byte = s->tsr & word_mask(s);

    s->tsr_busy = false;
    if (line_in_break(s)) {
        return;
    }
    if (loopback(s)) {
        rx_push(s, byte, 0);
    } else {
        chardev_write(s->chr, &byte, 1);
    }
}

/* From THR or the FIFO into the shift register; its emptiness is what THRE tells. */
static void tx_load(Serial16550 *s)
{
    s->tsr = fifo_pop(&s->tx);
    s->tsr_busy = true;
    if (s->tx.count == 0) {
        /* A FIFO that never held two bytes tells later, so that a guest that fills it by single
         * bytes is not interrupted for each. */
        if (s->pace && fifo_mode(s) && !s->tx_two) {
            s->thre_delayed = true;
        } else {
            s->thre_pending = true;
        }
        s->tx_two = false;
    }
}

static void arm_tx(Serial16550 *s, int64_t start)
{
    int64_t before = s->thre_delayed ? half_bits_ns(s, stop_half_bits(s)) : 0;

    s->tx_end = start + serial_16550_char_ns(s);
    timer_arm(&s->tx_timer, s->tx_end - before);
}

/* `start`: when the line became free. What the written byte causes outside may come back here (a
 * script that makes the guest's port writable): the loop below then goes on by itself. */
static void tx_kick(Serial16550 *s, int64_t start)
{
    if (s->kicking) {
        return;
    }
    s->kicking = true;
    while (!s->tsr_busy && s->tx.count > 0) {
        if (!loopback(s) && chardev_congested(s->chr)) {
            /* fe_writable will go on; the timer is for the case that it never hears of it. */
            timer_arm(&s->tx_timer, clock_now(s->clock) + CONGESTION_ASK_NS);
            break;
        }
        tx_load(s);
        if (s->pace) {
            arm_tx(s, start);
        } else {
            tx_finish(s);
        }
    }
    s->kicking = false;
}

static void tx_timer_fired(void *opaque)
{
    Serial16550 *s = opaque;
    int64_t start = clock_now(s->clock);

    if (s->tsr_busy) {
        if (s->thre_delayed) {
            s->thre_delayed = false;
            s->thre_pending = s->thre_pending || s->tx.count == 0;
            if (s->tx_end > start) {
                timer_arm(&s->tx_timer, s->tx_end);
                update_irq(s);
                return;
            }
        }
        /* The next one follows at once, however late the host has called us. */
        start = MAX(s->tx_end, start - serial_16550_char_ns(s));
        tx_finish(s);
    }
    tx_kick(s, start);
    update_irq(s);
}

static void fe_writable(void *opaque)
{
    Serial16550 *s = opaque;

    if (!s->tsr_busy && s->tx.count > 0) {
        timer_disarm(&s->tx_timer);
        tx_kick(s, clock_now(s->clock));
        update_irq(s);
    }
}

static void write_thr(Serial16550 *s, uint8_t value)
{
    s->thre_pending = s->thre_delayed = false;
    if (s->tx.count < fifo_capacity(s)) {
        fifo_push(&s->tx, value, 0);
    } else if (fifo_mode(s)) {
        log_mask(LOG_GUEST, "%s: THR written while the transmit FIFO is full", s->label);
    } else {
        s->tx.data[s->tx.head] = value;
    }
    s->tx_two = s->tx_two || s->tx.count >= 2;
    tx_kick(s, clock_now(s->clock));
    update_irq(s);
}

/* ---- registers ----------------------------------------------------------------------------- */

static uint8_t lsr_value(const Serial16550 *s)
{
    uint8_t lsr = s->lsr;

    if (s->rx.count > 0) {
        lsr |= UART_LSR_DR;
    }
    if (s->tx.count == 0) {
        lsr |= UART_LSR_THRE | (s->tsr_busy ? 0 : UART_LSR_TEMT);
    }
    return lsr;
}

static uint8_t read_lsr(Serial16550 *s)
{
    uint8_t value = lsr_value(s);

    s->lsr = 0;
    if (s->rx.count > 0) {
        s->rx.err[s->rx.head] = 0;
    }
    if (fifo_mode(s) && fifo_has_errors(&s->rx)) {
        s->lsr = UART_LSR_FIFO;
    }
    update_irq(s);
    return value;
}

static uint8_t iir_value(const Serial16550 *s)
{
    return interrupt_id(s) | (fifo_mode(s) ? UART_IIR_FIFO : 0);
}

static uint8_t read_iir(Serial16550 *s)
{
    uint8_t value = iir_value(s);

    if (interrupt_id(s) == UART_IIR_THRE) {
        s->thre_pending = false;
        update_irq(s);
    }
    return value;
}

static uint8_t read_msr(Serial16550 *s)
{
    uint8_t value = s->msr;

    s->msr &= MSR_LINES;
    update_irq(s);
    return value;
}

static void clear_rx(Serial16550 *s)
{
    fifo_clear(&s->rx);
    s->lsr &= (uint8_t)~UART_LSR_FIFO;
    s->timeout_pending = false;
    restart_timeout(s);
}

/* An emptied transmitter is one that asks for bytes. What is in the shift register goes out. */
static void clear_tx(Serial16550 *s)
{
    fifo_clear(&s->tx);
    s->tx_two = s->thre_delayed = false;
    s->thre_pending = true;
    if (!s->tsr_busy) {
        timer_disarm(&s->tx_timer); /* it only waited for the congestion to end */
    }
}

static void write_fcr(Serial16550 *s, uint8_t value)
{
    bool toggled = (s->fcr ^ value) & UART_FCR_ENABLE;

    if (!(value & UART_FCR_ENABLE)) {
        value = 0; /* other bits are only programmed together with bit 0 */
    }
    s->fcr = value & FCR_KEPT;
    if (toggled || (value & UART_FCR_CLEAR_RX)) {
        clear_rx(s);
    }
    if (toggled || (value & UART_FCR_CLEAR_TX)) {
        clear_tx(s);
    }
    restart_timeout(s);
    update_irq(s);
    chardev_accept_input(s->chr);
}

static void write_ier(Serial16550 *s, uint8_t value)
{
    uint8_t rising = (uint8_t)~s->ier & value;

    s->ier = value & 0x0f;
    if ((rising & UART_IER_ETBEI) && s->tx.count == 0) {
        s->thre_pending = true;
        s->thre_delayed = false;
    }
    update_irq(s);
}

/* Break as the line outside sees it and as the receiver sees it in loopback. */
static void update_break(Serial16550 *s, uint8_t old_lcr, uint8_t old_mcr)
{
    bool was = old_lcr & UART_LCR_BREAK, is = line_in_break(s);
    bool was_loop = old_mcr & UART_MCR_LOOP, is_loop = loopback(s);

    if ((was && !was_loop) != (is && !is_loop)) {
        chardev_send_break(s->chr, is && !is_loop);
    }
    if (is && is_loop && !(was && was_loop)) {
        receive_break(s);
    }
}

static void write_lcr(Serial16550 *s, uint8_t value)
{
    uint8_t old = s->lcr;

    s->lcr = value;
    if ((old ^ value) & ~(UART_LCR_DLAB | UART_LCR_BREAK)) {
        update_params(s);
    }
    update_break(s, old, s->mcr);
}

static void write_mcr(Serial16550 *s, uint8_t value)
{
    uint8_t old = s->mcr;

    s->mcr = value & 0x1f;
    if (old == s->mcr) {
        return;
    }
    drive_modem(s);
    update_msr(s);
    update_break(s, s->lcr, old);
    update_irq(s);
    if ((old & UART_MCR_LOOP) && !loopback(s)) {
        chardev_accept_input(s->chr);
    }
}

static void write_divisor(Serial16550 *s, uint16_t divisor)
{
    if (s->divisor != divisor) {
        s->divisor = divisor;
        update_params(s);
    }
}

uint8_t serial_16550_peek(const Serial16550 *s, unsigned reg)
{
    bool dlab = s->lcr & UART_LCR_DLAB;

    switch (reg & 7) {
    case UART_RBR:
        return dlab ? s->divisor & 0xff : s->rx.count ? s->rx.data[s->rx.head] : s->rbr;
    case UART_IER:
        return dlab ? s->divisor >> 8 : s->ier;
    case UART_IIR:
        return iir_value(s);
    case UART_LCR:
        return s->lcr;
    case UART_MCR:
        return s->mcr;
    case UART_LSR:
        return lsr_value(s);
    case UART_MSR:
        return s->msr;
    default:
        return s->scr;
    }
}

uint8_t serial_16550_read(Serial16550 *s, unsigned reg)
{
    uint8_t value;

    switch (reg & 7) {
    case UART_RBR:
        value = s->lcr & UART_LCR_DLAB ? s->divisor & 0xff : read_rbr(s);
        break;
    case UART_IIR:
        value = read_iir(s);
        break;
    case UART_LSR:
        value = read_lsr(s);
        break;
    case UART_MSR:
        value = read_msr(s);
        break;
    default:
        value = serial_16550_peek(s, reg);
        break;
    }
    TRACE(serial_read, s->label, reg & 7, value);
    return value;
}

void serial_16550_write(Serial16550 *s, unsigned reg, uint8_t value)
{
    bool dlab = s->lcr & UART_LCR_DLAB;

    TRACE(serial_write, s->label, reg & 7, value);
    switch (reg & 7) {
    case UART_THR:
        if (dlab) {
            write_divisor(s, (s->divisor & 0xff00) | value);
        } else {
            write_thr(s, value);
        }
        break;
    case UART_IER:
        if (dlab) {
            write_divisor(s, (uint16_t)((s->divisor & 0x00ff) | value << 8));
        } else {
            write_ier(s, value);
        }
        break;
    case UART_FCR:
        write_fcr(s, value);
        break;
    case UART_LCR:
        write_lcr(s, value);
        break;
    case UART_MCR:
        write_mcr(s, value);
        break;
    case UART_SCR:
        s->scr = value;
        break;
    default:
        log_mask(LOG_GUEST, "%s: write of %#x to read-only register %u", s->label, value, reg & 7);
        break;
    }
}

static MemTxResult ops_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                            MemTxAttrs attrs)
{
    *data = attrs.debug ? serial_16550_peek(opaque, (unsigned)addr)
                        : serial_16550_read(opaque, (unsigned)addr);
    return MEMTX_OK;
}

static MemTxResult ops_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                             MemTxAttrs attrs)
{
    serial_16550_write(opaque, (unsigned)addr, (uint8_t)data);
    return MEMTX_OK;
}

const MemoryRegionOps serial_16550_ops = {
    .read_attrs = ops_read,
    .write_attrs = ops_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- life cycle ---------------------------------------------------------------------------- */

static const ChardevHandlers handlers = {
    .can_read = fe_can_read,
    .read = fe_read,
    .event = fe_event,
    .writable = fe_writable,
};

bool serial_16550_realize(Serial16550 *s, Clock *clock, Chardev *chr, GError **error)
{
    if (s->baudbase == 0 || s->baudbase > 100000000) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: baudbase %u is not in 1..100000000",
                         s->label, s->baudbase);
    }
    s->clock = clock;
    timer_setup(&s->tx_timer, clock, tx_timer_fired, s);
    timer_setup(&s->rx_timer, clock, rx_timer_fired, s);
    timer_setup(&s->timeout_timer, clock, timeout_fired, s);
    s->divisor = DEFAULT_DIVISOR;
    if (chr && !chardev_attach(chr, &handlers, s, error)) {
        return false;
    }
    s->chr = object_ref(chr) ? chr : NULL;
    return true;
}

void serial_16550_unrealize(Serial16550 *s)
{
    timer_disarm(&s->tx_timer);
    timer_disarm(&s->rx_timer);
    timer_disarm(&s->timeout_timer);
    if (s->chr) {
        chardev_set_modem(s->chr, 0);
        chardev_detach(s->chr);
        object_unref(s->chr);
        s->chr = NULL;
    }
}

void serial_16550_reset(Serial16550 *s)
{
    uint8_t old_lcr = s->lcr, old_mcr = s->mcr;

    timer_disarm(&s->tx_timer);
    timer_disarm(&s->rx_timer);
    s->divisor = DEFAULT_DIVISOR;
    s->rbr = s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->lsr = 0;
    fifo_clear(&s->rx);
    fifo_clear(&s->tx);
    s->tsr = 0;
    s->tx_end = 0;
    s->tsr_busy = s->tx_two = s->thre_pending = s->thre_delayed = s->timeout_pending = false;
    restart_timeout(s);
    update_break(s, old_lcr, old_mcr);
    drive_modem(s);
    s->msr = modem_inputs(s);
    update_params(s);
    update_irq(s);
    chardev_accept_input(s->chr);
}

/* ---- saved state --------------------------------------------------------------------------- */

static bool fifo_ok(const UartFifo *f, unsigned capacity)
{
    for (unsigned i = 0; i < UART_FIFO_SIZE; i++) {
        if (f->err[i] & ~BYTE_ERRORS) {
            return false;
        }
    }
    return f->head < UART_FIFO_SIZE && f->count <= capacity;
}

static bool serial_post_load(void *opaque, unsigned version, GError **error)
{
    Serial16550 *s = opaque;

    if ((s->ier & ~0x0f) || (s->mcr & ~0x1f) || (s->fcr & ~FCR_KEPT) || (s->lsr & ~LSR_LATCHES) ||
        !fifo_ok(&s->rx, fifo_capacity(s)) || !fifo_ok(&s->tx, fifo_capacity(s))) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: register values that cannot be",
                         s->label);
    }
    /* Nothing that waits may wait for a timer that is not armed. */
    if ((s->tsr_busy || s->tx.count > 0) && !timer_armed(&s->tx_timer)) {
        timer_arm(&s->tx_timer, clock_now(s->clock));
    }
    if (fifo_mode(s) && s->rx.count > 0 && !s->timeout_pending && !timer_armed(&s->timeout_timer)) {
        restart_timeout(s);
    }
    /* A wire that does not carry its level as saved state of its own is brought in line. */
    s->irq_level = interrupt_id(s) != UART_IIR_NONE && irq_gate_open(s);
    if (irq_level(s->irq) != s->irq_level) {
        irq_set(s->irq, s->irq_level);
    }
    update_params(s);
    drive_modem(s);
    chardev_send_break(s->chr, line_in_break(s) && !loopback(s));
    return true;
}

static const VMStateField fifo_fields[] = {
    VMSTATE_UINT8_ARRAY(data, UartFifo),
    VMSTATE_UINT8_ARRAY(err, UartFifo),
    VMSTATE_UINT8(head, UartFifo),
    VMSTATE_UINT8(count, UartFifo),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_fifo = {
    .name = "uart-fifo",
    .version = 1,
    .minimum_version = 1,
    .fields = fifo_fields,
};

static const VMStateField serial_fields[] = {
    VMSTATE_UINT16(divisor, Serial16550),
    VMSTATE_UINT8(rbr, Serial16550),
    VMSTATE_UINT8(ier, Serial16550),
    VMSTATE_UINT8(fcr, Serial16550),
    VMSTATE_UINT8(lcr, Serial16550),
    VMSTATE_UINT8(mcr, Serial16550),
    VMSTATE_UINT8(scr, Serial16550),
    VMSTATE_UINT8(lsr, Serial16550),
    VMSTATE_UINT8(msr, Serial16550),
    VMSTATE_STRUCT(rx, Serial16550, vmstate_fifo),
    VMSTATE_STRUCT(tx, Serial16550, vmstate_fifo),
    VMSTATE_UINT8(tsr, Serial16550),
    VMSTATE_BOOL(tsr_busy, Serial16550),
    VMSTATE_BOOL(tx_two, Serial16550),
    VMSTATE_BOOL(thre_pending, Serial16550),
    VMSTATE_BOOL(thre_delayed, Serial16550),
    VMSTATE_BOOL(timeout_pending, Serial16550),
    VMSTATE_INT64(tx_end, Serial16550),
    VMSTATE_TIMER(tx_timer, Serial16550),
    VMSTATE_TIMER(rx_timer, Serial16550),
    VMSTATE_TIMER(timeout_timer, Serial16550),
    VMSTATE_END(),
};
const VMStateDescription vmstate_serial_16550 = {
    .name = "serial-16550",
    .version = 1,
    .minimum_version = 1,
    .post_load = serial_post_load,
    .fields = serial_fields,
};

/*
 * The UART's line side: receiver, transmitter, modem lines, and the interrupts that come of them.
 * What is modelled and what is not stands at the head of serial-16550.c.
 */
#include "engine/hw/char/serial-16550-priv.h"

#include "engine/core/log.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"

#define CONGESTION_ASK_NS (10 * NS_PER_MS)

TRACE_POINT(serial_irq, "%s level=%d");

static const unsigned trigger_levels[4] = { 1, 4, 8, 14 };

/* ---- FIFOs -------------------------------------------------------------------------------- */

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

void uart_update_params(Serial16550 *s)
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
    return s->rx.count >= (uart_fifo_mode(s) ? trigger_levels[s->fcr >> 6] : 1);
}

/* The highest of what is pending and enabled. */
uint8_t uart_interrupt_id(const Serial16550 *s)
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
bool uart_irq_gate_open(const Serial16550 *s)
{
    return !s->out2_gate || ((s->mcr & UART_MCR_OUT2) && !uart_loopback(s));
}

void uart_update_irq(Serial16550 *s)
{
    int level = uart_interrupt_id(s) != UART_IIR_NONE && uart_irq_gate_open(s);

    if (level != s->irq_level) {
        s->irq_level = level;
        TRACE(serial_irq, s->label, level);
        irq_set(s->irq, level);
    }
}

/* ---- receiver ------------------------------------------------------------------------------ */

/* The timeout counts from the last character that came or was read. One that has struck waits for
 * a read. */
void uart_restart_timeout(Serial16550 *s)
{
    if (!uart_fifo_mode(s) || s->rx.count == 0) {
        s->timeout_pending = false;
        timer_disarm(&s->timeout_timer);
    } else if (!s->timeout_pending) {
        timer_arm(&s->timeout_timer, clock_now(s->clock) + 4 * serial_16550_char_ns(s));
    }
}

static void timeout_fired(void *opaque)
{
    Serial16550 *s = opaque;

    if (uart_fifo_mode(s) && s->rx.count > 0) {
        s->timeout_pending = true;
        uart_update_irq(s);
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
    if (s->rx.count < uart_fifo_capacity(s)) {
        fifo_push(&s->rx, byte, err);
        if (uart_fifo_mode(s) && err) {
            s->lsr |= UART_LSR_FIFO;
        }
        if (s->rx.count == 1) {
            reveal_errors(s);
        }
    } else {
        /* With FIFOs the newcomer is lost in the shift register, without it replaces the old. */
        s->lsr |= UART_LSR_OE;
        if (!uart_fifo_mode(s)) {
            s->rx.data[s->rx.head] = byte;
            s->rx.err[s->rx.head] = err;
            reveal_errors(s);
        }
    }
    uart_restart_timeout(s);
}

void serial_16550_receive(Serial16550 *s, uint8_t byte, uint8_t errors)
{
    rx_push(s, byte & word_mask(s), errors & BYTE_ERRORS);
    uart_update_irq(s);
}

/* A line that is low for a whole frame: a zero without a stop bit, and with the wrong parity where
 * that would be a one. */
void uart_receive_break(Serial16550 *s)
{
    bool parity_one = (s->lcr & UART_LCR_PEN) && !(s->lcr & UART_LCR_EPS);

    rx_push(s, 0, UART_LSR_BI | UART_LSR_FE | (parity_one ? UART_LSR_PE : 0));
    uart_update_irq(s);
}

uint8_t uart_read_rbr(Serial16550 *s)
{
    bool was_full = s->rx.count == uart_fifo_capacity(s);

    if (s->rx.count > 0) {
        s->rbr = fifo_pop(&s->rx);
        s->timeout_pending = false;
        uart_restart_timeout(s);
        reveal_errors(s);
        uart_update_irq(s);
        if (was_full || s->rx.count == 0) {
            chardev_accept_input(s->chr);
        }
    }
    return s->rbr;
}

static size_t fe_can_read(void *opaque)
{
    Serial16550 *s = opaque;
    size_t room = uart_fifo_capacity(s) - s->rx.count;

    /* In uart_loopback SIN is disconnected: what comes then waits outside. */
    if (s->deaf || uart_loopback(s) || (s->pace && timer_armed(&s->rx_timer))) {
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
    uart_update_irq(s);
}

static void rx_timer_fired(void *opaque)
{
    Serial16550 *s = opaque;

    chardev_accept_input(s->chr);
}

/* ---- modem lines --------------------------------------------------------------------------- */

uint8_t uart_modem_inputs(const Serial16550 *s)
{
    if (uart_loopback(s)) {
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

void uart_update_msr(Serial16550 *s)
{
    uint8_t now = uart_modem_inputs(s), changed = (s->msr ^ now) & MSR_LINES;

    s->msr = now | (s->msr & MSR_DELTAS) | (changed & UART_MSR_CTS ? UART_MSR_DCTS : 0) |
             (changed & UART_MSR_DSR ? UART_MSR_DDSR : 0) |
             (changed & ~now & UART_MSR_RI ? UART_MSR_TERI : 0) |
             (changed & UART_MSR_DCD ? UART_MSR_DDCD : 0);
}

void uart_drive_modem(Serial16550 *s)
{
    unsigned tiocm = 0;

    if (!uart_loopback(s)) {
        tiocm = (s->mcr & UART_MCR_DTR ? CHARDEV_TIOCM_DTR : 0) |
                (s->mcr & UART_MCR_RTS ? CHARDEV_TIOCM_RTS : 0);
    }
    chardev_set_modem(s->chr, tiocm);
}

static void fe_event(void *opaque, ChardevEvent event)
{
    Serial16550 *s = opaque;

    if (event == CHARDEV_BREAK) {
        uart_receive_break(s);
        return;
    }
    if (!uart_loopback(s)) {
        uart_update_msr(s);
        uart_update_irq(s);
    }
}

/* ---- transmitter --------------------------------------------------------------------------- */

/* The byte in the shift register is out. While SOUT is held low nobody sees it. */
static void tx_finish(Serial16550 *s)
{
    uint8_t byte = s->tsr & word_mask(s);

    s->tsr_busy = false;
    if (uart_line_in_break(s)) {
        return;
    }
    if (uart_loopback(s)) {
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
        if (s->pace && uart_fifo_mode(s) && !s->tx_two) {
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
        if (!uart_loopback(s) && chardev_congested(s->chr)) {
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
                uart_update_irq(s);
                return;
            }
        }
        /* The next one follows at once, however late the host has called us. */
        start = MAX(s->tx_end, start - serial_16550_char_ns(s));
        tx_finish(s);
    }
    tx_kick(s, start);
    uart_update_irq(s);
}

static void fe_writable(void *opaque)
{
    Serial16550 *s = opaque;

    if (!s->tsr_busy && s->tx.count > 0) {
        timer_disarm(&s->tx_timer);
        tx_kick(s, clock_now(s->clock));
        uart_update_irq(s);
    }
}

void uart_write_thr(Serial16550 *s, uint8_t value)
{
    s->thre_pending = s->thre_delayed = false;
    if (s->tx.count < uart_fifo_capacity(s)) {
        fifo_push(&s->tx, value, 0);
    } else if (uart_fifo_mode(s)) {
        log_of(s->owner, LOG_GUEST, "%s: THR written while the transmit FIFO is full", s->label);
    } else {
        s->tx.data[s->tx.head] = value;
    }
    s->tx_two = s->tx_two || s->tx.count >= 2;
    tx_kick(s, clock_now(s->clock));
    uart_update_irq(s);
}

/* ---- connecting ---------------------------------------------------------------------------- */

static const ChardevHandlers handlers = {
    .can_read = fe_can_read,
    .read = fe_read,
    .event = fe_event,
    .writable = fe_writable,
};

bool uart_line_connect(Serial16550 *s, Clock *clock, Chardev *chr, GError **error)
{
    s->clock = clock;
    timer_setup(&s->tx_timer, clock, tx_timer_fired, s);
    timer_setup(&s->rx_timer, clock, rx_timer_fired, s);
    timer_setup(&s->timeout_timer, clock, timeout_fired, s);
    if (chr && !chardev_attach(chr, &handlers, s, error)) {
        return false;
    }
    s->chr = object_ref(chr) ? chr : NULL;
    return true;
}

void uart_line_disconnect(Serial16550 *s)
{
    timer_disarm(&s->tx_timer);
    timer_disarm(&s->rx_timer);
    timer_disarm(&s->timeout_timer);
    if (s->chr) {
        chardev_set_modem(s->chr, 0);
        if (uart_line_in_break(s) && !uart_loopback(s)) {
            chardev_send_break(s->chr, false);
        }
        chardev_detach(s->chr);
        object_unref(s->chr);
        s->chr = NULL;
    }
}

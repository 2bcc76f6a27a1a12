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
#include "engine/hw/char/serial-16550-priv.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/trace.h"

#define FCR_KEPT        (UART_FCR_ENABLE | UART_FCR_DMA | UART_FCR_TRIGGER)
#define DEFAULT_DIVISOR 12

TRACE_POINT(serial_read, "%s reg=%u value=%#x");
TRACE_POINT(serial_write, "%s reg=%u value=%#x");

static bool fifo_has_errors(const UartFifo *f)
{
    for (unsigned i = 0; i < f->count; i++) {
        if (f->err[(f->head + i) % UART_FIFO_SIZE]) {
            return true;
        }
    }
    return false;
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
    if (uart_fifo_mode(s) && fifo_has_errors(&s->rx)) {
        s->lsr = UART_LSR_FIFO;
    }
    uart_update_irq(s);
    return value;
}

static uint8_t iir_value(const Serial16550 *s)
{
    return uart_interrupt_id(s) | (uart_fifo_mode(s) ? UART_IIR_FIFO : 0);
}

static uint8_t read_iir(Serial16550 *s)
{
    uint8_t value = iir_value(s);

    if (uart_interrupt_id(s) == UART_IIR_THRE) {
        s->thre_pending = false;
        uart_update_irq(s);
    }
    return value;
}

static uint8_t read_msr(Serial16550 *s)
{
    uint8_t value = s->msr;

    s->msr &= MSR_LINES;
    uart_update_irq(s);
    return value;
}

static void clear_rx(Serial16550 *s)
{
    uart_fifo_clear(&s->rx);
    s->lsr &= (uint8_t)~UART_LSR_FIFO;
    s->timeout_pending = false;
    uart_restart_timeout(s);
}

/* An emptied transmitter is one that asks for bytes. What is in the shift register goes out. */
static void clear_tx(Serial16550 *s)
{
    uart_fifo_clear(&s->tx);
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
    uart_restart_timeout(s);
    uart_update_irq(s);
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
    uart_update_irq(s);
}

/* Break as the line outside sees it and as the receiver sees it in uart_loopback. */
static void update_break(Serial16550 *s, uint8_t old_lcr, uint8_t old_mcr)
{
    bool was = old_lcr & UART_LCR_BREAK, is = uart_line_in_break(s);
    bool was_loop = old_mcr & UART_MCR_LOOP, is_loop = uart_loopback(s);

    if ((was && !was_loop) != (is && !is_loop)) {
        chardev_send_break(s->chr, is && !is_loop);
    }
    if (is && is_loop && !(was && was_loop)) {
        uart_receive_break(s);
    }
}

static void write_lcr(Serial16550 *s, uint8_t value)
{
    uint8_t old = s->lcr;

    s->lcr = value;
    if ((old ^ value) & ~(UART_LCR_DLAB | UART_LCR_BREAK)) {
        uart_update_params(s);
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
    uart_drive_modem(s);
    uart_update_msr(s);
    update_break(s, s->lcr, old);
    uart_update_irq(s);
    if ((old & UART_MCR_LOOP) && !uart_loopback(s)) {
        chardev_accept_input(s->chr);
    }
}

static void write_divisor(Serial16550 *s, uint16_t divisor)
{
    if (s->divisor != divisor) {
        s->divisor = divisor;
        uart_update_params(s);
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
        value = s->lcr & UART_LCR_DLAB ? s->divisor & 0xff : uart_read_rbr(s);
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
            uart_write_thr(s, value);
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
        log_of(s->owner, LOG_GUEST, "%s: write of %#x to read-only register %u", s->label, value,
               reg & 7);
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

bool serial_16550_realize(Serial16550 *s, Clock *clock, Chardev *chr, GError **error)
{
    if (s->baudbase == 0 || s->baudbase > 100000000) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: baudbase %u is not in 1..100000000",
                         s->label, s->baudbase);
    }
    s->divisor = DEFAULT_DIVISOR;
    return uart_line_connect(s, clock, chr, error);
}

void serial_16550_unrealize(Serial16550 *s)
{
    uart_line_disconnect(s);
}

void serial_16550_reset(Serial16550 *s)
{
    uint8_t old_lcr = s->lcr, old_mcr = s->mcr;

    timer_disarm(&s->tx_timer);
    timer_disarm(&s->rx_timer);
    s->divisor = DEFAULT_DIVISOR;
    s->rbr = s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->lsr = 0;
    uart_fifo_clear(&s->rx);
    uart_fifo_clear(&s->tx);
    s->tsr = 0;
    s->tx_end = 0;
    s->tsr_busy = s->tx_two = s->thre_pending = s->thre_delayed = s->timeout_pending = false;
    uart_restart_timeout(s);
    update_break(s, old_lcr, old_mcr);
    uart_drive_modem(s);
    s->msr = uart_modem_inputs(s);
    uart_update_params(s);
    uart_update_irq(s);
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
        !fifo_ok(&s->rx, uart_fifo_capacity(s)) || !fifo_ok(&s->tx, uart_fifo_capacity(s))) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: register values that cannot be",
                         s->label);
    }
    /* Nothing that waits may wait for a timer that is not armed. */
    if ((s->tsr_busy || s->tx.count > 0) && !timer_armed(&s->tx_timer)) {
        timer_arm(&s->tx_timer, clock_now(s->clock));
    }
    if (uart_fifo_mode(s) && s->rx.count > 0 && !s->timeout_pending &&
        !timer_armed(&s->timeout_timer)) {
        uart_restart_timeout(s);
    }
    /* A wire that does not carry its level as saved state of its own is brought in line. */
    s->irq_level = uart_interrupt_id(s) != UART_IIR_NONE && uart_irq_gate_open(s);
    if (irq_level(s->irq) != s->irq_level) {
        irq_set(s->irq, s->irq_level);
    }
    uart_update_params(s);
    uart_drive_modem(s);
    chardev_send_break(s->chr, uart_line_in_break(s) && !uart_loopback(s));
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

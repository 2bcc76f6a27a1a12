/* The 16550A, register by register, on a virtual clock that only moves when the test says so. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/hw/char/serial-16550.h"
#include "engine/state/stream.h"

/* ---- a chardev that notes what it is told and does what the test says ---------------------- */

#define TYPE_PROBE "chardev-test-probe"

typedef struct Probe {
    Chardev parent;
    GString *out;
    size_t accepts; /* how many more bytes it takes */
    unsigned tiocm_in, tiocm_out;
    ChardevSerialParams params;
    unsigned params_set;
    GString *breaks; /* '1' '0' */
} Probe;
OBJECT_DECLARE_TYPE(Probe, ChardevClass, PROBE, TYPE_PROBE)

static ssize_t probe_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    Probe *p = PROBE(chr);

    len = MIN(len, p->accepts);
    p->accepts -= len;
    g_string_append_len(p->out, (const char *)buf, (gssize)len);
    return (ssize_t)len;
}

static void probe_set_params(Chardev *chr, const ChardevSerialParams *params)
{
    PROBE(chr)->params = *params;
    PROBE(chr)->params_set++;
}

static void probe_set_modem(Chardev *chr, unsigned tiocm)
{
    PROBE(chr)->tiocm_out = tiocm;
}

static unsigned probe_get_modem(Chardev *chr)
{
    return PROBE(chr)->tiocm_in;
}

static void probe_send_break(Chardev *chr, bool on)
{
    g_string_append_c(PROBE(chr)->breaks, on ? '1' : '0');
}

static void probe_init(Object *obj)
{
    PROBE(obj)->out = g_string_new(NULL);
    PROBE(obj)->breaks = g_string_new(NULL);
    PROBE(obj)->accepts = SIZE_MAX;
}

static void probe_finalize(Object *obj)
{
    g_string_free(PROBE(obj)->out, TRUE);
    g_string_free(PROBE(obj)->breaks, TRUE);
}

static void probe_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->write = probe_write;
    k->set_params = probe_set_params;
    k->set_modem = probe_set_modem;
    k->get_modem = probe_get_modem;
    k->send_break = probe_send_break;
}

static const TypeInfo probe_info = {
    .name = TYPE_PROBE,
    .parent = TYPE_CHARDEV,
    .doc = "Notes what a UART tells it",
    .instance_size = sizeof(Probe),
    .instance_init = probe_init,
    .instance_finalize = probe_finalize,
    .class_init = probe_class_init,
};

static void register_probe(void)
{
    type_register_static(&probe_info);
}
type_init(register_probe)

/* ---- one UART and what is around it -------------------------------------------------------- */

typedef struct Bench {
    Serial16550 uart;
    Clock *clock;
    int64_t now;
    Probe *probe;
    Irq *irq;
    unsigned edges; /* how often INTR was set, in either direction */
    int intr;
} Bench;

static Bench *b; /* the one that most tests use */

static int64_t bench_now(void *opaque)
{
    return ((Bench *)opaque)->now;
}

static void bench_deadline(void *opaque)
{
}

static void bench_irq(void *opaque, int n, int level)
{
    Bench *bench = opaque;

    ck_assert_int_eq(n, 4);
    bench->edges++;
    bench->intr = level;
}

static Bench *bench_new(bool pace)
{
    Bench *bench = g_new0(Bench, 1);
    g_autoptr(GError) error = NULL;

    bench->clock = clock_new_virtual();
    clock_set_source(bench->clock, bench_now, bench_deadline, bench);
    bench->probe = PROBE(object_new(TYPE_PROBE, NULL));
    ck_assert(chardev_open(&bench->probe->parent, NULL));
    bench->irq = irq_new(bench_irq, bench, 4);
    bench->uart.irq = bench->irq;
    bench->uart.label = "com";
    bench->uart.baudbase = UART_DEFAULT_BAUD;
    bench->uart.pace = pace;
    bench->uart.out2_gate = true;
    ck_assert(serial_16550_realize(&bench->uart, bench->clock, &bench->probe->parent, &error));
    serial_16550_reset(&bench->uart);
    return bench;
}

static void bench_free(Bench *bench)
{
    serial_16550_unrealize(&bench->uart);
    irq_unref(bench->irq);
    clock_free(bench->clock);
    object_unref(bench->probe);
    g_free(bench);
}

/* Moves time on, stopping at each timer as it falls due. */
static void bench_run(Bench *bench, int64_t ns)
{
    int64_t end = bench->now + ns;
    int64_t next;

    while ((next = clock_deadline(bench->clock)) >= 0 && next <= end) {
        bench->now = MAX(bench->now, next);
        clock_run_timers(bench->clock);
    }
    bench->now = end;
}

static void setup(void)
{
    main_loop_init();
    b = bench_new(false);
}

static void setup_paced(void)
{
    main_loop_init();
    b = bench_new(true);
}

static void teardown(void)
{
    bench_free(b);
    main_loop_finalize();
}

static uint8_t in(unsigned reg)
{
    return serial_16550_read(&b->uart, reg);
}

static void out(unsigned reg, uint8_t value)
{
    serial_16550_write(&b->uart, reg, value);
}

static void ck_in(unsigned reg, uint8_t expected)
{
    ck_assert_uint_eq(in(reg), expected);
}

static void set_divisor(uint16_t divisor)
{
    uint8_t lcr = in(UART_LCR);

    out(UART_LCR, lcr | UART_LCR_DLAB);
    out(UART_DLL, divisor & 0xff);
    out(UART_DLM, divisor >> 8);
    out(UART_LCR, lcr);
}

static void receive(const char *text)
{
    chardev_receive(&b->probe->parent, (const uint8_t *)text, strlen(text));
}

static void transmit(const char *text)
{
    for (; *text; text++) {
        out(UART_THR, (uint8_t)*text);
    }
}

static void ck_sent(const char *text)
{
    ck_assert_str_eq(b->probe->out->str, text);
}

/* 8 data bits, OUT2 on: what a driver starts with. */
static void start(uint8_t fcr, uint8_t ier)
{
    out(UART_LCR, 3);
    out(UART_FCR, fcr);
    out(UART_MCR, UART_MCR_OUT2);
    out(UART_IER, ier);
    if (ier & UART_IER_ETBEI) {
        in(UART_IIR); /* takes the first THRE interrupt */
    }
}

#define CHAR_NS (10 * NS_PER_SEC / 9600) /* 8N1 at the divisor after reset */

/* ---- registers ----------------------------------------------------------------------------- */

START_TEST(after_reset_every_register_has_its_data_sheet_value)
{
    for (int round = 0; round < 2; round++) {
        ck_in(UART_RBR, 0);
        ck_in(UART_IER, 0);
        ck_in(UART_IIR, 0x01);
        ck_in(UART_LCR, 0);
        ck_in(UART_MCR, 0);
        ck_in(UART_LSR, 0x60);
        ck_in(UART_MSR, 0);
        ck_in(UART_SCR, 0);
        out(UART_LCR, UART_LCR_DLAB);
        ck_in(UART_DLL, 12);
        ck_in(UART_DLM, 0);
        ck_assert_int_eq(b->intr, 0);

        /* And again after everything was changed. */
        set_divisor(0x1234);
        start(0x01, 0x0f);
        out(UART_SCR, 0xa5);
        receive("some input");
        serial_16550_receive(&b->uart, 'x', UART_LSR_FE);
        ck_assert_int_eq(b->intr, 1);
        serial_16550_reset(&b->uart);
    }
}
END_TEST

START_TEST(writable_registers_keep_their_bits_and_only_those)
{
    for (unsigned v = 0; v < 256; v++) {
        out(UART_SCR, (uint8_t)v);
        ck_in(UART_SCR, (uint8_t)v);
        out(UART_IER, (uint8_t)v);
        ck_in(UART_IER, v & 0x0f);
        out(UART_MCR, (uint8_t)v);
        ck_in(UART_MCR, v & 0x1f);
        out(UART_LCR, (uint8_t)v);
        ck_in(UART_LCR, (uint8_t)v);
        out(UART_LCR, 3);
    }
}
END_TEST

START_TEST(status_registers_cannot_be_written)
{
    for (unsigned v = 0; v < 256; v++) {
        out(UART_LSR, (uint8_t)v);
        out(UART_MSR, (uint8_t)v);
        ck_in(UART_LSR, 0x60);
        ck_in(UART_MSR, 0);
    }
}
END_TEST

START_TEST(dlab_shows_the_divisor_in_place_of_rbr_and_ier)
{
    out(UART_IER, 0x05);
    out(UART_LCR, 0x83);
    out(UART_DLL, 0x34);
    out(UART_DLM, 0x12);
    ck_in(UART_DLL, 0x34);
    ck_in(UART_DLM, 0x12);
    out(UART_LCR, 0x03);
    ck_in(UART_IER, 0x05);
    ck_sent("");
    ck_assert_uint_eq(b->probe->params.baud, 115200 / 0x1234);
}
END_TEST

START_TEST(line_parameters_reach_the_back_end)
{
    static const struct {
        uint8_t lcr;
        ChardevSerialParams p;
    } cases[] = {
        { 0x03, { 9600, 8, 1, 'N' } }, { 0x00, { 9600, 5, 1, 'N' } }, { 0x04, { 9600, 5, 2, 'N' } },
        { 0x0a, { 9600, 7, 1, 'O' } }, { 0x1e, { 9600, 7, 2, 'E' } }, { 0x2b, { 9600, 8, 1, 'M' } },
        { 0x39, { 9600, 6, 1, 'S' } },
    };
    unsigned before;

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        out(UART_LCR, cases[i].lcr);
        ck_assert_uint_eq(b->probe->params.baud, cases[i].p.baud);
        ck_assert_uint_eq(b->probe->params.data_bits, cases[i].p.data_bits);
        ck_assert_uint_eq(b->probe->params.stop_bits, cases[i].p.stop_bits);
        ck_assert_int_eq(b->probe->params.parity, cases[i].p.parity);
    }
    set_divisor(1);
    ck_assert_uint_eq(b->probe->params.baud, 115200);
    before = b->probe->params_set;
    set_divisor(0); /* passes through a divisor of 0, which is nobody's rate */
    ck_assert_uint_eq(b->probe->params_set, before);
}
END_TEST

START_TEST(a_debugger_sees_registers_without_changing_them)
{
    start(0x01, 0x0f);
    receive("ab");
    serial_16550_receive(&b->uart, 'c', UART_LSR_PE);
    b->probe->tiocm_in = CHARDEV_TIOCM_CTS;
    chardev_event(&b->probe->parent, CHARDEV_MODEM);
    for (int i = 0; i < 2; i++) {
        ck_assert_uint_eq(serial_16550_peek(&b->uart, UART_RBR), 'a');
        ck_assert_uint_eq(serial_16550_peek(&b->uart, UART_IIR), 0xc4);
        ck_assert_uint_eq(serial_16550_peek(&b->uart, UART_LSR), 0xe1);
        ck_assert_uint_eq(serial_16550_peek(&b->uart, UART_MSR), 0x11);
    }
}
END_TEST

/* ---- transmitter --------------------------------------------------------------------------- */

START_TEST(a_byte_written_goes_out_at_once_and_leaves_the_transmitter_empty)
{
    start(0, 0);
    transmit("hello");
    ck_sent("hello");
    ck_in(UART_LSR, 0x60);
}
END_TEST

START_TEST(the_thre_interrupt_comes_with_enabling_and_with_every_byte_and_goes_with_iir)
{
    out(UART_MCR, UART_MCR_OUT2);
    ck_in(UART_IIR, 0x01);
    out(UART_IER, UART_IER_ETBEI);
    ck_assert_int_eq(b->intr, 1);
    ck_in(UART_IIR, UART_IIR_THRE);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_IIR, 0x01);
    out(UART_IER, UART_IER_ETBEI); /* already on: nothing new */
    ck_in(UART_IIR, 0x01);
    out(UART_THR, 'x');
    ck_assert_int_eq(b->intr, 1);
    out(UART_IER, 0);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_IIR, 0x01);
    out(UART_IER, UART_IER_ETBEI);
    ck_in(UART_IIR, UART_IIR_THRE);
}
END_TEST

START_TEST(reading_iir_clears_thre_only_when_it_is_what_iir_shows)
{
    start(0, UART_IER_ETBEI | UART_IER_ERBFI);
    out(UART_THR, 'x');
    receive("y");
    ck_in(UART_IIR, UART_IIR_RDA);
    ck_in(UART_IIR, UART_IIR_RDA);
    ck_in(UART_RBR, 'y');
    ck_in(UART_IIR, UART_IIR_THRE);
    ck_in(UART_IIR, UART_IIR_NONE);
}
END_TEST

START_TEST(a_congested_outside_holds_the_transmitter_until_it_takes_bytes)
{
    g_autofree uint8_t *filler = g_malloc0(CHARDEV_CONGESTED);

    start(0x01, UART_IER_ETBEI);
    b->probe->accepts = 0;
    chardev_write(&b->probe->parent, filler, CHARDEV_CONGESTED);
    ck_assert(chardev_congested(&b->probe->parent));
    transmit("0123456789abcdef");
    ck_in(UART_LSR, 0);
    ck_in(UART_IIR, 0xc1);
    out(UART_THR, '!'); /* full: lost */
    bench_run(b, NS_PER_SEC);
    ck_in(UART_LSR, 0);
    b->probe->accepts = SIZE_MAX;
    chardev_can_write_again(&b->probe->parent);
    ck_in(UART_LSR, 0x60);
    ck_in(UART_IIR, 0xc2);
    ck_assert_str_eq(b->probe->out->str + b->probe->out->len - 16, "0123456789abcdef");
    ck_assert_uint_eq(b->probe->out->len, CHARDEV_CONGESTED + 16);
}
END_TEST

START_TEST(a_transmitter_held_by_congestion_goes_on_by_its_timer_too)
{
    g_autofree uint8_t *filler = g_malloc0(CHARDEV_CONGESTED);

    start(0x01, 0);
    b->probe->accepts = 0;
    chardev_write(&b->probe->parent, filler, CHARDEV_CONGESTED);
    transmit("x");
    ck_in(UART_LSR, 0);
    chardev_close(&b->probe->parent); /* nobody there any more: nothing to wait for */
    bench_run(b, NS_PER_SEC);
    ck_in(UART_LSR, 0x60);
}
END_TEST

/* ---- receiver ------------------------------------------------------------------------------ */

START_TEST(without_fifos_one_byte_is_held_and_the_rest_waits_outside)
{
    start(0, UART_IER_ERBFI);
    receive("ab");
    ck_in(UART_LSR, 0x61);
    ck_in(UART_IIR, UART_IIR_RDA);
    ck_assert_int_eq(b->intr, 1);
    ck_in(UART_RBR, 'a');
    ck_in(UART_LSR, 0x61);
    ck_in(UART_RBR, 'b');
    ck_in(UART_LSR, 0x60);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_RBR, 'b'); /* nothing new: the register still holds it */
}
END_TEST

START_TEST(without_fifos_an_overrun_destroys_the_older_byte)
{
    start(0, UART_IER_ELSI);
    serial_16550_receive(&b->uart, 'a', 0);
    serial_16550_receive(&b->uart, 'b', 0);
    ck_in(UART_IIR, UART_IIR_RLS);
    ck_in(UART_LSR, 0x63);
    ck_in(UART_LSR, 0x61);
    ck_in(UART_IIR, UART_IIR_NONE);
    ck_in(UART_RBR, 'b');
}
END_TEST

START_TEST(sixteen_bytes_are_held_and_the_seventeenth_is_lost)
{
    start(0x01, 0);
    for (unsigned i = 0; i < 16; i++) {
        serial_16550_receive(&b->uart, (uint8_t)('a' + i), 0);
    }
    ck_in(UART_LSR, 0x61);
    serial_16550_receive(&b->uart, '!', 0);
    ck_in(UART_LSR, 0x63);
    ck_in(UART_LSR, 0x61);
    for (unsigned i = 0; i < 16; i++) {
        ck_in(UART_RBR, (uint8_t)('a' + i));
    }
    ck_in(UART_LSR, 0x60);
}
END_TEST

START_TEST(the_receive_interrupt_comes_and_goes_at_the_trigger_level)
{
    static const unsigned levels[] = { 1, 4, 8, 14 };
    unsigned level = levels[_i];

    start((uint8_t)(_i << 6 | 1), UART_IER_ERBFI);
    for (unsigned i = 1; i <= 16; i++) {
        serial_16550_receive(&b->uart, 'x', 0);
        ck_in(UART_IIR, i >= level ? 0xc4 : 0xc1);
        ck_assert_int_eq(b->intr, i >= level);
    }
    for (unsigned i = 15; i > 0; i--) {
        ck_in(UART_RBR, 'x');
        ck_in(UART_IIR, i >= level ? 0xc4 : 0xc1);
    }
}
END_TEST

START_TEST(the_timeout_comes_four_characters_after_the_last_byte_or_read)
{
    int64_t four = 4 * serial_16550_char_ns(&b->uart);

    start(0xc1, UART_IER_ERBFI);
    four = 4 * serial_16550_char_ns(&b->uart);
    ck_assert_int_eq(four, 4 * CHAR_NS);
    receive("ab");
    bench_run(b, four - 1);
    ck_in(UART_IIR, 0xc1);
    receive("c"); /* starts it anew */
    bench_run(b, four - 1);
    ck_in(UART_IIR, 0xc1);
    bench_run(b, 1);
    ck_assert_int_eq(b->intr, 1);
    ck_in(UART_IIR, 0xcc);
    ck_in(UART_IIR, 0xcc);
    receive("d"); /* one that has struck waits for a read */
    ck_in(UART_IIR, 0xcc);
    ck_in(UART_RBR, 'a');
    ck_in(UART_IIR, 0xc1);
    ck_assert_int_eq(b->intr, 0);
    bench_run(b, four - 1);
    ck_in(UART_IIR, 0xc1);
    bench_run(b, 1);
    ck_in(UART_IIR, 0xcc);
    ck_in(UART_RBR, 'b');
    ck_in(UART_RBR, 'c');
    ck_in(UART_RBR, 'd');
    bench_run(b, 10 * four);
    ck_in(UART_IIR, 0xc1);
}
END_TEST

START_TEST(there_is_no_timeout_without_fifos_and_none_shown_without_erbfi)
{
    start(0x01, 0);
    receive("a");
    bench_run(b, NS_PER_SEC);
    ck_in(UART_IIR, 0xc1);
    out(UART_IER, UART_IER_ERBFI);
    ck_in(UART_IIR, 0xcc);
    start(0, UART_IER_ERBFI);
    receive("b");
    bench_run(b, NS_PER_SEC);
    ck_in(UART_IIR, UART_IIR_RDA);
}
END_TEST

START_TEST(a_character_takes_the_bits_that_lcr_and_the_divisor_say)
{
    static const struct {
        uint8_t lcr;
        uint16_t divisor;
        unsigned half_bits;
    } cases[] = {
        { 0x00, 1, 14 },  { 0x03, 1, 20 },  { 0x07, 1, 22 },   { 0x04, 1, 15 },
        { 0x0b, 12, 22 }, { 0x1f, 96, 24 }, { 0x1e, 384, 22 }, { 0x03, 0, 20 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        int64_t divisor = MAX(cases[i].divisor, 1);

        out(UART_LCR, cases[i].lcr);
        set_divisor(cases[i].divisor);
        ck_assert_int_eq(serial_16550_char_ns(&b->uart),
                         cases[i].half_bits * divisor * (NS_PER_SEC / 2) / 115200);
    }
}
END_TEST

START_TEST(errors_show_when_their_byte_is_next_and_go_with_lsr)
{
    start(0xc1, UART_IER_ELSI);
    serial_16550_receive(&b->uart, 'a', 0);
    serial_16550_receive(&b->uart, 'b', UART_LSR_PE);
    serial_16550_receive(&b->uart, 'c', UART_LSR_FE);
    ck_in(UART_IIR, 0xc1);
    ck_in(UART_LSR, 0xe1); /* one is somewhere in the FIFO */
    ck_in(UART_LSR, 0xe1);
    ck_in(UART_RBR, 'a');
    ck_in(UART_IIR, 0xc6);
    ck_assert_int_eq(b->intr, 1);
    ck_in(UART_LSR, 0xe5);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_LSR, 0xe1); /* the other is still there */
    ck_in(UART_RBR, 'b');
    ck_in(UART_LSR, 0xe9);
    ck_in(UART_LSR, 0x61);
    ck_in(UART_RBR, 'c');
    ck_in(UART_LSR, 0x60);
}
END_TEST

START_TEST(without_fifos_errors_show_at_once_and_bit_7_never)
{
    start(0, UART_IER_ELSI);
    serial_16550_receive(&b->uart, 'a', UART_LSR_PE | UART_LSR_FE);
    ck_in(UART_LSR, 0x6d);
    ck_in(UART_LSR, 0x61);
}
END_TEST

START_TEST(a_break_is_a_zero_with_bi_in_its_place)
{
    start(0x01, UART_IER_ELSI);
    receive("a");
    chardev_event(&b->probe->parent, CHARDEV_BREAK);
    receive("b");
    ck_in(UART_RBR, 'a');
    ck_in(UART_IIR, 0xc6);
    ck_in(UART_LSR, 0xe0 | UART_LSR_BI | UART_LSR_FE | UART_LSR_DR);
    ck_in(UART_RBR, 0);
    ck_in(UART_RBR, 'b');
    ck_in(UART_LSR, 0x60);
    out(UART_LCR, 0x0b); /* odd parity: the bit that never came should have been a one */
    chardev_event(&b->probe->parent, CHARDEV_BREAK);
    ck_assert_uint_eq(in(UART_LSR)&0x1e, UART_LSR_BI | UART_LSR_FE | UART_LSR_PE);
}
END_TEST

/* ---- FCR ----------------------------------------------------------------------------------- */

START_TEST(iir_shows_whether_fifos_are_on)
{
    ck_in(UART_IIR, 0x01);
    out(UART_FCR, 0xc1);
    ck_in(UART_IIR, 0xc1);
    out(UART_FCR, 0xc0); /* bit 0 off */
    ck_in(UART_IIR, 0x01);
}
END_TEST

START_TEST(fcr_bits_without_bit_0_do_nothing_but_switch_the_fifos_off)
{
    start(0x81, UART_IER_ERBFI); /* trigger 8 */
    receive("1234567");
    ck_in(UART_IIR, 0xc1);
    out(UART_FCR, 0x00);
    ck_in(UART_LSR, 0x60);
    receive("x");
    ck_in(UART_IIR, 0x04);
    out(UART_FCR, UART_FCR_CLEAR_RX); /* without bit 0 nothing is cleared */
    ck_in(UART_RBR, 'x');
    out(UART_FCR, 0x01);
    receive("y");
    ck_in(UART_IIR, 0xc4); /* trigger 1: the 8 is forgotten */
}
END_TEST

START_TEST(switching_the_fifos_either_way_empties_them)
{
    start(0, 0);
    receive("a");
    out(UART_FCR, 0x01);
    ck_in(UART_LSR, 0x60);
    receive("bcd");
    out(UART_FCR, 0x00);
    ck_in(UART_LSR, 0x60);
}
END_TEST

START_TEST(each_fifo_can_be_cleared_alone)
{
    start(0xc1, UART_IER_ERBFI);
    receive("abc");
    serial_16550_receive(&b->uart, 'd', UART_LSR_PE);
    bench_run(b, 4 * CHAR_NS);
    ck_in(UART_IIR, 0xcc);
    out(UART_FCR, 0xc1 | UART_FCR_CLEAR_RX);
    ck_in(UART_IIR, 0xc1);
    ck_in(UART_LSR, 0x60);
    receive("e");
    out(UART_FCR, 0xc1 | UART_FCR_CLEAR_TX);
    ck_in(UART_RBR, 'e');
    out(UART_IER, UART_IER_ETBEI);
    in(UART_IIR);
    out(UART_FCR, 0xc1 | UART_FCR_CLEAR_TX);
    ck_in(UART_IIR, 0xc2);
}
END_TEST

START_TEST(a_cleared_receiver_takes_what_waited_outside)
{
    start(0x01, 0);
    receive("0123456789abcdefgh");
    out(UART_FCR, 0x01 | UART_FCR_CLEAR_RX);
    ck_in(UART_RBR, 'g');
    ck_in(UART_RBR, 'h');
}
END_TEST

/* ---- interrupts ---------------------------------------------------------------------------- */

START_TEST(interrupts_show_in_the_order_of_their_priority)
{
    start(0x01, 0x0f);
    b->probe->tiocm_in = CHARDEV_TIOCM_CTS;
    chardev_event(&b->probe->parent, CHARDEV_MODEM);
    out(UART_THR, 'x');
    serial_16550_receive(&b->uart, 'a', UART_LSR_FE);
    ck_in(UART_IIR, 0xc6);
    in(UART_LSR);
    ck_in(UART_IIR, 0xc4);
    bench_run(b, 4 * CHAR_NS);
    ck_in(UART_IIR, 0xcc);
    in(UART_RBR);
    ck_in(UART_IIR, 0xc2);
    ck_in(UART_IIR, 0xc0);
    ck_assert_int_eq(b->intr, 1);
    in(UART_MSR);
    ck_in(UART_IIR, 0xc1);
    ck_assert_int_eq(b->intr, 0);
    ck_assert_uint_eq(b->edges, 4); /* the first THRE interrupt went and came before */
}
END_TEST

START_TEST(each_enable_bit_enables_its_own_interrupt_only)
{
    start(0, 0);
    b->probe->tiocm_in = CHARDEV_TIOCM_DSR;
    chardev_event(&b->probe->parent, CHARDEV_MODEM);
    serial_16550_receive(&b->uart, 'a', UART_LSR_PE);
    ck_in(UART_IIR, 0x01);
    out(UART_IER, UART_IER_ERBFI);
    ck_in(UART_IIR, UART_IIR_RDA);
    out(UART_IER, UART_IER_ELSI);
    ck_in(UART_IIR, UART_IIR_RLS);
    out(UART_IER, UART_IER_EDSSI);
    ck_in(UART_IIR, UART_IIR_MSI);
    out(UART_IER, UART_IER_ETBEI);
    ck_in(UART_IIR, UART_IIR_THRE);
}
END_TEST

START_TEST(the_line_is_set_only_when_it_changes)
{
    start(0, UART_IER_ERBFI);
    b->edges = 0;
    receive("abc");
    ck_assert_uint_eq(b->edges, 1);
    in(UART_IIR);
    in(UART_LSR);
    ck_assert_uint_eq(b->edges, 1);
    in(UART_RBR); /* down, and up again with the next byte */
    ck_assert_uint_eq(b->edges, 3);
    in(UART_RBR);
    in(UART_RBR);
    ck_assert_uint_eq(b->edges, 6);
    ck_assert_int_eq(b->intr, 0);
}
END_TEST

START_TEST(out2_gates_the_line_but_not_iir)
{
    start(0, UART_IER_ERBFI);
    out(UART_MCR, 0);
    receive("a");
    ck_in(UART_IIR, UART_IIR_RDA);
    ck_assert_int_eq(b->intr, 0);
    out(UART_MCR, UART_MCR_OUT2);
    ck_assert_int_eq(b->intr, 1);
    out(UART_MCR, UART_MCR_OUT1);
    ck_assert_int_eq(b->intr, 0);
    b->uart.out2_gate = false;
    out(UART_MCR, 0);
    ck_assert_int_eq(b->intr, 1);
}
END_TEST

/* ---- modem lines --------------------------------------------------------------------------- */

START_TEST(modem_outputs_reach_the_back_end)
{
    out(UART_MCR, UART_MCR_DTR);
    ck_assert_uint_eq(b->probe->tiocm_out, CHARDEV_TIOCM_DTR);
    out(UART_MCR, UART_MCR_RTS | UART_MCR_OUT1);
    ck_assert_uint_eq(b->probe->tiocm_out, CHARDEV_TIOCM_RTS);
    serial_16550_reset(&b->uart);
    ck_assert_uint_eq(b->probe->tiocm_out, 0);
}
END_TEST

static void set_inputs(unsigned tiocm)
{
    b->probe->tiocm_in = tiocm;
    chardev_event(&b->probe->parent, CHARDEV_MODEM);
}

START_TEST(modem_inputs_show_with_deltas_that_a_read_clears)
{
    start(0, UART_IER_EDSSI);
    set_inputs(CHARDEV_TIOCM_CTS);
    ck_assert_int_eq(b->intr, 1);
    ck_in(UART_IIR, UART_IIR_MSI);
    ck_in(UART_MSR, UART_MSR_CTS | UART_MSR_DCTS);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_MSR, UART_MSR_CTS);
    set_inputs(CHARDEV_TIOCM_CTS | CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD);
    ck_in(UART_MSR, UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD | UART_MSR_DDSR | UART_MSR_DDCD);
    set_inputs(0);
    set_inputs(CHARDEV_TIOCM_CTS); /* there and back: still a change */
    ck_assert_uint_eq(in(UART_MSR)&UART_MSR_DCTS, UART_MSR_DCTS);
}
END_TEST

START_TEST(the_ring_indicator_counts_at_its_end)
{
    start(0, UART_IER_EDSSI);
    set_inputs(CHARDEV_TIOCM_RI);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_MSR, UART_MSR_RI);
    set_inputs(0);
    ck_assert_int_eq(b->intr, 1);
    ck_in(UART_MSR, UART_MSR_TERI);
}
END_TEST

START_TEST(with_nothing_connected_the_port_is_there_and_silent)
{
    Serial16550 s = { .baudbase = 115200, .label = "lone", .out2_gate = true };

    ck_assert(serial_16550_realize(&s, b->clock, NULL, NULL));
    serial_16550_reset(&s);
    serial_16550_write(&s, UART_THR, 'x');
    serial_16550_write(&s, UART_MCR, 0x0f);
    serial_16550_write(&s, UART_LCR, 0x43);
    ck_assert_uint_eq(serial_16550_read(&s, UART_LSR), 0x60);
    ck_assert_uint_eq(serial_16550_read(&s, UART_MSR), 0);
    serial_16550_unrealize(&s);
}
END_TEST

START_TEST(a_baudbase_of_0_is_refused)
{
    Serial16550 s = { .label = "bad" };
    g_autoptr(GError) error = NULL;

    ck_assert(!serial_16550_realize(&s, b->clock, NULL, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "baudbase"));
}
END_TEST

/* ---- loopback and break -------------------------------------------------------------------- */

START_TEST(in_loopback_bytes_come_back_and_do_not_go_out)
{
    start(0x01, 0);
    out(UART_MCR, UART_MCR_LOOP);
    transmit("0123456789abcdef");
    ck_sent("");
    for (unsigned i = 0; i < 16; i++) {
        ck_in(UART_RBR, (uint8_t) "0123456789abcdef"[i]);
    }
    transmit("0123456789abcdef!");
    ck_in(UART_LSR, 0x63); /* nobody read: overrun */
}
END_TEST

START_TEST(in_loopback_each_modem_output_comes_back_as_its_input)
{
    static const struct {
        uint8_t mcr, msr;
    } pairs[] = {
        { UART_MCR_DTR, UART_MSR_DSR },
        { UART_MCR_RTS, UART_MSR_CTS },
        { UART_MCR_OUT1, UART_MSR_RI },
        { UART_MCR_OUT2, UART_MSR_DCD },
    };

    set_inputs(CHARDEV_TIOCM_CTS | CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD);
    out(UART_MCR, UART_MCR_DTR | UART_MCR_RTS);
    for (unsigned m = 0; m < 16; m++) {
        uint8_t expected = 0;

        out(UART_MCR, (uint8_t)(UART_MCR_LOOP | m));
        ck_assert_uint_eq(b->probe->tiocm_out, 0);
        for (unsigned i = 0; i < 4; i++) {
            expected |= m & pairs[i].mcr ? pairs[i].msr : 0;
        }
        ck_assert_uint_eq(in(UART_MSR)&0xf0, expected);
    }
    out(UART_MCR, UART_MCR_LOOP);
    in(UART_MSR);
    out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
    ck_in(UART_MSR, UART_MSR_RI);
    out(UART_MCR, UART_MCR_LOOP);
    ck_in(UART_MSR, UART_MSR_TERI);
    out(UART_MCR, 0); /* the real inputs again, as a change */
    ck_in(UART_MSR, 0xb0 | UART_MSR_DCTS | UART_MSR_DDSR | UART_MSR_DDCD);
}
END_TEST

START_TEST(in_loopback_the_outside_waits_and_the_line_is_off)
{
    start(0x01, 0x0f);
    out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2);
    receive("outside");
    ck_in(UART_LSR, 0x60);
    out(UART_THR, 'i');
    ck_assert_uint_eq(in(UART_IIR)&0x0f, UART_IIR_RDA);
    ck_assert_int_eq(b->intr, 0);
    ck_in(UART_RBR, 'i');
    out(UART_MCR, UART_MCR_OUT2);
    ck_in(UART_RBR, 'o');
}
END_TEST

START_TEST(a_break_goes_out_and_swallows_what_is_sent_meanwhile)
{
    start(0, 0);
    out(UART_LCR, 0x43);
    ck_assert_str_eq(b->probe->breaks->str, "1");
    transmit("lost");
    ck_in(UART_LSR, 0x60);
    out(UART_LCR, 0x03);
    transmit("kept");
    ck_sent("kept");
    ck_assert_str_eq(b->probe->breaks->str, "10");
    out(UART_LCR, 0x43);
    serial_16550_reset(&b->uart);
    ck_assert_str_eq(b->probe->breaks->str, "1010");
}
END_TEST

START_TEST(in_loopback_a_break_is_received_once)
{
    start(0x01, 0);
    out(UART_MCR, UART_MCR_LOOP);
    out(UART_LCR, 0x43);
    ck_assert_str_eq(b->probe->breaks->str, "");
    ck_assert_uint_eq(in(UART_LSR)&0x1f, UART_LSR_BI | UART_LSR_FE | UART_LSR_DR);
    ck_in(UART_RBR, 0);
    out(UART_THR, 'x');
    ck_in(UART_LSR, 0x60);
    out(UART_MCR, 0); /* the break is on the wire now */
    ck_assert_str_eq(b->probe->breaks->str, "1");
}
END_TEST

/* ---- pacing -------------------------------------------------------------------------------- */

START_TEST(paced_bytes_leave_at_the_baud_rate)
{
    start(0, 0);
    out(UART_THR, 'a');
    ck_in(UART_LSR, UART_LSR_THRE); /* in the shift register */
    out(UART_THR, 'b');
    ck_in(UART_LSR, 0);
    bench_run(b, CHAR_NS - 1);
    ck_sent("");
    bench_run(b, 1);
    ck_sent("a");
    ck_in(UART_LSR, UART_LSR_THRE);
    bench_run(b, CHAR_NS - 1);
    ck_sent("a");
    bench_run(b, 1);
    ck_sent("ab");
    ck_in(UART_LSR, UART_LSR_THRE | UART_LSR_TEMT);
}
END_TEST

START_TEST(a_paced_fifo_empties_at_the_baud_rate_however_late_the_host_is)
{
    start(0x01, 0);
    transmit("0123456789abcdef");
    ck_in(UART_LSR, 0); /* fifteen in the FIFO, one on its way */
    bench_run(b, 4 * CHAR_NS);
    ck_sent("0123");
    transmit("ghi");
    b->now += CHAR_NS + CHAR_NS / 2; /* nobody ran timers meanwhile */
    clock_run_timers(b->clock);
    ck_sent("01234");
    bench_run(b, CHAR_NS / 2);
    ck_sent("012345");
    bench_run(b, 20 * CHAR_NS);
    ck_sent("0123456789abcdefghi");
}
END_TEST

START_TEST(a_paced_single_byte_delays_its_thre_interrupt)
{
    int64_t stop = NS_PER_SEC / 9600;

    start(0x01, UART_IER_ETBEI);
    out(UART_THR, 'a');
    ck_assert_uint_eq(in(UART_LSR), UART_LSR_THRE);
    ck_in(UART_IIR, 0xc1);
    bench_run(b, CHAR_NS - stop - 1);
    ck_in(UART_IIR, 0xc1);
    bench_run(b, 2);
    ck_in(UART_IIR, 0xc2);
    ck_sent("");
    bench_run(b, stop);
    ck_sent("a");
    transmit("bcd"); /* two were in the FIFO at once: told as soon as it is empty */
    bench_run(b, 2 * CHAR_NS);
    ck_in(UART_IIR, 0xc2);
    bench_run(b, CHAR_NS);
    ck_in(UART_IIR, 0xc1);
    ck_sent("abcd");
}
END_TEST

START_TEST(paced_bytes_arrive_at_the_baud_rate)
{
    start(0x01, 0);
    receive("abc");
    ck_in(UART_RBR, 'a');
    ck_in(UART_LSR, 0x60);
    bench_run(b, CHAR_NS - 1);
    ck_in(UART_LSR, 0x60);
    bench_run(b, 1);
    ck_in(UART_LSR, 0x61);
    bench_run(b, CHAR_NS);
    ck_in(UART_RBR, 'b');
    ck_in(UART_RBR, 'c');
}
END_TEST

START_TEST(paced_words_have_their_programmed_length)
{
    start(0, 0);
    out(UART_LCR, 2); /* seven bits */
    out(UART_THR, 0xc1);
    bench_run(b, CHAR_NS);
    ck_sent("A");
    serial_16550_receive(&b->uart, 0xc2, 0);
    ck_in(UART_RBR, 0x42);
}
END_TEST

/* ---- saved state --------------------------------------------------------------------------- */

static GBytes *save(Bench *bench)
{
    StateWriter *w = state_writer_new();

    state_section_begin(w, "uart", 0, 1);
    vmstate_save(w, &vmstate_serial_16550, &bench->uart);
    state_section_end(w);
    return state_writer_finish(w);
}

static bool load(Bench *bench, GBytes *bytes)
{
    StateReader *r = state_reader_new(bytes, NULL);
    g_autoptr(GError) error = NULL;
    const char *name;
    uint32_t instance, version;
    bool ok;

    ck_assert_ptr_nonnull(r);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ok = vmstate_load(r, &vmstate_serial_16550, &bench->uart, &error);
    ck_assert(ok == (error == NULL));
    state_reader_free(r);
    return ok;
}

START_TEST(a_uart_saved_in_the_middle_of_everything_goes_on_the_same)
{
    Bench *first = b, *second;
    g_autoptr(GBytes) saved = NULL, again = NULL;
    g_autofree char *sent = NULL;

    start(0x81, 0x0f);
    b->now = 12345;
    transmit("transmitting");
    receive("receiving");
    bench_run(b, 3 * CHAR_NS + CHAR_NS / 3);
    serial_16550_receive(&b->uart, 'e', UART_LSR_PE);
    set_inputs(CHARDEV_TIOCM_CTS);
    out(UART_MCR, 0x0b);
    out(UART_SCR, 0x77);
    saved = save(first);

    second = bench_new(true);
    second->now = first->now;
    ck_assert(load(second, saved));
    again = save(second);
    ck_assert(g_bytes_equal(saved, again));
    ck_assert_int_eq(second->intr, first->intr);
    ck_assert_uint_eq(second->probe->tiocm_out, first->probe->tiocm_out);
    ck_assert_uint_eq(second->probe->params.data_bits, 8);

    /* From here on both do the same. The first one's outside had more to send. */
    object_ref(first->probe);
    sent = g_strdup(first->probe->out->str);
    chardev_receive(&second->probe->parent, first->probe->parent.in->data,
                    first->probe->parent.in->len);
    for (int i = 0; i < 50; i++) {
        uint8_t a[3], c[3];
        static const unsigned regs[3] = { UART_IIR, UART_LSR, UART_RBR };

        for (int k = 0; k < 3; k++) {
            a[k] = serial_16550_read(&first->uart, regs[k]);
            c[k] = serial_16550_read(&second->uart, regs[k]);
        }
        ck_assert_mem_eq(a, c, 3);
        bench_run(first, CHAR_NS / 2);
        bench_run(second, CHAR_NS / 2);
    }
    ck_assert_str_eq(first->probe->out->str, "transmitting");
    ck_assert_uint_eq(first->probe->out->len, strlen(sent) + second->probe->out->len);
    ck_assert_str_eq(first->probe->out->str + strlen(sent), second->probe->out->str);
    object_unref(first->probe);
    bench_free(second);
}
END_TEST

START_TEST(state_that_cannot_be_is_refused)
{
    Bench *second = bench_new(false);
    struct {
        uint8_t *field;
        uint8_t value;
    } cases[] = {
        { &b->uart.ier, 0x10 },     { &b->uart.mcr, 0x20 },   { &b->uart.fcr, 0x02 },
        { &b->uart.lsr, 0x20 },     { &b->uart.rx.count, 2 }, { &b->uart.rx.head, 16 },
        { &b->uart.tx.count, 255 }, { &b->uart.tx.head, 99 }, { &b->uart.rx.err[5], 1 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t good = *cases[i].field;
        g_autoptr(GBytes) bytes = NULL;

        *cases[i].field = cases[i].value;
        bytes = save(b);
        ck_assert_msg(!load(second, bytes), "case %u was accepted", i);
        *cases[i].field = good;
        serial_16550_reset(&second->uart);
    }
    bench_free(second);
}
END_TEST

START_TEST(state_in_which_nothing_would_ever_move_is_set_going)
{
    Bench *second = bench_new(false);
    g_autoptr(GBytes) bytes = NULL;

    b->uart.tsr_busy = true; /* without a timer */
    b->uart.tsr = 'x';
    bytes = save(b);
    ck_assert(load(second, bytes));
    bench_run(second, 0);
    ck_assert_str_eq(second->probe->out->str, "x");
    bench_free(second);
}
END_TEST

/* ---- a hostile guest ----------------------------------------------------------------------- */

/* NULL, or what is wrong. Plain ifs: an assertion of Check's costs a system call. */
static const char *broken_invariant(const Serial16550 *s)
{
    unsigned capacity = s->fcr & UART_FCR_ENABLE ? 16 : 1;
    uint8_t lsr = serial_16550_peek(s, UART_LSR), iir = serial_16550_peek(s, UART_IIR);
    int gate = (s->mcr & UART_MCR_OUT2) && !(s->mcr & UART_MCR_LOOP);

    return s->rx.count > capacity || s->tx.count > capacity  ? "a FIFO is too full"
           : s->rx.head > 15 || s->tx.head > 15              ? "a FIFO's head is outside"
           : s->ier & 0xf0 || s->mcr & 0xe0                  ? "bits that do not exist"
           : !(lsr & UART_LSR_DR) != (s->rx.count == 0)      ? "DR"
           : (lsr & UART_LSR_TEMT) && !(lsr & UART_LSR_THRE) ? "TEMT without THRE"
           : (capacity == 16) != ((iir & 0xc0) == 0xc0)      ? "IIR bits 6 and 7"
           : capacity == 1 && (lsr & UART_LSR_FIFO)          ? "LSR bit 7 without FIFOs"
           : iir & 0x30                                      ? "IIR bits 4 and 5"
           : b->intr != (!(iir & 1) && gate)                 ? "the interrupt line"
           : (s->tsr_busy || s->tx.count > 0) && !timer_armed(&s->tx_timer)
               ? "the transmitter waits for nothing"
               : NULL;
}

static void hostile_guest(unsigned seed)
{
    GRand *rand = g_rand_new_with_seed(seed);

    for (unsigned i = 0; i < 100000; i++) {
        uint32_t r = g_rand_int(rand);

        switch (r & 15) {
        case 0:
            bench_run(b, (int64_t)(g_rand_int(rand) % (4 * CHAR_NS)));
            break;
        case 1:
            receive("input");
            break;
        case 2:
            set_inputs(r >> 16);
            break;
        case 3:
            if (r >> 16 & 1) {
                chardev_event(&b->probe->parent, CHARDEV_BREAK);
            } else {
                serial_16550_receive(&b->uart, (uint8_t)(r >> 8), (uint8_t)(r >> 16));
            }
            break;
        case 4:
            b->probe->accepts = r >> 16;
            break;
        case 5:
        case 6:
        case 7:
            in(r >> 4 & 7);
            break;
        default:
            out(r >> 4 & 7, (uint8_t)(r >> 8));
            break;
        }
        const char *broken = broken_invariant(&b->uart);
        if (broken) {
            ck_abort_msg("step %u: %s", i, broken);
        }
        if (b->probe->out->len > 4096) {
            g_string_truncate(b->probe->out, 0);
            g_string_truncate(b->probe->breaks, 0);
        }
    }
    g_rand_free(rand);
}

START_TEST(a_hostile_guest_breaks_nothing)
{
    hostile_guest(1 + (unsigned)_i);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("serial");
    TCase *plain = tcase_create("16550"), *paced = tcase_create("paced");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(plain, setup, teardown);
    tcase_add_checked_fixture(paced, setup_paced, teardown);
    tcase_set_timeout(plain, 60);
    tcase_set_timeout(paced, 60);
    suite_add_tcase(suite, plain);
    suite_add_tcase(suite, paced);
    tcase_add_test(plain, after_reset_every_register_has_its_data_sheet_value);
    tcase_add_test(plain, writable_registers_keep_their_bits_and_only_those);
    tcase_add_test(plain, status_registers_cannot_be_written);
    tcase_add_test(plain, dlab_shows_the_divisor_in_place_of_rbr_and_ier);
    tcase_add_test(plain, line_parameters_reach_the_back_end);
    tcase_add_test(plain, a_debugger_sees_registers_without_changing_them);
    tcase_add_test(plain, a_byte_written_goes_out_at_once_and_leaves_the_transmitter_empty);
    tcase_add_test(plain,
                   the_thre_interrupt_comes_with_enabling_and_with_every_byte_and_goes_with_iir);
    tcase_add_test(plain, reading_iir_clears_thre_only_when_it_is_what_iir_shows);
    tcase_add_test(plain, a_congested_outside_holds_the_transmitter_until_it_takes_bytes);
    tcase_add_test(plain, a_transmitter_held_by_congestion_goes_on_by_its_timer_too);
    tcase_add_test(plain, without_fifos_one_byte_is_held_and_the_rest_waits_outside);
    tcase_add_test(plain, without_fifos_an_overrun_destroys_the_older_byte);
    tcase_add_test(plain, sixteen_bytes_are_held_and_the_seventeenth_is_lost);
    tcase_add_loop_test(plain, the_receive_interrupt_comes_and_goes_at_the_trigger_level, 0, 4);
    tcase_add_test(plain, the_timeout_comes_four_characters_after_the_last_byte_or_read);
    tcase_add_test(plain, there_is_no_timeout_without_fifos_and_none_shown_without_erbfi);
    tcase_add_test(plain, a_character_takes_the_bits_that_lcr_and_the_divisor_say);
    tcase_add_test(plain, errors_show_when_their_byte_is_next_and_go_with_lsr);
    tcase_add_test(plain, without_fifos_errors_show_at_once_and_bit_7_never);
    tcase_add_test(plain, a_break_is_a_zero_with_bi_in_its_place);
    tcase_add_test(plain, iir_shows_whether_fifos_are_on);
    tcase_add_test(plain, fcr_bits_without_bit_0_do_nothing_but_switch_the_fifos_off);
    tcase_add_test(plain, switching_the_fifos_either_way_empties_them);
    tcase_add_test(plain, each_fifo_can_be_cleared_alone);
    tcase_add_test(plain, a_cleared_receiver_takes_what_waited_outside);
    tcase_add_test(plain, interrupts_show_in_the_order_of_their_priority);
    tcase_add_test(plain, each_enable_bit_enables_its_own_interrupt_only);
    tcase_add_test(plain, the_line_is_set_only_when_it_changes);
    tcase_add_test(plain, out2_gates_the_line_but_not_iir);
    tcase_add_test(plain, modem_outputs_reach_the_back_end);
    tcase_add_test(plain, modem_inputs_show_with_deltas_that_a_read_clears);
    tcase_add_test(plain, the_ring_indicator_counts_at_its_end);
    tcase_add_test(plain, with_nothing_connected_the_port_is_there_and_silent);
    tcase_add_test(plain, a_baudbase_of_0_is_refused);
    tcase_add_test(plain, in_loopback_bytes_come_back_and_do_not_go_out);
    tcase_add_test(plain, in_loopback_each_modem_output_comes_back_as_its_input);
    tcase_add_test(plain, in_loopback_the_outside_waits_and_the_line_is_off);
    tcase_add_test(plain, a_break_goes_out_and_swallows_what_is_sent_meanwhile);
    tcase_add_test(plain, in_loopback_a_break_is_received_once);
    tcase_add_test(plain, state_that_cannot_be_is_refused);
    tcase_add_test(plain, state_in_which_nothing_would_ever_move_is_set_going);
    tcase_add_loop_test(plain, a_hostile_guest_breaks_nothing, 0, 2);
    tcase_add_test(paced, paced_bytes_leave_at_the_baud_rate);
    tcase_add_test(paced, a_paced_fifo_empties_at_the_baud_rate_however_late_the_host_is);
    tcase_add_test(paced, a_paced_single_byte_delays_its_thre_interrupt);
    tcase_add_test(paced, paced_bytes_arrive_at_the_baud_rate);
    tcase_add_test(paced, paced_words_have_their_programmed_length);
    tcase_add_test(paced, a_uart_saved_in_the_middle_of_everything_goes_on_the_same);
    tcase_add_loop_test(paced, a_hostile_guest_breaks_nothing, 10, 12);

    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

/* A 16550A with a back end and a clock that tests move. */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/hw/char/serial-16550.h"
#include "engine/state/stream.h"
#include "tests/unit/run_suite.h"

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

static inline ssize_t probe_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    Probe *p = PROBE(chr);

    len = MIN(len, p->accepts);
    p->accepts -= len;
    g_string_append_len(p->out, (const char *)buf, (gssize)len);
    return (ssize_t)len;
}

static inline void probe_set_params(Chardev *chr, const ChardevSerialParams *params)
{
    PROBE(chr)->params = *params;
    PROBE(chr)->params_set++;
}

static inline void probe_set_modem(Chardev *chr, unsigned tiocm)
{
    PROBE(chr)->tiocm_out = tiocm;
}

static inline unsigned probe_get_modem(Chardev *chr)
{
    return PROBE(chr)->tiocm_in;
}

static inline void probe_send_break(Chardev *chr, bool on)
{
    g_string_append_c(PROBE(chr)->breaks, on ? '1' : '0');
}

static inline void probe_init(Object *obj)
{
    PROBE(obj)->out = g_string_new(NULL);
    PROBE(obj)->breaks = g_string_new(NULL);
    PROBE(obj)->accepts = SIZE_MAX;
}

static inline void probe_finalize(Object *obj)
{
    g_string_free(PROBE(obj)->out, TRUE);
    g_string_free(PROBE(obj)->breaks, TRUE);
}

static inline void probe_class_init(ObjectClass *klass, const void *data)
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

static inline void register_probe(void)
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

static inline int64_t bench_now(void *opaque)
{
    return ((Bench *)opaque)->now;
}

static inline void bench_deadline(void *opaque)
{
}

static inline void bench_irq(void *opaque, int n, int level)
{
    Bench *bench = opaque;

    ck_assert_int_eq(n, 4);
    bench->edges++;
    bench->intr = level;
}

static inline Bench *bench_new(bool pace)
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

static inline void bench_free(Bench *bench)
{
    serial_16550_unrealize(&bench->uart);
    irq_unref(bench->irq);
    clock_free(bench->clock);
    object_unref(bench->probe);
    g_free(bench);
}

/* Moves time on, stopping at each timer as it falls due. */
static inline void bench_run(Bench *bench, int64_t ns)
{
    int64_t end = bench->now + ns;
    int64_t next;

    while ((next = clock_deadline(bench->clock)) >= 0 && next <= end) {
        bench->now = MAX(bench->now, next);
        clock_run_timers(bench->clock);
    }
    bench->now = end;
}

static inline void setup(void)
{
    main_loop_init();
    b = bench_new(false);
}

static inline void setup_paced(void)
{
    main_loop_init();
    b = bench_new(true);
}

static inline void teardown(void)
{
    bench_free(b);
    main_loop_finalize();
}

static inline uint8_t in(unsigned reg)
{
    return serial_16550_read(&b->uart, reg);
}

static inline void out(unsigned reg, uint8_t value)
{
    serial_16550_write(&b->uart, reg, value);
}

static inline void ck_in(unsigned reg, uint8_t expected)
{
    ck_assert_uint_eq(in(reg), expected);
}

static inline void set_divisor(uint16_t divisor)
{
    uint8_t lcr = in(UART_LCR);

    out(UART_LCR, lcr | UART_LCR_DLAB);
    out(UART_DLL, divisor & 0xff);
    out(UART_DLM, divisor >> 8);
    out(UART_LCR, lcr);
}

static inline void receive(const char *text)
{
    chardev_receive(&b->probe->parent, (const uint8_t *)text, strlen(text));
}

static inline void transmit(const char *text)
{
    for (; *text; text++) {
        out(UART_THR, (uint8_t)*text);
    }
}

static inline void ck_sent(const char *text)
{
    ck_assert_str_eq(b->probe->out->str, text);
}

/* 8 data bits, OUT2 on: what a driver starts with. */
static inline void start(uint8_t fcr, uint8_t ier)
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

/* A test case on a UART that sends at once, and one on a UART that takes its time. */
static inline TCase *serial_case(Suite *suite, const char *name, bool paced)
{
    TCase *tc = tcase_create(name);

    tcase_add_checked_fixture(tc, paced ? setup_paced : setup, teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    return tc;
}

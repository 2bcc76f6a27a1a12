/* The 16550A: modem lines, loopback, breaks, pacing, saved state, hostile guests. */
#include "tests/unit/serial_rig.h"

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
    Suite *suite = suite_create("serial line");
    TCase *plain = serial_case(suite, "16550", false);
    TCase *paced = serial_case(suite, "paced", true);

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
    return run_suite(suite);
}

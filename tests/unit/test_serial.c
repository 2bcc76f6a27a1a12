/* The 16550A: registers, transmitter, receiver, FIFOs, interrupts. */
#include "tests/unit/serial_rig.h"

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

int main(void)
{
    Suite *suite = suite_create("serial");
    TCase *plain = serial_case(suite, "16550", false);

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
    return run_suite(suite);
}

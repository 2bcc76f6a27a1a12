/* System control port A: registers, the A20 line, hostile writes, state. That bit 0 resets a
 * machine is tested where machines run. */

#include "engine/state/stream.h"
#include "tests/unit/board_rig.h"

static Machine *machine;
static DeviceState *dev;
static Irq *a20;
static int a20_level, a20_calls;

static void a20_changed(void *opaque, int n, int level)
{
    a20_level = level;
    a20_calls++;
}

static void setup(void)
{
    main_loop_init();
    machine = machine_new("test-board", "m0", NULL);
    object_ref(machine);
    dev = DEVICE(object_new("port92", NULL));
    a20 = irq_new(a20_changed, NULL, 0);
    ck_assert(device_connect_irq_out(dev, "a20", 0, a20, NULL));
    ck_assert(device_realize(dev, machine, "port92", NULL));
    a20_level = a20_calls = 0;
}

static void teardown(void)
{
    object_unref(dev);
    machine_close(machine);
    settle();
    object_unref(machine);
    irq_unref(a20);
    settle();
    main_loop_finalize();
}

static unsigned inb(unsigned port)
{
    return (unsigned)address_space_ldn(machine->io, port, 1, MEMTXATTRS_NONE, NULL);
}

static void outb(unsigned port, unsigned value)
{
    address_space_stn(machine->io, port, value, 1, MEMTXATTRS_NONE, NULL);
}

START_TEST(it_reads_zero_after_reset_and_keeps_its_two_bits)
{
    ck_assert_uint_eq(inb(0x92), 0);
    outb(0x92, 2);
    ck_assert_uint_eq(inb(0x92), 2);
    outb(0x92, 0xff);
    ck_assert_uint_eq(inb(0x92), 3);
    device_reset(dev);
    ck_assert_uint_eq(inb(0x92), 0);
}
END_TEST

START_TEST(the_a20_line_follows_its_bit_and_moves_only_with_it)
{
    outb(0x92, 2);
    ck_assert_int_eq(a20_level, 1);
    outb(0x92, 2);
    outb(0x92, 3);
    ck_assert_int_eq(a20_calls, 1);
    outb(0x92, 0);
    ck_assert_int_eq(a20_level, 0);
    ck_assert_int_eq(a20_calls, 2);
    outb(0x92, 2);
    device_reset(dev);
    ck_assert_int_eq(a20_level, 0);
}
END_TEST

START_TEST(impossible_state_is_refused)
{
    outb(0x92, 2);
    for (unsigned value = 0; value < 256; value++) {
        const VMStateDescription *vmsd = DEVICE_GET_CLASS(dev)->vmsd;
        const char *name;
        uint32_t instance, version;
        uint8_t *field = (uint8_t *)dev + vmsd->fields[0].offset;
        g_autoptr(GError) error = NULL;

        *field = (uint8_t)value;
        StateWriter *w = state_writer_new();
        state_section_begin(w, "port92", 0, 1);
        vmstate_save(w, vmsd, dev);
        state_section_end(w);
        g_autoptr(GBytes) bytes = state_writer_finish(w);
        *field = 0;
        StateReader *r = state_reader_new(bytes, NULL);
        ck_assert(state_next_section(r, &name, &instance, &version));
        ck_assert_int_eq(vmstate_load(r, vmsd, dev, &error), value < 4);
        ck_assert_int_eq(error == NULL, value < 4);
        state_reader_free(r);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("port92");
    TCase *tc = tcase_create("port92");

    tcase_add_checked_fixture(tc, setup, teardown);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, it_reads_zero_after_reset_and_keeps_its_two_bits);
    tcase_add_test(tc, the_a20_line_follows_its_bit_and_moves_only_with_it);
    tcase_add_test(tc, impossible_state_is_refused);
    return run_suite(suite);
}

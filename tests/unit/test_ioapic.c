/* The I/O APIC: registers, edges, levels with remote IRR, messages of every delivery mode, masks,
 * hostile guests, state. */
#include "engine/hw/intc/ioapic.h"
#include "tests/unit/intc_rig.h"

static DeviceState *ioapic;
static struct {
    uint64_t addr;
    uint32_t data;
} last;
static unsigned messages;

static void take_message(void *opaque, uint64_t addr, uint32_t data)
{
    last.addr = addr;
    last.data = data;
    messages++;
}

static void line(unsigned n, int level)
{
    irq_set(device_get_irq_in(ioapic, NULL, n, NULL), level);
}

static uint32_t mmio_read(unsigned offset)
{
    return (uint32_t)address_space_ldn(machine->memory, 0xfec00000 + offset, 4, MEMTXATTRS_NONE,
                                       NULL);
}

static void mmio_write(unsigned offset, uint32_t value)
{
    address_space_stn(machine->memory, 0xfec00000 + offset, value, 4, MEMTXATTRS_NONE, NULL);
}

static uint32_t reg(unsigned n)
{
    mmio_write(0, n);
    return mmio_read(0x10);
}

static void set_reg(unsigned n, uint32_t value)
{
    mmio_write(0, n);
    mmio_write(0x10, value);
}

static void set_pin(unsigned n, uint32_t low, uint8_t dest)
{
    set_reg(0x11 + 2 * n, (uint32_t)dest << 24);
    set_reg(0x10 + 2 * n, low);
}

static void setup(void)
{
    machine_setup();
    messages = 0;
    ioapic = device_make(TYPE_IOAPIC, "ioapic");
    machine_set_msi(machine, take_message, &messages);
}

START_TEST(registers_read_back_and_entries_are_masked_after_reset)
{
    ck_assert_uint_eq(reg(0), 0);
    ck_assert_uint_eq(reg(1), 0x00170020);
    for (unsigned i = 0; i < 24; i++) {
        ck_assert_uint_eq(reg(0x10 + 2 * i), 0x10000);
        ck_assert_uint_eq(reg(0x11 + 2 * i), 0);
    }
    set_reg(0, 0xffffffff);
    ck_assert_uint_eq(reg(0), 0x0f000000);
    ck_assert_uint_eq(reg(2), 0x0f000000);
    set_reg(1, 0); /* read-only */
    ck_assert_uint_eq(reg(1), 0x00170020);
    set_reg(0x20, 0xffffffff);
    ck_assert_uint_eq(reg(0x20), 0x1afff); /* status and remote IRR are not writable */
    set_reg(0x21, 0xffffffff);
    ck_assert_uint_eq(reg(0x21), 0xff000000);
    ck_assert_uint_eq(reg(0x40), 0); /* beyond the last entry */
    set_reg(0x40, 1);
    ck_assert_uint_eq(reg(0xff), 0);
    ck_assert_uint_eq(mmio_read(0), 0xff);
    device_reset(ioapic);
    ck_assert_uint_eq(reg(0x20), 0x10000);
}
END_TEST

START_TEST(registers_can_be_selected_by_bytes)
{
    address_space_stn(machine->memory, 0xfec00000, 1, 1, MEMTXATTRS_NONE, NULL);
    ck_assert_uint_eq(mmio_read(0x10), 0x00170020);
    ck_assert_uint_eq(address_space_ldn(machine->memory, 0xfec00012, 1, MEMTXATTRS_NONE, NULL),
                      0x17);
}
END_TEST

START_TEST(an_edge_is_one_message)
{
    set_pin(4, 0x0031, 3);
    line(4, 1);
    ck_assert_uint_eq(messages, 1);
    ck_assert_uint_eq(last.addr, 0xfee03000);
    ck_assert_uint_eq(last.data, 0x31);
    line(4, 1);
    ck_assert_uint_eq(messages, 1);
    line(4, 0);
    line(4, 1);
    ck_assert_uint_eq(messages, 2);
    ck_assert_uint_eq(reg(0x18) & 0x4000, 0);
}
END_TEST

START_TEST(an_edge_while_masked_is_lost_and_a_level_is_not)
{
    set_pin(4, 0x10031, 0);
    line(4, 1);
    set_pin(4, 0x31, 0);
    ck_assert_uint_eq(messages, 0);
    set_pin(5, 0x18032, 0);
    line(5, 1);
    ck_assert_uint_eq(messages, 0);
    set_reg(0x1a, 0x8032);
    ck_assert_uint_eq(messages, 1);
    ck_assert_uint_eq(last.data, 0xc032);
}
END_TEST

START_TEST(a_level_waits_for_its_eoi_and_interrupts_again_while_asserted)
{
    set_pin(9, 0x8040, 1);
    line(9, 1);
    ck_assert_uint_eq(messages, 1);
    ck_assert_uint_eq(reg(0x22) & 0x4000, 0x4000);
    line(9, 0);
    line(9, 1);
    ck_assert_uint_eq(messages, 1);
    ioapic_eoi(ioapic, 0x41); /* another vector */
    ck_assert_uint_eq(messages, 1);
    ioapic_eoi(ioapic, 0x40);
    ck_assert_uint_eq(messages, 2);
    line(9, 0);
    mmio_write(0x40, 0x40); /* by its own register */
    ck_assert_uint_eq(messages, 2);
    ck_assert_uint_eq(reg(0x22) & 0x4000, 0);
}
END_TEST

START_TEST(making_an_entry_an_edge_clears_its_remote_irr)
{
    set_pin(9, 0x8040, 1);
    line(9, 1);
    set_reg(0x22, 0x10040);
    ck_assert_uint_eq(reg(0x22), 0x10040);
    line(9, 0);
    set_reg(0x22, 0x8040);
    ck_assert_uint_eq(reg(0x22), 0x8040);
    line(9, 1);
    ck_assert_uint_eq(messages, 2);
}
END_TEST

START_TEST(delivery_and_destination_modes_are_in_the_message)
{
    static const unsigned modes[] = { 0, 1, 2, 4, 5, 7 };

    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        set_pin(i, modes[i] << 8 | 1 << 11 | 0x50, 0xa5);
        line(i, 1);
        ck_assert_uint_eq(messages, i + 1);
        ck_assert_uint_eq(last.addr, 0xfeea5004);
        ck_assert_uint_eq(last.data, modes[i] << 8 | 0x50);
    }
    set_pin(10, 3 << 8 | 0x50, 0); /* reserved */
    line(10, 1);
    ck_assert_uint_eq(messages, G_N_ELEMENTS(modes));
    set_pin(11, 4 << 8 | 1 << 15, 0); /* an NMI never waits for an EOI */
    line(11, 1);
    ck_assert_uint_eq(messages, G_N_ELEMENTS(modes) + 1);
    ck_assert_uint_eq(reg(0x26) & 0x4000, 0);
    line(11, 1);
    ck_assert_uint_eq(messages, G_N_ELEMENTS(modes) + 1);
    line(11, 0);
    line(11, 1);
    ck_assert_uint_eq(messages, G_N_ELEMENTS(modes) + 2);
}
END_TEST

START_TEST(what_nobody_takes_does_not_wait)
{
    machine_set_msi(machine, NULL, &messages);
    set_pin(9, 0x8040, 1);
    line(9, 1);
    ck_assert_uint_eq(messages, 0);
    ck_assert_uint_eq(reg(0x22) & 0x4000, 0);
}
END_TEST

START_TEST(the_machine_tells_it_of_an_eoi)
{
    set_pin(9, 0x8040, 1);
    line(9, 1);
    line(9, 0);
    machine_eoi(machine, 0x40);
    ck_assert_uint_eq(reg(0x22) & 0x4000, 0);
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(82093);
    unsigned expected;

    for (unsigned i = 0; i < 100000; i++) {
        unsigned pin = g_rand_int(rand) % 24;

        switch (g_rand_int(rand) % 6) {
        case 0:
            line(pin, g_rand_boolean(rand));
            break;
        case 1:
            set_reg(0x10 + g_rand_int(rand) % 48, g_rand_int(rand));
            break;
        case 2:
            ioapic_eoi(ioapic, g_rand_int(rand) & 0xff);
            break;
        case 3:
            mmio_read(g_rand_int(rand) & 0xffc);
            break;
        default:
            mmio_write(g_rand_int(rand) % 2 ? g_rand_int(rand) & 0x50 : g_rand_int(rand) & 0xffc,
                       g_rand_int(rand));
            break;
        }
        expected = reg(0x10 + 2 * pin);
        ck_assert_uint_eq(expected & 0xfffe1000, 0);
        if (expected & 0x4000) { /* only what can be ended waits for it */
            ck_assert_uint_eq(expected & 0x8000, 0x8000);
        }
    }
    ck_assert_uint_gt(messages, 1000);
}
END_TEST

START_TEST(state_saved_while_an_eoi_is_awaited_goes_on)
{
    g_autoptr(GBytes) bytes = NULL;

    set_pin(9, 0x8040, 1);
    line(9, 1);
    mmio_write(0, 0x22);
    bytes = save_device(ioapic);
    device_reset(ioapic);
    ck_assert(load_device(ioapic, bytes));
    ck_assert_uint_eq(mmio_read(0x10), 0xc040);
    ioapic_eoi(ioapic, 0x40);
    ck_assert_uint_eq(messages, 2);
    line(9, 0);
    ioapic_eoi(ioapic, 0x40);
    ck_assert_uint_eq(messages, 2);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, registers_read_back_and_entries_are_masked_after_reset);
    tcase_add_test(tc, registers_can_be_selected_by_bytes);
    tcase_add_test(tc, an_edge_is_one_message);
    tcase_add_test(tc, an_edge_while_masked_is_lost_and_a_level_is_not);
    tcase_add_test(tc, a_level_waits_for_its_eoi_and_interrupts_again_while_asserted);
    tcase_add_test(tc, making_an_entry_an_edge_clears_its_remote_irr);
    tcase_add_test(tc, delivery_and_destination_modes_are_in_the_message);
    tcase_add_test(tc, what_nobody_takes_does_not_wait);
    tcase_add_test(tc, the_machine_tells_it_of_an_eoi);
    tcase_add_test(tc, no_guest_can_break_it);
    tcase_add_test(tc, state_saved_while_an_eoi_is_awaited_goes_on);
}

int main(void)
{
    return run_tests("ioapic", setup, machine_teardown, add);
}

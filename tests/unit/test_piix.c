/* PIIX3 and PIIX4: reset control, PM timer, events, sleep, SMBus, APM, where the ports are. */
#include "engine/hw/i2c/smbus.h"
#include "pc_rig.h"

#define PM  0x600
#define SMB 0x700
#define FN  0x0b

static DeviceState *pm;

static DeviceState *add_pm(void)
{
    DeviceState *piix3 = rig_add("piix3", "1", "piix3");

    PCI_DEVICE(piix3)->multifunction = true;
    pm = rig_add("piix4-pm", "1.3", "pm");
    ck_assert(device_connect_irq_out(pm, "sci", 0, device_get_irq_in(piix3, "irq", 9, NULL), NULL));
    conf_write(FN, 0x40, PM | 1, 4);
    conf_write(FN, 0x80, 1, 1);
    conf_write(FN, 0x90, SMB | 1, 4);
    conf_write(FN, 0xd2, 9, 1);
    return pm;
}

START_TEST(power_on_values_are_those_of_the_board)
{
    rig_add("piix3", "1", "piix3");
    ck_assert_uint_eq(conf_read(8, 0, 4), 0x70008086);
    ck_assert_uint_eq(conf_read(8, 4, 4), 0x02000007);
    ck_assert_uint_eq(conf_read(8, 0x60, 4), 0x80808080);
    ck_assert_uint_eq(conf_read(8, 0x4c, 4), 0x0003004d);
    ck_assert_uint_eq(conf_read(8, 0x74, 4), 0x0c0c0000);
}
END_TEST

START_TEST(the_reset_control_register_lies_beside_the_address_register)
{
    rig_add("piix3", "1", "piix3");
    out(0xcf8, 0x80000000, 4);
    out(0xcf9, 2, 1);
    ck_assert_uint_eq(in(0xcf9, 1), 2);
    ck_assert_uint_eq(in(0xcf8, 4), 0x80000000);
    out(0xcf9, 0xf0, 1);
    ck_assert_uint_eq(in(0xcf9, 1), 0);
}
END_TEST

START_TEST(the_ports_are_where_the_registers_say)
{
    add_pm();
    ck_assert_uint_eq(in(PM + 4, 2), 0);
    out(PM + 4, 1, 2);
    ck_assert_uint_eq(in(PM + 4, 2), 1);
    conf_write(FN, 0x80, 0, 1);
    ck_assert_uint_eq(in(PM + 4, 2), 0xffff);
    conf_write(FN, 0x40, 0x4001, 4);
    conf_write(FN, 0x80, 1, 1);
    ck_assert_uint_eq(in(0x4004, 2), 1);
    ck_assert_uint_eq(conf_read(FN, 0x40, 4), 0x4001);
    device_reset(pm);
    ck_assert_uint_eq(in(0x4004, 2), 0xffff);
}
END_TEST

START_TEST(the_pm_timer_counts_and_tells_when_its_top_bit_changes)
{
    uint32_t a, b;

    add_pm();
    a = in(PM + 8, 4);
    rig_run(1000000000);
    b = in(PM + 8, 4);
    ck_assert_uint_eq((b - a) & 0xffffff, 3579545);
    out(PM, 1, 2);
    ck_assert_uint_eq(in(PM, 2) & 1, 0);
    out(PM + 4, 1, 2);
    out(PM + 2, 1, 2);
    ck_assert_int_eq(rig_level[9], 0);
    rig_run(1400000000); /* 2^23 ticks are 2.34 s */
    ck_assert_int_eq(rig_level[9], 1);
    ck_assert_uint_eq(in(PM, 2) & 1, 1);
    out(PM, 1, 2);
    ck_assert_int_eq(rig_level[9], 0);
    rig_run(2400000000);
    ck_assert_int_eq(rig_level[9], 1);
}
END_TEST

START_TEST(the_power_button_is_an_event_and_its_interrupt_waits_for_acpi)
{
    Irq *button;

    add_pm();
    button = device_get_irq_in(pm, "power-button", 0, NULL);
    out(PM + 2, 0x100, 2);
    irq_pulse(button);
    ck_assert_uint_eq(in(PM, 2), 0x100);
    ck_assert_int_eq(rig_level[9], 0);
    out(0xb2, 0xf1, 1);
    ck_assert_uint_eq(in(PM + 4, 2), 1);
    ck_assert_int_eq(rig_level[9], 1);
    out(PM + 1, 1, 1); /* a byte clears its own half only */
    ck_assert_uint_eq(in(PM, 2), 0);
    ck_assert_int_eq(rig_level[9], 0);
    out(0xb2, 0xf0, 1);
    ck_assert_uint_eq(in(PM + 4, 2), 0);
}
END_TEST

START_TEST(while_it_runs_an_alarm_is_an_event_and_a_key_is_none)
{
    add_pm();
    out(PM + 4, 1, 2);
    out(PM + 2, 0x400, 2);
    irq_pulse(device_get_irq_in(pm, "wake-up", 0, NULL));
    ck_assert_uint_eq(in(PM, 2), 0);
    irq_pulse(device_get_irq_in(pm, "rtc-alarm", 0, NULL));
    ck_assert_uint_eq(in(PM, 2), 0x400);
    ck_assert_int_eq(rig_level[9], 1);
    out(PM, 0x400, 2);
    ck_assert_int_eq(rig_level[9], 0);
}
END_TEST

START_TEST(general_purpose_events_reach_the_same_line)
{
    add_pm();
    out(PM + 4, 1, 2);
    out(0xafe2, 0x02, 1);
    irq_pulse(device_get_irq_in(pm, "gpe", 1, NULL));
    ck_assert_uint_eq(in(0xafe0, 1), 2);
    ck_assert_int_eq(rig_level[9], 1);
    out(0xafe0, 2, 1);
    ck_assert_int_eq(rig_level[9], 0);
}
END_TEST

START_TEST(smbus_reads_and_writes_an_eeprom)
{
    SMBus *bus;
    DeviceState *rom = DEVICE(object_new(TYPE_SMBUS_EEPROM, NULL));

    add_pm();
    bus = SMBUS(object_get_child(OBJECT(pm), "smbus"));
    ck_assert(object_property_set_link(OBJECT(rom), "bus", OBJECT(bus), NULL));
    ck_assert(device_realize(rom, machine, "rom", NULL));
    object_unref(rom);
    out(SMB + 4, 0x50 << 1, 1);
    out(SMB + 3, 0x10, 1);
    out(SMB + 5, 0xab, 1);
    out(SMB + 6, 0xcd, 1);
    out(SMB + 2, 0x4c, 1); /* word */
    ck_assert_uint_eq(in(SMB, 1), 2);
    out(SMB, 2, 1);
    out(SMB + 4, 0x50 << 1 | 1, 1);
    out(SMB + 3, 0x11, 1);
    out(SMB + 2, 0x48, 1); /* byte */
    ck_assert_uint_eq(in(SMB, 1), 2);
    ck_assert_uint_eq(in(SMB + 5, 1), 0xcd);
    out(SMB + 4, 0x30 << 1, 1); /* nobody */
    out(SMB + 2, 0x48, 1);
    ck_assert_uint_eq(in(SMB, 1), 6);
}
END_TEST

START_TEST(random_accesses_to_all_its_ports_do_no_harm)
{
    uint64_t seed = 3;

    add_pm();
    for (unsigned i = 0; i < 50000; i++) {
        static const unsigned bases[] = { PM, SMB, 0xafe0, 0xb0, 0xcf8 };
        unsigned size = 1u << rig_random(&seed) % 3;
        unsigned port = (bases[rig_random(&seed) % 5] + rig_random(&seed) % 64) & ~(size - 1);

        if (port + size <= 0xcfc || port >= 0xd00) {
            out(port, rig_random(&seed), size);
            in(port, size);
        }
        if (i % 64 == 0) {
            rig_run(1000000);
        }
    }
}
END_TEST

START_TEST(saved_state_keeps_events_and_ports)
{
    g_autoptr(GBytes) bytes = NULL, again = NULL;
    g_autoptr(GError) error = NULL;

    add_pm();
    out(PM + 4, 0x401, 2);
    out(PM + 2, 0x101, 2);
    rig_run(100000000);
    bytes = rig_save(pm);
    device_reset(pm);
    ck_assert_msg(rig_load(pm, bytes, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(in(PM + 4, 2), 0x401);
    ck_assert_uint_eq(in(PM + 2, 2), 0x101);
    again = rig_save(pm);
    ck_assert(g_bytes_equal(bytes, again));
}
END_TEST

RIG_MAIN("piix", power_on_values_are_those_of_the_board,
         the_reset_control_register_lies_beside_the_address_register,
         the_ports_are_where_the_registers_say,
         the_pm_timer_counts_and_tells_when_its_top_bit_changes,
         the_power_button_is_an_event_and_its_interrupt_waits_for_acpi,
         while_it_runs_an_alarm_is_an_event_and_a_key_is_none,
         general_purpose_events_reach_the_same_line, smbus_reads_and_writes_an_eeprom,
         random_accesses_to_all_its_ports_do_no_harm, saved_state_keeps_events_and_ports)

/* The local APICs: registers in both modes, priorities, every delivery mode and destination, the
 * timer's three modes, LINT and the PIC behind it, hostile guests, state. */
#include "engine/hw/intc/apic.h"
#include "engine/hw/intc/ioapic.h"
#include "engine/hw/intc/pic.h"
#include "tests/unit/intc_rig.h"

enum { CPUS = 20 };
enum { ID = 0x20, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0 };
enum { ISR = 0x100, TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310 };
enum { TIMER = 0x320, LINT0 = 0x350, LINT1 = 0x360, ERROR_LVT = 0x370 };
enum { INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };
#define BASE    UINT64_C(0xfee00000)
#define BASE_EN (UINT64_C(1) << 11)
#define BASE_X2 (UINT64_C(1) << 10)

static DeviceState *apic;

static MemTxAttrs of_cpu(unsigned cpu)
{
    return (MemTxAttrs){ .cpu = (int16_t)cpu };
}

static uint32_t rd(unsigned cpu, unsigned offset)
{
    return (uint32_t)address_space_ldn(machine->memory, BASE + offset, 4, of_cpu(cpu), NULL);
}

static void wr(unsigned cpu, unsigned offset, uint32_t value)
{
    address_space_stn(machine->memory, BASE + offset, value, 4, of_cpu(cpu), NULL);
}

static LocalApic *of(unsigned cpu)
{
    return apic_of_cpu(apic, cpu);
}

static void enter_x2(unsigned cpu)
{
    ck_assert(
        apic_wrmsr(of(cpu), MSR_APIC_BASE, BASE | BASE_EN | BASE_X2 | (cpu == 0 ? 1u << 8 : 0)));
}

static uint64_t rdmsr(unsigned cpu, unsigned offset)
{
    uint64_t v = 0;

    ck_assert(apic_rdmsr(of(cpu), MSR_X2APIC + offset / 16, &v));
    return v;
}

static bool wrmsr(unsigned cpu, unsigned offset, uint64_t value)
{
    return apic_wrmsr(of(cpu), MSR_X2APIC + offset / 16, value);
}

static unsigned requests(unsigned cpu)
{
    uint8_t vector;

    return apic_take_requests(of(cpu), &vector);
}

static void setup(void)
{
    g_autoptr(GError) error = NULL;

    machine_setup();
    apic = DEVICE(object_new(TYPE_APIC, NULL));
    ck_assert(object_property_parse(OBJECT(apic), "cpus", "20", &error));
    ck_assert_msg(device_realize(apic, machine, "apic", &error), "%s", error ? error->message : "");
    object_unref(apic);
    for (unsigned i = 0; i < CPUS; i++) {
        wr(i, SVR, 0x1ff);
    }
}

START_TEST(registers_have_their_values_after_reset)
{
    device_reset(apic);
    for (unsigned i = 0; i < CPUS; i++) {
        uint64_t base;

        ck_assert_uint_eq(rd(i, ID), i << 24);
        ck_assert_uint_eq(rd(i, 0x30), 0x01050014);
        ck_assert_uint_eq(rd(i, TPR) | rd(i, PPR) | rd(i, LDR) | rd(i, ESR) | rd(i, ICR), 0);
        ck_assert_uint_eq(rd(i, DFR), 0xffffffff);
        ck_assert_uint_eq(rd(i, SVR), 0xff);
        for (unsigned lvt = 0x320; lvt < 0x380; lvt += 16) {
            ck_assert_uint_eq(rd(i, lvt), i == 0 && lvt == LINT0 ? 0x700 : 0x10000);
        }
        ck_assert(apic_rdmsr(of(i), MSR_APIC_BASE, &base));
        ck_assert_uint_eq(base, BASE | BASE_EN | (i == 0 ? 1u << 8 : 0));
    }
    ck_assert_ptr_null(of(CPUS));
}
END_TEST

START_TEST(registers_read_back_what_can_be_written)
{
    wr(1, TPR, 0xffffffff);
    ck_assert_uint_eq(rd(1, TPR), 0xff);
    ck_assert_uint_eq(rd(1, PPR), 0xff);
    ck_assert_uint_eq(apic_get_cr8(of(1)), 15);
    apic_set_cr8(of(1), 3);
    ck_assert_uint_eq(rd(1, TPR), 0x30);
    wr(1, LDR, 0xffffffff);
    wr(1, DFR, 0);
    ck_assert_uint_eq(rd(1, LDR), 0xff000000);
    ck_assert_uint_eq(rd(1, DFR), 0x0fffffff);
    wr(1, SVR, 0xffffffff);
    ck_assert_uint_eq(rd(1, SVR), 0x11ff);
    wr(1, TIMER, 0xffffffff);
    ck_assert_uint_eq(rd(1, TIMER), 0x700ff);
    wr(1, LINT0, 0xffffffff);
    ck_assert_uint_eq(rd(1, LINT0), 0x1a7ff);
    wr(1, DIVIDE, 0xffffffff);
    ck_assert_uint_eq(rd(1, DIVIDE), 0xb);
    wr(1, ID, 0x55000000); /* read-only here */
    ck_assert_uint_eq(rd(1, ID), 0x01000000);
    wr(1, SVR, 0xff); /* off: every LVT entry is masked, and stays so */
    wr(1, ERROR_LVT, 0x33);
    ck_assert_uint_eq(rd(1, ERROR_LVT), 0x10033);
}
END_TEST

START_TEST(interrupts_are_taken_by_class_and_ended_in_order)
{
    LocalApic *a = of(0);

    apic_message(apic, BASE, 0x41);
    apic_message(apic, BASE, 0x61);
    apic_message(apic, BASE, 0x62);
    ck_assert_uint_eq(rd(0, IRR + 0x20), 1 << 1);
    ck_assert_uint_eq(rd(0, IRR + 0x30), 6);
    ck_assert_int_eq(apic_get_interrupt(a), 0x62);
    ck_assert_uint_eq(rd(0, PPR), 0x60);
    ck_assert(!apic_has_interrupt(a)); /* 0x61 is of the same class */
    ck_assert_int_eq(apic_get_interrupt(a), -1);
    wr(0, EOI, 0);
    ck_assert_int_eq(apic_get_interrupt(a), 0x61);
    apic_message(apic, BASE, 0x80);
    ck_assert_int_eq(apic_get_interrupt(a), 0x80);
    ck_assert_uint_eq(rd(0, ISR + 0x30), 2);
    wr(0, EOI, 0);
    ck_assert_uint_eq(rd(0, PPR), 0x60);
    wr(0, EOI, 0);
    wr(0, TPR, 0x40);
    ck_assert(!apic_has_interrupt(a));
    wr(0, TPR, 0x3f);
    ck_assert_int_eq(apic_get_interrupt(a), 0x41);
    wr(0, EOI, 0);
    wr(0, EOI, 0); /* of nothing */
    ck_assert_uint_eq(rd(0, PPR), 0x3f);
}
END_TEST

START_TEST(what_is_switched_off_takes_no_interrupt)
{
    wr(2, SVR, 0xff);
    apic_message(apic, BASE | 2 << 12, 0x41);
    ck_assert(!apic_has_interrupt(of(2)));
    apic_message(apic, BASE | 2 << 12, 4 << 8); /* but an NMI */
    ck_assert_uint_eq(requests(2), CPU_APIC_NMI);
    ck_assert(apic_wrmsr(of(2), MSR_APIC_BASE, BASE));
    apic_message(apic, BASE | 2 << 12, 4 << 8);
    ck_assert_uint_eq(requests(2), 0);
    ck_assert_uint_eq(rd(2, SVR), 0xffffffff); /* nobody is there */
}
END_TEST

static unsigned who_got(uint8_t vector)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        if (apic_get_interrupt(of(i)) == vector) {
            mask |= 1u << i;
            wr(i, EOI, 0);
        }
    }
    return mask;
}

START_TEST(destinations_are_physical_flat_and_clusters)
{
    apic_message(apic, BASE | 5 << 12, 0x41);
    ck_assert_uint_eq(who_got(0x41), 1 << 5);
    apic_message(apic, BASE | 0xff << 12, 0x41);
    ck_assert_uint_eq(who_got(0x41), (1u << CPUS) - 1);
    apic_message(apic, BASE | 0xc8 << 12, 0x41);
    ck_assert_uint_eq(who_got(0x41), 0);
    for (unsigned i = 0; i < 8; i++) {
        wr(i, LDR, 1u << (24 + i));
    }
    apic_message(apic, BASE | 0xa1 << 12 | 4, 0x42);
    ck_assert_uint_eq(who_got(0x42), 0xa1);
    for (unsigned i = 0; i < 16; i++) {
        wr(i, DFR, 0x0fffffff);
        wr(i, LDR, (i / 4) << 28 | 1u << (24 + i % 4));
    }
    apic_message(apic, BASE | 0x26 << 12 | 4, 0x43);
    ck_assert_uint_eq(who_got(0x43), 0x600);
    apic_message(apic, BASE | 0xf1 << 12 | 4, 0x43);
    ck_assert_uint_eq(who_got(0x43), 0x1111);
}
END_TEST

START_TEST(lowest_priority_goes_to_one_that_is_least_busy)
{
    for (unsigned i = 0; i < 4; i++) {
        wr(i, LDR, 1u << (24 + i));
        wr(i, TPR, (4 - i) << 4);
    }
    wr(3, SVR, 0xff); /* off: cannot be chosen */
    apic_message(apic, BASE | 0xf << 12 | 4, 1 << 8 | 0x91);
    ck_assert_uint_eq(who_got(0x91), 1 << 2);
}
END_TEST

START_TEST(ipis_have_shorthands)
{
    wr(1, ICR_HIGH, 2u << 24);
    wr(1, ICR, 0x51);
    ck_assert_uint_eq(who_got(0x51), 1 << 2);
    ck_assert_uint_eq(rd(1, ICR), 0x51);
    wr(1, ICR, 1 << 18 | 0x52);
    ck_assert_uint_eq(who_got(0x52), 1 << 1);
    wr(1, ICR, 2 << 18 | 0x53);
    ck_assert_uint_eq(who_got(0x53), (1u << CPUS) - 1);
    wr(1, ICR, 3 << 18 | 0x54);
    ck_assert_uint_eq(who_got(0x54), ((1u << CPUS) - 1) & ~2u);
    wr(1, ICR, 1 << 18 | 4 << 8); /* an NMI to itself is not */
    ck_assert_uint_eq(requests(1), 0);
}
END_TEST

START_TEST(nmi_smi_init_and_sipi_reach_the_processor)
{
    uint8_t vector = 0;

    wr(0, ICR_HIGH, 3u << 24);
    wr(0, ICR, 4 << 8);
    wr(0, ICR, 2 << 8);
    ck_assert(apic_has_requests(of(3)));
    ck_assert_uint_eq(requests(3), CPU_APIC_NMI | CPU_APIC_SMI);
    ck_assert(!apic_has_requests(of(3)));
    apic_message(apic, BASE | 3 << 12, 0x41);
    wr(3, TPR, 0x20);
    wr(0, ICR, 6 << 8 | 0x11);
    wr(0, ICR, 0xc500); /* INIT, level, assert: forgets the SIPI before it */
    ck_assert_uint_eq(rd(3, TPR) | rd(3, IRR + 0x20), 0);
    ck_assert_uint_eq(rd(3, SVR), 0xff);
    ck_assert_uint_eq(rd(3, ID), 3u << 24);
    wr(0, ICR, 0x8500); /* the de-assert is nothing */
    wr(0, ICR, 6 << 8 | 0x9a);
    ck_assert_uint_eq(apic_take_requests(of(3), &vector), CPU_APIC_INIT | CPU_APIC_SIPI);
    ck_assert_uint_eq(vector, 0x9a);
}
END_TEST

START_TEST(errors_are_shown_after_a_write_of_esr)
{
    wr(0, ERROR_LVT, 0x45);
    wr(0, ICR, 1 << 18 | 0x0f);
    ck_assert_uint_eq(rd(0, ESR), 0);
    wr(0, ESR, 0);
    ck_assert_uint_eq(rd(0, ESR), 1 << 5);
    ck_assert_uint_eq(who_got(0x45), 1);
    apic_message(apic, BASE, 0x0f);
    rd(0, 0x40);
    wr(0, ESR, 0);
    ck_assert_uint_eq(rd(0, ESR), 1 << 6 | 1 << 7);
    wr(0, ESR, 0);
    ck_assert_uint_eq(rd(0, ESR), 0);
    wr(0, ERROR_LVT, 0x05); /* the error of delivering an error ends */
    wr(0, 0x3f0, 0);
    wr(0, ESR, 0);
    ck_assert_uint_eq(rd(0, ESR), 1 << 6 | 1 << 7);
}
END_TEST

START_TEST(the_timer_counts_down_once_or_again_and_again)
{
    wr(0, TIMER, 0x61);
    wr(0, DIVIDE, 0xb); /* by 1 */
    wr(0, INITIAL, 100000);
    run_until(40000);
    ck_assert_uint_eq(rd(0, CURRENT), 60000);
    run_until(99999);
    ck_assert(!apic_has_interrupt(of(0)));
    run_until(100000);
    ck_assert_uint_eq(rd(0, CURRENT), 0);
    ck_assert_uint_eq(who_got(0x61), 1);
    run_until(1000000);
    ck_assert(!apic_has_interrupt(of(0)));
    wr(0, TIMER, 0x20062);
    wr(0, DIVIDE, 3); /* by 16 */
    wr(0, INITIAL, 10000);
    for (unsigned i = 1; i <= 5; i++) {
        run_until(1000000 + i * 160000 - 1);
        ck_assert(!apic_has_interrupt(of(0)));
        ck_assert_uint_eq(rd(0, CURRENT), 1);
        run_until(1000000 + i * 160000);
        ck_assert_uint_eq(rd(0, CURRENT), 10000);
        ck_assert_uint_eq(who_got(0x62), 1);
    }
    wr(0, TIMER, 0x30062); /* masked: it counts, and nothing comes */
    run_until(now_ns + 160000);
    ck_assert(!apic_has_interrupt(of(0)));
    wr(0, INITIAL, 0);
    ck_assert_int_eq(clock_deadline(machine->clock), -1);
}
END_TEST

START_TEST(every_divisor_divides)
{
    static const struct {
        unsigned bits, by;
    } table[] = { { 0, 2 },  { 1, 4 },  { 2, 8 },    { 3, 16 },
                  { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        int64_t begin = now_ns;

        wr(0, DIVIDE, table[i].bits);
        wr(0, INITIAL, 1000);
        run_until(begin + 500 * table[i].by);
        ck_assert_uint_eq(rd(0, CURRENT), 500);
    }
    wr(0, DIVIDE, 0); /* half-way: the count stays */
    ck_assert_uint_eq(rd(0, CURRENT), 500);
}
END_TEST

START_TEST(the_deadline_timer_waits_for_the_tsc)
{
    uint64_t v = 1;

    ck_assert(apic_wrmsr(of(0), MSR_TSC_DEADLINE, 5)); /* ignored in another mode */
    ck_assert(apic_rdmsr(of(0), MSR_TSC_DEADLINE, &v));
    ck_assert_uint_eq(v, 0);
    wr(0, TIMER, 0x40063);
    wr(0, INITIAL, 1000); /* ignored in this one */
    ck_assert_uint_eq(rd(0, INITIAL), 0);
    apic_set_tsc(of(0), 0, 1000000);
    ck_assert(apic_wrmsr(of(0), MSR_TSC_DEADLINE, 1050000));
    run_until(49999);
    ck_assert(!apic_has_interrupt(of(0)));
    run_until(50000);
    ck_assert_uint_eq(who_got(0x63), 1);
    ck_assert(apic_rdmsr(of(0), MSR_TSC_DEADLINE, &v));
    ck_assert_uint_eq(v, 0);
    ck_assert(apic_wrmsr(of(0), MSR_TSC_DEADLINE, 1)); /* long gone */
    run_until(now_ns);
    ck_assert_uint_eq(who_got(0x63), 1);
    ck_assert(apic_wrmsr(of(0), MSR_TSC_DEADLINE, 2000000));
    ck_assert(apic_wrmsr(of(0), MSR_TSC_DEADLINE, 0)); /* disarms */
    ck_assert_int_eq(clock_deadline(machine->clock), -1);
    ck_assert(apic_wrmsr(of(0), MSR_TSC_DEADLINE, 2000000));
    wr(0, TIMER, 0x63); /* so does another mode */
    ck_assert_int_eq(clock_deadline(machine->clock), -1);
}
END_TEST

START_TEST(a_tiny_period_does_not_swamp_the_host)
{
    unsigned fired = 0;
    int64_t next;

    wr(0, TIMER, 0x20062);
    wr(0, DIVIDE, 0xb);
    wr(0, INITIAL, 1);
    while ((next = clock_deadline(machine->clock)) >= 0 && next <= 1000000) {
        now_ns = MAX(now_ns, next);
        clock_run_timers(machine->clock);
        fired++;
    }
    ck_assert_uint_le(fired, 51);
    ck_assert_uint_ge(fired, 40);
}
END_TEST

START_TEST(x2apic_is_entered_and_left_by_the_rules)
{
    LocalApic *a = of(1);
    uint64_t v;

    ck_assert(!apic_rdmsr(a, MSR_X2APIC + 2, &v));
    ck_assert(!apic_wrmsr(a, MSR_APIC_BASE, BASE | BASE_X2));
    ck_assert(!apic_wrmsr(a, MSR_APIC_BASE, BASE | BASE_EN | 1));
    ck_assert(!apic_wrmsr(a, MSR_APIC_BASE, BASE | BASE_EN | UINT64_C(1) << 60));
    wr(1, TPR, 0x30);
    enter_x2(1);
    ck_assert_uint_eq(rdmsr(1, TPR), 0x30);
    ck_assert_uint_eq(rd(1, TPR), 0xffffffff); /* no page any more */
    ck_assert(!apic_wrmsr(a, MSR_APIC_BASE, BASE | BASE_EN));
    ck_assert(apic_wrmsr(a, MSR_APIC_BASE, BASE));
    ck_assert(!apic_wrmsr(a, MSR_APIC_BASE, BASE | BASE_EN | BASE_X2));
    ck_assert(apic_wrmsr(a, MSR_APIC_BASE, BASE | BASE_EN));
    ck_assert_uint_eq(rd(1, TPR), 0); /* switching off has reset it */
    ck_assert_uint_eq(rd(1, SVR), 0xff);
}
END_TEST

START_TEST(x2apic_registers_are_msrs_that_refuse_what_they_are_not)
{
    LocalApic *a = of(17);
    uint64_t v;

    enter_x2(17);
    ck_assert_uint_eq(rdmsr(17, ID), 17);
    ck_assert_uint_eq(rdmsr(17, LDR), 1 << 16 | 1 << 1);
    ck_assert(wrmsr(17, TPR, 0xff));
    ck_assert(wrmsr(17, TPR, 0));
    ck_assert(!wrmsr(17, TPR, 0x100));
    ck_assert(!wrmsr(17, TPR, UINT64_C(1) << 32));
    ck_assert(!wrmsr(17, ID, 0));
    ck_assert(!wrmsr(17, LDR, 0));
    ck_assert(!wrmsr(17, DFR, 0));
    ck_assert(!wrmsr(17, ICR_HIGH, 0));
    ck_assert(!wrmsr(17, EOI, 1));
    ck_assert(wrmsr(17, EOI, 0));
    ck_assert(!wrmsr(17, ESR, 1));
    ck_assert(wrmsr(17, ESR, 0));
    ck_assert(!wrmsr(17, CURRENT, 0));
    ck_assert(!wrmsr(17, SVR, 0x21ff));
    ck_assert(!wrmsr(17, ICR, 1 << 20));
    ck_assert(!apic_rdmsr(a, MSR_X2APIC + EOI / 16, &v));
    ck_assert(!apic_rdmsr(a, MSR_X2APIC + DFR / 16, &v));
    ck_assert(!apic_rdmsr(a, MSR_X2APIC + 0x3f, &v));
    ck_assert(!apic_rdmsr(a, MSR_X2APIC + 0x40, &v));
    ck_assert(!apic_rdmsr(a, MSR_X2APIC_END - 1, &v));
    ck_assert(!apic_rdmsr(a, MSR_X2APIC_END, &v));
    ck_assert(wrmsr(17, 0x3f0, 0x71)); /* self IPI */
    ck_assert_int_eq(apic_get_interrupt(a), 0x71);
    ck_assert(wrmsr(17, EOI, 0));
}
END_TEST

START_TEST(x2apic_messages_have_wide_destinations)
{
    for (unsigned i = 0; i < CPUS; i++) {
        enter_x2(i);
    }
    ck_assert(wrmsr(0, ICR, UINT64_C(18) << 32 | 0x81));
    ck_assert_int_eq(apic_get_interrupt(of(18)), 0x81);
    ck_assert_uint_eq(rdmsr(0, ICR), UINT64_C(18) << 32 | 0x81);
    ck_assert(wrmsr(0, ICR, UINT64_C(0x10006) << 32 | 1 << 11 | 0x82)); /* cluster 1: 17, 18 */
    ck_assert_int_eq(apic_get_interrupt(of(17)), 0x82);
    ck_assert_int_eq(apic_get_interrupt(of(16)), -1);
    ck_assert(wrmsr(0, ICR, UINT64_C(0xffffffff) << 32 | 0x93));
    for (unsigned i = 0; i < CPUS; i++) {
        ck_assert_int_eq(apic_get_interrupt(of(i)), 0x93);
    }
    ck_assert(wrmsr(0, ICR, UINT64_C(0xff) << 32 | 0xa4)); /* no broadcast here */
    for (unsigned i = 0; i < CPUS; i++) {
        ck_assert_int_eq(apic_get_interrupt(of(i)), -1);
    }
}
END_TEST

static unsigned eois;

static void count_eoi(void *opaque, int vector)
{
    eois += vector == 0x55;
}

START_TEST(the_eoi_of_a_level_is_broadcast_unless_suppressed)
{
    eois = 0;
    machine_set_eoi(machine, count_eoi, NULL);
    apic_message(apic, BASE, 0x55);
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x55);
    wr(0, EOI, 0);
    ck_assert_uint_eq(eois, 0); /* an edge */
    apic_message(apic, BASE, 0xc055);
    ck_assert_uint_eq(rd(0, TMR + 0x20), 1 << 21);
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x55);
    wr(0, EOI, 0);
    ck_assert_uint_eq(eois, 1);
    apic_message(apic, BASE, 0x8055); /* a level's end */
    ck_assert(!apic_has_interrupt(of(0)));
    wr(0, SVR, 0x11ff);
    apic_message(apic, BASE, 0xc055);
    apic_get_interrupt(of(0));
    wr(0, EOI, 0);
    ck_assert_uint_eq(eois, 1);
    machine_set_eoi(machine, NULL, NULL);
}
END_TEST

START_TEST(an_ioapic_delivers_here_and_hears_of_the_eoi)
{
    DeviceState *ioapic = device_make(TYPE_IOAPIC, "ioapic");
    Irq *pin = device_get_irq_in(ioapic, NULL, 9, NULL);

    address_space_stn(machine->memory, 0xfec00000, 0x22, 4, MEMTXATTRS_NONE, NULL);
    address_space_stn(machine->memory, 0xfec00010, 0x8066, 4, MEMTXATTRS_NONE, NULL);
    irq_raise(pin);
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x66);
    wr(0, EOI, 0);
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x66); /* still asserted */
    irq_lower(pin);
    wr(0, EOI, 0);
    ck_assert(!apic_has_interrupt(of(0)));
}
END_TEST

START_TEST(the_pic_interrupts_through_lint0)
{
    DeviceState *pic = device_make(TYPE_ISA_PIC, "pic");
    Irq *line = device_get_irq_in(pic, NULL, 4, NULL);

    device_connect_irq_out(pic, "intr", 0, device_get_irq_in(apic, "lint0", 0, NULL), NULL);
    device_reset(apic);
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 0x04);
    outb(0x21, 0x01);
    irq_raise(line);
    ck_assert(apic_has_interrupt(of(0)));
    ck_assert(!apic_has_interrupt(of(1)));
    wr(0, TPR, 0xff); /* knows nothing of priorities */
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x34);
    ck_assert(!apic_has_interrupt(of(0)));
    outb(0x20, 0x20);
    irq_lower(line);
    irq_raise(line);
    wr(0, LINT0, 0x10700);
    ck_assert(!apic_has_interrupt(of(0)));
    wr(0, SVR, 0x1ff);
    wr(0, LINT0, 0x700);
    ck_assert(apic_has_interrupt(of(0)));
    /* Off, the pin is INTR. */
    wr(0, LINT0, 0x10700);
    ck_assert(apic_wrmsr(of(0), MSR_APIC_BASE, BASE | 1 << 8));
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x34);
    outb(0x20, 0x20);
    /* An ExtINT message from an I/O APIC leads to the PIC as well. */
    ck_assert(apic_wrmsr(of(0), MSR_APIC_BASE, BASE | BASE_EN | 1 << 8));
    irq_lower(line);
    irq_raise(line);
    ck_assert(!apic_has_interrupt(of(0)));
    apic_message(apic, BASE, 7 << 8);
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x34);
    ck_assert(!apic_has_interrupt(of(0)));
}
END_TEST

START_TEST(local_pins_deliver_what_their_entries_say)
{
    Irq *lint0 = device_get_irq_in(apic, "lint0", 0, NULL);
    Irq *lint1 = device_get_irq_in(apic, "lint1", 0, NULL);

    wr(0, LINT0, 0x10000);
    wr(1, LINT1, 0x400); /* NMI to two */
    wr(2, LINT1, 0x400);
    irq_raise(lint1);
    irq_raise(lint1);
    for (unsigned i = 0; i < CPUS; i++) {
        ck_assert_uint_eq(requests(i), i == 1 || i == 2 ? CPU_APIC_NMI : 0);
    }
    ck_assert_uint_eq(requests(1), 0);
    wr(3, LINT0, 0x8047); /* a level */
    irq_raise(lint0);
    ck_assert_int_eq(apic_get_interrupt(of(3)), 0x47);
    ck_assert_uint_eq(rd(3, LINT0), 0xc047);
    wr(3, EOI, 0);
    ck_assert_int_eq(apic_get_interrupt(of(3)), 0x47);
    irq_lower(lint0);
    wr(3, EOI, 0);
    ck_assert(!apic_has_interrupt(of(3)));
    ck_assert_uint_eq(rd(3, LINT0), 0x8047);
}
END_TEST

START_TEST(writes_of_devices_are_messages)
{
    address_space_stn(machine->memory, BASE | 4 << 12, 0x49, 4, MEMTXATTRS_NONE, NULL);
    ck_assert_uint_eq(who_got(0x49), 1 << 4);
    address_space_stn(machine->memory, BASE | TPR, 0x49, 4, MEMTXATTRS_NONE, NULL);
    ck_assert_uint_eq(rd(0, TPR), 0);
    ck_assert_uint_eq(who_got(0x49), 1);
    wr(0, TPR, 0x20);
    ck_assert_uint_eq(address_space_ldn(machine->memory, BASE | TPR, 4, MEMTXATTRS_DEBUG, NULL),
                      0x20);
    address_space_stn(machine->memory, BASE | TPR, 0x49, 4, MEMTXATTRS_DEBUG, NULL);
    ck_assert_uint_eq(who_got(0x49), 0);
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(0xfee);

    for (unsigned i = 0; i < 100000; i++) {
        unsigned cpu = g_rand_int(rand) % CPUS, vector;
        LocalApic *a = of(cpu);
        uint64_t v;
        uint8_t sipi;

        switch (g_rand_int(rand) % 12) {
        case 0:
            run_until(now_ns + g_rand_int(rand) % 100000);
            break;
        case 1:
            apic_message(apic, g_rand_int(rand), g_rand_int(rand));
            break;
        case 2:
            irq_set(device_get_irq_in(apic, g_rand_boolean(rand) ? "lint0" : "lint1", 0, NULL),
                    g_rand_boolean(rand));
            break;
        case 3:
            apic_rdmsr(a, g_rand_int(rand) % 0x900, &v);
            break;
        case 4:
            apic_wrmsr(a, MSR_X2APIC + g_rand_int(rand) % 64, g_rand_int(rand) & 0xcffff);
            break;
        case 5:
            apic_wrmsr(a, g_rand_boolean(rand) ? MSR_APIC_BASE : MSR_TSC_DEADLINE,
                       g_rand_boolean(rand) ? BASE | (g_rand_int(rand) & 0xd00)
                                            : (uint64_t)g_rand_int(rand) << 16);
            break;
        case 6:
            apic_take_requests(a, &sipi);
            break;
        case 7:
            vector = (unsigned)apic_get_interrupt(a);
            if ((int)vector >= 0) {
                ck_assert_uint_ge(vector, 16);
                ck_assert_uint_lt(vector, 256);
            }
            break;
        case 8:
            rd(cpu, g_rand_int(rand) & 0xffc);
            break;
        case 9:
            wr(cpu, SVR, 0x1ff);
            break;
        default:
            wr(cpu, g_rand_int(rand) % 4 ? g_rand_int(rand) & 0x3f0 : g_rand_int(rand) & 0xffc,
               g_rand_boolean(rand) ? g_rand_int(rand) : g_rand_int(rand) & 0xff);
            break;
        }
        if (i % 1000 == 0) {
            g_autoptr(GBytes) bytes = save_device(apic);

            ck_assert(load_device(apic, bytes));
        }
    }
}
END_TEST

START_TEST(state_saved_while_serving_and_counting_goes_on)
{
    g_autoptr(GBytes) bytes = NULL;

    apic_message(apic, BASE, 0x61);
    apic_get_interrupt(of(0));
    apic_message(apic, BASE, 0x51);
    wr(5, TIMER, 0x20062);
    wr(5, DIVIDE, 0xb);
    wr(5, INITIAL, 100000);
    wr(0, ICR_HIGH, 7u << 24);
    wr(0, ICR, 6 << 8 | 0x12);
    enter_x2(6);
    run_until(30000);
    bytes = save_device(apic);
    device_reset(apic);
    ck_assert_int_eq(clock_deadline(machine->clock), -1);
    ck_assert(load_device(apic, bytes));
    ck_assert_uint_eq(rd(5, CURRENT), 70000);
    ck_assert(!apic_has_interrupt(of(0)));
    wr(0, EOI, 0);
    ck_assert_int_eq(apic_get_interrupt(of(0)), 0x51);
    ck_assert_uint_eq(requests(7), CPU_APIC_SIPI);
    ck_assert_uint_eq(rdmsr(6, ID), 6);
    run_until(100000);
    ck_assert_int_eq(apic_get_interrupt(of(5)), 0x62);
    wr(5, EOI, 0);
    run_until(200000);
    ck_assert_int_eq(apic_get_interrupt(of(5)), 0x62);
}
END_TEST

START_TEST(state_of_another_number_of_processors_is_refused)
{
    g_autoptr(GBytes) bytes = save_device(apic);
    g_autoptr(GError) error = NULL;
    DeviceState *other;

    object_unparent(OBJECT(apic));
    other = DEVICE(object_new(TYPE_APIC, NULL));
    ck_assert(object_property_parse(OBJECT(other), "cpus", "3", &error));
    ck_assert(device_realize(other, machine, "other", &error));
    object_unref(other);
    ck_assert(!load_device(other, bytes));
    run_until(1000000000);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, registers_have_their_values_after_reset);
    tcase_add_test(tc, registers_read_back_what_can_be_written);
    tcase_add_test(tc, interrupts_are_taken_by_class_and_ended_in_order);
    tcase_add_test(tc, what_is_switched_off_takes_no_interrupt);
    tcase_add_test(tc, destinations_are_physical_flat_and_clusters);
    tcase_add_test(tc, lowest_priority_goes_to_one_that_is_least_busy);
    tcase_add_test(tc, ipis_have_shorthands);
    tcase_add_test(tc, nmi_smi_init_and_sipi_reach_the_processor);
    tcase_add_test(tc, errors_are_shown_after_a_write_of_esr);
    tcase_add_test(tc, the_timer_counts_down_once_or_again_and_again);
    tcase_add_test(tc, every_divisor_divides);
    tcase_add_test(tc, the_deadline_timer_waits_for_the_tsc);
    tcase_add_test(tc, a_tiny_period_does_not_swamp_the_host);
    tcase_add_test(tc, x2apic_is_entered_and_left_by_the_rules);
    tcase_add_test(tc, x2apic_registers_are_msrs_that_refuse_what_they_are_not);
    tcase_add_test(tc, x2apic_messages_have_wide_destinations);
    tcase_add_test(tc, the_eoi_of_a_level_is_broadcast_unless_suppressed);
    tcase_add_test(tc, an_ioapic_delivers_here_and_hears_of_the_eoi);
    tcase_add_test(tc, the_pic_interrupts_through_lint0);
    tcase_add_test(tc, local_pins_deliver_what_their_entries_say);
    tcase_add_test(tc, writes_of_devices_are_messages);
    tcase_add_test(tc, no_guest_can_break_it);
    tcase_add_test(tc, state_saved_while_serving_and_counting_goes_on);
    tcase_add_test(tc, state_of_another_number_of_processors_is_refused);
}

int main(void)
{
    return run_tests("apic", setup, machine_teardown, add);
}

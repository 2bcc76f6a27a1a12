/* Interrupts on KVM: in-kernel PIC and PIT, LAPICs, messages, file descriptors, injection, several
 * vCPUs. */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/core/irq.h"
#include "engine/hw/intc/ioapic.h"
#include "engine/state/stream.h"

static unsigned want_values;

static bool has_values(Rig *r)
{
    return r->n >= want_values;
}

static void until_values(Rig *r, unsigned n)
{
    want_values = n;
    rig_until(r, has_values);
    ck_assert_msg(r->n >= n, "%u values, %u wanted (%s)", r->n, n, r->m->reason);
}

static AccelClass *klass(Rig *r)
{
    return ACCEL_GET_CLASS(r->m->accel);
}

START_TEST(the_timer_of_the_kernel_wakes_a_halted_guest)
{
    Rig *r = rig_new(IRQCHIP_ON, true, 1 * MiB);
    rig_start(r, "timer");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->got[0].value, 3);
    rig_free(r);
}
END_TEST

START_TEST(a_line_of_the_in_kernel_pic_interrupts_once_for_each_edge)
{
    Rig *r = rig_new(IRQCHIP_ON, false, 1 * MiB);
    rig_start(r, "line");
    rig_poke(r, GUEST_PARAM, 3, 2);
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 3; i++) {
        irq_raise(machine_gsi(r->m, 5));
        until_values(r, 2 + i);
        ck_assert_uint_eq(r->got[1 + i].value, i + 1);
        irq_lower(machine_gsi(r->m, 5));
    }
    rig_wait(r);
    ck_assert(r->finished);
    ck_assert_uint_eq(r->n, 4);
    rig_free(r);
}
END_TEST

START_TEST(an_irqfd_is_a_line_without_the_engine)
{
    Rig *r = rig_new(IRQCHIP_ON, false, 1 * MiB);
    GError *err = NULL;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), again = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t one = 1, got = 0;
    rig_start(r, "line");
    rig_poke(r, GUEST_PARAM, 3, 2);
    ck_assert_msg(klass(r)->add_irqfd(r->m->accel, fd, -1, 5, &err), "%s", err ? err->message : "");
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_int_eq(write(fd, &one, 8), 8);
        until_values(r, 2 + i);
    }
    klass(r)->del_irqfd(r->m->accel, fd, 5);
    /* Level-triggered: the second file descriptor says when the guest has ended the interrupt. */
    ck_assert_msg(klass(r)->add_irqfd(r->m->accel, fd, again, 5, &err), "%s",
                  err ? err->message : "");
    ck_assert_int_eq(write(fd, &one, 8), 8);
    until_values(r, 4);
    rig_wait(r);
    ck_assert(r->finished);
    ck_assert_int_eq(read(again, &got, 8), 8);
    klass(r)->del_irqfd(r->m->accel, fd, 5);
    close(fd);
    close(again);
    rig_free(r);
}
END_TEST

static void messages(IrqchipMode mode)
{
    Rig *r = rig_new(mode, false, 1 * MiB);
    GError *err = NULL;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t one = 1;
    rig_start(r, "apic");
    rig_poke(r, GUEST_PARAM, 4, 2);
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_msg(klass(r)->send_msi(r->m->accel, 0xfee00000, 0x40, &err), "%s",
                      err ? err->message : "");
        until_values(r, 2 + i);
    }
    ck_assert_msg(klass(r)->route_msi(r->m->accel, 30, 0xfee00000, 0x40, &err), "%s",
                  err ? err->message : "");
    ck_assert(klass(r)->add_irqfd(r->m->accel, fd, -1, 30, &err));
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_int_eq(write(fd, &one, 8), 8);
        until_values(r, 4 + i);
    }
    rig_wait(r);
    ck_assert(r->finished);
    if (mode == IRQCHIP_ON) {
        ck_assert(!klass(r)->route_msi(r->m->accel, 5, 0xfee00000, 0x40, &err));
        ck_assert_msg(strstr(err->message, "in-kernel IOAPIC") != NULL, "%s", err->message);
        g_clear_error(&err);
    }
    klass(r)->del_irqfd(r->m->accel, fd, 30);
    close(fd);
    rig_free(r);
}

START_TEST(messages_and_routed_irqfds_reach_the_lapic)
{
    messages(IRQCHIP_ON);
}
END_TEST

START_TEST(messages_and_routed_irqfds_reach_the_lapic_of_a_split_controller)
{
    messages(IRQCHIP_SPLIT);
}
END_TEST

typedef struct Eoi {
    unsigned n;
    int vector;
} Eoi;

static void on_eoi(void *opaque, int vector)
{
    Eoi *e = opaque;
    e->n++;
    e->vector = vector;
}

START_TEST(the_end_of_a_level_interrupt_reaches_the_ioapic_outside)
{
    Rig *r = rig_new(IRQCHIP_SPLIT, false, 1 * MiB);
    GError *err = NULL;
    Eoi eoi = { 0 };
    uint32_t data = 0x40 | 1u << 14 | 1u << 15; /* asserted, level */
    machine_set_eoi(r->m, on_eoi, &eoi);
    rig_start(r, "apic");
    rig_poke(r, GUEST_PARAM, 2, 2);
    ck_assert_msg(klass(r)->route_msi(r->m->accel, 5, 0xfee00000, data, &err), "%s",
                  err ? err->message : "");
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert(klass(r)->send_msi(r->m->accel, 0xfee00000, data, &err));
        until_values(r, 2 + i);
    }
    rig_wait(r);
    ck_assert(r->finished);
    ck_assert_uint_eq(eoi.n, 2);
    ck_assert_int_eq(eoi.vector, 0x40);
    rig_free(r);
}
END_TEST

static void program_pin(Rig *r, unsigned pin, uint32_t low)
{
    const uint32_t regs[][2] = { { 0x11 + 2 * pin, 0 }, { 0x10 + 2 * pin, low } };
    for (unsigned i = 0; i < 2; i++) {
        rig_poke(r, 0xfec00000, regs[i][0], 4);
        rig_poke(r, 0xfec00010, regs[i][1], 4);
    }
}

START_TEST(a_line_that_stays_high_comes_again_after_each_end_of_interrupt)
{
    Rig *r = rig_new(IRQCHIP_SPLIT, false, 1 * MiB);
    GError *err = NULL;
    DeviceState *ioapic = DEVICE(object_new(TYPE_IOAPIC, NULL));
    ck_assert_msg(device_realize(ioapic, r->m, "ioapic", &err), "%s", err ? err->message : "");
    object_unref(ioapic);
    ck_assert(machine_connect_gsi(r->m, 5, device_get_irq_in(ioapic, NULL, 5, &err), &err));
    rig_start(r, "apic");
    rig_poke(r, GUEST_PARAM, 4, 2);
    program_pin(r, 5, 0x40 | 1u << 15); /* level */
    rig_resume(r);
    until_values(r, 1);
    irq_raise(machine_gsi(r->m, 5));
    /* The kernel's LAPIC tells of the EOI; then the IOAPIC outside looks at the line again. */
    rig_wait(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_ge(r->n, 5);
    for (unsigned i = 1; i <= 4; i++) {
        ck_assert_uint_eq(r->got[i].value, i);
    }
    ck_assert_uint_ge(rig_cpu(r, 0)->stats.exits[CPU_EXIT_IOAPIC_EOI], 3);
    rig_free(r);
}
END_TEST

START_TEST(an_edge_comes_once_and_its_end_is_nobodys_business)
{
    Rig *r = rig_new(IRQCHIP_SPLIT, false, 1 * MiB);
    GError *err = NULL;
    DeviceState *ioapic = DEVICE(object_new(TYPE_IOAPIC, NULL));
    ck_assert_msg(device_realize(ioapic, r->m, "ioapic", &err), "%s", err ? err->message : "");
    object_unref(ioapic);
    ck_assert(machine_connect_gsi(r->m, 5, device_get_irq_in(ioapic, NULL, 5, &err), &err));
    rig_start(r, "apic");
    rig_poke(r, GUEST_PARAM, 2, 2);
    program_pin(r, 5, 0x40);
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 2; i++) {
        irq_raise(machine_gsi(r->m, 5));
        until_values(r, 2 + i);
        irq_lower(machine_gsi(r->m, 5));
    }
    rig_wait(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->n, 3);
    ck_assert_uint_eq(rig_cpu(r, 0)->stats.exits[CPU_EXIT_IOAPIC_EOI], 0);
    rig_free(r);
}
END_TEST

START_TEST(what_needs_an_interrupt_controller_says_so_without_one)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    GError *err = NULL;
    rig_start(r, "spin");
    ck_assert(!klass(r)->send_msi(r->m->accel, 0xfee00000, 0x40, &err));
    ck_assert_msg(strstr(err->message, "interrupt controller") != NULL, "%s", err->message);
    g_clear_error(&err);
    ck_assert(!klass(r)->add_irqfd(r->m->accel, 0, -1, 5, &err));
    g_clear_error(&err);
    ck_assert(!klass(r)->route_msi(r->m->accel, 30, 0, 0, &err));
    g_clear_error(&err);
    klass(r)->set_gsi(r->m->accel, 5, 1);
    rig_free(r);
}
END_TEST

/* A PIC as small as can be: one line, one vector. */
typedef struct OnePin {
    Rig *r;
    unsigned asked;
} OnePin;

static int give_vector(void *opaque)
{
    OnePin *p = opaque;
    p->asked++;
    klass(p->r)->set_intr(rig_cpu(p->r, 0), false, give_vector, p);
    return 0x30;
}

START_TEST(vectors_of_a_pic_outside_wake_a_guest_that_halts_in_the_kernel)
{
    Rig *r = rig_new(IRQCHIP_SPLIT, false, 1 * MiB);
    OnePin pin = { .r = r };
    rig_start(r, "interrupt");
    rig_poke(r, GUEST_PARAM, 5, 2);
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 5; i++) {
        klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
        until_values(r, 2 + i);
        ck_assert_uint_eq(r->got[1 + i].value, i + 1);
    }
    rig_wait(r);
    ck_assert(r->finished);
    ck_assert_uint_eq(pin.asked, 5);
    rig_free(r);
}
END_TEST

START_TEST(without_a_controller_in_the_kernel_interrupts_are_injected_when_the_guest_can_take_them)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    OnePin pin = { .r = r };
    rig_start(r, "interrupt");
    rig_poke(r, GUEST_PARAM, 5, 2);
    /* The first before the guest has its table and its IF: it has to wait for both. */
    klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
    rig_resume(r);
    until_values(r, 2);
    ck_assert_uint_eq(r->got[0].value, 0xffff);
    for (unsigned i = 1; i < 5; i++) {
        klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
        until_values(r, 2 + i);
        ck_assert_uint_eq(r->got[1 + i].value, i + 1);
    }
    rig_wait(r);
    ck_assert(r->finished);
    ck_assert_uint_eq(pin.asked, 5);
    rig_free(r);
}
END_TEST

static void nmis(IrqchipMode mode)
{
    Rig *r = rig_new(mode, false, 1 * MiB);
    GError *err = NULL;
    rig_start(r, "interrupt");
    rig_poke(r, GUEST_PARAM, 3, 2);
    rig_resume(r);
    until_values(r, 1);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_msg(klass(r)->inject_nmi(rig_cpu(r, 0), &err), "%s", err ? err->message : "");
        until_values(r, 2 + i);
        ck_assert_uint_eq(r->got[1 + i].value, 0x1111);
    }
    rig_wait(r);
    ck_assert(r->finished);
    rig_free(r);
}

START_TEST(an_nmi_wakes_a_guest_that_halts_in_the_kernel)
{
    nmis(IRQCHIP_ON);
}
END_TEST

START_TEST(an_nmi_wakes_a_guest_that_halts_in_the_engine)
{
    nmis(IRQCHIP_OFF);
}
END_TEST

START_TEST(a_second_processor_is_started_by_init_and_sipi)
{
    Rig *r = rig_new(IRQCHIP_ON, false, 1 * MiB);
    rig_add_cpu(r);
    rig_add_cpu(r);
    rig_start(r, "smp");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->n, 2);
    ck_assert_uint_eq(r->got[0].value, 0xa1);
    ck_assert_uint_eq(r->got[1].value, 0xb0);
    rig_free(r);
}
END_TEST

START_TEST(a_reset_machine_starts_its_second_processor_again)
{
    Rig *r = rig_new(IRQCHIP_ON, true, 1 * MiB);
    GError *err = NULL;
    rig_add_cpu(r);
    rig_add_cpu(r);
    rig_start(r, "smp");
    for (unsigned i = 0; i < 3; i++) {
        rig_poke(r, 0x7f04, 0, 4);
        rig_run(r);
        ck_assert_msg(r->finished, "%s", r->m->reason);
        ck_assert_uint_eq(r->n, 2);
        ck_assert_msg(machine_reset(r->m, &err), "%s", err ? err->message : "");
        r->n = 0;
        r->finished = false;
        rig_set_entry(r);
    }
    rig_free(r);
}
END_TEST

static GBytes *save_chips(Rig *r)
{
    StateWriter *w = state_writer_new();
    state_section_begin(w, "chips", 0, 1);
    vmstate_save(w, klass(r)->vmstate(r->m->accel), r->m->accel);
    state_section_end(w);
    return state_writer_finish(w);
}

START_TEST(the_state_of_the_in_kernel_devices_survives_a_round_trip)
{
    Rig *r = rig_new(IRQCHIP_ON, true, 1 * MiB), *other = rig_new(IRQCHIP_ON, true, 1 * MiB);
    GError *err = NULL;
    const char *name;
    uint32_t instance, version;
    rig_start(r, "timer");
    rig_start(other, "spin");
    rig_run(r); /* PIC and PIT programmed */
    GBytes *a = save_chips(r), *b = save_chips(other);
    ck_assert(!g_bytes_equal(a, b));
    StateReader *s = state_reader_new(a, &err);
    ck_assert(s && state_next_section(s, &name, &instance, &version));
    ck_assert_msg(vmstate_load(s, klass(other)->vmstate(other->m->accel), other->m->accel, &err),
                  "%s", err ? err->message : "");
    state_reader_free(s);
    g_bytes_unref(b);
    b = save_chips(other);
    ck_assert(g_bytes_equal(a, b));
    g_bytes_unref(a);
    g_bytes_unref(b);
    rig_free(r);
    rig_free(other);
}
END_TEST

START_TEST(a_restored_timer_goes_on_ticking)
{
    Rig *r = rig_new(IRQCHIP_ON, true, 1 * MiB);
    GError *err = NULL;
    Snapshot *s = NULL;
    rig_start(r, "timer");
    rig_run(r);
    ck_assert(r->finished);
    s = machine_snapshot(r->m, &err);
    ck_assert_msg(s != NULL, "%s", err ? err->message : "");
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_msg(machine_restore(r->m, s, &err), "%s", err ? err->message : "");
        /* Back into the loop that waits for ticks, with two to go. */
        r->finished = false;
        r->n = 0;
        rig_set_entry(r);
        rig_run(r);
        ck_assert_msg(r->finished, "%s", r->m->reason);
    }
    snapshot_unref(s);
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, the_timer_of_the_kernel_wakes_a_halted_guest);
    tcase_add_test(tc, a_line_of_the_in_kernel_pic_interrupts_once_for_each_edge);
    tcase_add_test(tc, an_irqfd_is_a_line_without_the_engine);
    tcase_add_test(tc, messages_and_routed_irqfds_reach_the_lapic);
    tcase_add_test(tc, messages_and_routed_irqfds_reach_the_lapic_of_a_split_controller);
    tcase_add_test(tc, the_end_of_a_level_interrupt_reaches_the_ioapic_outside);
    tcase_add_test(tc, a_line_that_stays_high_comes_again_after_each_end_of_interrupt);
    tcase_add_test(tc, an_edge_comes_once_and_its_end_is_nobodys_business);
    tcase_add_test(tc, what_needs_an_interrupt_controller_says_so_without_one);
    tcase_add_test(
        tc,
        without_a_controller_in_the_kernel_interrupts_are_injected_when_the_guest_can_take_them);
    tcase_add_test(tc, vectors_of_a_pic_outside_wake_a_guest_that_halts_in_the_kernel);
    tcase_add_test(tc, an_nmi_wakes_a_guest_that_halts_in_the_kernel);
    tcase_add_test(tc, an_nmi_wakes_a_guest_that_halts_in_the_engine);
    tcase_add_test(tc, a_second_processor_is_started_by_init_and_sipi);
    tcase_add_test(tc, a_reset_machine_starts_its_second_processor_again);
    tcase_add_test(tc, the_state_of_the_in_kernel_devices_survives_a_round_trip);
    tcase_add_test(tc, a_restored_timer_goes_on_ticking);
}

int main(void)
{
    return rig_main("kvm irq", add);
}

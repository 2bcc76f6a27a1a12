/* Every exit of KVM that a guest can bring about on any host reaches the engine in the engine's
 * terms. */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>

typedef struct Seen {
    unsigned n;
    EventRecord x[64];
    EventAction action;
    uint64_t answer;
    bool set_answer;
} Seen;

static EventAction see(void *opaque, VCpu *cpu, EventRecord *x)
{
    Seen *s = opaque;
    if (s->n < G_N_ELEMENTS(s->x)) {
        s->x[s->n] = *x;
    }
    s->n++;
    if (s->set_answer) {
        x->value = s->answer;
    }
    return s->action;
}

static void expect_values(const Rig *r, unsigned from, const uint64_t *want, unsigned n)
{
    ck_assert_msg(r->n >= from + n, "%u values, %u wanted", r->n, from + n);
    for (unsigned i = 0; i < n; i++) {
        ck_assert_msg(r->got[from + i].value == want[i], "value %u is %#llx, not %#llx", from + i,
                      (unsigned long long)r->got[from + i].value, (unsigned long long)want[i]);
    }
}

START_TEST(port_accesses_of_every_size_reach_the_device_in_order)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "pio");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    static const uint64_t want[] = { 0x11, 0x2211, 0x44332211, 1,      2,      3, 10, 11, 12,
                                     13,   14,     0x1001,     0x1002, 0x1003, 4, 5,  6,  7 };
    static const unsigned sizes[] = { 1, 2, 4, 4, 4, 4, 1, 1, 1, 1, 1, 2, 2, 2 };
    expect_values(r, 0, want, G_N_ELEMENTS(want));
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        ck_assert_uint_eq(r->got[i].size, sizes[i]);
    }
    ck_assert_uint_eq(r->next_source, 7 + 3000);
    uint8_t last = 0;
    uint64_t di = r->got[G_N_ELEMENTS(want)].value;
    address_space_read(r->m->memory, di - 1, MEMTXATTRS_DEBUG, &last, 1);
    ck_assert_uint_eq(last, (7 + 3000) & 0xff);
    rig_free(r);
}
END_TEST

START_TEST(memory_mapped_accesses_of_every_size_reach_the_device)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "mmio");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    static const RigValue want[] = {
        { MMIO_DEVICE + 1, 0x11, 1 },
        { MMIO_DEVICE + 2, 0x2222, 2 },
        { MMIO_DEVICE + 4, 0x44444444, 4 },
        { PORT_VALUE, 0x21, 4 },
        { PORT_VALUE, 0x42, 4 },
        { PORT_VALUE, 0x84, 4 },
        { MMIO_DEVICE + 0x10, 0x15, 4 },
    };
    ck_assert_uint_eq(r->n, G_N_ELEMENTS(want));
    for (unsigned i = 0; i < G_N_ELEMENTS(want); i++) {
        ck_assert_uint_eq(r->got[i].addr, want[i].addr);
        ck_assert_uint_eq(r->got[i].value, want[i].value);
        ck_assert_uint_eq(r->got[i].size, want[i].size);
    }
    rig_free(r);
}
END_TEST

START_TEST(a_guest_reaches_long_mode_and_computes_there)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 4 * MiB);
    rig_start(r, "long");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    static const uint64_t want[] = { 0xabcdf001, 0x23456789 };
    expect_values(r, 0, want, 2);
    GError *err = NULL;
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_ALL, &err));
    ck_assert(rig_cpu(r, 0)->state->efer & (1u << 10));
    ck_assert(rig_cpu(r, 0)->state->seg[X86_CS].l);
    rig_free(r);
}
END_TEST

START_TEST(a_triple_fault_stops_the_machine_and_says_so)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    r->m->on_triple_fault = ON_EVENT_PAUSE;
    rig_start(r, "triple");
    rig_run(r);
    ck_assert_int_ne(r->m->state, RUN_STATE_RUNNING);
    ck_assert_msg(strstr(r->m->reason, "triple fault") != NULL, "%s", r->m->reason);
    rig_free(r);
}
END_TEST

static void set_assist_off(Rig *r)
{
    const PropValue off = { .kind = PROP_BOOL, .boolean = false };
    ck_assert(object_property_set(OBJECT(r->m->accel), "assist", &off, NULL));
}

START_TEST(an_instruction_that_kvm_cannot_emulate_is_named_with_its_bytes)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    set_assist_off(r);
    rig_start(r, "emufail");
    rig_run(r);
    ck_assert_int_eq(r->m->state, RUN_STATE_ERROR);
    ck_assert_msg(strstr(r->m->reason, "cannot emulate") && strstr(r->m->reason, "0008:1100") &&
                      strstr(r->m->reason, "32-bit mode") && strstr(r->m->reason, "0f 58 0b"),
                  "%s", r->m->reason);
    rig_free(r);
}
END_TEST

START_TEST(code_outside_of_memory_is_an_error_not_a_crash)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    set_assist_off(r);
    rig_start(r, "spin");
    rig_cpu(r, 0)->state->seg[X86_CS].base = MMIO_DEVICE;
    rig_cpu(r, 0)->state->rip = 0;
    rig_run(r);
    ck_assert_msg(r->m->state != RUN_STATE_RUNNING, "still running");
    ck_assert(r->m->reason != NULL);
    rig_free(r);
}
END_TEST

START_TEST(a_state_that_no_processor_can_have_is_refused_with_its_registers)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "spin");
    rig_cpu(r, 0)->state->cr0 = 0x80000000; /* paging without protection */
    rig_run(r);
    ck_assert_int_eq(r->m->state, RUN_STATE_ERROR);
    ck_assert_msg(strstr(r->m->reason, "cr0 0x80000000") != NULL, "%s", r->m->reason);
    rig_free(r);
}
END_TEST

START_TEST(an_msr_hook_that_only_looks_changes_nothing)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Seen s = { .action = EVENT_CONTINUE };
    rig_start(r, "msr");
    EventHook *h = rig_hook(r, EVENT_MSR, 0x175, 1, see, &s);
    ck_assert_str_eq(event_hook_how(h), "msr filter");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(s.n, 6);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert(s.x[2 * i].write && s.x[2 * i].value == 0x5003 - i);
        ck_assert(!s.x[2 * i + 1].write && s.x[2 * i + 1].value == 0x5003 - i);
        ck_assert_uint_eq(r->got[2 * i].value, 0x5003 - i);
    }
    GError *err = NULL;
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_MSRS, &err));
    ck_assert_uint_eq(x86_msr_find(rig_cpu(r, 0)->state, 0x175)->value, 0x5001);
    rig_free(r);
}
END_TEST

START_TEST(an_msr_hook_can_answer_and_its_removal_ends_that)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Seen s = { .action = EVENT_HANDLED, .set_answer = true, .answer = 0x1234 };
    rig_start(r, "msr");
    EventHook *h = rig_hook(r, EVENT_MSR, 0x277, 1, see, &s);
    rig_run(r);
    ck_assert_uint_eq(s.n, 3);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_uint_eq(r->got[2 * i].value, 0x5003 - i);
        ck_assert_uint_eq(r->got[2 * i + 1].value, 0x1234);
    }
    event_hook_remove(h);
    r->n = 0;
    rig_set_entry(r);
    rig_run(r);
    ck_assert_uint_eq(s.n, 3);
    ck_assert_uint_ne(r->got[1].value, 0x1234);
    rig_free(r);
}
END_TEST

START_TEST(a_hook_on_all_msrs_sees_those_of_every_range)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Seen s = { .action = EVENT_CONTINUE };
    rig_start(r, "msr");
    rig_hook(r, EVENT_MSR, 0, UINT64_MAX, see, &s);
    rig_run(r);
    ck_assert_uint_eq(s.n, 9);
    ck_assert_uint_eq(r->got[0].value, 0x5003);
    rig_free(r);
}
END_TEST

START_TEST(msr_hooks_in_more_places_than_a_filter_has_all_work)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Seen s = { .action = EVENT_CONTINUE }, other = { .action = EVENT_CONTINUE };
    rig_start(r, "msr");
    for (unsigned i = 1; i < 40; i++) {
        rig_hook(r, EVENT_MSR, (uint64_t)i << 24, 1, see, &other);
    }
    rig_hook(r, EVENT_MSR, 0x277, 1, see, &s);
    rig_run(r);
    ck_assert_uint_eq(s.n, 3);
    ck_assert_uint_eq(other.n, 0);
    ck_assert_uint_eq(r->got[0].value, 0x5003);
    rig_free(r);
}
END_TEST

static void refused(Rig *r, EventSource source, uint64_t addr, uint64_t len, uint8_t directions,
                    const char *word)
{
    GError *err = NULL;
    EventFilter f = {
        .source = source, .addr = addr, .len = len, .cpu = -1, .directions = directions
    };
    Seen s = { 0 };
    EventHook *h = event_hook_add(r->m->events, &f, see, &s, NULL, &err);
    ck_assert_msg(h == NULL, "%#llx was armed", (unsigned long long)addr);
    ck_assert_msg(strstr(err->message, word) != NULL, "%s", err->message);
    g_error_free(err);
}

START_TEST(hooks_that_kvm_could_never_fire_are_refused_with_the_reason)
{
    Rig *r = rig_new(IRQCHIP_ON, true, 1 * MiB);
    rig_start(r, "spin");
    refused(r, EVENT_PIO, 0x20, 2, 0, "interrupt controller");
    refused(r, EVENT_PIO, 0x40, 4, 0, "PIT");
    refused(r, EVENT_PIO, 0x61, 1, 0, "PIT");
    refused(r, EVENT_PIO, 0x10000, 1, 0, "0xffff");
    refused(r, EVENT_MMIO, 0x2000, 16, 0, "ram");
    refused(r, EVENT_MMIO, 0xfee00020, 4, 0, "LAPIC");
    refused(r, EVENT_MMIO, 0xfec00000, 4, 0, "IOAPIC");
    refused(r, EVENT_MSR, 0x808, 1, 0, "x2APIC");
    refused(r, EVENT_EXEC, 0x1000, 4, 0, "one address");
    Seen s = { 0 };
    EventHook *h = rig_hook(r, EVENT_PIO, 0, 0x10000, see, &s);
    ck_assert_msg(strstr(event_hook_how(h), "without the ports of the in-kernel"), "%s",
                  event_hook_how(h));
    ck_assert_str_eq(event_hook_how(rig_hook(r, EVENT_PIO, 0x80, 1, see, &s)), "port exit");
    ck_assert_str_eq(event_hook_how(rig_hook(r, EVENT_MMIO, 0xfed40000, 4096, see, &s)),
                     "mmio exit");
    rig_free(r);
}
END_TEST

START_TEST(hypercalls_are_seen_where_kvm_can_and_refused_where_not)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Seen s = { .action = EVENT_HANDLED, .set_answer = true, .answer = 77 };
    GError *err = NULL;
    EventFilter f = { .source = EVENT_HYPERCALL, .addr = 42, .len = 1, .cpu = -1 };
    rig_start(r, "hypercall");
    EventHook *h = event_hook_add(r->m->events, &f, see, &s, NULL, &err);
    if (!h) {
        ck_assert_msg(strstr(err->message, "KVM_CAP_XEN_HVM") && strstr(err->message, "soft"), "%s",
                      err->message);
        g_error_free(err);
    } else {
        rig_run(r);
        ck_assert_uint_eq(s.n, 1);
        ck_assert_uint_eq(s.x[0].args[0], 1);
        ck_assert_uint_eq(s.x[0].args[3], 4);
        static const uint64_t want[] = { 77, (uint32_t)-1000 };
        expect_values(r, 0, want, 2);
    }
    rig_free(r);
}
END_TEST

START_TEST(a_port_hook_sees_the_instruction_pointer)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Seen s = { .action = EVENT_CONTINUE };
    rig_start(r, "pio");
    rig_hook(r, EVENT_PIO, PORT_VALUE, 1, see, &s);
    rig_run(r);
    ck_assert_uint_ge(s.n, 18);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_uint_ge(s.x[i].rip, GUEST_ADDR);
        ck_assert_uint_le(s.x[i].rip, GUEST_ADDR + 32);
    }
    rig_free(r);
}
END_TEST

static EventAction set_rbx(void *opaque, VCpu *cpu, EventRecord *x)
{
    if (cpu_modify_state(cpu, X86_STATE_GPR, NULL)) {
        cpu->state->gpr[X86_RBX] = 0xb0b0;
    }
    return EVENT_CONTINUE;
}

START_TEST(registers_set_in_a_hook_of_a_read_count_and_so_does_the_answer)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "step");
    rig_hook(r, EVENT_PIO, PORT_SOURCE, 1, set_rbx, NULL);
    r->next_source = 0x40;
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->got[0].value, 0x41);
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
    ck_assert_uint_eq(rig_cpu(r, 0)->state->gpr[X86_RBX], 0xb0b0);
    rig_free(r);
}
END_TEST

static EventAction skip_ahead(void *opaque, VCpu *cpu, EventRecord *x)
{
    if (cpu_modify_state(cpu, X86_STATE_GPR, NULL)) {
        cpu->state->rip = GUEST_ADDR + 0x11;
        cpu->state->gpr[X86_RSI] = GUEST_ADDR;
        cpu->state->gpr[X86_RDX] = PORT_VALUE;
    }
    return EVENT_CONTINUE;
}

START_TEST(an_instruction_pointer_set_in_a_hook_is_where_the_guest_goes_on)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "step");
    rig_hook(r, EVENT_PIO, PORT_SOURCE, 1, skip_ahead, NULL);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->n, 1); /* outsb only: out was jumped over */
    ck_assert_uint_eq(r->got[0].value, 0x90);
    rig_free(r);
}
END_TEST

START_TEST(a_missing_device_node_is_named_and_so_is_what_to_do)
{
    GError *err = NULL;
    g_setenv("VMLUA_KVM_DEVICE", "/nonexistent/kvm", true);
    AccelClass *k = accel_find("kvm", &err);
    ck_assert(k && !k->available(&err));
    ck_assert_msg(strstr(err->message, "/nonexistent/kvm") && strstr(err->message, "kvm_intel"),
                  "%s", err->message);
    g_clear_error(&err);
    g_setenv("VMLUA_KVM_DEVICE", "/dev/null", true);
    ck_assert(!k->available(&err));
    ck_assert_msg(strstr(err->message, "not a KVM device") != NULL, "%s", err->message);
    g_clear_error(&err);
    g_unsetenv("VMLUA_KVM_DEVICE");

    Accel *a = accel_new(k);
    ck_assert(object_property_set_str(OBJECT(a), "device-path", "/nonexistent/x", &err));
    MemoryRegion root, io;
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    memory_region_init(&io, NULL, "io", 65536);
    AccelConfig c = { .memory = address_space_new(ADDRESS_SPACE_MEMORY, &root, "memory"),
                      .io = address_space_new(ADDRESS_SPACE_IO, &io, "io"),
                      .max_cpus = 1 };
    ck_assert(!accel_create(a, &c, &err));
    ck_assert_msg(strstr(err->message, "/nonexistent/x") != NULL, "%s", err->message);
    g_clear_error(&err);
    object_unref(a);

    a = accel_new(k);
    c.max_cpus = 1000000;
    ck_assert(!accel_create(a, &c, &err));
    ck_assert_msg(strstr(err->message, "1000000 vCPUs") != NULL, "%s", err->message);
    g_clear_error(&err);
    object_unref(a);
    address_space_free(c.memory);
    address_space_free(c.io);
    memory_region_finalize(&root);
    memory_region_finalize(&io);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, port_accesses_of_every_size_reach_the_device_in_order);
    tcase_add_test(tc, memory_mapped_accesses_of_every_size_reach_the_device);
    tcase_add_test(tc, a_guest_reaches_long_mode_and_computes_there);
    tcase_add_test(tc, a_triple_fault_stops_the_machine_and_says_so);
    tcase_add_test(tc, an_instruction_that_kvm_cannot_emulate_is_named_with_its_bytes);
    tcase_add_test(tc, code_outside_of_memory_is_an_error_not_a_crash);
    tcase_add_test(tc, a_state_that_no_processor_can_have_is_refused_with_its_registers);
    tcase_add_test(tc, an_msr_hook_that_only_looks_changes_nothing);
    tcase_add_test(tc, an_msr_hook_can_answer_and_its_removal_ends_that);
    tcase_add_test(tc, a_hook_on_all_msrs_sees_those_of_every_range);
    tcase_add_test(tc, msr_hooks_in_more_places_than_a_filter_has_all_work);
    tcase_add_test(tc, hooks_that_kvm_could_never_fire_are_refused_with_the_reason);
    tcase_add_test(tc, hypercalls_are_seen_where_kvm_can_and_refused_where_not);
    tcase_add_test(tc, a_port_hook_sees_the_instruction_pointer);
    tcase_add_test(tc, registers_set_in_a_hook_of_a_read_count_and_so_does_the_answer);
    tcase_add_test(tc, an_instruction_pointer_set_in_a_hook_is_where_the_guest_goes_on);
    tcase_add_test(tc, a_missing_device_node_is_named_and_so_is_what_to_do);
}

int main(void)
{
    return rig_main("kvm exits", add);
}

/* What KVM can say and this host's may never say: failed entries, events of the platform,
 * capabilities and ioctls that are refused; the coalesced ring. */
#include "tests/unit/kvm_fake.h"

/* ---- exits ------------------------------------------------------------------------------- */

static int fail_entry(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    run->fail_entry.hardware_entry_failure_reason = 0x80000021;
    return 0;
}

START_TEST(a_failed_entry_pauses_the_machine_and_says_what_the_processor_said)
{
    Rig *r = make(IRQCHIP_OFF, "hello");
    fake_exit(fail_entry);
    rig_run(r);
    ck_assert_int_eq(r->m->state, RUN_STATE_ERROR);
    ck_reason(r, "refused to enter the guest");
    ck_reason(r, "0x80000021 (invalid guest state)");
    ck_reason(r, "at 0000:1000 (real mode), instruction bytes");
    ck_assert_uint_eq(rig_cpu(r, 0)->stats.exits[CPU_EXIT_FAIL_ENTRY], 1);
    rig_run(r); /* the next entry is the kernel's: the guest is as it was */
    ck_assert(r->finished);
    rig_free(r);
}
END_TEST

static uint32_t system_event_type;

static int system_event(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
    run->system_event.type = system_event_type;
    run->system_event.ndata = 0;
    return 0;
}

START_TEST(events_of_the_platform_end_reset_and_pause_the_machine)
{
    static const struct {
        uint32_t type;
        bool no_reboot;
        RunState state;
        const char *reason;
    } cases[] = {
        { KVM_SYSTEM_EVENT_SHUTDOWN, false, RUN_STATE_SHUTDOWN, "powered off" },
        { KVM_SYSTEM_EVENT_RESET, true, RUN_STATE_SHUTDOWN, "asked for a reset" },
        { KVM_SYSTEM_EVENT_CRASH, false, RUN_STATE_PAUSED, "reported a crash" },
        { 77, false, RUN_STATE_ERROR, "unknown system event 77" },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Rig *r = make(IRQCHIP_OFF, "hello");
        r->m->no_reboot = cases[i].no_reboot;
        system_event_type = cases[i].type;
        fake_exit(system_event);
        rig_run(r);
        ck_assert_int_eq(r->m->state, cases[i].state);
        ck_reason(r, cases[i].reason);
        rig_free(r);
    }
}
END_TEST

static int unknown_hardware(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_UNKNOWN;
    run->hw.hardware_exit_reason = 0x4d;
    return 0;
}

static int unknown_reason(struct kvm_run *run)
{
    run->exit_reason = 4711;
    return 0;
}

static int delivery_failed(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
    run->internal.ndata = 2;
    run->internal.data[0] = 0xabc;
    run->internal.data[1] = 0xdef;
    return 0;
}

static int memory_fault(struct kvm_run *run)
{
    run->exit_reason = 39; /* KVM_EXIT_MEMORY_FAULT */
    memcpy(run->padding + 8, &(uint64_t){ 0x123456000 }, 8);
    return EFAULT;
}

static int bus_error(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_UNKNOWN;
    return EFAULT;
}

START_TEST(what_kvm_gives_up_with_is_told_in_words)
{
    static const struct {
        FakeExit exit;
        const char *reason;
    } cases[] = {
        { unknown_hardware, "hardware exit reason 0x4d" },
        { unknown_reason, "KVM exit reason 4711 is not handled, at 0000:1000" },
        { delivery_failed, "an exit while an event was being delivered, data abc def" },
        { memory_fault, "no host memory behind guest address 0x123456000" },
        { bus_error, "was a file cut short?" },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Rig *r = make(IRQCHIP_OFF, "hello");
        fake_exit(cases[i].exit);
        rig_run(r);
        ck_assert_int_eq(r->m->state, RUN_STATE_ERROR);
        ck_reason(r, cases[i].reason);
        rig_free(r);
    }
}
END_TEST

static int woken(struct kvm_run *run)
{
    return EAGAIN;
}

static int signal_came(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_INTR;
    return EINTR;
}

static int lowered_priority(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_SET_TPR;
    return 0;
}

START_TEST(exits_that_mean_nothing_are_passed_over)
{
    Rig *r = make(IRQCHIP_OFF, "hello");
    fake_exit(woken);
    fake_exit(signal_came);
    fake_exit(lowered_priority);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_ge(rig_cpu(r, 0)->stats.exits[CPU_EXIT_INTERRUPTED], 3);
    rig_free(r);
}
END_TEST

/* ---- what is refused --------------------------------------------------------------------- */

START_TEST(hypercalls_are_refused_by_name_where_kvm_keeps_them)
{
    Rig *r;
    GError *err = NULL;
    EventFilter f = { .source = EVENT_HYPERCALL, .addr = 42, .len = 1, .cpu = -1 };
    fake.lacks = KVM_CAP_XEN_HVM;
    r = make(IRQCHIP_OFF, "hypercall");
    ck_assert(!event_hook_add(r->m->events, &f, count, NULL, NULL, &err));
    ck_assert_msg(strstr(err->message, "KVM_CAP_XEN_HVM") && strstr(err->message, "soft"), "%s",
                  err->message);
    g_error_free(err);
    rig_free(r);
}
END_TEST

START_TEST(a_kvm_without_what_is_needed_is_refused_by_name)
{
    GError *err = NULL;
    AccelClass *k = accel_find("kvm", NULL);
    fake.lacks = KVM_CAP_IMMEDIATE_EXIT;
    ck_assert(!k->available(&err));
    ck_assert_msg(strstr(err->message, "lacks KVM_CAP_IMMEDIATE_EXIT (pausing without races)"),
                  "%s", err->message);
    g_error_free(err);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------ */

static const unsigned far_pages[] = { 0x200, 0x201 };

static void write_far_pages(Rig *r, MemoryRegion *far)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(far_pages); i++) {
        rig_poke(r, GUEST_LIST + 2 * i, far_pages[i], 2);
    }
    rig_poke(r, GUEST_LIST + 2 * G_N_ELEMENTS(far_pages), 0, 2);
    rig_poke(r, GUEST_PARAM, 9, 2);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(((uint8_t *)memory_region_get_ram_ptr(far))[0], 9);
    ck_assert_uint_eq(((uint8_t *)memory_region_get_ram_ptr(far))[0x1000], 9);
    ck_assert_uint_gt(rig_cpu(r, 0)->stats.exits[CPU_EXIT_MMIO], 0);
}

START_TEST(ram_that_kvm_does_not_map_is_reached_by_exits)
{
    Rig *r = make(IRQCHIP_OFF, NULL);
    MemoryRegion far;
    ck_assert(memory_region_init_ram(&far, NULL, "far", 2 * 4096, NULL));
    fake.fails = KVM_SET_USER_MEMORY_REGION;
    memory_region_add_subregion(&r->m->memory_root, 0x200000, &far);
    fake.fails = 0;
    rig_start(r, "dirty");
    write_far_pages(r, &far);
    memory_region_del_subregion(&r->m->memory_root, &far);
    memory_region_finalize(&far);
    rig_free(r);
}
END_TEST

START_TEST(ram_beyond_the_last_slot_is_reached_by_exits)
{
    Rig *r;
    MemoryRegion far;
    fake.limit = KVM_CAP_NR_MEMSLOTS;
    fake.limit_to = 1;
    r = make(IRQCHIP_OFF, NULL);
    ck_assert(memory_region_init_ram(&far, NULL, "far", 2 * 4096, NULL));
    memory_region_add_subregion(&r->m->memory_root, 0x200000, &far);
    ck_assert_uint_eq(rig_stat(r, "kvm-slots"), 1);
    rig_start(r, "dirty");
    write_far_pages(r, &far);
    memory_region_del_subregion(&r->m->memory_root, &far);
    memory_region_finalize(&far);
    rig_free(r);
}
END_TEST

/* ---- ioeventfds and the ring ------------------------------------------------------------- */

static const struct kvm_ioeventfd *last_ioeventfd(void)
{
    ck_assert_uint_gt(fake.ioeventfds->len, 0);
    return &g_array_index(fake.ioeventfds, struct kvm_ioeventfd, fake.ioeventfds->len - 1);
}

static uint64_t read_nothing(void *opaque, hwaddr addr, unsigned size)
{
    return 0;
}

static void write_nothing(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
}

START_TEST(an_ioeventfd_of_any_size_at_the_end_of_memory_gives_way_to_a_hook)
{
    static const MemoryRegionOps ops = { .read = read_nothing, .write = write_nothing };
    Rig *r = make(IRQCHIP_OFF, "hello");
    MemoryRegion last;
    unsigned hits = 0;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MemoryRegionIoeventfd ev = { .range = { .addr = 0xffd, .size = 0 }, .fd = fd };
    memory_region_init_io(&last, NULL, &ops, r, "last page", 4096);
    memory_region_add_subregion(&r->m->memory_root, UINT64_MAX - 4095, &last);
    fake.ioeventfds = g_array_new(FALSE, TRUE, sizeof(struct kvm_ioeventfd));
    memory_region_add_eventfd(&last, &ev);
    ck_assert_uint_eq(last_ioeventfd()->addr, UINT64_MAX - 2);
    ck_assert(!(last_ioeventfd()->flags & KVM_IOEVENTFD_FLAG_DEASSIGN));
    EventHook *h = rig_hook(r, EVENT_MMIO, UINT64_MAX, 1, count, &hits);
    ck_assert(last_ioeventfd()->flags & KVM_IOEVENTFD_FLAG_DEASSIGN);
    event_hook_remove(h);
    ck_assert(!(last_ioeventfd()->flags & KVM_IOEVENTFD_FLAG_DEASSIGN));
    h = rig_hook(r, EVENT_MMIO, UINT64_MAX - 3, 1, count, &hits); /* beside it */
    ck_assert_uint_eq(fake.ioeventfds->len, 3);
    event_hook_remove(h);
    memory_region_del_subregion(&r->m->memory_root, &last);
    memory_region_finalize(&last);
    g_clear_pointer(&fake.ioeventfds, g_array_unref);
    close(fd);
    rig_free(r);
}
END_TEST

typedef struct Flood {
    Rig *rig;
    unsigned writes, left;
} Flood;

/* Another vCPU, as it were: for each write that is taken out it puts one in. */
static void push(Rig *r)
{
    KvmAccel *a = KVM_ACCEL(r->m->accel);
    uint32_t last = a->ring->last;
    a->ring->coalesced_mmio[last] = (struct kvm_coalesced_mmio){ .phys_addr = 0x5f0,
                                                                 .len = 1,
                                                                 .pio = 1 };
    __atomic_store_n(&a->ring->last, (last + 1) % a->ring_slots, __ATOMIC_RELEASE);
}

static void flood_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Flood *f = opaque;
    f->writes++;
    if (f->left) {
        f->left--;
        push(f->rig);
    }
}

START_TEST(emptying_the_ring_ends_though_others_go_on_filling_it)
{
    static const MemoryRegionOps ops = { .read = read_nothing, .write = flood_write };
    Rig *r = make(IRQCHIP_OFF, "hello");
    KvmAccel *a = KVM_ACCEL(r->m->accel);
    Flood f = { .rig = r, .left = 100000 };
    MemoryRegion port;
    if (!a->ring) {
        printf("ok 1 - the ring # SKIP this host's KVM has no coalesced writes\n");
        rig_free(r);
        return;
    }
    memory_region_init_io(&port, NULL, &ops, &f, "flood", 1);
    memory_region_add_subregion(&r->m->io_root, 0x5f0, &port);
    push(r);
    kvm_coalesced_drain(a);
    ck_assert_uint_eq(f.writes, a->ring_slots);
    f.left = 0;
    kvm_coalesced_drain(a);
    ck_assert_uint_eq(f.writes, a->ring_slots + 1);
    memory_region_del_subregion(&r->m->io_root, &port);
    memory_region_finalize(&port);
    rig_free(r);
}
END_TEST

typedef struct Growing {
    Rig *rig;
    MemoryRegion port;
    int fd;
    unsigned added;
} Growing;

static void growing_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Growing *g = opaque;
    for (unsigned i = 0; i < 64 && !g->added; i++) {
        MemoryRegionIoeventfd ev = {
            .range = { .addr = 1, .size = 1 }, .match_data = true, .data = i, .fd = g->fd
        };
        memory_region_add_eventfd(&g->port, &ev);
    }
    g->added++;
}

START_TEST(a_device_may_change_its_ioeventfds_while_its_coalesced_writes_are_taken_out)
{
    static const MemoryRegionOps ops = { .read = read_nothing, .write = growing_write };
    Rig *r = make(IRQCHIP_OFF, "hello");
    KvmAccel *a = KVM_ACCEL(r->m->accel);
    Growing g = { .rig = r, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
    unsigned hits = 0;
    if (a->ring && kvm_has(a, KC_COALESCED_PIO)) {
        memory_region_init_io(&g.port, NULL, &ops, &g, "growing", 4);
        memory_region_add_subregion(&r->m->io_root, 0x5f0, &g.port);
        memory_region_add_coalescing(&g.port, 0, 1);
        push(r);
        EventHook *h = rig_hook(r, EVENT_PIO, 0x5f0, 1, count, &hits);
        ck_assert_uint_eq(g.added, 1);
        event_hook_remove(h);
        push(r);
        memory_region_clear_coalescing(&g.port);
        ck_assert_uint_eq(g.added, 2);
        memory_region_del_subregion(&r->m->io_root, &g.port);
        memory_region_finalize(&g.port);
    }
    close(g.fd);
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, a_failed_entry_pauses_the_machine_and_says_what_the_processor_said);
    tcase_add_test(tc, events_of_the_platform_end_reset_and_pause_the_machine);
    tcase_add_test(tc, what_kvm_gives_up_with_is_told_in_words);
    tcase_add_test(tc, exits_that_mean_nothing_are_passed_over);
    tcase_add_test(tc, hypercalls_are_refused_by_name_where_kvm_keeps_them);
    tcase_add_test(tc, a_kvm_without_what_is_needed_is_refused_by_name);
    tcase_add_test(tc, ram_that_kvm_does_not_map_is_reached_by_exits);
    tcase_add_test(tc, ram_beyond_the_last_slot_is_reached_by_exits);
    tcase_add_test(tc, an_ioeventfd_of_any_size_at_the_end_of_memory_gives_way_to_a_hook);
    tcase_add_test(tc, emptying_the_ring_ends_though_others_go_on_filling_it);
    tcase_add_test(tc, a_device_may_change_its_ioeventfds_while_its_coalesced_writes_are_taken_out);
}

int main(void)
{
    return rig_main("kvm faults", add);
}

/*
 * What KVM can say and this host's may never say: failed entries, events of the platform, traps,
 * capabilities and ioctls that are refused.
 *
 * The program has its own ioctl(). It hands everything to the kernel but what a test told it to
 * answer itself, and keeps what it was asked.
 */
#include "tests/unit/kvm_rig.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/accel/kvm/kvm_priv.h"
#include "engine/core/irq.h"
#include "engine/core/lock.h"

/* Fills the shared page; returns what KVM_RUN returns, 0 or an errno. */
typedef int (*FakeExit)(struct kvm_run *run);

static struct {
    Rig *rig;
    FakeExit exits[8]; /* of the first entries to come; then the kernel's */
    unsigned n_exits, next_exit;
    int lacks;           /* a KVM_CAP_* */
    int limit, limit_to; /* a KVM_CAP_* and what it says */
    unsigned long fails; /* a request, with errno ENOMEM, from the fails_after-th on */
    unsigned fails_after;
    struct kvm_guest_debug debug; /* the last of each */
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    uint32_t debug_controls; /* of all KVM_SET_GUEST_DEBUG, or-ed */
    unsigned interrupts, runs;
    GArray *ioeventfds; /* of kvm_ioeventfd */
} fake;

static struct kvm_run *run_of(int fd)
{
    KvmAccel *a = KVM_ACCEL(fake.rig->m->accel);
    for (unsigned i = 0; i < a->vcpus->len; i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);
        if (kv && kv->fd == fd) {
            return kv->run;
        }
    }
    ck_abort_msg("KVM_RUN of an unknown vCPU");
    return NULL;
}

static void note(unsigned long request, const void *arg)
{
    switch (request) {
    case KVM_SET_GUEST_DEBUG:
        memcpy(&fake.debug, arg, sizeof(fake.debug));
        fake.debug_controls |= fake.debug.control;
        break;
    case KVM_SET_DEBUGREGS:
        memcpy(&fake.debugregs, arg, sizeof(fake.debugregs));
        break;
    case KVM_SET_VCPU_EVENTS:
        memcpy(&fake.events, arg, sizeof(fake.events));
        break;
    case KVM_INTERRUPT:
        fake.interrupts++;
        break;
    case KVM_IOEVENTFD:
        if (fake.ioeventfds) {
            g_array_append_vals(fake.ioeventfds, arg, 1);
        }
        break;
    default:
        break;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (request == KVM_CHECK_EXTENSION) {
        if ((int)(uintptr_t)arg == fake.lacks) {
            return 0;
        }
        if (fake.limit && (int)(uintptr_t)arg == fake.limit) {
            return fake.limit_to;
        }
    }
    if (request == fake.fails && fake.fails) {
        if (fake.fails_after == 0) {
            errno = ENOMEM;
            return -1;
        }
        fake.fails_after--;
    }
    note(request, arg);
    if (request == KVM_RUN) {
        fake.runs++;
        if (fake.next_exit < fake.n_exits) {
            struct kvm_run *run = run_of(fd);
            int err = fake.exits[fake.next_exit++](run);
            errno = err;
            return err ? -1 : 0;
        }
    }
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

static void fake_exit(FakeExit fn)
{
    ck_assert_uint_lt(fake.n_exits, G_N_ELEMENTS(fake.exits));
    fake.exits[fake.n_exits++] = fn;
}

static Rig *make(IrqchipMode mode, const char *guest)
{
    Rig *r = fake.rig = rig_new(mode, false, 1 * MiB);
    if (guest) {
        rig_start(r, guest);
    }
    return r;
}

static void ck_reason(Rig *r, const char *text)
{
    ck_assert_msg(r->m->reason && strstr(r->m->reason, text), "'%s' lacks '%s'",
                  r->m->reason ? r->m->reason : "", text);
}

static AccelClass *klass(Rig *r)
{
    return ACCEL_GET_CLASS(r->m->accel);
}

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

/* ---- debugging --------------------------------------------------------------------------- */

static EventAction count(void *opaque, VCpu *cpu, EventRecord *x)
{
    (*(unsigned *)opaque)++;
    return EVENT_CONTINUE;
}

static void point_vectors(Rig *r)
{
    rig_poke(r, 1 * 4, GUEST_ADDR + 0x40, 4);
    rig_poke(r, 3 * 4, GUEST_ADDR + 0x80, 4);
}

static int trap_of_the_guest(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_DEBUG;
    run->debug.arch = (struct kvm_debug_exit_arch){
        .exception = 1, .pc = GUEST_ADDR + 1, .dr6 = 0xffff4ff0, .dr7 = 0x400
    };
    return 0;
}

START_TEST(the_guests_own_trap_is_given_back_to_it_while_breakpoints_are_set)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned hits = 0;
    point_vectors(r);
    rig_hook(r, EVENT_EXEC, 0x5000, 1, count, &hits);
    fake_exit(trap_of_the_guest);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert(fake.debug_controls & KVM_GUESTDBG_INJECT_DB);
    ck_assert_uint_eq(fake.debugregs.dr6 & 0x4000, 0x4000);
    ck_assert_uint_eq(r->n, 1);
    ck_assert_uint_eq(r->got[0].value, 0x11); /* its handler ran */
    ck_assert_uint_eq(hits, 0);
    rig_free(r);
}
END_TEST

static int int3_at_the_start(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_DEBUG;
    run->debug.arch = (struct kvm_debug_exit_arch){ .exception = 3, .pc = GUEST_ADDR };
    return 0;
}

static void set_fillers(Rig *r, unsigned *hits)
{
    ck_assert(object_property_set_bool(OBJECT(r->m->accel), "step-breakpoints", false, NULL));
    for (unsigned i = 0; i < 4; i++) {
        rig_hook(r, EVENT_EXEC, 0x5000 + i, 1, count, hits);
    }
}

START_TEST(a_software_breakpoint_in_real_mode_fires_and_its_instruction_still_runs)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0, hits = 0;
    point_vectors(r);
    set_fillers(r, &others);
    EventHook *h = rig_hook(r, EVENT_EXEC, GUEST_ADDR, 1, count, &hits);
    ck_assert_str_eq(event_hook_how(h), "sw breakpoint");
    fake_exit(int3_at_the_start);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(hits, 1);
    ck_assert_uint_eq(others, 0);
    ck_assert_uint_eq(r->n, 0);
    ck_assert_uint_eq(r->next_source, 1);
    ck_assert(!(fake.debug_controls & KVM_GUESTDBG_INJECT_BP));
    rig_free(r);
}
END_TEST

START_TEST(the_guests_own_int3_is_given_back_to_it_in_real_mode)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0;
    point_vectors(r);
    rig_poke(r, GUEST_ADDR, 0xcc, 1);
    set_fillers(r, &others);
    rig_hook(r, EVENT_EXEC, 0x5010, 1, count, &others);
    fake_exit(int3_at_the_start);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert(fake.debug_controls & KVM_GUESTDBG_INJECT_BP);
    ck_assert_uint_eq(r->n, 1);
    ck_assert_uint_eq(r->got[0].value, 0x33);
    ck_assert_uint_eq(others, 0);
    rig_free(r);
}
END_TEST

START_TEST(an_int3_of_a_breakpoint_that_is_gone_is_not_given_to_the_guest)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0;
    point_vectors(r);
    set_fillers(r, &others);
    fake_exit(int3_at_the_start); /* there is no INT3 at that place now */
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert(!(fake.debug_controls & KVM_GUESTDBG_INJECT_BP));
    ck_assert_uint_eq(r->n, 0);
    rig_free(r);
}
END_TEST

START_TEST(the_guest_with_two_addresses_for_one_page_runs)
{
    Rig *r = make(IRQCHIP_OFF, "alias");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->got[0].value, 2);
    rig_free(r);
}
END_TEST

START_TEST(a_breakpoint_met_by_another_address_of_its_page_is_nobodys_int3)
{
    Rig *r = make(IRQCHIP_OFF, "alias");
    unsigned others = 0, hits = 0;
    set_fillers(r, &others);
    EventHook *h = rig_hook(r, EVENT_EXEC, GUEST_ADDR + 0x200, 1, count, &hits);
    ck_assert_str_eq(event_hook_how(h), "sw breakpoint");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->got[0].value, 2); /* it ran both times */
    ck_assert_uint_eq(hits, 1);            /* and was met once by the address that is watched */
    ck_assert_uint_eq(others, 0);
    rig_free(r);
}
END_TEST

static int halted(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_HLT;
    return 0;
}

/* The other vCPUs are held meanwhile: to ask for the engine lock there is a deadlock with whoever
 * has it and waits for the hold. */
START_TEST(a_step_over_a_halt_with_a_software_breakpoint_on_it_needs_no_lock_in_the_hold)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0, hits = 0;
    GError *err = NULL;
    set_fillers(r, &others);
    rig_hook(r, EVENT_EXEC, GUEST_ADDR + 0xc0, 1, count, &hits);
    ck_assert(cpu_modify_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
    rig_cpu(r, 0)->state->rip = GUEST_ADDR + 0xc0;
    fake_exit(halted);
    ck_assert_msg(machine_step(r->m, rig_cpu(r, 0), &err), "%s", err ? err->message : "");
    rig_wait(r);
    ck_assert_str_eq(r->m->reason, "step");
    ck_assert(rig_cpu(r, 0)->halted);
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

/* ---- interrupts -------------------------------------------------------------------------- */

typedef struct Pin {
    Rig *r;
    unsigned asked;
} Pin;

static int give_vector(void *opaque)
{
    Pin *p = opaque;
    p->asked++;
    klass(p->r)->set_intr(rig_cpu(p->r, 0), false, give_vector, p);
    return 0x30;
}

static int ready_and_open(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
    run->ready_for_interrupt_injection = 1;
    run->if_flag = 1;
    return 0;
}

/* Until the pause has been asked for, the vCPU is sent away from the door. */
static void ask_for_pause(void *opaque)
{
    machine_pause(fake.rig->m, "test");
}

static int not_now(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_INTR;
    if (fake.next_exit == 2) {
        bh_once(ask_for_pause, NULL);
    }
    if (!(__atomic_load_n(&rig_cpu(fake.rig, 0)->requests, __ATOMIC_SEQ_CST) & CPU_REQ_STOP)) {
        fake.next_exit = MAX(fake.next_exit, 3) - 1; /* again */
    }
    return EINTR;
}

static void a_vector_that_waits(IrqchipMode mode)
{
    Rig *r = make(mode, "interrupt");
    Pin pin = { .r = r };
    GError *err = NULL;
    rig_poke(r, GUEST_PARAM, 2, 2);
    /* The guest has its table and has opened its interrupts: it runs up to its first halt. */
    klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
    fake_exit(ready_and_open);
    fake_exit(not_now);
    fake_exit(not_now);
    rig_resume(r);
    rig_wait(r);
    ck_assert_str_eq(r->m->reason, "test");
    ck_assert_uint_eq(pin.asked, 1);
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_EVENTS, &err));
    ck_assert(rig_cpu(r, 0)->state->events.interrupt_injected);
    ck_assert_uint_eq(rig_cpu(r, 0)->state->events.interrupt_nr, 0x30);
    ck_assert(!rig_cpu(r, 0)->state->events.interrupt_soft);
    rig_free(r);
}

START_TEST(a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_vcpu_without_a_controller)
{
    a_vector_that_waits(IRQCHIP_OFF);
}
END_TEST

START_TEST(a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_split_controller)
{
    a_vector_that_waits(IRQCHIP_SPLIT);
}
END_TEST

static int ready_then_pause(struct kvm_run *run)
{
    static bool asked;
    if (!asked) {
        asked = true;
        bh_once(ask_for_pause, NULL);
    }
    if (__atomic_load_n(&rig_cpu(fake.rig, 0)->requests, __ATOMIC_SEQ_CST) & CPU_REQ_STOP) {
        fake.next_exit = fake.n_exits;
    } else {
        fake.next_exit = 0;
    }
    return ready_and_open(run);
}

START_TEST(no_vector_is_given_to_a_guest_whose_interrupts_were_closed_in_a_pause)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    Pin pin = { .r = r };
    fake_exit(ready_then_pause);
    rig_resume(r);
    rig_wait(r);
    ck_assert_str_eq(r->m->reason, "test");
    fake.n_exits = 0;
    ck_assert(cpu_modify_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
    rig_cpu(r, 0)->state->rflags &= ~UINT64_C(0x200);
    klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(pin.asked, 0);
    ck_assert_uint_eq(fake.interrupts, 0);
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, a_failed_entry_pauses_the_machine_and_says_what_the_processor_said);
    tcase_add_test(tc, events_of_the_platform_end_reset_and_pause_the_machine);
    tcase_add_test(tc, what_kvm_gives_up_with_is_told_in_words);
    tcase_add_test(tc, exits_that_mean_nothing_are_passed_over);
    tcase_add_test(tc, the_guests_own_trap_is_given_back_to_it_while_breakpoints_are_set);
    tcase_add_test(tc, a_software_breakpoint_in_real_mode_fires_and_its_instruction_still_runs);
    tcase_add_test(tc, the_guests_own_int3_is_given_back_to_it_in_real_mode);
    tcase_add_test(tc, an_int3_of_a_breakpoint_that_is_gone_is_not_given_to_the_guest);
    tcase_add_test(tc, the_guest_with_two_addresses_for_one_page_runs);
    tcase_add_test(tc, a_breakpoint_met_by_another_address_of_its_page_is_nobodys_int3);
    tcase_add_test(tc,
                   a_step_over_a_halt_with_a_software_breakpoint_on_it_needs_no_lock_in_the_hold);
    tcase_add_test(tc, hypercalls_are_refused_by_name_where_kvm_keeps_them);
    tcase_add_test(tc, a_kvm_without_what_is_needed_is_refused_by_name);
    tcase_add_test(tc, ram_that_kvm_does_not_map_is_reached_by_exits);
    tcase_add_test(tc, ram_beyond_the_last_slot_is_reached_by_exits);
    tcase_add_test(tc, an_ioeventfd_of_any_size_at_the_end_of_memory_gives_way_to_a_hook);
    tcase_add_test(tc, emptying_the_ring_ends_though_others_go_on_filling_it);
    tcase_add_test(tc, a_device_may_change_its_ioeventfds_while_its_coalesced_writes_are_taken_out);
    tcase_add_test(
        tc, a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_vcpu_without_a_controller);
    tcase_add_test(tc, a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_split_controller);
    tcase_add_test(tc, no_vector_is_given_to_a_guest_whose_interrupts_were_closed_in_a_pause);
}

int main(void)
{
    return rig_main("kvm faults", add);
}

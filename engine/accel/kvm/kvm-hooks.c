/*
 * Event sources under KVM: what can be seen, by which mechanism, and a reason where it cannot.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <string.h>

#include "engine/core/rcu.h"

typedef struct Interval {
    uint64_t first, last;
} Interval;

/* Ports that the in-kernel devices answer: PIC with ELCR; PIT with the speaker port. */
static const Interval pic_ports[] = { { 0x20, 0x21 }, { 0xa0, 0xa1 }, { 0x4d0, 0x4d1 } };
static const Interval pit_ports[] = { { 0x40, 0x43 }, { 0x61, 0x61 } };

static bool covered(const Interval *set, unsigned n, uint64_t x)
{
    for (unsigned i = 0; i < n; i++) {
        if (x >= set[i].first && x <= set[i].last) {
            return true;
        }
    }
    return false;
}

static bool touches(const Interval *set, unsigned n, uint64_t first, uint64_t last)
{
    for (unsigned i = 0; i < n; i++) {
        if (set[i].first <= last && set[i].last >= first) {
            return true;
        }
    }
    return false;
}

static bool arm_pio(KvmAccel *a, const EventFilter *f, char **how, GError **error)
{
    const AccelConfig *c = &a->parent.config;
    uint64_t last = MIN(kvm_filter_last(f), 0xffff);
    bool pic = c->irqchip == IRQCHIP_ON;
    bool all_pic = pic, all_pit = c->pit, free_port = false;
    if (f->addr > 0xffff) {
        return error_set(error, ENGINE_ERROR_INVALID, "port %#llx: ports end at 0xffff",
                         (unsigned long long)f->addr);
    }
    for (uint64_t p = f->addr; p <= last && !free_port; p++) {
        bool in_pic = pic && covered(pic_ports, G_N_ELEMENTS(pic_ports), p);
        bool in_pit = c->pit && covered(pit_ports, G_N_ELEMENTS(pit_ports), p);
        all_pic = all_pic && in_pic;
        all_pit = all_pit && in_pit;
        free_port = !in_pic && !in_pit;
    }
    if (!free_port) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "port %#llx: KVM's %s answers it inside the kernel, without an exit; "
                         "create the machine with irqchip=split%s, or use the soft accelerator",
                         (unsigned long long)f->addr,
                         all_pit   ? "PIT"
                         : all_pic ? "interrupt controller"
                                   : "PIC and PIT",
                         all_pit ? " or without the in-kernel PIT" : "");
    }
    bool partly = (pic && touches(pic_ports, G_N_ELEMENTS(pic_ports), f->addr, last)) ||
                  (c->pit && touches(pit_ports, G_N_ELEMENTS(pit_ports), f->addr, last));
    *how = g_strdup(partly ? "port exit (without the ports of the in-kernel PIC and PIT)"
                           : "port exit");
    return true;
}

/* How much of [first, last] exits: nothing, all, or some. */
typedef struct MmioView {
    bool any, ram, rom;
} MmioView;

static MmioView look_at_view(KvmAccel *a, uint64_t first, uint64_t last)
{
    MmioView v = { 0 };
    rcu_enter();
    const FlatView *view = address_space_flat_view(a->parent.config.memory);
    uint64_t at = first;
    for (unsigned i = 0; i < view->n; i++) {
        const FlatRange *r = &view->ranges[i];
        if (r->last < first || r->addr > last) {
            continue;
        }
        if (r->addr > at) {
            v.any = true;
        }
        if (r->mr->kind == MEMORY_ROM_DEVICE ? r->romd : r->mr->kind == MEMORY_ROM || r->readonly) {
            v.rom = true;
        } else if (memory_region_is_ram(r->mr)) {
            v.ram = true;
        } else {
            v.any = true;
        }
        if (r->last >= last) {
            at = last;
            rcu_leave();
            return v;
        }
        at = r->last + 1;
    }
    rcu_leave();
    v.any = true;
    return v;
}

static bool arm_mmio(KvmAccel *a, const EventFilter *f, char **how, GError **error)
{
    uint64_t last = kvm_filter_last(f);
    bool writes_only = f->directions == EVENT_WRITES, reads_only = f->directions == EVENT_READS;
    if (kvm_lapic_in_kernel(a) && f->addr >= 0xfee00000 && last <= 0xfee00fff) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "%#llx: KVM's LAPIC answers it inside the kernel, without an exit; create "
                         "the machine with irqchip=off, or use the soft accelerator",
                         (unsigned long long)f->addr);
    }
    if (a->parent.config.irqchip == IRQCHIP_ON && f->addr >= 0xfec00000 && last <= 0xfec000ff) {
        return error_set(
            error, ENGINE_ERROR_UNSUPPORTED,
            "%#llx: KVM's IOAPIC answers it inside the kernel, without an exit; create "
            "the machine with irqchip=split, or use the soft accelerator",
            (unsigned long long)f->addr);
    }
    MmioView v = look_at_view(a, f->addr, last);
    if (!v.any && (!v.rom || reads_only)) {
        g_autofree char *what = address_space_describe(a->parent.config.memory, f->addr);
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "%#llx is %s: the guest %s it without an exit under KVM; watch a device's "
                         "address, or use the soft accelerator (vm:mem)",
                         (unsigned long long)f->addr, what, v.ram ? "reads and writes" : "reads");
    }
    const char *note = v.ram                   ? " (not of the RAM in the range)"
                       : v.rom && !writes_only ? " (of ROM only writes)"
                                               : "";
    *how = g_strdup_printf("mmio exit%s", note);
    return true;
}

static unsigned count_exits(const KvmAccel *a)
{
    unsigned n = 0;
    for (unsigned i = 0; i < a->armed->len; i++) {
        EventSource s = g_array_index(a->armed, EventFilter, i).source;
        n += s == EVENT_PIO || s == EVENT_MMIO || s == EVENT_MSR || s == EVENT_HYPERCALL;
    }
    return n;
}

/* While hooks look at exits, KVM leaves the general registers in the shared page: a hook that asks
 * for rip then needs no system call. */
static void update_want_regs(KvmAccel *a)
{
    uint32_t want = count_exits(a) && (a->caps[KC_SYNC_REGS] & KVM_SYNC_X86_REGS)
                        ? KVM_SYNC_X86_REGS
                        : 0;
    __atomic_store_n(&a->want_regs, want, __ATOMIC_RELAXED);
}

static void forget(KvmAccel *a, unsigned i)
{
    g_array_remove_index(a->armed, i);
    update_want_regs(a);
}

bool kvm_arm(Accel *accel, const EventFilter *f, AccelHookInfo *info, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);
    info->how = NULL;
    if (a->vm_fd < 0) {
        return error_set(error, ENGINE_ERROR_GONE, "kvm: the VM is gone");
    }
    bool ok = true;
    switch (f->source) {
    case EVENT_PIO:
        ok = arm_pio(a, f, &info->how, error);
        break;
    case EVENT_MMIO:
        ok = arm_mmio(a, f, &info->how, error);
        break;
    case EVENT_EXEC:
        ok = kvm_break_add(a, f, &info->how, error);
        break;
    case EVENT_MSR:
    case EVENT_HYPERCALL:
        break;
    case EVENT_INSN:
    case EVENT_MEM:
    case EVENT_MEM_PHYS:
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "accelerator kvm does not see each instruction and access to RAM: "
                         "vm:insn and vm:mem need the accelerator soft");
    default:
        info->how = g_strdup("machine event");
        break;
    }
    if (!ok) {
        g_clear_pointer(&info->how, g_free);
        return false;
    }
    g_array_append_val(a->armed, *f);
    if (f->source == EVENT_MSR) {
        ok = kvm_msr_update(a, error);
        info->how = g_strdup("msr filter");
    } else if (f->source == EVENT_HYPERCALL) {
        ok = kvm_hypercall_update(a, error);
        info->how = g_strdup("hypercall exit");
    }
    if (!ok) {
        forget(a, a->armed->len - 1);
        g_clear_pointer(&info->how, g_free);
        return false;
    }
    update_want_regs(a);
    if (f->source == EVENT_PIO || f->source == EVENT_MMIO) {
        kvm_io_hooks_changed(a);
    }
    return true;
}

void kvm_disarm(Accel *accel, const EventFilter *f)
{
    KvmAccel *a = KVM_ACCEL(accel);
    unsigned i;
    for (i = 0; i < a->armed->len; i++) {
        const EventFilter *g = &g_array_index(a->armed, EventFilter, i);
        if (g->source == f->source && g->addr == f->addr && g->len == f->len &&
            g->directions == f->directions && g->cpu == f->cpu) {
            break;
        }
    }
    if (i == a->armed->len) {
        return;
    }
    EventFilter copy = *f;
    forget(a, i);
    switch (copy.source) {
    case EVENT_PIO:
    case EVENT_MMIO:
        kvm_io_hooks_changed(a);
        break;
    case EVENT_EXEC:
        kvm_break_remove(a, &copy);
        break;
    case EVENT_MSR:
        kvm_msr_update(a, NULL);
        break;
    case EVENT_HYPERCALL:
        kvm_hypercall_update(a, NULL);
        break;
    default:
        break;
    }
}

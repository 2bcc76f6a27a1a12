/*
 * What the engine adds to an exit of KVM, beside a bare loop in the same process.
 *
 * The program has its own ioctl(), which notes the time at which KVM_RUN is entered and left: what
 * lies between leaving and the next entry is the engine's. It is measured by the TSC and printed as
 * the median over all exits, so that an interrupt or a neighbour does not count; the two readings
 * themselves are in the floor's figure too. Nothing here passes or fails on time.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "tests/unit/kvm_rig.h"

#define EXITS 30000

static uint32_t *outside; /* TSC ticks between two KVM_RUNs */
static unsigned n_outside;
static uint64_t last_exit, other_ioctls, other_count;
static double ns_per_tick;

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (request != KVM_RUN) {
        uint64_t t0 = __rdtsc();
        int r = (int)syscall(SYS_ioctl, fd, request, arg);
        __atomic_fetch_add(&other_ioctls, __rdtsc() - t0, __ATOMIC_RELAXED);
        __atomic_fetch_add(&other_count, 1, __ATOMIC_RELAXED);
        return r;
    }
    uint64_t t0 = __rdtsc();
    if (last_exit && n_outside < EXITS) {
        outside[n_outside++] = (uint32_t)MIN(t0 - last_exit, UINT32_MAX);
    }
    int r = (int)syscall(SYS_ioctl, fd, request, arg);
    last_exit = __rdtsc();
    return r;
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void calibrate(void)
{
    double t0 = now_us();
    uint64_t c0 = __rdtsc();
    while (now_us() - t0 < 50e3) {
    }
    ns_per_tick = (now_us() - t0) * 1e3 / (double)(__rdtsc() - c0);
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double floor_ns, middle_ns;

/* The mean of the middle half: finer than the median where the TSC is coarse. */
static double middle_half(unsigned n)
{
    double sum = 0;
    for (unsigned i = n / 4; i < n * 3 / 4; i++) {
        sum += outside[i];
    }
    return n >= 4 ? sum / (n * 3 / 4 - n / 4) * ns_per_tick : 0;
}

/* NULL: only measures. */
static void print_row(const char *name, double wall_ns)
{
    unsigned n = n_outside;
    qsort(outside, n, sizeof(*outside), compare);
    middle_ns = middle_half(n);
    if (!name) {
        return;
    }
    double median = n ? outside[n / 2] * ns_per_tick : 0;
    double p90 = n ? outside[n * 9 / 10] * ns_per_tick : 0;
    printf("%-40s %9.0f %9.0f %9.0f %9.0f\n", name, median, median - floor_ns, p90, wall_ns);
    fflush(stdout);
    if (floor_ns == 0) {
        floor_ns = median;
    }
}

static void bare_loop(void)
{
    static const uint8_t code[] = { 0xee, 0xeb, 0xfd }; /* out dx, al; jmp */
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0UL), size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL);
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    uint8_t *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region r = { .memory_size = 1 << 20,
                                             .userspace_addr = (uintptr_t)ram };
    struct kvm_sregs s;
    struct kvm_regs g = { .rip = 0x1000, .rflags = 2, .rdx = 0x80 };
    memcpy(ram + 0x1000, code, sizeof(code));
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r);
    ioctl(vcpu, KVM_GET_SREGS, &s);
    s.cs.base = s.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &s);
    ioctl(vcpu, KVM_SET_REGS, &g);
    last_exit = n_outside = 0;
    double t0 = now_us();
    for (unsigned i = 0; i < EXITS; i++) {
        if (ioctl(vcpu, KVM_RUN, 0UL) != 0 || run->exit_reason != KVM_EXIT_IO) {
            break;
        }
    }
    print_row("bare C loop (the floor)", (now_us() - t0) * 1e3 / EXITS);
    munmap(run, (size_t)size);
    close(vcpu);
    close(vm);
    close(kvm);
    munmap(ram, 1 << 20);
}

static void drop_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    *(uint64_t *)opaque = data;
}

static uint64_t give_read(void *opaque, hwaddr addr, unsigned size)
{
    return *(uint64_t *)opaque;
}

static EventAction never(void *opaque, VCpu *cpu, EventRecord *x)
{
    (*(uint64_t *)opaque)++;
    return EVENT_CONTINUE;
}

typedef enum { PLAIN, LOCKLESS, HOOK_OTHER_PORT, HOOK_OTHER_VALUE, HOOK_MATCH, RING_MATCH } Mode;

static void engine_row(const char *name, const char *guest, unsigned port, bool device, Mode mode)
{
    static const MemoryRegionOps ops = { .read = give_read, .write = drop_write };
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    static MemoryRegion dev;
    static uint64_t store, calls;
    GError *err = NULL;
    memory_region_init_io(&dev, NULL, &ops, &store, "bench", 8);
    if (mode == LOCKLESS) {
        memory_region_set_lockless(&dev);
    }
    if (device && port) {
        memory_region_add_subregion(&r->m->io_root, port, &dev);
    } else if (device) {
        memory_region_add_subregion_overlap(&r->m->memory_root, MMIO_DEVICE, &dev, 1);
    }
    rig_start(r, guest);
    rig_poke(r, GUEST_PARAM, port, 2);
    rig_poke(r, GUEST_PARAM + 2, EXITS, 2);
    EventFilter f = { .source = EVENT_PIO, .addr = port, .len = 1, .cpu = -1 };
    if (mode == HOOK_OTHER_PORT) {
        f.addr = 0x1234;
    } else if (mode == HOOK_OTHER_VALUE) {
        f.mask = 0xff;
        f.value = 0x77;
    }
    if (mode == RING_MATCH) {
        event_ring_add(r->m->events, &f, 64, &err);
    } else if (mode >= HOOK_OTHER_PORT) {
        event_hook_add(r->m->events, &f, never, &calls, NULL, &err);
    }
    last_exit = n_outside = 0;
    double t0 = now_us();
    rig_run(r);
    double t1 = now_us();
    print_row(name, (t1 - t0) * 1e3 / EXITS);
    rig_free(r);
    memory_region_finalize(&dev);
}

/* Rows of one table are minutes apart, and the host changes its pace: here the device alone, with a
 * hook elsewhere and with one that its filter keeps out take turns. */
static void filtered_out(void)
{
    static const Mode modes[] = { PLAIN, HOOK_OTHER_PORT, HOOK_OTHER_VALUE };
    enum { TURNS = 7 };
    double best[G_N_ELEMENTS(modes)];
    for (unsigned i = 0; i < TURNS; i++) {
        for (unsigned k = 0; k < G_N_ELEMENTS(modes); k++) {
            engine_row(NULL, "pioloop", 0x600, true, modes[k]);
            best[k] = i ? MIN(best[k], middle_ns) : middle_ns;
        }
    }
    printf("C device, port, best of %u turns: %.1f ns; with a hook on another port %.1f ns (%.2f); "
           "with a hook on another value %.1f ns (%.2f)\n",
           TURNS, best[0], best[1], best[1] / best[0], best[2], best[2] / best[0]);
}

static void first_instruction(void)
{
    double best = 1e9, kvm_share = 0;
    for (unsigned i = 0; i < 10; i++) {
        uint64_t ioctls = other_ioctls;
        double t0 = now_us();
        Rig *r = rig_new(IRQCHIP_ON, true, 16 * MiB);
        rig_start(r, "hello");
        r->keep_running = true;
        rig_resume(r);
        while (__atomic_load_n(&rig_cpu(r, 0)->stats.exits[CPU_EXIT_PIO], __ATOMIC_RELAXED) == 0) {
            main_loop_iterate(false);
        }
        double t = now_us() - t0;
        if (t < best) {
            best = t;
            kvm_share = (double)(other_ioctls - ioctls) * ns_per_tick / 1e3;
        }
        rig_free(r);
    }
    printf("machine made to first exit: %.0f us, of which in ioctls %.0f us (best of 10)\n", best,
           kvm_share);
}

static void snapshot_restore(void)
{
    enum { PAGES = 200, RUNS = 10 };
    Rig *r = rig_new(IRQCHIP_ON, true, 128 * MiB);
    GError *err = NULL;
    rig_start(r, "dirty");
    rig_poke(r, GUEST_PARAM, 1, 2);
    for (unsigned i = 0; i < PAGES; i++) {
        rig_poke(r, GUEST_LIST + 2 * i, 0x200 + i * 37, 2);
    }
    rig_poke(r, GUEST_LIST + 2 * PAGES, 0, 2);
    Snapshot *base = machine_snapshot(r->m, &err);
    double best_take = 1e9, best_restore = 1e9, take_kvm = 0, restore_kvm = 0;
    for (unsigned i = 0; base && i < RUNS; i++) {
        rig_run(r);
        uint64_t k0 = other_ioctls;
        double t0 = now_us();
        Snapshot *s = machine_snapshot(r->m, &err);
        double t1 = now_us();
        uint64_t k1 = other_ioctls;
        snapshot_unref(s);
        double t2 = now_us();
        uint64_t k2 = other_ioctls;
        if (!machine_restore(r->m, base, &err)) {
            break;
        }
        double t3 = now_us();
        uint64_t k3 = other_ioctls;
        if (t1 - t0 < best_take) {
            best_take = t1 - t0;
            take_kvm = (double)(k1 - k0) * ns_per_tick / 1e3;
        }
        if (t3 - t2 < best_restore) {
            best_restore = t3 - t2;
            restore_kvm = (double)(k3 - k2) * ns_per_tick / 1e3;
        }
        r->finished = false;
    }
    if (err) {
        printf("snapshot: %s\n", err->message);
        g_clear_error(&err);
    } else {
        printf("snapshot of 128 MiB, %u pages dirtied by the guest: %.0f us (in ioctls %.0f us); "
               "restore: %.0f us (in ioctls %.0f us); best of %u\n",
               PAGES, best_take, take_kvm, best_restore, restore_kvm, RUNS);
    }
    snapshot_unref(base);
    rig_free(r);
}

int main(void)
{
    main_loop_init();
    module_call_init(MODULE_INIT_QOM);
    g_autofree char *why = rig_unavailable();
    if (why) {
        printf("no figures: %s\n", why);
        return 0;
    }
    calibrate();
    outside = g_new(uint32_t, EXITS);
    printf("ns from KVM_RUN's return to the next entry, %d exits; wall: ns an exit in all\n",
           EXITS);
    printf("%-40s %9s %9s %9s %9s\n", "", "median", "added", "p90", "wall");
    bare_loop();
    engine_row("unassigned port", "pioloop", 0x80, false, PLAIN);
    engine_row("C device, port", "pioloop", 0x600, true, PLAIN);
    engine_row("C device without lock, port", "pioloop", 0x600, true, LOCKLESS);
    engine_row("C device, memory-mapped", "mmioloop", 0, true, PLAIN);
    engine_row("C device, port, hook on another port", "pioloop", 0x600, true, HOOK_OTHER_PORT);
    engine_row("C device, port, hook on another value", "pioloop", 0x600, true, HOOK_OTHER_VALUE);
    engine_row("C device, port, hook in C", "pioloop", 0x600, true, HOOK_MATCH);
    engine_row("C device, port, ring of the last 64", "pioloop", 0x600, true, RING_MATCH);
    filtered_out();
    first_instruction();
    snapshot_restore();
    g_free(outside);
    main_loop_finalize();
    return 0;
}

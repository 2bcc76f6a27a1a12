/*
 * What the handling of an exit costs between the accelerator's return and the next entry: on fake
 * exits, without any accelerator. Prints figures; passes or fails on nothing.
 */
#include <stdio.h>
#include <sys/utsname.h>
#include <time.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/cpu/cpu.h"
#include "engine/memory/memory.h"

#define LOOPS 3000000

static int64_t now_ns(void)
{
    struct timespec ts;

    /* Time of this thread: others on the machine are not in it. */
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static uint64_t reg_read(void *opaque, hwaddr addr, unsigned size)
{
    return *(uint64_t *)opaque + addr;
}

static void reg_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    *(uint64_t *)opaque = data;
}

static const MemoryRegionOps reg_ops = { .read = reg_read, .write = reg_write };

static EventAction count(void *opaque, VCpu *cpu, EventRecord *x)
{
    ++*(uint64_t *)opaque;
    return EVENT_CONTINUE;
}

static EventAction answer(void *opaque, VCpu *cpu, EventRecord *x)
{
    x->value = ++*(uint64_t *)opaque;
    return EVENT_HANDLED;
}

typedef struct Bench {
    VCpu *cpu;
    EventHub *hub;
    int64_t empty; /* the loop without the call */
} Bench;

static void prepare(VCpu *cpu, CpuExitKind kind, uint64_t addr, unsigned size, bool write)
{
    cpu->exit.kind = kind;
    cpu->exit.addr = addr;
    cpu->exit.size = (uint8_t)size;
    cpu->exit.count = 1;
    cpu->exit.write = write;
    cpu->exit.value = 0x55;
}

static void __attribute__((noinline)) no_exit(VCpu *cpu)
{
    __asm__ volatile("" : : "r"(cpu) : "memory");
}

static void run(Bench *b, const char *what, CpuExitKind kind, uint64_t addr, unsigned size,
                bool write)
{
    int64_t start, best = INT64_MAX;

    /* The best of a few: what else the host does only ever adds. */
    for (unsigned round = 0; round < 5; round++) {
        start = now_ns();
        for (unsigned i = 0; i < LOOPS / 5; i++) {
            prepare(b->cpu, kind, addr, size, write);
            cpu_handle_exit(b->cpu);
        }
        best = MIN(best, now_ns() - start);
    }
    printf("%-60s %7.1f ns\n", what, (double)(best - b->empty) / (LOOPS / 5));
}

static void measure_empty(Bench *b)
{
    int64_t best = INT64_MAX;

    for (unsigned round = 0; round < 5; round++) {
        int64_t start = now_ns();

        for (unsigned i = 0; i < LOOPS / 5; i++) {
            prepare(b->cpu, CPU_EXIT_PIO, 0x3f8, 1, true);
            no_exit(b->cpu);
        }
        best = MIN(best, now_ns() - start);
    }
    b->empty = best;
}

static EventHook *hook(Bench *b, EventFilter f, EventFn fn, void *opaque)
{
    EventHook *h;

    f.cpu = -1;
    engine_lock();
    h = event_hook_add(b->hub, &f, fn, opaque, NULL, NULL);
    engine_unlock();
    g_assert(h);
    return h;
}

static void unhook(EventHook *h)
{
    engine_lock();
    event_hook_remove(h);
    engine_unlock();
}

int main(void)
{
    MemoryRegion mem_root, io_root, port, lockless, mmio, *others = g_new0(MemoryRegion, 60);
    EventFilter far = { .source = EVENT_PIO, .addr = 0x80 };
    EventFilter same = { .source = EVENT_PIO, .addr = 0x3f8 };
    uint64_t state = 0, calls = 0;
    EventHook *h, *many[1000];
    EventRing *ring;
    struct utsname u;
    Bench b = { 0 };

    main_loop_init();
    uname(&u);
    printf("%s %s, %d rounds each; the loop itself is taken off\n\n", u.sysname, u.machine, LOOPS);
    memory_region_init(&mem_root, NULL, "memory", MEMORY_REGION_MAX);
    memory_region_init(&io_root, NULL, "io", 0x10000);
    memory_region_init_io(&port, NULL, &reg_ops, &state, "port", 8);
    memory_region_init_io(&lockless, NULL, &reg_ops, &state, "lockless", 8);
    memory_region_set_lockless(&lockless);
    memory_region_init_io(&mmio, NULL, &reg_ops, &state, "mmio", 0x1000);
    memory_region_add_subregion(&io_root, 0x3f8, &port);
    memory_region_add_subregion(&io_root, 0x510, &lockless);
    memory_region_add_subregion(&mem_root, 0xfed00000, &mmio);
    for (unsigned i = 0; i < 60; i++) { /* a PC has about as many */
        memory_region_init_io(&others[i], NULL, &reg_ops, &state, "other", 16);
        memory_region_add_subregion(&io_root, 0x1000 + i * 0x40, &others[i]);
    }
    b.cpu = VCPU(object_new(TYPE_VCPU, NULL));
    b.hub = event_hub_new(NULL);
    b.cpu->events = b.hub;
    b.cpu->memory = address_space_new(ADDRESS_SPACE_MEMORY, &mem_root, "memory");
    b.cpu->io = address_space_new(ADDRESS_SPACE_IO, &io_root, "io");
    /* As on a vCPU thread: nothing is held. */
    g_assert(engine_unlocked_begin(NULL));
    measure_empty(&b);

    printf("nothing hooked\n");
    run(&b, "  write to an unassigned port", CPU_EXIT_PIO, 0x80, 1, true);
    run(&b, "  read of an unassigned port", CPU_EXIT_PIO, 0x80, 1, false);
    run(&b, "  write to a C device's port", CPU_EXIT_PIO, 0x3f8, 1, true);
    run(&b, "  read of a C device's port", CPU_EXIT_PIO, 0x3f8, 1, false);
    run(&b, "  write to a lockless port", CPU_EXIT_PIO, 0x510, 1, true);
    run(&b, "  write to a C device's MMIO", CPU_EXIT_MMIO, 0xfed00010, 4, true);
    run(&b, "  read of a C device's MMIO", CPU_EXIT_MMIO, 0xfed00010, 4, false);
    run(&b, "  interrupted", CPU_EXIT_INTERRUPTED, 0, 0, false);

    printf("one hook on another port\n");
    h = hook(&b, far, count, &calls);
    run(&b, "  write to a C device's port", CPU_EXIT_PIO, 0x3f8, 1, true);
    run(&b, "  write to a C device's MMIO", CPU_EXIT_MMIO, 0xfed00010, 4, true);
    unhook(h);

    printf("a hook on this port that asks for another value\n");
    same.mask = same.value = 0x80;
    h = hook(&b, same, count, &calls);
    run(&b, "  write to a C device's port", CPU_EXIT_PIO, 0x3f8, 1, true);
    unhook(h);
    same.mask = same.value = 0;

    printf("1000 hooks on other ports\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(many); i++) {
        far.addr = 0x8000 + i * 8;
        many[i] = hook(&b, far, count, &calls);
    }
    run(&b, "  write to a C device's port", CPU_EXIT_PIO, 0x3f8, 1, true);
    for (unsigned i = 0; i < G_N_ELEMENTS(many); i++) {
        unhook(many[i]);
    }

    printf("a hook in C that matches\n");
    h = hook(&b, same, count, &calls);
    run(&b, "  looks on: write to a C device's port", CPU_EXIT_PIO, 0x3f8, 1, true);
    unhook(h);
    h = hook(&b, same, answer, &calls);
    run(&b, "  answers: read of a C device's port", CPU_EXIT_PIO, 0x3f8, 1, false);
    unhook(h);

    printf("a trace that matches\n");
    engine_lock();
    same.cpu = -1;
    ring = event_ring_add(b.hub, &same, 1000, NULL);
    engine_unlock();
    run(&b, "  write to a C device's port", CPU_EXIT_PIO, 0x3f8, 1, true);

    engine_unlocked_end();
    event_ring_remove(ring);
    event_hub_free(b.hub);
    address_space_free(b.cpu->memory);
    address_space_free(b.cpu->io);
    object_unref(b.cpu);
    memory_region_del_subregion(&io_root, &port);
    memory_region_del_subregion(&io_root, &lockless);
    memory_region_del_subregion(&mem_root, &mmio);
    for (unsigned i = 0; i < 60; i++) {
        memory_region_del_subregion(&io_root, &others[i]);
        memory_region_finalize(&others[i]);
    }
    memory_region_finalize(&port);
    memory_region_finalize(&lockless);
    memory_region_finalize(&mmio);
    memory_region_finalize(&io_root);
    memory_region_finalize(&mem_root);
    g_free(others);
    main_loop_finalize();
    return 0;
}

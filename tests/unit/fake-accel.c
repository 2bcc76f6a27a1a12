/* See fake-accel.h. */
#include "fake-accel.h"

#include <poll.h>
#include <signal.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

unsigned fake_accels_alive;

FakeCpu *fake_cpu(VCpu *cpu)
{
    return cpu->accel_data;
}

TestAccel *fake_accel(Machine *m)
{
    return TEST_ACCEL(m->accel);
}

static bool test_create(Accel *a, GError **error)
{
    fake_accels_alive++;
    return true;
}

static void test_destroy(Accel *a)
{
    g_assert(TEST_ACCEL(a)->live_vcpus == 0);
    fake_accels_alive--;
}

static bool test_vcpu_create(VCpu *cpu, GError **error)
{
    TestAccel *a = TEST_ACCEL(cpu->accel);
    FakeCpu *f;

    g_assert(cpu_current() == cpu && engine_lock_held());
    if (a->fail_vcpu) {
        a->fail_vcpu = false;
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "vCPU refused by the test");
    }
    a->live_vcpus++;
    f = g_aligned_alloc0(1, (sizeof(*f) + 63) & ~(size_t)63, 64);
    x86_state_reset(&f->hw, cpu->index == 0);
    x86_msr_set(&f->hw, 0x10, 0);
    x86_msr_set(&f->hw, 0x277, UINT64_C(0x0007040600070406));
    f->hw.has_lapic = true;
    f->hw.xsave_size = 832;
    cpu->accel_data = f;
    return true;
}

static void test_vcpu_destroy(VCpu *cpu)
{
    g_assert(cpu_current() == cpu && engine_lock_held());
    TEST_ACCEL(cpu->accel)->live_vcpus--;
    g_aligned_free(g_steal_pointer(&cpu->accel_data));
}

static bool test_get_state(VCpu *cpu, unsigned groups, GError **error)
{
    FakeCpu *f = fake_cpu(cpu);

    g_assert(engine_lock_held());
    if (TEST_ACCEL(cpu->accel)->fail_get) {
        return error_set(error, ENGINE_ERROR_IO, "registers refused by the test");
    }
    f->torn += f->unfinished && !cpu->at_exit;
    x86_state_copy(cpu->state, &f->hw, groups);
    return true;
}

static bool test_put_state(VCpu *cpu, unsigned groups, GError **error)
{
    FakeCpu *f = fake_cpu(cpu);

    f->torn += f->unfinished;
    f->puts++;
    x86_state_copy(&f->hw, cpu->state, groups);
    return true;
}

static void test_finish_exit(VCpu *cpu)
{
    FakeCpu *f = fake_cpu(cpu);

    g_assert(cpu_current() == cpu && !engine_lock_held());
    if (f->unfinished) {
        f->unfinished = false;
        f->finishes++;
        if (cpu->exit.data) {
            memcpy(&f->hw.gpr[X86_RAX], cpu->exit.data, 8);
        } else {
            f->hw.gpr[X86_RAX] = cpu->exit.value;
        }
        f->hw.rip++;
    }
}

static void test_kick(VCpu *cpu)
{
    __atomic_store_n(&fake_cpu(cpu)->kicked, true, __ATOMIC_SEQ_CST);
}

/* As immediate_exit does under KVM: a kick that came before the sleep ends it at once. */
static void sleep_until_kicked(FakeCpu *f)
{
    sigset_t block, old;

    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    while (!__atomic_load_n(&f->kicked, __ATOMIC_SEQ_CST)) {
        ppoll(NULL, 0, NULL, &old);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void leave(VCpu *cpu, const CpuExit *e)
{
    FakeCpu *f = fake_cpu(cpu);

    cpu->exit = *e;
    if (e->data) {
        memcpy(f->string, e->data, sizeof(f->string));
        cpu->exit.data = f->string;
    }
    if ((e->kind == CPU_EXIT_PIO || e->kind == CPU_EXIT_MMIO || e->kind == CPU_EXIT_RDMSR) &&
        !e->write) {
        f->unfinished = true; /* RIP moves when the answer is in */
    } else {
        f->hw.rip++;
    }
}

static void test_run(VCpu *cpu)
{
    FakeCpu *f = fake_cpu(cpu);
    const CpuExit interrupted = { .kind = CPU_EXIT_INTERRUPTED };

    g_assert(cpu_current() == cpu && !engine_lock_held());
    test_finish_exit(cpu);
    __atomic_fetch_add(&f->runs, 1, __ATOMIC_SEQ_CST);
    if (f->cut_short) { /* by a kick that comes before anything was done */
        f->cut_short = false;
        sleep_until_kicked(f);
        __atomic_store_n(&f->kicked, false, __ATOMIC_SEQ_CST);
        cpu->exit = interrupted;
        return;
    }
    if (cpu->state_dirty) {
        test_put_state(cpu, cpu->state_dirty, NULL);
        cpu->state_dirty = 0;
    }
    for (unsigned budget = 1000; budget > 0; budget--) {
        const FakeStep *s;

        if (f->hw.rip >= f->length) {
            sleep_until_kicked(f); /* past the end: as a HLT that nothing wakes */
        }
        if (__atomic_exchange_n(&f->kicked, false, __ATOMIC_SEQ_CST)) {
            break;
        }
        s = &f->program[f->hw.rip];
        switch (s->op) {
        case FAKE_EXIT:
            leave(cpu, &s->exit);
            return;
        case FAKE_JUMP:
            f->hw.rip = s->exit.addr;
            break;
        case FAKE_COUNT:
            f->hw.gpr[X86_RBX]++;
            f->hw.rip++;
            break;
        case FAKE_STORE:
            address_space_access(cpu->memory, &cpu->memory_cache, s->exit.addr, MEMTXATTRS_NONE,
                                 &f->hw.gpr[X86_RBX], 8, true);
            f->hw.rip++;
            break;
        case FAKE_SLEEP:
            f->hw.rip++;
            sleep_until_kicked(f);
            break;
        }
        if (f->step) {
            f->step = false;
            cpu->exit = (CpuExit){ .kind = CPU_EXIT_DEBUG,
                                   .addr = f->hw.rip,
                                   .value = CPU_DEBUG_STEP };
            return;
        }
    }
    cpu->exit = interrupted;
}

static bool test_has_work(VCpu *cpu)
{
    FakeCpu *f = fake_cpu(cpu);

    return __atomic_load_n(&f->irq_line, __ATOMIC_SEQ_CST) && (f->hw.rflags & 0x200);
}

void fake_raise_irq(VCpu *cpu)
{
    __atomic_store_n(&fake_cpu(cpu)->irq_line, true, __ATOMIC_SEQ_CST);
    cpu_request(cpu, CPU_REQ_IRQ);
}

static bool test_step(VCpu *cpu, GError **error)
{
    fake_cpu(cpu)->step = true;
    return true;
}

static void test_set_gsi(Accel *a, unsigned gsi, int level)
{
    TEST_ACCEL(a)->lines[gsi] = (uint8_t)level;
    TEST_ACCEL(a)->gsi_calls++;
}

static bool test_arm(Accel *a, const EventFilter *f, AccelHookInfo *info, GError **error)
{
    TestAccel *t = TEST_ACCEL(a);

    if (f->source == EVENT_PIO && t->refuse_port && f->addr == t->refuse_port) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "port %#x is out of sight",
                         (unsigned)f->addr);
    }
    t->arms++;
    info->how = g_strdup_printf("test %s", event_source_name(f->source));
    return true;
}

static void test_disarm(Accel *a, const EventFilter *f)
{
    TEST_ACCEL(a)->disarms++;
}

static CpuidPolicy *test_cpuid(GError **error)
{
    CpuidPolicy *p = cpuid_policy_new();

    cpuid_policy_set(p, &(CpuidEntry){ .function = 0, .eax = 1 }, NULL);
    cpuid_policy_set(p, &(CpuidEntry){ .function = 1, .eax = 0x806f8 }, NULL);
    return p;
}

static bool test_set_cpuid(VCpu *cpu, GError **error)
{
    return true;
}

static void test_clock_changed(Accel *a, bool running)
{
    TEST_ACCEL(a)->clock_changes++;
}

static const VMStateDescription vmstate_test_accel = {
    .name = "test-accel",
    .version = 1,
    .minimum_version = 1,
    .fields = (const VMStateField[]){ VMSTATE_UINT32(counter, TestAccel), VMSTATE_END() },
};

static const VMStateDescription *test_vmstate(Accel *a)
{
    return &vmstate_test_accel;
}

static bool never(void)
{
    return false;
}

static void test_accel_class_init(ObjectClass *klass, const void *data)
{
    AccelClass *ac = ACCEL_CLASS(klass);

    ac->short_name = "test";
    ac->preferred = never;
    ac->create = test_create;
    ac->destroy = test_destroy;
    ac->vcpu_create = test_vcpu_create;
    ac->vcpu_destroy = test_vcpu_destroy;
    ac->vcpu_run = test_run;
    ac->vcpu_finish_exit = test_finish_exit;
    ac->vcpu_kick = test_kick;
    ac->vcpu_has_work = test_has_work;
    ac->get_state = test_get_state;
    ac->put_state = test_put_state;
    ac->set_cpuid = test_set_cpuid;
    ac->supported_cpuid = test_cpuid;
    ac->set_gsi = test_set_gsi;
    ac->arm = test_arm;
    ac->disarm = test_disarm;
    ac->step = test_step;
    ac->clock_changed = test_clock_changed;
    ac->vmstate = test_vmstate;
}

static bool not_here(GError **error)
{
    return error_set(error, ENGINE_ERROR_UNSUPPORTED, "failing: /dev/nothing is missing");
}

static bool failing_create(Accel *a, GError **error)
{
    fake_accels_alive++;
    return error_set(error, ENGINE_ERROR_UNSUPPORTED, "no virtual machine for you");
}

static void failing_accel_class_init(ObjectClass *klass, const void *data)
{
    AccelClass *ac = ACCEL_CLASS(klass);

    ac->short_name = "failing";
    ac->available = not_here;
    ac->create = failing_create;
}

static void test_machine_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    mc->alias = "tm";
    mc->is_default = true;
    mc->default_ram_size = 0x10000;
    mc->max_cpus = 8;
}

typedef struct TestMachine {
    Machine parent;
    MemoryRegion ram;
    bool has_ram;
} TestMachine;

static void test_machine_finalize(Object *obj)
{
    TestMachine *t = (TestMachine *)obj;

    if (t->has_ram) {
        memory_region_finalize(&t->ram);
    }
}

static const TypeInfo types[] = {
    {
        .name = TYPE_TEST_ACCEL,
        .parent = TYPE_ACCEL,
        .instance_size = sizeof(TestAccel),
        .class_size = sizeof(TestAccelClass),
        .class_init = test_accel_class_init,
    },
    {
        .name = TYPE_FAILING_ACCEL,
        .parent = TYPE_TEST_ACCEL,
        .class_init = failing_accel_class_init,
    },
    {
        .name = TYPE_TEST_MACHINE,
        .parent = TYPE_MACHINE,
        .instance_size = sizeof(TestMachine),
        .instance_finalize = test_machine_finalize,
        .class_init = test_machine_class_init,
    },
};

static void fake_register(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(fake_register)

void fake_load(VCpu *cpu, const FakeStep *program, unsigned length)
{
    FakeCpu *f = fake_cpu(cpu);
    GError *error = NULL;
    bool ok;

    f->program = program;
    f->length = length;
    ok = cpu_modify_state(cpu, X86_STATE_GPR, &error);
    g_assert_no_error(error);
    g_assert(ok);
    cpu->state->rip = 0;
    cpu->state->gpr[X86_RBX] = 0;
}

Machine *fake_bare_machine(IrqchipMode irqchip)
{
    GError *error = NULL;
    Machine *m = machine_new(TYPE_TEST_MACHINE, NULL, &error);
    bool ok;

    g_assert_no_error(error);
    ok = machine_set_accel(m, ACCEL_CLASS(object_class_by_name(TYPE_TEST_ACCEL)), irqchip, false,
                           &error);
    g_assert_no_error(error);
    g_assert(ok);
    return m;
}

Machine *fake_machine(unsigned n, IrqchipMode irqchip)
{
    GError *error = NULL;
    Machine *m = fake_bare_machine(irqchip);
    TestMachine *t = (TestMachine *)m;

    memory_region_init_ram(&t->ram, OBJECT(m), "ram", 0x10000, &error);
    g_assert_no_error(error);
    t->has_ram = true;
    memory_region_add_subregion(&m->memory_root, 0, &t->ram);
    machine_add_ram(m, "ram", &t->ram);
    for (unsigned i = 0; i < n; i++) {
        machine_add_cpu(m, NULL, &error);
        g_assert_no_error(error);
    }
    machine_finish_init(m, &error);
    g_assert_no_error(error);
    return m;
}

void fake_wait_state(Machine *m, RunState state)
{
    while (m->state != state) {
        main_loop_iterate(true);
    }
}

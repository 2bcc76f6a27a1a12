/*
 * The vCPU object: allocation, fetching and changing of its registers, reset.
 */
#include "engine/cpu/cpu.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/cpu/cpu_priv.h"

enum { LAPIC_ID = 0x20 };

static __thread VCpu *current_cpu;

VCpu *cpu_current(void)
{
    return current_cpu;
}

void cpu_set_current(VCpu *cpu)
{
    current_cpu = cpu;
}

/* ---- registers --------------------------------------------------------------------------- */

/* On its own thread a vCPU is outside the guest whenever other code runs there at all. */
static bool cpu_state_reachable(const VCpu *cpu)
{
    return cpu == current_cpu || cpu->stopped || !cpu->thread_alive;
}

bool cpu_fetch_state(VCpu *cpu, unsigned groups, GError **error)
{
    unsigned need;

    ENGINE_LOCK_ASSERT();
    /* A run that was cut short before it began has not taken what is dirty: that is newer. */
    cpu->state_valid |= cpu->state_dirty;
    need = groups & X86_STATE_ALL & ~cpu->state_valid;
    if (!cpu_state_reachable(cpu)) {
        return error_set(error, ENGINE_ERROR_BUSY, "cpu %d is running: pause the machine first",
                         cpu->index);
    }
    if (need == 0) {
        return true;
    }
    if (!cpu->thread_alive) {
        return error_set(error, ENGINE_ERROR_GONE, "cpu %d has no accelerator", cpu->index);
    }
    if (!cpu->ops->get_state(cpu, need, error)) {
        return false;
    }
    cpu->state_valid |= need;
    if ((need & X86_STATE_EVENTS) && cpu->halted && !cpu->hlt_in_accel &&
        cpu->state->mp_state == X86_MP_RUNNABLE) {
        cpu->state->mp_state = X86_MP_HALTED;
    }
    return true;
}

/* Exits whose access the accelerator finishes only at the next entry: that changes registers (the
 * answer of a read, the instruction pointer) after a handler has looked at them. */
static bool exit_is_unfinished(const VCpu *cpu)
{
    switch (cpu->exit.kind) {
    case CPU_EXIT_PIO:
    case CPU_EXIT_MMIO:
    case CPU_EXIT_RDMSR:
    case CPU_EXIT_WRMSR:
    case CPU_EXIT_HYPERCALL:
        return true;
    default:
        return false;
    }
}

bool cpu_modify_state(VCpu *cpu, unsigned groups, GError **error)
{
    if (!cpu_fetch_state(cpu, groups, error)) {
        return false;
    }
    if ((groups & X86_STATE_GPR) && cpu->at_exit && !cpu->exit_modified &&
        exit_is_unfinished(cpu)) {
        memcpy(cpu->exit_gpr, cpu->state->gpr, sizeof(cpu->state->gpr));
        cpu->exit_gpr[X86_GPRS] = cpu->state->rip;
        cpu->exit_gpr[X86_GPRS + 1] = cpu->state->rflags;
        cpu->exit_modified = true;
    }
    cpu->state_dirty |= groups & X86_STATE_ALL;
    return true;
}

/* What a handler changed, over what the finished access left: both count. Lock held. */
void cpu_merge_exit_state(VCpu *cpu)
{
    X86CPUState *s = cpu->state;
    uint64_t now[X86_GPRS + 2];
    GError *error = NULL;

    cpu->exit_modified = false;
    memcpy(now, s->gpr, sizeof(s->gpr));
    now[X86_GPRS] = s->rip;
    now[X86_GPRS + 1] = s->rflags;
    if (!cpu->ops->get_state(cpu, X86_STATE_GPR, &error)) {
        log_error("cpu %d: registers that a handler set are lost: %s", cpu->index, error->message);
        g_error_free(error);
        return;
    }
    for (unsigned i = 0; i < X86_GPRS; i++) {
        if (now[i] != cpu->exit_gpr[i]) {
            s->gpr[i] = now[i];
        }
    }
    if (now[X86_GPRS] != cpu->exit_gpr[X86_GPRS]) {
        s->rip = now[X86_GPRS];
    }
    if (now[X86_GPRS + 1] != cpu->exit_gpr[X86_GPRS + 1]) {
        s->rflags = now[X86_GPRS + 1];
    }
    cpu->state_valid |= X86_STATE_GPR;
    cpu->state_dirty |= X86_STATE_GPR;
}

void cpu_state_replaced(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    cpu->state_valid = cpu->state_dirty = X86_STATE_ALL;
    cpu->exit_modified = false;
    cpu->stepping = false;
    cpu->halted = !cpu->hlt_in_accel && cpu->state->mp_state != X86_MP_RUNNABLE &&
                  cpu->state->mp_state != X86_MP_SIPI_RECEIVED;
}

void cpu_reset(VCpu *cpu)
{
    X86CPUState *s = cpu->state;
    GError *error = NULL;
    CpuidEntry *signature;
    bool bsp = cpu->index == 0;

    ENGINE_LOCK_ASSERT();
    /* The accelerator knows which MSRs there are, how large the XSAVE area is, whether there is a
     * LAPIC. A vCPU that was never run holds their power-on values. */
    if (!cpu_fetch_state(cpu, X86_STATE_ALL, &error)) {
        log_error("cpu %d: reset without the accelerator's state: %s", cpu->index, error->message);
        g_error_free(error);
    } else if (!cpu->reset_msrs) {
        cpu->n_reset_msrs = MIN(s->n_msrs, X86_MSR_MAX);
        cpu->reset_msrs = g_memdup2(s->msrs, sizeof(X86Msr) * MAX(cpu->n_reset_msrs, 1));
    }
    x86_state_reset(s, bsp);
    if (cpu->reset_msrs) {
        s->n_msrs = cpu->n_reset_msrs;
        memcpy(s->msrs, cpu->reset_msrs, sizeof(X86Msr) * cpu->n_reset_msrs);
    }
    signature = cpu->cpuid ? cpuid_policy_find(cpu->cpuid, 1, 0) : NULL;
    if (signature) {
        s->gpr[X86_RDX] = signature->eax;
    }
    if (s->has_lapic) {
        uint32_t id = GUINT32_TO_LE((uint32_t)cpu->index << 24);

        memcpy(s->lapic + LAPIC_ID, &id, 4);
    }
    cpu->halted = false;
    cpu_state_replaced(cpu);
    log_mask(LOG_CPU, "cpu %d: reset", cpu->index);
}

static bool vcpu_post_load(void *opaque, unsigned version, GError **error)
{
    cpu_state_replaced(opaque);
    return true;
}

const VMStateDescription vmstate_vcpu = {
    .name = TYPE_VCPU,
    .version = 1,
    .minimum_version = 1,
    .post_load = vcpu_post_load,
    .fields =
        (const VMStateField[]){
            { .name = "state",
              .kind = VMS_STRUCT,
              .offset = offsetof(VCpu, state),
              .size = sizeof(X86CPUState),
              .count_offset = -1,
              .pointer = true,
              .vmsd = &vmstate_x86_cpu },
            VMSTATE_END(),
        },
};

/* ---- the type ---------------------------------------------------------------------------- */

static void vcpu_instance_init(Object *obj)
{
    VCpu *cpu = (VCpu *)obj;

    /* The XSAVE area inside is handed to the kernel as it is: keep its alignment. */
    cpu->state = g_aligned_alloc0(1, sizeof(X86CPUState), 64);
    cpu->state->xsave_size = 576;
    cpu->stopped = true;
    engine_cond_init(&cpu->wake);
    engine_cond_init(&cpu->done);
    g_queue_init(&cpu->work);
}

static void vcpu_instance_finalize(Object *obj)
{
    VCpu *cpu = (VCpu *)obj;

    g_assert(!cpu->thread_alive);
    g_assert(g_queue_is_empty(&cpu->work));
    engine_cond_destroy(&cpu->wake);
    engine_cond_destroy(&cpu->done);
    g_aligned_free(cpu->state);
    g_free(cpu->reset_msrs);
    g_free(cpu->cpuid);
    g_clear_error(&cpu->start_error);
}

static bool get_index(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_INT;
    out->integer = ((VCpu *)obj)->index;
    return true;
}

static bool get_halted(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_BOOL;
    out->boolean = ((VCpu *)obj)->halted;
    return true;
}

static const Property vcpu_properties[] = {
    { .name = "index",
      .doc = "Number of this vCPU in its machine, from 0.",
      .kind = PROP_INT,
      .bits = 32,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_index },
    { .name = "halted",
      .doc = "Waits for an interrupt outside the accelerator.",
      .kind = PROP_BOOL,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_halted },
};

static void vcpu_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, vcpu_properties, G_N_ELEMENTS(vcpu_properties));
}

static const TypeInfo vcpu_type = {
    .name = TYPE_VCPU,
    .parent = TYPE_OBJECT,
    .doc = "A virtual x86 processor.",
    .instance_size = sizeof(VCpu),
    .instance_init = vcpu_instance_init,
    .instance_finalize = vcpu_instance_finalize,
    .class_size = sizeof(VCpuClass),
    .class_init = vcpu_class_init,
};

static void vcpu_register(void)
{
    type_register_static(&vcpu_type);
}
type_init(vcpu_register)

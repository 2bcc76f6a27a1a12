/*
 * "apic": the local APICs of all processors of a machine (Intel SDM volume 3A, chapter 11), as
 * xAPIC and x2APIC.
 *
 *   memory  0xfee00000, 1 MiB: to a processor its own APIC's page; otherwise, and above the page,
 *           a write is an interrupt message
 *   MSRs    0x1b, 0x6e0, 0x800-0x8ff, through VCpu.apic_ops
 *   lines   inputs "lint0" (a PC has the PIC's INTR there) and "lint1" (NMI), common to all
 *
 * One device for all of them, since they are wired to each other: messages arrive at once, so there
 * is neither arbitration nor a delivery status. The timer counts at 1 GHz of virtual time. Not
 * emulated: moving the registers away from their address, writable IDs, thermal and performance
 * events of which nothing here is the source, and the CMCI register.
 *
 * Like firmware of a PC has done before its first guest program, a reset leaves LINT0 of the boot
 * processor as the PIC's ExtINT (property virtual-wire).
 */
#include "engine/hw/intc/apic-priv.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"

#define APIC_PAGE 0x1000

/* ---- vectors ------------------------------------------------------------------------------- */

static void vector_set(uint32_t *bank, uint8_t vector, bool on)
{
    uint32_t bit = 1u << (vector & 31);

    bank[vector >> 5] = on ? bank[vector >> 5] | bit : bank[vector >> 5] & ~bit;
}

static bool vector_get(const uint32_t *bank, uint8_t vector)
{
    return bank[vector >> 5] >> (vector & 31) & 1;
}

static int vector_highest(const uint32_t *bank)
{
    for (int i = 7; i >= 0; i--) {
        if (bank[i]) {
            return i * 32 + 31 - __builtin_clz(bank[i]);
        }
    }
    return -1;
}

uint32_t apic_ppr(const LocalApic *a)
{
    int served = vector_highest(a->r.isr);
    uint32_t class = served < 0 ? 0 : (uint32_t)served & 0xf0;

    return (a->r.tpr & 0xf0) >= class ? a->r.tpr : class;
}

static int deliverable(const LocalApic *a)
{
    int vector = apic_enabled(a) ? vector_highest(a->r.irr) : -1;

    return vector >= 0 && ((uint32_t)vector & 0xf0) > (apic_ppr(a) & 0xf0) ? vector : -1;
}

/* Whether INTR of the PIC reaches the processor: through an APIC that is off, or as ExtINT. */
static bool extint_asserted(const LocalApic *a)
{
    uint32_t lint0 = a->r.lvt[LVT_LINT0];

    if (a->r.extint) {
        return true;
    }
    if (!a->set->lint[0]) {
        return false;
    }
    return apic_enabled(a) ? !(lint0 & LVT_MASKED) && (lint0 >> LVT_MODE_SHIFT & 7) == MODE_EXTINT
                           : a->r.base & APIC_BASE_BSP;
}

/* ---- the processor's side ------------------------------------------------------------------ */

bool apic_has_interrupt(LocalApic *a)
{
    return extint_asserted(a) || deliverable(a) >= 0;
}

int apic_get_interrupt(LocalApic *a)
{
    int vector;

    if (extint_asserted(a)) {
        a->r.extint = false;
        vector = machine_acknowledge(a->set->parent.machine);
        if (vector >= 0) {
            return vector;
        }
    }
    vector = deliverable(a);
    if (vector >= 0) {
        vector_set(a->r.irr, (uint8_t)vector, false);
        vector_set(a->r.isr, (uint8_t)vector, true);
        if (!vector_get(a->r.tmr, (uint8_t)vector)) {
            machine_vector_taken(a->set->parent.machine, vector);
        }
    }
    return vector;
}

bool apic_has_requests(LocalApic *a)
{
    return a->r.requests != 0;
}

unsigned apic_take_requests(LocalApic *a, uint8_t *sipi_vector)
{
    unsigned requests = a->r.requests;

    *sipi_vector = a->r.sipi_vector;
    a->r.requests = 0;
    return requests;
}

uint8_t apic_get_cr8(LocalApic *a)
{
    return (uint8_t)(a->r.tpr >> 4);
}

void apic_set_cr8(LocalApic *a, uint8_t value)
{
    a->r.tpr = (uint32_t)(value & 15) << 4;
    apic_notify(a);
}

void apic_set_tsc(LocalApic *a, uint32_t khz, uint64_t offset)
{
    a->r.tsc_khz = khz;
    a->r.tsc_offset = offset;
    if (apic_timer_mode(a) == TIMER_TSC_DEADLINE) {
        apic_timer_rearm(a);
    }
}

void apic_notify(LocalApic *a)
{
    Machine *m = a->set->parent.machine;

    if (m && a->id < m->cpus->len && (a->r.requests || apic_has_interrupt(a))) {
        cpu_request(g_ptr_array_index(m->cpus, a->id), CPU_REQ_IRQ);
    }
}

static bool op_has_interrupt(void *apic)
{
    return apic_has_interrupt(apic);
}
static int op_get_interrupt(void *apic)
{
    return apic_get_interrupt(apic);
}
static unsigned op_take_requests(void *apic, uint8_t *sipi_vector)
{
    return apic_take_requests(apic, sipi_vector);
}
static bool op_has_requests(void *apic)
{
    return apic_has_requests(apic);
}
static bool op_rdmsr(void *apic, uint32_t index, uint64_t *value)
{
    return apic_rdmsr(apic, index, value);
}
static bool op_wrmsr(void *apic, uint32_t index, uint64_t value)
{
    return apic_wrmsr(apic, index, value);
}
static uint8_t op_get_cr8(void *apic)
{
    return apic_get_cr8(apic);
}
static void op_set_cr8(void *apic, uint8_t value)
{
    apic_set_cr8(apic, value);
}
static void op_set_tsc(void *apic, uint32_t khz, uint64_t offset)
{
    apic_set_tsc(apic, khz, offset);
}

static const CpuApicOps apic_cpu_ops = {
    .has_interrupt = op_has_interrupt,
    .get_interrupt = op_get_interrupt,
    .take_requests = op_take_requests,
    .has_requests = op_has_requests,
    .rdmsr = op_rdmsr,
    .wrmsr = op_wrmsr,
    .get_cr8 = op_get_cr8,
    .set_cr8 = op_set_cr8,
    .set_tsc = op_set_tsc,
};

LocalApic *apic_of_cpu(DeviceState *dev, unsigned cpu)
{
    ApicSet *s = APIC_SET(dev);

    return cpu < s->cpus ? &s->apic[cpu] : NULL;
}

/* ---- what arrives -------------------------------------------------------------------------- */

void apic_accept(LocalApic *a, uint8_t vector, bool level)
{
    if (!apic_soft_enabled(a)) {
        return;
    }
    if (vector < 16) {
        apic_error(a, ESR_RECV_VECTOR);
        return;
    }
    vector_set(a->r.irr, vector, true);
    vector_set(a->r.tmr, vector, level);
    apic_notify(a);
}

/* An error of delivering the error's own interrupt is noted, and is the end of it. */
void apic_error(LocalApic *a, uint32_t bit)
{
    bool first = !(a->r.errors & bit);

    a->r.errors |= bit;
    if (first) {
        apic_lvt_deliver(a, LVT_ERROR);
    }
}

void apic_lvt_deliver(LocalApic *a, unsigned entry)
{
    uint32_t *lvt = &a->r.lvt[entry];
    bool level = false;

    if ((*lvt & LVT_MASKED) || !apic_enabled(a)) {
        return;
    }
    switch (entry == LVT_TIMER || entry == LVT_ERROR ? MODE_FIXED : *lvt >> LVT_MODE_SHIFT & 7) {
    case MODE_FIXED:
        if (entry == LVT_LINT0 && (*lvt & LVT_LEVEL)) {
            /* LINT1 is always an edge. */
            if (*lvt & LVT_REMOTE_IRR) {
                return;
            }
            *lvt |= LVT_REMOTE_IRR;
            level = true;
        }
        apic_accept(a, *lvt & LVT_VECTOR, level);
        return;
    case MODE_SMI:
        a->r.requests |= CPU_APIC_SMI;
        break;
    case MODE_NMI:
        a->r.requests |= CPU_APIC_NMI;
        break;
    case MODE_INIT:
        apic_init_state(a);
        a->r.requests |= CPU_APIC_INIT;
        break;
    case MODE_EXTINT: /* looked at as a level */
        break;
    default:
        log_of(a->set, LOG_GUEST, "apic %u: LVT entry %u has a reserved delivery mode", a->id,
               entry);
        return;
    }
    apic_notify(a);
}

static void set_lint(ApicSet *s, unsigned n, bool level)
{
    bool rising = level && !s->lint[n];

    s->lint[n] = level;
    for (unsigned i = 0; i < s->cpus && level; i++) {
        LocalApic *a = &s->apic[i];
        unsigned entry = LVT_LINT0 + n;

        if (n == 1 && !apic_enabled(a)) {
            /* The pin is NMI again. */
            if (rising && (a->r.base & APIC_BASE_BSP)) {
                a->r.requests |= CPU_APIC_NMI;
            }
        } else if (rising || (n == 0 && (a->r.lvt[entry] & LVT_LEVEL) &&
                              (a->r.lvt[entry] >> LVT_MODE_SHIFT & 7) == MODE_FIXED)) {
            apic_lvt_deliver(a, entry);
        }
        apic_notify(a);
    }
}

static void set_lint0(void *opaque, int n, int level)
{
    set_lint(APIC_SET(opaque), 0, level != 0);
}

static void set_lint1(void *opaque, int n, int level)
{
    set_lint(APIC_SET(opaque), 1, level != 0);
}

void apic_end_of_interrupt(LocalApic *a)
{
    ApicSet *s = a->set;
    int vector = vector_highest(a->r.isr);
    uint32_t *lint0 = &a->r.lvt[LVT_LINT0];

    if (vector < 0) {
        return;
    }
    vector_set(a->r.isr, (uint8_t)vector, false);
    if (vector_get(a->r.tmr, (uint8_t)vector)) {
        if ((*lint0 & LVT_REMOTE_IRR) && (int)(*lint0 & LVT_VECTOR) == vector) {
            *lint0 &= ~LVT_REMOTE_IRR;
            if (s->lint[0]) {
                apic_lvt_deliver(a, LVT_LINT0);
            }
        } else if (!(a->r.svr & SVR_NO_BROADCAST)) {
            machine_eoi(s->parent.machine, vector);
        }
    }
    apic_notify(a);
}

/* ---- the page ------------------------------------------------------------------------------ */

static LocalApic *apic_of_access(ApicSet *s, hwaddr addr, MemTxAttrs attrs)
{
    LocalApic *a;

    if (addr >= APIC_PAGE || attrs.cpu < 0 || (unsigned)attrs.cpu >= s->cpus) {
        return NULL;
    }
    a = &s->apic[attrs.cpu];
    return apic_enabled(a) && !apic_is_x2(a) ? a : NULL;
}

static MemTxResult apic_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    ApicSet *s = opaque;
    LocalApic *a = apic_of_access(s, addr, attrs);

    if (attrs.cpu < 0 && addr < APIC_PAGE) {
        /* A script's look at the boot processor's, without the errors that it would note. */
        LocalApic copy = s->apic[0];

        copy.r.lvt[LVT_ERROR] |= LVT_MASKED;
        *data = addr & 15 ? 0 : apic_read_register(&copy, (unsigned)addr);
        return MEMTX_OK;
    }
    if (!a) {
        *data = UINT32_MAX;
        return MEMTX_DECODE_ERROR;
    }
    *data = addr & 15 ? 0 : apic_read_register(a, (unsigned)addr);
    return MEMTX_OK;
}

static MemTxResult apic_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    ApicSet *s = opaque;
    LocalApic *a = apic_of_access(s, addr, attrs);

    if (a) {
        if (!(addr & 15)) {
            apic_write_register(a, (unsigned)addr, (uint32_t)data);
        }
        return MEMTX_OK;
    }
    if (attrs.debug) {
        return MEMTX_ERROR;
    }
    apic_message(&s->parent, APIC_BASE_ADDRESS + addr, (uint32_t)data);
    return MEMTX_OK;
}

/* Registers are 32 bits wide, on 16-byte boundaries; other accesses are undefined. */
static const MemoryRegionOps apic_mmio_ops = {
    .read_attrs = apic_read,
    .write_attrs = apic_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 4 },
};

static void message_from_machine(void *opaque, uint64_t addr, uint32_t data)
{
    apic_message(opaque, addr, data);
}

/* ---- saved state --------------------------------------------------------------------------- */

static void apic_pre_save(void *opaque)
{
    ApicSet *s = opaque;

    s->saved = s->cpus;
    for (unsigned i = 0; i < s->cpus; i++) {
        s->apic[i].r.timer_due = s->apic[i].timer.expire;
    }
}

static bool apic_post_load(void *opaque, unsigned version, GError **error)
{
    ApicSet *s = opaque;

    if (s->saved != s->cpus) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "state of %u APICs, there are %u", s->saved,
                         s->cpus);
    }
    for (unsigned i = 0; i < s->cpus; i++) {
        LocalApic *a = &s->apic[i];

        if (!apic_state_valid(&a->r)) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "APIC %u is in an impossible state", i);
        }
        if (a->r.timer_due >= 0) {
            timer_arm(&a->timer, a->r.timer_due);
        } else {
            timer_disarm(&a->timer);
        }
        apic_notify(a);
    }
    return true;
}

static const VMStateField apic_fields[] = {
    VMSTATE_ARRAY_(lint, ApicSet, VMS_BOOL),
    {
        .name = "apic",
        .kind = VMS_STRUCT,
        .offset = offsetof(ApicSet, apic) + offsetof(LocalApic, r),
        .size = sizeof(LocalApic),
        .count = APIC_MAX_CPUS,
        .count_offset = offsetof(ApicSet, saved),
        .vmsd = &vmstate_apic_state,
    },
    VMSTATE_END(),
};
static const VMStateDescription vmstate_apic = {
    .name = "apic",
    .version = 2,
    .minimum_version = 2,
    .pre_save = apic_pre_save,
    .post_load = apic_post_load,
    .fields = apic_fields,
};

/* Again at each reset: a board may make its vCPUs after its devices, and the first reset comes when
 * all are there. */
static void attach_cpus(ApicSet *s)
{
    Machine *m = s->parent.machine;

    for (unsigned i = 0; i < MIN(s->cpus, m->cpus->len); i++) {
        VCpu *cpu = g_ptr_array_index(m->cpus, i);

        cpu->apic = &s->apic[i];
        cpu->apic_ops = &apic_cpu_ops;
    }
}

/* ---- reset --------------------------------------------------------------------------------- */

void apic_init_state(LocalApic *a)
{
    apic_state_init(&a->r);
    timer_disarm(&a->timer);
}

static void apic_reset(DeviceState *dev)
{
    ApicSet *s = APIC_SET(dev);

    attach_cpus(s);
    for (unsigned i = 0; i < s->cpus; i++) {
        LocalApic *a = &s->apic[i];

        apic_state_reset(&a->r, i == 0);
        timer_disarm(&a->timer);
        if (i == 0 && !s->virtual_wire) {
            a->r.lvt[LVT_LINT0] = LVT_MASKED;
        }
    }
}

/* ---- the device ---------------------------------------------------------------------------- */

static bool apic_realize(DeviceState *dev, GError **error)
{
    ApicSet *s = APIC_SET(dev);
    Machine *m = dev->machine;

    if (s->cpus == 0) {
        s->cpus = MAX(m->cpus->len, 1);
    }
    if (s->cpus > APIC_MAX_CPUS || s->tsc_khz == 0) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: %u processors (at most %d), TSC of %u kHz",
                         object_get_name(OBJECT(dev)), s->cpus, APIC_MAX_CPUS, s->tsc_khz);
    }
    for (unsigned i = 0; i < APIC_MAX_CPUS; i++) {
        s->apic[i].set = s;
        s->apic[i].id = i;
        apic_timer_setup(&s->apic[i]);
    }
    memory_region_finalize(&s->mmio); /* of an earlier life */
    memory_region_init_io(&s->mmio, OBJECT(dev), &apic_mmio_ops, s, object_get_name(OBJECT(dev)),
                          0x100000);
    if (!device_map_memory(dev, APIC_BASE_ADDRESS, &s->mmio, 0, error)) {
        return false;
    }
    machine_set_msi(m, message_from_machine, dev);
    return true;
}

static void apic_unrealize(DeviceState *dev)
{
    ApicSet *s = APIC_SET(dev);
    Machine *m = dev->machine;

    for (unsigned i = 0; i < m->cpus->len; i++) {
        VCpu *cpu = g_ptr_array_index(m->cpus, i);

        cpu->apic_ops = NULL;
        cpu->apic = NULL;
    }
    machine_set_msi(m, NULL, dev);
    for (unsigned i = 0; i < APIC_MAX_CPUS; i++) {
        timer_disarm(&s->apic[i].timer);
    }
}

static const Property apic_properties[] = {
    DEFINE_PROP_UINT32("cpus", ApicSet, cpus, 0,
                       "how many there are; 0: one for each vCPU that the machine has"),
    DEFINE_PROP_UINT32("tsc-khz", ApicSet, tsc_khz, 1000000,
                       "rate of the guest's time stamp counter, for the TSC-deadline timer"),
    DEFINE_PROP_BOOL("virtual-wire", ApicSet, virtual_wire, true,
                     "after reset the boot processor takes the PIC's interrupts through LINT0"),
};

static void apic_init(Object *obj)
{
    device_init_irq_in(DEVICE(obj), "lint0", set_lint0, 1);
    device_init_irq_in(DEVICE(obj), "lint1", set_lint1, 1);
}

static void apic_finalize(Object *obj)
{
    memory_region_finalize(&APIC_SET(obj)->mmio);
}

static void apic_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = apic_realize;
    dc->unrealize = apic_unrealize;
    dc->reset = apic_reset;
    dc->vmsd = &vmstate_apic;
    object_class_add_properties(klass, apic_properties, G_N_ELEMENTS(apic_properties));
}

static const TypeInfo apic_info = {
    .name = TYPE_APIC,
    .parent = TYPE_SYS_DEVICE,
    .doc = "The local APICs of all processors",
    .instance_size = sizeof(ApicSet),
    .instance_init = apic_init,
    .instance_finalize = apic_finalize,
    .class_init = apic_class_init,
};

static void register_apic(void)
{
    type_register_static(&apic_info);
}
type_init(register_apic)

/*
 * A PC's interrupt controllers and timer in a machine's stream, wherever they are: as devices with
 * saved state of their own, or inside the accelerator. The sections are the same.
 *
 * What a stream has and the machine has not is dropped when the guest has not used it, and an error
 * that names it otherwise. What the machine has and the stream has not is as after a reset.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/machine/machine-chips.h"
#include "engine/machine/machine_priv.h"
#include "engine/state/stream.h"

struct MachineChips {
    Machine *machine;
    PcChipStates *states;
    unsigned seen; /* bits 1 << PcChip: in the stream */
};

static bool is_device(Machine *m, PcChip chip)
{
    const char *name = pc_chip_description(chip)->name;

    for (unsigned i = 0; i < m->priv->states->len; i++) {
        StateEntry *e = g_ptr_array_index(m->priv->states, i);

        if (e->instance == 0 && strcmp(e->name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Those inside, without what a device of the board takes the place of. */
static unsigned inside(Machine *m)
{
    unsigned all = m->accel && machine_accel_class(m)->chips
                       ? machine_accel_class(m)->chips(m->accel)
                       : 0;

    for (int i = 0; i < PC_CHIPS; i++) {
        if ((all >> i & 1) && is_device(m, (PcChip)i)) {
            all &= ~(1u << i);
        }
    }
    return all;
}

/* The state that a machine without these chips has shown its guest all along. */
static PcChipStates *fresh_states(Machine *m, bool of_cpus)
{
    PcChipStates *s = g_new(PcChipStates, 1);

    pc_chips_reset(s, m->cpus->len);
    for (unsigned i = 0; of_cpus && i < s->apics; i++) {
        const X86CPUState *cpu = ((VCpu *)g_ptr_array_index(m->cpus, i))->state;

        s->apic[i].tpr = (uint32_t)(cpu->cr8 & 15) << 4;
    }
    s->pit_seen = pit_ns_to_clk(clock_now(m->clock));
    return s;
}

MachineChips *machine_chips_read(Machine *m, uint8_t levels[MACHINE_MAX_GSI / 8], GError **error)
{
    MachineChips *c = machine_chips_new(m);

    c->seen = inside(m);
    if (c->seen && !machine_accel_class(m)->chips_get(m->accel, c->states, error)) {
        machine_chips_free(c);
        return NULL;
    }
    if ((c->seen & 1u << PC_CHIP_PIT) && (c->seen & 1u << PC_CHIP_PIC)) {
        levels[0] = (uint8_t)((levels[0] & ~1u) | (c->states->pic[0].lines & 1));
    }
    return c;
}

void machine_chips_save(MachineChips *c, StateWriter *w)
{
    for (int i = 0; i < PC_CHIPS; i++) {
        const VMStateDescription *d = pc_chip_description((PcChip)i);

        if (c->seen >> i & 1) {
            state_section_begin(w, d->name, 0, d->version);
            vmstate_save(w, d, c->states);
            state_section_end(w);
        }
    }
}

bool machine_chips_reset(Machine *m, GError **error)
{
    unsigned all = inside(m) & ~(1u << PC_CHIP_APIC); /* which is reset with its processor */
    g_autofree PcChipStates *s = NULL;

    if (!all) {
        return true;
    }
    s = fresh_states(m, false);
    return machine_accel_class(m)->chips_put(m->accel, s, all, error);
}

/* ---- loading ------------------------------------------------------------------------------- */

MachineChips *machine_chips_new(Machine *m)
{
    MachineChips *c = g_new0(MachineChips, 1);

    c->machine = m;
    c->states = fresh_states(m, false);
    return c;
}

void machine_chips_free(MachineChips *c)
{
    if (c) {
        g_free(c->states);
        g_free(c);
    }
}

bool machine_chips_load(MachineChips *c, StateReader *r, const char *name, uint32_t instance,
                        bool *known, GError **error)
{
    int chip = instance == 0 ? pc_chip_of(name) : -1;

    *known = chip >= 0 && !(c->seen >> chip & 1);
    if (!*known) {
        return true;
    }
    c->seen |= 1u << chip;
    return vmstate_load(r, pc_chip_description((PcChip)chip), c->states, error);
}

bool machine_chips_default(MachineChips *c, const char *name, uint32_t instance,
                           const VMStateDescription *vmsd, void *opaque, bool *known,
                           GError **error)
{
    int chip = instance == 0 ? pc_chip_of(name) : -1;
    g_autofree PcChipStates *s = NULL;
    g_autoptr(GBytes) bytes = NULL;
    const char *section;
    uint32_t n, version;
    StateWriter *w;
    StateReader *r;
    bool ok;

    *known = chip >= 0;
    if (!*known) {
        return true;
    }
    s = fresh_states(c->machine, true);
    w = state_writer_new();
    state_section_begin(w, name, 0, vmsd->version);
    vmstate_save(w, pc_chip_description((PcChip)chip), s);
    state_section_end(w);
    bytes = state_writer_finish(w);
    r = state_reader_new(bytes, error);
    ok = r && state_next_section(r, &section, &n, &version) && vmstate_load(r, vmsd, opaque, error);
    state_reader_free(r);
    return ok;
}

static bool drop_unused(MachineChips *c, unsigned which, GError **error)
{
    for (int i = 0; i < PC_CHIPS; i++) {
        const char *what;

        if (!(which >> i & 1)) {
            continue;
        }
        if (pc_chip_in_use((PcChip)i, c->states, &what)) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "the saved guest uses the %s, which %s has not (%s, irqchip=%s)", what,
                             OBJECT(c->machine)->name, machine_accel_class(c->machine)->short_name,
                             c->machine->accel->config.irqchip == IRQCHIP_OFF     ? "off"
                             : c->machine->accel->config.irqchip == IRQCHIP_SPLIT ? "split"
                                                                                  : "on");
        }
        log_mask(LOG_STATE, "%s: state of '%s' is dropped: nobody has used it",
                 OBJECT(c->machine)->name, pc_chip_description((PcChip)i)->name);
    }
    return true;
}

bool machine_chips_apply(MachineChips *c, GError **error)
{
    Machine *m = c->machine;
    unsigned all = inside(m), missing = all & ~c->seen;

    if (!drop_unused(c, c->seen & ~all, error)) {
        return false;
    }
    if (!all) {
        return true;
    }
    if ((c->seen & 1u << PC_CHIP_APIC) && c->states->apics != m->cpus->len) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "state of %u APICs, there are %u",
                         c->states->apics, m->cpus->len);
    }
    if (missing & 1u << PC_CHIP_APIC) {
        g_autofree PcChipStates *s = fresh_states(m, true);

        memcpy(c->states->apic, s->apic, sizeof(s->apic));
        c->states->apics = s->apics;
    }
    return machine_accel_class(m)->chips_put(m->accel, c->states, all, error);
}

/* A PC's chips in a machine's stream: machine-chips.c. Engine lock; vCPUs are stopped. */
#pragma once

#include "engine/machine/machine.h"

typedef struct MachineChips MachineChips; /* what a stream has of them */

/* Those inside the accelerator. Its PIT's output is put into the levels of lines, as if it were a
 * device. NULL + error. */
MachineChips *machine_chips_read(Machine *m, uint8_t levels[MACHINE_MAX_GSI / 8], GError **error);
void machine_chips_save(MachineChips *c, StateWriter *w);
bool machine_chips_reset(Machine *m, GError **error); /* those inside the accelerator */

MachineChips *machine_chips_new(Machine *m);
void machine_chips_free(MachineChips *c);
/* A section that no device takes. !*known: none of a chip, and nothing was read. */
bool machine_chips_load(MachineChips *c, StateReader *r, const char *name, uint32_t instance,
                        bool *known, GError **error);
/* A device whose section did not come: as after a reset. !*known: it is none of the chips. */
bool machine_chips_default(MachineChips *c, const char *name, uint32_t instance,
                           const VMStateDescription *vmsd, void *opaque, bool *known,
                           GError **error);
bool machine_chips_apply(MachineChips *c, GError **error); /* after all sections */

/* A device of any type on a bare machine, whose time the fuzzer drives. */
#pragma once

#include "engine/chardev/chardev.h"
#include "engine/hw/core/device.h"
#include "tests/fuzz/fuzz.h"

typedef struct Rig {
    Machine *machine;
    DeviceState *dev; /* NULL: the type wants properties that only a board knows */
    Chardev *chr;     /* NULL: it has no property `chardev` */
    int64_t now;
} Rig;

unsigned rig_types(void); /* how many device types there are */
Rig *rig_new(unsigned type);
/* Its memory stays for a while: views that linger may ask it for the time. */
void rig_free(Rig *rig);
void rig_run(Rig *rig, int64_t ns); /* from timer to timer; bounded */
const VMStateDescription *rig_vmsd(Rig *rig);
GBytes *rig_save(Rig *rig);
bool rig_load(Rig *rig, GBytes *bytes, GError **error);
/* `bytes` with some changed as the input says and the checksum right again. */
GBytes *rig_mutate(FuzzInput *in, GBytes *bytes);
/* One step that a guest, the outside or a board could take. */
void rig_step(Rig *rig, FuzzInput *in);

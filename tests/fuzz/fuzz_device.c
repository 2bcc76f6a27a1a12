/*
 * Every device type, driven by a program of bytes: register accesses of all sizes, time, bytes and
 * events from outside, input lines, saving and loading in the middle. Before that, a state that was
 * saved and then damaged may be loaded: refused or not, the device must live on.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/fuzz/rig.h"

#define STEPS_BOUND 400

static unsigned only = UINT_MAX;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *choice = getenv("FUZZ_DEVICE"); /* the number of one type */

    fuzz_engine_init();
    rig_types();
    if (choice) {
        only = (unsigned)atoi(choice);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t type = fuzz_u8(&in);
    bool damaged = type & 0x80;
    Rig *rig = rig_new(only != UINT_MAX ? only : type & 0x7f);

    if (rig->dev && damaged && rig_vmsd(rig)) {
        g_autoptr(GBytes) bytes = rig_save(rig), bad = rig_mutate(&in, bytes);
        GError *error = NULL;
        bool ok = rig_load(rig, bad, &error);

        fuzz_outcome(ok, error);
        if (!ok) {
            device_reset(rig->dev); /* as the contract of vmstate_load demands */
        }
    }
    for (unsigned i = 0; rig->dev && i < STEPS_BOUND && in.left > 0; i++) {
        rig_step(rig, &in);
    }
    rig_free(rig);
    return 0;
}

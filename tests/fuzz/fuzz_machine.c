/*
 * The saved state of a whole machine with two vCPUs and every device type that stands on its own,
 * damaged and loaded. Refused or not, the machine must take a good state afterwards.
 */
#include <string.h>

#include "engine/core/error.h"
#include "tests/fuzz/rig.h"
#include "tests/unit/fake-accel.h"

static Machine *m;
static Snapshot *good;
static GBytes *saved;

static void add_device(ObjectClass *klass, void *opaque)
{
    GError *error = NULL;
    DeviceState *dev = DEVICE(object_new_with_class(klass, &error));

    FUZZ_CHECK(dev, "%s", error ? error->message : "");
    if (!device_realize(dev, m, NULL, &error)) { /* wants properties, or an address that is taken */
        fuzz_outcome(false, error);
    }
    object_unref(dev);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    GError *error = NULL;

    fuzz_engine_init();
    m = fake_machine(2, IRQCHIP_OFF);
    object_class_foreach(add_device, TYPE_DEVICE, false, NULL);
    saved = machine_save_devices(m, &error);
    FUZZ_CHECK(saved, "%s", error ? error->message : "");
    good = machine_snapshot(m, &error);
    FUZZ_CHECK(good, "%s", error ? error->message : "");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    g_autoptr(GBytes) bad = rig_mutate(&in, saved), again = NULL;
    GError *error = NULL;
    bool ok = machine_load_devices(m, bad, &error);

    fuzz_outcome(ok, error);
    if (ok) {
        error = NULL;
        again = machine_save_devices(m, &error);
        FUZZ_CHECK(again, "%s", error ? error->message : "");
        machine_reset(m, NULL);
    }
    error = NULL;
    FUZZ_CHECK(machine_restore(m, good, &error), "%s", error ? error->message : "");
    g_clear_pointer(&again, g_bytes_unref);
    again = machine_save_devices(m, &error);
    FUZZ_CHECK(again && g_bytes_get_size(again) == g_bytes_get_size(saved));
    return 0;
}

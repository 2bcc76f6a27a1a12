/* A machine with nothing in it but the device under test, on a clock that the test turns. For tests
 * of interrupt controllers and timers. */
#pragma once

#include "engine/state/stream.h"
#include "tests/unit/board_rig.h"

#define INTC_UNUSED __attribute__((unused))

static Machine *machine;
static int64_t now_ns;

static int64_t test_now(void *opaque)
{
    return now_ns;
}

static void machine_setup(void)
{
    main_loop_init();
    now_ns = 0;
    machine = machine_new("test-board", "m0", NULL);
    object_ref(machine);
    clock_set_source(machine->clock, test_now, NULL, NULL);
}

static void machine_teardown(void)
{
    machine_close(machine);
    settle();
    object_unref(machine);
    settle();
    main_loop_finalize();
}

static INTC_UNUSED DeviceState *device_make(const char *type, const char *id)
{
    DeviceState *dev = DEVICE(object_new(type, NULL));
    g_autoptr(GError) error = NULL;

    ck_assert_msg(device_realize(dev, machine, id, &error), "%s", error ? error->message : "");
    object_unref(dev); /* the tree has it */
    return dev;
}

static INTC_UNUSED unsigned inb(unsigned port)
{
    return (unsigned)address_space_ldn(machine->io, port, 1, MEMTXATTRS_NONE, NULL);
}

static INTC_UNUSED void outb(unsigned port, unsigned value)
{
    address_space_stn(machine->io, port, value, 1, MEMTXATTRS_NONE, NULL);
}

/* Time goes on from timer to timer. */
static INTC_UNUSED void run_until(int64_t end)
{
    int64_t next;

    while ((next = clock_deadline(machine->clock)) >= 0 && next <= end) {
        now_ns = MAX(now_ns, next);
        clock_run_timers(machine->clock);
    }
    now_ns = MAX(now_ns, end);
}

static INTC_UNUSED GBytes *save_device(DeviceState *dev)
{
    const VMStateDescription *vmsd = DEVICE_GET_CLASS(dev)->vmsd;
    StateWriter *w = state_writer_new();

    state_section_begin(w, vmsd->name, 0, vmsd->version);
    vmstate_save(w, vmsd, dev);
    state_section_end(w);
    return state_writer_finish(w);
}

static INTC_UNUSED bool load_device(DeviceState *dev, GBytes *bytes)
{
    StateReader *r = state_reader_new(bytes, NULL);
    const char *name;
    uint32_t instance, version;
    bool ok;

    ck_assert(state_next_section(r, &name, &instance, &version));
    ok = vmstate_load(r, DEVICE_GET_CLASS(dev)->vmsd, dev, NULL);
    state_reader_free(r);
    return ok;
}

static INTC_UNUSED int run_tests(const char *name, void (*setup)(void), void (*teardown)(void),
                                 void (*add)(TCase *tc))
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    add(tc);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

/* What tests on the test accelerator share: set-up, assertions, guests, machines that run. */
#pragma once

#include <check.h>
#include <string.h>

#include "engine/core/main-loop.h"
#include "fake-accel.h"

static inline void setup(void)
{
    main_loop_init();
}

static inline void teardown(void)
{
    ck_assert_uint_eq(fake_accels_alive, 0);
    main_loop_finalize();
}

static inline void ok(bool result, GError *error)
{
    ck_assert_msg(result && !error, "%s", error ? error->message : "failed without an error");
}

#define ck_error(error, text)                                                                \
    do {                                                                                     \
        ck_assert_ptr_nonnull(error);                                                        \
        ck_assert_msg(strstr((error)->message, (text)), "'%s' lacks '%s'", (error)->message, \
                      (text));                                                               \
        g_clear_error(&(error));                                                             \
    } while (0)

static inline VCpu *cpu_at(Machine *m, unsigned i)
{
    return g_ptr_array_index(m->cpus, i);
}

static inline void resume(Machine *m)
{
    GError *error = NULL;

    ok(machine_resume(m, &error), error);
}

static inline Machine *machine_running(unsigned n, const FakeStep *program, unsigned length)
{
    Machine *m = fake_machine(n, IRQCHIP_ON);

    for (unsigned i = 0; i < n; i++) {
        fake_load(cpu_at(m, i), program, length);
    }
    resume(m);
    return m;
}
#define RUNNING(n, program) machine_running((n), (program), G_N_ELEMENTS(program))

/* Counts and makes exits for ever. */
__attribute__((unused)) static const FakeStep busy[] = {
    { FAKE_COUNT, { 0 } }, { FAKE_STORE, { .addr = 0x2000 } },
    FAKE_OUT(0x600, 1, 1), FAKE_IN(0x601, 1),
    FAKE_GOTO(0),
};
/* Sleeps in the guest for ever. */
__attribute__((unused)) static const FakeStep asleep[] = { { FAKE_SLEEP, { 0 } }, FAKE_GOTO(0) };

/* A bare machine in which devices are realized. */
#pragma once

#include "engine/chardev/chardev.h"
#include "tests/unit/board_rig.h"
#include "tests/unit/fake-accel.h"

static Machine *machine;

static inline void rig_open(void)
{
    g_autoptr(GError) error = NULL;

    main_loop_init();
    machine = machine_new("test-board", "m0", &error);
    ck_assert_msg(machine != NULL, "%s", error ? error->message : "");
    object_ref(machine);
}

static inline void rig_close(void)
{
    machine_close(machine);
    settle();
    object_unref(machine);
    settle();
    main_loop_finalize();
}

/* A machine that can run, in the place of the bare one. */
static inline void complete(void)
{
    machine_close(machine);
    settle();
    object_unref(machine);
    machine = fake_machine(1, IRQCHIP_ON);
    object_ref(machine);
}

static inline uint64_t inp(uint32_t port, unsigned size)
{
    return address_space_ldn(machine->io, port, size, MEMTXATTRS_NONE, NULL);
}

static inline void outp(uint32_t port, uint64_t value, unsigned size)
{
    address_space_stn(machine->io, port, value, size, MEMTXATTRS_NONE, NULL);
}

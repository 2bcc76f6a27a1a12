/* The type of machine that tests put one device into. */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/hw/core/device.h"
#include "tests/unit/run_suite.h"

static const TypeInfo board_info = {
    .name = "test-board",
    .parent = TYPE_MACHINE,
    .doc = "A machine with nothing in it",
};

static inline void register_test_board(void)
{
    type_register_static(&board_info);
}
type_init(register_test_board)

/* What old views of the address spaces kept alive goes with them. */
static inline void settle(void)
{
    engine_unlock();
    rcu_drain();
    engine_lock();
    while (main_loop_iterate(false)) {
    }
}

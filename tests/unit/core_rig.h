/* A main loop, and what its callbacks did in order. */
#pragma once

#include <check.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "tests/unit/engine_error.h"
#include "tests/unit/run_suite.h"

/* An opaque pointer to a constant text. */
#define TEXT(s) ((void *)(uintptr_t)(s))

static GString *events; /* what callbacks did, in order */

static inline void setup(void)
{
    main_loop_init();
    events = g_string_new(NULL);
}

static inline void teardown(void)
{
    g_string_free(events, TRUE);
    main_loop_finalize();
}

static inline void note(void *opaque)
{
    ck_assert(engine_lock_held());
    ck_assert(main_loop_is_main_thread());
    g_string_append(events, opaque);
}

/* Runs the loop until `text` was noted. A hang ends by Check's timeout. */
static inline void loop_until(const char *text)
{
    while (!strstr(events->str, text)) {
        main_loop_iterate(true);
    }
}

/* An error of the engine: its code and a part of its message. Takes it. */
#pragma once

#include <check.h>
#include <string.h>

#include "engine/core/error.h"

#define ck_assert_error(e, code_, text)                                                      \
    do {                                                                                     \
        ck_assert_ptr_nonnull(e);                                                            \
        ck_assert((e)->domain == ENGINE_ERROR);                                              \
        ck_assert_int_eq((e)->code, (code_));                                                \
        ck_assert_msg(strstr((e)->message, (text)) != NULL, "message is: %s", (e)->message); \
        g_clear_error(&(e));                                                                 \
    } while (0)

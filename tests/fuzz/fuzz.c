/* What all fuzzers share: see fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"

static uint64_t take_le(FuzzInput *in, size_t size)
{
    uint64_t v = 0;

    for (size_t i = 0; i < size && in->left > 0; i++) {
        v |= (uint64_t)*in->p++ << (8 * i);
        in->left--;
    }
    return v;
}

uint8_t fuzz_u8(FuzzInput *in)
{
    return (uint8_t)take_le(in, 1);
}

uint16_t fuzz_u16(FuzzInput *in)
{
    return (uint16_t)take_le(in, 2);
}

uint32_t fuzz_u32(FuzzInput *in)
{
    return (uint32_t)take_le(in, 4);
}

uint64_t fuzz_u64(FuzzInput *in)
{
    return take_le(in, 8);
}

uint64_t fuzz_odd(FuzzInput *in)
{
    uint8_t how = fuzz_u8(in);

    switch (how & 7) {
    case 0:
    case 1:
        return how >> 3;
    case 2:
        return (uint64_t)fuzz_u8(in) << 8;
    case 3:
        return (uint64_t)fuzz_u8(in) << 12;
    case 4: /* around a power of two */
        return (UINT64_C(1) << (fuzz_u8(in) & 63)) + (uint64_t)(how >> 3) - 16;
    case 5: /* just below 2^64 */
        return UINT64_MAX - (how >> 3);
    case 6:
        return fuzz_u16(in);
    default:
        return fuzz_u64(in);
    }
}

const uint8_t *fuzz_take(FuzzInput *in, size_t *len)
{
    const uint8_t *p = in->p;

    *len = MIN(*len, in->left);
    in->p += *len;
    in->left -= *len;
    return p;
}

void fuzz_finding(const char *file, int line, const char *what, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "%s:%d: does not hold: %s ", file, line, what);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

void fuzz_engine_init(void)
{
    main_loop_init();
}

void fuzz_settle(void)
{
    engine_unlock();
    rcu_drain();
    engine_lock();
    while (main_loop_iterate(false)) {
    }
}

void fuzz_outcome(bool ok, GError *error)
{
    FUZZ_CHECK(ok == !error, "%s", error ? error->message : "failed without an error");
    if (error) {
        FUZZ_CHECK(error->message && *error->message);
        g_error_free(error);
    }
}

/*
 * What all fuzzers share: the input as a stream of numbers, and the engine set up once.
 *
 * An input that has ended reads as zeros, so that every prefix of a program is a program.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct FuzzInput {
    const uint8_t *p;
    size_t left;
} FuzzInput;

uint8_t fuzz_u8(FuzzInput *in);
uint16_t fuzz_u16(FuzzInput *in);
uint32_t fuzz_u32(FuzzInput *in);
uint64_t fuzz_u64(FuzzInput *in);
/* Mostly small or near a border, as numbers that break things are. */
uint64_t fuzz_odd(FuzzInput *in);
const uint8_t *fuzz_take(FuzzInput *in, size_t *len); /* at most what is left */

/* What does not hold is a finding: says so and dies, whatever NDEBUG. */
#define FUZZ_CHECK(cond, ...)                                        \
    do {                                                             \
        if (!(cond)) {                                               \
            fuzz_finding(__FILE__, __LINE__, #cond, "" __VA_ARGS__); \
        }                                                            \
    } while (0)
void fuzz_finding(const char *file, int line, const char *what, const char *format, ...)
    G_GNUC_PRINTF(4, 5) G_GNUC_NORETURN;

/* Main loop and types; the engine lock is held from then on. */
void fuzz_engine_init(void);
/* Lets everything that was deferred run. */
void fuzz_settle(void);
/* Whether an error goes with a failure and only with one; frees it. */
void fuzz_outcome(bool ok, GError *error);

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * Text that users type: options of chardevs, log masks, sizes, globs of trace points, names of CPU
 * features. The first byte chooses the parser.
 */
#include <string.h>

#include "engine/chardev/chardev.h"
#include "engine/core/log.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"
#include "engine/cpu/cpuid.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_engine_init();
    return 0;
}

static void fuzz_size(const char *text)
{
    GError *error = NULL;
    uint64_t bytes = 0, again;
    bool ok = parse_size(text, &bytes, &error);

    fuzz_outcome(ok, error);
    if (ok) { /* what it means as a plain number means the same */
        g_autofree char *plain = g_strdup_printf("%" G_GUINT64_FORMAT, bytes);

        FUZZ_CHECK(parse_size(plain, &again, NULL) && again == bytes, "%s", text);
    }
}

static void fuzz_mask(const char *text)
{
    GError *error = NULL;
    uint32_t mask = 0, known = 0;
    bool ok = log_parse_mask(text, &mask, &error);

    fuzz_outcome(ok, error);
    for (const LogItem *item = log_items; item->name; item++) {
        known |= (uint32_t)item->mask;
    }
    FUZZ_CHECK(!ok || !(mask & ~known), "%s gives %#x", text, mask);
}

static void fuzz_chardev(const char *text)
{
    GError *error = NULL;
    Chardev *chr = chardev_parse(text, &error);

    fuzz_outcome(chr != NULL, error);
    if (chr) {
        FUZZ_CHECK(!chr->opened);
        FUZZ_CHECK(chardev_label(chr));
        object_unref(chr);
    }
}

static void fuzz_trace(const char *text)
{
    unsigned n = trace_enable(text, true), on = 0;

    for (TracePoint *p = trace_first(); p; p = p->next) {
        on += p->enabled;
    }
    FUZZ_CHECK(on == n, "%s: %u matched, %u are on", text, n, on);
    FUZZ_CHECK(trace_enable(text, false) == n);
}

static void fuzz_feature(const char *text)
{
    const CpuidFeature *f = cpuid_feature_find(text);

    FUZZ_CHECK(!f || f->bit < 32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parsers[])(const char *text) = {
        fuzz_chardev, fuzz_chardev, fuzz_size, fuzz_mask, fuzz_trace, fuzz_feature,
    };
    g_autofree char *text = NULL;

    if (size < 1) {
        return 0;
    }
    text = g_strndup((const char *)data + 1, size - 1);
    parsers[data[0] % G_N_ELEMENTS(parsers)](text);
    return 0;
}

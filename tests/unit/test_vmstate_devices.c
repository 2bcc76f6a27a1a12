/*
 * The generic test of saved state: every device type there is, made with its default properties on
 * a bare machine, disturbed, saved, loaded into a fresh one, saved again: equal bytes. A new device
 * is tested by existing; one that declares no state fails unless it says that it has none.
 *
 * Two ways to disturb: random reads and writes of what the device mapped (a state a guest can
 * reach), and random values in the saved fields themselves, which a description may refuse as
 * impossible, but then every time.
 */
#include <stdio.h>

#include "engine/state/stream.h"
#include "tests/unit/board_rig.h"

static unsigned serial_number;
/* Freed at the end: a machine that old views of its address spaces keep alive has one as the source
 * of its time. */
static GPtrArray *samples;

typedef struct Sample {
    Machine *machine;
    MemoryRegion ram; /* below a PCI host bridge */
    DeviceState *dev;
    int64_t now;
} Sample;

static int64_t sample_now(void *opaque)
{
    return ((Sample *)opaque)->now;
}

static void deadline_moved(void *opaque)
{
}

/* What devices of some kinds are found on: RAM, a PCI bus. */
static void add_surroundings(Sample *s)
{
    bool is_host = !strcmp(object_get_typename(OBJECT(s->dev)), "i440fx-pcihost");
    bool is_pci = object_dynamic_cast(OBJECT(s->dev), "pci-device") != NULL;
    Object *host;

    if (!is_host && !is_pci) {
        return;
    }
    ck_assert(memory_region_init_ram(&s->ram, NULL, "ram", 2u << 20, NULL));
    memory_region_add_subregion(&s->machine->memory_root, 0, &s->ram);
    if (is_pci) {
        host = object_new("i440fx-pcihost", NULL);
        ck_assert(device_realize(DEVICE(host), s->machine, "host", NULL));
        object_unref(host);
    }
}

/* dev NULL: the type cannot be realized without properties that only a board knows. */
static Sample *sample_new(ObjectClass *klass)
{
    Sample *s = g_new0(Sample, 1);
    g_autofree char *id = g_strdup_printf("m%u", serial_number++);
    g_autoptr(GError) error = NULL;

    g_ptr_array_add(samples, s);
    s->machine = machine_new("test-board", id, &error);
    ck_assert_msg(s->machine != NULL, "%s", error ? error->message : "");
    object_ref(s->machine);
    clock_set_source(s->machine->clock, sample_now, deadline_moved, s);
    s->dev = DEVICE(object_new_with_class(klass, &error));
    ck_assert_ptr_nonnull(s->dev);
    add_surroundings(s);
    if (!device_realize(s->dev, s->machine, "dut", &error)) {
        ck_assert_msg(!strstr(error->message, "declares neither"), "%s", error->message);
        object_unref(s->dev);
        s->dev = NULL;
    }
    return s;
}

static void sample_free(Sample *s)
{
    object_unref(s->dev);
    machine_close(s->machine);
    object_unref(s->machine);
    if (s->ram.id) {
        settle();
        memory_region_finalize(&s->ram);
    }
}

/* Time goes on from timer to timer. */
static void sample_run(Sample *s, int64_t ns)
{
    int64_t end = s->now + ns, next;

    for (unsigned i = 0; i < 1000; i++) {
        next = clock_deadline(s->machine->clock);
        if (next < 0 || next > end) {
            break;
        }
        s->now = MAX(s->now, next);
        clock_run_timers(s->machine->clock);
    }
    s->now = end;
}

static const VMStateDescription *description(DeviceState *dev)
{
    DeviceClass *klass = DEVICE_GET_CLASS(dev);

    return klass->get_vmsd ? klass->get_vmsd(dev) : klass->vmsd;
}

static GBytes *save(Sample *s)
{
    const VMStateDescription *vmsd = description(s->dev);
    StateWriter *w = state_writer_new();

    state_section_begin(w, vmsd->name, 0, vmsd->version);
    vmstate_save(w, vmsd, s->dev);
    state_section_end(w);
    return state_writer_finish(w);
}

static bool load(Sample *s, GBytes *bytes, GError **error)
{
    StateReader *r = state_reader_new(bytes, error);
    const char *name;
    uint32_t instance, version;
    bool ok;

    ck_assert_ptr_nonnull(r);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ok = vmstate_load(r, description(s->dev), s->dev, error);
    if (ok) {
        ck_assert_uint_eq(state_section_left(r), 0);
        ck_assert(!state_next_section(r, &name, &instance, &version));
        ck_assert(state_reader_ok(r, error));
    }
    state_reader_free(r);
    return ok;
}

/* ---- what differs, by name ------------------------------------------------------------------ */

static void note_scalar(const char *path, VMStateKind kind, void *field, size_t size, void *data)
{
    GString *hex = g_string_new(path);

    g_string_append(hex, " =");
    for (size_t i = 0; i < size; i++) {
        g_string_append_printf(hex, " %02x", ((const uint8_t *)field)[i]);
    }
    g_ptr_array_add(data, g_string_free(hex, FALSE));
}

static void ck_same(ObjectClass *klass, Sample *a, Sample *c, GBytes *one, GBytes *two)
{
    g_autoptr(GPtrArray) fa = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) fc = g_ptr_array_new_with_free_func(g_free);

    if (g_bytes_equal(one, two)) {
        return;
    }
    vmstate_foreach_scalar(description(a->dev), a->dev, note_scalar, fa);
    vmstate_foreach_scalar(description(c->dev), c->dev, note_scalar, fc);
    for (unsigned i = 0; i < MIN(fa->len, fc->len); i++) {
        ck_assert_msg(!strcmp(fa->pdata[i], fc->pdata[i]), "%s: saved %s, after load %s",
                      object_class_get_name(klass), (char *)fa->pdata[i], (char *)fc->pdata[i]);
    }
    ck_abort_msg("%s: saving after loading gives other bytes", object_class_get_name(klass));
}

static bool round_trip(ObjectClass *klass, Sample *s)
{
    Sample *fresh = sample_new(klass);
    g_autoptr(GBytes) one = save(s), two = NULL;
    g_autoptr(GError) error = NULL;
    bool ok;

    fresh->now = s->now;
    ok = load(fresh, one, &error);
    if (ok) {
        two = save(fresh);
        ck_same(klass, s, fresh, one, two);
        sample_run(fresh, 1000000000); /* what was armed fires without harm */
    } else {
        ck_assert_ptr_nonnull(error);
    }
    sample_free(fresh);
    return ok;
}

/* Random fields may be set right by post_load, but what it leaves must be stable. */
static bool round_trip_or_refused(ObjectClass *klass, Sample *s)
{
    Sample *fresh = sample_new(klass);
    g_autoptr(GBytes) bytes = save(s);
    bool ok;

    fresh->now = s->now;
    ok = load(fresh, bytes, NULL);
    if (ok) {
        ck_assert_msg(round_trip(klass, fresh), "%s: a state that loaded once does not load again",
                      object_class_get_name(klass));
    }
    sample_free(fresh);
    return ok;
}

/* ---- disturbing ---------------------------------------------------------------------------- */

static void poke_region(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque)
{
    GArray *ranges = opaque;

    if (mr->kind == MEMORY_IO && mr->enabled && mr->size <= 0x10000) {
        MemoryRange range = { addr, mr->size };

        g_array_append_val(ranges, range);
    }
}

static void poke_space(Sample *s, AddressSpace *as, GRand *rand, unsigned times)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(MemoryRange));

    memory_region_tree_foreach(address_space_root(as), poke_region, ranges);
    for (unsigned i = 0; ranges->len > 0 && i < times; i++) {
        const MemoryRange *r = &g_array_index(ranges, MemoryRange, g_rand_int(rand) % ranges->len);
        hwaddr addr = r->addr + g_rand_int(rand) % r->size;
        unsigned size = 1u << g_rand_int(rand) % 3;

        if (g_rand_boolean(rand)) {
            address_space_stn(as, addr, g_rand_int(rand), size, MEMTXATTRS_NONE, NULL);
        } else {
            address_space_ldn(as, addr, size, MEMTXATTRS_NONE, NULL);
        }
        if (g_rand_int(rand) % 16 == 0) {
            sample_run(s, g_rand_int(rand) % 1000000);
        }
    }
}

static void scramble_scalar(const char *path, VMStateKind kind, void *field, size_t size,
                            void *data)
{
    GRand *rand = data;
    uint8_t *bytes = field;

    if (g_rand_int(rand) % 32) {
        return;
    }
    switch (kind) {
    case VMS_BOOL:
        *(bool *)field = g_rand_boolean(rand);
        break;
    case VMS_TIMER: {
        Timer *t = field;

        if (g_rand_boolean(rand)) {
            timer_arm(t, g_rand_int(rand) % 1000000000);
        } else {
            timer_disarm(t);
        }
        break;
    }
    case VMS_STRUCT:
    case VMS_CUSTOM:
        break;
    default:
        /* Small values are the ones that are legal more often. */
        memset(bytes, 0, size);
        bytes[0] = (uint8_t)(g_rand_boolean(rand) ? g_rand_int(rand) : g_rand_int(rand) & 7);
        break;
    }
}

typedef void (*EachFn)(ObjectClass *klass);

static unsigned each_device(EachFn fn)
{
    GSList *list = object_class_get_list(TYPE_DEVICE, false);
    unsigned n = 0;

    for (GSList *l = list; l; l = l->next) {
        fn(l->data);
        n++;
    }
    g_slist_free(list);
    return n;
}

static void setup(void)
{
    main_loop_init();
    samples = g_ptr_array_new_with_free_func(g_free);
}

static void teardown(void)
{
    settle();
    g_ptr_array_free(samples, TRUE);
    main_loop_finalize();
}

/* ---- tests --------------------------------------------------------------------------------- */

static void check_declared(ObjectClass *klass)
{
    Sample *s = sample_new(klass);

    if (s->dev) {
        const VMStateDescription *vmsd = description(s->dev);

        ck_assert_msg(vmsd || DEVICE_CLASS(klass)->no_state,
                      "%s declares neither saved state nor that it has none",
                      object_class_get_name(klass));
        ck_assert_msg(!vmsd || (vmsd->version >= vmsd->minimum_version && vmsd->name),
                      "%s: versions of its saved state", object_class_get_name(klass));
    }
    sample_free(s);
}

START_TEST(every_device_declares_its_saved_state_or_that_it_has_none)
{
    ck_assert_uint_ge(each_device(check_declared), 3);
}
END_TEST

static void check_fresh(ObjectClass *klass)
{
    Sample *s = sample_new(klass);

    if (s->dev && description(s->dev)) {
        ck_assert_msg(round_trip(klass, s), "%s: its state after reset does not load",
                      object_class_get_name(klass));
    }
    sample_free(s);
}

START_TEST(state_after_reset_comes_back_equal)
{
    each_device(check_fresh);
}
END_TEST

static void check_guest(ObjectClass *klass)
{
    for (unsigned seed = 0; seed < 20; seed++) {
        GRand *rand = g_rand_new_with_seed(seed);
        Sample *s = sample_new(klass);

        if (s->dev && description(s->dev)) {
            poke_space(s, s->machine->io, rand, 300);
            poke_space(s, s->machine->memory, rand, 300);
            ck_assert_msg(round_trip(klass, s),
                          "%s, seed %u: a state that a guest can reach does "
                          "not load",
                          object_class_get_name(klass), seed);
        }
        g_rand_free(rand);
        sample_free(s);
    }
}

START_TEST(state_that_a_guest_can_reach_comes_back_equal)
{
    each_device(check_guest);
}
END_TEST

static void check_scrambled(ObjectClass *klass)
{
    unsigned accepted = 0, tried = 0;

    for (unsigned seed = 0; seed < 40; seed++) {
        GRand *rand = g_rand_new_with_seed(seed);
        Sample *s = sample_new(klass);

        if (s->dev && description(s->dev)) {
            vmstate_foreach_scalar(description(s->dev), s->dev, scramble_scalar, rand);
            tried++;
            accepted += round_trip_or_refused(klass, s);
        }
        g_rand_free(rand);
        sample_free(s);
    }
    printf("# %s: %u of %u random states are legal\n", object_class_get_name(klass), accepted,
           tried);
}

START_TEST(random_state_is_refused_or_does_no_harm)
{
    each_device(check_scrambled);
}
END_TEST

static void check_truncated(ObjectClass *klass)
{
    Sample *s = sample_new(klass);

    if (s->dev && description(s->dev)) {
        const VMStateDescription *vmsd = description(s->dev);
        StateWriter *w = state_writer_new();
        g_autoptr(GBytes) bytes = NULL;
        g_autoptr(GError) error = NULL;

        state_section_begin(w, vmsd->name, 0, vmsd->version);
        state_section_end(w);
        bytes = state_writer_finish(w);
        ck_assert_msg(!load(s, bytes, &error), "%s loads from nothing",
                      object_class_get_name(klass));
    }
    sample_free(s);
}

START_TEST(an_empty_section_is_refused)
{
    each_device(check_truncated);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vmstate-devices");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 100);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, every_device_declares_its_saved_state_or_that_it_has_none);
    tcase_add_test(tc, state_after_reset_comes_back_equal);
    tcase_add_test(tc, state_that_a_guest_can_reach_comes_back_equal);
    tcase_add_test(tc, random_state_is_refused_or_does_no_harm);
    tcase_add_test(tc, an_empty_section_is_refused);

    return run_suite(suite);
}

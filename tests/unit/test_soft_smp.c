/*
 * Several vCPU threads of the software CPU: start-up by INIT and SIPI, locked operations, memory
 * order, code that another vCPU changes, translations that another vCPU has dropped by an IPI.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/hw/core/device.h"
#include "engine/machine/machine.h"

#define TYPE_SMP_MACHINE "soft-smp-machine"

static void register_types(void)
{
    static const TypeInfo info = { .name = TYPE_SMP_MACHINE, .parent = TYPE_MACHINE };

    type_register_static(&info);
}
type_init(register_types)

typedef struct Smp {
    Machine *m;
    MemoryRegion ram, word, values, done;
    uint64_t got[16];
    unsigned n;
    uint32_t kept;
    bool finished;
} Smp;

static void value_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Smp *s = opaque;

    if (s->n < G_N_ELEMENTS(s->got)) {
        s->got[s->n++] = data;
    }
}

static void done_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Smp *s = opaque;

    s->finished = true;
    machine_pause(s->m, "done");
}

static uint64_t word_read(void *opaque, hwaddr addr, unsigned size)
{
    return ((Smp *)opaque)->kept;
}

static void word_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    ((Smp *)opaque)->kept = (uint32_t)data;
}

static uint64_t ones(void *opaque, hwaddr addr, unsigned size)
{
    return UINT64_MAX;
}

static const MemoryRegionOps value_ops = { .read = ones, .write = value_write };
static const MemoryRegionOps done_ops = { .read = ones, .write = done_write };
static const MemoryRegionOps word_ops = { .read = word_read, .write = word_write };

/* Races of the guest in its own memory are the guest's; all others are ours. */
static void guest_memory_is_the_guests(Smp *s)
{
#ifdef __SANITIZE_THREAD__
    void AnnotateBenignRaceSized(const char *file, int line, const volatile void *mem, size_t size,
                                 const char *why);

    AnnotateBenignRaceSized(__FILE__, __LINE__, memory_region_get_ram_ptr(&s->ram), 4 * MiB,
                            "guest memory");
#endif
}

static void make(Smp *s, unsigned cpus)
{
    GError *error = NULL;
    AccelClass *soft = accel_find("soft", &error);
    DeviceState *apic;

    s->m = machine_new(TYPE_SMP_MACHINE, NULL, &error);
    object_ref(s->m);
    ck_assert(machine_set_accel(s->m, soft, IRQCHIP_OFF, false, &error));
    if (getenv("VMLUA_TRANSLATE")) {
        const PropValue on = { .kind = PROP_BOOL, .boolean = true };
        const PropValue at_once = { .kind = PROP_UINT, .uinteger = 0 };

        ck_assert(object_property_set(OBJECT(s->m->accel), "translate", &on, &error));
        ck_assert(object_property_set(OBJECT(s->m->accel), "translate-after", &at_once, &error));
    }
    ck_assert(memory_region_init_ram(&s->ram, NULL, "ram", 4 * MiB, &error));
    guest_memory_is_the_guests(s);
    memory_region_add_subregion(&s->m->memory_root, 0, &s->ram);
    machine_add_ram(s->m, "ram", &s->ram);
    memory_region_init_io(&s->word, NULL, &word_ops, s, "word", 4096);
    memory_region_add_subregion(&s->m->memory_root, 0xd0000000, &s->word);
    memory_region_init_io(&s->values, NULL, &value_ops, s, "values", 4);
    memory_region_add_subregion(&s->m->io_root, 0x500, &s->values);
    memory_region_init_io(&s->done, NULL, &done_ops, s, "done", 1);
    memory_region_add_subregion(&s->m->io_root, 0x508, &s->done);
    for (unsigned i = 0; i < cpus; i++) {
        ck_assert_ptr_nonnull(machine_add_cpu(s->m, NULL, &error));
    }
    apic = DEVICE(object_new("apic", NULL));
    ck_assert_msg(device_realize(apic, s->m, "apic", &error), "%s", error ? error->message : "");
    object_unref(apic);
    ck_assert_msg(machine_finish_init(s->m, &error), "%s", error ? error->message : "");
}

static void start(Smp *s, unsigned cpus)
{
    g_autofree char *data = NULL;
    gsize len;
    GError *error = NULL;
    VCpu *cpu = g_ptr_array_index(s->m->cpus, 0);

    ck_assert(g_file_get_contents(GUEST_DIR "/smpstress.bin", &data, &len, NULL));
    address_space_write(s->m->memory, 0x1000, MEMTXATTRS_NONE, data, len);
    address_space_stn(s->m->memory, 0xf00, cpus, 2, MEMTXATTRS_NONE, NULL);
    ck_assert(cpu_modify_state(cpu, X86_STATE_GPR | X86_STATE_SYSTEM, &error));
    for (unsigned i = X86_ES; i <= X86_GS; i++) {
        x86_segment_set_real(&cpu->state->seg[i], 0, i == X86_CS);
    }
    cpu->state->rip = 0x1000;
    cpu->state->gpr[X86_RSP] = 0x7000;
    cpu->state->rflags = 2;
    ck_assert(machine_resume(s->m, &error));
}

static void finish(Smp *s)
{
    machine_close(s->m);
    object_unref(s->m);
    memory_region_finalize(&s->word);
    memory_region_finalize(&s->values);
    memory_region_finalize(&s->done);
    memory_region_finalize(&s->ram);
    memory_reclaim();
}

static gboolean tick(gpointer opaque)
{
    return G_SOURCE_CONTINUE;
}

START_TEST(processors_agree_on_locks_order_code_and_translations)
{
    unsigned cpus = (unsigned)_i + 2;
    Smp *s = g_new0(Smp, 1);
    guint source;

    make(s, cpus);
    start(s, cpus);
    source = g_timeout_add(10, tick, NULL);
    while (!s->finished || s->m->state == RUN_STATE_RUNNING) {
        main_loop_iterate(true);
        ck_assert_msg(s->m->state != RUN_STATE_ERROR, "%s", s->m->reason);
        ck_assert_msg(s->m->state != RUN_STATE_SHUTDOWN, "%s", s->m->reason);
    }
    g_source_remove(source);
    ck_assert_uint_eq(s->n, 5);
    ck_assert_uint_eq(s->got[0], 4000 * cpus);
    ck_assert_uint_eq(s->got[1], 300 * cpus);
    ck_assert_uint_eq(s->got[2], 100 * cpus);
    ck_assert_uint_eq(s->got[3], 1000 * cpus);
    ck_assert_uint_eq(s->got[4], 0);
    finish(s);
    g_free(s);
}
END_TEST

/* In the middle of all that, again and again. */
START_TEST(processors_are_stopped_and_go_on_in_the_middle_of_it)
{
    Smp *s = g_new0(Smp, 1);
    GError *error = NULL;
    guint source;

    make(s, 3);
    start(s, 3);
    source = g_timeout_add(1, tick, NULL);
    for (unsigned n = 0; !s->finished || s->m->state == RUN_STATE_RUNNING; n++) {
        main_loop_iterate(true);
        ck_assert_msg(s->m->state != RUN_STATE_ERROR, "%s", s->m->reason);
        if (!s->finished && n % 8 == 0 && s->m->state == RUN_STATE_RUNNING) {
            machine_pause(s->m, "look");
            ck_assert(cpu_fetch_state(g_ptr_array_index(s->m->cpus, 1), X86_STATE_ALL, &error));
            if (!s->finished) {
                ck_assert(machine_resume(s->m, &error));
            }
        }
    }
    g_source_remove(source);
    ck_assert_uint_eq(s->n, 5);
    ck_assert_uint_eq(s->got[0], 12000);
    ck_assert_uint_eq(s->got[4], 0);
    finish(s);
    g_free(s);
}
END_TEST

static void setup(void)
{
    main_loop_init();
}

int main(void)
{
    Suite *s = suite_create("soft smp");
    TCase *tc = tcase_create("smp");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 240);
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_loop_test(tc, processors_agree_on_locks_order_code_and_translations, 0, 3);
    tcase_add_test(tc, processors_are_stopped_and_go_on_in_the_middle_of_it);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* See kvm_rig.h. */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>

/* Also for benches, which have no Check test to fail. */
#define RIG_CHECK(cond, ...)                   \
    do {                                       \
        if (!(cond)) {                         \
            fprintf(stderr, __VA_ARGS__);      \
            fprintf(stderr, " (" #cond ")\n"); \
            abort();                           \
        }                                      \
    } while (0)

#define TYPE_RIG_MACHINE "kvm-test-machine"

static void register_types(void)
{
    static const TypeInfo info = { .name = TYPE_RIG_MACHINE, .parent = TYPE_MACHINE };
    type_register_static(&info);
}
type_init(register_types)

char *rig_unavailable(void)
{
    GError *err = NULL;
    AccelClass *k = accel_find("kvm", &err);
    if (k && k->available(&err)) {
        return NULL;
    }
    char *why = g_strdup(err->message);
    g_error_free(err);
    return why;
}

/* ---- devices ------------------------------------------------------------------------------ */

static void keep(Rig *r, uint64_t addr, uint64_t value, unsigned size)
{
    if (r->n < RIG_VALUES) {
        r->got[r->n++] = (RigValue){ .addr = addr, .value = value, .size = size };
    }
}

static void value_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    keep(opaque, PORT_VALUE + addr, data, size);
}

static void coalesced_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    keep(opaque, PORT_COALESCED + addr, data, size);
}

static uint64_t source_read(void *opaque, hwaddr addr, unsigned size)
{
    return ++((Rig *)opaque)->next_source;
}

static void done_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Rig *r = opaque;
    r->finished = true;
    if (!r->keep_running) {
        machine_pause(r->m, "done");
    }
}

static uint64_t mmio_read(void *opaque, hwaddr addr, unsigned size)
{
    return addr;
}

static void mmio_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    keep(opaque, MMIO_DEVICE + addr, data, size);
}

static uint64_t read_ones(void *opaque, hwaddr addr, unsigned size)
{
    return UINT64_MAX;
}

static const MemoryRegionOps value_ops = { .read = read_ones, .write = value_write };
static const MemoryRegionOps coalesced_ops = { .read = read_ones, .write = coalesced_write };
static const MemoryRegionOps done_ops = { .read = read_ones, .write = done_write };
static const MemoryRegionOps mmio_ops = { .read = mmio_read, .write = mmio_write };
static void ignore_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
}
static const MemoryRegionOps source_ops = { .read = source_read, .write = ignore_write };

/* ---- life --------------------------------------------------------------------------------- */

Rig *rig_new(IrqchipMode irqchip, bool pit, uint64_t ram_size)
{
    GError *err = NULL;
    Rig *r = g_new0(Rig, 1);
    r->ram_size = ram_size;
    r->m = machine_new(TYPE_RIG_MACHINE, NULL, &err);
    RIG_CHECK(r->m != NULL, "%s", err ? err->message : "");
    AccelClass *k = accel_find("kvm", &err);
    RIG_CHECK(k && machine_set_accel(r->m, k, irqchip, pit, &err), "%s", err ? err->message : "");
    RIG_CHECK(memory_region_init_ram(&r->ram, NULL, "ram", ram_size, &err), "%s",
              err ? err->message : "");
    memory_region_add_subregion(&r->m->memory_root, 0, &r->ram);
    machine_add_ram(r->m, "ram", &r->ram);
    memory_region_init_io(&r->values, NULL, &value_ops, r, "values", 4);
    memory_region_init_io(&r->source, NULL, &source_ops, r, "source", 4);
    memory_region_init_io(&r->done, NULL, &done_ops, r, "done", 1);
    memory_region_init_io(&r->coalesced, NULL, &coalesced_ops, r, "coalesced", 4);
    memory_region_init_io(&r->mmio, NULL, &mmio_ops, r, "mmio", 4096);
    memory_region_add_subregion(&r->m->io_root, PORT_VALUE, &r->values);
    memory_region_add_subregion(&r->m->io_root, PORT_SOURCE, &r->source);
    memory_region_add_subregion(&r->m->io_root, PORT_DONE, &r->done);
    memory_region_add_subregion(&r->m->io_root, PORT_COALESCED, &r->coalesced);
    memory_region_add_subregion(&r->m->memory_root, MMIO_DEVICE, &r->mmio);
    return r;
}

void rig_free(Rig *r)
{
    MemoryRegion *const io[] = { &r->values, &r->source, &r->done, &r->coalesced };
    machine_close(r->m);
    for (unsigned i = 0; i < G_N_ELEMENTS(io); i++) {
        memory_region_finalize(io[i]);
    }
    memory_region_finalize(&r->mmio);
    memory_region_finalize(&r->ram);
    memory_reclaim();
    g_free(r);
}

VCpu *rig_add_cpu(Rig *r)
{
    GError *err = NULL;
    VCpu *cpu = machine_add_cpu(r->m, NULL, &err);
    RIG_CHECK(cpu != NULL, "%s", err ? err->message : "");
    return cpu;
}

void rig_load(Rig *r, const char *guest)
{
    g_autofree char *path = g_strdup_printf("%s/%s.bin", GUEST_DIR, guest);
    g_autofree char *data = NULL;
    gsize len;
    RIG_CHECK(g_file_get_contents(path, &data, &len, NULL), "%s", path);
    address_space_write(r->m->memory, GUEST_ADDR, MEMTXATTRS_NONE, data, len);
}

void rig_set_entry(Rig *r)
{
    GError *err = NULL;
    VCpu *cpu = g_ptr_array_index(r->m->cpus, 0);
    RIG_CHECK(cpu_modify_state(cpu, X86_STATE_GPR | X86_STATE_SYSTEM, &err), "%s",
              err ? err->message : "");
    X86CPUState *s = cpu->state;
    for (unsigned i = X86_ES; i <= X86_GS; i++) {
        x86_segment_set_real(&s->seg[i], 0, i == X86_CS);
    }
    s->rip = GUEST_ADDR;
    s->gpr[X86_RSP] = 0x7000;
    s->rflags = 2;
}

void rig_start(Rig *r, const char *guest)
{
    GError *err = NULL;
    if (r->m->cpus->len == 0) {
        rig_add_cpu(r);
    }
    RIG_CHECK(machine_finish_init(r->m, &err), "%s", err ? err->message : "");
    rig_load(r, guest);
    rig_set_entry(r);
}

void rig_resume(Rig *r)
{
    GError *err = NULL;
    RIG_CHECK(machine_resume(r->m, &err), "%s", err ? err->message : "");
}

void rig_wait(Rig *r)
{
    while (r->m->state == RUN_STATE_RUNNING) {
        main_loop_iterate(true);
    }
}

void rig_run(Rig *r)
{
    rig_resume(r);
    rig_wait(r);
}

void rig_pause(Rig *r)
{
    machine_pause(r->m, "test");
    rig_wait(r);
}

static gboolean tick(gpointer opaque)
{
    return G_SOURCE_CONTINUE;
}

void rig_until(Rig *r, bool (*cond)(Rig *r))
{
    /* The condition is about guest memory, which announces nothing: look again every millisecond.
     */
    GSource *source = g_timeout_source_new(1);
    g_source_set_callback(source, tick, NULL, NULL);
    g_source_attach(source, main_loop_context());
    while (!cond(r) && r->m->state == RUN_STATE_RUNNING) {
        main_loop_iterate(true);
    }
    g_source_destroy(source);
    g_source_unref(source);
}

uint32_t rig_peek(Rig *r, uint64_t addr)
{
    return (uint32_t)address_space_ldn(r->m->memory, addr, 4, MEMTXATTRS_DEBUG, NULL);
}

void rig_poke(Rig *r, uint64_t addr, uint32_t value, unsigned size)
{
    address_space_stn(r->m->memory, addr, value, size, MEMTXATTRS_NONE, NULL);
}

typedef struct StatQuery {
    const char *name;
    uint64_t value;
} StatQuery;

static void take_stat(const char *name, uint64_t value, void *opaque)
{
    StatQuery *q = opaque;
    if (strcmp(name, q->name) == 0) {
        q->value = value;
    }
}

uint64_t rig_stat(Rig *r, const char *name)
{
    StatQuery q = { .name = name };
    ACCEL_GET_CLASS(r->m->accel)->stats(r->m->accel, take_stat, &q);
    return q.value;
}

/* ---- running ------------------------------------------------------------------------------ */

unsigned rig_rounds(unsigned n)
{
    const char *all = getenv("VMLUA_LONG");
    return all && *all == '1' ? n : MAX(n / 10, 1);
}

EventHook *rig_hook(Rig *r, EventSource source, uint64_t addr, uint64_t len, EventFn fn,
                    void *opaque)
{
    GError *err = NULL;
    EventFilter f = { .source = source, .addr = addr, .len = len, .cpu = -1 };
    EventHook *h = event_hook_add(r->m->events, &f, fn, opaque, NULL, &err);
    RIG_CHECK(h != NULL, "%s", err ? err->message : "");
    return h;
}

static void setup(void)
{
    main_loop_init();
    module_call_init(MODULE_INIT_QOM);
}

static void teardown(void)
{
    main_loop_finalize();
}

int rig_main(const char *name, void (*add)(TCase *tc))
{
    module_call_init(MODULE_INIT_QOM);
    g_autofree char *why = rig_unavailable();
    if (why) {
        const char *path = getenv("CK_TAP_LOG_FILE_NAME");
        FILE *tap = path ? fopen(path, "w") : NULL;
        fprintf(tap ? tap : stdout, "1..0 # SKIP %s\n", why);
        if (tap) {
            fclose(tap);
        }
        return 77;
    }
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    add(tc);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

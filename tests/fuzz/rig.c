/* A device of any type on a bare machine: see rig.h. */
#include "tests/fuzz/rig.h"

#include <string.h>

#include "engine/state/stream.h"

#define RIG_MACHINE  "fuzz-board"
#define RIGS_LINGER  64
#define TIMERS_BOUND 300

static const TypeInfo board_info = {
    .name = RIG_MACHINE,
    .parent = TYPE_MACHINE,
    .doc = "A machine with nothing in it",
};

static void register_board(void)
{
    type_register_static(&board_info);
}
type_init(register_board)

static GPtrArray *types, *old_rigs;

unsigned rig_types(void)
{
    if (!types) {
        GSList *list = object_class_get_list(TYPE_DEVICE, false);

        types = g_ptr_array_new();
        for (GSList *l = list; l; l = l->next) {
            g_ptr_array_add(types, l->data);
        }
        g_slist_free(list);
    }
    return types->len;
}

static int64_t rig_now(void *opaque)
{
    return ((Rig *)opaque)->now;
}

static void deadline_moved(void *opaque)
{
}

Rig *rig_new(unsigned type)
{
    static unsigned number;
    g_autofree char *id = g_strdup_printf("m%u", number++);
    Rig *rig = g_new0(Rig, 1);
    GError *error = NULL;

    rig->machine = machine_new(RIG_MACHINE, id, &error);
    FUZZ_CHECK(rig->machine, "%s", error ? error->message : "");
    object_ref(rig->machine);
    clock_set_source(rig->machine->clock, rig_now, deadline_moved, rig);
    rig->dev = DEVICE(object_new_with_class(g_ptr_array_index(types, type % rig_types()), &error));
    FUZZ_CHECK(rig->dev, "%s", error ? error->message : "");
    rig->chr = chardev_new_from_text("ring:1K", &error);
    FUZZ_CHECK(rig->chr, "%s", error ? error->message : "");
    if (!object_property_set_link(OBJECT(rig->dev), "chardev", OBJECT(rig->chr), NULL)) {
        object_unref(rig->chr);
        rig->chr = NULL;
    }
    if (!device_realize(rig->dev, rig->machine, "dut", &error)) {
        fuzz_outcome(false, error);
        object_unref(rig->dev);
        rig->dev = NULL;
    }
    return rig;
}

void rig_free(Rig *rig)
{
    if (!old_rigs) {
        old_rigs = g_ptr_array_new_with_free_func(g_free);
    }
    object_unref(rig->dev);
    machine_close(rig->machine);
    object_unref(rig->machine);
    if (rig->chr) {
        chardev_close(rig->chr);
        object_unref(rig->chr);
    }
    g_ptr_array_add(old_rigs, rig);
    if (old_rigs->len == RIGS_LINGER) {
        fuzz_settle();
        g_ptr_array_set_size(old_rigs, 0);
    }
}

void rig_run(Rig *rig, int64_t ns)
{
    int64_t end = rig->now + ns;

    for (unsigned i = 0; i < TIMERS_BOUND; i++) {
        int64_t next = clock_deadline(rig->machine->clock);

        if (next < 0 || next > end) {
            break;
        }
        rig->now = MAX(rig->now, next);
        clock_run_timers(rig->machine->clock);
    }
    rig->now = end;
}

const VMStateDescription *rig_vmsd(Rig *rig)
{
    DeviceClass *klass = DEVICE_GET_CLASS(rig->dev);

    return klass->get_vmsd ? klass->get_vmsd(rig->dev) : klass->vmsd;
}

GBytes *rig_save(Rig *rig)
{
    const VMStateDescription *vmsd = rig_vmsd(rig);
    StateWriter *w = state_writer_new();

    state_section_begin(w, vmsd->name, 0, vmsd->version);
    vmstate_save(w, vmsd, rig->dev);
    state_section_end(w);
    return state_writer_finish(w);
}

bool rig_load(Rig *rig, GBytes *bytes, GError **error)
{
    StateReader *r = state_reader_new(bytes, error);
    uint32_t instance, version;
    const char *name;
    bool ok;

    if (!r) {
        return false;
    }
    if (!state_next_section(r, &name, &instance, &version)) {
        ok = state_reader_ok(r, error);
        FUZZ_CHECK(!ok || !*error);
        if (ok) {
            g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED, "no section");
        }
        state_reader_free(r);
        return false;
    }
    ok = vmstate_load(r, rig_vmsd(rig), rig->dev, error);
    state_reader_free(r);
    return ok;
}

GBytes *rig_mutate(FuzzInput *in, GBytes *bytes)
{
    gsize size = g_bytes_get_size(bytes);
    guint8 *copy = g_memdup2(g_bytes_get_data(bytes, NULL), size);
    uint32_t crc;

    for (unsigned i = 1 + fuzz_u8(in) % 12; i > 0 && in->left > 0; i--) {
        copy[fuzz_u16(in) % size] = fuzz_u8(in);
    }
    crc = GUINT32_TO_LE(state_crc32c(0, copy, size - 4));
    memcpy(copy + size - 4, &crc, 4);
    return g_bytes_new_take(copy, size);
}

/* ---- steps ------------------------------------------------------------------------------- */

static void add_range(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque)
{
    GArray *ranges = opaque;

    if (mr->kind == MEMORY_IO && mr->enabled) {
        MemoryRange range = { addr, mr->size };

        g_array_append_val(ranges, range);
    }
}

static void access_space(Rig *rig, FuzzInput *in, bool write)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(MemoryRange));
    unsigned n_io, at, size;
    MemoryRange range;
    AddressSpace *as;
    hwaddr addr;

    memory_region_tree_foreach(&rig->machine->io_root, add_range, ranges);
    n_io = ranges->len;
    memory_region_tree_foreach(&rig->machine->memory_root, add_range, ranges);
    if (ranges->len == 0) {
        return;
    }
    at = fuzz_u8(in);
    size = 1u << (at >> 6); /* 1 to 8, as a debugger may, though no guest does 8 on ports */
    at = (at & 63) % ranges->len;
    range = g_array_index(ranges, MemoryRange, at);
    as = at < n_io ? rig->machine->io : rig->machine->memory;
    addr = range.addr + (range.size <= 256 ? fuzz_u8(in) : fuzz_u16(in)) % range.size;
    if (write) {
        address_space_stn(as, addr, size > 1 ? fuzz_u32(in) : fuzz_u8(in), size, MEMTXATTRS_NONE,
                          NULL);
    } else {
        address_space_ldn(as, addr, size, MEMTXATTRS_NONE, NULL);
    }
}

typedef struct LinePick {
    const char *name;
    unsigned n, skip;
    bool found;
} LinePick;

static void pick_line(const char *name, bool is_input, unsigned count, void *opaque)
{
    LinePick *pick = opaque;

    if (!is_input || pick->found) {
        return;
    }
    if (pick->skip < count) {
        pick->name = name;
        pick->n = pick->skip;
        pick->found = true;
    } else {
        pick->skip -= count;
    }
}

static void drive_line(Rig *rig, FuzzInput *in)
{
    uint8_t which = fuzz_u8(in);
    LinePick pick = { .skip = which >> 1 };

    device_lines_foreach(rig->dev, pick_line, &pick);
    if (pick.found) {
        irq_set(device_get_irq_in(rig->dev, pick.name, pick.n, NULL), which & 1);
    }
}

static void outside(Rig *rig, FuzzInput *in)
{
    static const ChardevEvent events[] = { CHARDEV_OPENED, CHARDEV_CLOSED, CHARDEV_BREAK,
                                           CHARDEV_MODEM };
    uint8_t how = fuzz_u8(in);
    size_t len = how >> 2;
    const uint8_t *bytes;

    if (!rig->chr) {
        return;
    }
    if (how & 3) {
        bytes = fuzz_take(in, &len);
        chardev_receive(rig->chr, bytes, len);
    } else {
        chardev_event(rig->chr, events[(how >> 2) % G_N_ELEMENTS(events)]);
    }
}

static void reload(Rig *rig, FuzzInput *in)
{
    g_autoptr(GBytes) before = NULL, after = NULL;
    GError *error = NULL;

    if (!rig_vmsd(rig)) {
        return;
    }
    before = rig_save(rig);
    device_reset(rig->dev);
    FUZZ_CHECK(rig_load(rig, before, &error), "%s: %s", object_get_typename(OBJECT(rig->dev)),
               error ? error->message : "");
    after = rig_save(rig);
    FUZZ_CHECK(g_bytes_equal(before, after), "%s: another state after loading",
               object_get_typename(OBJECT(rig->dev)));
}

void rig_step(Rig *rig, FuzzInput *in)
{
    uint8_t op = fuzz_u8(in);

    switch (op & 15) {
    case 0 ... 5:
        access_space(rig, in, true);
        break;
    case 6 ... 8:
        access_space(rig, in, false);
        break;
    case 9 ... 10:
        rig_run(rig, (int64_t)fuzz_u16(in) << (op >> 4));
        break;
    case 11 ... 12:
        outside(rig, in);
        break;
    case 13:
        drive_line(rig, in);
        break;
    case 14:
        reload(rig, in);
        break;
    default:
        if (op >> 4 == 0) {
            device_reset(rig->dev);
        } else if (op >> 4 == 1 && rig->chr) {
            chardev_close(rig->chr);
        } else {
            rig_run(rig, fuzz_u32(in));
        }
        break;
    }
}

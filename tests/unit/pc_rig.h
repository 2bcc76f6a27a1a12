/* What tests of the PC's chip set share: a machine with 2 MiB of RAM, a host bridge, port and
 * configuration access, messages and lines that are caught. */
#pragma once

#include "engine/hw/pci/pci.h"
#include "engine/state/stream.h"
#include "tests/unit/board_rig.h"

#define RIG_RAM (2u << 20)

static Machine *machine;
static MemoryRegion rig_ram;
static DeviceState *rig_host;
static PCIBus *rig_bus;
static int64_t rig_now;
static int rig_level[16];
static Irq *rig_pins[16];
static unsigned rig_messages;
static uint64_t rig_message_addr;
static uint32_t rig_message_data;

static int64_t rig_clock(void *opaque)
{
    return rig_now;
}

static void rig_deadline(void *opaque)
{
}

static void rig_pin(void *opaque, int n, int level)
{
    rig_level[n] = level;
}

static void rig_msi(void *opaque, uint64_t addr, uint32_t data)
{
    rig_messages++;
    rig_message_addr = addr;
    rig_message_data = data;
}

static inline DeviceState *rig_add(const char *type, const char *addr, const char *id)
{
    g_autoptr(GError) error = NULL;
    DeviceState *dev = DEVICE(object_new(type, &error));

    ck_assert_msg(dev != NULL, "%s", error ? error->message : "");
    if (addr) {
        ck_assert(object_property_set_str(OBJECT(dev), "addr", addr, NULL));
    }
    ck_assert_msg(device_realize(dev, machine, id, &error), "%s", error ? error->message : "");
    object_unref(dev);
    return dev;
}

static inline void rig_setup(void)
{
    main_loop_init();
    machine = machine_new("test-board", "m0", NULL);
    object_ref(machine);
    rig_now = 0;
    clock_set_source(machine->clock, rig_clock, rig_deadline, NULL);
    machine->ram_size = RIG_RAM;
    ck_assert(memory_region_init_ram(&rig_ram, NULL, "ram", RIG_RAM, NULL));
    memory_region_add_subregion(&machine->memory_root, 0, &rig_ram);
    memset(rig_level, 0, sizeof(rig_level));
    for (int n = 0; n < 16; n++) {
        rig_pins[n] = irq_new(rig_pin, NULL, n);
        ck_assert(machine_connect_gsi(machine, (unsigned)n, rig_pins[n], NULL));
    }
    rig_messages = 0;
    machine_set_msi(machine, rig_msi, &rig_messages);
    rig_host = rig_add("i440fx-pcihost", NULL, "host");
    rig_bus = pci_machine_bus(machine);
    ck_assert_ptr_nonnull(rig_bus);
}

static inline void rig_teardown(void)
{
    machine_close(machine);
    settle();
    memory_region_finalize(&rig_ram);
    object_unref(machine);
    for (int n = 0; n < 16; n++) {
        irq_unref(rig_pins[n]);
    }
    settle();
    main_loop_finalize();
}

/* Time goes on, timers fire. */
__attribute__((unused)) static void rig_run(int64_t ns)
{
    int64_t end = rig_now + ns, next;

    while ((next = clock_deadline(machine->clock)) >= 0 && next <= end) {
        rig_now = MAX(rig_now, next);
        clock_run_timers(machine->clock);
    }
    rig_now = end;
}

static inline uint32_t in(unsigned port, unsigned size)
{
    return (uint32_t)address_space_ldn(machine->io, port, size, MEMTXATTRS_NONE, NULL);
}

static inline void out(unsigned port, uint32_t value, unsigned size)
{
    address_space_stn(machine->io, port, value, size, MEMTXATTRS_NONE, NULL);
}

static inline void select_config(unsigned bus, unsigned devfn, unsigned reg)
{
    out(0xcf8, 0x80000000 | bus << 16 | devfn << 8 | (reg & 0xfc), 4);
}

__attribute__((unused)) static uint32_t conf_read(unsigned devfn, unsigned reg, unsigned size)
{
    select_config(0, devfn, reg);
    return in(0xcfc + (reg & 3), size);
}

__attribute__((unused)) static void conf_write(unsigned devfn, unsigned reg, uint32_t value,
                                               unsigned size)
{
    select_config(0, devfn, reg);
    out(0xcfc + (reg & 3), value, size);
}

static inline uint64_t mem(hwaddr addr, unsigned size)
{
    return address_space_ldn(machine->memory, addr, size, MEMTXATTRS_NONE, NULL);
}

static inline MemTxResult mem_write(hwaddr addr, uint64_t value, unsigned size)
{
    MemTxResult res = MEMTX_OK;

    address_space_stn(machine->memory, addr, value, size, MEMTXATTRS_NONE, &res);
    return res;
}

__attribute__((unused)) static GBytes *rig_save(DeviceState *dev)
{
    const VMStateDescription *vmsd = DEVICE_GET_CLASS(dev)->vmsd;
    StateWriter *w = state_writer_new();

    state_section_begin(w, vmsd->name, 0, vmsd->version);
    vmstate_save(w, vmsd, dev);
    state_section_end(w);
    return state_writer_finish(w);
}

__attribute__((unused)) static bool rig_load(DeviceState *dev, GBytes *bytes, GError **error)
{
    StateReader *r = state_reader_new(bytes, error);
    const char *name;
    uint32_t instance, version;
    bool ok;

    ck_assert_ptr_nonnull(r);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ok = vmstate_load(r, DEVICE_GET_CLASS(dev)->vmsd, dev, error);
    state_reader_free(r);
    return ok;
}

/* A fixed generator: the same accesses each run. */
__attribute__((unused)) static uint32_t rig_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

#define RIG_MAIN(suite_name, ...)                                       \
    int main(void)                                                      \
    {                                                                   \
        const TTest *const tests[] = { __VA_ARGS__ };                   \
        Suite *suite = suite_create(suite_name);                        \
        TCase *tc = tcase_create(suite_name);                           \
        SRunner *runner = srunner_create(suite);                        \
                                                                        \
        tcase_add_checked_fixture(tc, rig_setup, rig_teardown);         \
        tcase_set_timeout(tc, 60);                                      \
        suite_add_tcase(suite, tc);                                     \
        for (unsigned i = 0; i < sizeof(tests) / sizeof(*tests); i++) { \
            tcase_add_test(tc, tests[i]);                               \
        }                                                               \
        srunner_run_all(runner, CK_ENV);                                \
        int failed = srunner_ntests_failed(runner);                     \
        srunner_free(runner);                                           \
        return failed != 0;                                             \
    }

/* Access rules of memory regions: sizes, alignment, endianness, splitting, ROM, unassigned, locks.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"

static MemoryRegion root;
static AddressSpace *as;

/* ---- a device that writes down what happens to it ---------------------------------------- */

typedef struct Probe {
    MemoryRegion mr;
    MemoryRegionOps ops;
    uint8_t bytes[64]; /* little-endian register file */
    GString *calls;
    MemTxResult result;
    MemTxAttrs attrs;
    bool lock_held, may_unlock, in_rcu;
    void (*hook)(struct Probe *p);
} Probe;

static void probe_note(Probe *p, char what, hwaddr addr, unsigned size, uint64_t value)
{
    g_string_append_printf(p->calls, "%s%c%x:%u=%lx", p->calls->len ? " " : "", what,
                           (unsigned)addr, size, (unsigned long)value);
    p->lock_held = engine_lock_held();
    p->may_unlock = engine_may_unlock();
    p->in_rcu = rcu_in_section();
    if (p->hook) {
        p->hook(p);
    }
}

static uint64_t probe_value(const Probe *p, hwaddr addr, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p->bytes + addr, size);
    if (p->ops.endianness == DEVICE_BIG_ENDIAN) {
        v = __builtin_bswap64(v) >> (64 - 8 * size);
    }
    return v;
}

static uint64_t probe_read(void *opaque, hwaddr addr, unsigned size)
{
    Probe *p = opaque;
    uint64_t v = probe_value(p, addr, size);

    probe_note(p, 'r', addr, size, v);
    return v | (size < 8 ? UINT64_MAX << (8 * size) : 0); /* rubbish above */
}

static void probe_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Probe *p = opaque;
    uint64_t v = data;

    probe_note(p, 'w', addr, size, data);
    if (p->ops.endianness == DEVICE_BIG_ENDIAN) {
        v = __builtin_bswap64(v) >> (64 - 8 * size);
    }
    memcpy(p->bytes + addr, &v, size);
}

static MemTxResult probe_read_attrs(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                                    MemTxAttrs attrs)
{
    Probe *p = opaque;

    p->attrs = attrs;
    if (!p->result) {
        *data = probe_read(p, addr, size);
    }
    return p->result;
}

static MemTxResult probe_write_attrs(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                     MemTxAttrs attrs)
{
    Probe *p = opaque;

    p->attrs = attrs;
    if (!p->result) {
        probe_write(p, addr, data, size);
    }
    return p->result;
}

static Probe *probe_new(hwaddr at, uint64_t size)
{
    Probe *p = g_new0(Probe, 1);

    p->ops = (MemoryRegionOps){ .read = probe_read, .write = probe_write };
    p->calls = g_string_new(NULL);
    for (unsigned i = 0; i < sizeof(p->bytes); i++) {
        p->bytes[i] = (uint8_t)(0x10 + i);
    }
    memory_region_init_io(&p->mr, NULL, &p->ops, p, "probe", size);
    memory_region_add_subregion(&root, at, &p->mr);
    return p;
}

static void probe_free(Probe *p)
{
    memory_region_finalize(&p->mr);
    memory_reclaim();
    g_string_free(p->calls, TRUE);
    g_free(p);
}

#define ck_assert_calls(p, text)                 \
    do {                                         \
        ck_assert_str_eq((p)->calls->str, text); \
        g_string_truncate((p)->calls, 0);        \
    } while (0)

static uint64_t load(hwaddr addr, unsigned size, MemTxResult expect)
{
    MemTxResult res;
    uint64_t v = address_space_ldn(as, addr, size, MEMTXATTRS_NONE, &res);

    ck_assert_int_eq(res, expect);
    return v;
}

static void store(hwaddr addr, unsigned size, uint64_t v, MemTxResult expect)
{
    MemTxResult res;

    address_space_stn(as, addr, v, size, MEMTXATTRS_NONE, &res);
    ck_assert_int_eq(res, expect);
}

static GString *logged;

static void log_sink(LogMask mask, const char *line, void *opaque)
{
    g_string_append_printf(logged, "%s\n", line);
}

static void setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    logged = g_string_new(NULL);
    log_set_sink(log_sink, NULL);
}

static void teardown(void)
{
    log_set_sink(NULL, NULL);
    log_set_mask(0);
    address_space_free(as);
    memory_region_finalize(&root);
    main_loop_finalize();
    g_string_free(logged, TRUE);
}

/* ---- valid ------------------------------------------------------------------------------- */

START_TEST(a_device_sees_size_offset_and_value_and_high_bits_are_cut)
{
    Probe *p = probe_new(0x1000, 0x40);

    ck_assert_uint_eq(load(0x1000, 1, MEMTX_OK), 0x10);
    ck_assert_uint_eq(load(0x1002, 2, MEMTX_OK), 0x1312);
    ck_assert_uint_eq(load(0x1004, 4, MEMTX_OK), 0x17161514);
    ck_assert_uint_eq(load(0x1008, 8, MEMTX_OK), 0x1f1e1d1c1b1a1918);
    ck_assert_calls(p, "r0:1=10 r2:2=1312 r4:4=17161514 r8:8=1f1e1d1c1b1a1918");
    store(0x1004, 2, 0xffffbeef, MEMTX_OK);
    ck_assert_calls(p, "w4:2=beef");
    probe_free(p);
}
END_TEST

START_TEST(what_is_not_valid_is_a_decode_error_logged_and_never_reaches_the_device)
{
    Probe *p = probe_new(0, 0x40);

    log_set_mask(LOG_GUEST);
    p->ops.valid.min_access_size = 2;
    p->ops.valid.max_access_size = 4;
    ck_assert_uint_eq(load(0, 1, MEMTX_DECODE_ERROR), 0xff);
    ck_assert_uint_eq(load(0, 8, MEMTX_DECODE_ERROR), UINT64_MAX);
    ck_assert_uint_eq(load(1, 2, MEMTX_DECODE_ERROR), 0xffff);
    ck_assert_uint_eq(load(2, 4, MEMTX_DECODE_ERROR), 0xffffffff);
    store(0, 1, 1, MEMTX_DECODE_ERROR);
    ck_assert_calls(p, "");
    ck_assert_msg(strstr(logged->str, "probe: invalid read of 8 bytes at offset 0x0"), "log: %s",
                  logged->str);
    ck_assert(strstr(logged->str, "probe: invalid write of 1 bytes at offset 0x0"));
    ck_assert_uint_eq(load(2, 2, MEMTX_OK), 0x1312);
    probe_free(p);
}
END_TEST

static bool only_offset_4(void *opaque, hwaddr addr, unsigned size, bool is_write, MemTxAttrs attrs)
{
    return addr == 4 && !is_write && attrs.cpu == -1;
}

START_TEST(the_accepts_callback_decides_by_offset_and_direction)
{
    Probe *p = probe_new(0, 0x40);

    p->ops.valid.accepts = only_offset_4;
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x17161514);
    load(0, 4, MEMTX_DECODE_ERROR);
    store(4, 4, 0, MEMTX_DECODE_ERROR);
    ck_assert_calls(p, "r4:4=17161514");
    probe_free(p);
}
END_TEST

START_TEST(a_region_without_a_handler_for_the_direction_answers_ones_and_takes_nothing)
{
    Probe *p = probe_new(0, 0x40);

    log_set_mask(LOG_GUEST);
    p->ops.read = NULL;
    ck_assert_uint_eq(load(0, 4, MEMTX_DECODE_ERROR), 0xffffffff);
    ck_assert(strstr(logged->str, "write-only"));
    p->ops.write = NULL;
    store(0, 4, 0, MEMTX_DECODE_ERROR);
    ck_assert(strstr(logged->str, "read-only"));
    probe_free(p);
}
END_TEST

START_TEST(the_attrs_forms_get_the_attributes_and_may_refuse)
{
    Probe *p = probe_new(0, 0x40);
    MemTxAttrs attrs = { .cpu = 3, .requester = 0x123 };
    uint64_t v = 0;

    p->ops.read = NULL;
    p->ops.write = NULL;
    p->ops.read_attrs = probe_read_attrs;
    p->ops.write_attrs = probe_write_attrs;
    ck_assert_int_eq(address_space_access(as, NULL, 4, attrs, &v, 2, false), MEMTX_OK);
    ck_assert_uint_eq(v, 0x1514);
    ck_assert_int_eq(p->attrs.cpu, 3);
    ck_assert_uint_eq(p->attrs.requester, 0x123);
    p->result = MEMTX_ERROR;
    ck_assert_uint_eq(load(4, 2, MEMTX_ERROR), 0xffff);
    store(4, 2, 0, MEMTX_ERROR);
    ck_assert_calls(p, "r4:2=1514");
    probe_free(p);
}
END_TEST

/* ---- impl -------------------------------------------------------------------------------- */

START_TEST(wide_accesses_are_split_into_what_the_device_implements_low_address_first)
{
    Probe *p = probe_new(0, 0x40);

    p->ops.impl.max_access_size = 1;
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x17161514);
    ck_assert_calls(p, "r4:1=14 r5:1=15 r6:1=16 r7:1=17");
    store(8, 2, 0xa1b2, MEMTX_OK);
    ck_assert_calls(p, "w8:1=b2 w9:1=a1");
    p->ops.impl.max_access_size = 4;
    ck_assert_uint_eq(load(0x10, 8, MEMTX_OK), 0x2726252423222120);
    ck_assert_calls(p, "r10:4=23222120 r14:4=27262524");
    probe_free(p);
}
END_TEST

START_TEST(narrow_accesses_read_the_whole_unit_and_narrow_writes_merge_into_it)
{
    Probe *p = probe_new(0, 0x40);

    p->ops.impl.min_access_size = 4;
    ck_assert_uint_eq(load(6, 1, MEMTX_OK), 0x16);
    ck_assert_uint_eq(load(6, 2, MEMTX_OK), 0x1716);
    ck_assert_calls(p, "r4:4=17161514 r4:4=17161514");
    store(5, 1, 0xee, MEMTX_OK);
    ck_assert_calls(p, "r4:4=17161514 w4:4=1716ee14");
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x1716ee14);
    probe_free(p);
}
END_TEST

START_TEST(a_unit_that_sticks_out_of_its_region_is_never_passed_to_the_device)
{
    Probe *p = probe_new(0, 6);

    p->ops.impl.min_access_size = 4;
    ck_assert_uint_eq(load(2, 1, MEMTX_OK), 0x12);
    ck_assert_calls(p, "r0:4=13121110");
    ck_assert_uint_eq(load(4, 2, MEMTX_DECODE_ERROR), 0xffff);
    store(5, 1, 0, MEMTX_DECODE_ERROR);
    ck_assert_calls(p, "");
    probe_free(p);
}
END_TEST

START_TEST(unaligned_accesses_go_to_the_device_in_aligned_units_unless_it_takes_them)
{
    Probe *p = probe_new(0, 0x40);

    p->ops.valid.unaligned = true;
    ck_assert_uint_eq(load(1, 4, MEMTX_OK), 0x14131211);
    ck_assert_calls(p, "r1:1=11 r2:2=1312 r4:1=14");
    p->ops.impl.min_access_size = 4;
    ck_assert_uint_eq(load(2, 4, MEMTX_OK), 0x15141312);
    ck_assert_calls(p, "r0:4=13121110 r4:4=17161514");
    store(3, 2, 0xbbaa, MEMTX_OK);
    ck_assert_calls(p, "r0:4=13121110 w0:4=aa121110 r4:4=17161514 w4:4=171615bb");
    p->ops.impl.min_access_size = 0;
    p->ops.impl.unaligned = true;
    ck_assert_uint_eq(load(9, 8, MEMTX_OK), 0x201f1e1d1c1b1a19);
    ck_assert_calls(p, "r9:8=201f1e1d1c1b1a19");
    probe_free(p);
}
END_TEST

START_TEST(a_big_endian_device_sees_its_bytes_in_its_order_also_when_split_or_extracted)
{
    Probe *p = probe_new(0, 0x40);

    p->ops.endianness = DEVICE_BIG_ENDIAN;
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x17161514);
    ck_assert_calls(p, "r4:4=14151617");
    store(8, 2, 0xa1b2, MEMTX_OK);
    ck_assert_calls(p, "w8:2=b2a1");
    ck_assert_uint_eq(p->bytes[8], 0xb2);
    p->ops.impl.max_access_size = 2;
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x17161514);
    ck_assert_calls(p, "r4:2=1415 r6:2=1617");
    p->ops.impl.max_access_size = 4;
    p->ops.impl.min_access_size = 4;
    ck_assert_uint_eq(load(6, 1, MEMTX_OK), 0x16);
    store(5, 1, 0xee, MEMTX_OK);
    ck_assert_calls(p, "r4:4=14151617 r4:4=14151617 w4:4=14ee1617");
    probe_free(p);
}
END_TEST

/* ---- over the ends of ranges ------------------------------------------------------------- */

START_TEST(an_access_over_two_regions_reaches_each_with_its_part)
{
    Probe *a = probe_new(0x3f0, 8), *b = probe_new(0x3f8, 8);

    ck_assert_uint_eq(load(0x3f7, 2, MEMTX_OK), 0x1017);
    ck_assert_calls(a, "r7:1=17");
    ck_assert_calls(b, "r0:1=10");
    store(0x3f5, 8, 0x8877665544332211, MEMTX_OK);
    ck_assert_calls(a, "w5:1=11 w6:2=3322");
    ck_assert_calls(b, "w0:4=77665544 w4:1=88");
    probe_free(a);
    probe_free(b);
}
END_TEST

START_TEST(bytes_outside_of_any_region_read_as_ones_and_make_the_access_a_decode_error)
{
    Probe *p = probe_new(0x100, 2);

    ck_assert_uint_eq(load(0x100, 4, MEMTX_DECODE_ERROR), 0xffff1110);
    ck_assert_uint_eq(load(0xfe, 4, MEMTX_DECODE_ERROR), 0x1110ffff);
    ck_assert_uint_eq(load(0xff, 4, MEMTX_DECODE_ERROR), 0xff1110ff);
    ck_assert_calls(p, "r0:2=1110 r0:2=1110 r0:2=1110");
    probe_free(p);
}
END_TEST

START_TEST(an_access_at_the_end_of_the_space_does_not_wrap)
{
    Probe *low = probe_new(0, 4), *high = probe_new(UINT64_MAX - 3, 4);
    uint8_t buf[8];

    ck_assert_uint_eq(load(UINT64_MAX - 3, 4, MEMTX_OK), 0x13121110);
    ck_assert_uint_eq(load(UINT64_MAX - 1, 4, MEMTX_DECODE_ERROR), 0xffff1312);
    ck_assert_calls(low, "");
    ck_assert_int_eq(address_space_read(as, UINT64_MAX - 1, MEMTXATTRS_NONE, buf, 8),
                     MEMTX_DECODE_ERROR);
    ck_assert_uint_eq(buf[0], 0x12);
    ck_assert_uint_eq(buf[2], 0xff);
    ck_assert_uint_eq(buf[7], 0xff);
    ck_assert_int_eq(address_space_write(as, UINT64_MAX, MEMTXATTRS_NONE, buf, 8),
                     MEMTX_DECODE_ERROR);
    ck_assert_uint_eq(low->bytes[0], 0x10);
    probe_free(low);
    probe_free(high);
}
END_TEST

START_TEST(buffers_of_any_length_are_split_into_what_is_valid_there)
{
    Probe *p = probe_new(0x100, 0x40);
    uint8_t buf[16];

    p->ops.valid.max_access_size = 4;
    ck_assert_int_eq(address_space_read(as, 0x101, MEMTXATTRS_NONE, buf, 11), MEMTX_OK);
    ck_assert_int_eq(memcmp(buf, p->bytes + 1, 11), 0);
    ck_assert_calls(p, "r1:1=11 r2:2=1312 r4:4=17161514 r8:4=1b1a1918");
    ck_assert_int_eq(address_space_write(as, 0x104, MEMTXATTRS_NONE, "abcdef", 6), MEMTX_OK);
    ck_assert_calls(p, "w4:4=64636261 w8:2=6665");
    ck_assert_int_eq(address_space_read(as, 0x101, MEMTXATTRS_NONE, buf, 0), MEMTX_OK);
    ck_assert_calls(p, "");
    probe_free(p);
}
END_TEST

/* ---- unassigned -------------------------------------------------------------------------- */

static bool answer_at_0x80(void *opaque, AddressSpace *space, hwaddr addr, uint64_t *data,
                           unsigned size, bool is_write, MemTxAttrs attrs)
{
    if (addr != 0x80) {
        return false;
    }
    if (is_write) {
        *(uint64_t *)opaque = *data;
    } else {
        *data = *(uint64_t *)opaque;
    }
    return true;
}

START_TEST(unassigned_accesses_are_logged_unless_for_debugging_and_may_be_answered)
{
    MemTxResult res;
    uint64_t latch = 0x1234567;

    log_set_mask(LOG_UNASSIGNED);
    ck_assert_uint_eq(load(0x81, 4, MEMTX_DECODE_ERROR), 0xffffffff);
    ck_assert(strstr(logged->str, "test: unassigned read of 4 bytes at 0x81"));
    store(0x81, 2, 0xabc, MEMTX_DECODE_ERROR);
    ck_assert(strstr(logged->str, "test: unassigned write of 2 bytes at 0x81, value 0xabc"));
    g_string_truncate(logged, 0);
    ck_assert_uint_eq(address_space_ldn(as, 0x80, 1, MEMTXATTRS_DEBUG, &res), 0xff);
    ck_assert_int_eq(res, MEMTX_DECODE_ERROR);
    ck_assert_str_eq(logged->str, "");
    address_space_set_unassigned(as, answer_at_0x80, &latch);
    ck_assert_uint_eq(load(0x80, 2, MEMTX_OK), 0x4567);
    store(0x80, 1, 0x99, MEMTX_OK);
    ck_assert_uint_eq(latch, 0x99);
    ck_assert_uint_eq(load(0x84, 1, MEMTX_DECODE_ERROR), 0xff);
    address_space_set_unassigned(as, NULL, NULL);
    ck_assert_uint_eq(load(0x80, 1, MEMTX_DECODE_ERROR), 0xff);
}
END_TEST

/* ---- RAM and ROM ------------------------------------------------------------------------- */

START_TEST(ram_takes_every_size_and_alignment_and_marks_the_pages_it_changes)
{
    MemoryRegion ram;
    uint8_t model[64], *host;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", MiB, NULL));
    memory_region_add_subregion(&root, 0, &ram);
    host = memory_region_get_ram_ptr(&ram);
    for (unsigned i = 0; i < sizeof(model); i++) {
        model[i] = (uint8_t)(i * 37);
    }
    memcpy(host, model, sizeof(model));
    for (unsigned size = 1; size <= 8; size++) {
        for (unsigned at = 0; at < 16; at++) {
            uint64_t v = 0, w = UINT64_C(0x1122334455667788) * (at + 1);

            memcpy(&v, model + at, size);
            ck_assert_uint_eq(load(at, size, MEMTX_OK), v);
            store(at, size, w, MEMTX_OK);
            memcpy(model + at, &w, size);
            ck_assert_int_eq(memcmp(host, model, sizeof(model)), 0);
        }
    }
    memory_region_set_log(&ram, true, DIRTY_CODE);
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, MiB, DIRTY_CODE));
    store(0x2ffe, 4, 1, MEMTX_OK);
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, 0x2000, DIRTY_CODE));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x2000, 0x1000, DIRTY_CODE));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x3000, 0x1000, DIRTY_CODE));
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, MiB, DIRTY_CODE));
    ck_assert_int_eq(address_space_write(as, 0x5fff, MEMTXATTRS_NONE, "ab", 2), MEMTX_OK);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x5000, 1, DIRTY_CODE));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x6000, 1, DIRTY_CODE));
    memory_region_finalize(&ram);
}
END_TEST

START_TEST(rom_reads_as_memory_ignores_writes_and_is_filled_by_write_rom)
{
    Probe *p = probe_new(0x2000, 0x10);
    MemoryRegion rom;
    char buf[8] = { 0 };

    log_set_mask(LOG_GUEST);
    ck_assert(memory_region_init_rom(&rom, NULL, "bios", 0x1000, NULL));
    memory_region_add_subregion(&root, 0x1000, &rom);
    ck_assert_int_eq(address_space_write_rom(as, 0x1ffc, "abcdefgh", 8), MEMTX_DECODE_ERROR);
    ck_assert_calls(p, "");
    ck_assert_uint_eq(load(0x1ffc, 4, MEMTX_OK), 0x64636261);
    store(0x1ffc, 4, 0, MEMTX_ERROR);
    ck_assert(strstr(logged->str, "bios: write of 4 bytes to read-only memory at 0x1ffc"));
    ck_assert_int_eq(address_space_write(as, 0x1000, MEMTXATTRS_NONE, buf, 8), MEMTX_ERROR);
    ck_assert_uint_eq(load(0x1ffc, 4, MEMTX_OK), 0x64636261);
    memory_region_finalize(&rom);
    probe_free(p);
}
END_TEST

START_TEST(a_rom_device_reads_from_memory_in_romd_mode_and_writes_to_its_handlers)
{
    Probe *p = probe_new(0x100, 0x10);
    MemoryRegion flash;

    ck_assert(memory_region_init_rom_device(&flash, NULL, &p->ops, p, "flash", 0x1000, NULL));
    memory_region_add_subregion(&root, 0x1000, &flash);
    ck_assert_int_eq(address_space_write_rom(as, 0x1000, "\1\2\3\4", 4), MEMTX_OK);
    ck_assert_uint_eq(load(0x1000, 4, MEMTX_OK), 0x04030201);
    ck_assert_calls(p, "");
    store(0x1000, 1, 0x90, MEMTX_OK);
    ck_assert_calls(p, "w0:1=90");
    memory_region_rom_device_set_romd(&flash, false);
    ck_assert_uint_eq(load(0x1000, 1, MEMTX_OK), 0x90);
    ck_assert_calls(p, "r0:1=90");
    memory_region_rom_device_set_romd(&flash, true);
    ck_assert_uint_eq(load(0x1000, 1, MEMTX_OK), 0x01);
    memory_region_finalize(&flash);
    probe_free(p);
}
END_TEST

START_TEST(a_read_only_alias_shields_ram_and_devices_from_writes)
{
    Probe *p = probe_new(0x10000, 0x10);
    MemoryRegion ram, low, io;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x1000, NULL));
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_init_alias(&low, NULL, "pam", &ram, 0x800, 0x100);
    memory_region_set_readonly(&low, true);
    memory_region_add_subregion(&root, 0x8000, &low);
    memory_region_init_alias(&io, NULL, "io", &p->mr, 0, 0x10);
    memory_region_set_readonly(&io, true);
    memory_region_add_subregion(&root, 0x9000, &io);
    store(0x810, 2, 0x4241, MEMTX_OK);
    ck_assert_uint_eq(load(0x8010, 2, MEMTX_OK), 0x4241);
    store(0x8010, 2, 0, MEMTX_ERROR);
    ck_assert_uint_eq(load(0x810, 2, MEMTX_OK), 0x4241);
    store(0x9000, 1, 0, MEMTX_ERROR);
    ck_assert_calls(p, "");
    ck_assert_uint_eq(load(0x9000, 1, MEMTX_OK), 0x10);
    memory_region_set_readonly(&low, false);
    store(0x8010, 2, 0x4443, MEMTX_OK);
    ck_assert_uint_eq(load(0x810, 2, MEMTX_OK), 0x4443);
    memory_region_finalize(&low);
    memory_region_finalize(&io);
    memory_region_finalize(&ram);
    probe_free(p);
}
END_TEST

START_TEST(a_pointer_to_ram_ends_with_its_range_and_respects_read_only)
{
    MemoryRegion ram, rom;
    uint64_t len = 0x10000;
    uint8_t *host;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x2000, NULL));
    ck_assert(memory_region_init_rom(&rom, NULL, "rom", 0x1000, NULL));
    memory_region_add_subregion(&root, 0x1000, &ram);
    memory_region_add_subregion(&root, 0x3000, &rom);
    host = memory_region_get_ram_ptr(&ram);
    ck_assert_ptr_eq(address_space_translate_ram(as, 0x1800, &len, true), host + 0x800);
    ck_assert_uint_eq(len, 0x1800);
    len = 16;
    ck_assert_ptr_eq(address_space_translate_ram(as, 0x2ff0, &len, true), host + 0x1ff0);
    ck_assert_uint_eq(len, 16);
    ck_assert_ptr_null(address_space_translate_ram(as, 0x3000, &len, true));
    ck_assert_ptr_nonnull(address_space_translate_ram(as, 0x3000, &len, false));
    ck_assert_ptr_null(address_space_translate_ram(as, 0x4000, &len, false));
    memory_region_set_log(&ram, true, DIRTY_SNAPSHOT);
    address_space_mark_dirty(as, 0, UINT64_MAX);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0, 0x1000, DIRTY_SNAPSHOT));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x1000, 0x1000, DIRTY_SNAPSHOT));
    memory_region_finalize(&ram);
    memory_region_finalize(&rom);
}
END_TEST

/* ---- locks and reentrance ---------------------------------------------------------------- */

START_TEST(a_handler_runs_under_the_lock_out_of_rcu_and_a_lockless_one_the_other_way_round)
{
    Probe *p = probe_new(0, 0x10), *q = probe_new(0x100, 0x10);

    memory_region_set_lockless(&q->mr);
    engine_unlock();
    load(0, 1, MEMTX_OK);
    ck_assert(!engine_lock_held());
    load(0x100, 1, MEMTX_OK);
    ck_assert(!engine_lock_held() && !rcu_in_section());
    engine_lock();
    ck_assert(p->lock_held && !p->may_unlock && !p->in_rcu);
    ck_assert(!q->lock_held && q->in_rcu);
    load(0, 1, MEMTX_OK);
    ck_assert(engine_lock_held() && engine_may_unlock());
    ck_assert(p->lock_held && !p->may_unlock);
    probe_free(p);
    probe_free(q);
}
END_TEST

static void move_on_call(Probe *p)
{
    memory_region_set_address(&p->mr, p->mr.addr ^ 0x1000);
}

static void vanish_on_call(Probe *p)
{
    if (p->mr.container) {
        memory_region_del_subregion(&root, &p->mr);
    }
}

START_TEST(a_handler_may_move_or_remove_its_own_region_in_the_middle_of_an_access)
{
    Probe *p = probe_new(0, 0x10);
    MemoryCache cache = { 0 };
    uint64_t v;

    p->hook = move_on_call;
    ck_assert_int_eq(address_space_access(as, &cache, 4, MEMTXATTRS_NONE, &v, 4, false), MEMTX_OK);
    ck_assert_uint_eq(v, 0x17161514);
    ck_assert_int_eq(address_space_access(as, &cache, 4, MEMTXATTRS_NONE, &v, 4, false),
                     MEMTX_DECODE_ERROR);
    ck_assert_int_eq(address_space_access(as, &cache, 0x1004, MEMTXATTRS_NONE, &v, 4, false),
                     MEMTX_OK);
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x17161514);
    p->hook = vanish_on_call;
    p->ops.impl.max_access_size = 1; /* several calls after it is gone */
    ck_assert_uint_eq(load(0x1004, 4, MEMTX_OK), 0x17161514);
    load(0x1004, 4, MEMTX_DECODE_ERROR);
    probe_free(p);
}
END_TEST

static unsigned depth, deepest;

static void bite_own_tail(Probe *p)
{
    depth++;
    deepest = MAX(deepest, depth);
    address_space_stn(as, 0, 1, 1, MEMTXATTRS_NONE, NULL);
    depth--;
}

START_TEST(a_device_that_a_guest_lets_access_itself_is_stopped_before_the_stack_ends)
{
    Probe *p = probe_new(0, 0x10);

    log_set_mask(LOG_GUEST);
    p->hook = bite_own_tail;
    store(0, 1, 1, MEMTX_OK);
    ck_assert_uint_eq(deepest, 16);
    ck_assert(strstr(logged->str, "probe: access at offset 0x0 refused"));
    p->hook = NULL;
    store(0, 1, 1, MEMTX_OK);
    probe_free(p);
}
END_TEST

START_TEST(a_write_that_an_eventfd_waits_for_rings_it_and_spares_the_device)
{
    Probe *p = probe_new(0x1000, 0x40);
    int any = eventfd(0, EFD_NONBLOCK), nine = eventfd(0, EFD_NONBLOCK);
    MemoryRegionIoeventfd a = { .range = { 0x10, 0 }, .fd = any };
    MemoryRegionIoeventfd b = { .range = { 0x20, 4 }, .match_data = true, .data = 9, .fd = nine };
    eventfd_t rung = 0;

    memory_region_add_eventfd(&p->mr, &a);
    memory_region_add_eventfd(&p->mr, &b);
    store(0x1010, 1, 5, MEMTX_OK);
    store(0x1010, 4, 6, MEMTX_OK);
    store(0x1020, 4, UINT64_C(0xf00000009), MEMTX_OK);
    ck_assert_calls(p, "");
    ck_assert(eventfd_read(any, &rung) == 0 && rung == 2);
    ck_assert(eventfd_read(nine, &rung) == 0 && rung == 1);
    /* Another value, another size, a read, another address: the device's. */
    store(0x1020, 4, 8, MEMTX_OK);
    store(0x1020, 2, 9, MEMTX_OK);
    load(0x1010, 1, MEMTX_OK);
    store(0x1011, 1, 1, MEMTX_OK);
    ck_assert_calls(p, "w20:4=8 w20:2=9 r10:1=20 w11:1=1");
    memory_region_del_eventfd(&p->mr, &a);
    store(0x1010, 1, 7, MEMTX_OK);
    ck_assert_calls(p, "w10:1=7");
    ck_assert(eventfd_read(any, &rung) < 0 && eventfd_read(nine, &rung) < 0);
    memory_region_del_eventfd(&p->mr, &b);
    close(any);
    close(nine);
    probe_free(p);
}
END_TEST

START_TEST(a_cached_hit_is_not_used_after_a_change)
{
    Probe *p = probe_new(0, 0x10), *q = probe_new(0x1000, 0x10);
    MemoryCache cache = { 0 };
    uint64_t v;

    q->bytes[0] = 0xaa;
    address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false);
    address_space_access(as, &cache, 0x1000, MEMTXATTRS_NONE, &v, 1, false);
    ck_assert_uint_eq(v, 0xaa);
    address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false);
    ck_assert_uint_eq(v, 0x10);
    memory_region_set_enabled(&p->mr, false);
    ck_assert_int_eq(address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false),
                     MEMTX_DECODE_ERROR);
    memory_region_set_address(&q->mr, 0);
    address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false);
    ck_assert_uint_eq(v, 0xaa);
    probe_free(p);
    probe_free(q);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory access");
    TCase *tc = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_device_sees_size_offset_and_value_and_high_bits_are_cut);
    tcase_add_test(tc, what_is_not_valid_is_a_decode_error_logged_and_never_reaches_the_device);
    tcase_add_test(tc, the_accepts_callback_decides_by_offset_and_direction);
    tcase_add_test(tc, a_region_without_a_handler_for_the_direction_answers_ones_and_takes_nothing);
    tcase_add_test(tc, the_attrs_forms_get_the_attributes_and_may_refuse);
    tcase_add_test(tc, wide_accesses_are_split_into_what_the_device_implements_low_address_first);
    tcase_add_test(tc, narrow_accesses_read_the_whole_unit_and_narrow_writes_merge_into_it);
    tcase_add_test(tc, a_unit_that_sticks_out_of_its_region_is_never_passed_to_the_device);
    tcase_add_test(tc, unaligned_accesses_go_to_the_device_in_aligned_units_unless_it_takes_them);
    tcase_add_test(tc,
                   a_big_endian_device_sees_its_bytes_in_its_order_also_when_split_or_extracted);
    tcase_add_test(tc, an_access_over_two_regions_reaches_each_with_its_part);
    tcase_add_test(tc, bytes_outside_of_any_region_read_as_ones_and_make_the_access_a_decode_error);
    tcase_add_test(tc, an_access_at_the_end_of_the_space_does_not_wrap);
    tcase_add_test(tc, buffers_of_any_length_are_split_into_what_is_valid_there);
    tcase_add_test(tc, unassigned_accesses_are_logged_unless_for_debugging_and_may_be_answered);
    tcase_add_test(tc, ram_takes_every_size_and_alignment_and_marks_the_pages_it_changes);
    tcase_add_test(tc, rom_reads_as_memory_ignores_writes_and_is_filled_by_write_rom);
    tcase_add_test(tc, a_rom_device_reads_from_memory_in_romd_mode_and_writes_to_its_handlers);
    tcase_add_test(tc, a_read_only_alias_shields_ram_and_devices_from_writes);
    tcase_add_test(tc, a_pointer_to_ram_ends_with_its_range_and_respects_read_only);
    tcase_add_test(tc,
                   a_handler_runs_under_the_lock_out_of_rcu_and_a_lockless_one_the_other_way_round);
    tcase_add_test(tc, a_handler_may_move_or_remove_its_own_region_in_the_middle_of_an_access);
    tcase_add_test(tc, a_device_that_a_guest_lets_access_itself_is_stopped_before_the_stack_ends);
    tcase_add_test(tc, a_write_that_an_eventfd_waits_for_rings_it_and_spares_the_device);
    tcase_add_test(tc, a_cached_hit_is_not_used_after_a_change);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

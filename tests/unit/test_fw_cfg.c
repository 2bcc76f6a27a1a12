/* fw_cfg: selecting, the data port, the directory, DMA, items made on demand, hostile guests. */
#include "engine/hw/fw_cfg/fw_cfg.h"
#include "pc_rig.h"

static FWCfg *fw;

static void add(void)
{
    fw = (FWCfg *)rig_add(TYPE_FW_CFG, NULL, "fw_cfg");
}

static void add_file(const char *name, const char *text)
{
    g_autoptr(GBytes) bytes = g_bytes_new(text, strlen(text));

    ck_assert(fw_cfg_add_file(fw, name, bytes, NULL));
}

static void put_be(hwaddr addr, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        mem_write(addr + i, value >> (8 * (size - 1 - i)) & 0xff, 1);
    }
}

static uint32_t get_be32(hwaddr addr)
{
    return GUINT32_SWAP_LE_BE((uint32_t)mem(addr, 4));
}

/* What the access structure at 0x1000 then says. */
static uint32_t dma(uint32_t control, uint32_t len, uint64_t addr)
{
    put_be(0x1000, control, 4);
    put_be(0x1004, len, 4);
    put_be(0x1008, addr, 8);
    out(0x514, 0, 4);
    out(0x518, GUINT32_SWAP_LE_BE(0x1000), 4);
    return get_be32(0x1000);
}

START_TEST(the_signature_and_the_id_are_there)
{
    add();
    out(0x510, 0, 2);
    ck_assert_uint_eq(in(0x511, 1), 'Q');
    ck_assert_uint_eq(in(0x511, 1), 'E');
    ck_assert_uint_eq(in(0x511, 1), 'M');
    ck_assert_uint_eq(in(0x511, 1), 'U');
    ck_assert_uint_eq(in(0x511, 1), 0);
    out(0x510, 1, 2);
    ck_assert_uint_eq(in(0x511, 1), 3);
    ck_assert_uint_eq(in(0x514, 4), GUINT32_SWAP_LE_BE(0x51454d55));
    ck_assert_uint_eq(in(0x518, 4), GUINT32_SWAP_LE_BE(0x20434647));
}
END_TEST

START_TEST(files_are_in_the_directory_and_read_by_their_key)
{
    add();
    add_file("etc/one", "first");
    add_file("etc/two", "second one");
    add_file("etc/one", "1st");
    ck_assert_uint_eq(dma(FW_CFG_FILE_DIR << 16 | 8 | 2, 4 + 2 * 64, 0x2000), 0);
    ck_assert_uint_eq(get_be32(0x2000), 2);
    ck_assert_uint_eq(get_be32(0x2004), 3);
    ck_assert_uint_eq(get_be32(0x2008), 0x00200000);
    ck_assert_uint_eq(get_be32(0x2044), 10);
    ck_assert_uint_eq(mem(0x200c, 8), GUINT64_FROM_LE(0x656e6f2f637465)); /* "etc/one" */
    out(0x510, 0x21, 2);
    ck_assert_uint_eq(in(0x511, 1), 's');
    ck_assert_uint_eq(in(0x511, 1), 'e');
}
END_TEST

START_TEST(dma_selects_skips_reads_and_fills_with_zeros)
{
    add();
    add_file("f", "0123456789");
    mem_write(0x3003, 0xffffffff, 4);
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 4, 7, 0), 0);
    ck_assert_uint_eq(dma(2, 5, 0x3000), 0);
    ck_assert_uint_eq(mem(0x3000, 4), 0x00393837);
    ck_assert_uint_eq(mem(0x3004, 4), 0x00ffff00);
    ck_assert_uint_eq(dma(0x7777 << 16 | 8 | 2, 4, 0x3004), 0);
    ck_assert_uint_eq(mem(0x3004, 4), 0);
}
END_TEST

START_TEST(what_dma_may_not_do_is_an_error)
{
    add();
    add_file("f", "0123");
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 2, 0xffffffff, 0x3000), 1);
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 0x10, 4, 0x3000), 1);
    ck_assert(fw_cfg_set_writable(fw, "f", NULL, NULL, NULL));
    mem_write(0x3000, 0x64636261, 4);
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 0x10, 4, 0x3000), 0);
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 0x10, 5, 0x3000), 1);
    out(0x510, 0x20, 2);
    ck_assert_uint_eq(in(0x511, 1), 'a');
    /* Into nothing. */
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 2, 4, UINT64_C(0xfffffffffffffff0)), 1);
}
END_TEST

static unsigned calls;
static GBytes *made(void *opaque, GError **error)
{
    return g_bytes_new("abcdef", ++calls == 1 ? 6 : 3);
}

START_TEST(a_file_made_on_demand_keeps_its_first_length)
{
    add();
    calls = 0;
    ck_assert(fw_cfg_add_file_fn(fw, "f", made, NULL, NULL, NULL));
    ck_assert_uint_eq(calls, 0);
    ck_assert_uint_eq(dma(FW_CFG_FILE_DIR << 16 | 8 | 2, 4 + 64, 0x2000), 0);
    ck_assert_uint_eq(get_be32(0x2004), 6);
    ck_assert_uint_eq(calls, 1);
    ck_assert_uint_eq(dma(0x20 << 16 | 8 | 2, 6, 0x3000), 0);
    ck_assert_uint_eq(calls, 2);
    ck_assert_uint_eq(mem(0x3000, 8) & UINT64_C(0xffffffffffff), 0x636261);
}
END_TEST

START_TEST(boards_cannot_take_the_keys_of_the_device)
{
    g_autoptr(GBytes) bytes = g_bytes_new("x", 1);
    static const uint16_t taken[] = { FW_CFG_SIGNATURE, FW_CFG_ID, FW_CFG_FILE_DIR, 0x20, 0x8fff };
    g_autofree char *longest = g_strnfill(56, 'x');

    add();
    for (unsigned i = 0; i < G_N_ELEMENTS(taken); i++) {
        g_autoptr(GError) error = NULL;

        ck_assert(!fw_cfg_set(fw, taken[i], bytes, &error));
        ck_assert_ptr_nonnull(error);
    }
    ck_assert(fw_cfg_set(fw, 0x8003, bytes, NULL));
    ck_assert(!fw_cfg_add_file(fw, longest, bytes, NULL));
    ck_assert(!fw_cfg_add_file(fw, "", bytes, NULL));
}
END_TEST

START_TEST(random_accesses_and_structures_do_no_harm)
{
    uint64_t seed = 5;

    add();
    add_file("f", "0123456789");
    for (unsigned i = 0; i < 20000; i++) {
        unsigned size = 1u << rig_random(&seed) % 3;

        out(0x510 + rig_random(&seed) % 12, rig_random(&seed), size);
        in(0x510 + rig_random(&seed) % 12, size);
        if (i % 16 == 0) {
            mem_write(rig_random(&seed) % 0x2000, rig_random(&seed), 4);
            dma(rig_random(&seed), rig_random(&seed), rig_random(&seed) & 0x1fffff);
        }
    }
}
END_TEST

RIG_MAIN("fw_cfg", the_signature_and_the_id_are_there,
         files_are_in_the_directory_and_read_by_their_key,
         dma_selects_skips_reads_and_fills_with_zeros, what_dma_may_not_do_is_an_error,
         a_file_made_on_demand_keeps_its_first_length, boards_cannot_take_the_keys_of_the_device,
         random_accesses_and_structures_do_no_harm)

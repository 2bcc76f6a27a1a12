/* How accesses reach a device: sizes, alignment, endianness, splitting, what nobody answers. */
#include "tests/unit/probe_rig.h"

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

static bool now_at_4(void *opaque, hwaddr addr, unsigned size, uint64_t *data)
{
    ck_assert(!engine_lock_held());
    *data = 0x5a;
    return addr == 4 && size == 1;
}

static void *read_two(void *opaque)
{
    unsigned long locks;

    rcu_thread_register();
    locks = engine_lock_count;
    ck_assert_uint_eq(load(4, 1, MEMTX_OK), 0x5a);
    ck_assert_uint_eq(engine_lock_count, locks);
    ck_assert_uint_eq(load(8, 1, MEMTX_OK), 0x18);
    ck_assert_uint_eq(engine_lock_count, locks + 1);
    rcu_thread_unregister();
    return NULL;
}

START_TEST(what_needs_no_lock_is_read_without_it)
{
    Probe *p = probe_new(0, 0x40);
    pthread_t thread;

    p->ops.read_now = now_at_4;
    engine_unlock();
    ck_assert_int_eq(pthread_create(&thread, NULL, read_two, NULL), 0);
    pthread_join(thread, NULL);
    engine_lock();
    ck_assert_calls(p, "r8:1=18");
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

int main(void)
{
    Suite *suite = suite_create("memory access");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_device_sees_size_offset_and_value_and_high_bits_are_cut);
    tcase_add_test(tc, what_is_not_valid_is_a_decode_error_logged_and_never_reaches_the_device);
    tcase_add_test(tc, the_accepts_callback_decides_by_offset_and_direction);
    tcase_add_test(tc, what_needs_no_lock_is_read_without_it);
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
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}

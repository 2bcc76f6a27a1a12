/* Saved state from streams that are cut off, damaged or forged. */
#include "tests/unit/state_rig.h"

/* ---- hostile streams --------------------------------------------------------------------------
 */

START_TEST(a_stream_cut_off_at_any_byte_is_an_error)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    for (size_t cut = 0; cut < len; cut++) {
        /* Copies, so that ASan sees a read beyond the end. */
        g_autoptr(GBytes) plain = g_bytes_new(data, cut);
        GError *error = NULL;
        ck_assert(!load(plain, &vmstate_thing, &b, &error));
        ck_assert_ptr_nonnull(error);
        ck_assert_int_eq(error->code, ENGINE_ERROR_CORRUPT);
        g_clear_error(&error);
        if (cut < 21) {
            continue;
        }
        /* The same with an end mark and a checksum that fit. */
        g_autofree uint8_t *copy = g_memdup2(data, cut);
        copy[cut - 5] = 0;
        g_autoptr(GBytes) sealed = with_checksum(copy, cut);
        ck_assert(!load(sealed, &vmstate_thing, &b, &error));
        g_clear_error(&error);
        ck_assert_uint_le(b.fifo_n, sizeof(b.fifo));
    }
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(a_section_cut_off_at_any_byte_is_an_error)
{
    /* The stream is whole, the section ends early. */
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len, start = 16 + 1 + 2 + 4 + 4 + 4 + 8;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    for (size_t n = 0; n < len - 5 - start; n++) {
        StateWriter *w = state_writer_new();
        state_section_begin(w, "test", 4, 1);
        state_put_bytes(w, data + start, n);
        state_section_end(w);
        state_section_begin(w, "next", 4, 1);
        state_put_bytes(w, data + start, 64);
        state_section_end(w);
        g_autoptr(GBytes) cut = state_writer_finish(w);
        GError *error = NULL;
        ck_assert(!load(cut, &vmstate_thing, &b, &error));
        ck_assert_ptr_nonnull(error);
        g_clear_error(&error);
        ck_assert_uint_le(b.fifo_n, sizeof(b.fifo));
    }
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(any_flipped_bit_is_an_error)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    g_autofree uint8_t *data = g_bytes_unref_to_data(g_bytes_ref(bytes), &len);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        g_autoptr(GBytes) flipped = g_bytes_new_static(data, len);
        ck_assert(!load(flipped, &vmstate_thing, &b, NULL));
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_uint_eq(b.pre_loads, 0);
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(damage_behind_a_right_checksum_stays_within_bounds)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    unsigned loaded = 0, refused = 0;
    srand(11);
    for (size_t i = 0; i < 16 * len; i++) {
        g_autofree uint8_t *copy = g_memdup2(data, len);
        if (i < 8 * len) {
            copy[i / 8] ^= (uint8_t)(1u << i % 8);
        } else {
            for (int k = rand() % 4; k >= 0; k--) {
                copy[16 + rand() % (len - 16)] = (uint8_t)(rand() % 3 ? rand() : 0xff);
            }
        }
        g_autoptr(GBytes) damaged = with_checksum(copy, len);
        GError *error = NULL;
        if (load(damaged, &vmstate_thing, &b, &error)) {
            loaded++;
        } else {
            ck_assert_ptr_nonnull(error);
            refused++;
        }
        g_clear_error(&error);
        ck_assert_uint_le(b.fifo_n, sizeof(b.fifo));
        ck_assert(*(uint8_t *)&b.flag <= 1);
    }
    ck_assert_uint_gt(loaded, 0); /* values may be anything */
    ck_assert_uint_gt(refused, 0);
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("state hostile");
    TCase *tc = tcase_create("state");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, a_stream_cut_off_at_any_byte_is_an_error);
    tcase_add_test(tc, a_section_cut_off_at_any_byte_is_an_error);
    tcase_add_test(tc, any_flipped_bit_is_an_error);
    tcase_add_test(tc, damage_behind_a_right_checksum_stays_within_bounds);
    return run_suite(s);
}

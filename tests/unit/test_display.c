/* Consoles without a device behind them but the test: surfaces, damage, listeners, texts that are
 * waited for, code pages, pictures. */
#include <glib/gstdio.h>
#include <unistd.h>

#include "engine/display/surface.h"
#include "tests/unit/intc_rig.h"

static Object *owner;
static Console *con;
static const char *screen; /* what the fake device shows; NULL: graphics */
static unsigned refreshes, fulls, text_calls;
static int followed;
static void (*on_refresh)(void);

static void fake_refresh(void *opaque, bool full)
{
    refreshes++;
    fulls += full;
    if (on_refresh) {
        on_refresh();
    }
}

static bool fake_text(void *opaque, ConsoleText *text)
{
    text_calls++;
    if (!screen) {
        return false;
    }
    console_text_resize(text, 10, (unsigned)strlen(screen) / 10);
    for (unsigned i = 0; i < text->columns * text->rows; i++) {
        text->cells[i] = (ConsoleCell){ .code = (uint8_t)screen[i], .fg = 7 };
    }
    return true;
}

static void fake_follow(void *opaque, bool on)
{
    followed += on ? 1 : -1;
}

static const ConsoleOps ops = { fake_refresh, fake_text, fake_follow };

static void setup(void)
{
    machine_setup();
    owner = OBJECT(machine);
    con = console_attach(owner, "console", &ops, NULL, machine->clock, NULL);
    ck_assert_ptr_nonnull(con);
    screen = "hello     world     ";
    refreshes = fulls = text_calls = 0;
    followed = 0;
    on_refresh = NULL;
}

/* ---- surface ------------------------------------------------------------------------------- */

START_TEST(a_new_console_is_black_and_drawn_in_full_at_first)
{
    ck_assert_uint_eq(con->width, 640);
    ck_assert_uint_eq(con->height, 480);
    ck_assert_uint_eq(console_pixels(con, 479)[639], 0);
    console_refresh(con);
    ck_assert_uint_eq(fulls, 1);
    console_refresh(con);
    ck_assert_uint_eq(fulls, 1);
    console_invalidate(con);
    console_refresh(con);
    ck_assert_uint_eq(fulls, 2);
    ck_assert_uint_eq(con->generation, 0); /* no pixel was reported */
}
END_TEST

START_TEST(sizes_have_limits)
{
    ck_assert(console_resize(con, 1, 1));
    ck_assert(!console_resize(con, 0, 1));
    ck_assert(!console_resize(con, 1, 0));
    ck_assert(!console_resize(con, CONSOLE_MAX_SIDE + 1, 1));
    ck_assert(!console_resize(con, 4096, 4097));
    ck_assert_uint_eq(con->width, 1);
    ck_assert(console_resize(con, 4096, 4096));
    ck_assert_uint_eq(console_pixels(con, 4095)[4095], 0);
}
END_TEST

static ConsoleListener heard;
static unsigned n_resized, n_updated, n_gone;
static pixman_box32_t box;

static void on_resized(ConsoleListener *l, Console *c)
{
    n_resized++;
}

static void on_updated(ConsoleListener *l, Console *c, const pixman_region32_t *damage)
{
    n_updated++;
    box = *pixman_region32_extents((pixman_region32_t *)(uintptr_t)damage);
}

static void on_gone(ConsoleListener *l, Console *c)
{
    n_gone++;
}

static void listen(int64_t interval)
{
    heard = (ConsoleListener){ on_resized, on_updated, on_gone, interval, false };
    n_resized = n_updated = n_gone = 0;
    console_add_listener(con, &heard);
}

static void draw_beyond_the_edge(void)
{
    console_damage(con, 630, 470, 100, 100);
    console_damage(con, 640, 0, 1, 1);
    console_damage(con, 5, 5, 0, 1);
}

START_TEST(damage_is_clipped_and_told_once)
{
    listen(0);
    ck_assert_uint_eq(n_resized, 1);
    on_refresh = draw_beyond_the_edge;
    console_refresh(con);
    ck_assert_uint_eq(n_updated, 1);
    ck_assert_int_eq(box.x1, 630);
    ck_assert_int_eq(box.y1, 470);
    ck_assert_int_eq(box.x2, 640);
    ck_assert_int_eq(box.y2, 480);
    ck_assert_uint_eq(con->generation, 1);
    on_refresh = NULL;
    console_refresh(con);
    ck_assert_uint_eq(n_updated, 1);
    ck_assert_uint_eq(con->generation, 1);
    console_remove_listener(con, &heard);
}
END_TEST

static void resize_it(void)
{
    console_resize(con, 320, 200);
}

START_TEST(a_new_size_is_told_before_its_pixels_and_drawn_in_full)
{
    listen(0);
    console_refresh(con);
    fulls = 0;
    on_refresh = resize_it;
    console_refresh(con);
    ck_assert_uint_eq(n_resized, 2);
    ck_assert_uint_eq(n_updated, 1);
    ck_assert_int_eq(box.x2, 320);
    ck_assert_uint_eq(fulls, 1); /* what was drawn before the new size is drawn again */
    console_remove_listener(con, &heard);
}
END_TEST

START_TEST(a_timer_runs_only_while_somebody_wants_pictures)
{
    ck_assert(!timer_armed(&con->refresh_timer));
    listen(5 * 1000000);
    ck_assert(timer_armed(&con->refresh_timer));
    ck_assert_int_eq(followed, 1);
    while (refreshes < 3) {
        main_loop_iterate(true);
    }
    console_remove_listener(con, &heard);
    ck_assert(!timer_armed(&con->refresh_timer));
    ck_assert_int_eq(followed, 0);
}
END_TEST

static ConsoleListener other;

static void remove_both(ConsoleListener *l, Console *c, const pixman_region32_t *damage)
{
    n_updated++;
    console_refresh(c); /* refused quietly */
    console_remove_listener(c, &heard);
    console_remove_listener(c, &other);
}

START_TEST(listeners_may_remove_each_other_from_their_callbacks)
{
    listen(0);
    heard.updated = remove_both;
    other = (ConsoleListener){ on_resized, on_updated, on_gone, 0, false };
    console_add_listener(con, &other);
    on_refresh = draw_beyond_the_edge;
    console_refresh(con);
    ck_assert_uint_eq(n_updated, 1);
    ck_assert_uint_eq(con->listeners->len, 0);
    console_refresh(con);
    ck_assert_uint_eq(n_updated, 1);
}
END_TEST

START_TEST(a_device_that_goes_tells_and_can_come_back)
{
    Console *again;

    listen(1000000000);
    console_refresh(con);
    console_detach(con);
    ck_assert_uint_eq(n_gone, 1);
    ck_assert_int_eq(followed, 0);
    refreshes = 0;
    console_refresh(con); /* the picture stays */
    ck_assert_uint_eq(refreshes, 0);
    again = console_attach(owner, "console", &ops, NULL, machine->clock, NULL);
    ck_assert_ptr_eq(again, con);
    console_refresh(con);
    ck_assert_uint_eq(refreshes, 1);
}
END_TEST

/* ---- text ----------------------------------------------------------------------------------- */

START_TEST(text_has_generations)
{
    uint64_t first;

    ck_assert_str_eq(console_text_utf8(con), "hello\nworld\n");
    first = con->text_generation;
    ck_assert_str_eq(console_text_utf8(con), "hello\nworld\n");
    ck_assert_uint_eq(con->text_generation, first);
    screen = "hello     there     ";
    ck_assert_str_eq(console_text_utf8(con), "hello\nthere\n");
    ck_assert_uint_eq(con->text_generation, first + 1);
    screen = NULL;
    ck_assert_ptr_null(console_text_utf8(con));
    ck_assert_uint_eq(con->text_generation, first + 2);
    ck_assert(!console_shows_text(con, "hello"));
}
END_TEST

static unsigned seen, watch_gone;

static void on_text(void *opaque)
{
    seen++;
}

static void on_watch_gone(void *opaque)
{
    watch_gone++;
}

/* The machine's time goes on. */
static void look(void)
{
    run_until(now_ns + 11000000);
}

START_TEST(a_watch_sees_a_text_each_time_it_comes)
{
    ConsoleWatch *w;

    seen = 0;
    ck_assert_int_eq(clock_deadline(machine->clock), -1);
    w = console_watch_text(con, "world", false, on_text, NULL, NULL);
    look();
    ck_assert_uint_eq(seen, 0); /* it stands there already */
    screen = "          wor       ";
    look();
    screen = "          world     ";
    look();
    ck_assert_uint_eq(seen, 1);
    look();
    ck_assert_uint_eq(seen, 1);
    screen = NULL;
    look();
    screen = "world     world     ";
    look();
    ck_assert_uint_eq(seen, 2);
    screen = " world              ";
    look();
    ck_assert_uint_eq(seen, 2);
    console_watch_free(w);
    ck_assert_int_eq(clock_deadline(machine->clock), -1); /* nobody looks any more */
}
END_TEST

START_TEST(a_watch_may_count_what_stands_there_already)
{
    ConsoleWatch *w, *two;

    seen = 0;
    w = console_watch_text(con, "world", true, on_text, NULL, NULL);
    two = console_watch_text(con, "hello\nworld", true, on_text, NULL, NULL);
    ck_assert_uint_eq(seen, 0); /* not from inside the call */
    while (main_loop_iterate(false)) {
    }
    ck_assert_uint_eq(seen, 2); /* and while the clock stands */
    look();
    ck_assert_uint_eq(seen, 2);
    console_watch_free(w);
    console_watch_free(two);
}
END_TEST

static ConsoleWatch *self;

static void free_itself(void *opaque)
{
    seen++;
    console_watch_free(self);
}

static void detach_it(void *opaque)
{
    seen++;
    console_detach(con);
}

START_TEST(a_watch_may_end_itself_and_even_the_console)
{
    ConsoleWatch *w;

    seen = watch_gone = 0;
    screen = "          ";
    self = console_watch_text(con, "x", false, free_itself, NULL, NULL);
    w = console_watch_text(con, "x", false, detach_it, on_watch_gone, NULL);
    screen = "    x     ";
    look();
    ck_assert_uint_eq(seen, 2);
    ck_assert_uint_eq(watch_gone, 1);
    console_watch_free(w);
    screen = "          ";
    look();
    ck_assert_uint_eq(seen, 2);
}
END_TEST

START_TEST(a_look_at_an_unchanged_screen_searches_nothing)
{
    ConsoleWatch *w = console_watch_text(con, "nothing", false, on_text, NULL, NULL);
    uint64_t generation;

    look();
    generation = con->utf8_generation;
    text_calls = 0;
    run_until(now_ns + 1000000000);
    ck_assert_uint_ge(text_calls, 99);
    ck_assert_uint_le(text_calls, 101);
    ck_assert_uint_eq(con->utf8_generation, generation);
    console_watch_free(w);
}
END_TEST

START_TEST(code_pages_give_characters)
{
    uint16_t u[256];
    GError *error = NULL;

    ck_assert(codepage_load("cp437", u, NULL));
    ck_assert_uint_eq(u['A'], 'A');
    ck_assert_uint_eq(u[0], ' ');
    ck_assert_uint_eq(u[1], 0x263a);
    ck_assert_uint_eq(u[127], 0x2302);
    ck_assert_uint_eq(u[0xdb], 0x2588);
    ck_assert_uint_eq(u[0xff], 0xa0);
    ck_assert(codepage_load("ISO8859-1", u, NULL));
    ck_assert_uint_eq(u[0xe4], 0xe4);
    ck_assert_uint_eq(u[1], 0x263a);
    ck_assert(!codepage_load("no-such-page", u, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "no-such-page"));
    g_clear_error(&error);
    ck_assert(!codepage_load("UTF-16", u, &error));
    g_clear_error(&error);
}
END_TEST

/* iconv has code page 437 too. */
START_TEST(our_table_of_code_page_437_is_the_systems)
{
    GIConv cd = g_iconv_open("UTF-16LE", "CP437");
    uint16_t u[256];

    if (cd == (GIConv)-1) {
        return;
    }
    ck_assert(codepage_load("cp437", u, NULL));
    for (unsigned i = 128; i < 256; i++) {
        char in = (char)i, *from = &in;
        uint16_t out = 0;
        char *to = (char *)&out;
        gsize left = 1, room = 2;

        ck_assert_uint_eq(g_iconv(cd, &from, &left, &to, &room), 0);
        ck_assert_uint_eq(u[i], out);
    }
    g_iconv_close(cd);
}
END_TEST

/* ---- pictures ---------------------------------------------------------------------------------
 */

static char *temp_png(void)
{
    char *path = g_strdup("/tmp/vmlua-display-XXXXXX");
    int fd = g_mkstemp(path);

    ck_assert_int_ge(fd, 0);
    close(fd);
    return path;
}

START_TEST(a_picture_survives_a_file)
{
    g_autofree char *path = temp_png(), *one = NULL, *two = NULL;
    pixman_image_t *image;
    PictureDiff diff;

    console_resize(con, 33, 17);
    for (unsigned y = 0; y < 17; y++) {
        for (unsigned x = 0; x < 33; x++) {
            console_pixels(con, y)[x] = 0xab000000 | x * 7 << 16 | y * 15 << 8 | (x ^ y);
        }
    }
    ck_assert(png_write(path, con->surface, NULL));
    image = png_read(path, NULL);
    ck_assert_ptr_nonnull(image);
    picture_compare(con->surface, 0, 0, image, NULL, 0, &diff);
    ck_assert_uint_eq(diff.compared, 33 * 17);
    ck_assert_uint_eq(diff.different, 0);
    one = picture_hash(con->surface, 0, 0, 33, 17);
    console_pixels(con, 5)[6] ^= 0x000400;
    picture_compare(con->surface, 0, 0, image, NULL, 3, &diff);
    ck_assert_uint_eq(diff.different, 1);
    ck_assert_uint_eq(diff.worst, 4);
    ck_assert_uint_eq(diff.x, 6);
    ck_assert_uint_eq(diff.y, 5);
    picture_compare(con->surface, 0, 0, image, NULL, 4, &diff);
    ck_assert_uint_eq(diff.different, 0);
    two = picture_hash(con->surface, 0, 0, 33, 17);
    ck_assert_str_ne(one, two);
    pixman_image_get_data(image)[5 * pixman_image_get_stride(image) / 4 + 6] = 0; /* transparent */
    picture_compare(con->surface, 0, 0, image, NULL, 0, &diff);
    ck_assert_uint_eq(diff.different, 0);
    ck_assert_uint_eq(diff.compared, 33 * 17 - 1);
    pixman_image_unref(image);
    g_unlink(path);
}
END_TEST

START_TEST(files_that_are_no_pictures_are_refused_with_their_name)
{
    g_autofree char *path = temp_png(), *png = NULL;
    g_autoptr(GRand) rand = g_rand_new_with_seed(8);
    GError *error = NULL;
    gsize len;

    ck_assert_ptr_null(png_read("/no/such/file.png", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "/no/such/file.png"));
    g_clear_error(&error);
    ck_assert_ptr_null(png_read(path, &error)); /* empty */
    ck_assert_ptr_nonnull(strstr(error->message, path));
    g_clear_error(&error);
    ck_assert(!png_write("/no/such/file.png", con->surface, &error));
    g_clear_error(&error);
    ck_assert(png_write(path, con->surface, NULL));
    ck_assert(g_file_get_contents(path, &png, &len, NULL));
    for (unsigned i = 0; i < 200; i++) { /* damaged: refused or read, no more */
        g_autofree char *bad = g_memdup2(png, len);
        pixman_image_t *image;

        for (unsigned j = 0; j < 3; j++) {
            bad[g_rand_int(rand) % (i % 2 ? len : 64)] = (char)g_rand_int(rand);
        }
        ck_assert(
            g_file_set_contents(path, bad, (gssize)(i % 5 ? len : g_rand_int(rand) % len), NULL));
        image = png_read(path, &error);
        ck_assert(!image == !!error);
        g_clear_error(&error);
        if (image) {
            pixman_image_unref(image);
        }
    }
    g_unlink(path);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, a_new_console_is_black_and_drawn_in_full_at_first);
    tcase_add_test(tc, sizes_have_limits);
    tcase_add_test(tc, damage_is_clipped_and_told_once);
    tcase_add_test(tc, a_new_size_is_told_before_its_pixels_and_drawn_in_full);
    tcase_add_test(tc, a_timer_runs_only_while_somebody_wants_pictures);
    tcase_add_test(tc, listeners_may_remove_each_other_from_their_callbacks);
    tcase_add_test(tc, a_device_that_goes_tells_and_can_come_back);
    tcase_add_test(tc, text_has_generations);
    tcase_add_test(tc, a_watch_sees_a_text_each_time_it_comes);
    tcase_add_test(tc, a_watch_may_count_what_stands_there_already);
    tcase_add_test(tc, a_watch_may_end_itself_and_even_the_console);
    tcase_add_test(tc, a_look_at_an_unchanged_screen_searches_nothing);
    tcase_add_test(tc, code_pages_give_characters);
    tcase_add_test(tc, our_table_of_code_page_437_is_the_systems);
    tcase_add_test(tc, a_picture_survives_a_file);
    tcase_add_test(tc, files_that_are_no_pictures_are_refused_with_their_name);
}

int main(void)
{
    return run_tests("display", setup, machine_teardown, add);
}

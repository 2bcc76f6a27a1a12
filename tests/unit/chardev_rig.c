/* See chardev_rig.h. */
#include "tests/unit/chardev_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/error.h"

static char *folder; /* this test's own */

void chardev_setup(void)
{
    main_loop_init();
    folder = g_dir_make_tmp("vmlua-chardev-XXXXXX", NULL);
    ck_assert_ptr_nonnull(folder);
}

void chardev_teardown(void)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    g_clear_pointer(&folder, g_free);
    main_loop_finalize();
}

char *in_folder(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

void loop_idle(void)
{
    while (main_loop_iterate(false)) {
    }
}

/* ---- a front end that notes everything ------------------------------------------------------ */

static size_t front_can_read(void *opaque)
{
    return ((Front *)opaque)->room;
}

static void front_read(void *opaque, const uint8_t *buf, size_t len)
{
    Front *f = opaque;

    ck_assert_uint_le(len, f->room);
    f->room -= len;
    g_byte_array_append(f->got, buf, (guint)len);
}

static void front_event(void *opaque, ChardevEvent event)
{
    Front *f = opaque;

    g_string_append_c(f->events, "OCBM"[event]);
    if (event == CHARDEV_BREAK) {
        g_byte_array_append(f->got, (const uint8_t *)"<break>", 7);
    }
}

static void front_writable(void *opaque)
{
    ((Front *)opaque)->writable++;
}

const ChardevHandlers front_handlers = {
    .can_read = front_can_read,
    .read = front_read,
    .event = front_event,
    .writable = front_writable,
};

Front *front_new(Chardev *chr)
{
    Front *f = g_new0(Front, 1);
    g_autoptr(GError) error = NULL;

    f->got = g_byte_array_new();
    f->events = g_string_new(NULL);
    f->room = SIZE_MAX;
    ck_assert(chardev_attach(chr, &front_handlers, f, &error));
    return f;
}

void front_free(Front *f)
{
    g_byte_array_free(f->got, TRUE);
    g_string_free(f->events, TRUE);
    g_free(f);
}

bool front_has(const Front *f, const char *text)
{
    return f->got->len == strlen(text) && f->got->len > 0 &&
           memcmp(f->got->data, text, f->got->len) == 0;
}

Chardev *make(const char *format, ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    Chardev *chr;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    chr = chardev_new_from_text(text, &error);
    ck_assert_msg(chr != NULL, "%s: %s", text, error ? error->message : "no error");
    return chr;
}

Chardev *make_type(const char *type)
{
    Object *obj = object_new(type, NULL);

    ck_assert_ptr_nonnull(obj);
    return CHARDEV(obj);
}

void refused(const char *text, const char *why)
{
    g_autoptr(GError) error = NULL;
    Chardev *chr = chardev_new_from_text(text, &error);

    ck_assert_msg(chr == NULL, "'%s' was accepted", text);
    ck_assert_ptr_nonnull(error);
    ck_assert_msg(strstr(error->message, why) != NULL, "'%s' gives: %s", text, error->message);
}

void end(Chardev *chr, Front *f)
{
    chardev_close(chr);
    chardev_detach(chr);
    object_unref(chr);
    if (f) {
        front_free(f);
    }
}

void put(Chardev *chr, const char *text)
{
    chardev_write(chr, (const uint8_t *)text, strlen(text));
}

void take(Chardev *chr, const char *text)
{
    chardev_receive(chr, (const uint8_t *)text, strlen(text));
}

char *prop(Chardev *chr, const char *name)
{
    return object_property_get_str(OBJECT(chr), name, NULL);
}

/* Everything that can be read until `len` bytes are there; the loop runs meanwhile. */
char *read_all(int fd, size_t len)
{
    char *buf = g_malloc0(len + 1);
    size_t n = 0;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    while (n < len) {
        ssize_t r = read(fd, buf + n, len - n);

        if (r > 0) {
            n += (size_t)r;
        } else {
            ck_assert(r < 0 && errno == EAGAIN);
            main_loop_iterate(false);
        }
    }
    return buf;
}

void ck_reads(int fd, const char *text)
{
    g_autofree char *got = read_all(fd, strlen(text));

    ck_assert_str_eq(got, text);
}

void send_text(int fd, const char *text)
{
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* Writes until the peer's buffers and CHARDEV_CONGESTED bytes of the queue are full. */
size_t congest(Chardev *chr)
{
    char piece[64];
    size_t sent = 0;

    while (!chardev_congested(chr)) {
        snprintf(piece, sizeof(piece), "line %zu\n", sent);
        put(chr, piece);
        sent += strlen(piece);
        ck_assert_uint_lt(sent, 16 << 20);
    }
    return sent;
}

int chardev_run(const char *name, const CharTest *tests, unsigned n, void (*more)(Suite *suite))
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 30);
    tcase_add_checked_fixture(tc, chardev_setup, chardev_teardown);
    suite_add_tcase(suite, tc);
    for (unsigned i = 0; i < n; i++) {
        tcase_add_test(tc, tests[i]);
    }
    if (more) {
        more(suite);
    }
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

/* Character devices: the core's queues, the text form, links, the text matcher. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/chardev/text-match.h"
#include "engine/core/error.h"
#include "tests/unit/chardev_rig.h"

/* ---- the core ------------------------------------------------------------------------------ */

START_TEST(ring_keeps_the_last_bytes)
{
    Chardev *chr = make("ring:8");
    uint8_t buf[16] = { 0 };

    put(chr, "abcde");
    put(chr, "fghij");
    ck_assert_uint_eq(chardev_ring_count(chr), 8);
    ck_assert_uint_eq(chardev_ring_read(chr, buf, 3), 3);
    ck_assert_str_eq((char *)buf, "cde");
    put(chr, "0123456789");
    ck_assert_uint_eq(chardev_ring_read(chr, buf, sizeof(buf)), 8);
    ck_assert_mem_eq(buf, "23456789", 8);
    ck_assert_uint_eq(chardev_ring_count(chr), 0);
    end(chr, NULL);
}
END_TEST

START_TEST(a_front_end_gets_what_it_takes_and_the_rest_waits)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    ck_assert_str_eq(f->events->str, "O");
    f->room = 3;
    take(chr, "abcdef");
    ck_assert(front_has(f, "abc"));
    f->room = 2;
    chardev_accept_input(chr);
    ck_assert(front_has(f, "abcde"));
    f->room = 100;
    take(chr, "g");
    ck_assert(front_has(f, "abcdefg"));
    end(chr, f);
}
END_TEST

START_TEST(the_input_queue_is_bounded_and_counts_what_it_drops)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);
    g_autofree uint8_t *big = g_malloc0(CHARDEV_IN_MAX + 100);

    f->room = 0;
    ck_assert_uint_eq(chardev_receive_room(chr), CHARDEV_IN_MAX);
    chardev_receive(chr, big, CHARDEV_IN_MAX + 100);
    ck_assert_uint_eq(chardev_receive_room(chr), 0);
    ck_assert_uint_eq(chr->bytes_dropped, 100);
    f->room = SIZE_MAX;
    chardev_accept_input(chr);
    ck_assert_uint_eq(f->got->len, CHARDEV_IN_MAX);
    end(chr, f);
}
END_TEST

START_TEST(a_second_front_end_is_refused_by_name)
{
    Chardev *chr = make("null,id=con0");
    Front *f = front_new(chr);
    g_autoptr(GError) error = NULL;

    ck_assert(!chardev_attach(chr, &front_handlers, f, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "con0"));
    chardev_detach(chr);
    ck_assert(chardev_attach(chr, &front_handlers, f, NULL));
    end(chr, f);
}
END_TEST

static void note_tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    g_string_append_printf(opaque, "%c%.*s ", from_guest ? '>' : '<', (int)len, (const char *)buf);
}

static Chardev *one_shot_chr;
static void one_shot_tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    (*(unsigned *)opaque)++;
    chardev_remove_tap(one_shot_chr, one_shot_tap, opaque);
}

START_TEST(taps_see_both_ways_and_may_remove_themselves)
{
    Chardev *chr = make("null");
    GString *seen = g_string_new(NULL);
    unsigned hits = 0;

    one_shot_chr = chr;
    chardev_add_tap(chr, one_shot_tap, &hits);
    chardev_add_tap(chr, note_tap, seen);
    put(chr, "out");
    take(chr, "in");
    put(chr, "more");
    ck_assert_str_eq(seen->str, ">out <in >more ");
    ck_assert_uint_eq(hits, 1);
    chardev_remove_tap(chr, note_tap, seen);
    put(chr, "unseen");
    ck_assert_str_eq(seen->str, ">out <in >more ");
    g_string_free(seen, TRUE);
    end(chr, NULL);
}
END_TEST

typedef struct Adder {
    Chardev *chr;
    GString *seen;
} Adder;

static void adding_tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    Adder *a = opaque;

    chardev_remove_tap(a->chr, adding_tap, a);
    chardev_add_tap(a->chr, note_tap, a->seen);
}

START_TEST(a_tap_that_is_added_by_a_tap_begins_with_the_next_bytes)
{
    Chardev *chr = make("null");
    Adder a = { chr, g_string_new(NULL) };

    chardev_add_tap(chr, adding_tap, &a);
    put(chr, "first");
    ck_assert_str_eq(a.seen->str, "");
    put(chr, "second");
    ck_assert_str_eq(a.seen->str, ">second ");
    g_string_free(a.seen, TRUE);
    end(chr, NULL);
}
END_TEST

START_TEST(history_is_the_tail_of_what_the_guest_wrote)
{
    Chardev *chr = make("null");
    g_autoptr(GByteArray) all = g_byte_array_new();
    const uint8_t *history;
    uint8_t piece[70000];
    size_t len;

    ck_assert_ptr_null(chardev_history(chr, &len));
    for (unsigned i = 0; i < 400; i++) {
        size_t n = i == 200 ? sizeof(piece) : i * 7 % 1500;

        for (size_t k = 0; k < n; k++) {
            piece[k] = (uint8_t)(i + k * 3);
        }
        g_byte_array_append(all, piece, (guint)n);
        chardev_write(chr, piece, n);
        history = chardev_history(chr, &len);
        ck_assert_uint_eq(len, MIN(all->len, CHARDEV_HISTORY_MAX));
        if (len > 0) {
            ck_assert_mem_eq(history, all->data + all->len - len, len);
        }
    }
    ck_assert_uint_eq(chr->bytes_out, all->len);
    end(chr, NULL);
}
END_TEST

START_TEST(writing_after_close_is_dropped_and_counted)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    chardev_close(chr);
    chardev_close(chr);
    ck_assert_str_eq(f->events->str, "OC");
    put(chr, "lost");
    ck_assert_uint_eq(chr->bytes_dropped, 4);
    ck_assert(chardev_flushed(chr));
    chardev_write(NULL, (const uint8_t *)"x", 1);
    ck_assert(chardev_flushed(NULL));
    end(chr, f);
}
END_TEST

START_TEST(properties_are_frozen_while_open)
{
    Chardev *chr = make("ring:16");
    g_autoptr(GError) error = NULL;

    ck_assert(!object_property_set_uint(OBJECT(chr), "size", 32, &error));
    chardev_close(chr);
    ck_assert(object_property_set_uint(OBJECT(chr), "size", 32, NULL));
    ck_assert(chardev_open(chr, NULL));
    g_clear_error(&error);
    ck_assert(!chardev_open(chr, &error));
    end(chr, NULL);
}
END_TEST

START_TEST(unparenting_closes)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    ck_assert(object_add_child(object_get_root(), "chr-test", OBJECT(chr), NULL));
    object_unparent(OBJECT(chr));
    ck_assert(!chr->opened);
    ck_assert_str_eq(f->events->str, "OC");
    end(chr, f);
}
END_TEST

START_TEST(a_break_keeps_its_place_among_the_bytes)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    f->room = 0;
    take(chr, "ab");
    chardev_event(chr, CHARDEV_BREAK);
    take(chr, "cd");
    f->room = 1;
    chardev_accept_input(chr);
    ck_assert(front_has(f, "a"));
    f->room = 100;
    chardev_accept_input(chr);
    ck_assert(front_has(f, "ab<break>cd"));
    end(chr, f);
}
END_TEST

START_TEST(the_log_file_gets_what_the_guest_writes)
{
    g_autofree char *path = in_folder("log");
    g_autofree char *text = NULL;
    Chardev *chr = make("null,logfile=%s", path);

    put(chr, "one ");
    end(chr, NULL);
    chr = make("null,logfile=%s,logappend=on", path);
    put(chr, "two");
    take(chr, "not this");
    end(chr, NULL);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_str_eq(text, "one two");
    refused("null,logfile=/nonexistent/folder/log", "/nonexistent/folder/log");
}
END_TEST

static void collect_script(void *opaque, const uint8_t *buf, size_t len)
{
    g_string_append_len(opaque, (const char *)buf, (gssize)len);
}

START_TEST(a_script_gets_the_bytes_and_answers)
{
    Chardev *chr = make_type(TYPE_CHARDEV_SCRIPT);
    GString *seen = g_string_new(NULL);
    Front *f;

    chardev_script_set(chr, collect_script, seen);
    ck_assert(chardev_open(chr, NULL));
    f = front_new(chr);
    put(chr, "question");
    take(chr, "answer");
    ck_assert_str_eq(seen->str, "question");
    ck_assert(front_has(f, "answer"));
    g_string_free(seen, TRUE);
    end(chr, f);
}
END_TEST

static void closing_script(void *opaque, const uint8_t *buf, size_t len)
{
    chardev_close(opaque);
}

START_TEST(what_a_script_took_before_it_closed_was_not_dropped)
{
    Chardev *chr = make_type(TYPE_CHARDEV_SCRIPT);

    chardev_script_set(chr, closing_script, chr);
    ck_assert(chardev_open(chr, NULL));
    put(chr, "last words");
    ck_assert(!chr->opened);
    ck_assert_uint_eq(chr->bytes_dropped, 0);
    end(chr, NULL);
}
END_TEST

/* ---- text ---------------------------------------------------------------------------------- */

START_TEST(mistakes_in_the_text_form_are_named)
{
    refused("fle:/tmp/x", "did you mean 'file'");
    refused("", "unknown chardev ''");
    refused("telnet:localhost:23", "tcp");
    refused("null:x", "takes nothing");
    refused("file:", "needs a path");
    refused("file", "path");
    refused("file,pth=/tmp/x", "did you mean 'path'");
    refused("file,path=/tmp/x,apend=on", "did you mean 'append'");
    refused("file,path=/tmp/x,append=perhaps", "append");
    refused("file,path=/tmp/x,,y,path", "needs a value");
    refused("unix:/tmp/x,srever", "did you mean 'server'");
    refused("tcp:localhost", "HOST:PORT");
    refused("tcp:localhost:99999", "99999");
    refused("tcp:localhost:http", "http");
    refused("socket", "needs a path");
    refused("socket,path=/tmp/a,host=b,port=1", "exclude");
    refused("socket,port=1,server,reconnect=3", "reconnect");
    refused("ring:0", "size 0");
    refused("ring,size=1T", "size");
    refused("null,,,x", "unknown option ',x'");
    refused("null,,", "empty option");
    refused("null,", "empty option");
    refused("stdio,escape=ctrl-alt", "ctrl-alt");
    refused("null,bytes-in=4", "bytes-in");
}
END_TEST

START_TEST(both_spellings_set_the_same_properties)
{
    g_autoptr(GError) error = NULL;
    Chardev *a = chardev_parse("tcp:[::1]:4444,server,nowait,delay", &error);
    Chardev *b = chardev_parse("socket,id=c0,host=::1,port=4444,server=on,wait=off,nodelay=off",
                               &error);
    Chardev *c = chardev_parse("unix:/tmp/a,,b,server=on,wait=off", &error);
    Chardev *both[2] = { a, b };
    g_autofree char *path = NULL, *id = NULL;

    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_nonnull(b);
    ck_assert_ptr_nonnull(c);
    for (int i = 0; i < 2; i++) {
        g_autofree char *host = prop(both[i], "host");

        ck_assert_str_eq(host, "::1");
        ck_assert_uint_eq(object_property_get_uint(OBJECT(both[i]), "port", NULL), 4444);
        ck_assert(object_property_get_bool(OBJECT(both[i]), "server", NULL));
        ck_assert(!object_property_get_bool(OBJECT(both[i]), "wait", NULL));
        ck_assert(!object_property_get_bool(OBJECT(both[i]), "nodelay", NULL));
    }
    id = prop(b, "id");
    ck_assert_str_eq(id, "c0");
    path = prop(c, "path");
    ck_assert_str_eq(path, "/tmp/a,b");
    object_unref(a);
    object_unref(b);
    object_unref(c);
}
END_TEST

static void note_backend(const char *alias, ChardevClass *klass, void *opaque)
{
    g_string_append_printf(opaque, "%s ", alias);
}

START_TEST(the_back_ends_can_be_listed)
{
    GString *list = g_string_new(NULL);

    chardev_backends_foreach(note_backend, list);
    ck_assert_str_eq(list->str, "file null pipe pty ring socket stdio ");
    g_string_free(list, TRUE);
}
END_TEST

/* ---- link ---------------------------------------------------------------------------------- */

START_TEST(a_link_carries_bytes_modem_lines_and_breaks)
{
    Chardev *a = make_type(TYPE_CHARDEV_LINK), *b = make_type(TYPE_CHARDEV_LINK);
    Front *fa, *fb;

    ck_assert(chardev_link(a, b, NULL));
    fa = front_new(a);
    fb = front_new(b);
    put(a, "to b");
    put(b, "to a");
    chardev_send_break(a, true);
    put(a, "after");
    LOOP_UNTIL(front_has(fb, "to b<break>after") && front_has(fa, "to a"));
    ck_assert_uint_eq(chardev_get_modem(b), 0);
    chardev_set_modem(a, CHARDEV_TIOCM_DTR);
    ck_assert_uint_eq(chardev_get_modem(b), CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD);
    LOOP_UNTIL(strchr(fb->events->str, 'M'));
    chardev_set_modem(a, CHARDEV_TIOCM_DTR | CHARDEV_TIOCM_RTS);
    ck_assert_uint_eq(chardev_get_modem(b),
                      CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD | CHARDEV_TIOCM_CTS);
    chardev_close(a);
    ck_assert(!b->open);
    ck_assert_uint_eq(chardev_get_modem(b), 0);
    put(b, "nobody there");
    loop_idle();
    end(a, fa);
    end(b, fb);
}
END_TEST

START_TEST(a_link_loses_nothing_when_the_other_side_is_slow)
{
    Chardev *a = make_type(TYPE_CHARDEV_LINK), *b = make_type(TYPE_CHARDEV_LINK);
    size_t sent;
    Front *fb;

    ck_assert(chardev_link(a, b, NULL));
    fb = front_new(b);
    fb->room = 0;
    sent = congest(a);
    while (fb->got->len < sent) {
        fb->room = 100;
        chardev_accept_input(b);
        loop_idle();
    }
    ck_assert_uint_eq(fb->got->len, sent);
    ck_assert_uint_eq(a->bytes_dropped + b->bytes_dropped, 0);
    ck_assert(!chardev_congested(a));
    end(b, fb);
    end(a, NULL);
}
END_TEST

START_TEST(only_two_different_free_link_ends_can_be_linked)
{
    Chardev *a = make_type(TYPE_CHARDEV_LINK), *b = make_type(TYPE_CHARDEV_LINK);
    Chardev *c = make_type(TYPE_CHARDEV_LINK), *n = make("null");

    ck_assert(!chardev_link(a, a, NULL));
    ck_assert(!chardev_link(a, n, NULL));
    ck_assert(chardev_link(a, b, NULL));
    ck_assert(!chardev_link(b, c, NULL));
    end(a, NULL);
    ck_assert(chardev_link(c, b, NULL)); /* b is free again */
    ck_assert(b->open);
    end(b, NULL);
    end(c, NULL);
    end(n, NULL);
}
END_TEST

/* Random steps of both sides, closing among them; the front end checks what it is given. */
START_TEST(closing_at_any_moment_is_safe)
{
    GRand *rand = g_rand_new_with_seed(7);
    char buf[5000] = { 0 };

    for (unsigned round = 0; round < 60; round++) {
        bool linked = round % 2;
        Chardev *chr = make_type(linked ? TYPE_CHARDEV_LINK : TYPE_CHARDEV_SOCKET), *peer = NULL;
        Front *f;
        int sv[2] = { -1, -1 };

        if (linked) {
            peer = make_type(TYPE_CHARDEV_LINK);
            ck_assert(chardev_link(chr, peer, NULL));
        } else {
            ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv),
                             0);
            ck_assert(object_property_set_int(OBJECT(chr), "fd", sv[0], NULL));
            ck_assert(chardev_open(chr, NULL));
        }
        f = front_new(chr);
        for (unsigned step = 0; step < 60; step++) {
            size_t n = g_rand_int(rand) % sizeof(buf);

            switch (g_rand_int(rand) % 12) {
            case 0:
            case 1:
                chardev_write(chr, (uint8_t *)buf, n);
                break;
            case 2:
            case 3:
                if (peer) {
                    chardev_write(peer, (uint8_t *)buf, n);
                } else if (sv[1] >= 0) {
                    n = (size_t)write(sv[1], buf, n); /* may be refused: what comes, comes */
                }
                break;
            case 4:
                while (sv[1] >= 0 && read(sv[1], buf, sizeof(buf)) > 0) {
                }
                break;
            case 5:
                f->room = g_rand_int(rand) % 3000;
                chardev_accept_input(chr);
                break;
            case 6:
                chardev_send_break(g_rand_boolean(rand) || !peer ? chr : peer, true);
                chardev_set_modem(chr, g_rand_int(rand));
                break;
            case 7:
                if (g_rand_int(rand) % 8 == 0) {
                    chardev_close(g_rand_boolean(rand) || !peer ? chr : peer);
                }
                break;
            case 8:
                if (g_rand_int(rand) % 8 == 0 && sv[1] >= 0) {
                    close(sv[1]);
                    sv[1] = -1;
                }
                break;
            case 9:
                chardev_detach(chr);
                chardev_receive(chr, (uint8_t *)buf, n);
                ck_assert(chardev_attach(chr, &front_handlers, f, NULL));
                break;
            default:
                main_loop_iterate(false);
                break;
            }
            memset(buf, 0, sizeof(buf));
        }
        if (sv[1] >= 0) {
            close(sv[1]);
        }
        if (peer) {
            end(peer, NULL);
        }
        end(chr, f);
        loop_idle();
    }
    g_rand_free(rand);
}
END_TEST

/* ---- text matcher -------------------------------------------------------------------------- */

typedef struct Matches {
    unsigned n;
    uint64_t last;
    TextMatch *free_me;
} Matches;

static void matched(void *opaque, uint64_t at)
{
    Matches *m = opaque;

    m->n++;
    m->last = at;
    if (m->free_me) {
        text_match_free(m->free_me);
        m->free_me = NULL;
    }
}

START_TEST(a_text_is_found_across_the_borders_of_writes)
{
    Chardev *chr = make("null");
    Matches m = { 0 }, in = { 0 };
    TextMatch *t = text_match_new(chr, "login:", true, matched, &m);
    TextMatch *to_guest = text_match_new(chr, "login:", false, matched, &in);

    put(chr, "lolog");
    put(chr, "i");
    put(chr, "n: loginlogin:");
    ck_assert_uint_eq(m.n, 2);
    ck_assert_uint_eq(m.last, 20);
    ck_assert_uint_eq(in.n, 0);
    take(chr, "login:");
    ck_assert_uint_eq(in.n, 1);
    ck_assert_uint_eq(m.n, 2);
    ck_assert_uint_eq(text_match_hits(t), 2);
    text_match_free(t);
    text_match_free(to_guest);
    ck_assert_ptr_null(text_match_new(chr, "", true, matched, &m));
    end(chr, NULL);
}
END_TEST

START_TEST(a_matcher_agrees_with_a_search_of_the_whole)
{
    Chardev *chr = make("null");
    GString *all = g_string_new(NULL);
    uint32_t seed = 1;

    for (unsigned round = 0; round < 200; round++) {
        char needle[8] = { 0 };
        unsigned len, expected = 0;
        Matches m = { 0 };
        TextMatch *t;

        len = 1 + round % 6;
        for (unsigned i = 0; i < len; i++) {
            seed = seed * 1664525 + 1013904223;
            needle[i] = (char)('a' + (seed >> 24) % 2);
        }
        t = text_match_new(chr, needle, true, matched, &m);
        g_string_truncate(all, 0);
        for (unsigned i = 0; i < 100; i++) {
            char piece[4] = { 0 };

            seed = seed * 1664525 + 1013904223;
            for (unsigned k = 0; k < (seed >> 28) % 4; k++) {
                piece[k] = (char)('a' + (seed >> (10 + k)) % 2);
            }
            put(chr, piece);
            g_string_append(all, piece);
        }
        for (const char *at = all->str; (at = strstr(at, needle)); at += len) {
            expected++;
        }
        ck_assert_uint_eq(m.n, expected);
        text_match_free(t);
    }
    g_string_free(all, TRUE);
    end(chr, NULL);
}
END_TEST

START_TEST(looking_back_finds_what_came_before_and_what_begins_there)
{
    Chardev *chr = make("null");
    Matches m = { 0 };
    TextMatch *t;
    uint64_t mark;

    put(chr, "login: ");
    mark = chr->bytes_out;
    put(chr, "pass");
    t = text_match_new(chr, "login:", true, matched, &m);
    ck_assert_uint_eq(text_match_look_back(t, mark), 0);
    ck_assert_uint_eq(text_match_look_back(t, 0), 1);
    ck_assert_uint_eq(m.last, 6);
    text_match_free(t);

    t = text_match_new(chr, "password", true, matched, &m);
    ck_assert_uint_eq(text_match_look_back(t, mark), 0);
    put(chr, "word");
    ck_assert_uint_eq(m.n, 2);
    ck_assert_uint_eq(m.last, chr->bytes_out);
    text_match_free(t);
    end(chr, NULL);
}
END_TEST

typedef struct Nested {
    Chardev *chr;
    TextMatch *inner;
    Matches matches;
} Nested;

static void match_more(void *opaque, uint64_t at)
{
    Nested *n = opaque;

    if (!n->inner) {
        n->inner = text_match_new(n->chr, "a", true, matched, &n->matches);
    }
}

START_TEST(a_matcher_made_by_a_match_counts_bytes_from_there)
{
    Nested n = { .chr = make("null") };
    TextMatch *outer = text_match_new(n.chr, "b", true, match_more, &n);

    put(n.chr, "abab");
    ck_assert_uint_eq(n.matches.n, 0);
    put(n.chr, "xa");
    ck_assert_uint_eq(n.matches.n, 1);
    ck_assert_uint_eq(n.matches.last, 6);
    text_match_free(n.inner);
    text_match_free(outer);
    end(n.chr, NULL);
}
END_TEST

START_TEST(a_matcher_may_be_freed_by_its_own_match)
{
    Chardev *chr = make("null");
    Matches m = { 0 };

    m.free_me = text_match_new(chr, "x", true, matched, &m);
    put(chr, "xxx");
    ck_assert_uint_eq(m.n, 1);
    m.free_me = text_match_new(chr, "x", true, matched, &m);
    text_match_look_back(m.free_me, 0);
    ck_assert_uint_eq(m.n, 2);
    put(chr, "x");
    ck_assert_uint_eq(m.n, 2);
    end(chr, NULL);
}
END_TEST

int main(void)
{
    const CharTest tests[] = {
        ring_keeps_the_last_bytes,
        a_front_end_gets_what_it_takes_and_the_rest_waits,
        the_input_queue_is_bounded_and_counts_what_it_drops,
        a_second_front_end_is_refused_by_name,
        taps_see_both_ways_and_may_remove_themselves,
        a_tap_that_is_added_by_a_tap_begins_with_the_next_bytes,
        history_is_the_tail_of_what_the_guest_wrote,
        writing_after_close_is_dropped_and_counted,
        properties_are_frozen_while_open,
        unparenting_closes,
        a_break_keeps_its_place_among_the_bytes,
        the_log_file_gets_what_the_guest_writes,
        a_script_gets_the_bytes_and_answers,
        what_a_script_took_before_it_closed_was_not_dropped,
        mistakes_in_the_text_form_are_named,
        both_spellings_set_the_same_properties,
        the_back_ends_can_be_listed,
        a_link_carries_bytes_modem_lines_and_breaks,
        a_link_loses_nothing_when_the_other_side_is_slow,
        only_two_different_free_link_ends_can_be_linked,
        closing_at_any_moment_is_safe,
        a_text_is_found_across_the_borders_of_writes,
        a_matcher_agrees_with_a_search_of_the_whole,
        looking_back_finds_what_came_before_and_what_begins_there,
        a_matcher_made_by_a_match_counts_bytes_from_there,
        a_matcher_may_be_freed_by_its_own_match,
    };

    return chardev_run("chardev", tests, G_N_ELEMENTS(tests), NULL);
}

/*
 * The characters on a console: fetched from the device when somebody asks, as UTF-8, and watched
 * for texts that come to stand there.
 */
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/display/console_priv.h"

#define WATCH_INTERVAL (10 * NS_PER_MS)
/* No text mode has more; what a guest programs beyond is cut. */
#define MAX_COLUMNS 256
#define MAX_ROWS    512

struct ConsoleWatch {
    Console *con; /* NULL once detached */
    char *text;
    ConsoleTextFn fn, gone;
    void *opaque;
    bool standing; /* it stood there at the last look */
    bool freed;
    uint64_t looked; /* generation at the last look; UINT64_MAX: never */
};

/* ---- cells --------------------------------------------------------------------------------- */

void console_text_resize(ConsoleText *text, unsigned columns, unsigned rows)
{
    text->columns = MIN(columns, MAX_COLUMNS);
    text->rows = MIN(rows, MAX_ROWS);
    if (text->columns * text->rows > text->capacity) {
        text->capacity = text->columns * text->rows;
        text->cells = g_realloc_n(text->cells, text->capacity, sizeof(ConsoleCell));
        memset(text->cells, 0, text->capacity * sizeof(ConsoleCell));
    }
}

static bool same_text(const ConsoleText *a, const ConsoleText *b)
{
    return a->columns == b->columns && a->rows == b->rows &&
           a->cursor_visible == b->cursor_visible && a->cursor_column == b->cursor_column &&
           a->cursor_row == b->cursor_row &&
           !memcmp(a->cells, b->cells, (size_t)a->columns * a->rows * sizeof(ConsoleCell));
}

G_STATIC_ASSERT(sizeof(ConsoleCell) == 6); /* no padding: compared as bytes */

const ConsoleText *console_text(Console *con)
{
    bool has;

    ENGINE_LOCK_ASSERT();
    if (!con->ops) {
        return con->has_text ? &con->text : NULL;
    }
    has = con->ops->text && con->ops->text(con->opaque, &con->scratch) && con->scratch.columns &&
          con->scratch.rows;
    if (has != con->has_text || (has && !same_text(&con->text, &con->scratch))) {
        ConsoleText last = con->text;

        con->text = con->scratch;
        con->scratch = last;
        con->has_text = has;
        con->text_generation++;
    }
    return has ? &con->text : NULL;
}

gunichar console_cell_unicode(const Console *con, const ConsoleCell *cell)
{
    /* Guests with a font of 512 put the characters of the code page into the first half. */
    return cell->code < 256 ? con->unicode[cell->code] : 0xfffd;
}

static void put_row(const Console *con, const ConsoleCell *cells, unsigned columns, GString *out)
{
    size_t end = out->len; /* after the last one that is no blank */

    for (unsigned i = 0; i < columns; i++) {
        gunichar c = console_cell_unicode(con, &cells[i]);

        g_string_append_unichar(out, c);
        if (c != ' ' && c != 0xa0) {
            end = out->len;
        }
    }
    g_string_truncate(out, end);
    g_string_append_c(out, '\n');
}

const char *console_text_utf8(Console *con)
{
    const ConsoleText *text = console_text(con);

    if (!text) {
        return NULL;
    }
    if (con->utf8_generation != con->text_generation) {
        g_string_truncate(con->utf8, 0);
        for (unsigned row = 0; row < text->rows; row++) {
            put_row(con, text->cells + (size_t)row * text->columns, text->columns, con->utf8);
        }
        con->utf8_generation = con->text_generation;
    }
    return con->utf8->str;
}

bool console_shows_text(Console *con, const char *text)
{
    const char *screen = console_text_utf8(con);

    return screen && strstr(screen, text);
}

/* ---- watches ------------------------------------------------------------------------------- */

static void watch_release(ConsoleWatch *w)
{
    g_free(w->text);
    g_free(w);
}

static void sweep_watches(Console *con)
{
    GSList *next;

    for (GSList *l = con->watches; l && !con->checking; l = next) {
        ConsoleWatch *w = l->data;

        next = l->next;
        if (w->freed) {
            con->watches = g_slist_delete_link(con->watches, l);
            watch_release(w);
        }
    }
}

static void watch_look(ConsoleWatch *w)
{
    Console *con = w->con;
    bool stands;

    console_text(con);
    if (w->looked == con->text_generation) {
        return;
    }
    stands = console_shows_text(con, w->text);
    w->looked = con->text_generation;
    if (stands == w->standing) {
        return;
    }
    w->standing = stands;
    if (stands) {
        w->fn(w->opaque);
    }
}

void console_watches_check(Console *con)
{
    if (con->checking) {
        return;
    }
    object_ref(con);
    con->checking = true;
    for (GSList *l = con->watches; l; l = l->next) {
        ConsoleWatch *w = l->data;

        if (!w->freed) {
            watch_look(w);
        }
        if (!con->ops) {
            break; /* detached meanwhile: the list is gone */
        }
    }
    con->checking = false;
    sweep_watches(con);
    object_unref(con);
}

void console_watches_arm(Console *con)
{
    if (con->ops && con->watches) {
        timer_arm(&con->watch_timer, clock_now(con->clock) + WATCH_INTERVAL);
    } else {
        timer_disarm(&con->watch_timer);
    }
}

void console_watch_due(void *opaque)
{
    Console *con = opaque;

    object_ref(con);
    console_watches_check(con);
    console_watches_arm(con);
    object_unref(con);
}

static void look_soon(void *opaque)
{
    Console *con = opaque;

    if (con->ops) {
        console_watches_check(con);
    }
    object_unref(con);
}

void console_watches_soon(Console *con)
{
    bh_once(look_soon, object_ref(con));
}

ConsoleWatch *console_watch_text(Console *con, const char *text, bool already, ConsoleTextFn fn,
                                 ConsoleTextFn gone, void *opaque)
{
    ConsoleWatch *w = g_new0(ConsoleWatch, 1);
    bool first = !con->watches;

    ENGINE_LOCK_ASSERT();
    w->con = con->ops ? con : NULL;
    w->text = g_strdup(text);
    w->fn = fn;
    w->gone = gone;
    w->opaque = opaque;
    w->looked = UINT64_MAX;
    if (!w->con) {
        return w; /* nothing will ever come */
    }
    if (already) {
        console_watches_soon(con); /* also while the machine stands */
    } else {
        w->standing = console_shows_text(con, text);
        w->looked = con->text_generation;
    }
    con->watches = g_slist_append(con->watches, w);
    if (first) {
        console_watches_arm(con);
    }
    return w;
}

void console_watch_free(ConsoleWatch *w)
{
    Console *con;

    if (!w) {
        return;
    }
    con = w->con;
    if (!con) {
        watch_release(w);
        return;
    }
    w->freed = true;
    sweep_watches(con);
    if (!con->checking) {
        if (!con->watches) {
            timer_disarm(&con->watch_timer);
        }
    }
}

void console_watches_gone(Console *con)
{
    GSList *list = con->watches;

    con->watches = NULL;
    for (GSList *l = list; l; l = l->next) {
        ConsoleWatch *w = l->data;

        w->con = NULL;
        if (w->freed) {
            watch_release(w);
        } else if (w->gone) {
            w->gone(w->opaque); /* frees it, or does later */
        }
    }
    g_slist_free(list);
}

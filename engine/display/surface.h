/*
 * Consoles: what a display device shows, as pixels and, in text modes, as cells of characters.
 *
 * A display device makes a Console below itself and draws into its surface when somebody looks.
 * Nothing is drawn, and no timer runs, while nobody does: console_refresh brings the surface up to
 * date for a screenshot, a listener (a VNC server, a window) has it done at its interval.
 *
 * All functions: engine lock. Pixels are 0x00RRGGBB; bits 31-24 mean nothing.
 */
#pragma once

#include <glib.h>
#include <pixman.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/core/clock.h"
#include "engine/qom/object.h"

#define TYPE_CONSOLE "console"

/* A device offers nothing larger, whatever its guest asks for: 16 million pixels, one side. */
#define CONSOLE_MAX_PIXELS (4096u * 4096u)
#define CONSOLE_MAX_SIDE   16384u

typedef struct Console Console;
typedef struct ConsoleListener ConsoleListener;
typedef struct ConsoleWatch ConsoleWatch;

enum { CELL_BLINK = 1 << 0, CELL_UNDERLINE = 1 << 1 };

/* A character as the device knows it. `code` is its number in the font: below 256 it is looked up
 * in the console's code page, from 256 on it is in the second half of a font of 512. */
typedef struct ConsoleCell {
    uint16_t code;
    uint8_t fg, bg; /* 0-15 */
    uint8_t flags;  /* CELL_* */
} ConsoleCell;

typedef struct ConsoleText {
    unsigned columns, rows; /* 0: none */
    ConsoleCell *cells;     /* rows * columns; console_text_resize makes it */
    bool cursor_visible;    /* the device shows a cursor somewhere on this screen: */
    unsigned cursor_column, cursor_row;
    unsigned capacity; /* private */
} ConsoleText;

typedef struct ConsoleOps {
    /* Draws what has changed since the last call, all of it when `full`: console_resize,
     * console_pixels, console_damage. */
    void (*refresh)(void *opaque, bool full);
    /* Fills in the characters that it shows; false when it shows none (a graphics mode). `text`
     * holds the last ones. NULL: never any. */
    bool (*text)(void *opaque, ConsoleText *text);
    /* Somebody begins or ceases to follow the picture: from now on it is asked often, so that
     * logging writes pays, and things may blink. A picture that nobody follows does not blink: the
     * same state gives the same picture. NULL: nothing to do. */
    void (*follow)(void *opaque, bool on);
} ConsoleOps;

struct ConsoleListener {
    /* The surface was made anew: other size, other memory. Called before the `updated` of the same
     * refresh, and once when the listener is added. */
    void (*resized)(ConsoleListener *l, Console *con);
    /* These pixels may differ from what they were. */
    void (*updated)(ConsoleListener *l, Console *con, const pixman_region32_t *damage);
    /* The device or the machine goes away; the listener is removed already. May be NULL. */
    void (*gone)(ConsoleListener *l, Console *con);
    int64_t interval_ns; /* how often it wants to be told, of real time; 0: only when others ask */
    bool removed;        /* private */
};

struct Console {
    Object parent;
    pixman_image_t *surface; /* PIXMAN_x8r8g8b8, never NULL; 640 x 480 of black at first */
    unsigned width, height;
    uint64_t generation;      /* rises with every refresh that changed a pixel, and every resize */
    uint64_t text_generation; /* rises when console_text finds other cells, or another cursor */
    char *codepage;           /* property */
    uint16_t unicode[256];    /* of the code page */
    /* private */
    const ConsoleOps *ops;
    void *opaque;
    Clock *clock;
    pixman_region32_t damage;
    GPtrArray *listeners;
    bool resized, refreshing, stale;
    unsigned followers;
    Timer refresh_timer, watch_timer;
    ConsoleText text, scratch;
    bool has_text;
    GString *utf8; /* of `text`, at utf8_generation */
    uint64_t utf8_generation;
    GSList *watches;
    bool checking;
};
OBJECT_DECLARE_SIMPLE_TYPE(Console, CONSOLE, TYPE_CONSOLE)

/* ---- for devices ------------------------------------------------------------------------- */

/* Makes one below `owner` as `name`, in realize; again after console_detach it is the same one.
 * `clock` is the machine's: texts are watched by it. Borrowed: the tree has it. */
Console *console_attach(Object *owner, const char *name, const ConsoleOps *ops, void *opaque,
                        Clock *clock, GError **error);
/* The device is gone (unrealize): the picture stays as it is, listeners and watches are told.
 * NULL is fine. */
void console_detach(Console *con);
/* Another size: the surface is made anew, black. Within the limits above, at least 1 x 1: false
 * otherwise and when there is no memory, and the old one stays. Nothing when it has the size. */
bool console_resize(Console *con, unsigned width, unsigned height);
static inline uint32_t *console_pixels(const Console *con, unsigned y)
{
    return pixman_image_get_data(con->surface) +
           (size_t)y * ((unsigned)pixman_image_get_stride(con->surface) / sizeof(uint32_t));
}
/* Clipped to the surface. */
void console_damage(Console *con, unsigned x, unsigned y, unsigned width, unsigned height);
/* The next refresh draws everything: state was restored, a palette is new. Any time. */
void console_invalidate(Console *con);
/* Texts are looked for now: the machine's clock stops. NULL is fine. */
void console_kick(Console *con);
/* State was loaded: everything is drawn again, timers are armed anew, as the clock may have jumped,
 * and texts are looked for soon, when memory has come back too. */
void console_state_loaded(Console *con);
/* Room for columns * rows cells; those there were are in no order. */
void console_text_resize(ConsoleText *text, unsigned columns, unsigned rows);

/* ---- for those who look ------------------------------------------------------------------ */

/* Brings the surface up to date, and tells the listeners. */
void console_refresh(Console *con);
void console_add_listener(Console *con, ConsoleListener *l);
void console_remove_listener(Console *con, ConsoleListener *l); /* also from its own callbacks */

/* What is written on the screen now; NULL in graphics modes. Valid until the next call. */
const ConsoleText *console_text(Console *con);
gunichar console_cell_unicode(const Console *con, const ConsoleCell *cell);
/* The same as UTF-8: rows end in '\n' and have no blanks at their ends. */
const char *console_text_utf8(Console *con);

/* Calls fn when `text` (UTF-8; '\n' goes from one row to the next) comes to stand on the screen: it
 * was not there when looked before, and is now. With `already` what stands there at the beginning
 * counts: the first look comes soon, from the main loop. Looks every
 * 10 ms of the machine's time, which costs a comparison of the cells while they stay the same. fn
 * may free the watch; `gone` (may be NULL) is told when the console is detached, and the watch is
 * of no use from then on but to be freed. */
typedef void (*ConsoleTextFn)(void *opaque);
ConsoleWatch *console_watch_text(Console *con, const char *text, bool already, ConsoleTextFn fn,
                                 ConsoleTextFn gone, void *opaque);
void console_watch_free(ConsoleWatch *w); /* NULL is fine */
/* Looks now, once: whether the text stands on the screen. */
bool console_shows_text(Console *con, const char *text);

/* ---- code pages -------------------------------------------------------------------------- */

/* Which characters the 256 codes of a text mode's font stand for: "cp437" (what every VGA has in
 * its ROM), or any one-byte code page that iconv knows ("cp850", "iso8859-1"): its upper half. */
bool codepage_load(const char *name, uint16_t unicode[256], GError **error);

/* ---- pictures ---------------------------------------------------------------------------- */

bool png_write(const char *path, pixman_image_t *image, GError **error);
/* As PIXMAN_a8r8g8b8, alpha not premultiplied; larger than CONSOLE_MAX_PIXELS is refused. The
 * caller unrefs it. */
pixman_image_t *png_read(const char *path, GError **error);

typedef struct PictureDiff {
    uint64_t compared;  /* pixels that were looked at */
    uint64_t different; /* those beyond the tolerance */
    unsigned worst;     /* largest difference of a channel, of all that were looked at */
    unsigned x, y;      /* of the first different one, in the screen */
} PictureDiff;
/* Compares the box (x, y, size of `reference`) of an x8r8g8b8 image with an a8r8g8b8 one: pixels of
 * the reference with alpha 0 are not looked at, nor those where `mask` (same size; may be NULL) is
 * black or transparent. A pixel differs when one channel does by more than `tolerance`. The box has
 * to lie in the image. */
void picture_compare(pixman_image_t *image, unsigned x, unsigned y, pixman_image_t *reference,
                     pixman_image_t *mask, unsigned tolerance, PictureDiff *diff);
/* SHA-256 over size and pixels of a box, as hexadecimal digits; the caller frees. */
char *picture_hash(pixman_image_t *image, unsigned x, unsigned y, unsigned width, unsigned height);

/* A front end that notes everything, a folder of the test's own, short names for what tests of
 * character devices do all the time. */
#pragma once

#include <check.h>

#include "engine/chardev/chardev.h"
#include "engine/core/main-loop.h"

/* A hang ends by Check's timeout. */
#define LOOP_UNTIL(cond)         \
    while (!(cond)) {            \
        main_loop_iterate(true); \
    }

typedef struct Front {
    GByteArray *got;
    GString *events;
    size_t room; /* how many bytes it takes */
    unsigned writable;
} Front;

extern const ChardevHandlers front_handlers;

void chardev_setup(void);
void chardev_teardown(void);
char *in_folder(const char *name);
void loop_idle(void);
Front *front_new(Chardev *chr);
void front_free(Front *f);
bool front_has(const Front *f, const char *text);
Chardev *make(const char *format, ...) G_GNUC_PRINTF(1, 2);
Chardev *make_type(const char *type);
void refused(const char *text, const char *why);
void end(Chardev *chr, Front *f);
void put(Chardev *chr, const char *text);
void take(Chardev *chr, const char *text);
char *prop(Chardev *chr, const char *name);
char *read_all(int fd, size_t len);
void ck_reads(int fd, const char *text);
void send_text(int fd, const char *text);
size_t congest(Chardev *chr);

typedef const TTest *CharTest;
/* main() of a test program: each test with a main loop and a folder of its own; `more` may add test
 * cases without them. */
int chardev_run(const char *name, const CharTest *tests, unsigned n, void (*more)(Suite *suite));

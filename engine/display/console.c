/*
 * Consoles: the surface, damage, listeners, and the timer that exists only while one of them wants
 * pictures on its own.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/display/console_priv.h"

#define FIRST_WIDTH  640
#define FIRST_HEIGHT 480

/* ---- surface ------------------------------------------------------------------------------- */

static pixman_image_t *new_surface(unsigned width, unsigned height)
{
    return pixman_image_create_bits(PIXMAN_x8r8g8b8, (int)width, (int)height, NULL, 0);
}

bool console_resize(Console *con, unsigned width, unsigned height)
{
    pixman_image_t *surface;

    ENGINE_LOCK_ASSERT();
    if (width == con->width && height == con->height) {
        return true;
    }
    if (width < 1 || height < 1 || width > CONSOLE_MAX_SIDE || height > CONSOLE_MAX_SIDE ||
        (uint64_t)width * height > CONSOLE_MAX_PIXELS) {
        return false;
    }
    surface = new_surface(width, height);
    if (!surface) {
        return false;
    }
    pixman_image_unref(con->surface);
    con->surface = surface;
    con->width = width;
    con->height = height;
    con->resized = true;
    con->stale = true;
    console_damage(con, 0, 0, width, height);
    return true;
}

void console_damage(Console *con, unsigned x, unsigned y, unsigned width, unsigned height)
{
    if (x >= con->width || y >= con->height || !width || !height) {
        return;
    }
    pixman_region32_union_rect(&con->damage, &con->damage, (int)x, (int)y,
                               MIN(width, con->width - x), MIN(height, con->height - y));
}

void console_invalidate(Console *con)
{
    con->stale = true;
}

/* ---- listeners ----------------------------------------------------------------------------- */

/* A callback may add and remove listeners: entries become NULL, and leave when nobody is on the
 * way through. */
static void sweep_listeners(Console *con)
{
    for (unsigned i = con->listeners->len; !con->refreshing && i-- > 0;) {
        if (!con->listeners->pdata[i]) {
            g_ptr_array_remove_index(con->listeners, i);
        }
    }
}

static void arm_refresh(Console *con)
{
    int64_t interval = 0;

    for (unsigned i = 0; i < con->listeners->len; i++) {
        const ConsoleListener *l = con->listeners->pdata[i];

        if (l && l->interval_ns > 0 && (!interval || l->interval_ns < interval)) {
            interval = l->interval_ns;
        }
    }
    if (interval && con->ops) {
        timer_arm(&con->refresh_timer, clock_now(clock_realtime()) + interval);
    } else {
        timer_disarm(&con->refresh_timer);
    }
}

static void refresh_due(void *opaque)
{
    Console *con = opaque;

    object_ref(con);
    console_refresh(con);
    arm_refresh(con);
    object_unref(con);
}

void console_refresh(Console *con)
{
    pixman_region32_t damage;
    bool resized;

    ENGINE_LOCK_ASSERT();
    if (con->refreshing) {
        return; /* a listener asks from its callback: it is being told already */
    }
    object_ref(con);
    con->refreshing = true;
    if (con->ops) {
        bool full = con->stale;

        con->stale = false;
        con->ops->refresh(con->opaque, full);
        if (con->stale) { /* it has another size now: what was drawn before that is gone */
            con->stale = false;
            con->ops->refresh(con->opaque, true);
            con->stale = false;
        }
    }
    resized = con->resized;
    con->resized = false;
    damage = con->damage;
    pixman_region32_init(&con->damage);
    if (pixman_region32_not_empty(&damage)) {
        con->generation++;
        for (unsigned i = 0; i < con->listeners->len; i++) {
            ConsoleListener *l = con->listeners->pdata[i];

            if (l && resized) {
                l->resized(l, con);
            }
            l = con->listeners->pdata[i];
            if (l) {
                l->updated(l, con, &damage);
            }
        }
    }
    pixman_region32_fini(&damage);
    con->refreshing = false;
    sweep_listeners(con);
    object_unref(con);
}

static void follow(Console *con, bool on)
{
    con->followers += on ? 1 : -1u;
    if (con->ops && con->ops->follow && con->followers == (on ? 1 : 0)) {
        con->ops->follow(con->opaque, on);
    }
}

void console_add_listener(Console *con, ConsoleListener *l)
{
    ENGINE_LOCK_ASSERT();
    g_ptr_array_add(con->listeners, l);
    if (l->interval_ns > 0) {
        follow(con, true);
    }
    arm_refresh(con);
    l->resized(l, con);
}

void console_remove_listener(Console *con, ConsoleListener *l)
{
    unsigned i;

    ENGINE_LOCK_ASSERT();
    if (!g_ptr_array_find(con->listeners, l, &i)) {
        return;
    }
    con->listeners->pdata[i] = NULL;
    if (l->interval_ns > 0) {
        follow(con, false);
    }
    sweep_listeners(con);
    arm_refresh(con);
}

/* ---- devices ------------------------------------------------------------------------------- */

Console *console_attach(Object *owner, const char *name, const ConsoleOps *ops, void *opaque,
                        Clock *clock, GError **error)
{
    Object *old = object_get_child(owner, name);
    Console *con;

    if (old) {
        con = CONSOLE(old);
        g_assert(!con->ops);
    } else {
        Object *obj = object_new(TYPE_CONSOLE, error);

        if (!obj) {
            return NULL;
        }
        con = CONSOLE(obj);
        if (!object_add_child(owner, name, obj, error)) {
            object_unref(obj);
            return NULL;
        }
        object_unref(obj); /* the tree has it */
    }
    con->ops = ops;
    con->opaque = opaque;
    con->clock = clock;
    con->stale = true;
    timer_setup(&con->watch_timer, clock, console_watch_due, con);
    console_watches_arm(con);
    if (con->followers && ops->follow) {
        ops->follow(opaque, true);
    }
    arm_refresh(con);
    return con;
}

void console_detach(Console *con)
{
    if (!con || !con->ops) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    object_ref(con);
    timer_disarm(&con->refresh_timer);
    timer_disarm(&con->watch_timer);
    if (con->followers && con->ops->follow) {
        con->ops->follow(con->opaque, false);
    }
    con->ops = NULL;
    con->opaque = NULL;
    con->clock = NULL;
    con->followers = 0;
    for (unsigned i = 0; i < con->listeners->len; i++) {
        ConsoleListener *l = con->listeners->pdata[i];

        con->listeners->pdata[i] = NULL;
        if (l && l->gone) {
            l->gone(l, con);
        }
    }
    sweep_listeners(con);
    console_watches_gone(con);
    object_unref(con);
}

void console_kick(Console *con)
{
    if (con && con->ops) {
        console_watches_check(con);
    }
}

void console_state_loaded(Console *con)
{
    con->stale = true;
    console_watches_arm(con);
    if (con->watches) {
        console_watches_soon(con);
    }
}

/* ---- type ---------------------------------------------------------------------------------- */

static bool set_codepage(Object *obj, const Property *prop, const PropValue *in, GError **error)
{
    Console *con = CONSOLE(obj);

    if (!codepage_load(in->string ? in->string : "cp437", con->unicode, error)) {
        return false;
    }
    object_property_store_field(obj, prop, in);
    con->utf8_generation = UINT64_MAX;
    return true;
}

static const Property console_properties[] = {
    { .name = "codepage",
      .doc = "what the 256 characters of the text modes' font are: cp437, cp850, iso8859-1 …",
      .kind = PROP_STRING,
      .offset = offsetof(Console, codepage),
      .set = set_codepage },
};

static void console_instance_init(Object *obj)
{
    Console *con = CONSOLE(obj);

    con->surface = new_surface(FIRST_WIDTH, FIRST_HEIGHT);
    con->width = FIRST_WIDTH;
    con->height = FIRST_HEIGHT;
    con->listeners = g_ptr_array_new();
    con->utf8 = g_string_new(NULL);
    con->utf8_generation = UINT64_MAX;
    pixman_region32_init(&con->damage);
    timer_setup(&con->refresh_timer, clock_realtime(), refresh_due, con);
    con->watch_timer.expire = -1;
    codepage_load("cp437", con->unicode, NULL);
}

static void console_unparent(Object *obj)
{
    console_detach(CONSOLE(obj));
}

static void console_finalize(Object *obj)
{
    Console *con = CONSOLE(obj);

    console_detach(con);
    console_watches_gone(con);
    timer_disarm(&con->refresh_timer);
    g_ptr_array_free(con->listeners, TRUE);
    pixman_region32_fini(&con->damage);
    pixman_image_unref(con->surface);
    g_string_free(con->utf8, TRUE);
    g_free(con->text.cells);
    g_free(con->scratch.cells);
}

static void console_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = console_unparent;
    object_class_add_properties(klass, console_properties, G_N_ELEMENTS(console_properties));
}

static const TypeInfo console_info = {
    .name = TYPE_CONSOLE,
    .parent = TYPE_OBJECT,
    .doc = "What a display device shows: pixels and, in text modes, characters",
    .instance_size = sizeof(Console),
    .instance_init = console_instance_init,
    .instance_finalize = console_finalize,
    .class_init = console_class_init,
};

static void register_types(void)
{
    type_register_static(&console_info);
}
type_init(register_types)

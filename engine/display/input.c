/* Key and pointer events from users to the devices of one machine. */
#include "engine/display/input.h"

#include <string.h>

#include "engine/core/error.h"

typedef struct Sink {
    const InputKeyboardOps *keyboard; /* one of the two */
    const InputPointerOps *pointer;
    void *opaque;
    unsigned leds;
} Sink;
typedef struct Watch {
    InputWatchFn fn; /* NULL: removed while the list was walked */
    void *opaque;
} Watch;
struct Input {
    Object parent;
    GArray *sinks; /* of Sink, in order of registration */
    GArray *watches;
    unsigned walking; /* the list of watches, so many times */
    unsigned buttons;
    bool down[INPUT_KEY_COUNT];
};
OBJECT_DECLARE_SIMPLE_TYPE(Input, INPUT, TYPE_INPUT)

/* ---- names --------------------------------------------------------------------------------- */

#define KEY_NAME_(e, name, evdev, set2, set3)  name,
#define KEY_EVDEV_(e, name, evdev, set2, set3) evdev,
static const char *const key_names[] = { INPUT_KEYS(KEY_NAME_) NULL };
static const uint8_t key_evdev[] = { INPUT_KEYS(KEY_EVDEV_) };

static const struct {
    const char *name;
    InputKey key;
} other_names[] = {
    { "alt_l", INPUT_KEY_ALT },
    { "altgr", INPUT_KEY_ALT_R },
    { "asterisk", INPUT_KEY_KP_MULTIPLY },
    { "caps", INPUT_KEY_CAPS_LOCK },
    { "compose", INPUT_KEY_MENU },
    { "control", INPUT_KEY_CTRL },
    { "ctrl_l", INPUT_KEY_CTRL },
    { "del", INPUT_KEY_DELETE },
    { "enter", INPUT_KEY_RET },
    { "escape", INPUT_KEY_ESC },
    { "grave", INPUT_KEY_GRAVE },
    { "ins", INPUT_KEY_INSERT },
    { "page_down", INPUT_KEY_PGDN },
    { "page_up", INPUT_KEY_PGUP },
    { "period", INPUT_KEY_DOT },
    { "return", INPUT_KEY_RET },
    { "shift_l", INPUT_KEY_SHIFT },
    { "space", INPUT_KEY_SPC },
    { "super", INPUT_KEY_META_L },
    { "sysrq", INPUT_KEY_PRINT },
    { "win", INPUT_KEY_META_L },
};

InputKey input_key_from_name(const char *name, GError **error)
{
    const char *near;

    for (unsigned i = 0; i < INPUT_KEY_COUNT; i++) {
        if (!strcmp(name, key_names[i])) {
            return i;
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(other_names); i++) {
        if (!strcmp(name, other_names[i].name)) {
            return other_names[i].key;
        }
    }
    near = nearest_word(name, key_names);
    error_set(error, ENGINE_ERROR_INVALID,
              near ? "unknown key '%s' (did you mean '%s'?)" : "unknown key '%s'", name, near);
    return INPUT_KEY_COUNT;
}

const char *input_key_name(InputKey key)
{
    return key < INPUT_KEY_COUNT ? key_names[key] : NULL;
}

InputKey input_key_from_evdev(unsigned code)
{
    for (unsigned i = 0; i < INPUT_KEY_COUNT; i++) {
        if (key_evdev[i] == code) {
            return i;
        }
    }
    return INPUT_KEY_COUNT;
}

/* ---- devices ------------------------------------------------------------------------------- */

static Sink *find_sink(const Input *in, bool keyboard)
{
    for (unsigned i = in->sinks->len; i-- > 0;) {
        Sink *s = &g_array_index(in->sinks, Sink, i);

        if (keyboard ? s->keyboard != NULL : s->pointer != NULL) {
            return s;
        }
    }
    return NULL;
}

Input *input_of(Object *machine)
{
    Object *in = object_get_child(machine, "input");

    if (!in) {
        in = object_new(TYPE_INPUT, NULL);
        object_add_child(machine, "input", in, NULL);
        object_unref(in); /* the tree has it */
    }
    return INPUT(in);
}

void input_add_keyboard(Input *in, const InputKeyboardOps *ops, void *opaque)
{
    Sink sink = { .keyboard = ops, .opaque = opaque };

    g_array_append_val(in->sinks, sink);
    input_changed(in);
}

void input_add_pointer(Input *in, const InputPointerOps *ops, void *opaque)
{
    Sink sink = { .pointer = ops, .opaque = opaque };

    g_array_append_val(in->sinks, sink);
    input_changed(in);
}

void input_remove(Input *in, void *opaque)
{
    for (unsigned i = in->sinks->len; i-- > 0;) {
        if (g_array_index(in->sinks, Sink, i).opaque == opaque) {
            g_array_remove_index(in->sinks, i);
        }
    }
    input_changed(in);
}

void input_changed(Input *in)
{
    in->walking++;
    for (unsigned i = 0; i < in->watches->len; i++) {
        Watch w = g_array_index(in->watches, Watch, i);

        if (w.fn) {
            w.fn(w.opaque);
        }
    }
    if (--in->walking == 0) {
        for (unsigned i = in->watches->len; i-- > 0;) {
            if (!g_array_index(in->watches, Watch, i).fn) {
                g_array_remove_index(in->watches, i);
            }
        }
    }
}

void input_set_leds(Input *in, void *keyboard, unsigned leds)
{
    for (unsigned i = 0; i < in->sinks->len; i++) {
        Sink *s = &g_array_index(in->sinks, Sink, i);

        if (s->keyboard && s->opaque == keyboard && s->leds != leds) {
            s->leds = leds;
            input_changed(in);
            return;
        }
    }
}

/* ---- users --------------------------------------------------------------------------------- */

bool input_key(Input *in, InputKey key, bool down)
{
    Sink *s = find_sink(in, true);

    if (key >= INPUT_KEY_COUNT || !s) {
        return false;
    }
    if (in->down[key] != down) {
        in->down[key] = down;
        s->keyboard->key(s->opaque, key, down);
    }
    return true;
}

bool input_key_is_down(const Input *in, InputKey key)
{
    return key < INPUT_KEY_COUNT && in->down[key];
}

void input_release_all(Input *in)
{
    for (unsigned i = 0; i < INPUT_KEY_COUNT; i++) {
        if (in->down[i] && !input_key(in, i, false)) {
            in->down[i] = false;
        }
    }
    input_buttons(in, 0);
}

bool input_motion(Input *in, int dx, int dy)
{
    Sink *s = find_sink(in, false);

    if (!s || !s->pointer->motion) {
        return false;
    }
    s->pointer->motion(s->opaque, dx, dy);
    return true;
}

bool input_position(Input *in, unsigned x, unsigned y)
{
    Sink *s = find_sink(in, false);

    if (!s || !s->pointer->position) {
        return false;
    }
    s->pointer->position(s->opaque, MIN(x, INPUT_ABS_MAX), MIN(y, INPUT_ABS_MAX));
    return true;
}

bool input_buttons(Input *in, unsigned mask)
{
    Sink *s = find_sink(in, false);

    mask &= INPUT_BUTTONS;
    if (!s) {
        in->buttons = 0;
        return false;
    }
    if (in->buttons != mask) {
        in->buttons = mask;
        s->pointer->buttons(s->opaque, mask);
    }
    return true;
}

bool input_wheel(Input *in, int steps)
{
    Sink *s = find_sink(in, false);

    if (s) {
        s->pointer->wheel(s->opaque, steps);
    }
    return s != NULL;
}

unsigned input_get_buttons(const Input *in)
{
    return in->buttons;
}

unsigned input_get_leds(const Input *in)
{
    Sink *s = find_sink(in, true);

    return s ? s->leds : 0;
}

bool input_has_keyboard(const Input *in)
{
    return find_sink(in, true) != NULL;
}

bool input_has_pointer(const Input *in)
{
    return find_sink(in, false) != NULL;
}

bool input_is_absolute(const Input *in)
{
    Sink *s = find_sink(in, false);

    return s && s->pointer->position;
}

bool input_keyboard_room(Input *in)
{
    Sink *s = find_sink(in, true);

    return !s || s->keyboard->room(s->opaque);
}

bool input_keyboard_idle(Input *in)
{
    Sink *s = find_sink(in, true);

    return !s || s->keyboard->idle(s->opaque);
}

bool input_pointer_room(Input *in)
{
    Sink *s = find_sink(in, false);

    return !s || s->pointer->room(s->opaque);
}

bool input_pointer_idle(Input *in)
{
    Sink *s = find_sink(in, false);

    return !s || s->pointer->idle(s->opaque);
}

void input_add_watch(Input *in, InputWatchFn fn, void *opaque)
{
    Watch w = { fn, opaque };

    g_array_append_val(in->watches, w);
}

void input_remove_watch(Input *in, InputWatchFn fn, void *opaque)
{
    for (unsigned i = 0; i < in->watches->len; i++) {
        Watch *w = &g_array_index(in->watches, Watch, i);

        if (w->fn == fn && w->opaque == opaque) {
            if (in->walking) {
                w->fn = NULL;
            } else {
                g_array_remove_index(in->watches, i);
            }
            return;
        }
    }
}

/* ---- the object ---------------------------------------------------------------------------- */

static void input_init(Object *obj)
{
    INPUT(obj)->sinks = g_array_new(FALSE, TRUE, sizeof(Sink));
    INPUT(obj)->watches = g_array_new(FALSE, TRUE, sizeof(Watch));
}

static void input_finalize(Object *obj)
{
    g_array_free(INPUT(obj)->sinks, TRUE);
    g_array_free(INPUT(obj)->watches, TRUE);
}

static const TypeInfo input_info = {
    .name = TYPE_INPUT,
    .parent = TYPE_OBJECT,
    .doc = "Keys and pointers of a machine: where events from users go",
    .instance_size = sizeof(Input),
    .instance_init = input_init,
    .instance_finalize = input_finalize,
};

static void register_input(void)
{
    type_register_static(&input_info);
}
type_init(register_input)

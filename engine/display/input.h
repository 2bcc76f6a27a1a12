/*
 * Input: key and pointer events on their way from people and scripts (a VNC client, vm.keyboard) to
 * the devices of one machine.
 *
 * There is one object of TYPE_INPUT a machine, its child "input", made when somebody first asks for
 * it. Devices register what they take; of several of a kind the one that registered last is used (a
 * USB tablet in place of the PS/2 mouse). Nothing is queued here: a device has the queue of the
 * real one, and says whether there is room. Who types waits for room (scripts), or loses keys as at
 * a real keyboard (people).
 *
 * All functions: engine lock. No state is saved: what a key does is the device's.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/display/input-keys.h"
#include "engine/qom/object.h"

#define TYPE_INPUT "input"

typedef struct Input Input;

#define INPUT_KEY_ENUM_(e, name, evdev, set2, set3) INPUT_KEY_##e,
typedef enum { INPUT_KEYS(INPUT_KEY_ENUM_) INPUT_KEY_COUNT } InputKey;

/* "a", "ret", "kp_7"; also the other names that people use ("enter", "space", "ctrl_l").
 * INPUT_KEY_COUNT: there is no such key; `error` names the nearest. */
InputKey input_key_from_name(const char *name, GError **error);
const char *input_key_name(InputKey key);
/* From a number of Linux' input events; INPUT_KEY_COUNT: none. */
InputKey input_key_from_evdev(unsigned code);

enum { INPUT_LED_SCROLL = 1, INPUT_LED_NUM = 2, INPUT_LED_CAPS = 4 };
enum {
    INPUT_BUTTON_LEFT = 1,
    INPUT_BUTTON_RIGHT = 2,
    INPUT_BUTTON_MIDDLE = 4,
    INPUT_BUTTON_SIDE = 8,
    INPUT_BUTTON_EXTRA = 16,
    INPUT_BUTTONS = 31,
};
#define INPUT_ABS_MAX 0x7fff /* right and lower edge of the screen */

/* What a keyboard gives. */
typedef struct InputKeyboardOps {
    void (*key)(void *opaque, InputKey key, bool down); /* the queue is full: as the real one */
    bool (*room)(void *opaque);                         /* the next key fits, and would be sent */
    bool (*idle)(void *opaque);                         /* the guest has taken everything */
} InputKeyboardOps;
/* What a pointer gives. Either motion or position. */
typedef struct InputPointerOps {
    void (*motion)(void *opaque, int dx, int dy);           /* right and down are positive */
    void (*position)(void *opaque, unsigned x, unsigned y); /* 0 to INPUT_ABS_MAX */
    void (*buttons)(void *opaque, unsigned mask);
    void (*wheel)(void *opaque, int steps); /* towards the user is positive */
    bool (*room)(void *opaque); /* what comes next is not merged with what went before */
    bool (*idle)(void *opaque);
} InputPointerOps;

/* Of a machine (any object): made on first use; borrowed. A device that registers keeps a
 * reference: when a machine is closed its children go in any order. */
Input *input_of(Object *machine);

/* ---- devices ------------------------------------------------------------------------------- */

void input_add_keyboard(Input *in, const InputKeyboardOps *ops, void *opaque);
void input_add_pointer(Input *in, const InputPointerOps *ops, void *opaque);
void input_remove(Input *in, void *opaque); /* both; fine when it was never added */
/* The guest has taken something, or there is room where there was none. */
void input_changed(Input *in);
void input_set_leds(Input *in, void *keyboard, unsigned leds);

/* ---- users --------------------------------------------------------------------------------- */

/* A key that is down already, or up, does nothing: a device repeats held keys by itself. false:
 * there is no keyboard. */
bool input_key(Input *in, InputKey key, bool down);
bool input_key_is_down(const Input *in, InputKey key);
void input_release_all(Input *in);            /* keys and buttons: whoever held them went away */
bool input_motion(Input *in, int dx, int dy); /* false: no such pointer */
bool input_position(Input *in, unsigned x, unsigned y);
bool input_buttons(Input *in, unsigned mask);
bool input_wheel(Input *in, int steps);
unsigned input_get_buttons(const Input *in);
unsigned input_get_leds(const Input *in);
bool input_has_keyboard(const Input *in);
bool input_has_pointer(const Input *in);
bool input_is_absolute(const Input *in); /* its pointer takes positions */
/* The device has room, has nothing left; both true where there is no such device. */
bool input_keyboard_room(Input *in);
bool input_keyboard_idle(Input *in);
bool input_pointer_room(Input *in);
bool input_pointer_idle(Input *in);

/* Told of input_changed and of LEDs; may remove itself. On whatever thread the guest runs. */
typedef void (*InputWatchFn)(void *opaque);
void input_add_watch(Input *in, InputWatchFn fn, void *opaque);
void input_remove_watch(Input *in, InputWatchFn fn, void *opaque);

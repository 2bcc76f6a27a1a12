/*
 * The two kinds of devices at the end of a PS/2 wire: keyboard and mouse. What a controller does
 * with them: it gives them bytes, is told when they have some, and takes them one by one.
 *
 * Embedded in the controller, which is a device. Engine lock.
 */
#pragma once

#include "engine/core/clock.h"
#include "engine/display/input.h"
#include "engine/state/vmstate.h"

#define PS2_QUEUE   16 /* bytes of scan codes or packets, as IBM's keyboard holds */
#define PS2_REPLIES 8

/* Bytes on their way to the controller. Answers to commands overtake what was queued before. */
typedef struct Ps2Port {
    uint8_t reply[PS2_REPLIES], queue[PS2_QUEUE];
    uint32_t reply_count, queue_count;
    uint8_t last; /* what was sent last, for the command Resend */
    /* set by the embedder */
    void (*changed)(void *opaque); /* there are bytes where there were none */
    void *opaque;                  /* the controller */
} Ps2Port;

static inline bool ps2_port_empty(const Ps2Port *p)
{
    return p->reply_count == 0 && p->queue_count == 0;
}
/* The next byte was not asked for: the wire takes its time. */
static inline bool ps2_port_unasked(const Ps2Port *p)
{
    return p->reply_count == 0 && p->queue_count > 0;
}
uint8_t ps2_port_take(Ps2Port *p); /* 0 when empty */
void ps2_port_reply(Ps2Port *p, uint8_t byte);
void ps2_port_send(Ps2Port *p, const uint8_t *bytes, unsigned n); /* nothing when they do not fit */
void ps2_port_clear(Ps2Port *p);
unsigned ps2_port_room(const Ps2Port *p);
bool ps2_port_valid(const Ps2Port *p); /* after loading a state */
extern const VMStateDescription vmstate_ps2_port;

#define PS2_SET3_CODES 0x90

typedef struct Ps2Keyboard {
    Ps2Port port;
    Input *input; /* counted; NULL: not registered */
    Clock *clock;
    void (*pressed)(
        void *opaque); /* by the embedder, with the port's: a key goes down; may be NULL */
    uint8_t scan_set;  /* 1 to 3 */
    uint8_t command;   /* the one whose argument is awaited; 0: none */
    uint8_t leds, rate;
    bool scanning;
    uint8_t modifiers;                /* which of them are down, for Print and Pause */
    uint16_t repeat_key;              /* INPUT_KEY_COUNT: none */
    uint8_t set3_key[PS2_SET3_CODES]; /* set 3: what each key sends, PS2_KEY_* */
    Timer repeat;
} Ps2Keyboard;

void ps2_keyboard_realize(Ps2Keyboard *k, Input *input, Clock *clock);
void ps2_keyboard_unrealize(Ps2Keyboard *k);
void ps2_keyboard_reset(Ps2Keyboard *k); /* power-on, without the self test's byte */
void ps2_keyboard_write(Ps2Keyboard *k, uint8_t byte);
extern const VMStateDescription vmstate_ps2_keyboard;

typedef struct Ps2Mouse {
    Ps2Port port;
    Input *input;
    Clock *clock;
    uint8_t id;      /* 0 standard, 3 with a wheel, 4 with a wheel and five buttons */
    uint8_t command; /* as above */
    uint8_t rate, resolution;
    uint8_t knock[2]; /* the rates set before: the sequence that changes the id */
    bool remote, wrap, reporting, scaling;
    uint8_t buttons, reported;
    int32_t dx, dy, dz; /* not reported yet; dy: up is positive */
    Timer sample;
} Ps2Mouse;

void ps2_mouse_realize(Ps2Mouse *m, Input *input, Clock *clock);
void ps2_mouse_unrealize(Ps2Mouse *m);
void ps2_mouse_reset(Ps2Mouse *m);
void ps2_mouse_write(Ps2Mouse *m, uint8_t byte);
/* The controller took a byte: the next packet may have room. */
void ps2_mouse_taken(Ps2Mouse *m);
extern const VMStateDescription vmstate_ps2_mouse;

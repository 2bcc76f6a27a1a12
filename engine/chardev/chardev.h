/*
 * Character devices: the two ends of a byte stream. A back end (stdio, file, pipe, pty, socket,
 * ring, null, script) is a QOM object below "chardev"; a front end (a UART, a debug console)
 * attaches to one.
 *
 * All functions: engine lock. Callbacks run on the main thread, except write-side ones that run
 * where the device wrote.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/qom/object.h"

#define TYPE_CHARDEV "chardev"

typedef enum { CHARDEV_OPENED, CHARDEV_CLOSED, CHARDEV_BREAK } ChardevEvent;

/* What a front end gives: how much it can take now, the bytes, and events. */
typedef struct ChardevHandlers {
    size_t (*can_read)(void *opaque);
    void (*read)(void *opaque, const uint8_t *buf, size_t len); /* len <= what can_read said */
    void (*event)(void *opaque, ChardevEvent event);
} ChardevHandlers;

typedef struct ChardevSerialParams {
    uint32_t baud;
    uint8_t data_bits, stop_bits;
    char parity; /* 'N' 'O' 'E' */
} ChardevSerialParams;
enum {
    CHARDEV_TIOCM_CTS = 1,
    CHARDEV_TIOCM_DSR = 2,
    CHARDEV_TIOCM_RI = 4,
    CHARDEV_TIOCM_DCD = 8,
    CHARDEV_TIOCM_DTR = 16,
    CHARDEV_TIOCM_RTS = 32
};

/* A tap sees every byte that passes (text sources, logs): to the guest or from it. It may not write
 * to the same chardev. */
typedef void (*ChardevTap)(void *opaque, const uint8_t *buf, size_t len, bool from_guest);

typedef struct Chardev {
    Object parent;
    const ChardevHandlers *fe;
    void *fe_opaque;
    bool open;       /* someone is at the other end */
    GByteArray *out; /* bytes the front end wrote and the outside has not taken yet; bounded */
    GByteArray *in;  /* bytes from outside that the front end could not take yet; bounded */
    GSList *taps;
    char *logfile; /* property: copies what the guest writes */
    int log_fd;
    uint64_t bytes_out, bytes_in, bytes_dropped;
} Chardev;
typedef struct ChardevClass {
    ObjectClass parent_class;
    bool (*open)(Chardev *chr, GError **error); /* from its properties */
    void (*close)(Chardev *chr); /* restores what it changed (tty modes); called once */
    /* Takes up to len bytes now, never blocks; 0: would block (call chardev_can_write_again later);
     * -1 + errno: the other end is gone. */
    ssize_t (*write)(Chardev *chr, const uint8_t *buf, size_t len);
    void (*update_read)(
        Chardev *chr); /* the front end's can_read changed: start or stop reading outside */
    void (*set_params)(Chardev *chr, const ChardevSerialParams *p);
    void (*set_modem)(Chardev *chr, unsigned tiocm); /* DTR, RTS as the guest drives them */
    unsigned (*get_modem)(Chardev *chr);             /* CTS DSR RI DCD */
    void (*send_break)(Chardev *chr, bool on);
} ChardevClass;
OBJECT_DECLARE_TYPE(Chardev, ChardevClass, CHARDEV, TYPE_CHARDEV)

/* "stdio", "file:PATH", "pipe:PATH", "pty", "unix:PATH[,server][,wait=off]",
 * "tcp:HOST:PORT[,server]…", "telnet:"-less; "ring[:SIZE]", "null", as `-serial` spells them, and
 * key=value lists as `-chardev` does ("socket,id=c0,host=…,port=…,server=on,wait=off"). Opened; one
 * reference. */
Chardev *chardev_new_from_text(const char *text, GError **error);
bool chardev_open(Chardev *chr, GError **error);
void chardev_close(Chardev *chr);

/* Front end. Attaching a second one is refused by name. Detach with handlers NULL. */
bool chardev_attach(Chardev *chr, const ChardevHandlers *handlers, void *opaque, GError **error);
void chardev_detach(Chardev *chr);
/* All of it is taken: written, or queued up to a bound (1 MiB) beyond which bytes are dropped and
 * counted, as a real UART with nobody listening would. NULL chr: dropped. */
void chardev_write(Chardev *chr, const uint8_t *buf, size_t len);
bool chardev_flushed(
    const Chardev *chr); /* nothing queued: a UART may say its transmitter is empty */
void chardev_accept_input(Chardev *chr); /* can_read has risen */

/* Back end side. */
void chardev_receive(Chardev *chr, const uint8_t *buf,
                     size_t len);          /* from outside to the front end, queued if it cannot */
size_t chardev_receive_room(Chardev *chr); /* how much the front end and the queue take */
void chardev_can_write_again(Chardev *chr);
void chardev_event(Chardev *chr, ChardevEvent event);

void chardev_add_tap(Chardev *chr, ChardevTap fn, void *opaque);
void chardev_remove_tap(Chardev *chr, ChardevTap fn, void *opaque);

/* Ring back end: what the guest has written lately. */
#define TYPE_CHARDEV_RING "chardev-ring"
size_t chardev_ring_read(Chardev *chr, uint8_t *buf, size_t len); /* takes out the oldest bytes */
size_t chardev_ring_count(Chardev *chr);
/* Two chardevs back to back: what one front end writes the other reads (a null-modem cable, DTR/RTS
 * crossed). Closing one closes the link. */
bool chardev_link(Chardev *a, Chardev *b, GError **error);
#define TYPE_CHARDEV_LINK "chardev-link"
/* Script back end: bytes from the guest go to fn; the script answers with chardev_receive. */
#define TYPE_CHARDEV_SCRIPT "chardev-script"
void chardev_script_set(Chardev *chr, void (*fn)(void *opaque, const uint8_t *buf, size_t len),
                        void *opaque);

/*
 * Character devices: the two ends of a byte stream. A back end (stdio, file, pipe, pty, socket,
 * ring, null, script) is a QOM object below "chardev"; a front end (a UART, a debug console)
 * attaches to one.
 *
 * All functions: engine lock. Callbacks run on the main thread, except write-side ones (taps of
 * what the guest writes, a script's function) that run where the device wrote.
 *
 * Nothing here blocks, except opening a socket with wait=on or a slow connection, which drops the
 * engine lock meanwhile, and closing with bytes queued, which gives a reader that takes some half a
 * second for the rest. Both queues are bounded. docs/chardev.md describes every back end.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/qom/object.h"

#define TYPE_CHARDEV "chardev"

typedef enum {
    CHARDEV_OPENED,
    CHARDEV_CLOSED,
    CHARDEV_BREAK, /* in its place among the received bytes */
    CHARDEV_MODEM, /* chardev_get_modem gives something else now */
} ChardevEvent;

#define CHARDEV_OUT_MAX     (1 << 20)  /* bytes queued for an outside that does not take them */
#define CHARDEV_CONGESTED   (64 << 10) /* queued bytes from which a UART should hold back */
#define CHARDEV_IN_MAX      (4 << 10)  /* bytes read ahead of a front end that does not take them */
#define CHARDEV_HISTORY_MAX (64 << 10)

/* What a front end gives: how much it can take now, the bytes, and events. */
typedef struct ChardevHandlers {
    size_t (*can_read)(void *opaque);
    void (*read)(void *opaque, const uint8_t *buf, size_t len); /* len <= what can_read said */
    void (*event)(void *opaque, ChardevEvent event);
    void (*writable)(void *opaque); /* may be NULL: chardev_congested has become false */
} ChardevHandlers;

typedef struct ChardevSerialParams {
    uint32_t baud;
    uint8_t data_bits, stop_bits;
    char parity; /* 'N' 'O' 'E', stick parity 'M' 'S' */
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
    bool opened;     /* chardev_open has succeeded, chardev_close was not called */
    bool open;       /* someone is at the other end */
    GByteArray *out; /* bytes the front end wrote and the outside has not taken yet; bounded */
    GByteArray *in;  /* bytes from outside that the front end could not take yet; bounded */
    GSList *taps;
    char *id;      /* property: the name that -chardev gave it; NULL if none */
    char *logfile; /* property: copies what the guest writes */
    bool logappend;
    int log_fd;
    uint64_t bytes_out, bytes_in, bytes_dropped; /* guest to outside, outside to guest, lost */
    struct ChardevPriv *priv;
} Chardev;
typedef struct ChardevClass {
    ObjectClass parent_class;
    const char *alias; /* the short name, as command lines spell it: "stdio", "socket" */
    /* From its properties. It undoes what it did before it fails. */
    bool (*open)(Chardev *chr, GError **error);
    void (*close)(Chardev *chr); /* restores what it changed (tty modes); called once */
    /* Takes up to len bytes now, never blocks; 0: would block (call chardev_can_write_again later);
     * -1 + errno: the other end is gone, what is queued is dropped. Only called while `open`. */
    ssize_t (*write)(Chardev *chr, const uint8_t *buf, size_t len);
    void (*update_read)(
        Chardev *chr); /* the front end's can_read changed: start or stop reading outside */
    void (*set_params)(Chardev *chr, const ChardevSerialParams *p);
    void (*set_modem)(Chardev *chr, unsigned tiocm); /* DTR, RTS as the guest drives them */
    unsigned (*get_modem)(Chardev *chr);             /* CTS DSR RI DCD */
    void (*send_break)(Chardev *chr, bool on);
    bool (*wait_out)(Chardev *chr, int ms); /* closing with bytes queued: until it takes some */
    bool says_when_open; /* it tells by events when someone is there (socket, pty, link) */
} ChardevClass;
OBJECT_DECLARE_TYPE(Chardev, ChardevClass, CHARDEV, TYPE_CHARDEV)

/*
 * A back end from text, in one of two spellings:
 *   as -serial does:  "stdio", "null", "pty", "file:PATH", "pipe:PATH", "ring[:SIZE]",
 *                     "unix:PATH[,server=on][,wait=off]", "tcp:[HOST]:PORT[,server=on]…"
 *   as -chardev does: "socket,id=c0,host=…,port=…,server=on,wait=off", "file,id=f,path=…"
 * A lone word is a switch ("server", "nowait"); ",," is a comma inside a value. Opened; one
 * reference. An unknown back end or key is an error that names the nearest.
 */
Chardev *chardev_new_from_text(const char *text, GError **error);
/* The same, not opened yet. */
Chardev *chardev_parse(const char *text, GError **error);
/* Calls fn for each short name ("file", "pty", …) with its class: for `-chardev help`. */
void chardev_backends_foreach(void (*fn)(const char *alias, ChardevClass *klass, void *opaque),
                              void *opaque);
bool chardev_open(Chardev *chr, GError **error);
/* Safe at any time and twice. The front end is told CHARDEV_CLOSED and stays attached: what it
 * writes from now on is dropped. Unparenting and finalizing close too. */
void chardev_close(Chardev *chr);

/* Front end. Attaching a second one is refused by name. Detach with handlers NULL. Attaching to one
 * whose other end is there gives CHARDEV_OPENED at once. */
bool chardev_attach(Chardev *chr, const ChardevHandlers *handlers, void *opaque, GError **error);
void chardev_detach(Chardev *chr);
/* All of it is taken: written, or queued up to a bound (1 MiB) beyond which bytes are dropped and
 * counted, as a real UART with nobody listening would. Dropped too while nobody is at the other
 * end. NULL chr: dropped. */
void chardev_write(Chardev *chr, const uint8_t *buf, size_t len);
bool chardev_flushed(
    const Chardev *chr); /* nothing queued: a UART may say its transmitter is empty */
/* The outside takes bytes, but slower than the guest writes them: hold back until `writable`. An
 * outside that has taken nothing for a second does not count: its bytes go to the queue. */
bool chardev_congested(const Chardev *chr);
void chardev_accept_input(Chardev *chr); /* can_read has risen */
/* What the guest programmed; back ends that have no use for it ignore it. NULL chr: nothing. */
void chardev_set_serial_params(Chardev *chr, const ChardevSerialParams *p);
void chardev_set_modem(Chardev *chr, unsigned tiocm); /* DTR, RTS */
/* CTS, DSR, RI, DCD. A back end without modem lines has CTS, DSR and DCD on, as a cable that is
 * wired for it; no back end at all has none. */
unsigned chardev_get_modem(Chardev *chr);
void chardev_send_break(Chardev *chr, bool on);

/* Back end side. */
void chardev_receive(Chardev *chr, const uint8_t *buf,
                     size_t len); /* from outside to the front end, queued if it cannot */
/* How many bytes chardev_receive takes now; what is beyond is dropped and counted. */
size_t chardev_receive_room(Chardev *chr);
void chardev_can_write_again(Chardev *chr);
/* OPENED and CLOSED also set `open`; CLOSED drops what is queued for the outside. */
void chardev_event(Chardev *chr, ChardevEvent event);
/* For messages: its id, else its path in the tree, else its type. Valid until the next call. */
const char *chardev_label(const Chardev *chr);

void chardev_add_tap(Chardev *chr, ChardevTap fn, void *opaque);
void chardev_remove_tap(Chardev *chr, ChardevTap fn, void *opaque);

/* The last bytes that the guest wrote, at most CHARDEV_HISTORY_MAX, whether or not anybody
 * listened. The last of them is byte number bytes_out. Valid until the next write; NULL: nothing
 * yet. */
const uint8_t *chardev_history(Chardev *chr, size_t *len);

#define TYPE_CHARDEV_NULL   "chardev-null"
#define TYPE_CHARDEV_STDIO  "chardev-stdio"
#define TYPE_CHARDEV_FILE   "chardev-file"
#define TYPE_CHARDEV_PIPE   "chardev-pipe"
#define TYPE_CHARDEV_PTY    "chardev-pty"
#define TYPE_CHARDEV_SOCKET "chardev-socket"

/* Ring back end: what the guest has written lately. */
#define TYPE_CHARDEV_RING "chardev-ring"
size_t chardev_ring_read(Chardev *chr, uint8_t *buf, size_t len); /* takes out the oldest bytes */
size_t chardev_ring_count(Chardev *chr);

/* Two chardevs back to back: what one front end writes the other reads, on the next turn of the
 * main loop (a null-modem cable: RTS to CTS, DTR to DSR and DCD). Flow-controlled: what the other
 * side does not take waits here. Both are of TYPE_CHARDEV_LINK and opened by this. Closing one
 * closes the link: the other sees CHARDEV_CLOSED and its modem inputs fall. */
bool chardev_link(Chardev *a, Chardev *b, GError **error);
#define TYPE_CHARDEV_LINK "chardev-link"

/* Script back end: bytes from the guest go to fn; the script answers with chardev_receive. */
#define TYPE_CHARDEV_SCRIPT "chardev-script"
void chardev_script_set(Chardev *chr, void (*fn)(void *opaque, const uint8_t *buf, size_t len),
                        void *opaque);

/* Stdio back end: called for a key after the escape key (Ctrl-a by default) that it does not handle
 * itself ('b' break, 'h' help, the escape key again: itself). Returns whether it knew the key.
 * Without a function 'x' ends the process by SIGTERM. */
typedef bool (*ChardevEscapeFn)(Chardev *chr, char key, void *opaque);
void chardev_stdio_set_escape(ChardevEscapeFn fn, void *opaque); /* process-wide, as the terminal */

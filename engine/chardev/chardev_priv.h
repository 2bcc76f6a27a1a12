/* Shared by the files of engine/chardev only. */
#pragma once

#include "engine/chardev/chardev.h"

#include "engine/core/clock.h"
#include "engine/core/main-loop.h"

struct ChardevPriv {
    size_t out_head;  /* bytes at the front of chr->out that are taken already */
    uint64_t in_base; /* number of the byte that is first in chr->in */
    GArray *breaks;   /* uint64_t: before which byte a break came */
    bool receiving;   /* the front end is being given bytes */
    bool congested;   /* the queue has passed CHARDEV_CONGESTED and not yet fallen to half of it */
    bool stalled;     /* and the outside has taken nothing for a second */
    uint64_t taken;   /* by the outside */
    uint64_t taken_mark; /* `taken` when stall_timer was armed */
    Timer stall_timer;
    unsigned tap_depth; /* taps being called */
    bool tap_holes;     /* one was removed meanwhile */
    uint8_t *history;   /* the last bytes from the guest end at history_end */
    size_t history_start, history_end, history_cap;
    char *label;
};

size_t chardev_queued(const Chardev *chr); /* bytes the outside has not taken */
void chardev_drain_out(Chardev *chr);      /* gives it what it takes now */
void chardev_update_read(Chardev *chr);    /* the back end reads while there is room */
void chardev_stall_timer_fired(void *opaque);
void chardev_call_taps(Chardev *chr, const uint8_t *buf, size_t len, bool from_guest);
void chardev_history_add(struct ChardevPriv *p, const uint8_t *buf, size_t len);

/*
 * Descriptors under a back end: watches that follow the room there is, writing that neither blocks
 * nor raises SIGPIPE. In a back end's instance struct, zeroed.
 */
typedef struct ChardevFd {
    Chardev *chr;
    int in, out; /* -1: none; may be the same */
    bool in_socket, out_socket;
    bool in_eof;    /* nothing more is read; cleared by the owner when that changes */
    bool may_block; /* out could not be made non-blocking: small pieces, and only when poll says so
                     */
    GSource *in_source, *out_source;
    BottomHalf *write_failed;
    int error; /* errno of the failed write, or of the read that ended; 0: end of stream */
    void (*received)(Chardev *chr, uint8_t *buf, size_t len); /* NULL: chardev_receive */
    /* Nothing more comes in (end of stream or an error), or writing has failed. Main thread; it may
     * call chardev_fd_stop. */
    void (*in_ended)(Chardev *chr);
    void (*out_ended)(Chardev *chr);
} ChardevFd;
void chardev_fd_start(ChardevFd *f, Chardev *chr, int in, int out, void (*in_ended)(Chardev *),
                      void (*out_ended)(Chardev *));
void chardev_fd_stop(
    ChardevFd *f); /* removes watches and closes; safe when not started, and twice */
bool chardev_fd_started(const ChardevFd *f);
void chardev_fd_update_read(ChardevFd *f);
ssize_t chardev_fd_write(ChardevFd *f, const uint8_t *buf, size_t len);
bool chardev_fd_wait_out(ChardevFd *f, int ms); /* until out takes bytes */
bool fd_set_nonblock(int fd);

/* Descriptors under a back end: see chardev_priv.h. */
#include "engine/chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A descriptor that may block is ready for at least one small write when poll says so. */
#define BLOCKING_CHUNK 64

bool fd_set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

static bool is_socket(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void drop_source(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

static void report_write_failed(void *opaque)
{
    ChardevFd *f = opaque;
    Chardev *chr = f->chr;

    object_ref(chr);
    if (f->out >= 0 && f->out_ended) {
        f->out_ended(chr);
    }
    object_unref(chr);
}

void chardev_fd_start(ChardevFd *f, Chardev *chr, int in, int out, void (*in_ended)(Chardev *),
                      void (*out_ended)(Chardev *))
{
    f->chr = chr;
    f->in = in;
    f->out = out;
    f->in_socket = is_socket(in);
    f->out_socket = is_socket(out);
    f->may_block = f->in_eof = false;
    f->error = 0;
    f->in_ended = in_ended;
    f->out_ended = out_ended;
    f->write_failed = bh_new(report_write_failed, f);
}

bool chardev_fd_started(const ChardevFd *f)
{
    return f->write_failed != NULL;
}

void chardev_fd_stop(ChardevFd *f)
{
    if (!f->write_failed) {
        return;
    }
    drop_source(&f->in_source);
    drop_source(&f->out_source);
    g_clear_pointer(&f->write_failed, bh_free);
    if (f->in >= 0) {
        close(f->in);
    }
    if (f->out >= 0 && f->out != f->in) {
        close(f->out);
    }
    f->in = f->out = -1;
}

static gboolean in_ready(int fd, GIOCondition cond, void *opaque)
{
    ChardevFd *f = opaque;
    Chardev *chr = f->chr;
    uint8_t buf[CHARDEV_IN_MAX];
    size_t room = MIN(chardev_receive_room(chr), sizeof(buf));
    ssize_t n;

    if (room == 0) {
        drop_source(&f->in_source);
        return G_SOURCE_REMOVE;
    }
    n = f->in_socket ? recv(fd, buf, room, MSG_DONTWAIT) : read(fd, buf, room);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    object_ref(chr);
    if (n > 0) {
        if (f->received) {
            f->received(chr, buf, (size_t)n);
        } else {
            chardev_receive(chr, buf, (size_t)n);
        }
    } else {
        f->error = n < 0 ? errno : 0;
        f->in_eof = true;
        drop_source(&f->in_source);
        if (f->in_ended) {
            f->in_ended(chr);
        }
    }
    object_unref(chr);
    /* A source that was dropped meanwhile is destroyed already and stays so. */
    return G_SOURCE_CONTINUE;
}

void chardev_fd_update_read(ChardevFd *f)
{
    bool want = f->write_failed && f->in >= 0 && !f->in_eof && chardev_receive_room(f->chr) > 0;

    if (want && !f->in_source) {
        f->in_source = main_loop_add_fd(f->in, G_IO_IN | G_IO_HUP | G_IO_ERR, in_ready, f);
    } else if (!want) {
        drop_source(&f->in_source);
    }
}

static gboolean out_ready(int fd, GIOCondition cond, void *opaque)
{
    ChardevFd *f = opaque;
    Chardev *chr = f->chr;

    drop_source(&f->out_source);
    object_ref(chr);
    chardev_can_write_again(chr);
    object_unref(chr);
    return G_SOURCE_REMOVE;
}

static bool poll_out(int fd, int ms)
{
    struct pollfd p = { .fd = fd, .events = POLLOUT };

    return poll(&p, 1, ms) > 0 && (p.revents & POLLOUT);
}

bool chardev_fd_wait_out(ChardevFd *f, int ms)
{
    return f->write_failed && f->out >= 0 && poll_out(f->out, ms);
}

/* A pseudo terminal whose other side was closed takes bytes until its buffer is full, and then
 * neither takes nor refuses them: waiting for room would find the hang-up again and again. */
static bool hung_up(int fd)
{
    struct pollfd p = { .fd = fd };

    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

ssize_t chardev_fd_write(ChardevFd *f, const uint8_t *buf, size_t len)
{
    ssize_t n;

    if (!f->write_failed || f->out < 0) {
        errno = EPIPE;
        return -1;
    }
    if (f->may_block && !poll_out(f->out, 0)) {
        n = -1;
        errno = EAGAIN;
    } else {
        if (f->may_block) {
            len = MIN(len, BLOCKING_CHUNK);
        }
        do {
            n = f->out_socket ? send(f->out, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : write(f->out, buf, len);
        } while (n < 0 && errno == EINTR);
    }
    if (n >= 0) {
        return n;
    }
    if ((errno == EAGAIN || errno == ENOBUFS) && hung_up(f->out)) {
        errno = EIO;
    }
    if (errno == EAGAIN || errno == ENOBUFS) {
        if (!f->out_source) {
            f->out_source = main_loop_add_fd(f->out, G_IO_OUT | G_IO_HUP | G_IO_ERR, out_ready, f);
        }
        return 0;
    }
    /* The write may have come from a vCPU's thread in the middle of a device's handler: what
     * follows from the failure waits for the main loop. */
    f->error = errno;
    bh_schedule(f->write_failed);
    errno = f->error;
    return -1;
}

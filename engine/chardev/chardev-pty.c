/*
 * "pty": a pseudo terminal whose slave side another program opens. Its path is the property
 * "slave"; "path" asks for a symbolic link to it under a fixed name.
 *
 * The master reads EIO and polls HUP as long as nobody has the slave open. Waiting for that to
 * change costs nothing: inotify tells of opens (a timer asks where that is not to be had).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

#define ASK_NS (200 * NS_PER_MS)

typedef struct PtyChardev {
    Chardev parent;
    char *path;  /* property: of the link */
    char *slave; /* NULL while closed */
    bool linked; /* `path` is ours to remove */
    int inotify;
    GSource *inotify_source;
    Timer ask;
    ChardevFd fd;
} PtyChardev;
OBJECT_DECLARE_TYPE(PtyChardev, ChardevClass, PTY_CHARDEV, TYPE_CHARDEV_PTY)

/* Has somebody opened the slave? Bytes left by one who closed it again count as well. */
static void pty_check(PtyChardev *s)
{
    struct pollfd p = { .fd = s->fd.in, .events = POLLIN };
    Chardev *chr = &s->parent;

    if (chr->open || poll(&p, 1, 0) < 0) {
        return;
    }
    if (!(p.revents & POLLHUP) || (p.revents & POLLIN)) {
        s->fd.in_eof = false;
        timer_disarm(&s->ask);
        chardev_event(chr, CHARDEV_OPENED);
        chardev_fd_update_read(&s->fd);
    } else if (!s->inotify_source) {
        timer_arm(&s->ask, clock_now(clock_realtime()) + ASK_NS);
    }
}

static void pty_ask(void *opaque)
{
    object_ref(opaque);
    pty_check(opaque);
    object_unref(opaque);
}

static gboolean slave_opened(int fd, GIOCondition cond, void *opaque)
{
    PtyChardev *s = opaque;
    char buf[1024];

    while (read(fd, buf, sizeof(buf)) > 0) {
        /* which event it was does not matter */
    }
    object_ref(s);
    pty_check(s);
    object_unref(s);
    return G_SOURCE_CONTINUE;
}

static void slave_closed(Chardev *chr)
{
    chardev_event(chr, CHARDEV_CLOSED);
    if (chr->opened) {
        pty_check(PTY_CHARDEV(chr));
    }
}

static void drop_inotify(PtyChardev *s)
{
    if (s->inotify_source) {
        g_source_destroy(s->inotify_source);
        g_source_unref(s->inotify_source);
        s->inotify_source = NULL;
    }
    if (s->inotify >= 0) {
        close(s->inotify);
        s->inotify = -1;
    }
}

static void watch_slave(PtyChardev *s)
{
    s->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (s->inotify < 0) {
        return;
    }
    if (inotify_add_watch(s->inotify, s->slave, IN_OPEN | IN_CLOSE) < 0) {
        drop_inotify(s);
        return;
    }
    s->inotify_source = main_loop_add_fd(s->inotify, G_IO_IN, slave_opened, s);
}

/* No echo and no line discipline between the guest and the program at the other end. Opening and
 * closing the slave once also makes the master poll HUP from the start. */
static bool make_raw(const char *slave)
{
    struct termios tty;
    int fd = open(slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
    bool ok;

    if (fd < 0) {
        return false;
    }
    ok = tcgetattr(fd, &tty) == 0;
    if (ok) {
        cfmakeraw(&tty);
        ok = tcsetattr(fd, TCSANOW, &tty) == 0;
    }
    close(fd);
    return ok;
}

static bool pty_open(Chardev *chr, GError **error)
{
    PtyChardev *s = PTY_CHARDEV(chr);
    char name[128];
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0 || ptsname_r(fd, name, sizeof(name)) != 0 ||
        !make_raw(name)) {
        error_set_errno(error, "chardev '%s': cannot make a pseudo terminal", chardev_label(chr));
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    if (s->path && symlink(name, s->path) != 0) {
        error_set_errno(error, "chardev '%s': link '%s' to '%s'", chardev_label(chr), s->path,
                        name);
        close(fd);
        return false;
    }
    s->linked = s->path != NULL;
    s->slave = g_strdup(name);
    chardev_fd_start(&s->fd, chr, fd, fd, slave_closed, NULL);
    watch_slave(s);
    pty_check(s);
    return true;
}

static void pty_close(Chardev *chr)
{
    PtyChardev *s = PTY_CHARDEV(chr);
    char target[128];

    timer_disarm(&s->ask);
    drop_inotify(s);
    chardev_fd_stop(&s->fd);
    if (s->linked) {
        ssize_t n = readlink(s->path, target, sizeof(target) - 1);

        if (n > 0 && (size_t)n == strlen(s->slave) && memcmp(target, s->slave, (size_t)n) == 0) {
            unlink(s->path);
        }
        s->linked = false;
    }
    g_clear_pointer(&s->slave, g_free);
}

static ssize_t pty_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    return chardev_fd_write(&PTY_CHARDEV(chr)->fd, buf, len);
}

static void pty_update_read(Chardev *chr)
{
    if (chr->open) {
        chardev_fd_update_read(&PTY_CHARDEV(chr)->fd);
    }
}

static bool pty_wait_out(Chardev *chr, int ms)
{
    return chardev_fd_wait_out(&PTY_CHARDEV(chr)->fd, ms);
}

static bool get_slave(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_STRING;
    out->string = g_strdup(PTY_CHARDEV(obj)->slave);
    return true;
}

static const Property pty_properties[] = {
    DEFINE_PROP_STRING("path", PtyChardev, path, "a symbolic link to make to the terminal"),
    { .name = "slave",
      .doc = "the terminal to open, /dev/pts/N; known once it is open",
      .kind = PROP_STRING,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_slave },
};

static void pty_instance_init(Object *obj)
{
    PtyChardev *s = PTY_CHARDEV(obj);

    s->inotify = -1;
    timer_setup(&s->ask, clock_realtime(), pty_ask, s);
}

static void pty_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->alias = "pty";
    k->says_when_open = true;
    k->open = pty_open;
    k->close = pty_close;
    k->write = pty_write;
    k->update_read = pty_update_read;
    k->wait_out = pty_wait_out;
    object_class_add_properties(klass, pty_properties, G_N_ELEMENTS(pty_properties));
}

static const TypeInfo pty_info = {
    .name = TYPE_CHARDEV_PTY,
    .parent = TYPE_CHARDEV,
    .doc = "A pseudo terminal that another program opens",
    .instance_size = sizeof(PtyChardev),
    .instance_init = pty_instance_init,
    .class_init = pty_class_init,
};

static void register_pty(void)
{
    type_register_static(&pty_info);
}
type_init(register_pty)

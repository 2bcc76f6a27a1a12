/*
 * "file": what the guest writes goes to a file, and a second file may be its input.
 * "pipe": two FIFOs, PATH.out for what the guest writes and PATH.in for what it reads; if these do
 * not exist, PATH itself for both. A FIFO is opened for both directions, so that a reader may come
 * later and go without an end of file: "connected" is always on.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

#define OPEN_FLAGS (O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

typedef struct FileChardev {
    Chardev parent;
    char *path, *input_path;
    bool append;
    ChardevFd fd;
} FileChardev;
OBJECT_DECLARE_TYPE(FileChardev, ChardevClass, FILE_CHARDEV, "chardev-file-base")

static void out_ended(Chardev *chr)
{
    FileChardev *s = FILE_CHARDEV(chr);

    log_warning("chardev '%s': cannot write to '%s': %s; what follows is dropped",
                chardev_label(chr), s->path, g_strerror(s->fd.error));
    chardev_event(chr, CHARDEV_CLOSED);
}

static void in_ended(Chardev *chr)
{
    FileChardev *s = FILE_CHARDEV(chr);

    if (s->fd.error) {
        log_warning("chardev '%s': cannot read '%s': %s", chardev_label(chr),
                    s->input_path ? s->input_path : s->path, g_strerror(s->fd.error));
    }
}

static bool file_open(Chardev *chr, GError **error)
{
    FileChardev *s = FILE_CHARDEV(chr);
    int in = -1, out;

    if (s->input_path) {
        in = open(s->input_path, O_RDONLY | OPEN_FLAGS);
        if (in < 0) {
            return error_set_errno(error, "chardev '%s': input file '%s'", chardev_label(chr),
                                   s->input_path);
        }
    }
    out = open(s->path, O_WRONLY | O_CREAT | OPEN_FLAGS | (s->append ? O_APPEND : O_TRUNC), 0666);
    if (out < 0) {
        error_set_errno(error, "chardev '%s': file '%s'", chardev_label(chr), s->path);
        if (in >= 0) {
            close(in);
        }
        return false;
    }
    chardev_fd_start(&s->fd, chr, in, out, in_ended, out_ended);
    return true;
}

/* -1 with errno ENOENT when there is none, with the error set in other cases. */
static int open_fifo(Chardev *chr, const char *path, GError **error)
{
    struct stat st;
    int fd = open(path, O_RDWR | OPEN_FLAGS);

    if (fd < 0) {
        if (errno != ENOENT) {
            error_set_errno(error, "chardev '%s': pipe '%s'", chardev_label(chr), path);
        }
        return -1;
    }
    if (fstat(fd, &st) != 0 || !S_ISFIFO(st.st_mode)) {
        error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': '%s' is not a FIFO",
                  chardev_label(chr), path);
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

static bool pipe_open(Chardev *chr, GError **error)
{
    FileChardev *s = FILE_CHARDEV(chr);
    g_autofree char *in_path = g_strconcat(s->path, ".in", NULL);
    g_autofree char *out_path = g_strconcat(s->path, ".out", NULL);
    g_autoptr(GError) why = NULL;
    int in, out = -1;

    in = open_fifo(chr, in_path, &why);
    if (in >= 0) {
        out = open_fifo(chr, out_path, &why);
    } else if (!why) {
        in = out = open_fifo(chr, s->path, &why);
    }
    if (in < 0 || out < 0) {
        if (in >= 0) {
            close(in);
        }
        if (why) {
            g_propagate_error(error, g_steal_pointer(&why));
            return false;
        }
        return error_set(error, ENGINE_ERROR_IO,
                         "chardev '%s': there is neither a FIFO '%s' nor a pair '%s' and '%s': "
                         "make them with mkfifo",
                         chardev_label(chr), s->path, in_path, out_path);
    }
    chardev_fd_start(&s->fd, chr, in, out, in_ended, out_ended);
    return true;
}

static void file_close(Chardev *chr)
{
    chardev_fd_stop(&FILE_CHARDEV(chr)->fd);
}

static ssize_t file_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    return chardev_fd_write(&FILE_CHARDEV(chr)->fd, buf, len);
}

static void file_update_read(Chardev *chr)
{
    chardev_fd_update_read(&FILE_CHARDEV(chr)->fd);
}

static bool file_wait_out(Chardev *chr, int ms)
{
    return chardev_fd_wait_out(&FILE_CHARDEV(chr)->fd, ms);
}

static void base_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->close = file_close;
    k->write = file_write;
    k->update_read = file_update_read;
    k->wait_out = file_wait_out;
}

#define PROP_PATH(_doc)                                                                            \
    {                                                                                              \
        .name = "path", .doc = (_doc), .kind = PROP_STRING, .offset = offsetof(FileChardev, path), \
        .flags = PROP_UNTIL_REALIZED | PROP_REQUIRED                                               \
    }
static const Property file_properties[] = {
    PROP_PATH("the file that gets what the guest writes"),
    DEFINE_PROP_BOOL("append", FileChardev, append, false, "keep what the file holds already"),
    DEFINE_PROP_STRING("input-path", FileChardev, input_path, "a file that the guest reads"),
};
static const Property pipe_properties[] = {
    PROP_PATH("the FIFO's name without .in and .out"),
};

static void file_class_init(ObjectClass *klass, const void *data)
{
    CHARDEV_CLASS(klass)->alias = "file";
    CHARDEV_CLASS(klass)->open = file_open;
    object_class_add_properties(klass, file_properties, G_N_ELEMENTS(file_properties));
}

static void pipe_class_init(ObjectClass *klass, const void *data)
{
    CHARDEV_CLASS(klass)->alias = "pipe";
    CHARDEV_CLASS(klass)->open = pipe_open;
    /* Without .in and .out the guest would read what it wrote itself only if nobody else does:
     * as on any FIFO that two ends share. */
    object_class_add_properties(klass, pipe_properties, G_N_ELEMENTS(pipe_properties));
}

static const TypeInfo types[] = {
    {
        .name = "chardev-file-base",
        .parent = TYPE_CHARDEV,
        .doc = "What file and pipe have in common",
        .instance_size = sizeof(FileChardev),
        .class_init = base_class_init,
        .abstract = true,
    },
    {
        .name = TYPE_CHARDEV_FILE,
        .parent = "chardev-file-base",
        .doc = "Writes to a file; may read another",
        .class_init = file_class_init,
    },
    {
        .name = TYPE_CHARDEV_PIPE,
        .parent = "chardev-file-base",
        .doc = "A pair of FIFOs, PATH.in and PATH.out",
        .class_init = pipe_class_init,
    },
};

static void register_types(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_types)

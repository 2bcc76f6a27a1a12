/*
 * "file": a regular file or a block device of the host. Opening, locks, alignment.
 *
 * Locks are the ones that QEMU and its tools take on images (bytes 100 to 163 say what a user does,
 * bytes 200 to 263 what it does not allow others; open file description locks, shared): so both
 * respect each other's images.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "engine/block/file_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define LOCK_USES   100
#define LOCK_DENIES 200
enum { USE_READ = 1 << 0, USE_WRITE = 1 << 1, USE_RESIZE = 1 << 3 };
enum { LOCKING_AUTO, LOCKING_ON, LOCKING_OFF };

static const char *const cache_words[] = { "writeback",  "none",   "writethrough",
                                           "directsync", "unsafe", NULL };
static const char *const aio_words[] = { "auto", "io_uring", "threads", "native", NULL };
static const char *const locking_words[] = { "auto", "on", "off", NULL };

/* ---- locks ----------------------------------------------------------------------------------- */

static int lock_byte(int fd, off_t at)
{
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? errno : 0;
}

/* Whether another open file holds that byte. */
static bool byte_is_held(int fd, off_t at)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static bool take_locks(BlockFile *s, GError **error)
{
    const char *name = s->parent.filename;
    unsigned uses = USE_READ | (s->parent.read_only ? 0 : USE_WRITE | USE_RESIZE);
    unsigned denies = USE_WRITE | USE_RESIZE;

    for (unsigned bit = 0; bit < 4; bit++) {
        int e = 0;

        if (uses & (1u << bit)) {
            e = lock_byte(s->fd, LOCK_USES + (off_t)bit);
        }
        if (!e && (denies & (1u << bit))) {
            e = lock_byte(s->fd, LOCK_DENIES + (off_t)bit);
        }
        if (e && s->locking == LOCKING_AUTO) {
            return true; /* a file system without locks */
        }
        if (e) {
            errno = e;
            return error_set_errno(error, "file '%s': locking", name);
        }
    }
    for (unsigned bit = 0; bit < 4; bit++) {
        bool denied = (uses & (1u << bit)) && byte_is_held(s->fd, LOCK_DENIES + (off_t)bit);
        bool used = (denies & (1u << bit)) && byte_is_held(s->fd, LOCK_USES + (off_t)bit);

        if (denied || used) {
            return error_set(
                error, ENGINE_ERROR_BUSY,
                "file '%s' is in use by another process or drive that %s it: two users "
                "would destroy it (locking=off opens it all the same)",
                name, used ? "writes" : "does not allow others to write");
        }
    }
    return true;
}

/* ---- alignment of direct I/O ----------------------------------------------------------------- */

static bool readable_with(int fd, size_t offset_align, size_t mem_align, char *buf)
{
    ssize_t n;

    do {
        n = pread(fd, buf + mem_align, offset_align, 0);
    } while (n < 0 && errno == EINTR);
    return n >= 0 || errno != EINVAL;
}

static void find_alignment(BlockFile *s)
{
    size_t sizes[] = { 512, 1024, 2048, 4096, 8192, 65536 };
    char *buf;
    int sector;

    s->parent.align = 4096;
    s->mem_align = 4096;
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(s->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
        (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align > 0) {
        s->parent.align = sx.stx_dio_offset_align;
        s->mem_align = MAX(sx.stx_dio_mem_align, 1);
        return;
    }
#endif
    if (s->is_device && ioctl(s->fd, BLKSSZGET, &sector) == 0 && sector >= 512) {
        s->parent.align = s->mem_align = (uint32_t)sector;
        return;
    }
    /* Nobody says: try. An empty file reads nothing at any alignment, which proves nothing. */
    if (posix_memalign((void **)&buf, 65536, 131072) != 0) {
        return;
    }
    for (unsigned i = 0; block_node_length(&s->parent) > 0 && i < G_N_ELEMENTS(sizes); i++) {
        if (readable_with(s->fd, sizes[i], sizes[i], buf)) {
            s->parent.align = (uint32_t)sizes[i];
            s->mem_align = MAX(s->parent.align, 512);
            break;
        }
    }
    free(buf);
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool find_length(BlockFile *s, GError **error)
{
    struct stat st;
    uint64_t bytes;

    if (fstat(s->fd, &st) < 0) {
        return error_set_errno(error, "file '%s'", s->parent.filename);
    }
    if (S_ISBLK(st.st_mode)) {
        s->is_device = true;
        if (ioctl(s->fd, BLKGETSIZE64, &bytes) < 0) {
            return error_set_errno(error, "block device '%s': its size", s->parent.filename);
        }
    } else if (S_ISREG(st.st_mode)) {
        bytes = (uint64_t)st.st_size;
    } else {
        return error_set(error, ENGINE_ERROR_INVALID, "'%s' is a %s, not a file or block device",
                         s->parent.filename,
                         S_ISDIR(st.st_mode)    ? "directory"
                         : S_ISFIFO(st.st_mode) ? "pipe"
                         : S_ISCHR(st.st_mode)  ? "character device"
                                                : "special file");
    }
    __atomic_store_n(&s->parent.length, bytes, __ATOMIC_RELAXED);
    return true;
}

static int open_flags(const BlockFile *s)
{
    int flags = O_CLOEXEC | O_NONBLOCK; /* a FIFO or tape by mistake must not hang us */

    if (s->cache == BLOCK_CACHE_NONE || s->cache == BLOCK_CACHE_DIRECTSYNC) {
        flags |= O_DIRECT;
    }
    if (s->cache == BLOCK_CACHE_WRITETHROUGH || s->cache == BLOCK_CACHE_DIRECTSYNC) {
        flags |= O_DSYNC;
    }
    return flags;
}

static bool open_fd(BlockFile *s, GError **error)
{
    BlockNode *node = &s->parent;
    int flags = open_flags(s);

    s->fd = open(node->filename, flags | (node->read_only ? O_RDONLY : O_RDWR));
    if (s->fd < 0 && !node->read_only && node->auto_read_only &&
        (errno == EACCES || errno == EROFS || errno == EPERM)) {
        node->read_only = true;
        s->fd = open(node->filename, flags | O_RDONLY);
    }
    if (s->fd < 0 && errno == EINVAL && (flags & O_DIRECT)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "file '%s': its file system cannot bypass the host's cache "
                         "(cache=writeback or writethrough can be used)",
                         node->filename);
    }
    if (s->fd < 0) {
        return error_set_errno(error, "file '%s'", node->filename);
    }
    return true;
}

static bool choose_engine(BlockFile *s, GError **error)
{
    s->use_uring = s->use_aio = false;
    if (s->aio == BLOCK_AIO_THREADS) {
        return true;
    }
    if (s->direct && s->aio != BLOCK_AIO_IO_URING) {
        s->use_aio = block_aio_ref(s->aio == BLOCK_AIO_AUTO ? NULL : error);
        if (!s->use_aio && s->aio == BLOCK_AIO_NATIVE) {
            return false;
        }
    }
    if (block_uring_ref(s->aio == BLOCK_AIO_AUTO || s->use_aio ? NULL : error)) {
        s->use_uring = true;
        return true;
    }
    return s->aio == BLOCK_AIO_AUTO || s->use_aio;
}

static bool file_open(BlockNode *node, GError **error)
{
    BlockFile *s = BLOCK_FILE(node);
    struct statfs fs;

    s->slow_until = 0;
    s->volatile_ok = s->cache == BLOCK_CACHE_UNSAFE;
    s->direct = open_flags(s) & O_DIRECT;
    s->mem_align = 1;
    s->no_zero_range = s->no_punch = s->no_seek_hole = s->reserves = false;
    if (!open_fd(s, error)) {
        return false;
    }
    if (!find_length(s, error) ||
        (s->locking != LOCKING_OFF && !s->is_device && !take_locks(s, error)) ||
        !choose_engine(s, error)) {
        close(s->fd);
        s->fd = -1;
        return false;
    }
    if (s->direct) {
        find_alignment(s);
    }
    s->reserves = !s->is_device && fstatfs(s->fd, &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC;
    pthread_mutex_init(&s->rewriting, NULL);
    block_workers_ref();
    return true;
}

static void file_close(BlockNode *node)
{
    BlockFile *s = BLOCK_FILE(node);

    if (s->use_uring) {
        block_uring_unref();
    }
    if (s->use_aio) {
        block_aio_unref();
    }
    block_workers_unref();
    pthread_mutex_destroy(&s->rewriting);
    close(s->fd);
    s->fd = -1;
}

static bool file_resize(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error)
{
    BlockFile *s = BLOCK_FILE(node);
    uint64_t old = block_node_length(node);
    int e = 0;

    if (node->read_only) {
        return error_set(error, ENGINE_ERROR_INVALID, "file '%s' is read-only", node->filename);
    }
    if (s->is_device) {
        if (bytes <= old) {
            return true;
        }
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "block device '%s' cannot grow",
                         node->filename);
    }
    if (bytes > BLOCK_MAX_BYTES || ftruncate(s->fd, (off_t)bytes) < 0) {
        errno = bytes > BLOCK_MAX_BYTES ? EFBIG : errno;
        return error_set_errno(error, "file '%s': resizing", node->filename);
    }
    if (bytes > old && preallocation && strcmp(preallocation, "off") != 0) {
        if (!strcmp(preallocation, "falloc")) {
            e = posix_fallocate(s->fd, (off_t)old, (off_t)(bytes - old));
        } else if (!strcmp(preallocation, "full")) {
            e = block_node_sync_op(node, BLOCK_OP_ZERO, old, bytes - old, BLOCK_NO_UNMAP);
        } else {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "file '%s': unknown preallocation '%s' (off, falloc, full)",
                             node->filename, preallocation);
        }
    }
    if (e) {
        if (ftruncate(s->fd, (off_t)old) < 0) {
            bytes = MAX(bytes, old);
        }
        errno = e;
        return error_set_errno(error, "file '%s': preallocation", node->filename);
    }
    __atomic_store_n(&node->length, bytes, __ATOMIC_RELAXED);
    return true;
}

static bool file_create(const char *filename, const BlockCreateOption *options, unsigned n,
                        GError **error)
{
    uint64_t size = 0;
    int fd, e = 0;
    const char *preallocation = "off";

    for (unsigned i = 0; i < n; i++) {
        if (!strcmp(options[i].key, "size")) {
            if (!parse_size(options[i].value, &size, error)) {
                return false;
            }
        } else if (!strcmp(options[i].key, "preallocation")) {
            preallocation = options[i].value;
        } else {
            return error_set(error, ENGINE_ERROR_INVALID, "file: unknown creation option '%s'",
                             options[i].key);
        }
    }
    fd = open(filename, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return error_set_errno(error, "file '%s'", filename);
    }
    if (size > BLOCK_MAX_BYTES || ftruncate(fd, (off_t)size) < 0) {
        e = size > BLOCK_MAX_BYTES ? EFBIG : errno;
    } else if (strcmp(preallocation, "off") != 0 && size > 0) {
        e = posix_fallocate(fd, 0, (off_t)size);
    }
    close(fd);
    if (e) {
        errno = e;
        return error_set_errno(error, "file '%s'", filename);
    }
    return true;
}

/* ---- type ------------------------------------------------------------------------------------ */

static void file_instance_init(Object *obj)
{
    BLOCK_FILE(obj)->fd = -1;
}

static const Property file_properties[] = {
    { .name = "filename",
      .doc = "a file or a block device",
      .kind = PROP_STRING,
      .flags = PROP_UNTIL_REALIZED | PROP_REQUIRED,
      .offset = offsetof(BlockNode, filename) },
    DEFINE_PROP_ENUM("cache", BlockFile, cache, cache_words, BLOCK_CACHE_WRITEBACK,
                     "writeback: the host's cache; none: past it; writethrough, directsync: the "
                     "same, each write stable; unsafe: flushes are ignored"),
    DEFINE_PROP_ENUM(
        "aio", BlockFile, aio, aio_words, BLOCK_AIO_AUTO,
        "how requests reach the kernel: io_uring; native (Linux AIO, for cache=none and "
        "directsync; io_uring for the others); threads; or what is fast (auto)"),
    DEFINE_PROP_ENUM("locking", BlockFile, locking, locking_words, LOCKING_AUTO,
                     "refuse a file that somebody else writes (auto: where locks exist)"),
};

static void file_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "file";
    node->open = file_open;
    node->close = file_close;
    node->submit = block_file_submit;
    node->sync = block_file_sync;
    node->read_now = block_file_read_now;
    node->cancel = block_file_cancel;
    node->resize = file_resize;
    node->create = file_create;
    object_class_add_properties(klass, file_properties, G_N_ELEMENTS(file_properties));
}

static const TypeInfo file_info = {
    .name = TYPE_BLOCK_FILE,
    .parent = TYPE_BLOCK_NODE,
    .doc = "A file or block device of the host",
    .instance_size = sizeof(BlockFile),
    .instance_init = file_instance_init,
    .class_init = file_class_init,
};

static void register_file(void)
{
    type_register_static(&file_info);
}
type_init(register_file)

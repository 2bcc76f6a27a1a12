/* Memory back ends: the objects by which users say what RAM is made of. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/units.h"
#include "engine/memory/ram.h"

#define HUGEPAGES_DIR "/sys/kernel/mm/hugepages"

static char *backend_name(MemoryBackend *be)
{
    return g_strdup(OBJECT(be)->name ? OBJECT(be)->name : object_get_typename(OBJECT(be)));
}

/* ---- huge pages -------------------------------------------------------------------------- */

static bool read_hugepages(uint64_t page_size, const char *file, uint64_t *value)
{
    char *path = g_strdup_printf(HUGEPAGES_DIR "/hugepages-%" PRIu64 "kB/%s", page_size / KiB,
                                 file);
    char *text = NULL;
    bool ok = g_file_get_contents(path, &text, NULL, NULL);

    if (ok) {
        *value = g_ascii_strtoull(text, NULL, 10);
    }
    g_free(text);
    g_free(path);
    return ok;
}

static uint64_t default_hugepage_size(void)
{
    uint64_t kib = 0;
    char *text = NULL, *at;

    if (g_file_get_contents("/proc/meminfo", &text, NULL, NULL) &&
        (at = strstr(text, "Hugepagesize:"))) {
        kib = g_ascii_strtoull(at + strlen("Hugepagesize:"), NULL, 10);
    }
    g_free(text);
    return kib ? kib * KiB : 2 * MiB;
}

static char *known_hugepage_sizes(void)
{
    GString *s = g_string_new(NULL);
    GDir *dir = g_dir_open(HUGEPAGES_DIR, 0, NULL);
    const char *entry;

    while (dir && (entry = g_dir_read_name(dir))) {
        if (g_str_has_prefix(entry, "hugepages-")) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", entry + strlen("hugepages-"));
        }
    }
    if (dir) {
        g_dir_close(dir);
    }
    if (!s->len) {
        g_string_append(s, "none");
    }
    return g_string_free(s, FALSE);
}

/* Refuses before mmap does, which would only say "out of memory". */
static bool check_hugepages(const char *name, uint64_t size, uint64_t page_size, GError **error)
{
    uint64_t available = 0, reserved = 0, surplus = 0, need = (size + page_size - 1) / page_size;

    if (!read_hugepages(page_size, "free_hugepages", &available)) {
        char *known = known_hugepage_sizes();

        error_set(error, ENGINE_ERROR_UNSUPPORTED,
                  "%s: this host has no huge pages of %" PRIu64 " KiB (it has: %s)", name,
                  page_size / KiB, known);
        g_free(known);
        return false;
    }
    read_hugepages(page_size, "resv_hugepages", &reserved);
    read_hugepages(page_size, "nr_overcommit_hugepages", &surplus);
    available = available > reserved ? available - reserved : 0;
    if (available + surplus < need) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "%s: %" PRIu64 " huge pages of %" PRIu64 " KiB are needed, %" PRIu64
                         " are free (reserve more: " HUGEPAGES_DIR "/hugepages-%" PRIu64
                         "kB/nr_hugepages)",
                         name, need, page_size / KiB, available, page_size / KiB);
    }
    return true;
}

/* ---- the three kinds --------------------------------------------------------------------- */

static RamBlock *alloc_memfd(MemoryBackend *be, GError **error)
{
    char *name = backend_name(be);
    uint64_t page_size = RAM_PAGE_SIZE, size;
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    RamBlock *block = NULL;
    int fd = -1;

    if (be->hugetlb) {
        page_size = be->hugetlb_size ? be->hugetlb_size : default_hugepage_size();
        if ((page_size & (page_size - 1)) || page_size < RAM_PAGE_SIZE) {
            error_set(error, ENGINE_ERROR_INVALID,
                      "%s: hugetlbsize %" PRIu64 " is not a power of two of at least 4096", name,
                      page_size);
            goto out;
        }
        if (!check_hugepages(name, be->size, page_size, error)) {
            goto out;
        }
        flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(page_size) << MFD_HUGE_SHIFT;
    } else if (be->hugetlb_size) {
        error_set(error, ENGINE_ERROR_INVALID, "%s: hugetlbsize is set, hugetlb is not", name);
        goto out;
    }
    if (__builtin_add_overflow(be->size, page_size - 1, &size) || size > INT64_MAX) {
        error_set(error, ENGINE_ERROR_INVALID, "%s: size %" PRIu64 " is too large", name, be->size);
        goto out;
    }
    size &= ~(page_size - 1);
    fd = memfd_create(name, flags);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        error_set_errno(error, "%s: memfd of %" PRIu64 " bytes", name, size);
        goto out;
    }
    /* Whoever gets the descriptor (a device process) cannot pull pages away under the guest. */
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        error_set_errno(error, "%s: sealing the memfd", name);
        goto out;
    }
    block = ram_block_new_fd(name, size, fd, be->share, false, page_size, error);
out:
    if (!block && fd >= 0) {
        close(fd);
    }
    g_free(name);
    return block;
}

static RamBlock *alloc_ram(MemoryBackend *be, GError **error)
{
    RamBlock *block;
    char *name;

    if (be->share) {
        return alloc_memfd(be, error); /* memory that can be shared needs a descriptor anyway */
    }
    name = backend_name(be);
    block = ram_block_new_anonymous(name, be->size, error);
    g_free(name);
    return block;
}

/* A back end that came to nothing leaves no file behind. */
static void unmake_file(MemoryBackend *be)
{
    if (be->made_file) {
        unlink(be->mem_path);
        be->made_file = false;
    }
}

/* Opens or makes the file; *page_size is what its file system works in. */
static int open_file(MemoryBackend *be, const char *name, uint64_t *page_size, GError **error)
{
    struct statfs fs;
    struct stat st;
    int fd;

    be->made_file = false;
    if (stat(be->mem_path, &st) == 0 && S_ISDIR(st.st_mode)) {
        char *path = g_strdup_printf("%s/vmlua-ram.XXXXXX", be->mem_path);

        if (be->readonly) {
            error_set(error, ENGINE_ERROR_INVALID, "%s: mem-path %s is a directory, and readonly",
                      name, be->mem_path);
            g_free(path);
            return -1;
        }
        fd = mkostemp(path, O_CLOEXEC);
        if (fd < 0) {
            error_set_errno(error, "%s: a file in %s", name, be->mem_path);
        } else {
            unlink(path);
        }
        g_free(path);
    } else {
        /* O_NONBLOCK: a named pipe is to be refused, not waited for. */
        fd = open(be->mem_path, (be->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 && errno == ENOENT && !be->readonly) {
            fd = open(be->mem_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
            be->made_file = fd >= 0;
        }
        if (fd < 0) {
            error_set_errno(error, "%s: mem-path %s", name, be->mem_path);
        }
    }
    if (fd < 0) {
        return -1;
    }
    if (fstatfs(fd, &fs) < 0) {
        error_set_errno(error, "%s: mem-path %s", name, be->mem_path);
        close(fd);
        unmake_file(be);
        return -1;
    }
    *page_size = fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : RAM_PAGE_SIZE;
    return fd;
}

static RamBlock *alloc_file(MemoryBackend *be, GError **error)
{
    char *name = backend_name(be);
    RamBlock *block = NULL;
    uint64_t page_size, size;
    struct stat st;
    int fd = -1;

    if (!be->mem_path || !*be->mem_path) {
        error_set(error, ENGINE_ERROR_INVALID, "%s: mem-path is not set", name);
        goto out;
    }
    fd = open_file(be, name, &page_size, error);
    if (fd < 0) {
        goto out;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        error_set(error, ENGINE_ERROR_INVALID, "%s: mem-path %s is not a file", name, be->mem_path);
        goto out;
    }
    if (!be->size) {
        be->size = (uint64_t)st.st_size;
    }
    if (!be->size || __builtin_add_overflow(be->size, page_size - 1, &size) || size > INT64_MAX) {
        error_set(error, ENGINE_ERROR_INVALID,
                  "%s: size %" PRIu64 " is no size for memory (mem-path %s has %" PRIu64 " bytes)",
                  name, be->size, be->mem_path, (uint64_t)st.st_size);
        goto out;
    }
    size &= ~(page_size - 1);
    if (page_size > RAM_PAGE_SIZE && !check_hugepages(name, size, page_size, error)) {
        goto out;
    }
    if (st.st_size == 0 && !be->readonly) {
        if (ftruncate(fd, (off_t)size) < 0) {
            error_set_errno(error, "%s: making %s %" PRIu64 " bytes long", name, be->mem_path,
                            size);
            goto out;
        }
    } else if ((uint64_t)st.st_size < be->size) {
        /* A page beyond the end of the file would be SIGBUS on touch. */
        error_set(error, ENGINE_ERROR_INVALID,
                  "%s: mem-path %s has %" PRIu64 " bytes, size is %" PRIu64, name, be->mem_path,
                  (uint64_t)st.st_size, be->size);
        goto out;
    }
    block = ram_block_new_fd(name, size, fd, be->share, be->readonly, page_size, error);
out:
    if (!block && fd >= 0) {
        close(fd);
        unmake_file(be);
    }
    g_free(name);
    return block;
}

bool memory_backend_realize(MemoryBackend *be, GError **error)
{
    RamBlock *block;

    if (be->block) {
        return error_set(error, ENGINE_ERROR_BUSY, "memory back end '%s' is already realized",
                         OBJECT(be)->name ? OBJECT(be)->name : object_get_typename(OBJECT(be)));
    }
    if (!be->size && !object_dynamic_cast(OBJECT(be), TYPE_MEMORY_BACKEND_FILE)) {
        char *name = backend_name(be);

        error_set(error, ENGINE_ERROR_INVALID, "%s: size is not set", name);
        g_free(name);
        return false;
    }
    block = MEMORY_BACKEND_GET_CLASS(be)->alloc(be, error);
    if (!block) {
        return false;
    }
    if (!be->dump) {
        madvise(block->host, block->size, MADV_DONTDUMP);
    }
    if (be->merge) {
        madvise(block->host, block->size, MADV_MERGEABLE); /* refused without KSM: no harm */
    }
    if (be->prealloc && !ram_block_prealloc(block, be->prealloc_threads, error)) {
        ram_block_unref(block);
        unmake_file(be);
        return false;
    }
    be->block = block;
    OBJECT(be)->realized = true;
    return true;
}

/* ---- types ------------------------------------------------------------------------------- */

static const Property backend_props[] = {
    DEFINE_PROP_SIZE("size", MemoryBackend, size, 0, "bytes of memory"),
    DEFINE_PROP_BOOL("share", MemoryBackend, share, false,
                     "other processes that map it see the guest's writes, and a file keeps them"),
    DEFINE_PROP_BOOL("prealloc", MemoryBackend, prealloc, false, "populate all of it at once"),
    DEFINE_PROP_UINT32("prealloc-threads", MemoryBackend, prealloc_threads, 1,
                       "threads that populate"),
    DEFINE_PROP_BOOL("dump", MemoryBackend, dump, true, "part of core dumps of this process"),
    DEFINE_PROP_BOOL("merge", MemoryBackend, merge, false,
                     "equal pages may be merged with other processes' (KSM)"),
};

static const Property memfd_props[] = {
    DEFINE_PROP_BOOL("share", MemoryBackend, share, true,
                     "other processes that map it see the guest's writes"),
    DEFINE_PROP_BOOL("hugetlb", MemoryBackend, hugetlb, false, "made of reserved huge pages"),
    DEFINE_PROP_SIZE("hugetlbsize", MemoryBackend, hugetlb_size, 0,
                     "size of a huge page; 0: the host's default"),
};

static const Property file_props[] = {
    DEFINE_PROP_STRING("mem-path", MemoryBackend, mem_path,
                       "a file, or a directory in which an unnamed one is made"),
    DEFINE_PROP_BOOL("readonly", MemoryBackend, readonly, false,
                     "the guest sees ROM, the file is not written"),
};

static void backend_finalize(Object *obj)
{
    MemoryBackend *be = MEMORY_BACKEND(obj);

    ram_block_unref(be->block);
    be->block = NULL;
}

static void backend_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, backend_props, G_N_ELEMENTS(backend_props));
}

static void ram_class_init(ObjectClass *klass, const void *data)
{
    MEMORY_BACKEND_CLASS(klass)->alloc = alloc_ram;
}

static void memfd_class_init(ObjectClass *klass, const void *data)
{
    MEMORY_BACKEND_CLASS(klass)->alloc = alloc_memfd;
    object_class_add_properties(klass, memfd_props, G_N_ELEMENTS(memfd_props));
}

static void file_class_init(ObjectClass *klass, const void *data)
{
    MEMORY_BACKEND_CLASS(klass)->alloc = alloc_file;
    object_class_add_properties(klass, file_props, G_N_ELEMENTS(file_props));
}

static const TypeInfo backend_types[] = {
    {
        .name = TYPE_MEMORY_BACKEND,
        .parent = TYPE_OBJECT,
        .doc = "Memory of the host that becomes RAM of a guest.",
        .abstract = true,
        .instance_size = sizeof(MemoryBackend),
        .instance_finalize = backend_finalize,
        .class_size = sizeof(MemoryBackendClass),
        .class_init = backend_class_init,
    },
    {
        .name = TYPE_MEMORY_BACKEND_RAM,
        .parent = TYPE_MEMORY_BACKEND,
        .doc = "Anonymous memory.",
        .class_init = ram_class_init,
    },
    {
        .name = TYPE_MEMORY_BACKEND_MEMFD,
        .parent = TYPE_MEMORY_BACKEND,
        .doc = "An unnamed file in memory, that can be shared and made of huge pages.",
        .class_init = memfd_class_init,
    },
    {
        .name = TYPE_MEMORY_BACKEND_FILE,
        .parent = TYPE_MEMORY_BACKEND,
        .doc = "A file of the host.",
        .class_init = file_class_init,
    },
};

static void register_backend_types(void)
{
    type_register_static_array(backend_types, G_N_ELEMENTS(backend_types));
}
type_init(register_backend_types)

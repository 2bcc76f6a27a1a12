/*
 * RAM blocks: host memory that guests see.
 *
 * Each mapping lies in a reservation of its own, aligned to 2 MiB (or the back end's page size), so
 * that huge pages can serve it, and is followed by a page without access, so that an overrun of
 * ours is a fault and not somebody else's data.
 */
#include "engine/memory/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define BITS          64
#define PAGEMAP_CHUNK 4096 /* entries a read */

/* ---- mapping ----------------------------------------------------------------------------- */

static uint64_t reservation_size(const RamBlock *block)
{
    return block->size + MAX(block->page_size, RAM_PAGE_SIZE);
}

static bool map_failed(const char *name, uint64_t size, int err, GError **error)
{
    char *text = g_format_size_full(size, G_FORMAT_SIZE_IEC_UNITS);
    char *have = g_format_size_full((uint64_t)sysconf(_SC_PHYS_PAGES) *
                                        (uint64_t)sysconf(_SC_PAGESIZE),
                                    G_FORMAT_SIZE_IEC_UNITS);

    error_set(error, ENGINE_ERROR_LIMIT,
              "RAM '%s': cannot map %" PRIu64 " bytes (%s): %s; this host has %s of memory", name,
              size, text, g_strerror(err), have);
    g_free(text);
    g_free(have);
    return false;
}

/* Maps `fd` (-1: anonymous memory) into a fresh aligned reservation. */
static bool map_block(RamBlock *block, GError **error)
{
    uint64_t align = block->size >= 2 * MiB ? MAX(block->page_size, 2 * MiB) : block->page_size;
    uint64_t total = reservation_size(block), room;
    int prot = block->readonly ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = MAP_FIXED | (block->shared ? MAP_SHARED : MAP_PRIVATE);
    uint8_t *area, *start;

    if (block->size > (UINT64_C(1) << 62) || __builtin_add_overflow(total, align, &room)) {
        return map_failed(block->name, block->size, ENOMEM, error);
    }
    area = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
        return map_failed(block->name, block->size, errno, error);
    }
    start = (uint8_t *)(((uintptr_t)area + align - 1) & ~(uintptr_t)(align - 1));
    if (start > area) {
        munmap(area, (size_t)(start - area));
    }
    if (start + total < area + room) {
        munmap(start + total, (size_t)(area + room - (start + total)));
    }
    /* Huge pages are reserved at once, or the guest would die of the first that is missing. */
    if (block->page_size == RAM_PAGE_SIZE) {
        flags |= MAP_NORESERVE;
    }
    if (block->fd < 0) {
        flags |= MAP_ANONYMOUS;
    }
    if (mmap(start, block->size, prot, flags, block->fd, (off_t)block->fd_offset) == MAP_FAILED) {
        int err = errno;

        munmap(start, total);
        return map_failed(block->name, block->size, err, error);
    }
    block->host = start;
    return true;
}

/* Zeros that become memory when they are written: a block may be larger than the host's memory, and
 * so may be what is kept of it. NULL and errno. */
static void *map_zeros(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* The code map first, as its entries are the larger ones. */
static uint64_t books_size(const RamBlock *block)
{
    return (block->size >> RAM_PAGE_BITS) * sizeof(RamCodePage) +
           DIRTY_CLIENTS * ram_block_bitmap_bytes(block);
}

static void unmap_block(RamBlock *block)
{
    munmap(block->host, reservation_size(block));
    if (block->books) {
        munmap(block->books, books_size(block));
    }
}

static RamBlock *block_new(const char *name, uint64_t size, int fd, bool shared, bool readonly,
                           uint64_t page_size, GError **error)
{
    RamBlock *block = g_new0(RamBlock, 1);

    *block = (RamBlock){
        .ref = 1,
        .size = size,
        .fd = fd,
        .shared = shared,
        .readonly = readonly,
        .page_size = page_size,
        .name = g_strdup(name ? name : ""),
    };
    if (!size || __builtin_add_overflow(size, page_size - 1, &block->size)) {
        error_set(error, ENGINE_ERROR_INVALID, "RAM '%s': %" PRIu64 " bytes is no size for memory",
                  block->name, size);
    } else {
        block->size &= ~(page_size - 1);
        if (map_block(block, error)) {
            block->books = map_zeros(books_size(block));
            if (block->books) {
                return block;
            }
            map_failed(block->name, block->size, errno, error);
            unmap_block(block);
        }
    }
    g_free(block->name);
    g_free(block);
    return NULL;
}

RamBlock *ram_block_new_anonymous(const char *name, uint64_t size, GError **error)
{
    return block_new(name, size, -1, false, false, RAM_PAGE_SIZE, error);
}

RamBlock *ram_block_new_fd(const char *name, uint64_t size, int fd, bool shared, bool readonly,
                           uint64_t page_size, GError **error)
{
    return block_new(name, size, fd, shared, readonly, page_size, error);
}

RamBlock *ram_block_ref(RamBlock *block)
{
    __atomic_fetch_add(&block->ref, 1, __ATOMIC_RELAXED);
    return block;
}

void ram_block_unref(RamBlock *block)
{
    if (!block || __atomic_sub_fetch(&block->ref, 1, __ATOMIC_ACQ_REL)) {
        return;
    }
    unmap_block(block);
    if (block->fd >= 0) {
        close(block->fd);
    }
    g_free(block->name);
    g_free(block);
}

/* ---- populating -------------------------------------------------------------------------- */

typedef struct PreallocJob {
    RamBlock *block;
    uint8_t *start;
    uint64_t len;
    int err; /* 0 or an errno */
    GThread *thread;
} PreallocJob;

/* For kernels without MADV_POPULATE_WRITE (before 5.14): lets the kernel write each page's first
 * byte back to itself, which reports what a store of ours would get as SIGBUS. */
static int populate_by_copy(uint8_t *start, uint64_t len, uint64_t page_size, bool readonly)
{
    for (uint64_t at = 0; at < len; at += page_size) {
        uint8_t byte;
        struct iovec mine = { .iov_base = &byte, .iov_len = 1 };
        struct iovec page = { .iov_base = start + at, .iov_len = 1 };

        if (process_vm_readv(getpid(), &mine, 1, &page, 1, 0) != 1 ||
            (!readonly && process_vm_writev(getpid(), &mine, 1, &page, 1, 0) != 1)) {
            return errno == EFAULT ? ENOMEM : errno;
        }
    }
    return 0;
}

static gpointer prealloc_run(gpointer opaque)
{
    PreallocJob *job = opaque;
    int advice = job->block->readonly ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;

    while (madvise(job->start, job->len, advice) < 0) {
        if (errno == EINTR || errno == EAGAIN) {
            continue;
        }
        job->err = errno;
        break;
    }
    if (job->err == EINVAL) {
        job->err = populate_by_copy(job->start, job->len, job->block->page_size,
                                    job->block->readonly);
    }
    return NULL;
}

/* Signals stay with the threads that handle them. NULL where there can be no more threads. */
static GThread *start_prealloc(PreallocJob *job)
{
    sigset_t all, before;
    GThread *thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = g_thread_try_new("prealloc", prealloc_run, job, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return thread;
}

bool ram_block_prealloc(RamBlock *block, unsigned threads, GError **error)
{
    uint64_t pages = block->size / block->page_size;
    PreallocJob *jobs;
    uint64_t share;
    int err = 0;

    threads = (unsigned)MIN(CLAMP(threads, 1, 256), pages);
    share = (pages + threads - 1) / threads * block->page_size;
    jobs = g_new0(PreallocJob, threads);
    if (block->fd < 0 && block->size >= 2 * MiB) {
        madvise(block->host, block->size, MADV_HUGEPAGE); /* all of it will be there anyway */
    }
    for (unsigned i = 0; i < threads; i++) {
        uint64_t from = MIN(i * share, block->size);

        jobs[i] = (PreallocJob){ .block = block,
                                 .start = block->host + from,
                                 .len = MIN(share, block->size - from) };
        if (i + 1 < threads && jobs[i].len) {
            jobs[i].thread = start_prealloc(&jobs[i]);
        }
        if (!jobs[i].thread && jobs[i].len) {
            prealloc_run(&jobs[i]);
        }
    }
    for (unsigned i = 0; i < threads; i++) {
        if (jobs[i].thread) {
            g_thread_join(jobs[i].thread);
        }
        err = err ? err : jobs[i].err;
    }
    g_free(jobs);
    if (err) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "RAM '%s': cannot preallocate %" PRIu64 " bytes: %s", block->name,
                         block->size, g_strerror(err == EFAULT || err == EHWPOISON ? ENOMEM : err));
    }
    return true;
}

/* ---- what is populated ------------------------------------------------------------------- */

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

/* Calls fn for each page of which the pagemap entry has one of `bits`; false when there is no
 * pagemap to be read. */
static bool pagemap_foreach(const RamBlock *block, uint64_t bits,
                            void (*fn)(uint64_t page, void *opaque), void *opaque)
{
    uint64_t pages = block->size >> RAM_PAGE_BITS;
    uint64_t start = (uintptr_t)block->host >> RAM_PAGE_BITS;
    uint64_t *entries;
    int fd;

    if (sysconf(_SC_PAGESIZE) != RAM_PAGE_SIZE) {
        return false;
    }
    fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    entries = g_new(uint64_t, PAGEMAP_CHUNK);
    for (uint64_t page = 0; page < pages;) {
        uint64_t n = MIN(pages - page, PAGEMAP_CHUNK);
        ssize_t got = pread(fd, entries, n * sizeof(*entries),
                            (off_t)((start + page) * sizeof(*entries)));

        if (got < (ssize_t)sizeof(*entries)) {
            if (got < 0 && errno == EINTR) {
                continue;
            }
            g_free(entries);
            close(fd);
            return false;
        }
        n = (uint64_t)got / sizeof(*entries);
        for (uint64_t i = 0; i < n; i++) {
            if (entries[i] & bits) {
                fn(page + i, opaque);
            }
        }
        page += n;
    }
    g_free(entries);
    close(fd);
    return true;
}

static void bitmap_set(uint64_t page, void *opaque)
{
    unsigned long *bitmap = opaque;

    bitmap[page / BITS] |= 1ul << (page % BITS);
}

/* Marks the pages that the file has data for; all of them where the file system cannot tell. */
static void mark_file_data(const RamBlock *block, unsigned long *bitmap)
{
    off_t base = (off_t)block->fd_offset, end = base + (off_t)block->size;
    off_t at = base;

    while (at < end) {
        off_t data = lseek(block->fd, at, SEEK_DATA), hole;

        if (data < 0 && errno == ENXIO) {
            return;
        }
        hole = data < 0 ? end : lseek(block->fd, data, SEEK_HOLE);
        data = data < 0 ? at : data;
        if (hole < 0 || hole > end) {
            hole = end;
        }
        for (off_t page = (data - base) >> RAM_PAGE_BITS; page << RAM_PAGE_BITS < hole - base;
             page++) {
            bitmap_set((uint64_t)page, bitmap);
        }
        at = hole;
    }
}

void ram_block_foreach_populated(RamBlock *block,
                                 void (*fn)(uint64_t first, uint64_t n, void *opaque), void *opaque)
{
    uint64_t pages = block->size >> RAM_PAGE_BITS, words = (pages + BITS - 1) / BITS;
    unsigned long *bitmap = map_zeros(words * sizeof(*bitmap));
    uint64_t first = 0;

    if (!bitmap) {
        fn(0, pages, opaque); /* rather too many than too few */
        return;
    }
    if (block->fd >= 0) {
        mark_file_data(block, bitmap);
    }
    /* Private pages, also those copied from a file, are known to our page table alone. */
    if (!block->shared &&
        !pagemap_foreach(block, PAGEMAP_PRESENT | PAGEMAP_SWAPPED, bitmap_set, bitmap)) {
        memset(bitmap, 0xff, words * sizeof(*bitmap));
    }
    while (first < pages) {
        uint64_t last;

        if (!bitmap[first / BITS]) {
            first = (first / BITS + 1) * BITS;
            continue;
        }
        if (!(bitmap[first / BITS] >> (first % BITS) & 1)) {
            first++;
            continue;
        }
        last = first;
        while (last < pages && (bitmap[last / BITS] >> (last % BITS) & 1)) {
            last++;
        }
        fn(first, last - first, opaque);
        first = last;
    }
    munmap(bitmap, words * sizeof(*bitmap));
}

static void count_page(uint64_t page, void *opaque)
{
    ++*(uint64_t *)opaque;
}

uint64_t ram_block_resident_bytes(RamBlock *block)
{
    uint64_t pages = 0;
    struct stat st;

    if (block->shared && block->fd >= 0) {
        return fstat(block->fd, &st) == 0 ? MIN((uint64_t)st.st_blocks * 512, block->size) : 0;
    }
    return pagemap_foreach(block, PAGEMAP_PRESENT, count_page, &pages) ? pages * RAM_PAGE_SIZE : 0;
}

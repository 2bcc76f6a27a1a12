/*
 * RAM: blocks of host memory with a dirty bitmap a client, and the back ends that make them.
 *
 * Back ends are QOM types below "memory-backend": memory-backend-ram (anonymous),
 * memory-backend-memfd, memory-backend-file; properties: size, share, prealloc, prealloc-threads,
 * dump, merge, hugetlb, hugetlbsize (memfd), mem-path, readonly (file).
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/qom/object.h"

#define RAM_PAGE_BITS 12
#define RAM_PAGE_SIZE (UINT64_C(1) << RAM_PAGE_BITS)

struct RamBlock {
    int ref;       /* atomic */
    uint8_t *host; /* page-aligned (huge-page-aligned where the back end uses them) */
    uint64_t size; /* bytes, multiple of the page size */
    int fd;        /* -1 for anonymous */
    uint64_t fd_offset;
    bool shared, readonly;
    uint64_t page_size; /* of the back end: 4 KiB, 2 MiB, 1 GiB */
    char *name;
    uint8_t *books;          /* room for what follows, which costs no memory before it is written */
    unsigned long *dirty[3]; /* in `books`: one bitmap a DIRTY_* client; NULL until the client first
                                logs. Bits are set and cleared atomically */
    uint8_t dirty_active;    /* atomic: clients that log now */
    unsigned log_count[3];   /* engine lock: regions that log, a client */
    struct RamCodePage *code; /* a page each; NULL until a software CPU decodes code in here */
};
typedef struct RamBlock RamBlock;

/*
 * Pages that hold decoded code. A software CPU sets in `lines` which 64-byte lines it decoded and
 * remembers the generation; whoever writes to one of them raises the generation. Both go under
 * `lock`, and the writer comes after it has written, the decoder compares what it read after it has
 * set the lines: so a write is never missed.
 */
typedef struct RamCodePage {
    uint64_t lines;      /* under lock; read without it as a hint */
    uint32_t generation; /* atomic */
    uint8_t lock;
    bool seen, shot; /* atomic: held code once, and stays so; all vCPUs know */
} RamCodePage;
#define RAM_DIRTY_CODE_MAP 0x80 /* in dirty_active: `code` is there */
/* The page that `offset` is in. Any thread. */
RamCodePage *ram_block_code_page(RamBlock *block, uint64_t offset);
/* Marks lines [first, last] as decoded; returns the generation. */
uint32_t ram_code_page_add(RamCodePage *page, unsigned first, unsigned last);
/* After a write; ram_block_set_dirty calls it too. Returns whether code was there. */
bool ram_block_code_written(RamBlock *block, uint64_t offset, uint64_t len);

/* Bytes of one bitmap of the block. */
static inline uint64_t ram_block_bitmap_bytes(const RamBlock *block)
{
    return ((block->size >> RAM_PAGE_BITS) + 63) / 64 * sizeof(unsigned long);
}

/* Anonymous, populated on touch, with a guard page after it; `size` is rounded up to whole pages;
 * refused with the sizes when the host cannot. */
RamBlock *ram_block_new_anonymous(const char *name, uint64_t size, GError **error);
/* Maps `fd` from offset 0 (the block owns it from success on), with a guard page. `page_size` is
 * what the file is made of. */
RamBlock *ram_block_new_fd(const char *name, uint64_t size, int fd, bool shared, bool readonly,
                           uint64_t page_size, GError **error);
/* Populates all of it now on `threads` threads (0: one). Never by SIGBUS: what the host cannot
 * give is an error. */
bool ram_block_prealloc(RamBlock *block, unsigned threads, GError **error);
RamBlock *ram_block_ref(RamBlock *block);
void ram_block_unref(RamBlock *block); /* the last one unmaps */

/* Dirty bits: `client` is one of DIRTY_*. Any thread; ranges are clipped to the block. */
void ram_block_enable_dirty(RamBlock *block, unsigned client);  /* engine lock; counts; the first
                                                                   starts all clean */
void ram_block_disable_dirty(RamBlock *block, unsigned client); /* engine lock */
void ram_block_set_dirty(RamBlock *block, uint64_t offset,
                         uint64_t len); /* for every client that logs */
void ram_block_set_dirty_clients(RamBlock *block, uint64_t offset, uint64_t len, unsigned clients);
static inline unsigned ram_dirty_index(unsigned client)
{
    return (unsigned)__builtin_ctz(client);
}
/* Or-s a bitmap that starts at page `first_page` (as KVM_GET_DIRTY_LOG returns it) into every
 * logging client's. */
void ram_block_merge_dirty(RamBlock *block, uint64_t first_page, const unsigned long *bitmap,
                           uint64_t pages);
bool ram_block_test_and_clear_dirty(RamBlock *block, uint64_t offset, uint64_t len,
                                    unsigned client);
/* Calls fn(first_page, n_pages) for each run of dirty pages, in order; they are cleared before fn
 * sees them. Bounded by the block. */
void ram_block_take_dirty(RamBlock *block, unsigned client,
                          void (*fn)(uint64_t first, uint64_t n, void *opaque), void *opaque);
/* The runs of pages that may hold anything but zero (asks the kernel; pages never touched are left
 * out and not populated). */
void ram_block_foreach_populated(RamBlock *block,
                                 void (*fn)(uint64_t first, uint64_t n, void *opaque),
                                 void *opaque);
uint64_t ram_block_resident_bytes(RamBlock *block);

#define TYPE_MEMORY_BACKEND       "memory-backend"
#define TYPE_MEMORY_BACKEND_RAM   "memory-backend-ram"
#define TYPE_MEMORY_BACKEND_MEMFD "memory-backend-memfd"
#define TYPE_MEMORY_BACKEND_FILE  "memory-backend-file"

typedef struct MemoryBackend {
    Object parent;
    uint64_t size, hugetlb_size;
    bool share, prealloc, dump, merge, hugetlb, readonly;
    bool made_file; /* mem_path was not there before */
    uint32_t prealloc_threads;
    char *mem_path;
    RamBlock *block; /* made by memory_backend_realize */
} MemoryBackend;
typedef struct MemoryBackendClass {
    ObjectClass parent_class;
    RamBlock *(*alloc)(MemoryBackend *be, GError **error);
} MemoryBackendClass;
OBJECT_DECLARE_TYPE(MemoryBackend, MemoryBackendClass, MEMORY_BACKEND, TYPE_MEMORY_BACKEND)

/* Allocates by the properties; its properties are fixed from then on. */
bool memory_backend_realize(MemoryBackend *be, GError **error);

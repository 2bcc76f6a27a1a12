/* RAM blocks, their dirty bitmaps, and the back ends. */
#include <check.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"
#include "engine/state/ram-snapshot.h"
#include "tests/unit/engine_error.h"
#include "tests/unit/run_suite.h"

static char *dir;

static void setup(void)
{
    main_loop_init();
    dir = g_dir_make_tmp("vmlua-ram-XXXXXX", NULL);
    ck_assert_ptr_nonnull(dir);
}

static void teardown(void)
{
    char *command = g_strdup_printf("rm -rf '%s'", dir);

    ck_assert_int_eq(system(command), 0);
    g_free(command);
    g_free(dir);
    main_loop_finalize();
}

/* ---- blocks ------------------------------------------------------------------------------ */

START_TEST(a_block_is_rounded_to_pages_zero_and_not_there_until_touched)
{
    RamBlock *b = ram_block_new_anonymous("b", 5000, NULL);

    ck_assert_uint_eq(b->size, 8192);
    ck_assert_uint_eq((uintptr_t)b->host % RAM_PAGE_SIZE, 0);
    ck_assert_uint_eq(ram_block_resident_bytes(b), 0);
    b->host[4096] = 1;
    ck_assert_uint_eq(ram_block_resident_bytes(b), RAM_PAGE_SIZE);
    ck_assert_uint_eq(b->host[0], 0);
    ram_block_unref(b);
    b = ram_block_new_anonymous("big", 64 * MiB, NULL);
    ck_assert_uint_eq((uintptr_t)b->host % (2 * MiB), 0);
    ram_block_unref(b);
}
END_TEST

START_TEST(the_page_after_a_block_faults)
{
    RamBlock *b = ram_block_new_anonymous("b", 4096, NULL);
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile uint8_t *)(b->host + 4096) = 1;
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(!WIFEXITED(status) || WEXITSTATUS(status) != 0, "the write went through");
    ram_block_unref(b);
}
END_TEST

START_TEST(impossible_sizes_are_errors_that_name_the_block_and_the_sizes)
{
    GError *error = NULL;

    ck_assert_ptr_null(ram_block_new_anonymous("huge", UINT64_C(1) << 60, &error));
    ck_assert_error(error, ENGINE_ERROR_LIMIT, "RAM 'huge': cannot map 1152921504606846976 bytes");
    ck_assert_ptr_null(ram_block_new_anonymous("wrap", UINT64_MAX, &error));
    ck_assert_error(error, ENGINE_ERROR_INVALID, "RAM 'wrap': 18446744073709551615 bytes");
    ck_assert_ptr_null(ram_block_new_anonymous("top", UINT64_MAX - 0xfff, &error));
    ck_assert_error(error, ENGINE_ERROR_LIMIT, "RAM 'top': cannot map");
    ck_assert_ptr_null(ram_block_new_anonymous("none", 0, &error));
    ck_assert_error(error, ENGINE_ERROR_INVALID, "RAM 'none': 0 bytes");
}
END_TEST

/* ---- dirty bitmaps ----------------------------------------------------------------------- */

static void add_run(uint64_t first, uint64_t n, void *opaque)
{
    g_string_append_printf(opaque, "%s%lu+%lu", ((GString *)opaque)->len ? " " : "",
                           (unsigned long)first, (unsigned long)n);
}

static void ck_assert_taken(RamBlock *b, unsigned client, const char *expected)
{
    GString *runs = g_string_new(NULL);

    ram_block_take_dirty(b, client, add_run, runs);
    ck_assert_str_eq(runs->str, expected);
    g_string_free(runs, TRUE);
}

START_TEST(what_is_kept_of_a_block_far_larger_than_the_host_takes_no_memory)
{
    GError *error = NULL;
    RamBlock *b = ram_block_new_anonymous("vast", UINT64_C(16) << 40, &error);
    RamCodePage *page;

    if (!b) { /* under ThreadSanitizer there is no address space for it */
        ck_assert_ptr_nonnull(strstr(error->message, "cannot map 17592186044416 bytes"));
        g_error_free(error);
        return;
    }
    page = ram_block_code_page(b, b->size - 1);
    ck_assert_uint_eq(ram_code_page_add(page, 63, 63), 0);
    ram_block_enable_dirty(b, DIRTY_DISPLAY);
    ram_block_set_dirty(b, b->size - 1, 1);
    ck_assert_uint_eq(page->generation, 1);
    ck_assert(ram_block_test_and_clear_dirty(b, b->size - RAM_PAGE_SIZE, 1, DIRTY_DISPLAY));
    ram_block_disable_dirty(b, DIRTY_DISPLAY);
    ram_block_unref(b);
}
END_TEST

START_TEST(dirty_pages_are_taken_in_runs_that_cross_words)
{
    RamBlock *b = ram_block_new_anonymous("b", 200 * RAM_PAGE_SIZE, NULL);

    ram_block_set_dirty(b, 0, UINT64_MAX); /* nobody logs */
    ck_assert_taken(b, DIRTY_DISPLAY, "");
    ram_block_enable_dirty(b, DIRTY_DISPLAY);
    ck_assert_taken(b, DIRTY_DISPLAY, "");
    ram_block_set_dirty(b, 3 * RAM_PAGE_SIZE + 4095, 2);
    ram_block_set_dirty(b, 60 * RAM_PAGE_SIZE, 70 * RAM_PAGE_SIZE);
    ram_block_set_dirty(b, 199 * RAM_PAGE_SIZE, 100 * RAM_PAGE_SIZE);
    ram_block_set_dirty(b, 200 * RAM_PAGE_SIZE, 1);
    ram_block_set_dirty(b, 7 * RAM_PAGE_SIZE, 0);
    ck_assert_taken(b, DIRTY_DISPLAY, "3+2 60+70 199+1");
    ck_assert_taken(b, DIRTY_DISPLAY, "");
    ram_block_set_dirty(b, 0, UINT64_MAX);
    ck_assert_taken(b, DIRTY_DISPLAY, "0+200");
    ram_block_unref(b);
}
END_TEST

START_TEST(clients_are_independent_and_logging_starts_clean)
{
    RamBlock *b = ram_block_new_anonymous("b", 16 * RAM_PAGE_SIZE, NULL);

    ram_block_enable_dirty(b, DIRTY_DISPLAY);
    ram_block_enable_dirty(b, DIRTY_CODE);
    ram_block_set_dirty(b, 0, 1);
    ram_block_set_dirty_clients(b, RAM_PAGE_SIZE, 1, DIRTY_CODE | DIRTY_SNAPSHOT);
    ck_assert_taken(b, DIRTY_DISPLAY, "0+1");
    ck_assert_taken(b, DIRTY_CODE, "0+2");
    ck_assert(!ram_block_test_and_clear_dirty(b, 0, b->size, DIRTY_SNAPSHOT));
    ram_block_set_dirty(b, 0, 1);
    ram_block_enable_dirty(b, DIRTY_CODE); /* a second region of the same block */
    ram_block_disable_dirty(b, DIRTY_CODE);
    ram_block_set_dirty(b, 2 * RAM_PAGE_SIZE, 1);
    ck_assert_taken(b, DIRTY_CODE, "0+1 2+1");
    ram_block_set_dirty(b, 0, 1);
    ram_block_disable_dirty(b, DIRTY_CODE);
    ram_block_set_dirty(b, RAM_PAGE_SIZE, 1);
    ram_block_enable_dirty(b, DIRTY_CODE);
    ck_assert_taken(b, DIRTY_CODE, "");
    ram_block_unref(b);
}
END_TEST

START_TEST(a_bitmap_is_merged_at_any_page_and_cut_at_the_end_of_the_block)
{
    RamBlock *b = ram_block_new_anonymous("b", 100 * RAM_PAGE_SIZE, NULL);
    unsigned long ones[4] = { ~0ul, ~0ul, ~0ul, ~0ul };
    unsigned long some[2] = { 0x8000000000000001ul, 2 };

    ram_block_enable_dirty(b, DIRTY_SNAPSHOT);
    ram_block_merge_dirty(b, 0, some, 128);
    ck_assert_taken(b, DIRTY_SNAPSHOT, "0+1 63+1 65+1");
    ram_block_merge_dirty(b, 5, some, 66);
    ck_assert_taken(b, DIRTY_SNAPSHOT, "5+1 68+1 70+1");
    ram_block_merge_dirty(b, 5, some, 65); /* the bit after the last page does not count */
    ck_assert_taken(b, DIRTY_SNAPSHOT, "5+1 68+1");
    ram_block_merge_dirty(b, 90, ones, 256);
    ck_assert_taken(b, DIRTY_SNAPSHOT, "90+10");
    ram_block_merge_dirty(b, 100, ones, 256);
    ck_assert_taken(b, DIRTY_SNAPSHOT, "");
    ram_block_unref(b);
}
END_TEST

START_TEST(testing_clears_exactly_the_pages_asked_for)
{
    RamBlock *b = ram_block_new_anonymous("b", 200 * RAM_PAGE_SIZE, NULL);

    ram_block_enable_dirty(b, DIRTY_CODE);
    ram_block_set_dirty(b, 0, b->size);
    ck_assert(
        ram_block_test_and_clear_dirty(b, 10 * RAM_PAGE_SIZE + 5, 100 * RAM_PAGE_SIZE, DIRTY_CODE));
    ck_assert(
        !ram_block_test_and_clear_dirty(b, 10 * RAM_PAGE_SIZE, 101 * RAM_PAGE_SIZE, DIRTY_CODE));
    ck_assert_taken(b, DIRTY_CODE, "0+10 111+89");
    ck_assert(!ram_block_test_and_clear_dirty(b, b->size, 1, DIRTY_CODE));
    ram_block_unref(b);
}
END_TEST

START_TEST(populated_pages_are_listed_in_runs)
{
    RamBlock *b = ram_block_new_anonymous("b", 64 * MiB, NULL);
    GString *runs = g_string_new(NULL);

    memset(b->host + 5 * RAM_PAGE_SIZE, 1, 3 * RAM_PAGE_SIZE);
    b->host[16383 * RAM_PAGE_SIZE] = 1;
    ram_block_foreach_populated(b, add_run, runs);
    if (ram_block_resident_bytes(b) == 4 * RAM_PAGE_SIZE) { /* the host may use huge pages always */
        ck_assert_str_eq(runs->str, "5+3 16383+1");
    }
    g_string_free(runs, TRUE);
    ram_block_unref(b);
}
END_TEST

/* ---- back ends --------------------------------------------------------------------------- */

static MemoryBackend *backend(const char *type, ...) G_GNUC_NULL_TERMINATED;
static MemoryBackend *backend(const char *type, ...)
{
    Object *obj = object_new(type, NULL);
    GError *error = NULL;
    const char *name;
    va_list ap;

    va_start(ap, type);
    while ((name = va_arg(ap, const char *))) {
        const char *value = va_arg(ap, const char *);

        ck_assert_msg(object_property_parse(obj, name, value, &error), "%s",
                      error ? error->message : name);
    }
    va_end(ap);
    return MEMORY_BACKEND(obj);
}

static void ck_assert_refused(MemoryBackend *be, int code, const char *text)
{
    GError *error = NULL;

    ck_assert(!memory_backend_realize(be, &error));
    ck_assert_error(error, code, text);
    ck_assert_ptr_null(be->block);
    object_unref(be);
}

START_TEST(the_ram_backend_gives_anonymous_memory_and_its_properties_are_then_fixed)
{
    MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_RAM, "size", "16M", "dump", "off", "merge",
                                "on", NULL);
    GError *error = NULL;

    ck_assert(memory_backend_realize(be, &error));
    ck_assert_uint_eq(be->block->size, 16 * MiB);
    ck_assert_int_eq(be->block->fd, -1);
    ck_assert(!be->block->shared);
    ck_assert(!object_property_parse(OBJECT(be), "size", "32M", &error));
    g_clear_error(&error);
    ck_assert(!memory_backend_realize(be, &error));
    ck_assert_error(error, ENGINE_ERROR_BUSY, "already realized");
    object_unref(be);
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_RAM, NULL), ENGINE_ERROR_INVALID,
                      "size is not set");
}
END_TEST

START_TEST(the_block_outlives_its_backend_while_a_region_uses_it)
{
    MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_RAM, "size", "1M", NULL);
    MemoryRegion mr;

    ck_assert(memory_backend_realize(be, NULL));
    memory_region_init_ram_block(&mr, NULL, "ram", be->block);
    object_unref(be);
    memset(memory_region_get_ram_ptr(&mr), 1, MiB);
    memory_region_finalize(&mr);
}
END_TEST

START_TEST(preallocation_populates_everything_with_any_number_of_threads)
{
    static const char *const threads[] = { "1", "3", "64" };

    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_RAM, "size", "9M", "prealloc", "on",
                                    "prealloc-threads", threads[i], NULL);

        ck_assert(memory_backend_realize(be, NULL));
        ck_assert_uint_eq(ram_block_resident_bytes(be->block), 9 * MiB);
        object_unref(be);
    }
}
END_TEST

START_TEST(a_shared_memfd_is_sealed_and_seen_through_its_descriptor)
{
    MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "1M", NULL);
    char byte = 0;

    ck_assert(memory_backend_realize(be, NULL));
    ck_assert(be->block->shared);
    be->block->host[5] = 42;
    ck_assert_int_eq(pread(be->block->fd, &byte, 1, 5), 1);
    ck_assert_int_eq(byte, 42);
    ck_assert_int_ne(ftruncate(be->block->fd, 0), 0);
    ck_assert_int_ne(ftruncate(be->block->fd, (off_t)(2 * MiB)), 0);
    object_unref(be);
    be = backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "1M", "share", "off", NULL);
    ck_assert(memory_backend_realize(be, NULL));
    be->block->host[5] = 42;
    ck_assert_int_eq(pread(be->block->fd, &byte, 1, 5), 1);
    ck_assert_int_eq(byte, 0);
    object_unref(be);
    be = backend(TYPE_MEMORY_BACKEND_RAM, "size", "1M", "share", "on", NULL);
    ck_assert(memory_backend_realize(be, NULL));
    ck_assert_int_ge(be->block->fd, 0);
    object_unref(be);
}
END_TEST

#define NR_HUGEPAGES   "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define FREE_HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

static long read_number(const char *path)
{
    char *text = NULL;
    long n = g_file_get_contents(path, &text, NULL, NULL) ? atol(text) : -1;

    g_free(text);
    return n;
}

static bool write_number(const char *path, long n)
{
    FILE *f = fopen(path, "w");
    bool ok = f && fprintf(f, "%ld\n", n) > 0;

    return f && fclose(f) == 0 && ok;
}

/* Whether the mapping at p is one of 2 MiB pages, by the kernel's own account. */
static bool mapped_huge(const void *p)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false, huge = false;
    unsigned long start, end, kib;

    while (f && !huge && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            here = (uintptr_t)p >= start && (uintptr_t)p < end;
        } else if (here && sscanf(line, "KernelPageSize: %lu kB", &kib) == 1) {
            huge = kib == 2048;
        }
    }
    if (f) {
        fclose(f);
    }
    return huge;
}

/* In a child: whatever happens in it, the parent gives the reserved pages back. */
static void use_huge_pages(void)
{
    MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "3M", "hugetlb", "on",
                                "hugetlbsize", "2M", NULL);
    RamTracker *t = ram_tracker_new(NULL, NULL);
    RamSnapshot *s;
    GError *error = NULL;
    MemoryRegion mr;
    uint8_t *host;

    ck_assert_msg(memory_backend_realize(be, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(be->block->size, 4 * MiB);
    host = be->block->host;
    ck_assert_uint_eq((uintptr_t)host % (2 * MiB), 0);
    ck_assert(mapped_huge(host));
    /* Reserved, so that the guest cannot run into one that is missing; taken by nobody else. */
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "2M", "hugetlb", "on",
                              "hugetlbsize", "2M", NULL),
                      ENGINE_ERROR_LIMIT, "1 huge pages of 2048 KiB are needed, 0 are free");
    memory_region_init_ram_block(&mr, NULL, "ram", be->block);
    host[0] = 1;
    host[4 * MiB - 1] = 2;
    ram_tracker_add(t, "ram", &mr);
    s = ram_snapshot_take(t, NULL);
    host[0] = 3;
    memory_region_set_dirty(&mr, 0, 1);
    ck_assert(ram_snapshot_restore(t, s, &error));
    ck_assert_uint_eq(host[0], 1);
    ck_assert_uint_eq(host[4 * MiB - 1], 2);
    ram_snapshot_free(t, s);
    ram_tracker_free(t);
    memory_region_finalize(&mr);
    object_unref(be);
}

START_TEST(huge_pages_back_ram_that_is_saved_and_restored_like_any_other)
{
    long before = read_number(NR_HUGEPAGES), free_before = read_number(FREE_HUGEPAGES), now;
    pid_t pid;
    int status = -1;

    if (before < 0 || free_before != 0 || !write_number(NR_HUGEPAGES, before + 2) ||
        read_number(FREE_HUGEPAGES) != 2) {
        printf(
            "ok 1 - huge_pages_back_ram # SKIP two huge pages cannot be reserved on this host\n");
        now = before >= 0 && write_number(NR_HUGEPAGES, before);
        return;
    }
    pid = fork();
    if (pid == 0) {
        use_huge_pages();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    now = read_number(FREE_HUGEPAGES);
    write_number(NR_HUGEPAGES, before);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(now, 2); /* all were given back */
}
END_TEST

START_TEST(huge_pages_that_are_not_there_are_a_clear_error)
{
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "1P", "hugetlb", "on",
                              "hugetlbsize", "2M", NULL),
                      ENGINE_ERROR_LIMIT, "huge pages of 2048 KiB are needed, ");
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "16M", "hugetlb", "on",
                              "hugetlbsize", "32K", NULL),
                      ENGINE_ERROR_UNSUPPORTED, "this host has no huge pages of 32 KiB (it has: ");
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "16M", "hugetlb", "on",
                              "hugetlbsize", "3M", NULL),
                      ENGINE_ERROR_INVALID, "hugetlbsize 3145728 is not a power of two");
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_MEMFD, "size", "16M", "hugetlbsize", "2M", NULL),
                      ENGINE_ERROR_INVALID, "hugetlbsize is set, hugetlb is not");
}
END_TEST

START_TEST(a_file_backend_keeps_what_is_written_only_when_shared)
{
    char *path = g_strdup_printf("%s/ram", dir), *text = NULL;
    MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_FILE, "size", "64K", "mem-path", path, "share",
                                "on", NULL);
    gsize len;

    ck_assert(memory_backend_realize(be, NULL));
    memcpy(be->block->host, "kept", 4);
    object_unref(be);
    be = backend(TYPE_MEMORY_BACKEND_FILE, "mem-path", path, NULL); /* size: the file's */
    ck_assert(memory_backend_realize(be, NULL));
    ck_assert_uint_eq(be->size, 64 * KiB);
    ck_assert_int_eq(memcmp(be->block->host, "kept", 4), 0);
    memcpy(be->block->host, "lost", 4);
    object_unref(be);
    ck_assert(g_file_get_contents(path, &text, &len, NULL));
    ck_assert_uint_eq(len, 64 * KiB);
    ck_assert_int_eq(memcmp(text, "kept", 4), 0);
    g_free(text);
    g_free(path);
}
END_TEST

START_TEST(a_read_only_file_is_rom_for_the_guest_and_never_written)
{
    char *path = g_strdup_printf("%s/rom", dir);
    MemoryBackend *be;
    MemoryRegion root, mr;
    AddressSpace *as;

    ck_assert(g_file_set_contents(path, "firmware", 8, NULL));
    be = backend(TYPE_MEMORY_BACKEND_FILE, "mem-path", path, "readonly", "on", "prealloc", "on",
                 NULL);
    ck_assert(memory_backend_realize(be, NULL));
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    memory_region_init_ram_block(&mr, NULL, "rom", be->block);
    ck_assert_int_eq(memory_region_kind(&mr), MEMORY_ROM);
    memory_region_add_subregion(&root, 0, &mr);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "m");
    ck_assert_uint_eq(address_space_ldn(as, 0, 4, MEMTXATTRS_NONE, NULL), 0x6d726966);
    ck_assert_int_eq(address_space_write(as, 0, MEMTXATTRS_NONE, "x", 1), MEMTX_ERROR);
    ck_assert_int_eq(address_space_write_rom(as, 0, "x", 1), MEMTX_ERROR);
    address_space_free(as);
    memory_region_finalize(&root);
    memory_region_finalize(&mr);
    object_unref(be);
    g_free(path);
}
END_TEST

START_TEST(files_that_cannot_serve_are_refused_by_name)
{
    char *small = g_strdup_printf("%s/small", dir), *none = g_strdup_printf("%s/none", dir);
    char *text;

    ck_assert(g_file_set_contents(small, "12345678", 8, NULL));
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_FILE, "size", "1M", NULL), ENGINE_ERROR_INVALID,
                      "mem-path is not set");
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_FILE, "size", "1M", "mem-path", small, NULL),
                      ENGINE_ERROR_INVALID, "has 8 bytes, size is 1048576");
    ck_assert_refused(
        backend(TYPE_MEMORY_BACKEND_FILE, "size", "1M", "mem-path", none, "readonly", "on", NULL),
        ENGINE_ERROR_IO, "none: No such file");
    ck_assert_refused(backend(TYPE_MEMORY_BACKEND_FILE, "mem-path", none, NULL),
                      ENGINE_ERROR_INVALID, "0 is no size for memory");
    ck_assert_msg(access(none, F_OK) != 0, "a refused back end left its file behind");
    ck_assert_refused(
        backend(TYPE_MEMORY_BACKEND_FILE, "size", "1M", "mem-path", dir, "readonly", "on", NULL),
        ENGINE_ERROR_INVALID, "is a directory");
    ck_assert_refused(
        backend(TYPE_MEMORY_BACKEND_FILE, "size", "1M", "mem-path", "/dev/null", NULL),
        ENGINE_ERROR_INVALID, "/dev/null is not a file");
    ck_assert_int_eq(mkfifo(none, 0600), 0); /* nobody writes: opening it to read would wait */
    ck_assert_refused(
        backend(TYPE_MEMORY_BACKEND_FILE, "size", "1M", "mem-path", none, "readonly", "on", NULL),
        ENGINE_ERROR_INVALID, "none is not a file");
    ck_assert(g_file_get_contents(small, &text, NULL, NULL));
    ck_assert_str_eq(text, "12345678");
    g_free(text);
    g_free(small);
    g_free(none);
}
END_TEST

/* A file system of 1 MiB, which this process alone sees; false where that is not allowed. */
static bool mount_small(const char *at)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", at, "tmpfs", 0, "size=1M") == 0;
}

START_TEST(a_file_that_cannot_be_populated_is_an_error_and_does_not_stay)
{
    g_autofree char *path = g_strdup_printf("%s/ram", dir);
    MemoryBackend *be;

    if (!mount_small(dir)) {
        return;
    }
    be = backend(TYPE_MEMORY_BACKEND_FILE, "size", "2M", "mem-path", path, "share", "on",
                 "prealloc", "on", NULL);
    ck_assert_refused(be, ENGINE_ERROR_LIMIT, "cannot preallocate 2097152 bytes: ");
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert(g_file_set_contents(path, "mine", 4, NULL)); /* one that was there before does */
    ck_assert_int_eq(truncate(path, 2 * MiB), 0);
    be = backend(TYPE_MEMORY_BACKEND_FILE, "size", "2M", "mem-path", path, "share", "on",
                 "prealloc", "on", NULL);
    ck_assert_refused(be, ENGINE_ERROR_LIMIT, "cannot preallocate 2097152 bytes: ");
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(umount(dir), 0);
}
END_TEST

START_TEST(a_directory_gets_an_unnamed_file)
{
    MemoryBackend *be = backend(TYPE_MEMORY_BACKEND_FILE, "size", "64K", "mem-path", dir, NULL);
    GDir *d;

    ck_assert(memory_backend_realize(be, NULL));
    be->block->host[0] = 1;
    d = g_dir_open(dir, 0, NULL);
    ck_assert_ptr_null(g_dir_read_name(d));
    g_dir_close(d);
    object_unref(be);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory ram");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_block_is_rounded_to_pages_zero_and_not_there_until_touched);
    tcase_add_test(tc, the_page_after_a_block_faults);
    tcase_add_test(tc, impossible_sizes_are_errors_that_name_the_block_and_the_sizes);
    tcase_add_test(tc, what_is_kept_of_a_block_far_larger_than_the_host_takes_no_memory);
    tcase_add_test(tc, dirty_pages_are_taken_in_runs_that_cross_words);
    tcase_add_test(tc, clients_are_independent_and_logging_starts_clean);
    tcase_add_test(tc, a_bitmap_is_merged_at_any_page_and_cut_at_the_end_of_the_block);
    tcase_add_test(tc, testing_clears_exactly_the_pages_asked_for);
    tcase_add_test(tc, populated_pages_are_listed_in_runs);
    tcase_add_test(tc, the_ram_backend_gives_anonymous_memory_and_its_properties_are_then_fixed);
    tcase_add_test(tc, the_block_outlives_its_backend_while_a_region_uses_it);
    tcase_add_test(tc, preallocation_populates_everything_with_any_number_of_threads);
    tcase_add_test(tc, a_shared_memfd_is_sealed_and_seen_through_its_descriptor);
    tcase_add_test(tc, huge_pages_back_ram_that_is_saved_and_restored_like_any_other);
    tcase_add_test(tc, huge_pages_that_are_not_there_are_a_clear_error);
    tcase_add_test(tc, a_file_backend_keeps_what_is_written_only_when_shared);
    tcase_add_test(tc, a_read_only_file_is_rom_for_the_guest_and_never_written);
    tcase_add_test(tc, files_that_cannot_serve_are_refused_by_name);
    tcase_add_test(tc, a_file_that_cannot_be_populated_is_an_error_and_does_not_stay);
    tcase_add_test(tc, a_directory_gets_an_unnamed_file);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}

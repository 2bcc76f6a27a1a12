/* What the tests of qcow2 images share: programs to compare with, checks, images in memory. */
#pragma once

#include <sys/wait.h>

#include "engine/block/block_priv.h"
#include "tests/unit/block_rig.h"
#include "tests/unit/memfile.h"

/* Runs a program; its exit status, its output in *out and *err (may be NULL). */
__attribute__((unused)) static int run_argv(char **argv, char **out, char **err)
{
    GError *error = NULL;
    int status = 0;
    GSpawnFlags quiet = (err ? 0 : G_SPAWN_STDERR_TO_DEV_NULL) |
                        (out ? 0 : G_SPAWN_STDOUT_TO_DEV_NULL);
    bool ok = g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | quiet, NULL, NULL, out, err,
                           &status, &error);

    ck_assert_msg(ok, "%s: %s", argv[0], error ? error->message : "");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A line of words with the image's path in place of %s. */
static char *run_stderr; /* of the last run_line: freed by the next */
__attribute__((unused)) static int run_line(char **out, const char *path, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
__attribute__((unused)) static int run_line(char **out, const char *path, const char *format, ...)
{
    g_autofree char *line = NULL;
    g_auto(GStrv) argv = NULL;
    va_list ap;

    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    ck_assert(g_shell_parse_argv(line, NULL, &argv, NULL));
    for (unsigned i = 0; argv[i]; i++) {
        if (!strcmp(argv[i], "@")) {
            g_free(argv[i]);
            argv[i] = g_strdup(path);
        }
    }
    g_clear_pointer(&run_stderr, g_free);
    return run_argv(argv, out, &run_stderr);
}

/* The number of a key in qemu-img's JSON; 0: not there. */
__attribute__((unused)) static uint64_t json_number(const char *json, const char *key)
{
    g_autofree char *quoted = g_strdup_printf("\"%s\":", key);
    const char *at = strstr(json, quoted);

    return at ? g_ascii_strtoull(at + strlen(quoted) + 1, NULL, 10) : 0;
}

typedef struct Oracle {
    int status;
    BlockCheckResult r;
} Oracle;

__attribute__((unused)) static Oracle oracle_check(const char *path, const char *repair)
{
    g_autofree char *out = NULL;
    Oracle o = { 0 };

    o.status = run_line(&out, path, "qemu-img check --output=json -f qcow2 %s @", repair);
    o.r.corruptions = json_number(out, "corruptions");
    o.r.leaks = json_number(out, "leaks");
    o.r.check_errors = json_number(out, "check-errors");
    o.r.corruptions_fixed = json_number(out, "corruptions-fixed");
    o.r.leaks_fixed = json_number(out, "leaks-fixed");
    o.r.allocated_clusters = json_number(out, "allocated-clusters");
    o.r.total_clusters = json_number(out, "total-clusters");
    o.r.fragmented_clusters = json_number(out, "fragmented-clusters");
    o.r.compressed_clusters = json_number(out, "compressed-clusters");
    o.r.image_end_offset = json_number(out, "image-end-offset");
    return o;
}

/* A qcow2 node on what it takes the reference of. */
__attribute__((unused)) static BlockNode *qcow2_on(BlockNode *file, GError **error)
{
    BlockNode *node = block_node_new("qcow2", error);

    ck_assert_ptr_nonnull(node);
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    object_unref(file);
    if (!block_node_open(node, error)) {
        object_unref(node);
        return NULL;
    }
    return node;
}

__attribute__((unused)) static bool check_node(BlockNode *node, int fix, BlockCheckResult *r,
                                               GError **error)
{
    return BLOCK_NODE_GET_CLASS(node)->check(node, fix, r, NULL, NULL, NULL, error);
}

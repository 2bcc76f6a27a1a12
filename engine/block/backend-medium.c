/*
 * Backends: who uses one, and what is in it.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/backend_priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

/* The root goes below its drive when it belongs to nobody. */
static bool take_root(BlockBackend *be, BlockNode *root, GError **error)
{
    if (root && !OBJECT(root)->parent && !OBJECT(root)->gone &&
        !object_add_child(OBJECT(be), "node", OBJECT(root), error)) {
        return false;
    }
    be->root = root ? block_node_use(root) : NULL;
    return true;
}

static void drop_root(BlockBackend *be)
{
    BlockNode *root = g_steal_pointer(&be->root);
    static const char *const names[] = { "filter", "node" };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        Object *child = object_get_child(OBJECT(be), names[i]);

        if (child) {
            object_unparent(child);
        }
    }
    block_node_unuse(root);
}

void block_backend_unparent(Object *obj)
{
    BlockBackend *be = BLOCK_BACKEND(obj);

    block_detach(be);
    for (BlockAio *aio = be->first; aio; aio = aio->next) {
        if (aio->state != AIO_STARTED) {
            block_cancel(aio);
        }
    }
    drop_root(be);
}

BlockBackend *block_backend_new(Object *parent, const char *id, BlockNode *root, GError **error)
{
    static unsigned unnamed; /* engine lock; names only have to differ */
    BlockBackend *be;
    char *name;

    if (root && !block_node_open(root, error)) {
        return NULL;
    }
    be = BLOCK_BACKEND(object_new(TYPE_BLOCK_BACKEND, error));
    if (!be) {
        return NULL;
    }
    name = id ? g_strdup(id) : g_strdup_printf("drive%u", unnamed++);
    be->id = g_strdup(name);
    if (!parent) {
        parent = object_get_container(object_get_root(), "drives");
    }
    if (!object_add_child(parent, name, OBJECT(be), error)) {
        object_unref(be);
        be = NULL;
    } else {
        object_unref(be); /* the tree's remains */
        if (!take_root(be, root, error)) {
            object_unparent(OBJECT(be));
            be = NULL;
        }
    }
    g_free(name);
    return be;
}

bool block_attach(BlockBackend *be, const BlockDeviceOps *ops, void *opaque, bool need_write,
                  GError **error)
{
    if (OBJECT(be)->gone) {
        return error_set(error, ENGINE_ERROR_GONE, "drive '%s' is gone", block_label(be));
    }
    if (be->dev) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "drive '%s' is in use already: one device at a time", block_label(be));
    }
    if (!be->root && !ops->removable) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "drive '%s' is empty, and the device needs a medium", block_label(be));
    }
    if (need_write && be->root && be->root->read_only) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "drive '%s' is read-only, and the device has to write", block_label(be));
    }
    be->dev = ops;
    be->dev_opaque = opaque;
    return true;
}

void block_detach(BlockBackend *be)
{
    if (!be) {
        return;
    }
    be->dev = NULL;
    be->dev_opaque = NULL;
    be->locked = false;
    block_forget_held_back(be);
}

BlockNode *block_root(const BlockBackend *be)
{
    return be->root;
}

bool block_inserted(const BlockBackend *be)
{
    return be->root && !be->tray_open;
}

uint64_t block_length(const BlockBackend *be)
{
    return be->root ? block_node_length(be->root) : 0;
}

bool block_read_only(const BlockBackend *be)
{
    return be->root && be->root->read_only;
}

bool block_write_cache(const BlockBackend *be)
{
    return be->write_cache;
}

void block_set_write_cache(BlockBackend *be, bool on)
{
    be->write_cache = on;
}

bool block_can_discard(const BlockBackend *be)
{
    return be->root && be->root->discard && !be->root->read_only;
}

const char *block_serial(const BlockBackend *be)
{
    return be->serial && *be->serial ? be->serial : NULL;
}

/* ---- the medium ------------------------------------------------------------------------------ */

void block_lock_medium(BlockBackend *be, bool locked)
{
    be->locked = locked;
}

bool block_medium_locked(const BlockBackend *be)
{
    return be->locked;
}

bool block_tray_open(const BlockBackend *be)
{
    return be->tray_open;
}

void block_set_tray(BlockBackend *be, bool open)
{
    be->tray_open = open;
}

static void tell_device(BlockBackend *be)
{
    if (be->dev && be->dev->media_changed) {
        be->dev->media_changed(be->dev_opaque, block_inserted(be));
    }
}

static bool take_out(BlockBackend *be, bool force, GError **error)
{
    if (be->dev && !be->dev->removable) {
        return error_set(error, ENGINE_ERROR_INVALID, "drive '%s': its medium is fixed",
                         block_label(be));
    }
    if (be->locked && !be->tray_open) {
        if (be->dev && be->dev->eject_request) {
            be->dev->eject_request(be->dev_opaque, force);
        }
        if (!force) {
            return error_set(
                error, ENGINE_ERROR_BUSY,
                "drive '%s': the guest has locked the door (it was told; or use force)",
                block_label(be));
        }
    }
    block_quiesce_begin(be);
    if (!block_drain(be, error)) {
        block_quiesce_end(be);
        return false;
    }
    block_forget_held_back(be);
    drop_root(be);
    block_quiesce_end(be);
    return true;
}

bool block_eject(BlockBackend *be, bool force, GError **error)
{
    bool had = be->root;

    if (!take_out(be, force, error)) {
        return false;
    }
    be->tray_open = be->dev && be->dev->removable;
    if (force) {
        be->locked = false;
    }
    if (had) {
        tell_device(be);
    }
    return true;
}

bool block_change_medium(BlockBackend *be, BlockNode *root, bool force, GError **error)
{
    if (!block_node_open(root, error) || !take_out(be, force, error) ||
        !take_root(be, root, error)) {
        return false;
    }
    be->tray_open = false;
    tell_device(be);
    return true;
}

/* The filter is below the drive in the tree, and the former root below the filter. */
bool block_insert_filter(BlockBackend *be, BlockNode *filter, GError **error)
{
    BlockNode *root = be->root;
    bool ok;

    if (!root) {
        object_unref(filter);
        return error_set(error, ENGINE_ERROR_INVALID, "drive '%s' is empty", block_label(be));
    }
    block_quiesce_begin(be);
    filter->read_only = root->read_only;
    filter->discard_mode = root->discard ? 2 : 0;
    ok = block_drain(be, error) &&
         object_property_set_link(OBJECT(filter), "file", OBJECT(root), error) &&
         block_node_open(filter, error) &&
         object_add_child(OBJECT(be), "filter", OBJECT(filter), error);
    if (ok) {
        be->root = block_node_use(filter);
        block_node_unuse(root);
    }
    block_quiesce_end(be);
    object_unref(filter);
    return ok;
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* A partition's last CHS tells how many heads and sectors the disk was set up with. */
static bool geometry_of_table(const uint8_t *mbr, uint64_t sectors, BlockGeometry *out)
{
    if (mbr[510] != 0x55 || mbr[511] != 0xaa) {
        return false;
    }
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *p = mbr + 0x1be + 16 * i;
        uint32_t count = p[12] | p[13] << 8 | p[14] << 16 | (uint32_t)p[15] << 24;
        unsigned heads = p[5] + 1u, per_track = p[6] & 63;
        uint64_t cylinders;

        if (count == 0 || p[5] == 0 || per_track == 0) {
            continue;
        }
        cylinders = sectors / (heads * per_track);
        if (cylinders >= 1 && cylinders <= 16383) {
            *out = (BlockGeometry){ (uint32_t)cylinders, heads, per_track };
            return true;
        }
    }
    return false;
}

void block_guess_geometry(BlockBackend *be, BlockGeometry *out)
{
    uint64_t sectors = block_length(be) / BLOCK_SECTOR_SIZE;
    uint8_t mbr[BLOCK_SECTOR_SIZE];

    if (sectors > 0 && main_loop_is_main_thread() && engine_may_unlock() &&
        block_read_wait(be, 0, mbr, sizeof(mbr), NULL) && geometry_of_table(mbr, sectors, out) &&
        out->heads <= 16) {
        return;
    }
    *out = (BlockGeometry){ (uint32_t)CLAMP(sectors / (16 * 63), 2, 16383), 16, 63 };
}

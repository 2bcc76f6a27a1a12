/* A floppy drive: which disks it takes, what the image in it looks like, its heads and its change
 * line. */
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/floppy/fdc-priv.h"

const char *const fd_kind_words[] = {
    "none", "360K", "1.2M", "720K", "1.44M", "2.88M", "auto", NULL
};

/* Formats in use, by size. */
static const FdFormat formats[] = {
    { 40, 1, 8, true, FDC_RATE_250 },    /* 160K */
    { 40, 1, 9, true, FDC_RATE_250 },    /* 180K */
    { 40, 2, 8, true, FDC_RATE_250 },    /* 320K */
    { 40, 2, 9, true, FDC_RATE_250 },    /* 360K */
    { 80, 2, 9, false, FDC_RATE_250 },   /* 720K */
    { 80, 2, 10, false, FDC_RATE_250 },  /* 800K */
    { 80, 2, 15, true, FDC_RATE_500 },   /* 1.2M */
    { 80, 2, 18, false, FDC_RATE_500 },  /* 1.44M */
    { 80, 2, 20, false, FDC_RATE_500 },  /* 1.6M */
    { 80, 2, 21, false, FDC_RATE_500 },  /* 1.68M, as distributions of software had it */
    { 82, 2, 21, false, FDC_RATE_500 },  /* 1.72M */
    { 83, 2, 21, false, FDC_RATE_500 },  /* 1.74M */
    { 80, 2, 36, false, FDC_RATE_1000 }, /* 2.88M */
};

static uint64_t format_bytes(const FdFormat *f)
{
    return (uint64_t)f->tracks * f->heads * f->sectors * FDC_SECTOR;
}

static bool takes(FdKind kind, const FdFormat *f)
{
    switch (kind) {
    case FD_360:
        return f->five_inch && f->rate == FDC_RATE_250;
    case FD_120:
        return f->five_inch;
    case FD_720:
        return !f->five_inch && f->rate == FDC_RATE_250;
    case FD_144:
        return !f->five_inch && f->rate != FDC_RATE_1000;
    case FD_288:
        return !f->five_inch;
    default:
        return false;
    }
}

/* The format of exactly that size, else the smallest that is larger: an image may be cut short. */
static const FdFormat *find_format(FdKind kind, uint64_t bytes)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (takes(kind, &formats[i]) && format_bytes(&formats[i]) >= bytes) {
            return &formats[i];
        }
    }
    return NULL;
}

static FdKind kind_for(uint64_t bytes)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (formats[i].five_inch && format_bytes(&formats[i]) == bytes) {
            return FD_120;
        }
    }
    return find_format(FD_144, bytes) ? FD_144 : FD_288;
}

void fd_drive_look(FdDrive *d)
{
    uint64_t bytes = d->be && block_inserted(d->be) ? block_length(d->be) : 0;

    d->format = bytes ? find_format(d->kind, bytes) : NULL;
    if (bytes && !d->format) {
        log_warning("%s: a %s floppy drive cannot read an image of %" G_GUINT64_FORMAT " bytes",
                    block_label(d->be), fd_kind_words[d->kind], bytes);
    }
    if (d->format) {
        /* Disks of 40 tracks turn faster in a drive of 1.2M. */
        d->rate = d->kind == FD_120 && d->format->rate == FDC_RATE_250 ? FDC_RATE_300
                                                                       : d->format->rate;
        d->next_sector = (uint8_t)CLAMP(d->next_sector, 1, d->format->sectors);
    }
}

static void media_changed(void *opaque, bool loaded)
{
    FdDrive *d = opaque;

    d->changed = true;
    fd_drive_look(d);
}

static void stop(void *opaque, const char *reason)
{
    FdDrive *d = opaque;

    machine_pause(d->fdc->parent.machine, reason);
}

static const BlockDeviceOps drive_ops = {
    .media_changed = media_changed,
    .stop = stop,
    .removable = true,
};

bool fd_drive_attach(FdDrive *d, Object *be, FdKind kind, GError **error)
{
    d->be = NULL;
    d->kind = kind == FD_AUTO ? FD_NONE : kind;
    if (be && kind == FD_NONE) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: type none, but drive %c has an image",
                         object_get_name(OBJECT(d->fdc)), 'a' + (int)d->index);
    }
    if (be) {
        if (!block_attach((BlockBackend *)be, &drive_ops, d, false, error)) {
            return false;
        }
        d->be = (BlockBackend *)object_ref(be);
        if (kind == FD_AUTO) {
            d->kind = block_inserted(d->be) ? kind_for(block_length(d->be)) : FD_144;
        }
    }
    d->next_sector = 1;
    fd_drive_look(d);
    return true;
}

void fd_drive_detach(FdDrive *d)
{
    if (d->be) {
        block_detach(d->be);
        object_unref(g_steal_pointer(&d->be));
    }
    d->format = NULL;
}

bool fd_drive_write_protected(const FdDrive *d)
{
    return d->be && block_inserted(d->be) && block_read_only(d->be);
}

void fd_drive_step_to(FdDrive *d, unsigned track)
{
    if (track != d->track && d->be && block_inserted(d->be)) {
        d->changed = false;
    }
    d->track = (uint8_t)track;
}

uint64_t fd_drive_offset(const FdDrive *d, unsigned track, unsigned head, unsigned sector)
{
    const FdFormat *f = d->format;

    return (((uint64_t)track * f->heads + head) * f->sectors + sector - 1) * FDC_SECTOR;
}

/* Shared by backend.c and backend-medium.c. */
#pragma once

#include "engine/block/block_priv.h"

typedef enum { AIO_QUEUED, AIO_STARTED, AIO_HELD } AioState;

struct BlockAio {
    BlockReq req;
    BlockBackend *be; /* one reference */
    BlockNode *node;  /* one reference once started */
    AioState state;
    bool by_layer; /* failed here, not in the medium: no policy applies */
    BlockOp op;    /* as it was asked for; detect-zeroes changes that of req */
    unsigned flags;
    uint64_t offset, bytes;
    int64_t start;
    BlockDoneFn done;
    void *opaque;
    BlockAio *prev, *next; /* in order of submission */
};

struct BlockBackend {
    Object parent;
    BlockNode *root; /* one reference; NULL: no medium */
    char *id;        /* property */
    char *serial;    /* property */
    int rerror, werror;
    bool write_cache;
    uint32_t max_in_flight;

    const BlockDeviceOps *dev;
    void *dev_opaque;
    bool tray_open, locked;

    BlockAio *first, *last; /* all that have not been answered */
    unsigned started, queued, held, writes_started;
    unsigned quiesced; /* nothing is started */
    bool kicking;
    BlockStats stats[BLOCK_OP_COUNT];
    BlockBackend *next_backend; /* of the process: for draining all */
};
OBJECT_DECLARE_TYPE(BlockBackend, ObjectClass, BLOCK_BACKEND, TYPE_BLOCK_BACKEND)

BlockBackend *block_backends_first(void);
void block_backend_unparent(Object *obj);

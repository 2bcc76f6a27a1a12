/* Shared by nbd.c, nbd-connect.c and nbd-io.c. */
#pragma once

#include "engine/block/block_priv.h"
#include "engine/block/nbd-library.h"
#include "engine/core/main-loop.h"

typedef enum { NBD_DOWN, NBD_CONNECTING, NBD_UP } NbdState;

/* A request on its way, one part after the other. */
typedef struct NbdOp NbdOp;
typedef struct BlockNbd BlockNbd;
struct NbdOp {
    BlockNbd *s;
    BlockReq *req;
    BlockOp kind;     /* what is sent: zeroes may have to be written */
    uint64_t at, end; /* what is left; whole blocks of the server */
    uint64_t part;    /* bytes of the part that was sent */
    char *bounce;     /* of [start, end): where one buffer is needed */
    uint64_t start;
    bool reads_first; /* a write whose blocks have to be read before */
    bool flushes;     /* the flush behind a write to a server without FUA */
    bool answered;    /* while it was being given */
    bool submitting;  /* libnbd is being given it */
    bool again;       /* the connection went while the server had it */
    int error;
    BlockRange range;
    BlockStatus status;
    NbdOp *next;
};

struct BlockNbd {
    BlockNode parent;
    /* properties */
    char *uri, *server_type, *path, *host, *port, *export_name;
    char *tls_certificates, *tls_psk_file, *tls_username;
    bool tls, tls_verify_peer;
    uint32_t reconnect_delay, open_timeout; /* seconds */

    struct nbd_handle *h; /* NULL: down */
    NbdState state;
    GSource *watch;
    int watch_fd;
    GIOCondition watching;
    bool can_flush, can_fua, can_trim, can_zero, can_fast_zero, can_status;
    uint64_t part_max;              /* bytes of one read or write */
    NbdOp *waiting, **waiting_last; /* for a connection */
    NbdOp *settled;                 /* have an answer, and wait for `bh` */
    BottomHalf *bh;
    Timer retry, give_up;
    uint32_t retry_ms;
    bool hopeless; /* requests are not kept any more: the server has been away for too long */
    BlockRanges ranges;
};
OBJECT_DECLARE_TYPE(BlockNbd, BlockNodeClass, BLOCK_NBD, "block-nbd")

/* ---- nbd-connect.c ---- */

/* A handle that has begun to connect; NULL + error. */
struct nbd_handle *nbd_begin(BlockNbd *s, GError **error);
/* Reads what the server offers; checks it. `again`: it is the same export as before. */
bool nbd_take_export(BlockNbd *s, struct nbd_handle *h, bool again, GError **error);
bool nbd_connect_now(BlockNbd *s, GError **error); /* waits */
void nbd_lost(BlockNbd *s, const char *why);       /* the connection is gone: try again */
void nbd_drop(BlockNbd *s);                        /* no connection, no watch */
void nbd_rewatch(BlockNbd *s);
void nbd_retry_timer(void *opaque);
void nbd_give_up_timer(void *opaque);
/* "nbd:…" and "nbd://…" to properties. */
bool nbd_parse_filename(BlockNode *node, const char *filename, GError **error);

/* ---- nbd-io.c ---- */

void nbd_submit(BlockNode *node, BlockReq *req);
void nbd_cancel(BlockNode *node, BlockReq *req);
void nbd_send_waiting(BlockNbd *s);
void nbd_fail_waiting(BlockNbd *s);
void nbd_settle(void *opaque);

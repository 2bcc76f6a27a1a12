/*
 * "throttle": no more requests and bytes a second than allowed, with bursts.
 *
 * Each limit is a bucket that leaks at the allowed rate and that every request fills; while it is
 * fuller than a burst, requests of its kind wait, in order. With -max M and -max-length L the burst
 * is M a second for L seconds, otherwise a tenth of a second's worth.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

enum { TOTAL, READS, WRITES, WAYS };
enum { IOPS, BPS, KINDS };

typedef struct Bucket {
    uint64_t avg, max, length; /* properties: a second; length in seconds */
    double level;
    int64_t leaked; /* when */
} Bucket;

typedef struct BlockThrottle {
    BlockNode parent;
    Bucket buckets[KINDS][WAYS];
    uint64_t iops_size;
    BlockReq *first[2], **last[2]; /* waiting: reads, everything else */
    Timer timer;
} BlockThrottle;
OBJECT_DECLARE_TYPE(BlockThrottle, BlockNodeClass, BLOCK_THROTTLE, "block-throttle")

static double burst(const Bucket *b)
{
    return b->max ? (double)b->max * (double)b->length : (double)b->avg / 10;
}

static void leak(Bucket *b, int64_t now)
{
    b->level = MAX(b->level - (double)b->avg * (double)(now - b->leaked) / 1e9, 0);
    b->leaked = now;
}

static bool is_read(const BlockReq *req)
{
    return req->op == BLOCK_OP_READ;
}

/* Nanoseconds until the request may go. */
static int64_t wait_time(BlockThrottle *s, const BlockReq *req, int64_t now)
{
    unsigned ways[2] = { TOTAL, is_read(req) ? READS : WRITES };
    double wait = 0;

    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (unsigned i = 0; i < 2; i++) {
            Bucket *b = &s->buckets[kind][ways[i]];

            if (b->avg) {
                leak(b, now);
                wait = MAX(wait, (b->level - burst(b)) / (double)b->avg);
            }
        }
    }
    return (int64_t)(MIN(wait, 3600) * 1e9);
}

static void charge(BlockThrottle *s, const BlockReq *req)
{
    unsigned ways[2] = { TOTAL, is_read(req) ? READS : WRITES };
    double ops = 1;

    if (s->iops_size && req->bytes > s->iops_size) {
        ops = (double)req->bytes / (double)s->iops_size;
    }
    for (unsigned i = 0; i < 2; i++) {
        s->buckets[IOPS][ways[i]].level += ops;
        s->buckets[BPS][ways[i]].level += (double)req->bytes;
    }
}

static bool take_first(BlockThrottle *s, unsigned queue)
{
    BlockReq *req = s->first[queue];

    s->first[queue] = req->next;
    if (!req->next) {
        s->last[queue] = &s->first[queue];
    }
    block_node_submit(block_node_file(&s->parent), req);
    return s->first[queue];
}

/* Whoever may go goes; the timer is set for the next. */
static void run_queues(BlockThrottle *s)
{
    int64_t now = clock_now(clock_realtime()), next = INT64_MAX;

    for (unsigned q = 0; q < 2; q++) {
        while (s->first[q]) {
            int64_t wait = s->parent.drained ? 0 : wait_time(s, s->first[q], now);

            if (wait > 0) {
                next = MIN(next, now + wait);
                break;
            }
            charge(s, s->first[q]);
            take_first(s, q);
        }
    }
    if (next != INT64_MAX) {
        timer_arm(&s->timer, next);
    } else {
        timer_disarm(&s->timer);
    }
}

static void timer_fired(void *opaque)
{
    run_queues(opaque);
}

static void throttle_submit(BlockNode *node, BlockReq *req)
{
    BlockThrottle *s = BLOCK_THROTTLE(node);
    unsigned q = is_read(req) ? 0 : 1;

    if (req->op == BLOCK_OP_FLUSH || req->op == BLOCK_OP_STATUS || req->op == BLOCK_OP_DISCARD) {
        block_node_submit(block_node_file(node), req);
        return;
    }
    req->next = NULL;
    *s->last[q] = req;
    s->last[q] = &req->next;
    if (s->first[q] == req) {
        run_queues(s);
    }
}

static void throttle_cancel(BlockNode *node, BlockReq *req)
{
    BlockThrottle *s = BLOCK_THROTTLE(node);
    unsigned q = is_read(req) ? 0 : 1;

    for (BlockReq **at = &s->first[q]; *at; at = &(*at)->next) {
        if (*at == req) {
            *at = req->next;
            if (!*at) {
                s->last[q] = at;
            }
            block_req_complete(req, ECANCELED);
            return;
        }
    }
}

static void throttle_drain(BlockNode *node)
{
    run_queues(BLOCK_THROTTLE(node));
}

static bool throttle_open(BlockNode *node, GError **error)
{
    static const char *const ways[] = { "total", "read", "write" };
    BlockThrottle *s = BLOCK_THROTTLE(node);

    for (unsigned kind = 0; kind < KINDS; kind++) {
        const char *what = kind == IOPS ? "iops" : "bps";

        for (unsigned w = 0; w < WAYS; w++) {
            Bucket *b = &s->buckets[kind][w];

            if (b->max && !b->avg) {
                return error_set(error, ENGINE_ERROR_INVALID, "throttle: %s-%s-max needs %s-%s",
                                 what, ways[w], what, ways[w]);
            }
            if (b->max && (b->max < b->avg || b->length < 1 || b->length > 3600)) {
                return error_set(
                    error, ENGINE_ERROR_INVALID,
                    "throttle: %s-%s-max is at least %s-%s, its length 1 to 3600 seconds", what,
                    ways[w], what, ways[w]);
            }
        }
        if (s->buckets[kind][TOTAL].avg &&
            (s->buckets[kind][READS].avg || s->buckets[kind][WRITES].avg)) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "throttle: %s-total excludes %s-read and %s-write", what, what, what);
        }
    }
    for (unsigned q = 0; q < 2; q++) {
        s->first[q] = NULL;
        s->last[q] = &s->first[q];
    }
    timer_setup(&s->timer, clock_realtime(), timer_fired, s);
    node->length = block_node_length(block_node_file(node));
    node->discard = block_node_file(node)->discard;
    return true;
}

static void throttle_close(BlockNode *node)
{
    timer_disarm(&BLOCK_THROTTLE(node)->timer);
}

#define LIMIT(kind, KIND, way, WAY, what)                                                        \
    DEFINE_PROP_UINT64(kind "-" way, BlockThrottle, buckets[KIND][WAY].avg, 0,                   \
                       what " a second; 0: no limit"),                                           \
        DEFINE_PROP_UINT64(kind "-" way "-max", BlockThrottle, buckets[KIND][WAY].max, 0,        \
                           what " a second in a burst"),                                         \
        DEFINE_PROP_UINT64(kind "-" way "-max-length", BlockThrottle, buckets[KIND][WAY].length, \
                           1, "seconds that a burst may last")
static const Property throttle_properties[] = {
    LIMIT("iops", IOPS, "total", TOTAL, "requests"),
    LIMIT("iops", IOPS, "read", READS, "reads"),
    LIMIT("iops", IOPS, "write", WRITES, "writes"),
    LIMIT("bps", BPS, "total", TOTAL, "bytes"),
    LIMIT("bps", BPS, "read", READS, "bytes read"),
    LIMIT("bps", BPS, "write", WRITES, "bytes written"),
    DEFINE_PROP_UINT64("iops-size", BlockThrottle, iops_size, 0,
                       "a request of more bytes counts as several; 0: as one"),
};

static void throttle_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "throttle";
    node->is_filter = node->needs_file = true;
    node->open = throttle_open;
    node->close = throttle_close;
    node->submit = throttle_submit;
    node->cancel = throttle_cancel;
    node->drain = throttle_drain;
    object_class_add_properties(klass, throttle_properties, G_N_ELEMENTS(throttle_properties));
}

static const TypeInfo throttle_info = {
    .name = "block-throttle",
    .parent = TYPE_BLOCK_NODE,
    .doc = "Limits requests and bytes a second",
    .instance_size = sizeof(BlockThrottle),
    .class_init = throttle_class_init,
};

static void register_throttle(void)
{
    type_register_static(&throttle_info);
}
type_init(register_throttle)

/*
 * "script": somebody outside the engine answers every request: a disk that a script makes up.
 * "fault": a filter that somebody outside may disturb: errors, delays, torn writes, power cuts.
 *
 * Requests are handed over from a bottom half, one after the other in order of their arrival, so
 * that a script never runs inside a device's submission.
 *
 * With volatile=on the filter is a disk with a write cache: writes stay in memory until a flush,
 * and a power cut loses them, or all but some. What was flushed has arrived below.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

/* What both have. */
typedef struct BlockScript {
    BlockNode parent;
    const BlockScriptOps *ops;
    void *ops_opaque;
    BlockReq *first, **last; /* to be handed over */
    BottomHalf *bh;
    uint64_t index;
    uint64_t size; /* property of "script" */
} BlockScript;
OBJECT_DECLARE_TYPE(BlockScript, BlockNodeClass, BLOCK_SCRIPT, "block-script-base")

/* Kept in req->priv from submission to resolution. */
typedef struct Ticket {
    uint64_t index;
    Timer timer;
    BlockReq *req;
    BlockFault fault;
} Ticket;

static void hand_over(void *opaque)
{
    BlockScript *s = opaque;
    BlockReq *req = s->first;

    if (!req) {
        return;
    }
    s->first = req->next;
    if (s->first) {
        bh_schedule(s->bh);
    } else {
        s->last = &s->first;
    }
    req->next = NULL;
    if (s->ops) {
        s->ops->request(s->ops_opaque, req);
    } else {
        block_script_finish(req, EIO);
    }
}

static void queue(BlockScript *s, BlockReq *req)
{
    Ticket *t = g_new0(Ticket, 1);

    t->index = ++s->index;
    t->req = req;
    req->priv = t;
    req->next = NULL;
    *s->last = req;
    s->last = &req->next;
    bh_schedule(s->bh);
}

void block_script_set(BlockNode *node, const BlockScriptOps *ops, void *opaque)
{
    BlockScript *s = BLOCK_SCRIPT(node);

    s->ops = ops;
    s->ops_opaque = opaque;
}

BlockOp block_script_op(const BlockScriptRequest *r)
{
    return r->op;
}

uint64_t block_script_offset(const BlockScriptRequest *r)
{
    return r->offset;
}

uint64_t block_script_bytes(const BlockScriptRequest *r)
{
    return r->bytes;
}

uint64_t block_script_index(const BlockScriptRequest *r)
{
    return ((const Ticket *)r->priv)->index;
}

void block_script_get(const BlockScriptRequest *r, void *buf, size_t len)
{
    block_iov_to_buf(r->iov, r->niov, 0, buf, len);
}

void block_script_put(BlockScriptRequest *r, const void *buf, size_t len)
{
    block_iov_from_buf(r->iov, r->niov, 0, buf, len);
}

void block_script_finish(BlockScriptRequest *r, int error)
{
    g_free(g_steal_pointer(&r->priv));
    block_req_complete(r, error);
}

static void base_open(BlockScript *s)
{
    s->first = NULL;
    s->last = &s->first;
    s->index = 0;
    s->bh = bh_new(hand_over, s);
}

static void base_close(BlockNode *node)
{
    bh_free(g_steal_pointer(&BLOCK_SCRIPT(node)->bh));
}

/* ---- script ---------------------------------------------------------------------------------- */

static void script_submit(BlockNode *node, BlockReq *req)
{
    BlockScript *s = BLOCK_SCRIPT(node);

    if (req->op != BLOCK_OP_FLUSH &&
        (req->offset > node->length || req->bytes > node->length - req->offset)) {
        block_req_complete(req, EINVAL);
    } else if (req->op == BLOCK_OP_STATUS) {
        req->status->bytes = req->bytes;
        req->status->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
        block_req_complete(req, 0);
    } else if ((req->op == BLOCK_OP_READ || req->op == BLOCK_OP_WRITE) && req->bytes > 64 * MiB) {
        block_req_complete(req, EINVAL);
    } else {
        queue(s, req);
    }
}

static bool script_open(BlockNode *node, GError **error)
{
    BlockScript *s = BLOCK_SCRIPT(node);

    if (s->size > BLOCK_MAX_BYTES) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "script: %" G_GUINT64_FORMAT " bytes are too many", s->size);
    }
    node->length = s->size;
    base_open(s);
    return true;
}

static const Property script_properties[] = {
    DEFINE_PROP_SIZE("size", BlockScript, size, MiB, "bytes of the disk"),
};

static void script_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "script";
    node->open = script_open;
    node->close = base_close;
    node->submit = script_submit;
    object_class_add_properties(klass, script_properties, G_N_ELEMENTS(script_properties));
}

/* ---- fault ----------------------------------------------------------------------------------- */

/* A write that has been answered and has not reached the node below. */
typedef struct Unflushed {
    uint64_t offset, bytes;
    uint8_t *data; /* NULL: zeroes */
    unsigned refs;
} Unflushed;

typedef struct BlockFaultNode {
    BlockScript parent;
    bool is_volatile;   /* property */
    bool dead;          /* the power is off */
    GPtrArray *cache;   /* of Unflushed, in order */
    GPtrArray *delayed; /* of Ticket */
    GQueue settling;    /* of Settle: the first is at work */
} BlockFaultNode;
OBJECT_DECLARE_TYPE(BlockFaultNode, BlockNodeClass, BLOCK_FAULT, TYPE_BLOCK_FAULT)

static void unflushed_unref(void *opaque)
{
    Unflushed *u = opaque;

    if (u && --u->refs == 0) {
        g_free(u->data);
        g_free(u);
    }
}

static Unflushed *unflushed_ref(Unflushed *u)
{
    u->refs++;
    return u;
}

static void remember(BlockFaultNode *s, const BlockReq *req, uint64_t bytes)
{
    Unflushed *u = g_new0(Unflushed, 1);

    u->offset = req->offset;
    u->bytes = bytes;
    u->refs = 1;
    if (req->op == BLOCK_OP_WRITE) {
        u->data = g_malloc(bytes);
        block_iov_to_buf(req->iov, req->niov, 0, u->data, bytes);
    }
    g_ptr_array_add(s->cache, u);
}

/* What is remembered over what was read, in order. */
static void overlay_cache(BlockFaultNode *s, BlockReq *req)
{
    for (unsigned i = 0; i < s->cache->len; i++) {
        Unflushed *u = s->cache->pdata[i];
        uint64_t from = MAX(u->offset, req->offset);
        uint64_t to = MIN(u->offset + u->bytes, req->offset + req->bytes);

        if (from >= to) {
            continue;
        }
        if (u->data) {
            g_autofree struct iovec *iov = g_memdup2(req->iov, req->niov * sizeof(*iov));
            uint64_t skip = from - req->offset;
            BlockReq part;

            block_req_init(&part, BLOCK_OP_READ, 0, to - from, iov, req->niov, skip, 0, NULL, NULL);
            block_iov_from_buf(part.iov, part.niov, 0, u->data + (from - u->offset), to - from);
            block_req_clear(&part);
        } else {
            block_iov_zero(req->iov, req->niov, from - req->offset, to - from);
        }
    }
}

/* Writes what is remembered below, in order, then goes on with `then` (a flush of below, or
 * nothing: a power cut that kept some). Until it is below it stays in the cache, for readers. */
typedef struct Settle {
    BlockFaultNode *s;
    GPtrArray *writes; /* NULL until its turn comes: the cache as it is then */
    unsigned at;
    BlockReq *then;
    int error;
    bool cut;
    BlockReq sub;
} Settle;

static void settle_next(Settle *st);

static void settle_done(BlockReq *req)
{
    Settle *st = req->opaque;

    block_req_clear(req);
    if (req->error && !st->error) {
        st->error = req->error;
    }
    settle_next(st);
}

static void settle_start(Settle *st)
{
    if (!st->writes) {
        st->writes = g_ptr_array_new_with_free_func(unflushed_unref);
        for (unsigned i = 0; i < st->s->cache->len; i++) {
            g_ptr_array_add(st->writes, unflushed_ref(st->s->cache->pdata[i]));
        }
    }
    settle_next(st);
}

static void settle_over(Settle *st)
{
    BlockFaultNode *s = st->s;
    BlockNode *below = block_node_file(&s->parent.parent);

    for (unsigned i = 0; !st->error && i < st->writes->len; i++) {
        g_ptr_array_remove(s->cache, st->writes->pdata[i]);
    }
    g_ptr_array_free(st->writes, TRUE);
    if (st->cut || st->error) {
        block_req_complete(st->then, st->error ? st->error : EIO);
    } else {
        block_node_submit(below, st->then);
    }
    g_queue_pop_head(&s->settling);
    g_free(st);
    if (!g_queue_is_empty(&s->settling)) {
        settle_start(g_queue_peek_head(&s->settling));
    }
}

static void settle_next(Settle *st)
{
    if (st->at < st->writes->len) {
        Unflushed *u = st->writes->pdata[st->at++];
        struct iovec iov = { u->data, u->bytes };

        block_req_init(&st->sub, u->data ? BLOCK_OP_WRITE : BLOCK_OP_ZERO, u->offset, u->bytes,
                       u->data ? &iov : NULL, u->data ? 1 : 0, 0, 0, settle_done, st);
        block_node_submit(block_node_file(&st->s->parent.parent), &st->sub);
        return;
    }
    settle_over(st);
}

static void settle(BlockFaultNode *s, BlockReq *then, GPtrArray *writes, bool cut)
{
    Settle *st = g_new0(Settle, 1);

    st->s = s;
    st->writes = writes;
    st->then = then;
    st->cut = cut;
    g_queue_push_tail(&s->settling, st);
    if (g_queue_get_length(&s->settling) == 1) {
        settle_start(st);
    }
}

static void power_cut(BlockFaultNode *s, BlockReq *req, const BlockFault *f)
{
    GPtrArray *kept = g_ptr_array_new_with_free_func(unflushed_unref);
    GRand *rand = g_rand_new_with_seed((guint32)(f->keep_seed ^ f->keep_seed >> 32));

    s->dead = true;
    /* Each write of the cache has made it or not, in any order: what overlaps is as it may be. */
    for (unsigned i = 0; f->keep_some && i < s->cache->len; i++) {
        if (g_rand_boolean(rand)) {
            gint at = g_rand_int_range(rand, 0, (gint32)kept->len + 1);

            g_ptr_array_insert(kept, at, unflushed_ref(s->cache->pdata[i]));
        }
    }
    g_rand_free(rand);
    g_ptr_array_set_size(s->cache, 0);
    settle(s, req, kept, true);
}

static void read_done(BlockReq *req)
{
    BlockReq *parent = req->opaque;
    int error = req->error;

    if (!error) {
        overlay_cache(BLOCK_FAULT(parent->node), parent);
    }
    block_req_free(req);
    block_req_done(parent, error);
}

static void torn_done(BlockReq *req)
{
    BlockReq *parent = req->opaque;
    int error = GPOINTER_TO_INT(parent->priv);

    parent->priv = NULL;
    error = req->error ? req->error : error;
    block_req_free(req);
    block_req_done(parent, error);
}

static void pass_volatile(BlockFaultNode *s, BlockReq *req, uint64_t bytes, int error)
{
    BlockNode *below = block_node_file(&s->parent.parent);

    switch (req->op) {
    case BLOCK_OP_WRITE:
    case BLOCK_OP_ZERO:
        if (bytes > 0) {
            remember(s, req, bytes);
        }
        if ((req->flags & BLOCK_FUA) && !error) {
            req->op = BLOCK_OP_FLUSH;
            req->niov = 0;
            settle(s, req, NULL, false);
        } else {
            block_req_complete(req, error);
        }
        break;
    case BLOCK_OP_READ:
        req->node = &s->parent.parent;
        block_node_submit(below, block_req_new(BLOCK_OP_READ, req->offset, req->bytes, req->iov,
                                               req->niov, 0, 0, read_done, req));
        break;
    case BLOCK_OP_FLUSH:
        settle(s, req, NULL, false);
        break;
    case BLOCK_OP_DISCARD: /* a hint: what is remembered must not be overtaken */
        block_req_complete(req, 0);
        break;
    default:
        block_node_submit(below, req);
        break;
    }
}

static void carry_out(BlockReq *req, const BlockFault *f)
{
    BlockFaultNode *s = BLOCK_FAULT(req->node);
    BlockNode *below = block_node_file(&s->parent.parent);
    bool torn = f->torn >= 0 && req->op == BLOCK_OP_WRITE && (uint64_t)f->torn < req->bytes;
    uint64_t bytes = torn ? (uint64_t)f->torn : req->bytes;

    if (s->dead) {
        block_req_complete(req, EIO);
    } else if (f->power_cut) {
        power_cut(s, req, f);
    } else if (f->error && !torn) {
        block_req_complete(req, f->error);
    } else if (s->is_volatile) {
        pass_volatile(s, req, bytes, f->error);
    } else if (torn && bytes == 0) {
        block_req_complete(req, f->error);
    } else if (torn) {
        req->priv = GINT_TO_POINTER(f->error);
        block_node_submit(below, block_req_new(BLOCK_OP_WRITE, req->offset, bytes, req->iov,
                                               req->niov, 0, req->flags, torn_done, req));
    } else {
        block_node_submit(below, req);
    }
}

static void release(Ticket *t)
{
    BlockReq *req = t->req;
    BlockFault fault = t->fault;

    timer_disarm(&t->timer);
    g_ptr_array_remove(BLOCK_FAULT(req->node)->delayed, t);
    req->priv = NULL;
    g_free(t);
    carry_out(req, &fault);
}

static void delay_over(void *opaque)
{
    release(opaque);
}

void block_fault_resolve(BlockScriptRequest *r, const BlockFault *fault)
{
    BlockFaultNode *s = BLOCK_FAULT(r->node);
    Ticket *t = r->priv;

    t->fault = *fault;
    g_ptr_array_add(s->delayed, t);
    if (fault->delay_ns > 0 && !s->parent.parent.drained) {
        timer_setup(&t->timer, clock_realtime(), delay_over, t);
        timer_arm(&t->timer, clock_now(clock_realtime()) + MIN(fault->delay_ns, 3600 * NS_PER_SEC));
    } else {
        timer_setup(&t->timer, clock_realtime(), delay_over, t);
        release(t);
    }
}

void block_fault_power_on(BlockNode *node)
{
    BLOCK_FAULT(node)->dead = false;
}

static void fault_submit(BlockNode *node, BlockReq *req)
{
    static const BlockFault none = { .torn = -1 };
    BlockFaultNode *s = BLOCK_FAULT(node);

    if (s->parent.ops || s->parent.first) {
        queue(&s->parent, req);
    } else {
        carry_out(req, &none);
    }
}

static void fault_drain(BlockNode *node)
{
    BlockFaultNode *s = BLOCK_FAULT(node);

    while (s->delayed->len > 0) {
        release(s->delayed->pdata[0]);
    }
}

static bool fault_open(BlockNode *node, GError **error)
{
    BlockFaultNode *s = BLOCK_FAULT(node);

    node->length = block_node_length(block_node_file(node));
    node->discard = block_node_file(node)->discard;
    base_open(&s->parent);
    s->cache = g_ptr_array_new_with_free_func(unflushed_unref);
    s->delayed = g_ptr_array_new();
    g_queue_init(&s->settling);
    s->dead = false;
    return true;
}

/* A volatile cache that nobody flushed is lost with the node, as it would be. */
static void fault_close(BlockNode *node)
{
    BlockFaultNode *s = BLOCK_FAULT(node);

    g_ptr_array_free(g_steal_pointer(&s->cache), TRUE);
    g_ptr_array_free(g_steal_pointer(&s->delayed), TRUE);
    base_close(node);
}

static const Property fault_properties[] = {
    DEFINE_PROP_BOOL("volatile", BlockFaultNode, is_volatile, false,
                     "writes stay in a cache until they are flushed; a power cut loses them"),
    { .name = "dead",
      .doc = "the power is off",
      .kind = PROP_BOOL,
      .offset = offsetof(BlockFaultNode, dead),
      .flags = PROP_READ_ONLY },
};

static void fault_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "fault";
    node->is_filter = node->needs_file = true;
    node->open = fault_open;
    node->close = fault_close;
    node->submit = fault_submit;
    node->drain = fault_drain;
    object_class_add_properties(klass, fault_properties, G_N_ELEMENTS(fault_properties));
}

static const TypeInfo script_types[] = {
    { .name = "block-script-base",
      .parent = TYPE_BLOCK_NODE,
      .doc = "Nodes that somebody outside the engine has a say in",
      .instance_size = sizeof(BlockScript),
      .abstract = true },
    { .name = TYPE_BLOCK_SCRIPT,
      .parent = "block-script-base",
      .doc = "A disk that a script answers for",
      .class_init = script_class_init },
    { .name = TYPE_BLOCK_FAULT,
      .parent = "block-script-base",
      .doc = "A filter that fails, delays, tears and loses what it is told to",
      .instance_size = sizeof(BlockFaultNode),
      .class_init = fault_class_init },
};

static void register_script(void)
{
    type_register_static_array(script_types, G_N_ELEMENTS(script_types));
}
type_init(register_script)

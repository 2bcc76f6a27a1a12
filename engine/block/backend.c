/*
 * Backends: a device's end of the block layer. Requests wait here for their turn (limits, barriers,
 * quiescing), are counted and timed, and meet the policy for errors.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/backend_priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define DRAIN_LIMIT_NS (30 * NS_PER_SEC)

static BlockBackend *backends; /* all that exist; engine lock */

BlockBackend *block_backends_first(void)
{
    return backends;
}

const char *block_op_name(BlockOp op)
{
    static const char *const names[] = { "read", "write", "flush", "discard", "zero", "status" };

    return op < BLOCK_OP_COUNT ? names[op] : "?";
}

const char *block_label(const BlockBackend *be)
{
    return be->id ? be->id : be->parent.name ? be->parent.name : "drive";
}

static bool changes_medium(BlockOp op)
{
    return op == BLOCK_OP_WRITE || op == BLOCK_OP_ZERO || op == BLOCK_OP_DISCARD;
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void aio_done(BlockReq *req);

static void link_aio(BlockBackend *be, BlockAio *aio)
{
    aio->next = NULL;
    aio->prev = be->last;
    *(be->last ? &be->last->next : &be->first) = aio;
    be->last = aio;
}

static void unlink_aio(BlockBackend *be, BlockAio *aio)
{
    *(aio->prev ? &aio->prev->next : &be->first) = aio->next;
    *(aio->next ? &aio->next->prev : &be->last) = aio->prev;
}

/* A flush starts when all that was submitted before it, and changes the medium, has finished. */
static bool may_start(const BlockBackend *be, const BlockAio *aio)
{
    if (aio->op != BLOCK_OP_FLUSH) {
        return true;
    }
    for (const BlockAio *a = aio->prev; a; a = a->prev) {
        if (changes_medium(a->op)) {
            return false;
        }
    }
    return true;
}

static int check_request(const BlockBackend *be, const BlockAio *aio)
{
    uint64_t length;

    if (!be->root || (be->tray_open && be->dev && be->dev->removable)) {
        return ENOMEDIUM;
    }
    if (changes_medium(aio->op) && be->root->read_only) {
        return EROFS;
    }
    length = block_node_length(be->root);
    if (aio->op != BLOCK_OP_FLUSH && (aio->offset > length || aio->bytes > length - aio->offset)) {
        return EINVAL;
    }
    if (aio->op <= BLOCK_OP_WRITE && aio->bytes > BLOCK_MAX_REQUEST) {
        return EINVAL;
    }
    return 0;
}

static void start(BlockBackend *be, BlockAio *aio)
{
    int error = check_request(be, aio);

    aio->state = AIO_STARTED;
    be->queued--;
    be->started++;
    be->writes_started += changes_medium(aio->op);
    aio->req.op = aio->op;
    aio->req.offset = aio->offset;
    aio->req.flags = aio->flags;
    aio->req.bytes = aio->bytes;
    aio->by_layer = error;
    if (error) {
        block_req_complete(&aio->req, error);
        return;
    }
    if (!be->write_cache && (aio->op == BLOCK_OP_WRITE || aio->op == BLOCK_OP_ZERO)) {
        aio->req.flags |= BLOCK_FUA;
    }
    aio->node = block_node_use(be->root);
    block_node_submit(aio->node, &aio->req);
}

static void kick(BlockBackend *be)
{
    BlockAio *aio, *next;

    /* Starting calls nothing that ends a request or changes the queue. */
    if (be->queued == 0 || be->held > 0 || be->quiesced > 0) {
        return;
    }
    for (aio = be->first; aio && be->started < be->max_in_flight; aio = next) {
        next = aio->next;
        if (aio->state == AIO_QUEUED && may_start(be, aio)) {
            start(be, aio);
        }
    }
}

static BlockAio *submit(BlockBackend *be, BlockOp op, uint64_t offset, uint64_t bytes,
                        const struct iovec *iov, unsigned niov, unsigned flags, BlockStatus *status,
                        BlockDoneFn done, void *opaque)
{
    BlockAio *aio = g_new(BlockAio, 1);

    ENGINE_LOCK_ASSERT();
    block_req_init(&aio->req, op, offset, bytes, iov, niov, 0, flags, aio_done, aio);
    aio->req.status = status;
    aio->be = (BlockBackend *)object_ref(be);
    aio->node = NULL;
    aio->state = AIO_QUEUED;
    aio->op = op;
    aio->flags = flags;
    aio->offset = offset;
    aio->bytes = bytes;
    aio->start = clock_now(clock_realtime());
    aio->done = done;
    aio->opaque = opaque;
    link_aio(be, aio);
    be->queued++;
    kick(be);
    return aio;
}

/* ---- the end of a request -------------------------------------------------------------------- */

static void account(BlockBackend *be, const BlockAio *aio, int error)
{
    BlockStats *s = &be->stats[aio->op];
    uint64_t ns = (uint64_t)MAX(clock_now(clock_realtime()) - aio->start, 0), us = ns / 1000;
    unsigned bin = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);

    if (error) {
        s->errors++;
        return;
    }
    s->count++;
    s->bytes += aio->bytes;
    s->total_ns += ns;
    s->max_ns = MAX(s->max_ns, ns);
    s->histogram[MIN(bin, BLOCK_HISTOGRAM_BINS - 1)]++;
}

static BlockErrorPolicy policy_for(const BlockBackend *be, const BlockAio *aio, int error)
{
    BlockErrorPolicy policy = (BlockErrorPolicy)(changes_medium(aio->op) ||
                                                         aio->op == BLOCK_OP_FLUSH
                                                     ? be->werror
                                                     : be->rerror);

    if (aio->by_layer || error == ECANCELED) {
        return BLOCK_ERROR_REPORT;
    }
    if (policy == BLOCK_ERROR_ENOSPC) {
        policy = error == ENOSPC ? BLOCK_ERROR_STOP : BLOCK_ERROR_REPORT;
    }
    if (policy == BLOCK_ERROR_STOP && !(be->dev && be->dev->stop)) {
        policy = BLOCK_ERROR_REPORT;
    }
    return policy;
}

static void hold(BlockBackend *be, BlockAio *aio, int error)
{
    char *reason = g_strdup_printf(
        "drive '%s': %s of %" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " failed: %s",
        block_label(be), block_op_name(aio->op), aio->bytes, aio->offset, g_strerror(error));

    aio->state = AIO_HELD;
    be->held++;
    be->dev->stop(be->dev_opaque, reason);
    g_free(reason);
}

static void answer(BlockAio *aio, int error)
{
    BlockBackend *be = aio->be;
    BlockDoneFn done = aio->done;
    void *opaque = aio->opaque;

    unlink_aio(be, aio);
    block_req_clear(&aio->req);
    g_free(aio);
    if (done) {
        done(opaque, error);
    }
    kick(be);
    object_unref(be);
}

static void aio_done(BlockReq *req)
{
    BlockAio *aio = req->opaque;
    BlockBackend *be = aio->be;
    int error = req->error;
    BlockErrorPolicy policy = error ? policy_for(be, aio, error) : BLOCK_ERROR_REPORT;

    be->started--;
    be->writes_started -= changes_medium(aio->op);
    block_node_unuse(g_steal_pointer(&aio->node));
    account(be, aio, error);
    if (error && policy == BLOCK_ERROR_STOP) {
        hold(be, aio, error);
        return;
    }
    answer(aio, policy == BLOCK_ERROR_IGNORE ? 0 : error);
}

void block_cancel(BlockAio *aio)
{
    BlockBackend *be = aio->be;

    if (aio->state == AIO_STARTED) {
        if (aio->node) {
            block_node_cancel(&aio->req);
        }
        return;
    }
    *(aio->state == AIO_HELD ? &be->held : &be->queued) -= 1;
    aio->state = AIO_STARTED;
    aio->by_layer = true;
    be->started++;
    be->writes_started += changes_medium(aio->op);
    block_req_complete(&aio->req, ECANCELED);
}

void block_retry(BlockBackend *be)
{
    for (BlockAio *aio = be->first; aio; aio = aio->next) {
        if (aio->state == AIO_HELD) {
            aio->state = AIO_QUEUED;
            be->held--;
            be->queued++;
        }
    }
    kick(be);
}

unsigned block_held_back(const BlockBackend *be)
{
    return be->held;
}

void block_forget_held_back(BlockBackend *be)
{
    for (BlockAio *aio = be->first; aio; aio = aio->next) {
        if (aio->state == AIO_HELD) {
            block_cancel(aio);
        }
    }
    kick(be);
}

/* ---- the requests ---------------------------------------------------------------------------- */

BlockAio *block_readv(BlockBackend *be, uint64_t offset, const struct iovec *iov, unsigned niov,
                      BlockDoneFn done, void *opaque)
{
    return submit(be, BLOCK_OP_READ, offset, block_iov_bytes(iov, niov), iov, niov, 0, NULL, done,
                  opaque);
}

BlockAio *block_writev(BlockBackend *be, uint64_t offset, const struct iovec *iov, unsigned niov,
                       unsigned flags, BlockDoneFn done, void *opaque)
{
    return submit(be, BLOCK_OP_WRITE, offset, block_iov_bytes(iov, niov), iov, niov, flags, NULL,
                  done, opaque);
}

BlockAio *block_read(BlockBackend *be, uint64_t offset, void *buf, size_t len, BlockDoneFn done,
                     void *opaque)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };

    return block_readv(be, offset, &iov, 1, done, opaque);
}

bool block_read_now(BlockBackend *be, uint64_t offset, void *buf, size_t len)
{
    BlockAio aio = { .op = BLOCK_OP_READ, .offset = offset, .bytes = len };

    ENGINE_LOCK_ASSERT();
    if (be->queued > 0 || be->held > 0 || be->quiesced > 0 || check_request(be, &aio) != 0) {
        return false;
    }
    aio.start = clock_now(clock_realtime());
    if (!block_node_read_now(be->root, offset, buf, len)) {
        return false;
    }
    account(be, &aio, 0);
    return true;
}

BlockAio *block_write(BlockBackend *be, uint64_t offset, const void *buf, size_t len,
                      unsigned flags, BlockDoneFn done, void *opaque)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };

    return block_writev(be, offset, &iov, 1, flags, done, opaque);
}

BlockAio *block_flush(BlockBackend *be, BlockDoneFn done, void *opaque)
{
    return submit(be, BLOCK_OP_FLUSH, 0, 0, NULL, 0, 0, NULL, done, opaque);
}

BlockAio *block_discard(BlockBackend *be, uint64_t offset, uint64_t bytes, BlockDoneFn done,
                        void *opaque)
{
    return submit(be, BLOCK_OP_DISCARD, offset, bytes, NULL, 0, 0, NULL, done, opaque);
}

BlockAio *block_write_zeroes(BlockBackend *be, uint64_t offset, uint64_t bytes, unsigned flags,
                             BlockDoneFn done, void *opaque)
{
    return submit(be, BLOCK_OP_ZERO, offset, bytes, NULL, 0, flags, NULL, done, opaque);
}

BlockAio *block_status(BlockBackend *be, uint64_t offset, uint64_t bytes, BlockStatus *out,
                       BlockDoneFn done, void *opaque)
{
    memset(out, 0, sizeof(*out));
    return submit(be, BLOCK_OP_STATUS, offset, bytes, NULL, 0, 0, out, done, opaque);
}

/* ---- waiting --------------------------------------------------------------------------------- */

typedef struct Wait {
    bool finished;
    int error;
} Wait;

static void wait_done(void *opaque, int error)
{
    Wait *wait = opaque;

    wait->finished = true;
    wait->error = error;
}

static bool may_wait(BlockBackend *be, GError **error)
{
    if (!main_loop_is_main_thread() || !engine_may_unlock()) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "drive '%s': waiting is not possible in a device handler or callback",
                         be ? block_label(be) : "all");
    }
    return true;
}

static bool wait_for(BlockBackend *be, BlockOp op, uint64_t offset, uint64_t bytes, void *buf,
                     unsigned flags, BlockStatus *status, GError **error)
{
    struct iovec iov = { .iov_base = buf, .iov_len = bytes };
    Wait wait = { 0 };

    if (!may_wait(be, error)) {
        return false;
    }
    submit(be, op, offset, bytes, buf ? &iov : NULL, buf ? 1 : 0, flags, status, wait_done, &wait);
    while (!wait.finished) {
        main_loop_iterate(true);
    }
    if (wait.error) {
        errno = wait.error;
        return error_set_errno(error, "drive '%s': %s at %" G_GUINT64_FORMAT, block_label(be),
                               block_op_name(op), offset);
    }
    return true;
}

bool block_read_wait(BlockBackend *be, uint64_t offset, void *buf, size_t len, GError **error)
{
    return wait_for(be, BLOCK_OP_READ, offset, len, buf, 0, NULL, error);
}

bool block_write_wait(BlockBackend *be, uint64_t offset, const void *buf, size_t len,
                      unsigned flags, GError **error)
{
    return wait_for(be, BLOCK_OP_WRITE, offset, len, (void *)(uintptr_t)buf, flags, NULL, error);
}

bool block_flush_wait(BlockBackend *be, GError **error)
{
    return wait_for(be, BLOCK_OP_FLUSH, 0, 0, NULL, 0, NULL, error);
}

bool block_discard_wait(BlockBackend *be, uint64_t offset, uint64_t bytes, GError **error)
{
    return wait_for(be, BLOCK_OP_DISCARD, offset, bytes, NULL, 0, NULL, error);
}

bool block_zero_wait(BlockBackend *be, uint64_t offset, uint64_t bytes, unsigned flags,
                     GError **error)
{
    return wait_for(be, BLOCK_OP_ZERO, offset, bytes, NULL, flags, NULL, error);
}

bool block_status_wait(BlockBackend *be, uint64_t offset, uint64_t bytes, BlockStatus *out,
                       GError **error)
{
    memset(out, 0, sizeof(*out));
    return wait_for(be, BLOCK_OP_STATUS, offset, bytes, NULL, 0, out, error);
}

/* ---- drain ----------------------------------------------------------------------------------- */

static bool busy(const BlockBackend *be)
{
    return be->started > 0 || (be->queued > 0 && be->held == 0 && be->quiesced == 0);
}

static bool any_busy(BlockBackend *only)
{
    if (only) {
        return busy(only);
    }
    for (BlockBackend *be = backends; be; be = be->next_backend) {
        if (busy(be)) {
            return true;
        }
    }
    return false;
}

static gboolean tick(void *opaque)
{
    return G_SOURCE_CONTINUE;
}

static bool run_until_idle(BlockBackend *be, GError **error)
{
    int64_t end = clock_now(clock_realtime()) + DRAIN_LIMIT_NS;
    GSource *wake = g_timeout_source_new(100); /* the limit is looked at now and then */
    bool late = false;

    g_source_set_callback(wake, tick, NULL, NULL);
    g_source_attach(wake, main_loop_context());
    while (any_busy(be) && !late) {
        main_loop_iterate(true);
        late = clock_now(clock_realtime()) > end;
    }
    g_source_destroy(wake);
    g_source_unref(wake);
    if (late && any_busy(be)) {
        return error_set(error, ENGINE_ERROR_BUSY, "drive '%s': requests do not end",
                         be ? block_label(be) : "all");
    }
    return true;
}

bool block_drain(BlockBackend *be, GError **error)
{
    GPtrArray *roots;
    bool ok;

    if (!any_busy(be)) {
        return true;
    }
    if (!may_wait(be, error)) {
        return false;
    }
    roots = g_ptr_array_new_with_free_func(object_unref);
    for (BlockBackend *b = backends; b; b = b->next_backend) {
        if ((!be || b == be) && b->root) {
            g_ptr_array_add(roots, object_ref(b->root));
            block_node_drain_begin(b->root);
        }
    }
    if (be) {
        object_ref(be);
    }
    ok = run_until_idle(be, error);
    for (unsigned i = 0; i < roots->len; i++) {
        block_node_drain_end(roots->pdata[i]);
    }
    g_ptr_array_free(roots, TRUE);
    object_unref(be);
    return ok;
}

void block_quiesce_begin(BlockBackend *be)
{
    be->quiesced++;
}

void block_quiesce_end(BlockBackend *be)
{
    if (--be->quiesced == 0) {
        kick(be);
    }
}

uint64_t block_in_flight(const BlockBackend *be)
{
    return be->started + be->queued;
}

void block_get_stats(const BlockBackend *be, BlockOp op, BlockStats *out)
{
    *out = be->stats[op];
}

void block_reset_stats(BlockBackend *be)
{
    memset(be->stats, 0, sizeof(be->stats));
}

/* ---- type ------------------------------------------------------------------------------------ */

static const char *const policy_words[] = { "report", "ignore", "stop", "enospc", NULL };
static const char *const read_policy_words[] = { "report", "ignore", "stop", NULL };

static bool get_in_flight(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_UINT;
    out->uinteger = block_in_flight(BLOCK_BACKEND(obj));
    return true;
}

static bool set_max_in_flight(Object *obj, const Property *prop, const PropValue *in,
                              GError **error)
{
    if (in->uinteger == 0) {
        return error_set(error, ENGINE_ERROR_INVALID, "max-in-flight: at least 1");
    }
    BLOCK_BACKEND(obj)->max_in_flight = (uint32_t)in->uinteger;
    return true;
}

static bool get_max_in_flight(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_UINT;
    out->uinteger = BLOCK_BACKEND(obj)->max_in_flight;
    return true;
}

/* These may change at any time. */
#define POLICY(_name, _field, _words, _default, _doc)                           \
    {                                                                           \
        .name = (_name), .doc = (_doc), .kind = PROP_ENUM, .words = (_words),   \
        .offset = offsetof(BlockBackend, _field), .has_default = true, .def = { \
            .kind = PROP_ENUM,                                                  \
            .integer = (_default)                                               \
        }                                                                       \
    }
static const Property backend_properties[] = {
    DEFINE_PROP_STRING("id", BlockBackend, id, "the name that devices refer to it by"),
    DEFINE_PROP_STRING("serial", BlockBackend, serial, "serial number that the disk reports"),
    POLICY("rerror", rerror, read_policy_words, BLOCK_ERROR_REPORT,
           "what a failed read does: the guest sees it, or not, or the machine stops"),
    POLICY("werror", werror, policy_words, BLOCK_ERROR_ENOSPC,
           "what a failed write or flush does; enospc: stop when the disk below is full"),
    { .name = "write-cache",
      .doc = "off: every write is on stable storage before it completes",
      .kind = PROP_BOOL,
      .offset = offsetof(BlockBackend, write_cache),
      .has_default = true,
      .def = { .kind = PROP_BOOL, .boolean = true } },
    { .name = "max-in-flight",
      .doc = "requests that are below at one time; more wait",
      .kind = PROP_UINT,
      .bits = 32,
      .offset = -1,
      .get = get_max_in_flight,
      .set = set_max_in_flight,
      .has_default = true,
      .def = { .kind = PROP_UINT, .uinteger = 128 } },
    { .name = "in-flight",
      .doc = "requests that have not been answered",
      .kind = PROP_UINT,
      .bits = 64,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_in_flight },
};

static void backend_instance_init(Object *obj)
{
    BlockBackend *be = BLOCK_BACKEND(obj);

    be->next_backend = backends;
    backends = be;
}

static void backend_instance_finalize(Object *obj)
{
    BlockBackend *be = BLOCK_BACKEND(obj);

    for (BlockBackend **at = &backends; *at; at = &(*at)->next_backend) {
        if (*at == be) {
            *at = be->next_backend;
            break;
        }
    }
    block_node_unuse(be->root);
}

static void backend_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = block_backend_unparent;
    object_class_add_properties(klass, backend_properties, G_N_ELEMENTS(backend_properties));
}

static const TypeInfo backend_info = {
    .name = TYPE_BLOCK_BACKEND,
    .parent = TYPE_OBJECT,
    .doc = "A drive: what a disk, CD-ROM or floppy device reads and writes",
    .instance_size = sizeof(BlockBackend),
    .instance_init = backend_instance_init,
    .instance_finalize = backend_instance_finalize,
    .class_init = backend_class_init,
};

static void register_backend(void)
{
    type_register_static(&backend_info);
}
type_init(register_backend)

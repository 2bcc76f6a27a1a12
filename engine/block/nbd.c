/*
 * "nbd": a disk that an NBD server has, over TCP, TLS or a unix socket, through libnbd.
 *
 * Everything runs on the main loop: libnbd's state machine is moved on when its socket is ready.
 * When the connection goes, requests wait for another one, for reconnect-delay seconds.
 *
 * Not there: several connections at a time, dirty bitmaps of the server, TLS host names that differ
 * from the address.
 */
#include "engine/block/nbd_priv.h"

#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"

static bool nbd_node_open(BlockNode *node, GError **error)
{
    BlockNbd *s = BLOCK_NBD(node);

    if (!s->uri && !s->path && !s->host) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "nbd: uri, or server.path, or server.host has to be given");
    }
    if (!nbd_library_load(error)) {
        return false;
    }
    s->waiting = s->settled = NULL;
    s->waiting_last = &s->waiting;
    s->state = NBD_DOWN;
    s->hopeless = false;
    s->watch = NULL;
    if (!nbd_connect_now(s, error)) {
        return false;
    }
    s->bh = bh_new(nbd_settle, s);
    timer_setup(&s->retry, clock_realtime(), nbd_retry_timer, s);
    timer_setup(&s->give_up, clock_realtime(), nbd_give_up_timer, s);
    nbd_rewatch(s);
    return true;
}

static void nbd_node_close(BlockNode *node)
{
    BlockNbd *s = BLOCK_NBD(node);

    timer_disarm(&s->retry);
    timer_disarm(&s->give_up);
    if (s->h && s->state == NBD_UP) {
        libnbd.aio_disconnect(s->h, 0);
    }
    nbd_drop(s);
    bh_free(s->bh);
    s->bh = NULL;
}

/* Nobody waits for a server while somebody drains. */
static void nbd_drain(BlockNode *node)
{
    BlockNbd *s = BLOCK_NBD(node);

    if (s->state != NBD_UP) {
        nbd_fail_waiting(s);
    }
}

static const Property nbd_properties[] = {
    DEFINE_PROP_STRING("uri", BlockNbd, uri, "nbd://HOST[:PORT]/EXPORT, nbds://…, nbd+unix://…"),
    DEFINE_PROP_STRING("server.type", BlockNbd, server_type, "inet or unix"),
    DEFINE_PROP_STRING("server.path", BlockNbd, path, "a unix socket"),
    DEFINE_PROP_STRING("server.host", BlockNbd, host, "a name or address"),
    DEFINE_PROP_STRING("server.port", BlockNbd, port, "a port (10809)"),
    DEFINE_PROP_STRING("export", BlockNbd, export_name, "which of the server's disks"),
    DEFINE_PROP_BOOL("tls", BlockNbd, tls, false, "the connection has to be encrypted"),
    DEFINE_PROP_STRING("tls-certificates", BlockNbd, tls_certificates,
                       "folder with ca-cert.pem and, where the server asks for them, "
                       "client-cert.pem and client-key.pem"),
    DEFINE_PROP_STRING("tls-psk-file", BlockNbd, tls_psk_file, "file with keys that both have"),
    DEFINE_PROP_STRING("tls-username", BlockNbd, tls_username, "whose key of that file"),
    DEFINE_PROP_BOOL("tls-verify-peer", BlockNbd, tls_verify_peer, true,
                     "the server's certificate has to be good"),
    DEFINE_PROP_UINT32("reconnect-delay", BlockNbd, reconnect_delay, 0,
                       "seconds that requests wait for a server that has gone"),
    DEFINE_PROP_UINT32("open-timeout", BlockNbd, open_timeout, 30,
                       "seconds that the first connection may take"),
};

static const char *const prefixes[] = { "nbd:", "nbds:", "nbd+unix:", "nbds+unix:", NULL };

static void nbd_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "nbd";
    node->open = nbd_node_open;
    node->close = nbd_node_close;
    node->submit = nbd_submit;
    node->cancel = nbd_cancel;
    node->drain = nbd_drain;
    node->prefixes = prefixes;
    node->parse_filename = nbd_parse_filename;
    object_class_add_properties(klass, nbd_properties, G_N_ELEMENTS(nbd_properties));
}

/* The name is no property here, which would free it. */
static void nbd_finalize(Object *obj)
{
    g_free(g_steal_pointer(&BLOCK_NODE(obj)->filename));
}

static const TypeInfo nbd_info = {
    .name = "block-nbd",
    .parent = TYPE_BLOCK_NODE,
    .doc = "A disk that an NBD server has",
    .instance_size = sizeof(BlockNbd),
    .instance_finalize = nbd_finalize,
    .class_init = nbd_class_init,
};

static void register_nbd(void)
{
    type_register_static(&nbd_info);
}
type_init(register_nbd)

/*
 * libnbd, loaded when the first NBD node is opened: with it come GnuTLS, libxml2 and ICU, which
 * nothing else needs, and which would be a fifth of the time that the program takes to start.
 *
 * libnbd.aio_pread(…) is nbd_aio_pread(…).
 */
#pragma once

#include <libnbd.h>
#include <stdbool.h>

#include <glib.h>

#define NBD_FUNCTIONS(F)     \
    F(add_meta_context)      \
    F(aio_block_status)      \
    F(aio_command_completed) \
    F(aio_connect_tcp)       \
    F(aio_connect_unix)      \
    F(aio_connect_uri)       \
    F(aio_disconnect)        \
    F(aio_flush)             \
    F(aio_get_direction)     \
    F(aio_get_fd)            \
    F(aio_is_closed)         \
    F(aio_is_dead)           \
    F(aio_is_ready)          \
    F(aio_notify_read)       \
    F(aio_notify_write)      \
    F(aio_pread)             \
    F(aio_pwrite)            \
    F(aio_trim)              \
    F(aio_zero)              \
    F(can_fast_zero)         \
    F(can_flush)             \
    F(can_fua)               \
    F(can_meta_context)      \
    F(can_trim)              \
    F(can_zero)              \
    F(close)                 \
    F(create)                \
    F(get_block_size)        \
    F(get_errno)             \
    F(get_error)             \
    F(get_size)              \
    F(is_read_only)          \
    F(set_export_name)       \
    F(set_tls)               \
    F(set_tls_certificates)  \
    F(set_tls_psk_file)      \
    F(set_tls_username)      \
    F(set_tls_verify_peer)   \
    F(set_uri_allow_local_file)

typedef struct NbdLibrary {
#define NBD_MEMBER(name) __typeof__(nbd_##name) *name;
    NBD_FUNCTIONS(NBD_MEMBER)
#undef NBD_MEMBER
} NbdLibrary;

/* Usable after nbd_library_load() has answered true, and from then on. */
extern NbdLibrary libnbd;

/* Loads the library unless it is loaded. Any thread. false + error: it, or a function of it, is not
 * there. */
bool nbd_library_load(GError **error);

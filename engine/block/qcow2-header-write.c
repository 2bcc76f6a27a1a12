/*
 * qcow2: writing the header. Whatever is written, a crash leaves the old header or the new one:
 * what a disk writes as a whole is a sector.
 *
 * Fields of the first sector are one write. Names and extensions may need more room: then what lies
 * behind the first sector is written to where the old header has nothing, and the first sector,
 * which says where it is, after that. Extensions begin where the header ends, so with many of them
 * the header is said to be longer for a moment (version 3: what is behind the known fields is kept
 * by everybody and means nothing), they are written as a whole behind the old ones, and then moved.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"
#include "engine/core/error.h"

#define SECTOR BLOCK_SECTOR_SIZE

/* What the header will be, and the parts behind it. */
typedef struct Parts {
    GByteArray *fields, *extensions;
    const char *name;
    uint32_t name_len;
} Parts;

static void fill_fields(Qcow2 *s, Qcow2Header *h)
{
    h->l1_entries = GUINT32_TO_BE(s->l1_entries);
    h->l1_offset = GUINT64_TO_BE(s->l1_offset);
    h->rt_offset = GUINT64_TO_BE(s->rt_offset);
    h->rt_clusters = GUINT32_TO_BE(s->rt_clusters);
    h->nb_snapshots = GUINT32_TO_BE(s->nb_snapshots);
    h->snapshots_offset = GUINT64_TO_BE(s->snapshots_offset);
    h->size = GUINT64_TO_BE(block_node_length(&s->parent));
    h->incompatible = GUINT64_TO_BE(s->incompatible);
    h->compatible = GUINT64_TO_BE(s->compatible);
    h->autoclear = GUINT64_TO_BE(s->autoclear);
}

int qcow2_header_write_fields(Qcow2 *s)
{
    int e;

    qcow2_lock_across_io(&s->header_lock);
    pthread_mutex_lock(&s->lock);
    fill_fields(s, &s->header);
    pthread_mutex_unlock(&s->lock);
    e = block_node_pwrite(block_node_file(&s->parent), 0, &s->header,
                          MIN(s->header_length, QCOW2_HEADER_BYTES), 0);
    pthread_mutex_unlock(&s->header_lock);
    return e;
}

/* ---- what is to be written ------------------------------------------------------------------- */

static void put_extension(GByteArray *out, uint32_t type, const void *data, uint32_t len)
{
    static const uint8_t zeroes[8];
    uint32_t words[2] = { GUINT32_TO_BE(type), GUINT32_TO_BE(len) };

    g_byte_array_append(out, (const uint8_t *)words, sizeof(words));
    g_byte_array_append(out, data, len);
    g_byte_array_append(out, zeroes, (8 - len % 8) % 8);
}

static GByteArray *pack_extensions(const Qcow2 *s)
{
    GByteArray *out = g_byte_array_new();

    if (s->backing_format) {
        put_extension(out, QCOW2_EXT_BACKING, s->backing_format,
                      (uint32_t)strlen(s->backing_format));
    }
    if (s->data_name) {
        put_extension(out, QCOW2_EXT_DATA_FILE, s->data_name, (uint32_t)strlen(s->data_name));
    }
    for (unsigned i = 0; i < s->n_extensions; i++) {
        put_extension(out, s->extensions[i].type, s->extensions[i].data, s->extensions[i].len);
    }
    put_extension(out, QCOW2_EXT_END, "", 0);
    return out;
}

/* The header's fields, of later versions too, which stay. */
static int pack_fields(Qcow2 *s, GByteArray *out)
{
    int e = 0;

    pthread_mutex_lock(&s->lock);
    fill_fields(s, &s->header);
    pthread_mutex_unlock(&s->lock);
    g_byte_array_set_size(out, s->header_length);
    memset(out->data, 0, out->len);
    if (s->header_length > QCOW2_HEADER_BYTES) {
        e = block_node_pread(block_node_file(&s->parent), 0, out->data, s->header_length);
    }
    return e;
}

/* Fields with the header's length and the place of the name. */
static void finish_fields(Qcow2 *s, Parts *p, uint32_t header_length, uint32_t name_at)
{
    s->header.backing_offset = GUINT64_TO_BE(p->name_len ? name_at : 0);
    s->header.backing_len = GUINT32_TO_BE(p->name_len);
    if (s->version >= 3) {
        s->header.header_length = GUINT32_TO_BE(header_length);
    }
    memcpy(p->fields->data, &s->header, MIN(s->header_length, QCOW2_HEADER_BYTES));
}

/* ---- writing --------------------------------------------------------------------------------- */

static int put(Qcow2 *s, uint32_t at, const void *data, uint32_t len)
{
    return len ? block_node_pwrite(block_node_file(&s->parent), at, data, len, 0) : 0;
}

static int barrier(Qcow2 *s)
{
    return block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
}

/* One sector: the fields and what follows them there of `tail`. */
static int put_first(Qcow2 *s, const Parts *p, const GByteArray *tail)
{
    uint8_t sector[SECTOR] = { 0 };
    uint32_t from = MIN(p->fields->len, SECTOR);

    memcpy(sector, p->fields->data, from);
    if (tail) {
        memcpy(sector + from, tail->data, MIN(tail->len, SECTOR - from));
    }
    return put(s, 0, sector, SECTOR);
}

/* What is in [from, to) says nothing any more. */
static int wipe(Qcow2 *s, uint32_t from, uint32_t to)
{
    g_autofree uint8_t *zeroes = from < to ? g_malloc0(to - from) : NULL;

    return zeroes ? put(s, from, zeroes, to - from) : 0;
}

/* Extensions fit into the first sector: a name that does not goes where nothing old is. */
static int write_short(Qcow2 *s, Parts *p, uint32_t name_at)
{
    int e = 0;

    if (name_at >= SECTOR) {
        e = put(s, name_at, p->name, p->name_len);
        e = e ? e : barrier(s);
    } else {
        g_byte_array_append(p->extensions, (const uint8_t *)p->name, p->name_len);
    }
    finish_fields(s, p, s->header_length, name_at);
    e = e ? e : put_first(s, p, p->extensions);
    return e ? e : barrier(s);
}

/* Extensions and name as a whole at `aside`, and the header so long for a moment. */
static int write_aside(Qcow2 *s, Parts *p, uint32_t aside)
{
    uint32_t name_at = aside + p->extensions->len;
    int e = put(s, aside, p->extensions->data, p->extensions->len);

    e = e ? e : put(s, name_at, p->name, p->name_len);
    e = e ? e : barrier(s);
    finish_fields(s, p, aside, name_at);
    e = e ? e : put_first(s, p, NULL);
    return e ? e : barrier(s);
}

/* One behind the other, where nothing is that counts; the first sector last. */
static int write_in_place(Qcow2 *s, Parts *p)
{
    uint32_t fields = p->fields->len, in_first = SECTOR - MIN(fields, SECTOR), beyond;
    g_autoptr(GByteArray) tail = g_byte_array_new();
    int e = 0;

    g_byte_array_append(tail, p->extensions->data, p->extensions->len);
    g_byte_array_append(tail, (const uint8_t *)p->name, p->name_len);
    beyond = tail->len > in_first ? tail->len - in_first : 0;
    finish_fields(s, p, s->header_length, fields + p->extensions->len);
    if (fields > SECTOR) { /* those of later versions: as they were */
        e = put(s, SECTOR, p->fields->data + SECTOR, fields - SECTOR);
    }
    e = e ? e : put(s, MAX(SECTOR, fields), tail->data + (tail->len - beyond), beyond);
    e = e ? e : barrier(s);
    e = e ? e : put_first(s, p, tail);
    return e ? e : barrier(s);
}

static uint32_t up8(uint32_t n)
{
    return (n + 7) & ~7u;
}

static int write_parts(Qcow2 *s, Parts *p)
{
    uint32_t fields = p->fields->len, extensions = p->extensions->len;
    uint32_t name_at = fields + extensions, end = name_at + p->name_len, aside;
    uint32_t old_name = (uint32_t)GUINT64_FROM_BE(s->header.backing_offset);
    uint32_t old_name_end = old_name ? old_name + GUINT32_FROM_BE(s->header.backing_len) : 0;
    uint32_t old_end = MAX(s->extensions_end, old_name_end);
    int e;

    if (name_at <= SECTOR) {
        if (end > SECTOR) { /* in place, unless something is there that counts until then */
            bool in_the_way = s->extensions_end > SECTOR ||
                              (old_name < SECTOR + p->name_len && old_name_end > SECTOR);

            name_at = in_the_way ? up8(MAX(SECTOR, old_end)) : SECTOR;
        }
        if (name_at + p->name_len <= s->cluster_size) {
            e = write_short(s, p, name_at);
            e = e ? e : wipe(s, MAX(SECTOR, fields + extensions), MAX(SECTOR, name_at));
            return e ? e : wipe(s, MAX(SECTOR, name_at + p->name_len), old_end);
        }
        name_at = fields + extensions;
    }
    aside = up8(MAX(SECTOR, MAX(old_end, end)));
    if (s->version >= 3 && fields <= SECTOR &&
        (uint64_t)aside + extensions + p->name_len <= s->cluster_size) {
        e = write_aside(s, p, aside);
        e = e ? e : write_in_place(s, p);
        return e ? e : wipe(s, end, aside + extensions + p->name_len);
    }
    e = write_in_place(s, p); /* no room to be careful in: small clusters with long names */
    return e ? e : wipe(s, MAX(SECTOR, end), old_end);
}

bool qcow2_header_write(Qcow2 *s, GError **error)
{
    Parts p = { .fields = g_byte_array_new(),
                .name = s->backing_name ? s->backing_name : "",
                .name_len = s->backing_name ? (uint32_t)strlen(s->backing_name) : 0 };
    bool fits;
    int e;

    qcow2_lock_across_io(&s->header_lock);
    e = pack_fields(s, p.fields);
    p.extensions = pack_extensions(s);
    fits = p.fields->len + p.extensions->len + p.name_len <= s->cluster_size;
    if (!e && fits) {
        uint32_t end = p.fields->len + p.extensions->len;

        e = write_parts(s, &p);
        s->extensions_end = end;
        s->broken = e != 0; /* which header it is now has to be read */
    }
    pthread_mutex_unlock(&s->header_lock);
    g_byte_array_free(p.fields, TRUE);
    g_byte_array_free(p.extensions, TRUE);
    if (!fits) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "qcow2 '%s': names and extensions do not fit into a header of %u bytes",
                         block_node_name(&s->parent), s->cluster_size);
    }
    if (e) {
        errno = e;
        return error_set_errno(error, "qcow2 '%s': writing the header",
                               block_node_name(&s->parent));
    }
    return true;
}

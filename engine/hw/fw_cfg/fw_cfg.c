/*
 * "fw_cfg": the firmware configuration device of virtual boards.
 *
 * QEMU Firmware Configuration (fw_cfg) Device, the specification in QEMU's documentation:
 *   0x510  selector, 16 bits, little-endian, write only
 *   0x511  data, 8 bits: the next byte of the selected item; beyond its end zeros
 *   0x514  DMA address, 64 bits, big-endian (high half at 0x514, low half at 0x518, which starts
 *          the transfer); reads as "QEMU CFG"
 * Items 0x0000-0x001f are fixed, 0x0020 on are files (item 0x19 is their directory), 0x8000 on
 * belong to the architecture.
 *
 * A transfer is done when the write that starts it returns. Reads far beyond the end of an item
 * (1 MiB) are an error, so that no guest keeps the machine busy filling memory with zeros.
 * Not emulated: writes through the data port (deprecated in the specification: they are ignored).
 */
#include "engine/hw/fw_cfg/fw_cfg.h"

#include <inttypes.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"

#define ID_TRADITIONAL 1
#define ID_DMA         2
#define DMA_SIGNATURE  UINT64_C(0x51454d5520434647) /* "QEMU CFG" */
#define ZEROS_MAX      (1u << 20)
#define ITEM_MAX       (UINT32_MAX / 2)
#define FILE_END       (FW_CFG_FILE_FIRST + FW_CFG_FILE_SLOTS)
#define DIR_ENTRY_SIZE 64

enum {
    DMA_ERROR = 1 << 0,
    DMA_READ = 1 << 1,
    DMA_SKIP = 1 << 2,
    DMA_SELECT = 1 << 3,
    DMA_WRITE = 1 << 4,
};

typedef struct Item {
    char *name; /* of files */
    uint8_t *data;
    uint32_t len;
    FWCfgFn fn;
    void *opaque;
    GDestroyNotify free;
    bool sized; /* fn was asked: len stands */
    bool writable;
    FWCfgWritten written;
    void *written_opaque;
} Item;

struct FWCfg {
    DeviceState parent;
    MemoryRegion io, dma_io;
    Item items[FILE_END];
    Item arch[FW_CFG_ARCH_SLOTS];
    unsigned files;
    uint16_t key;
    uint32_t offset;
    uint64_t dma_address;
    uint32_t iobase; /* property */
    bool dma;        /* property */
    bool busy;       /* in a DMA transfer: its target may be our own port */
};
OBJECT_DECLARE_TYPE(FWCfg, DeviceClass, FW_CFG, TYPE_FW_CFG)

/* ---- items --------------------------------------------------------------------------------- */

static Item *item_of(FWCfg *s, uint16_t key)
{
    if (key >= FW_CFG_ARCH_LOCAL) {
        key -= FW_CFG_ARCH_LOCAL;
        return key < FW_CFG_ARCH_SLOTS ? &s->arch[key] : NULL;
    }
    return key < FILE_END ? &s->items[key] : NULL;
}

static void item_clear(Item *item)
{
    g_clear_pointer(&item->data, g_free);
    if (item->free) {
        item->free(item->opaque);
    }
    item->len = 0;
    item->fn = NULL;
    item->opaque = NULL;
    item->free = NULL;
    item->sized = false;
}

static void item_set(Item *item, GBytes *bytes)
{
    gsize len;
    const void *data = g_bytes_get_data(bytes, &len);

    item_clear(item);
    item->data = g_memdup2(data, len);
    item->len = (uint32_t)len;
}

/* Asks who makes the bytes. Its first answer fixes the length, which the directory shows. */
static bool item_update(Item *item, GError **error)
{
    g_autoptr(GBytes) bytes = NULL;
    const uint8_t *data;
    gsize len;

    if (!item->fn) {
        return true;
    }
    bytes = item->fn(item->opaque, error);
    if (!bytes) {
        return false;
    }
    data = g_bytes_get_data(bytes, &len);
    if (len > ITEM_MAX) {
        return error_set(error, ENGINE_ERROR_LIMIT, "fw_cfg: %s: %" G_GSIZE_FORMAT " bytes",
                         item->name ? item->name : "item", len);
    }
    if (!item->sized) {
        item->len = (uint32_t)len;
        item->sized = true;
    }
    g_free(item->data);
    item->data = g_malloc0(MAX(item->len, 1));
    if (len > 0) {
        memcpy(item->data, data, MIN(len, item->len));
    }
    return true;
}

static void put_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool make_directory(FWCfg *s, GError **error)
{
    Item *dir = &s->items[FW_CFG_FILE_DIR];

    g_free(dir->data);
    dir->len = 4 + s->files * DIR_ENTRY_SIZE;
    dir->data = g_malloc0(dir->len);
    put_be32(dir->data, s->files);
    for (unsigned i = 0; i < s->files; i++) {
        Item *file = &s->items[FW_CFG_FILE_FIRST + i];
        uint8_t *e = dir->data + 4 + i * DIR_ENTRY_SIZE;

        if (!file->sized && !item_update(file, error)) {
            return false;
        }
        put_be32(e, file->len);
        e[4] = (uint8_t)((FW_CFG_FILE_FIRST + i) >> 8);
        e[5] = (uint8_t)(FW_CFG_FILE_FIRST + i);
        g_strlcpy((char *)e + 8, file->name, FW_CFG_NAME_MAX);
    }
    return true;
}

static void set_bytes(Item *item, const void *data, uint32_t len)
{
    g_free(item->data);
    item->data = g_memdup2(data, len);
    item->len = len;
}

static void make_fixed(FWCfg *s)
{
    uint8_t id[4] = { (uint8_t)(ID_TRADITIONAL | (s->dma ? ID_DMA : 0)) };

    set_bytes(&s->items[FW_CFG_SIGNATURE], "QEMU", 4);
    set_bytes(&s->items[FW_CFG_ID], id, 4);
}

/* ---- for boards ---------------------------------------------------------------------------- */

bool fw_cfg_set(FWCfg *s, uint16_t key, GBytes *bytes, GError **error)
{
    Item *item = item_of(s, key);

    if (!item || key == FW_CFG_SIGNATURE || key == FW_CFG_ID || key == FW_CFG_FILE_DIR ||
        (key >= FW_CFG_FILE_FIRST && key < FW_CFG_ARCH_LOCAL)) {
        return error_set(error, ENGINE_ERROR_INVALID, "fw_cfg: key %#x is not for boards", key);
    }
    if (g_bytes_get_size(bytes) > ITEM_MAX) {
        return error_set(error, ENGINE_ERROR_LIMIT, "fw_cfg: key %#x: too many bytes", key);
    }
    item_set(item, bytes);
    return true;
}

static Item *find_file(const FWCfg *s, const char *name)
{
    for (unsigned i = 0; i < s->files; i++) {
        if (!strcmp(s->items[FW_CFG_FILE_FIRST + i].name, name)) {
            return (Item *)(uintptr_t)&s->items[FW_CFG_FILE_FIRST + i];
        }
    }
    return NULL;
}

static Item *file_for(FWCfg *s, const char *name, GError **error)
{
    Item *item = find_file(s, name);

    if (item) {
        return item;
    }
    if (!name[0] || strlen(name) >= FW_CFG_NAME_MAX) {
        error_set(error, ENGINE_ERROR_INVALID, "fw_cfg: '%s': a name of 1 to %d bytes is expected",
                  name, FW_CFG_NAME_MAX - 1);
        return NULL;
    }
    if (s->files == FW_CFG_FILE_SLOTS) {
        error_set(error, ENGINE_ERROR_LIMIT, "fw_cfg: '%s': there are %d files already", name,
                  FW_CFG_FILE_SLOTS);
        return NULL;
    }
    item = &s->items[FW_CFG_FILE_FIRST + s->files++];
    item->name = g_strdup(name);
    return item;
}

bool fw_cfg_add_file(FWCfg *s, const char *name, GBytes *bytes, GError **error)
{
    Item *item;

    if (g_bytes_get_size(bytes) > ITEM_MAX) {
        return error_set(error, ENGINE_ERROR_LIMIT, "fw_cfg: '%s': too many bytes", name);
    }
    item = file_for(s, name, error);
    if (item) {
        item_set(item, bytes);
    }
    return item != NULL;
}

bool fw_cfg_add_file_fn(FWCfg *s, const char *name, FWCfgFn fn, void *opaque, GDestroyNotify free,
                        GError **error)
{
    Item *item = file_for(s, name, error);

    if (!item) {
        return false;
    }
    item_clear(item);
    item->fn = fn;
    item->opaque = opaque;
    item->free = free;
    return true;
}

bool fw_cfg_set_writable(FWCfg *s, const char *name, FWCfgWritten fn, void *opaque, GError **error)
{
    Item *item = find_file(s, name);

    if (!item) {
        return error_set(error, ENGINE_ERROR_INVALID, "fw_cfg: there is no file '%s'", name);
    }
    item->writable = true;
    item->written = fn;
    item->written_opaque = opaque;
    return true;
}

GBytes *fw_cfg_get(FWCfg *s, const char *name, uint16_t key, GError **error)
{
    Item *item = name ? find_file(s, name) : item_of(s, key);

    if (!item || (key == FW_CFG_FILE_DIR && !name && !make_directory(s, error)) ||
        !item_update(item, error)) {
        return NULL;
    }
    return item->data || item->name ? g_bytes_new(item->data, item->len) : NULL;
}

unsigned fw_cfg_file_count(const FWCfg *s)
{
    return s->files;
}

const char *fw_cfg_file_name(const FWCfg *s, unsigned n)
{
    return n < s->files ? s->items[FW_CFG_FILE_FIRST + n].name : NULL;
}

FWCfg *fw_cfg_of_machine(Machine *m)
{
    for (unsigned i = 0; i < object_child_count(OBJECT(m)); i++) {
        Object *child = object_child_at(OBJECT(m), i);

        if (is_FW_CFG(child)) {
            return FW_CFG(child);
        }
    }
    return NULL;
}

/* ---- selecting and reading ----------------------------------------------------------------- */

static void fail(FWCfg *s, GError *error)
{
    machine_fail(s->parent.machine, error->message);
    g_error_free(error);
}

static void select_key(FWCfg *s, uint16_t key)
{
    Item *item = item_of(s, key);
    GError *error = NULL;

    s->key = key;
    s->offset = 0;
    if (!item) {
        log_of(s, LOG_GUEST, "fw_cfg: key %#x", key);
        return;
    }
    if (!(key == FW_CFG_FILE_DIR ? make_directory(s, &error) : item_update(item, &error))) {
        fail(s, error);
    }
}

static uint64_t data_read(void *opaque, hwaddr addr, unsigned size)
{
    FWCfg *s = opaque;
    Item *item;

    if (addr != 1) {
        return size == 2 ? 0xffff : 0xff;
    }
    item = item_of(s, s->key);
    return item && s->offset < item->len ? item->data[s->offset++] : 0;
}

static void data_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    if (addr == 0 && size == 2) {
        select_key(opaque, (uint16_t)data);
    } else {
        log_of(opaque, LOG_GUEST, "fw_cfg: write of %u bytes at %#x", size, (unsigned)addr);
    }
}

static bool data_accepts(void *opaque, hwaddr addr, unsigned size, bool is_write, MemTxAttrs attrs)
{
    return size == 1 || addr == 0;
}

static const MemoryRegionOps data_ops = {
    .read = data_read,
    .write = data_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 2, .accepts = data_accepts },
    .impl = { .min_access_size = 1, .max_access_size = 2 },
};

/* ---- DMA ----------------------------------------------------------------------------------- */

static bool dma_zeros(FWCfg *s, hwaddr addr, uint32_t len)
{
    static const uint8_t zeros[4096];

    while (len > 0) {
        uint32_t n = MIN(len, (uint32_t)sizeof(zeros));

        if (address_space_write(s->parent.machine->memory, addr, MEMTXATTRS_NONE, zeros, n)) {
            return false;
        }
        addr += n;
        len -= n;
    }
    return true;
}

static bool dma_read(FWCfg *s, const Item *item, hwaddr addr, uint32_t len)
{
    uint32_t left = item && s->offset < item->len ? item->len - s->offset : 0;
    uint32_t n = MIN(left, len);

    if (len - n > ZEROS_MAX) {
        log_of(s, LOG_GUEST, "fw_cfg: read of %u bytes from %u", len, left);
        return false;
    }
    if (n > 0 && address_space_write(s->parent.machine->memory, addr, MEMTXATTRS_NONE,
                                     item->data + s->offset, n) != MEMTX_OK) {
        return false;
    }
    s->offset += n;
    return dma_zeros(s, addr + n, len - n);
}

static bool dma_write(FWCfg *s, Item *item, hwaddr addr, uint32_t len)
{
    if (!item || !item->writable || s->offset > item->len || len > item->len - s->offset) {
        log_of(s, LOG_GUEST, "fw_cfg: write of %u bytes to key %#x", len, s->key);
        return false;
    }
    if (address_space_read(s->parent.machine->memory, addr, MEMTXATTRS_NONE, item->data + s->offset,
                           len) != MEMTX_OK) {
        return false;
    }
    s->offset += len;
    if (item->written) {
        item->written(item->written_opaque, item->data, item->len);
    }
    return true;
}

static bool dma_skip(FWCfg *s, const Item *item, uint32_t len)
{
    uint32_t left = item && s->offset < item->len ? item->len - s->offset : 0;

    s->offset += MIN(left, len);
    return true;
}

static void dma_transfer(FWCfg *s)
{
    AddressSpace *as = s->parent.machine->memory;
    hwaddr at = s->dma_address, addr;
    uint8_t access[16], result[4];
    uint32_t control, len;
    bool ok = true;
    Item *item;

    s->dma_address = 0;
    if (address_space_read(as, at, MEMTXATTRS_NONE, access, sizeof(access)) != MEMTX_OK) {
        put_be32(result, DMA_ERROR);
        address_space_write(as, at, MEMTXATTRS_NONE, result, 4);
        return;
    }
    control = get_be32(access);
    len = get_be32(access + 4);
    addr = (uint64_t)get_be32(access + 8) << 32 | get_be32(access + 12);
    if (control & DMA_SELECT) {
        select_key(s, (uint16_t)(control >> 16));
    }
    item = item_of(s, s->key);
    if (control & DMA_READ) {
        ok = dma_read(s, item, addr, len);
    } else if (control & DMA_WRITE) {
        ok = dma_write(s, item, addr, len);
    } else if (control & DMA_SKIP) {
        ok = dma_skip(s, item, len);
    }
    put_be32(result, ok ? 0 : DMA_ERROR);
    address_space_write(as, at, MEMTXATTRS_NONE, result, 4);
}

static uint64_t dma_io_read(void *opaque, hwaddr addr, unsigned size)
{
    return DMA_SIGNATURE >> (8 * (8 - addr - size)) & (UINT64_MAX >> (64 - 8 * size));
}

static void dma_io_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    FWCfg *s = opaque;

    if (size == 4 && addr == 0) {
        s->dma_address = (data & UINT32_MAX) << 32;
        return;
    }
    if (size == 8) {
        s->dma_address = data;
    } else if (size == 4 && addr == 4) {
        s->dma_address |= data & UINT32_MAX;
    } else {
        return;
    }
    /* Memory at that address may lead back to this port. */
    if (!s->busy) {
        s->busy = true;
        dma_transfer(s);
        s->busy = false;
    }
}

static const MemoryRegionOps dma_ops = {
    .read = dma_io_read,
    .write = dma_io_write,
    .endianness = DEVICE_BIG_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8 },
    .impl = { .min_access_size = 1, .max_access_size = 8 },
};

/* ---- saved state --------------------------------------------------------------------------- */

/* Offsets beyond the end are as good as the end; what the item is, the board says. */
static const VMStateField fw_cfg_fields[] = {
    VMSTATE_UINT16(key, FWCfg),
    VMSTATE_UINT32(offset, FWCfg),
    VMSTATE_UINT64(dma_address, FWCfg),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_fw_cfg = {
    .name = TYPE_FW_CFG,
    .version = 1,
    .minimum_version = 1,
    .fields = fw_cfg_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static bool fw_cfg_realize(DeviceState *dev, GError **error)
{
    FWCfg *s = FW_CFG(dev);

    make_fixed(s);
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_finalize(&s->dma_io);
    memory_region_init_io(&s->io, OBJECT(dev), &data_ops, s, "fw_cfg", 2);
    memory_region_init_io(&s->dma_io, OBJECT(dev), &dma_ops, s, "fw_cfg-dma", 8);
    return device_map_io(dev, s->iobase, &s->io, error) &&
           (!s->dma || device_map_io(dev, s->iobase + 4, &s->dma_io, error));
}

static void fw_cfg_reset(DeviceState *dev)
{
    FWCfg *s = FW_CFG(dev);

    s->key = FW_CFG_SIGNATURE;
    s->offset = 0;
    s->dma_address = 0;
}

static const Property fw_cfg_properties[] = {
    DEFINE_PROP_UINT32("iobase", FWCfg, iobase, 0x510, "its first I/O port"),
    DEFINE_PROP_BOOL("dma", FWCfg, dma, true, "the DMA interface"),
};

static void fw_cfg_finalize(Object *obj)
{
    FWCfg *s = FW_CFG(obj);

    memory_region_finalize(&s->io);
    memory_region_finalize(&s->dma_io);
    for (unsigned i = 0; i < FILE_END; i++) {
        item_clear(&s->items[i]);
        g_free(s->items[i].name);
    }
    for (unsigned i = 0; i < FW_CFG_ARCH_SLOTS; i++) {
        item_clear(&s->arch[i]);
    }
}

static void fw_cfg_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = fw_cfg_realize;
    dc->reset = fw_cfg_reset;
    dc->vmsd = &vmstate_fw_cfg;
    object_class_add_properties(klass, fw_cfg_properties, G_N_ELEMENTS(fw_cfg_properties));
}

static const TypeInfo fw_cfg_info = {
    .name = TYPE_FW_CFG,
    .parent = TYPE_ISA_DEVICE,
    .doc = "Firmware configuration: items and files that firmware reads",
    .instance_size = sizeof(FWCfg),
    .instance_finalize = fw_cfg_finalize,
    .class_init = fw_cfg_class_init,
};

static void register_fw_cfg(void)
{
    type_register_static(&fw_cfg_info);
}
type_init(register_fw_cfg)

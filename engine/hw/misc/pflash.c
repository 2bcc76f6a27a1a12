/*
 * "pflash": a parallel NOR flash of one byte's width whose contents are a file.
 *
 * Intel StrataFlash (28F640J3) data sheet and Common Flash Interface 2.0 (JESD68.01), basic command
 * set 0x0001. Commands, by the byte written anywhere in the chip:
 *   0xff read array       0x70 read status      0x50 clear status    0x90 read identifier
 *   0x98 CFI query        0x10, 0x40 program a byte                  0xe8 write a buffer
 *   0x20 0xd0 erase a block                     0x60 lock bits (0x01 set, 0xd0 clear: accepted)
 * In the array mode reads and execution go at the speed of RAM; each command leaves and enters it.
 * Programming clears bits only, erasing sets them. After "clear status" the status reads 0, also
 * its ready bit, by which firmware for virtual boards tells flash from RAM and ROM.
 *
 * What is written goes to the file soon after (50 ms) and when the machine is closed, off the
 * vCPU's way; with readonly=on programming fails as on a protected chip. A restored snapshot
 * restores the file too. Not emulated: timing, suspend, protection registers, block lock bits.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <inttypes.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci.h"

#define TYPE_PFLASH  "pflash"
#define SIZE_MAX_    (64u << 20)
#define BUFFER_SIZE  256
#define FLUSH_AFTER  INT64_C(50000000)
#define LOW_MAX      (128u << 10)
#define MANUFACTURER 0x89
#define DEVICE_CODE  0x18

enum {
    STATUS_READY = 1 << 7,
    STATUS_ERASE_ERROR = 1 << 5,
    STATUS_PROGRAM_ERROR = 1 << 4,
    STATUS_PROTECTED = 1 << 1,
};
enum {
    CMD_ARRAY = 0xff,
    CMD_STATUS = 0x70,
    CMD_CLEAR = 0x50,
    CMD_IDENTIFY = 0x90,
    CMD_QUERY = 0x98,
    CMD_PROGRAM = 0x10,
    CMD_PROGRAM_ALT = 0x40,
    CMD_BUFFER = 0xe8,
    CMD_ERASE = 0x20,
    CMD_LOCK = 0x60,
    CMD_CONFIRM = 0xd0,
};
enum { STEP_COMMAND, STEP_ARGUMENT, STEP_COUNT, STEP_DATA, STEP_CONFIRM, STEPS };

typedef struct PFlash {
    DeviceState parent;
    MemoryRegion mem, low;
    uint8_t *array;
    int fd;
    Timer flush;
    uint64_t dirty_from, dirty_to; /* not yet in the file; empty: from >= to */
    uint8_t command, status, step;
    uint32_t count, filled; /* of the write buffer */
    uint64_t buffer_at;
    uint8_t buffer[BUFFER_SIZE];
    char *file; /* properties */
    bool readonly, alias_low;
    uint64_t end;
    uint32_t block;
} PFlash;
OBJECT_DECLARE_TYPE(PFlash, DeviceClass, PFLASH, TYPE_PFLASH)

/* ---- the file ------------------------------------------------------------------------------ */

static void write_back(PFlash *s)
{
    uint64_t at = s->dirty_from;

    while (s->fd >= 0 && at < s->dirty_to) {
        ssize_t n = pwrite(s->fd, s->array + at, s->dirty_to - at, (off_t)at);

        if (n <= 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            /* Firmware has been told that it is written: that much is true of this machine. */
            log_error("%s: %s: %s", object_get_name(OBJECT(s)), s->file,
                      n < 0 ? strerror(errno) : "nothing was written");
            break;
        }
        at += (uint64_t)n;
    }
    s->dirty_from = UINT64_MAX;
    s->dirty_to = 0;
}

static void flush_due(void *opaque)
{
    write_back(opaque);
}

static void mark(PFlash *s, uint64_t at, uint64_t len)
{
    memory_region_set_dirty(&s->mem, at, len);
    if (s->readonly) {
        return;
    }
    s->dirty_from = MIN(s->dirty_from, at);
    s->dirty_to = MAX(s->dirty_to, at + len);
    if (!timer_armed(&s->flush)) {
        timer_arm(&s->flush, clock_now(clock_realtime()) + FLUSH_AFTER);
    }
}

/* ---- commands ------------------------------------------------------------------------------ */

static void enter(PFlash *s, uint8_t command, uint8_t step)
{
    s->command = command;
    s->step = step;
    memory_region_rom_device_set_romd(&s->mem, command == CMD_ARRAY);
}

static void program(PFlash *s, uint64_t at, const uint8_t *data, uint32_t len)
{
    if (s->readonly || at + len > s->mem.size) {
        s->status |= STATUS_PROGRAM_ERROR | (s->readonly ? STATUS_PROTECTED : 0);
        log_of(s, LOG_GUEST, "%s: programming at %#" PRIx64 " of %s", object_get_name(OBJECT(s)),
               at, s->readonly ? "a chip that is read-only" : "a chip that is smaller");
        return;
    }
    for (uint32_t i = 0; i < len; i++) {
        s->array[at + i] &= data[i];
    }
    mark(s, at, len);
}

static void erase(PFlash *s, uint64_t at)
{
    if (s->readonly) {
        s->status |= STATUS_ERASE_ERROR | STATUS_PROTECTED;
        return;
    }
    at -= at % s->block;
    memset(s->array + at, 0xff, s->block);
    mark(s, at, s->block);
}

static void first_byte(PFlash *s, uint64_t addr, uint8_t value)
{
    switch (value) {
    case CMD_CLEAR:
        s->status = 0;
        enter(s, CMD_ARRAY, STEP_COMMAND);
        break;
    case CMD_STATUS:
    case CMD_IDENTIFY:
    case CMD_QUERY:
        enter(s, value, STEP_COMMAND);
        break;
    case CMD_PROGRAM:
    case CMD_PROGRAM_ALT:
    case CMD_ERASE:
    case CMD_LOCK:
        enter(s, value, STEP_ARGUMENT);
        break;
    case CMD_BUFFER:
        s->status |= STATUS_READY;
        s->buffer_at = addr;
        enter(s, value, STEP_COUNT);
        break;
    case CMD_ARRAY:
    case 0x00:
        enter(s, CMD_ARRAY, STEP_COMMAND);
        break;
    default:
        log_of(s, LOG_GUEST, "%s: command %#x", object_get_name(OBJECT(s)), value);
        enter(s, CMD_ARRAY, STEP_COMMAND);
        break;
    }
}

static void argument(PFlash *s, uint64_t addr, uint8_t value)
{
    if (s->command == CMD_ERASE && value == CMD_CONFIRM) {
        erase(s, addr);
    } else if (s->command == CMD_ERASE) {
        s->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR; /* a wrong sequence */
    } else if (s->command != CMD_LOCK) {
        program(s, addr, &value, 1);
    }
    s->status |= STATUS_READY;
    enter(s, CMD_STATUS, STEP_COMMAND);
}

static void buffer_byte(PFlash *s, uint64_t addr, uint8_t value)
{
    if (s->step == STEP_COUNT) {
        s->count = value + 1u;
        s->filled = 0;
        s->step = STEP_DATA;
        return;
    }
    if (s->step == STEP_DATA) {
        if (s->filled == 0) {
            s->buffer_at = addr;
        }
        s->buffer[s->filled++] = value;
        s->step = s->filled == s->count ? STEP_CONFIRM : STEP_DATA;
        return;
    }
    if (value == CMD_CONFIRM) {
        program(s, s->buffer_at, s->buffer, s->count);
    } else {
        s->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;
    }
    s->status |= STATUS_READY;
    enter(s, CMD_STATUS, STEP_COMMAND);
}

static void flash_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PFlash *s = opaque;

    switch (s->step) {
    case STEP_COMMAND:
        first_byte(s, addr, (uint8_t)data);
        break;
    case STEP_ARGUMENT:
        argument(s, addr, (uint8_t)data);
        break;
    default:
        buffer_byte(s, addr, (uint8_t)data);
        break;
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

/* JESD68.01, 4: from 0x10 on. */
static uint8_t query(const PFlash *s, unsigned at)
{
    static const uint8_t head[] = {
        'Q',  'R',  'Y',  0x01, 0x00, 0x31, 0x00, 0,    0, 0, 0, /* command set, extended table */
        0x45, 0x55, 0x00, 0x00,                                  /* supply voltages */
        0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00,          /* times */
    };
    static const uint8_t extended[] = { 'P', 'R', 'I', '1', '0' };
    uint32_t blocks = (uint32_t)(s->mem.size / s->block) - 1, order = 0;

    while (UINT64_C(1) << order < s->mem.size) {
        order++;
    }
    if (at >= 0x10 && at < 0x10 + sizeof(head)) {
        return head[at - 0x10];
    }
    if (at >= 0x31 && at < 0x31 + sizeof(extended)) {
        return extended[at - 0x31];
    }
    switch (at) {
    case 0x27:
        return (uint8_t)order;
    case 0x2a:
        return 8; /* write buffer of 2^8 bytes */
    case 0x2c:
        return 1; /* one region of equal blocks */
    case 0x2d:
        return (uint8_t)blocks;
    case 0x2e:
        return (uint8_t)(blocks >> 8);
    case 0x2f:
        return (uint8_t)(s->block >> 8);
    case 0x30:
        return (uint8_t)(s->block >> 16);
    default:
        return 0;
    }
}

static uint64_t flash_read(void *opaque, hwaddr addr, unsigned size)
{
    PFlash *s = opaque;

    switch (s->command) {
    case CMD_ARRAY:
        return s->array[addr];
    case CMD_IDENTIFY:
        return (addr & 0xff) == 0 ? MANUFACTURER : (addr & 0xff) == 1 ? DEVICE_CODE : 0;
    case CMD_QUERY:
        return query(s, addr & 0xff);
    default:
        return s->status;
    }
}

static const MemoryRegionOps flash_ops = {
    .read = flash_read,
    .write = flash_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool flash_post_load(void *opaque, unsigned version, GError **error)
{
    PFlash *s = opaque;

    if (s->step >= STEPS || s->count > BUFFER_SIZE || s->filled > BUFFER_SIZE ||
        (s->step == STEP_DATA && s->filled >= s->count) || s->buffer_at >= s->mem.size) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "step %u of command %#x, %u of %u bytes",
                         s->step, s->command, s->filled, s->count);
    }
    memory_region_rom_device_set_romd(&s->mem, s->command == CMD_ARRAY);
    mark(s, 0, s->mem.size);
    return true;
}

static const VMStateField flash_fields[] = {
    VMSTATE_UINT8(command, PFlash), VMSTATE_UINT8(status, PFlash),
    VMSTATE_UINT8(step, PFlash),    VMSTATE_UINT32(count, PFlash),
    VMSTATE_UINT32(filled, PFlash), VMSTATE_UINT64(buffer_at, PFlash),
    VMSTATE_BYTES(buffer, PFlash),  VMSTATE_END(),
};
static const VMStateDescription vmstate_flash = {
    .name = TYPE_PFLASH,
    .version = 1,
    .minimum_version = 1,
    .post_load = flash_post_load,
    .fields = flash_fields,
};

/* ---- life cycle ---------------------------------------------------------------------------- */

static bool open_file(PFlash *s, uint64_t *size, GError **error)
{
    struct stat st;

    s->fd = open(s->file, (s->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) < 0) {
        return error_set_errno(error, "%s: %s", object_get_name(OBJECT(s)), s->file);
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size > SIZE_MAX_ ||
        st.st_size % s->block) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: %s: a file of whole blocks of %u bytes, at most %u MiB, is expected",
                         object_get_name(OBJECT(s)), s->file, s->block, SIZE_MAX_ >> 20);
    }
    *size = (uint64_t)st.st_size;
    return true;
}

static bool read_file(PFlash *s, uint64_t size, GError **error)
{
    for (uint64_t at = 0; at < size;) {
        ssize_t n = pread(s->fd, s->array + at, size - at, (off_t)at);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? error_set_errno(error, "%s", s->file)
                         : error_set(error, ENGINE_ERROR_IO, "%s ended early", s->file);
        }
        at += (uint64_t)n;
    }
    return true;
}

static void close_file(PFlash *s)
{
    if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
}

static bool map(PFlash *s, GError **error)
{
    PCIBus *bus = pci_machine_bus(s->parent.machine);
    MemoryRegion *space = bus ? pci_bus_memory(bus) : &s->parent.machine->memory_root;
    uint64_t low = MIN(s->mem.size, LOW_MAX);

    if (s->end < s->mem.size) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: %#" PRIx64 " bytes end at %#" PRIx64,
                         object_get_name(OBJECT(s)), s->mem.size, s->end);
    }
    if (!memory_region_add_subregion_checked(space, s->end - s->mem.size, &s->mem, 1, false,
                                             error)) {
        return false;
    }
    if (s->alias_low) {
        memory_region_init_alias(&s->low, OBJECT(s), "pflash-low", &s->mem, s->mem.size - low, low);
        return memory_region_add_subregion_checked(space, 0x100000 - low, &s->low, 1, false, error);
    }
    return true;
}

static void unmap(PFlash *s)
{
    memory_region_transaction_begin();
    if (s->mem.container) {
        memory_region_del_subregion(s->mem.container, &s->mem);
    }
    if (s->low.container) {
        memory_region_del_subregion(s->low.container, &s->low);
    }
    memory_region_transaction_commit();
}

static bool flash_realize(DeviceState *dev, GError **error)
{
    PFlash *s = PFLASH(dev);
    uint64_t size = 0;

    if (s->block < 4096 || s->block > 1u << 20 || (s->block & (s->block - 1))) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: block: a power of two from 4 KiB to 1 MiB, not %u",
                         object_get_name(OBJECT(dev)), s->block);
    }
    memory_region_finalize(&s->low); /* of an earlier life */
    memory_region_finalize(&s->mem);
    if (!open_file(s, &size, error) ||
        !memory_region_init_rom_device(&s->mem, OBJECT(dev), &flash_ops, s,
                                       object_get_name(OBJECT(dev)), size, error)) {
        close_file(s);
        return false;
    }
    s->array = memory_region_get_ram_ptr(&s->mem);
    s->command = CMD_ARRAY;
    s->dirty_from = UINT64_MAX;
    s->dirty_to = 0;
    timer_setup(&s->flush, clock_realtime(), flush_due, s);
    if (!read_file(s, size, error) || !map(s, error)) {
        unmap(s);
        close_file(s);
        return false;
    }
    machine_add_ram(dev->machine, object_get_name(OBJECT(dev)), &s->mem);
    return true;
}

static void flash_unrealize(DeviceState *dev)
{
    PFlash *s = PFLASH(dev);

    timer_disarm(&s->flush);
    write_back(s);
    machine_remove_ram(dev->machine, &s->mem);
    unmap(s);
    close_file(s);
}

static void flash_reset(DeviceState *dev)
{
    PFlash *s = PFLASH(dev);

    s->status = 0;
    s->count = s->filled = 0;
    s->buffer_at = 0;
    memset(s->buffer, 0, sizeof(s->buffer));
    enter(s, CMD_ARRAY, STEP_COMMAND);
}

static bool get_size(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_SIZE;
    out->uinteger = PFLASH(obj)->mem.size;
    return true;
}

static const Property flash_properties[] = {
    { .name = "size",
      .doc = "bytes, as the file has",
      .kind = PROP_SIZE,
      .bits = 64,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_size },
    { PROP_FIELD_("file", PFlash, file, PROP_STRING, 0, PROP_UNTIL_REALIZED | PROP_REQUIRED,
                  "the file with its contents") },
    DEFINE_PROP_BOOL("readonly", PFlash, readonly, false, "nothing is programmed or erased"),
    DEFINE_PROP_UINT64("end", PFlash, end, UINT64_C(1) << 32, "the address behind its last byte"),
    DEFINE_PROP_BOOL("low-alias", PFlash, alias_low, false,
                     "its last 128 KiB are also below 1 MiB"),
    DEFINE_PROP_UINT32("block", PFlash, block, 4096, "bytes that are erased together"),
};

static void flash_init(Object *obj)
{
    PFLASH(obj)->fd = -1;
}

static void flash_finalize(Object *obj)
{
    memory_region_finalize(&PFLASH(obj)->low);
    memory_region_finalize(&PFLASH(obj)->mem);
}

static void flash_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = flash_realize;
    dc->unrealize = flash_unrealize;
    dc->reset = flash_reset;
    dc->vmsd = &vmstate_flash;
    object_class_add_properties(klass, flash_properties, G_N_ELEMENTS(flash_properties));
}

static const TypeInfo flash_info = {
    .name = TYPE_PFLASH,
    .parent = TYPE_SYS_DEVICE,
    .doc = "Parallel NOR flash whose contents are a file",
    .instance_size = sizeof(PFlash),
    .instance_init = flash_init,
    .instance_finalize = flash_finalize,
    .class_init = flash_class_init,
};

static void register_flash(void)
{
    type_register_static(&flash_info);
}
type_init(register_flash)

/*
 * "isa-dma": the two cascaded DMA controllers 8237A of a PC AT with their page registers (Intel
 * 8237A data sheet, order 231466; Intel 82371SB data sheet, "DMA registers", for the AT's wiring).
 *
 *   ports  0x00-0x0f  channels 0 to 3, 8 bits      0xc0-0xdf  channels 4 to 7, 16 bits, even ports
 *          0x81-0x8f  page registers: 0x87 0x83 0x81 0x82 of channels 0 to 3, 0x8b 0x89 0x8a of 5
 *                     to 7; the others are bytes that are kept. Port 0x80 belongs to the board
 *
 * Addresses wrap within their page of 64 KiB (128 KiB for words). What a device asks to move is
 * moved at once, whatever the mode (single, block, demand); a software request runs to its terminal
 * count and reads a bus that nobody drives.
 *
 * Not emulated: memory-to-memory transfers (an AT's chips have none), compressed timing, rotating
 * priority (nothing waits for anything here), the senses of DREQ and DACK.
 */
#include "engine/hw/dma/isa-dma.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"

enum { CMD_MEM_TO_MEM = 0x01, CMD_DISABLE = 0x04 };
enum {
    MODE_DIRECTION = 0x0c,
    MODE_WRITE = 0x04, /* into memory */
    MODE_READ = 0x08,
    MODE_AUTO_INIT = 0x10,
    MODE_DECREMENT = 0x20,
    MODE_CASCADE = 0xc0,
};
enum {
    REG_COMMAND = 8,
    REG_REQUEST,
    REG_SINGLE_MASK,
    REG_MODE,
    REG_CLEAR_FLIP_FLOP,
    REG_MASTER_CLEAR,
    REG_CLEAR_MASK,
    REG_MASK,
};
#define CHUNK 512 /* bytes moved in one access of memory, at most */

typedef struct DmaChannel {
    uint16_t base_address, base_count, address, count;
    uint8_t mode; /* without the channel number */
} DmaChannel;
typedef struct DmaController {
    DmaChannel channel[4];
    uint8_t command, mask, request, terminal, temporary;
    bool high_byte; /* the flip-flop */
} DmaController;
typedef struct DmaUser {
    IsaDmaReadyFn ready;
    void *opaque;
    bool dreq;
} DmaUser;
typedef struct IsaDma {
    DeviceState parent;
    MemoryRegion io_low, io_high, io_page;
    DmaController controller[2];
    uint8_t page[16];               /* by port - 0x80 */
    DmaUser user[ISA_DMA_CHANNELS]; /* dreq is the user's to set again after loading */
} IsaDma;
OBJECT_DECLARE_TYPE(IsaDma, DeviceClass, ISA_DMA, TYPE_ISA_DMA)

static const uint8_t page_ports[ISA_DMA_CHANNELS] = { 7, 3, 1, 2, 15, 11, 9, 10 };

/* ---- moving bytes -------------------------------------------------------------------------- */

static DmaChannel *channel_of(IsaDma *s, unsigned n)
{
    return &s->controller[n >> 2].channel[n & 3];
}

static hwaddr channel_address(IsaDma *s, unsigned n)
{
    const DmaChannel *c = channel_of(s, n);
    hwaddr page = s->page[page_ports[n]];

    return n < 4 ? page << 16 | c->address : (page & 0xfe) << 16 | (hwaddr)c->address << 1;
}

bool isa_dma_ready(DeviceState *dma, unsigned n)
{
    DmaController *d = &ISA_DMA(dma)->controller[n >> 2 & 1];

    /* Channels 0 to 3 reach the bus through channel 4. */
    return n < ISA_DMA_CHANNELS && !(d->command & CMD_DISABLE) && !(d->mask >> (n & 3) & 1) &&
           (n > 3 || (!(ISA_DMA(dma)->controller[1].command & CMD_DISABLE) &&
                      !(ISA_DMA(dma)->controller[1].mask & 1)));
}

IsaDmaDirection isa_dma_direction(DeviceState *dma, unsigned n)
{
    uint8_t mode = channel_of(ISA_DMA(dma), n & 7)->mode & MODE_DIRECTION;

    return mode == MODE_WRITE  ? ISA_DMA_TO_MEMORY
           : mode == MODE_READ ? ISA_DMA_FROM_MEMORY
                               : ISA_DMA_VERIFY;
}

/* The last unit has gone. */
static void terminal_count(IsaDma *s, unsigned n)
{
    DmaController *d = &s->controller[n >> 2];
    DmaChannel *c = channel_of(s, n);
    uint8_t bit = (uint8_t)(1u << (n & 3));

    d->terminal |= bit;
    d->request &= (uint8_t)~bit;
    if (c->mode & MODE_AUTO_INIT) {
        c->address = c->base_address;
        c->count = c->base_count;
    } else {
        d->mask |= bit;
    }
}

/* Units until the address wraps or the count runs out. */
static unsigned straight_units(const DmaChannel *c)
{
    unsigned left = c->count + 1u;

    return MIN(left, c->mode & MODE_DECREMENT ? 1u : 0x10000u - c->address);
}

static size_t transfer(DeviceState *dma, unsigned n, uint8_t *buf, size_t len,
                       IsaDmaDirection direction, bool *terminal)
{
    IsaDma *s = ISA_DMA(dma);
    DmaChannel *c = channel_of(s, n & 7);
    unsigned shift = n > 3;
    size_t done = 0;

    *terminal = false;
    if (!isa_dma_ready(dma, n)) {
        return 0;
    }
    while (done + shift < len && !*terminal) {
        size_t units = MIN(straight_units(c), MIN(len - done, CHUNK) >> shift);
        hwaddr addr = channel_address(s, n);
        size_t bytes = units << shift;

        if (isa_dma_direction(dma, n) != direction) {
            /* It counts, and no byte moves. */
        } else if (direction == ISA_DMA_TO_MEMORY) {
            address_space_write(dma->machine->memory, addr, MEMTXATTRS_NONE, buf + done, bytes);
        } else {
            address_space_read(dma->machine->memory, addr, MEMTXATTRS_NONE, buf + done, bytes);
        }
        done += bytes;
        c->address = (uint16_t)(c->mode & MODE_DECREMENT ? c->address - units : c->address + units);
        *terminal = units == c->count + 1u;
        c->count = (uint16_t)(c->count - units);
        if (*terminal) {
            terminal_count(s, n);
        }
    }
    return done;
}

size_t isa_dma_write(DeviceState *dma, unsigned channel, const void *buf, size_t len,
                     bool *terminal)
{
    /* Only read from in this direction. */
    return transfer(dma, channel, (uint8_t *)(uintptr_t)buf, len, ISA_DMA_TO_MEMORY, terminal);
}

size_t isa_dma_read(DeviceState *dma, unsigned channel, void *buf, size_t len, bool *terminal)
{
    return transfer(dma, channel, buf, len, ISA_DMA_FROM_MEMORY, terminal);
}

bool isa_dma_attach(DeviceState *dma, unsigned channel, IsaDmaReadyFn ready, void *opaque)
{
    IsaDma *s = ISA_DMA(dma);

    if (channel >= ISA_DMA_CHANNELS || channel == 4 || s->user[channel].ready) {
        return false;
    }
    s->user[channel] = (DmaUser){ ready, opaque, false };
    return true;
}

void isa_dma_detach(DeviceState *dma, unsigned channel)
{
    if (channel < ISA_DMA_CHANNELS) {
        ISA_DMA(dma)->user[channel] = (DmaUser){ 0 };
    }
}

void isa_dma_set_request(DeviceState *dma, unsigned channel, bool level)
{
    if (channel < ISA_DMA_CHANNELS) {
        ISA_DMA(dma)->user[channel].dreq = level;
    }
}

/* Without a device behind it: the bus floats. */
static void software_request(IsaDma *s, unsigned n)
{
    uint8_t floating[CHUNK];
    bool terminal = false;

    /* Bounded by the count: at most 128 KiB. */
    while (!terminal) {
        memset(floating, 0xff, sizeof(floating));
        if (!transfer(&s->parent, n, floating, sizeof(floating), isa_dma_direction(&s->parent, n),
                      &terminal)) {
            return;
        }
    }
}

/* What waited for a channel, after registers changed. */
static void tell_ready(IsaDma *s, unsigned was_ready)
{
    for (unsigned n = 0; n < ISA_DMA_CHANNELS; n++) {
        bool soft = s->controller[n >> 2].request >> (n & 3) & 1;

        if (n == 4 || !isa_dma_ready(&s->parent, n)) {
            continue;
        }
        if (soft && (channel_of(s, n)->mode & MODE_CASCADE) != MODE_CASCADE) {
            software_request(s, n);
        } else if (!(was_ready >> n & 1) && s->user[n].ready) {
            s->user[n].ready(s->user[n].opaque);
        }
    }
}

static unsigned ready_channels(IsaDma *s)
{
    unsigned mask = 0;

    for (unsigned n = 0; n < ISA_DMA_CHANNELS; n++) {
        mask |= (unsigned)isa_dma_ready(&s->parent, n) << n;
    }
    return mask;
}

/* ---- registers ----------------------------------------------------------------------------- */

static void master_clear(DmaController *d)
{
    d->command = d->request = d->terminal = d->temporary = 0;
    d->high_byte = false;
    d->mask = 15;
}

static uint8_t half(uint16_t value, bool high)
{
    return (uint8_t)(high ? value >> 8 : value);
}

static uint16_t with_half(uint16_t value, bool high, uint8_t byte)
{
    return (uint16_t)(high ? (value & 0xff) | byte << 8 : (value & 0xff00) | byte);
}

static uint8_t read_status(IsaDma *s, unsigned which, bool debug)
{
    DmaController *d = &s->controller[which];
    uint8_t value = d->terminal;

    for (unsigned i = 0; i < 4; i++) {
        bool wanted = s->user[which * 4 + i].dreq || (d->request >> i & 1);

        value |= (uint8_t)(wanted ? 0x10 << i : 0);
    }
    if (!debug) {
        d->terminal = 0;
    }
    return value;
}

static uint8_t controller_read(IsaDma *s, unsigned which, unsigned reg, bool debug)
{
    DmaController *d = &s->controller[which];
    DmaChannel *c = &d->channel[reg >> 1 & 3];
    bool high = d->high_byte;

    switch (reg) {
    case 0 ... 7:
        d->high_byte = debug ? high : !high;
        return half(reg & 1 ? c->count : c->address, high);
    case REG_COMMAND:
        return read_status(s, which, debug);
    case REG_MASTER_CLEAR:
        return d->temporary;
    case REG_MASK:
        return d->mask | 0xf0;
    default:
        return 0xff;
    }
}

static void controller_write(IsaDma *s, unsigned which, unsigned reg, uint8_t value)
{
    DmaController *d = &s->controller[which];
    DmaChannel *c = &d->channel[reg >> 1 & 3];
    uint8_t bit = (uint8_t)(1u << (value & 3));

    switch (reg) {
    case 0 ... 7:
        if (reg & 1) {
            c->base_count = c->count = with_half(c->base_count, d->high_byte, value);
        } else {
            c->base_address = c->address = with_half(c->base_address, d->high_byte, value);
        }
        d->high_byte = !d->high_byte;
        break;
    case REG_COMMAND:
        d->command = value;
        if (value & CMD_MEM_TO_MEM) {
            log_of(s, LOG_UNIMP, "isa-dma: memory-to-memory transfers");
        }
        break;
    case REG_REQUEST:
        d->request = (uint8_t)(value & 4 ? d->request | bit : d->request & ~bit);
        break;
    case REG_SINGLE_MASK:
        d->mask = (uint8_t)(value & 4 ? d->mask | bit : d->mask & ~bit);
        break;
    case REG_MODE:
        d->channel[value & 3].mode = value & 0xfc;
        break;
    case REG_CLEAR_FLIP_FLOP:
        d->high_byte = false;
        break;
    case REG_MASTER_CLEAR:
        master_clear(d);
        break;
    case REG_CLEAR_MASK:
        d->mask = 0;
        break;
    default:
        d->mask = value & 15;
        break;
    }
}

static MemTxResult low_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                            MemTxAttrs attrs)
{
    *data = controller_read(opaque, 0, (unsigned)addr, attrs.debug);
    return MEMTX_OK;
}

static MemTxResult high_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    *data = controller_read(opaque, 1, (unsigned)addr >> 1, attrs.debug);
    return MEMTX_OK;
}

static MemTxResult low_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                             MemTxAttrs attrs)
{
    unsigned ready = ready_channels(opaque);

    controller_write(opaque, 0, (unsigned)addr, (uint8_t)data);
    tell_ready(opaque, ready);
    return MEMTX_OK;
}

static MemTxResult high_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    unsigned ready = ready_channels(opaque);

    controller_write(opaque, 1, (unsigned)addr >> 1, (uint8_t)data);
    tell_ready(opaque, ready);
    return MEMTX_OK;
}

static uint64_t page_read(void *opaque, hwaddr addr, unsigned size)
{
    return ISA_DMA(opaque)->page[addr + 1];
}

static void page_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    ISA_DMA(opaque)->page[addr + 1] = (uint8_t)data;
}

#define DMA_BYTE_ACCESS                                                         \
    .endianness = DEVICE_LITTLE_ENDIAN,                                         \
    .valid = { .min_access_size = 1, .max_access_size = 2, .unaligned = true }, \
    .impl = { .min_access_size = 1, .max_access_size = 1 }
static const MemoryRegionOps low_ops = {
    .read_attrs = low_read,
    .write_attrs = low_write,
    DMA_BYTE_ACCESS,
};
static const MemoryRegionOps high_ops = {
    .read_attrs = high_read,
    .write_attrs = high_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};
static const MemoryRegionOps page_ops = {
    .read = page_read,
    .write = page_write,
    DMA_BYTE_ACCESS,
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool dma_post_load(void *opaque, unsigned version, GError **error)
{
    IsaDma *s = opaque;

    for (unsigned i = 0; i < 2; i++) {
        DmaController *d = &s->controller[i];

        if (d->mask > 15 || d->request > 15 || d->terminal > 15) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "controller %u has four channels", i);
        }
        for (unsigned n = 0; n < 4; n++) {
            if (d->channel[n].mode & 3) {
                return error_set(error, ENGINE_ERROR_CORRUPT, "mode of channel %u", i * 4 + n);
            }
        }
    }
    return true;
}

static const VMStateField dma_channel_fields[] = {
    VMSTATE_UINT16(base_address, DmaChannel), VMSTATE_UINT16(base_count, DmaChannel),
    VMSTATE_UINT16(address, DmaChannel),      VMSTATE_UINT16(count, DmaChannel),
    VMSTATE_UINT8(mode, DmaChannel),          VMSTATE_END(),
};
static const VMStateDescription vmstate_dma_channel = {
    .name = "8237-channel",
    .version = 1,
    .minimum_version = 1,
    .fields = dma_channel_fields,
};
static const VMStateField dma_controller_fields[] = {
    VMSTATE_STRUCT_ARRAY(channel, DmaController, vmstate_dma_channel),
    VMSTATE_UINT8(command, DmaController),
    VMSTATE_UINT8(mask, DmaController),
    VMSTATE_UINT8(request, DmaController),
    VMSTATE_UINT8(terminal, DmaController),
    VMSTATE_UINT8(temporary, DmaController),
    VMSTATE_BOOL(high_byte, DmaController),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_dma_controller = {
    .name = "8237",
    .version = 1,
    .minimum_version = 1,
    .fields = dma_controller_fields,
};
static const VMStateField dma_fields[] = {
    VMSTATE_STRUCT_ARRAY(controller, IsaDma, vmstate_dma_controller),
    VMSTATE_UINT8_ARRAY(page, IsaDma),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_dma = {
    .name = "isa-dma",
    .version = 1,
    .minimum_version = 1,
    .post_load = dma_post_load,
    .fields = dma_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static bool dma_realize(DeviceState *dev, GError **error)
{
    IsaDma *s = ISA_DMA(dev);

    memory_region_finalize(&s->io_low); /* of an earlier life */
    memory_region_finalize(&s->io_high);
    memory_region_finalize(&s->io_page);
    memory_region_init_io(&s->io_low, OBJECT(dev), &low_ops, s, "dma-low", 16);
    memory_region_init_io(&s->io_high, OBJECT(dev), &high_ops, s, "dma-high", 32);
    memory_region_init_io(&s->io_page, OBJECT(dev), &page_ops, s, "dma-page", 15);
    return device_map_io(dev, 0x00, &s->io_low, error) &&
           device_map_io(dev, 0xc0, &s->io_high, error) &&
           device_map_io(dev, 0x81, &s->io_page, error);
}

static void dma_reset(DeviceState *dev)
{
    IsaDma *s = ISA_DMA(dev);

    memset(s->controller, 0, sizeof(s->controller));
    memset(s->page, 0, sizeof(s->page));
    master_clear(&s->controller[0]);
    master_clear(&s->controller[1]);
    /* As firmware sets it up: the first controller hangs on channel 4. */
    s->controller[1].channel[0].mode = MODE_CASCADE;
    s->controller[1].mask = 14;
}

static void dma_finalize(Object *obj)
{
    IsaDma *s = ISA_DMA(obj);

    memory_region_finalize(&s->io_low);
    memory_region_finalize(&s->io_high);
    memory_region_finalize(&s->io_page);
}

static void dma_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = dma_realize;
    dc->reset = dma_reset;
    dc->vmsd = &vmstate_dma;
}

static const TypeInfo dma_info = {
    .name = TYPE_ISA_DMA,
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's two DMA controllers 8237A",
    .instance_size = sizeof(IsaDma),
    .instance_finalize = dma_finalize,
    .class_init = dma_class_init,
};

static void register_dma(void)
{
    type_register_static(&dma_info);
}
type_init(register_dma)

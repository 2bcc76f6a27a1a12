/*
 * "isa-pic": the two interrupt controllers 8259A of a PC (Intel 8259A data sheet, order 231468; the
 * edge/level registers by the data sheets of Intel's south bridges, "Interrupt Controller ELCR").
 *
 *   ports   0x20, 0x21  master: commands and status; mask
 *           0xa0, 0xa1  slave, whose output is on the master's input 2
 *           0x4d0, 0x4d1  ELCR: a bit an input, set for level triggered; 0, 1, 2, 8 and 13 are edge
 *   lines   16 unnamed inputs (input 2 is the cascade, and not connected), output "intr"
 *
 * Not emulated: MCS-80 mode (CALL sequences), buffered mode, which only drives a pin, and cascading
 * otherwise than by a PC's wires, whatever ICW3 says. An edge that was seen stays a request when
 * its line falls again before it is acknowledged; the data sheet makes that a spurious interrupt,
 * but the controllers in PC chip sets, and KVM's, keep it.
 */
#include "engine/hw/intc/pic.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/cpu/pc-chips.h"

enum { ICW1_SELECT = 1 << 4 };
enum { ICW4_UPM = 1 << 0, ICW4_AEOI = 1 << 1, ICW4_SFNM = 1 << 4 };
enum {
    OCW3_RIS = 1 << 0,
    OCW3_RR = 1 << 1,
    OCW3_POLL = 1 << 2,
    OCW3_SELECT = 1 << 3,
    OCW3_SMM = 1 << 5,
    OCW3_ESMM = 1 << 6,
};
enum { /* OCW2, bits 7 to 5 */
       OCW2_ROTATE_AEOI_CLEAR,
       OCW2_EOI,
       OCW2_NOP,
       OCW2_SPECIFIC_EOI,
       OCW2_ROTATE_AEOI_SET,
       OCW2_ROTATE_EOI,
       OCW2_SET_PRIORITY,
       OCW2_ROTATE_SPECIFIC_EOI,
};

typedef struct ISAPic {
    DeviceState parent;
    MemoryRegion io[2], elcr_io;
    Irq *intr;
    Irq *pins[16]; /* its own inputs */
    PicChip chip[2];
} ISAPic;
OBJECT_DECLARE_TYPE(ISAPic, DeviceClass, ISA_PIC, TYPE_ISA_PIC)

static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

/* ---- one chip ------------------------------------------------------------------------------ */

static uint8_t chip_level_mask(const PicChip *c)
{
    return c->icw1 & PIC_ICW1_LTIM ? 0xff : c->elcr;
}

static void chip_set_line(PicChip *c, unsigned n, bool level)
{
    uint8_t bit = (uint8_t)(1u << n);

    if (chip_level_mask(c) & bit) {
        c->irr = level ? c->irr | bit : c->irr & ~bit;
    } else if (level && !(c->lines & bit)) {
        c->irr |= bit;
    }
    c->lines = level ? c->lines | bit : c->lines & ~bit;
}

/* What is sensed as a level follows its line at once; what is sensed as an edge waits for one. */
static void chip_trigger_changed(PicChip *c, uint8_t old)
{
    uint8_t level = chip_level_mask(c);

    c->irr = (c->irr & ~(level | old)) | (c->lines & level);
}

static void chip_take(PicChip *c, unsigned n)
{
    uint8_t bit = (uint8_t)(1u << n);

    if (!(chip_level_mask(c) & bit)) {
        c->irr &= ~bit;
    }
    if (!c->auto_eoi) {
        c->isr |= bit;
    } else if (c->rotate_aeoi) {
        c->lowest = (uint8_t)n;
    }
}

/* ---- the pair ------------------------------------------------------------------------------ */

static void pic_update(ISAPic *s)
{
    chip_set_line(&s->chip[0], PIC_CASCADE, pic_chip_pick(&s->chip[1], false) >= 0);
    irq_set(s->intr, pic_chip_pick(&s->chip[0], true) >= 0);
}

/* An acknowledge drops the INT output, so that what comes next is an edge for whom it leads to. */
static void pic_slave_taken(ISAPic *s, unsigned n)
{
    chip_take(&s->chip[1], n);
    chip_set_line(&s->chip[0], PIC_CASCADE, false);
}

int pic_acknowledge(DeviceState *dev)
{
    ISAPic *s = ISA_PIC(dev);
    int n = pic_chip_pick(&s->chip[0], true), pin = n, vector;

    if (n < 0) {
        vector = s->chip[0].base + 7;
    } else {
        chip_take(&s->chip[0], (unsigned)n);
        vector = s->chip[0].base + n;
        if (n == PIC_CASCADE) {
            int k = pic_chip_pick(&s->chip[1], false);

            vector = s->chip[1].base + (k < 0 ? 7 : k);
            pin = k < 0 ? -1 : 8 + k;
            if (k >= 0) {
                pic_slave_taken(s, (unsigned)k);
            }
        }
    }
    irq_lower(s->intr);
    pic_update(s);
    log_mask(LOG_IRQ, "%s: vector %#x acknowledged", object_get_name(OBJECT(dev)), vector);
    if (pin >= 0) {
        machine_pin_taken(s->parent.machine, s->pins[pin]);
    }
    return vector;
}

static void pic_set_line(void *opaque, int n, int level)
{
    ISAPic *s = ISA_PIC(opaque);

    if (n == PIC_CASCADE) {
        return;
    }
    chip_set_line(&s->chip[n / 8], (unsigned)n % 8, level != 0);
    pic_update(s);
}

/* ---- registers ----------------------------------------------------------------------------- */

/* Ticks that came behind a mask which goes are not made up for. */
static void set_mask(ISAPic *s, PicChip *c, uint8_t value)
{
    unsigned first = c == &s->chip[0] ? 0 : 8;

    for (unsigned n = 0; n < 8; n++) {
        if (c->imr & ~value & (1u << n)) {
            machine_pin_unmasked(s->parent.machine, s->pins[first + n]);
        }
    }
    c->imr = value;
}

static void write_icw1(ISAPic *s, PicChip *c, uint8_t value)
{
    c->icw1 = value;
    c->init_state = PIC_INIT_ICW2;
    set_mask(s, c, 0);
    c->isr = 0;
    c->irr = c->lines & chip_level_mask(c); /* edges must be made again */
    c->lowest = 7;
    c->special_mask = c->read_isr = c->poll = c->rotate_aeoi = false;
    if (!(value & PIC_ICW1_IC4)) {
        c->auto_eoi = c->special_nested = false;
    }
    if (c == &s->chip[0]) {
        /* The slave's output is not forgotten: nobody would ever lower it. */
        c->lines &= ~(1u << PIC_CASCADE);
    }
}

static void write_ocw2(PicChip *c, uint8_t value)
{
    uint8_t n = value & 7, command = value >> 5;
    unsigned rank;

    switch (command) {
    case OCW2_ROTATE_AEOI_CLEAR:
    case OCW2_ROTATE_AEOI_SET:
        c->rotate_aeoi = command == OCW2_ROTATE_AEOI_SET;
        break;
    case OCW2_EOI:
    case OCW2_ROTATE_EOI:
        rank = pic_chip_rank(c, c->special_mask ? c->isr & ~c->imr : c->isr);
        if (rank == 8) {
            break;
        }
        n = (c->lowest + 1 + rank) & 7;
        c->isr &= ~(1u << n);
        if (command == OCW2_ROTATE_EOI) {
            c->lowest = n;
        }
        break;
    case OCW2_SPECIFIC_EOI:
    case OCW2_ROTATE_SPECIFIC_EOI:
        c->isr &= ~(1u << n);
        if (command == OCW2_ROTATE_SPECIFIC_EOI) {
            c->lowest = n;
        }
        break;
    case OCW2_SET_PRIORITY:
        c->lowest = n;
        break;
    default:
        break;
    }
}

static void write_ocw3(PicChip *c, uint8_t value)
{
    if (value & OCW3_ESMM) {
        c->special_mask = value & OCW3_SMM;
    }
    if (value & OCW3_POLL) {
        c->poll = true;
    } else if (value & OCW3_RR) {
        c->read_isr = value & OCW3_RIS;
    }
}

/* At A0 = 1: the mask, or the rest of an initialization. */
static void write_data(ISAPic *s, PicChip *c, uint8_t value)
{
    switch (c->init_state) {
    case PIC_INIT_ICW2:
        c->base = value & 0xf8;
        c->init_state = !(c->icw1 & PIC_ICW1_SNGL) ? PIC_INIT_ICW3
                        : c->icw1 & PIC_ICW1_IC4   ? PIC_INIT_ICW4
                                                   : PIC_INIT_DONE;
        break;
    case PIC_INIT_ICW3:
        if (value != (c == &s->chip[0] ? 1 << PIC_CASCADE : PIC_CASCADE)) {
            log_of(s, LOG_GUEST, "%s: ICW3 %#x is not how a PC is wired",
                   object_get_name(OBJECT(s)), value);
        }
        c->init_state = c->icw1 & PIC_ICW1_IC4 ? PIC_INIT_ICW4 : PIC_INIT_DONE;
        break;
    case PIC_INIT_ICW4:
        if (!(value & ICW4_UPM)) {
            log_of(s, LOG_UNIMP, "%s: MCS-80 mode", object_get_name(OBJECT(s)));
        }
        c->auto_eoi = value & ICW4_AEOI;
        c->special_nested = value & ICW4_SFNM;
        c->init_state = PIC_INIT_DONE;
        break;
    default:
        set_mask(s, c, value);
        break;
    }
}

static MemTxResult pic_write(ISAPic *s, unsigned which, hwaddr addr, uint8_t value,
                             MemTxAttrs attrs)
{
    PicChip *c = &s->chip[which];

    if (addr == 1) {
        write_data(s, c, value);
    } else if (value & ICW1_SELECT) {
        write_icw1(s, c, value);
    } else if (value & OCW3_SELECT) {
        write_ocw3(c, value);
    } else {
        write_ocw2(c, value);
    }
    pic_update(s);
    return MEMTX_OK;
}

/* A read that answers a poll is an acknowledge of this chip alone. */
static uint8_t pic_poll(ISAPic *s, unsigned which)
{
    int n = pic_chip_pick(&s->chip[which], which == 0);

    s->chip[which].poll = false;
    if (n < 0) {
        return 7;
    }
    if (which) {
        pic_slave_taken(s, (unsigned)n);
    } else {
        chip_take(&s->chip[0], (unsigned)n);
        irq_lower(s->intr);
    }
    pic_update(s);
    return 0x80 | (uint8_t)n;
}

static uint8_t pic_read(ISAPic *s, unsigned which, hwaddr addr, MemTxAttrs attrs)
{
    PicChip *c = &s->chip[which];

    if (c->poll && !attrs.debug) {
        return pic_poll(s, which);
    }
    return addr == 1 ? c->imr : c->read_isr ? c->isr : c->irr;
}

static MemTxResult master_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                               MemTxAttrs attrs)
{
    *data = pic_read(opaque, 0, addr, attrs);
    return MEMTX_OK;
}

static MemTxResult slave_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                              MemTxAttrs attrs)
{
    *data = pic_read(opaque, 1, addr, attrs);
    return MEMTX_OK;
}

static MemTxResult master_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                MemTxAttrs attrs)
{
    return pic_write(opaque, 0, addr, (uint8_t)data, attrs);
}

static MemTxResult slave_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                               MemTxAttrs attrs)
{
    return pic_write(opaque, 1, addr, (uint8_t)data, attrs);
}

static uint64_t elcr_read(void *opaque, hwaddr addr, unsigned size)
{
    return ((ISAPic *)opaque)->chip[addr].elcr;
}

static void elcr_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    ISAPic *s = opaque;
    PicChip *c = &s->chip[addr];
    uint8_t old = chip_level_mask(c);

    c->elcr = data & elcr_mask[addr];
    if (old != chip_level_mask(c)) {
        chip_trigger_changed(c, old ^ chip_level_mask(c));
    }
    pic_update(s);
}

/* Wider accesses are as many cycles on the bus. */
#define PIC_OPS_COMMON                                                          \
    .endianness = DEVICE_LITTLE_ENDIAN,                                         \
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true }, \
    .impl = {                                                                   \
        .min_access_size = 1,                                                   \
        .max_access_size = 1,                                                   \
    }
static const MemoryRegionOps pic_ops[2] = {
    { .read_attrs = master_read, .write_attrs = master_write, PIC_OPS_COMMON },
    { .read_attrs = slave_read, .write_attrs = slave_write, PIC_OPS_COMMON },
};
static const MemoryRegionOps elcr_ops = { .read = elcr_read, .write = elcr_write, PIC_OPS_COMMON };

/* ---- saved state --------------------------------------------------------------------------- */

static bool pic_post_load(void *opaque, unsigned version, GError **error)
{
    ISAPic *s = opaque;

    if (!pic_pair_valid(s->chip, error)) {
        return false;
    }
    /* The processor's side is told: it keeps no state of this line. */
    irq_set(s->intr, pic_chip_pick(&s->chip[0], true) >= 0);
    return true;
}

static const VMStateField pic_fields[] = {
    VMSTATE_STRUCT_ARRAY(chip, ISAPic, vmstate_pic_chip),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_pic = {
    .name = "isa-pic",
    .version = 1,
    .minimum_version = 1,
    .post_load = pic_post_load,
    .fields = pic_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static int acknowledge(void *opaque)
{
    return pic_acknowledge(opaque);
}

static bool pic_realize(DeviceState *dev, GError **error)
{
    ISAPic *s = ISA_PIC(dev);
    static const struct {
        const char *name;
        uint16_t port;
    } chips[2] = { { "pic-master", 0x20 }, { "pic-slave", 0xa0 } };

    for (unsigned i = 0; i < 2; i++) {
        memory_region_finalize(&s->io[i]); /* of an earlier life */
        memory_region_init_io(&s->io[i], OBJECT(dev), &pic_ops[i], s, chips[i].name, 2);
        if (!device_map_io(dev, chips[i].port, &s->io[i], error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(s->pins); i++) {
        s->pins[i] = device_get_irq_in(dev, NULL, i, NULL);
    }
    memory_region_finalize(&s->elcr_io);
    memory_region_init_io(&s->elcr_io, OBJECT(dev), &elcr_ops, s, "pic-elcr", 2);
    if (!device_map_io(dev, 0x4d0, &s->elcr_io, error)) {
        return false;
    }
    machine_set_acknowledge(dev->machine, acknowledge, dev);
    return true;
}

static void pic_unrealize(DeviceState *dev)
{
    machine_set_acknowledge(dev->machine, NULL, dev);
}

/* Lines keep their levels: they belong to who drives them. */
static void pic_reset(DeviceState *dev)
{
    ISAPic *s = ISA_PIC(dev);

    for (unsigned i = 0; i < 2; i++) {
        s->chip[i] = (PicChip){ .lines = s->chip[i].lines, .lowest = 7 };
    }
    s->chip[0].lines &= ~(1u << PIC_CASCADE);
    irq_lower(s->intr);
}

static void pic_init(Object *obj)
{
    ISAPic *s = ISA_PIC(obj);

    device_init_irq_in(&s->parent, NULL, pic_set_line, 16);
    device_init_irq_out(&s->parent, "intr", &s->intr, 1);
}

static void pic_finalize(Object *obj)
{
    ISAPic *s = ISA_PIC(obj);

    memory_region_finalize(&s->io[0]);
    memory_region_finalize(&s->io[1]);
    memory_region_finalize(&s->elcr_io);
}

static void pic_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = pic_realize;
    dc->unrealize = pic_unrealize;
    dc->reset = pic_reset;
    dc->vmsd = &vmstate_pic;
}

static const TypeInfo pic_info = {
    .name = TYPE_ISA_PIC,
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's two interrupt controllers 8259A",
    .instance_size = sizeof(ISAPic),
    .instance_init = pic_init,
    .instance_finalize = pic_finalize,
    .class_init = pic_class_init,
};

static void register_pic(void)
{
    type_register_static(&pic_info);
}
type_init(register_pic)

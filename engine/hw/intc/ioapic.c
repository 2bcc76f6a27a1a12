/*
 * "ioapic": I/O Advanced Programmable Interrupt Controller (Intel 82093AA data sheet, order 290566;
 * version 0x20 with the EOI register as in the data sheets of Intel's ICH, "IOxAPIC").
 *
 *   memory  0xfec00000: IOREGSEL at 0x00, IOWIN at 0x10, EOIR at 0x40; 32-bit accesses
 *   lines   24 unnamed inputs
 *
 * An interrupt leaves as a message to the local APICs (SDM 3A 10.11): address 0xfee00000 with the
 * destination, data with vector and delivery mode. An EOI comes back from them, by the vector.
 *
 * A level that is still asserted after its EOI interrupts again; where a guest lets that happen
 * without end and its interrupt does nothing but EOI, that is what it has asked for. Not emulated:
 * the APIC bus and its arbitration (the ID is only kept), and remapping formats.
 */
#include "engine/hw/intc/ioapic.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/cpu/pc-chips.h"

enum { IOREGSEL = 0x00, IOWIN = 0x10, EOIR = 0x40 };
enum { IOAPICID = 0x00, IOAPICVER = 0x01, IOAPICARB = 0x02, IOREDTBL = 0x10 };
enum { PINS = IOAPIC_PINS, VERSION = 0x20 };

#define REDIR_VECTOR     UINT64_C(0xff)
#define REDIR_MODE_SHIFT 8
#define REDIR_LOGICAL    (UINT64_C(1) << 11)
#define REDIR_LOW_ACTIVE (UINT64_C(1) << 13)
#define REDIR_DEST_SHIFT 56

enum { MODE_FIXED, MODE_LOWEST, MODE_SMI, MODE_NMI = 4, MODE_INIT, MODE_EXTINT = 7 };

typedef struct IOApic {
    DeviceState parent;
    MemoryRegion mmio;
    IoapicState r;
    Irq *pins[PINS];  /* its own inputs */
    uint64_t address; /* property */
} IOApic;
OBJECT_DECLARE_TYPE(IOApic, DeviceClass, IOAPIC, TYPE_IOAPIC)

/* ---- messages ------------------------------------------------------------------------------ */

static uint64_t message_address(uint64_t e)
{
    return 0xfee00000u | (e >> REDIR_DEST_SHIFT) << 12 | (e & REDIR_LOGICAL ? 1u << 2 : 0);
}

static uint32_t message_data(uint64_t e)
{
    return (uint32_t)(e & (REDIR_VECTOR | 7u << REDIR_MODE_SHIFT)) |
           (e & IOAPIC_LEVEL ? 1u << 15 | 1u << 14 : 0);
}

/* NMI, INIT, SMI and ExtINT are edges whatever the entry says; only these wait for an EOI. */
static bool waits_for_eoi(uint64_t e)
{
    unsigned mode = e >> REDIR_MODE_SHIFT & 7;

    return (e & IOAPIC_LEVEL) && (mode == MODE_FIXED || mode == MODE_LOWEST);
}

static void ioapic_service(IOApic *s, unsigned n)
{
    uint64_t *e = &s->r.redir[n];
    unsigned mode = *e >> REDIR_MODE_SHIFT & 7;

    if (!(s->r.irr >> n & 1) || (*e & IOAPIC_MASKED)) {
        return;
    }
    if (waits_for_eoi(*e)) {
        if (*e & IOAPIC_REMOTE_IRR) {
            return;
        }
    } else if (!(*e & IOAPIC_LEVEL)) {
        s->r.irr &= ~(1u << n);
    }
    if (mode == 3 || mode == 6) {
        log_of(s, LOG_GUEST, "%s: pin %u has the reserved delivery mode %u",
               object_get_name(OBJECT(s)), n, mode);
        return;
    }
    if (waits_for_eoi(*e)) {
        *e |= IOAPIC_REMOTE_IRR;
    }
    log_mask(LOG_IRQ, "%s: pin %u, vector %#x", object_get_name(OBJECT(s)), n,
             (unsigned)(*e & REDIR_VECTOR));
    if (!machine_send_msi(s->parent.machine, message_address(*e), message_data(*e))) {
        /* Nobody took it, so nobody will end it. */
        *e &= ~IOAPIC_REMOTE_IRR;
    }
}

/* Level inputs of modes that end in no EOI are sent once an assertion. */
static void ioapic_set_line(void *opaque, int n, int level)
{
    IOApic *s = IOAPIC(opaque);
    uint32_t bit = 1u << n;
    bool rising = level && !(s->r.lines & bit);

    s->r.lines = level ? s->r.lines | bit : s->r.lines & ~bit;
    if (s->r.redir[n] & IOAPIC_LEVEL) {
        s->r.irr = level ? s->r.irr | bit : s->r.irr & ~bit;
        if (level && (waits_for_eoi(s->r.redir[n]) || rising)) {
            ioapic_service(s, (unsigned)n);
        }
    } else if (rising) {
        /* An edge that comes while masked is lost (82093AA 3.4.2, "interrupt mask"). */
        if (!(s->r.redir[n] & IOAPIC_MASKED)) {
            s->r.irr |= bit;
            ioapic_service(s, (unsigned)n);
        }
    }
}

void ioapic_eoi(DeviceState *dev, uint8_t vector)
{
    IOApic *s = IOAPIC(dev);

    for (unsigned n = 0; n < PINS; n++) {
        uint64_t *e = &s->r.redir[n];

        if ((*e & REDIR_VECTOR) == vector && (*e & IOAPIC_REMOTE_IRR)) {
            *e &= ~IOAPIC_REMOTE_IRR;
            ioapic_service(s, n);
        }
    }
}

/* ---- registers ----------------------------------------------------------------------------- */

static void ioapic_route(IOApic *s, unsigned n)
{
    machine_route_pin(s->parent.machine, n, message_address(s->r.redir[n]),
                      message_data(s->r.redir[n]));
}

static void ioapic_write_redir(IOApic *s, unsigned n, bool high, uint32_t value)
{
    uint64_t old = s->r.redir[n], e = old;
    uint32_t bit = 1u << n;

    e = high ? (e & UINT32_MAX) | (uint64_t)value << 32 : (e & ~(uint64_t)UINT32_MAX) | value;
    e = (e & IOAPIC_WRITABLE) | (old & IOAPIC_READ_ONLY);
    if (!(e & IOAPIC_LEVEL)) {
        /* Who makes it an edge ends what is under way: how software gets rid of a stuck bit. */
        e &= ~IOAPIC_REMOTE_IRR;
        if (old & IOAPIC_LEVEL) {
            s->r.irr &= ~bit;
        }
    } else {
        s->r.irr = s->r.lines & bit ? s->r.irr | bit : s->r.irr & ~bit;
    }
    s->r.redir[n] = e;
    if (old & ~e & IOAPIC_MASKED) {
        machine_pin_unmasked(s->parent.machine, s->pins[n]);
    }
    if ((old ^ e) & ~IOAPIC_MASKED) {
        ioapic_route(s, n);
    }
    if (waits_for_eoi(e)) {
        ioapic_service(s, n);
    }
}

static uint32_t ioapic_read_reg(const IOApic *s)
{
    unsigned n = (s->r.select - IOREDTBL) / 2;

    switch (s->r.select) {
    case IOAPICID:
    case IOAPICARB:
        return s->r.id << 24;
    case IOAPICVER:
        return VERSION | (PINS - 1) << 16;
    default:
        if (s->r.select < IOREDTBL || n >= PINS) {
            return 0;
        }
        return (uint32_t)(s->r.redir[n] >> (s->r.select & 1 ? 32 : 0));
    }
}

static void ioapic_write_reg(IOApic *s, uint32_t value)
{
    unsigned n = (s->r.select - IOREDTBL) / 2;

    if (s->r.select == IOAPICID) {
        s->r.id = value >> 24 & 0xf;
    } else if (s->r.select >= IOREDTBL && n < PINS) {
        ioapic_write_redir(s, n, s->r.select & 1, value);
    } else {
        log_of(s, LOG_GUEST, "%s: write of register %#x", object_get_name(OBJECT(s)), s->r.select);
    }
}

static uint64_t ioapic_read(void *opaque, hwaddr addr, unsigned size)
{
    IOApic *s = opaque;

    switch (addr) {
    case IOREGSEL:
        return s->r.select;
    case IOWIN:
        return ioapic_read_reg(s);
    default:
        return 0;
    }
}

static void ioapic_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    IOApic *s = opaque;

    switch (addr) {
    case IOREGSEL:
        s->r.select = data & 0xff;
        break;
    case IOWIN:
        ioapic_write_reg(s, (uint32_t)data);
        break;
    case EOIR:
        ioapic_eoi(&s->parent, (uint8_t)data);
        break;
    default:
        log_of(s, LOG_GUEST, "%s: write at %#x", object_get_name(OBJECT(s)), (unsigned)addr);
        break;
    }
}

/* Registers are 32 bits wide. A narrower read gets its part; a narrower write, what the bus shows:
 * guests select registers by byte writes. */
static const MemoryRegionOps ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = false },
    .impl = { .min_access_size = 4, .max_access_size = 4 },
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool ioapic_post_load(void *opaque, unsigned version, GError **error)
{
    for (unsigned n = 0; n < PINS; n++) {
        ioapic_route(opaque, n);
    }
    return true;
}

static const VMStateField ioapic_fields[] = {
    VMSTATE_STRUCT(r, IOApic, vmstate_ioapic_state),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_ioapic = {
    .name = "ioapic",
    .version = 2,
    .minimum_version = 2,
    .post_load = ioapic_post_load,
    .fields = ioapic_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static void eoi_broadcast(void *opaque, int vector)
{
    ioapic_eoi(opaque, (uint8_t)vector);
}

static void vector_taken(void *opaque, int vector)
{
    IOApic *s = opaque;

    for (unsigned n = 0; n < PINS; n++) {
        uint64_t e = s->r.redir[n];

        if ((int)(e & REDIR_VECTOR) == vector && !(e & (IOAPIC_MASKED | IOAPIC_LEVEL))) {
            machine_pin_taken(s->parent.machine, s->pins[n]);
        }
    }
}

static bool ioapic_realize(DeviceState *dev, GError **error)
{
    IOApic *s = IOAPIC(dev);

    memory_region_finalize(&s->mmio); /* of an earlier life */
    memory_region_init_io(&s->mmio, OBJECT(dev), &ioapic_ops, s, object_get_name(OBJECT(dev)),
                          0x1000);
    if (!device_map_memory(dev, s->address, &s->mmio, 0, error)) {
        return false;
    }
    for (unsigned n = 0; n < PINS; n++) {
        s->pins[n] = device_get_irq_in(dev, NULL, n, NULL);
    }
    machine_set_eoi(dev->machine, eoi_broadcast, dev);
    machine_set_taken(dev->machine, vector_taken, dev);
    return true;
}

static void ioapic_unrealize(DeviceState *dev)
{
    machine_set_eoi(dev->machine, NULL, NULL);
    machine_set_taken(dev->machine, NULL, NULL);
}

static void ioapic_reset(DeviceState *dev)
{
    IOApic *s = IOAPIC(dev);

    s->r.select = s->r.id = s->r.irr = 0;
    for (unsigned n = 0; n < PINS; n++) {
        s->r.redir[n] = IOAPIC_MASKED;
        ioapic_route(s, n);
    }
}

static const Property ioapic_properties[] = {
    DEFINE_PROP_UINT64("address", IOApic, address, 0xfec00000, "where its registers are"),
};

static void ioapic_init(Object *obj)
{
    device_init_irq_in(DEVICE(obj), NULL, ioapic_set_line, PINS);
}

static void ioapic_finalize(Object *obj)
{
    memory_region_finalize(&IOAPIC(obj)->mmio);
}

static void ioapic_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = ioapic_realize;
    dc->unrealize = ioapic_unrealize;
    dc->reset = ioapic_reset;
    dc->vmsd = &vmstate_ioapic;
    object_class_add_properties(klass, ioapic_properties, G_N_ELEMENTS(ioapic_properties));
}

static const TypeInfo ioapic_info = {
    .name = TYPE_IOAPIC,
    .parent = TYPE_SYS_DEVICE,
    .doc = "I/O APIC 82093AA, version 0x20, 24 pins",
    .instance_size = sizeof(IOApic),
    .instance_init = ioapic_init,
    .instance_finalize = ioapic_finalize,
    .class_init = ioapic_class_init,
};

static void register_ioapic(void)
{
    type_register_static(&ioapic_info);
}
type_init(register_ioapic)

/*
 * "isa-parallel": a parallel port in SPP mode with a printer at its end (IEEE 1284, compatibility
 * mode; National Semiconductor PC87303 data sheet, "Parallel port").
 *
 *   ports  iobase    data       0x378, 0x278, 0x3bc by index
 *          iobase+1  status     bit 7 not busy, 6 not ack, 5 paper out, 4 selected, 3 no error
 *          iobase+2  control    bit 0 strobe, 1 auto feed, 2 not init, 3 select in, 4 interrupt, 5
 * in line   output "irq": line 7 (or 5) of a PC
 *
 * The rising edge of the strobe bit sends the byte to the chardev. The printer is busy for 5 us of
 * the machine's time, and for as long as the chardev is congested; then it acknowledges for 5 us.
 * The interrupt is raised when the acknowledgement ends, and falls when the status is read. A guest
 * that looks finds the printer where it is by then, however late the host's timers are.
 *
 * Not emulated: EPP and ECP; a read with bit 5 of control finds a bus that nobody drives.
 */
#include "engine/chardev/chardev.h"
#include "engine/core/error.h"
#include "engine/hw/core/device.h"

#define TYPE_ISA_PARALLEL "isa-parallel"

enum { REG_DATA, REG_STATUS, REG_CONTROL, REGS };
enum {
    STATUS_READY = 0x80,
    STATUS_NO_ACK = 0x40,
    STATUS_SELECTED = 0x10,
    STATUS_NO_ERROR = 0x08,
    STATUS_ONES = 0x07
};
enum {
    CONTROL_STROBE = 0x01,
    CONTROL_NO_INIT = 0x04,
    CONTROL_IRQ = 0x10,
    CONTROL_IN = 0x20,
    CONTROL_WRITABLE = 0x3f,
    CONTROL_ONES = 0xc0
};
enum { PRINTER_IDLE, PRINTER_BUSY, PRINTER_ACK };
#define STEP_NS 5000

typedef struct ParallelPort {
    DeviceState parent;
    MemoryRegion io;
    Irq *irq;
    Chardev *chr; /* counted, while realized */
    Timer timer;
    uint8_t data, control, printer;
    bool interrupt;
    /* properties */
    int32_t index, irq_number;
    uint32_t iobase;
    Object *chardev;
} ParallelPort;
OBJECT_DECLARE_TYPE(ParallelPort, DeviceClass, ISA_PARALLEL, TYPE_ISA_PARALLEL)

static const struct {
    uint32_t iobase;
    int32_t irq;
} standard_ports[] = { { 0x378, 7 }, { 0x278, 5 }, { 0x3bc, 7 } };

static void update_line(ParallelPort *s)
{
    bool level = s->interrupt && s->control & CONTROL_IRQ;

    if (irq_level(s->irq) != level) {
        irq_set(s->irq, level);
    }
}

static int64_t port_now(ParallelPort *s)
{
    return clock_now(device_clock(&s->parent));
}

static void printer_step(ParallelPort *s, int64_t now)
{
    if (s->printer == PRINTER_BUSY) {
        if (s->chr && chardev_congested(s->chr)) {
            return; /* goes on when the outside takes bytes */
        }
        s->printer = PRINTER_ACK;
        timer_arm(&s->timer, now + STEP_NS);
    } else if (s->printer == PRINTER_ACK) {
        s->printer = PRINTER_IDLE;
        s->interrupt = s->control & CONTROL_IRQ;
        update_line(s);
    }
}

/* The steps that are due, each at its own time. */
static void printer_sync(ParallelPort *s)
{
    int64_t now = port_now(s);

    while (timer_armed(&s->timer) && s->timer.expire <= now) {
        int64_t at = s->timer.expire;

        timer_disarm(&s->timer);
        printer_step(s, at);
    }
}

static void printer_timer(void *opaque)
{
    ParallelPort *s = opaque;

    printer_step(s, port_now(s));
}

static void outside_takes_bytes(void *opaque)
{
    ParallelPort *s = opaque;

    if (s->printer == PRINTER_BUSY && !timer_armed(&s->timer)) {
        printer_step(s, port_now(s));
    }
}

/* A strobe while the printer is busy is lost, as its driver was told. */
static void strobe(ParallelPort *s)
{
    if (s->printer == PRINTER_IDLE) {
        chardev_write(s->chr, &s->data, 1);
        s->printer = PRINTER_BUSY;
        timer_arm(&s->timer, port_now(s) + STEP_NS);
    }
}

static void write_control(ParallelPort *s, uint8_t value)
{
    uint8_t old = s->control;

    printer_sync(s);
    s->control = value & CONTROL_WRITABLE;
    if (!(s->control & CONTROL_NO_INIT)) { /* held in reset */
        s->printer = PRINTER_IDLE;
        timer_disarm(&s->timer);
    } else if (~old & s->control & CONTROL_STROBE) {
        strobe(s);
    }
    if (!(s->control & CONTROL_IRQ)) {
        s->interrupt = false;
    }
    update_line(s);
}

static MemTxResult parallel_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                                 MemTxAttrs attrs)
{
    ParallelPort *s = opaque;

    switch (addr) {
    case REG_DATA:
        *data = s->control & CONTROL_IN ? 0xff : s->data;
        break;
    case REG_STATUS:
        if (!attrs.debug) {
            printer_sync(s);
        }
        *data = STATUS_ONES | STATUS_SELECTED | STATUS_NO_ERROR |
                (s->printer == PRINTER_IDLE ? STATUS_READY : 0) |
                (s->printer == PRINTER_ACK ? 0 : STATUS_NO_ACK);
        if (!attrs.debug && s->interrupt) {
            s->interrupt = false;
            update_line(s);
        }
        break;
    default:
        *data = s->control | CONTROL_ONES;
        break;
    }
    return MEMTX_OK;
}

static MemTxResult parallel_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                  MemTxAttrs attrs)
{
    ParallelPort *s = opaque;

    if (addr == REG_DATA) {
        s->data = (uint8_t)data;
    } else if (addr == REG_CONTROL) {
        write_control(s, (uint8_t)data);
    }
    return MEMTX_OK;
}

static const MemoryRegionOps parallel_ops = {
    .read_attrs = parallel_read,
    .write_attrs = parallel_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static const ChardevHandlers parallel_handlers = { .writable = outside_takes_bytes };

static bool parallel_post_load(void *opaque, unsigned version, GError **error)
{
    ParallelPort *s = opaque;

    if (s->control & ~CONTROL_WRITABLE || s->printer > PRINTER_ACK) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the port is in an impossible state");
    }
    if (s->printer == PRINTER_BUSY && !timer_armed(&s->timer)) {
        timer_arm(&s->timer, port_now(s) + STEP_NS); /* it waited for another chardev */
    }
    irq_restore_level(s->irq, s->interrupt && s->control & CONTROL_IRQ);
    return true;
}

static const VMStateField parallel_fields[] = {
    VMSTATE_UINT8(data, ParallelPort),    VMSTATE_UINT8(control, ParallelPort),
    VMSTATE_UINT8(printer, ParallelPort), VMSTATE_BOOL(interrupt, ParallelPort),
    VMSTATE_TIMER(timer, ParallelPort),   VMSTATE_END(),
};
static const VMStateDescription vmstate_parallel = {
    .name = "isa-parallel",
    .version = 1,
    .minimum_version = 1,
    .post_load = parallel_post_load,
    .fields = parallel_fields,
};

static bool parallel_realize(DeviceState *dev, GError **error)
{
    ParallelPort *s = ISA_PARALLEL(dev);
    Chardev *chr = s->chardev ? CHARDEV(s->chardev) : NULL;
    int n = G_N_ELEMENTS(standard_ports);

    if (s->index < 0 || s->index >= n) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: index %d is not in 0..%d",
                         object_get_name(OBJECT(dev)), s->index, n - 1);
    }
    s->iobase = s->iobase ? s->iobase : standard_ports[s->index].iobase;
    s->irq_number = s->irq_number >= 0 ? s->irq_number : standard_ports[s->index].irq;
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &parallel_ops, s, object_get_name(OBJECT(dev)),
                          REGS);
    timer_setup(&s->timer, device_clock(dev), printer_timer, s);
    if (!device_map_io(dev, s->iobase, &s->io, error) ||
        (chr && !chardev_attach(chr, &parallel_handlers, s, error))) {
        return false;
    }
    s->chr = (Chardev *)object_ref(chr);
    return true;
}

static void parallel_unrealize(DeviceState *dev)
{
    ParallelPort *s = ISA_PARALLEL(dev);

    timer_disarm(&s->timer);
    if (s->chr) {
        chardev_detach(s->chr);
        object_unref(g_steal_pointer(&s->chr));
    }
}

static void parallel_reset(DeviceState *dev)
{
    ParallelPort *s = ISA_PARALLEL(dev);

    s->data = 0;
    s->control = CONTROL_NO_INIT | 0x08;
    s->printer = PRINTER_IDLE;
    s->interrupt = false;
    timer_disarm(&s->timer);
    irq_set(s->irq, 0);
}

static const Property parallel_properties[] = {
    DEFINE_PROP_UINT32("iobase", ParallelPort, iobase, 0, "first of its ports; 0: by index"),
    DEFINE_PROP_INT32("irq", ParallelPort, irq_number, -1,
                      "number of the interrupt that the board connects it to; -1: by index"),
    DEFINE_PROP_INT32("index", ParallelPort, index, 0, "0 to 2 for LPT1 to LPT3"),
    DEFINE_PROP_LINK("chardev", ParallelPort, chardev, TYPE_CHARDEV, "what takes the bytes"),
};

static void parallel_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", &ISA_PARALLEL(obj)->irq, 1);
}

static void parallel_finalize(Object *obj)
{
    memory_region_finalize(&ISA_PARALLEL(obj)->io);
}

static void parallel_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = parallel_realize;
    dc->unrealize = parallel_unrealize;
    dc->reset = parallel_reset;
    dc->vmsd = &vmstate_parallel;
    object_class_add_properties(klass, parallel_properties, G_N_ELEMENTS(parallel_properties));
}

static const TypeInfo parallel_info = {
    .name = TYPE_ISA_PARALLEL,
    .parent = TYPE_ISA_DEVICE,
    .doc = "A parallel port of a PC with a printer",
    .instance_size = sizeof(ParallelPort),
    .instance_init = parallel_init,
    .instance_finalize = parallel_finalize,
    .class_init = parallel_class_init,
};

static void register_parallel(void)
{
    type_register_static(&parallel_info);
}
type_init(register_parallel)

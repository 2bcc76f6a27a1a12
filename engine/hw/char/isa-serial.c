/*
 * "isa-serial": a 16550A at eight I/O ports, as COM1 to COM4 of a PC.
 *
 *   index   0       1       2       3
 *   iobase  0x3f8   0x2f8   0x3e8   0x2e8
 *   irq     4       3       4       3
 *
 * Output line "irq": connected by the board, to the interrupt that the property `irq` names.
 */
#include <inttypes.h>

#include "engine/core/error.h"
#include "engine/hw/char/serial-16550.h"
#include "engine/hw/core/device.h"

#define TYPE_ISA_SERIAL "isa-serial"

typedef struct ISASerial {
    DeviceState parent;
    MemoryRegion io;
    Serial16550 uart;
    /* properties */
    int32_t index, irq_number;
    uint32_t iobase, baudbase;
    bool pace, out2_gate;
    Object *chardev;
    char *label;
} ISASerial;
OBJECT_DECLARE_TYPE(ISASerial, DeviceClass, ISA_SERIAL, TYPE_ISA_SERIAL)

static const struct {
    uint32_t iobase;
    int32_t irq;
} standard_ports[] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

static bool port_taken(Object *obj, const ISASerial *self, uint32_t iobase)
{
    if (is_ISA_SERIAL(obj) && obj != (const Object *)self && obj->realized &&
        ISA_SERIAL(obj)->iobase == iobase) {
        return true;
    }
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        if (port_taken(object_child_at(obj, i), self, iobase)) {
            return true;
        }
    }
    return false;
}

/* What the user left open: the index from what is free or from iobase, the rest from the index. */
static bool choose_port(ISASerial *s, GError **error)
{
    Object *machine = OBJECT(s->parent.machine);
    int n = G_N_ELEMENTS(standard_ports);

    if (s->index < -1 || s->index >= n) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: index %d is not in 0..%d",
                         object_get_name(OBJECT(s)), s->index, n - 1);
    }
    for (int i = 0; s->index < 0 && i < n; i++) {
        if (s->iobase ? s->iobase == standard_ports[i].iobase
                      : !port_taken(machine, s, standard_ports[i].iobase)) {
            s->index = i;
        }
    }
    if (s->index >= 0) {
        s->iobase = s->iobase ? s->iobase : standard_ports[s->index].iobase;
        s->irq_number = s->irq_number >= 0 ? s->irq_number : standard_ports[s->index].irq;
    }
    if (s->iobase == 0) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: the %d standard ports are taken: give it an iobase",
                         object_get_name(OBJECT(s)), n);
    }
    return true;
}

static bool isa_serial_realize(DeviceState *dev, GError **error)
{
    ISASerial *s = ISA_SERIAL(dev);
    Chardev *chr = s->chardev ? CHARDEV(s->chardev) : NULL;

    if (!choose_port(s, error)) {
        return false;
    }
    g_free(s->label);
    s->label = g_strdup(object_get_name(OBJECT(dev)));
    s->uart.label = s->label;
    s->uart.owner = OBJECT(dev);
    s->uart.baudbase = s->baudbase;
    s->uart.pace = s->pace;
    s->uart.out2_gate = s->out2_gate;
    if (!serial_16550_realize(&s->uart, device_clock(dev), chr, error)) {
        return false;
    }
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &serial_16550_ops, &s->uart, s->label, 8);
    if (!device_map_io(dev, s->iobase, &s->io, error)) {
        serial_16550_unrealize(&s->uart);
        return false;
    }
    return true;
}

static void isa_serial_unrealize(DeviceState *dev)
{
    serial_16550_unrealize(&ISA_SERIAL(dev)->uart);
}

static void isa_serial_reset(DeviceState *dev)
{
    Serial16550 *uart = &ISA_SERIAL(dev)->uart;

    /* What came then would be lost when that is undone. */
    uart->deaf = machine_torturing(dev->machine);
    serial_16550_reset(uart);
    uart->deaf = false;
}

static const VMStateField isa_serial_fields[] = {
    VMSTATE_STRUCT(uart, ISASerial, vmstate_serial_16550),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_isa_serial = {
    .name = "isa-serial",
    .version = 1,
    .minimum_version = 1,
    .fields = isa_serial_fields,
};

static const Property isa_serial_properties[] = {
    DEFINE_PROP_UINT32("iobase", ISASerial, iobase, 0, "first of its eight I/O ports; 0: by index"),
    DEFINE_PROP_INT32("irq", ISASerial, irq_number, -1,
                      "number of the interrupt that the board connects it to; -1: by index"),
    DEFINE_PROP_INT32("index", ISASerial, index, -1,
                      "0 to 3 for COM1 to COM4; -1: by iobase, or the first that is free"),
    DEFINE_PROP_LINK("chardev", ISASerial, chardev, TYPE_CHARDEV, "what it is connected to"),
    DEFINE_PROP_UINT32("baudbase", ISASerial, baudbase, UART_DEFAULT_BAUD,
                       "baud rate at divisor 1: a sixteenth of the clock in Hz"),
    DEFINE_PROP_BOOL("pace", ISASerial, pace, false,
                     "bytes take as long as they do at the programmed baud rate"),
    DEFINE_PROP_BOOL("out2-gate", ISASerial, out2_gate, true,
                     "the interrupt needs MCR.OUT2, as on a PC"),
};

static void isa_serial_init(Object *obj)
{
    ISASerial *s = ISA_SERIAL(obj);

    device_init_irq_out(&s->parent, "irq", &s->uart.irq, 1);
}

static void isa_serial_finalize(Object *obj)
{
    ISASerial *s = ISA_SERIAL(obj);

    memory_region_finalize(&s->io);
    g_free(s->label);
}

static void isa_serial_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = isa_serial_realize;
    dc->unrealize = isa_serial_unrealize;
    dc->reset = isa_serial_reset;
    dc->vmsd = &vmstate_isa_serial;
    object_class_add_properties(klass, isa_serial_properties, G_N_ELEMENTS(isa_serial_properties));
}

static const TypeInfo isa_serial_info = {
    .name = TYPE_ISA_SERIAL,
    .parent = TYPE_ISA_DEVICE,
    .doc = "UART 16550A: a serial port of a PC",
    .instance_size = sizeof(ISASerial),
    .instance_init = isa_serial_init,
    .instance_finalize = isa_serial_finalize,
    .class_init = isa_serial_class_init,
};

static void register_isa_serial(void)
{
    type_register_static(&isa_serial_info);
}
type_init(register_isa_serial)

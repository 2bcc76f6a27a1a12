/*
 * "piix3": the ISA bridge of a Standard PC, function 0 of a multifunction device at 00:01.
 *
 * Intel 82371SB PCI ISA IDE Xcelerator (PIIX3), data sheet 290550: PIRQx route control (2.2.10,
 * 0x60-0x63), reset control register at port 0xcf9 (2.5.5.4).
 *
 *   PCI lines  the four PIRQs; an INTx pin of slot S arrives on PIRQ (S + pin - 1) % 4
 *   line in    "irq" 0-15: ISA interrupt inputs for sources that share a line with a PIRQ (the
 * SCI); other ISA devices are connected to the interrupt controllers themselves line out   to the
 * machine's lines 0-15, OR of both
 *
 * The ELCR (0x4d0) is part of the interrupt controller that the accelerator or isa-pic brings; DMA,
 * timer, port 61h, 92h and the keyboard controller are devices of their own.
 * Not emulated: positive decode enables, DMA aliasing, APM timers, SMI requests: the registers keep
 * what is written.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci-host.h"

#define TYPE_PIIX3 "piix3"

enum {
    PIIX3_PIRQRC = 0x60, /* four registers */
    PIRQ_DISABLED = 0x80,
    PIRQ_LINE = 0x0f,
    RCR_HARD = 1 << 1,
    RCR_RESET = 1 << 2,
};
#define PIRQS     4
#define ISA_LINES 16

typedef struct PIIX3 {
    PCIDevice parent;
    uint8_t rcr;
    uint8_t pirq_levels; /* what the PCI bus drives, a bit a PIRQ */
    uint16_t isa_levels; /* what "irq" has */
    uint16_t out_levels; /* what the controllers were told */
} PIIX3;
OBJECT_DECLARE_TYPE(PIIX3, PCIDeviceClass, PIIX3_DEVICE, TYPE_PIIX3)

/* ---- interrupts ---------------------------------------------------------------------------- */

/* Lines that may be routed to (2.2.10): the others are the board's own. */
static bool can_route(unsigned line)
{
    return (0xdef8u >> line & 1) != 0;
}

static uint16_t wanted_levels(const PIIX3 *s)
{
    uint16_t levels = s->isa_levels;

    for (unsigned i = 0; i < PIRQS; i++) {
        uint8_t route = s->parent.config[PIIX3_PIRQRC + i];

        if ((s->pirq_levels >> i & 1) && !(route & PIRQ_DISABLED) && can_route(route & PIRQ_LINE)) {
            levels |= (uint16_t)(1u << (route & PIRQ_LINE));
        }
    }
    return levels;
}

static void update_lines(PIIX3 *s)
{
    uint16_t now = wanted_levels(s), changed = now ^ s->out_levels;

    s->out_levels = now;
    for (unsigned n = 0; n < ISA_LINES; n++) {
        if (changed >> n & 1) {
            irq_set(machine_gsi(s->parent.parent.machine, n), now >> n & 1);
        }
    }
}

static void set_pirq(void *opaque, int line, int level)
{
    PIIX3 *s = opaque;
    uint8_t bit = (uint8_t)(1u << line);

    s->pirq_levels = level ? s->pirq_levels | bit : (uint8_t)(s->pirq_levels & ~bit);
    update_lines(s);
}

static int map_pirq(void *opaque, int devfn, int pin)
{
    return (PCI_SLOT(devfn) + pin - 1 + PIRQS) % PIRQS;
}

static void set_isa(void *opaque, int n, int level)
{
    PIIX3 *s = opaque;
    uint16_t bit = (uint16_t)(1u << n);

    s->isa_levels = level ? s->isa_levels | bit : (uint16_t)(s->isa_levels & ~bit);
    if (s->parent.parent.machine) {
        update_lines(s);
    }
}

static void piix3_config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len)
{
    pci_default_config_write(dev, addr, value, len);
    if (pci_config_touches(addr, len, PIIX3_PIRQRC, PIRQS)) {
        update_lines(PIIX3_DEVICE(dev));
    }
}

/* ---- the reset control register ------------------------------------------------------------ */

static uint8_t rcr_read(void *opaque)
{
    return ((PIIX3 *)opaque)->rcr;
}

static void rcr_write(void *opaque, uint8_t value)
{
    PIIX3 *s = opaque;

    /* Soft and hard reset differ in what of the chip set they reach; here both reset all of it. */
    if (value & RCR_RESET && !(s->rcr & RCR_RESET)) {
        machine_request_reset(s->parent.parent.machine, "reset control register");
    }
    s->rcr = value & RCR_HARD;
}

/* ---- saved state --------------------------------------------------------------------------- */

static bool piix3_post_load(void *opaque, unsigned version, GError **error)
{
    PIIX3 *s = opaque;

    if (s->rcr & ~RCR_HARD || s->pirq_levels >> PIRQS) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "RCR %#x, PIRQ levels %#x", s->rcr,
                         s->pirq_levels);
    }
    if (s->out_levels != wanted_levels(s)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "interrupt lines %#x, not %#x", s->out_levels,
                         wanted_levels(s));
    }
    return true;
}

static const VMStateField piix3_fields[] = {
    VMSTATE_PCI_DEVICE(parent, PIIX3), VMSTATE_UINT8(rcr, PIIX3),
    VMSTATE_UINT8(pirq_levels, PIIX3), VMSTATE_UINT16(isa_levels, PIIX3),
    VMSTATE_UINT16(out_levels, PIIX3), VMSTATE_END(),
};
static const VMStateDescription vmstate_piix3 = {
    .name = TYPE_PIIX3,
    .version = 1,
    .minimum_version = 1,
    .post_load = piix3_post_load,
    .fields = piix3_fields,
};

/* ---- life cycle ---------------------------------------------------------------------------- */

static bool piix3_realize(PCIDevice *dev, GError **error)
{
    PIIX3 *s = PIIX3_DEVICE(dev);
    PCIHost *host = pci_host_of_bus(dev->bus);

    if (!host || host->bus != dev->bus) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: is to be on a root bus", pci_name(dev));
    }
    memset(dev->wmask + PCI_CONFIG_HEADER, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    pci_bus_set_irqs(dev->bus, set_pirq, map_pirq, s, PIRQS);
    pci_host_set_reset_port(host, rcr_read, rcr_write, s);
    return true;
}

static void piix3_exit(PCIDevice *dev)
{
    PIIX3 *s = PIIX3_DEVICE(dev);
    PCIHost *host = pci_host_of_bus(dev->bus);

    pci_bus_set_irqs(dev->bus, NULL, NULL, NULL, 0);
    pci_host_set_reset_port(host, NULL, NULL, NULL);
    s->pirq_levels = 0;
    s->isa_levels = 0;
    update_lines(s);
}

static const struct {
    uint8_t reg, value;
} power_on[] = {
    { PCI_COMMAND, 0x07 },                    /* bus master and both decodes are wired on */
    { PCI_STATUS + 1, 0x02 }, { 0x4c, 0x4d }, /* ISA I/O recovery */
    { 0x4e, 0x03 },                           /* X-bus chip select */
    { 0x60, 0x80 },           { 0x61, 0x80 }, { 0x62, 0x80 }, { 0x63, 0x80 }, /* PIRQs */
    { 0x69, 0x02 },                                                           /* top of memory */
    { 0x70, 0x80 },                                                           /* motherboard IRQ */
    { 0x76, 0x0c },           { 0x77, 0x0c },                                 /* motherboard DMA */
    { 0x78, 0x02 }, /* programmable chip select */
    { 0xa0, 0x08 }, /* SMI control */
    { 0xa8, 0x0f }, /* fast off timer */
};

static void piix3_reset(PCIDevice *dev)
{
    PIIX3 *s = PIIX3_DEVICE(dev);

    memset(dev->config + PCI_CONFIG_HEADER, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    for (unsigned i = 0; i < G_N_ELEMENTS(power_on); i++) {
        dev->config[power_on[i].reg] = power_on[i].value;
    }
    s->rcr = 0;
    update_lines(s);
}

static void piix3_init(Object *obj)
{
    device_init_irq_in(DEVICE(obj), "irq", set_isa, ISA_LINES);
}

static void piix3_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = piix3_realize;
    pc->exit = piix3_exit;
    pc->reset = piix3_reset;
    pc->config_write = piix3_config_write;
    pc->vendor_id = PCI_VENDOR_INTEL;
    pc->device_id = PCI_DEVICE_82371SB_0;
    pc->class_code = PCI_CLASS_BRIDGE_ISA;
    DEVICE_CLASS(klass)->vmsd = &vmstate_piix3;
    DEVICE_CLASS(klass)->user_creatable = false;
}

static const TypeInfo piix3_info = {
    .name = TYPE_PIIX3,
    .parent = TYPE_PCI_DEVICE,
    .doc = "82371SB: ISA bridge with the PCI interrupt router and the reset control register",
    .instance_size = sizeof(PIIX3),
    .instance_init = piix3_init,
    .class_init = piix3_class_init,
};

static void register_piix3(void)
{
    type_register_static(&piix3_info);
}
type_init(register_piix3)

/*
 * "piix4-pm": power management and SMBus of a Standard PC, function 3 of the device at 00:01.
 *
 * Intel 82371AB PCI-to-ISA/IDE Xcelerator (PIIX4), data sheet 290562, chapter 7: configuration
 * registers PMBASE (0x40), DEVACTB (0x58), PMREGMISC (0x80), SMBBA (0x90), SMBHSTCFG (0xd2); I/O
 * registers 7.2 (PM) and 11.5 (SMBus, pm-smbus.c); APMC and APMS at ports 0xb2 and 0xb3.
 *
 *   line out "sci"           to ISA interrupt 9
 *   line out "smi"           pulsed by APMC; no processor here has SMM, so boards leave it open
 *   line out "suspended"     high in S3: the clock chip then remembers that this is a resume
 *   line in  "power-button"  rising: the button is pressed
 *   line in  "rtc-alarm"     rising: the clock's alarm, as an event and as a wake-up
 *   line in  "wake-up"       rising: ends S3, and is no event otherwise
 *   line in  "gpe" 0-15      rising sets the bit of GPE0, at its own ports (property gpe0-base)
 *
 * SLP_TYP, as the tables of boards of this kind have it: 0 is S5, 1 is S3, 2 is S4 (which turns
 * off). Writing 0xf1 to APMC switches SCI_EN on and 0xf0 off: what firmware's SMI handler would do;
 * its APMC_EN bit is set from the start, by which firmware sees that no handler is to be installed.
 * Not emulated: device monitors, general purpose I/O, the PIIX4's own GPE block in PMBASE.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/rcu.h"
#include "engine/hw/acpi/acpi-regs.h"
#include "engine/hw/acpi/pm-smbus.h"
#include "engine/hw/pci/pci.h"

#define TYPE_PIIX4_PM "piix4-pm"

enum {
    PIIX4_PMBASE = 0x40,
    PIIX4_DEVACTB = 0x58,
    PIIX4_DEVACTB_APMC = 0x02, /* in the highest byte: bit 25 */
    PIIX4_DEVRESA = 0x5c,
    PIIX4_PMREGMISC = 0x80,
    PIIX4_SMBBA = 0x90,
    PIIX4_SMBHSTCFG = 0xd2,
    APM_CONTROL = 0xb2,
    APM_ACPI_ENABLE = 0xf1,
    APM_ACPI_DISABLE = 0xf0,
    PM_IO_SIZE = 64,
    GPE_SIZE = 4,
};
enum { SLEEP_S5 = 0, SLEEP_S3 = 1, SLEEP_S4 = 2 };

typedef struct PIIX4PM {
    PCIDevice parent;
    AcpiRegs acpi;
    PMSMBus smbus;
    MemoryRegion pm_io, apm_io, gpe_io;
    uint64_t pm_at, smb_at; /* where their regions are; PCI_UNMAPPED: nowhere */
    Irq *sci, *smi, *suspend_line;
    uint8_t apm_control, apm_status;
    uint32_t pm_words[PM_IO_SIZE / 4]; /* registers that only keep what is written */
    bool suspended;                    /* in S3 */
    uint32_t gpe0_base, smb_base;
    bool timer_32bit, disable_s3, disable_s4;
} PIIX4PM;
OBJECT_DECLARE_TYPE(PIIX4PM, PCIDeviceClass, PIIX4_PM, TYPE_PIIX4_PM)

/* ---- sleep --------------------------------------------------------------------------------- */

static void pm_sleep(void *opaque, unsigned type)
{
    PIIX4PM *s = opaque;
    Machine *m = s->parent.parent.machine;

    if (type == SLEEP_S5 || (type == SLEEP_S4 && !s->disable_s4)) {
        machine_request_shutdown(m, type == SLEEP_S5 ? "guest powered off" : "guest hibernated", 0);
    } else if (type == SLEEP_S3 && !s->disable_s3) {
        s->suspended = true;
        irq_raise(s->suspend_line);
        machine_request_suspend(m);
    } else {
        log_of(s, LOG_GUEST, "%s: sleep of type %u", pci_name(&s->parent), type);
    }
}

/* What ends S3: firmware then finds WAK_STS and goes on where the system left off. */
static void wake(PIIX4PM *s, uint16_t why)
{
    if (!s->suspended) {
        acpi_set_pm1_status(&s->acpi, why);
        return;
    }
    s->suspended = false;
    irq_lower(s->suspend_line);
    s->acpi.pm1_status |= (uint16_t)(ACPI_PM1_WAKE | why);
    machine_request_wakeup(s->parent.parent.machine);
}

static void power_button(void *opaque, int n, int level)
{
    if (level) {
        wake(opaque, ACPI_PM1_POWER_BUTTON);
    }
}

static void rtc_alarm(void *opaque, int n, int level)
{
    PIIX4PM *s = opaque;

    /* Only an alarm that software asked for is one. */
    if (level && (!s->suspended || (s->acpi.pm1_enable & ACPI_PM1_RTC))) {
        wake(s, ACPI_PM1_RTC);
    }
}

/* What only ever ends a sleep, such as a key. */
static void wake_up(void *opaque, int n, int level)
{
    PIIX4PM *s = opaque;

    if (level && s->suspended) {
        wake(s, 0);
    }
}

static void gpe_in(void *opaque, int n, int level)
{
    acpi_set_gpe(&PIIX4_PM(opaque)->acpi, (unsigned)n, level);
}

/* ---- I/O registers ------------------------------------------------------------------------- */

static uint64_t pm_read(void *opaque, hwaddr addr, unsigned size)
{
    PIIX4PM *s = opaque;

    if (addr < 12) {
        return acpi_pm1_read(&s->acpi, (unsigned)addr);
    }
    return s->pm_words[addr / 4] >> (8 * (addr % 4)) & 0xffff;
}

static void pm_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PIIX4PM *s = opaque;
    unsigned shift = 8 * (addr % 4);

    if (addr < 12) {
        acpi_pm1_write(&s->acpi, (unsigned)addr, (uint16_t)data);
        return;
    }
    if (addr < 16 || addr >= 0x30) {
        log_of(s, LOG_GUEST, "%s: write to PM register %#x", pci_name(&s->parent), (unsigned)addr);
        return;
    }
    log_of(s, LOG_UNIMP, "%s: PM register %#x is only kept", pci_name(&s->parent), (unsigned)addr);
    s->pm_words[addr / 4] = (s->pm_words[addr / 4] & ~(UINT32_C(0xffff) << shift)) |
                            ((uint32_t)data & 0xffff) << shift;
}

/* The timer is read as 32 bits at once: a value made of two reads could tear. */
static MemTxResult pm_read_attrs(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                                 MemTxAttrs attrs)
{
    PIIX4PM *s = opaque;

    if (addr == 8 && size == 4) {
        *data = acpi_pm_timer(&s->acpi);
        return MEMTX_OK;
    }
    *data = 0;
    for (unsigned i = 0; i < size; i++) {
        hwaddr at = addr + i;

        *data |= (pm_read(s, at & ~UINT64_C(1), 2) >> (8 * (at & 1)) & 0xff) << (8 * i);
    }
    return MEMTX_OK;
}

/* Registers are words; a byte keeps the other half, which in a status register means 0. */
static MemTxResult pm_write_attrs(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                  MemTxAttrs attrs)
{
    PIIX4PM *s = opaque;

    if (size == 1) {
        hwaddr at = addr & ~UINT64_C(1);
        unsigned shift = 8 * (addr & 1);
        uint64_t old = at == 0 ? 0 : pm_read(s, at, 2);

        pm_write(s, at, (old & ~(UINT64_C(0xff) << shift)) | (data & 0xff) << shift, 2);
        return MEMTX_OK;
    }
    for (unsigned i = 0; i < size; i += 2) {
        pm_write(s, addr + i, data >> (8 * i) & 0xffff, 2);
    }
    return MEMTX_OK;
}

static const MemoryRegionOps pm_ops = {
    .read_attrs = pm_read_attrs,
    .write_attrs = pm_write_attrs,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4 },
    .impl = { .min_access_size = 1, .max_access_size = 4 },
};

static uint64_t gpe_read(void *opaque, hwaddr addr, unsigned size)
{
    return acpi_gpe_read(&((PIIX4PM *)opaque)->acpi, (unsigned)addr, GPE_SIZE);
}

static void gpe_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    acpi_gpe_write(&((PIIX4PM *)opaque)->acpi, (unsigned)addr, GPE_SIZE, (uint8_t)data);
}

static const MemoryRegionOps gpe_ops = {
    .read = gpe_read,
    .write = gpe_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static uint64_t apm_read(void *opaque, hwaddr addr, unsigned size)
{
    PIIX4PM *s = opaque;

    return addr == 0 ? s->apm_control : s->apm_status;
}

static void apm_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PIIX4PM *s = opaque;

    if (addr == 1) {
        s->apm_status = (uint8_t)data;
        return;
    }
    s->apm_control = (uint8_t)data;
    if (data == APM_ACPI_ENABLE || data == APM_ACPI_DISABLE) {
        acpi_set_sci_enable(&s->acpi, data == APM_ACPI_ENABLE);
    }
    if (s->parent.config[PIIX4_DEVACTB + 3] & PIIX4_DEVACTB_APMC) {
        irq_pulse(s->smi);
    }
}

static const MemoryRegionOps apm_ops = {
    .read = apm_read,
    .write = apm_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- where they are ------------------------------------------------------------------------ */

static void move(PIIX4PM *s, MemoryRegion *mr, uint64_t *at, uint64_t to)
{
    MemoryRegion *io = pci_bus_io(s->parent.bus);

    if (*at == to) {
        return;
    }
    memory_region_transaction_begin();
    if (*at != PCI_UNMAPPED && mr->container == io) {
        memory_region_del_subregion(io, mr);
    }
    *at = to;
    if (to != PCI_UNMAPPED) {
        memory_region_add_subregion_overlap(io, to, mr, 1);
    }
    memory_region_transaction_commit();
}

static void update_mapping(PIIX4PM *s)
{
    const uint8_t *c = s->parent.config;
    uint64_t pm = pci_get_long(c + PIIX4_PMBASE) & 0xffc0;
    uint64_t smb = pci_get_long(c + PIIX4_SMBBA) & 0xfff0;

    move(s, &s->pm_io, &s->pm_at, c[PIIX4_PMREGMISC] & 1 && pm ? pm : PCI_UNMAPPED);
    move(s, &s->smbus.io, &s->smb_at, c[PIIX4_SMBHSTCFG] & 1 && smb ? smb : PCI_UNMAPPED);
}

static void piix4_config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len)
{
    pci_default_config_write(dev, addr, value, len);
    if (pci_config_touches(addr, len, PIIX4_PMBASE, 4) ||
        pci_config_touches(addr, len, PIIX4_PMREGMISC, 1) ||
        pci_config_touches(addr, len, PIIX4_SMBBA, 4) ||
        pci_config_touches(addr, len, PIIX4_SMBHSTCFG, 1)) {
        update_mapping(PIIX4_PM(dev));
    }
}

/* ---- saved state --------------------------------------------------------------------------- */

static bool piix4_post_load(void *opaque, unsigned version, GError **error)
{
    PIIX4PM *s = opaque;

    if (!acpi_regs_post_load(&s->acpi, error) || !pm_smbus_post_load(&s->smbus, error)) {
        return false;
    }
    update_mapping(s);
    machine_restore_suspended(s->parent.parent.machine, s->suspended);
    return true;
}

static const VMStateField piix4_fields[] = {
    VMSTATE_PCI_DEVICE(parent, PIIX4PM),
    VMSTATE_STRUCT(acpi, PIIX4PM, vmstate_acpi_regs),
    VMSTATE_STRUCT(smbus, PIIX4PM, vmstate_pm_smbus),
    VMSTATE_UINT8(apm_control, PIIX4PM),
    VMSTATE_UINT8(apm_status, PIIX4PM),
    VMSTATE_UINT32_ARRAY(pm_words, PIIX4PM),
    VMSTATE_BOOL(suspended, PIIX4PM),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_piix4 = {
    .name = TYPE_PIIX4_PM,
    .version = 1,
    .minimum_version = 1,
    .post_load = piix4_post_load,
    .fields = piix4_fields,
};

/* ---- life cycle ---------------------------------------------------------------------------- */

static void smbus_update(void *opaque)
{
    PIIX4PM *s = opaque;

    /* SMBHSTCFG, 11.4: the interrupt goes to SMI (0) or IRQ 9 (4). */
    if (pm_smbus_interrupt(&s->smbus)) {
        log_mask(LOG_IRQ, "%s: SMBus interrupt", pci_name(&s->parent));
    }
    pci_set_irq(&s->parent,
                pm_smbus_interrupt(&s->smbus) && (s->parent.config[PIIX4_SMBHSTCFG] >> 1 & 7) == 4);
}

static void init_config(PCIDevice *dev)
{
    uint8_t *w = dev->wmask;

    dev->config[PCI_INTERRUPT_PIN] = 1;
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MED);
    memset(w + PCI_CONFIG_HEADER, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    pci_set_long(w + PIIX4_PMBASE, 0xffc0);
    pci_set_long(w + PIIX4_SMBBA, 0xfff0);
}

static bool piix4_realize(PCIDevice *dev, GError **error)
{
    PIIX4PM *s = PIIX4_PM(dev);
    DeviceState *qdev = DEVICE(dev);

    s->pm_at = s->smb_at = PCI_UNMAPPED;
    memory_region_finalize(&s->pm_io); /* of an earlier life */
    memory_region_finalize(&s->apm_io);
    memory_region_finalize(&s->gpe_io);
    memory_region_init_io(&s->pm_io, OBJECT(dev), &pm_ops, s, "piix4-pm", PM_IO_SIZE);
    memory_region_init_io(&s->apm_io, OBJECT(dev), &apm_ops, s, "apm", 2);
    memory_region_init_io(&s->gpe_io, OBJECT(dev), &gpe_ops, s, "acpi-gpe0", GPE_SIZE);
    acpi_regs_init(&s->acpi, qdev, &s->sci, s->timer_32bit, pm_sleep);
    init_config(dev);
    return pm_smbus_init(&s->smbus, qdev, smbus_update, error) &&
           device_map_io(qdev, APM_CONTROL, &s->apm_io, error) &&
           (!s->gpe0_base || device_map_io(qdev, s->gpe0_base, &s->gpe_io, error));
}

static void piix4_exit(PCIDevice *dev)
{
    PIIX4PM *s = PIIX4_PM(dev);

    acpi_regs_exit(&s->acpi);
    move(s, &s->pm_io, &s->pm_at, PCI_UNMAPPED);
    move(s, &s->smbus.io, &s->smb_at, PCI_UNMAPPED);
    object_unparent(OBJECT(s->smbus.bus));
}

static bool has_port(PIIX4PM *s, hwaddr port)
{
    bool there;

    rcu_enter();
    there = flat_view_find(address_space_flat_view(s->parent.parent.machine->io), port);
    rcu_leave();
    return there;
}

static void piix4_reset(PCIDevice *dev)
{
    PIIX4PM *s = PIIX4_PM(dev);
    uint8_t *c = dev->config;
    uint16_t woken = machine_waking(dev->parent.machine) ? s->acpi.pm1_status : 0;

    memset(c + PCI_CONFIG_HEADER, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    pci_set_long(c + PIIX4_PMBASE, 1);
    c[PIIX4_DEVACTB + 3] = PIIX4_DEVACTB_APMC;
    /* Which ports of old are decoded: those that are there. */
    c[PIIX4_DEVRESA + 3] = 0x10 | (has_port(s, 0x378) ? 0x80 : 0);
    c[0x63] = 0x60;
    c[0x67] = (has_port(s, 0x3f8) ? 0x08 : 0) | (has_port(s, 0x2f8) ? 0x90 : 0);
    pci_set_long(c + PIIX4_SMBBA, s->smb_base | 1);
    c[PIIX4_SMBHSTCFG] = s->smb_base ? 0x09 : 0;
    s->apm_control = s->apm_status = 0;
    memset(s->pm_words, 0, sizeof(s->pm_words));
    s->suspended = false;
    pm_smbus_reset(&s->smbus);
    acpi_regs_reset(&s->acpi);
    /* A wake-up is a reset that firmware can tell from others. */
    s->acpi.pm1_status = woken;
    update_mapping(s);
}

static const Property piix4_properties[] = {
    DEFINE_PROP_UINT32("gpe0-base", PIIX4PM, gpe0_base, 0xafe0, "ports of GPE0; 0: none"),
    DEFINE_PROP_UINT32("smb-base", PIIX4PM, smb_base, 0xb100,
                       "ports of the SMBus controller until firmware moves them; 0: off"),
    DEFINE_PROP_BOOL("timer-32bit", PIIX4PM, timer_32bit, false,
                     "the PM timer counts 32 bits, not 24"),
    DEFINE_PROP_BOOL("disable-s3", PIIX4PM, disable_s3, false, "suspend to RAM is ignored"),
    DEFINE_PROP_BOOL("disable-s4", PIIX4PM, disable_s4, false, "hibernation is ignored"),
};

static void piix4_init(Object *obj)
{
    DeviceState *dev = DEVICE(obj);

    device_init_irq_out(dev, "sci", &PIIX4_PM(obj)->sci, 1);
    device_init_irq_out(dev, "smi", &PIIX4_PM(obj)->smi, 1);
    device_init_irq_out(dev, "suspended", &PIIX4_PM(obj)->suspend_line, 1);
    device_init_irq_in(dev, "power-button", power_button, 1);
    device_init_irq_in(dev, "rtc-alarm", rtc_alarm, 1);
    device_init_irq_in(dev, "wake-up", wake_up, 1);
    device_init_irq_in(dev, "gpe", gpe_in, 16);
}

static void piix4_finalize(Object *obj)
{
    PIIX4PM *s = PIIX4_PM(obj);

    memory_region_finalize(&s->pm_io);
    memory_region_finalize(&s->apm_io);
    memory_region_finalize(&s->gpe_io);
    memory_region_finalize(&s->smbus.io);
}

static void piix4_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = piix4_realize;
    pc->exit = piix4_exit;
    pc->reset = piix4_reset;
    pc->config_write = piix4_config_write;
    pc->vendor_id = PCI_VENDOR_INTEL;
    pc->device_id = PCI_DEVICE_82371AB_3;
    pc->revision = 0x03;
    pc->class_code = PCI_CLASS_BRIDGE_OTHER;
    DEVICE_CLASS(klass)->vmsd = &vmstate_piix4;
    DEVICE_CLASS(klass)->user_creatable = false;
    object_class_add_properties(klass, piix4_properties, G_N_ELEMENTS(piix4_properties));
}

static const TypeInfo piix4_info = {
    .name = TYPE_PIIX4_PM,
    .parent = TYPE_PCI_DEVICE,
    .doc = "82371AB: ACPI power management and SMBus",
    .instance_size = sizeof(PIIX4PM),
    .instance_init = piix4_init,
    .instance_finalize = piix4_finalize,
    .class_init = piix4_class_init,
};

static void register_piix4(void)
{
    type_register_static(&piix4_info);
}
type_init(register_piix4)

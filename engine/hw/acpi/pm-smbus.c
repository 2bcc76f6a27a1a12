/*
 * The SMBus host controller of the PIIX4.
 *
 * Intel 82371AB (PIIX4) data sheet 290562, 11.5: SMBHSTSTS (+0), SMBSLVSTS (+1), SMBHSTCNT (+2),
 * SMBHSTCMD (+3), SMBHSTADD (+4), SMBHSTDAT0 (+5), SMBHSTDAT1 (+6), SMBBLKDAT (+7), SMBSLVCNT (+8).
 * A transfer is over when the write that started it returns. Not emulated: the slave interface.
 */
#include "engine/hw/acpi/pm-smbus.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"

enum {
    HSTSTS_INTR = 1 << 1,
    HSTSTS_DEV_ERR = 1 << 2,
    HSTSTS_BUS_ERR = 1 << 3,
    HSTSTS_FAILED = 1 << 4,
    HSTSTS_CLEARABLE = HSTSTS_INTR | HSTSTS_DEV_ERR | HSTSTS_BUS_ERR | HSTSTS_FAILED,
    HSTCNT_INTREN = 1 << 0,
    HSTCNT_KILL = 1 << 1,
    HSTCNT_PROTOCOL = 7 << 2,
    HSTCNT_START = 1 << 6,
    HSTCNT_KEPT = HSTCNT_INTREN | HSTCNT_PROTOCOL,
};

static bool block_transfer(PMSMBus *s, uint8_t addr, bool read)
{
    uint8_t bytes[1 + 32], n;

    if (read) {
        /* The device sends the count first. */
        if (!smbus_write(s->bus, addr, &s->command, 1) || !smbus_read(s->bus, addr, bytes, 1)) {
            return false;
        }
        n = bytes[0];
        if (n == 0 || n > sizeof(s->block) || !smbus_read(s->bus, addr, s->block, n)) {
            return false;
        }
        s->data0 = n;
        s->index = 0;
        return true;
    }
    n = s->data0;
    if (n == 0 || n > sizeof(s->block)) {
        return false;
    }
    bytes[0] = s->command;
    memcpy(bytes + 1, s->block, n);
    s->index = 0;
    return smbus_write(s->bus, addr, bytes, 1u + n);
}

static bool transfer(PMSMBus *s)
{
    uint8_t addr = s->address >> 1, bytes[3] = { s->command, s->data0, s->data1 }, in[2];
    bool read = s->address & 1;

    switch (s->control >> 2 & 7) {
    case 0: /* quick: nothing but the address */
        return read ? smbus_read(s->bus, addr, in, 0) : smbus_write(s->bus, addr, bytes, 0);
    case 1: /* byte */
        return read ? smbus_read(s->bus, addr, &s->data0, 1) : smbus_write(s->bus, addr, bytes, 1);
    case 2: /* byte data */
        return read ? smbus_write(s->bus, addr, bytes, 1) && smbus_read(s->bus, addr, &s->data0, 1)
                    : smbus_write(s->bus, addr, bytes, 2);
    case 3: /* word data */
        if (!read) {
            return smbus_write(s->bus, addr, bytes, 3);
        }
        if (!smbus_write(s->bus, addr, bytes, 1) || !smbus_read(s->bus, addr, in, 2)) {
            return false;
        }
        s->data0 = in[0];
        s->data1 = in[1];
        return true;
    case 5:
        return block_transfer(s, addr, read);
    default:
        log_of(s->opaque, LOG_GUEST, "SMBus: reserved protocol %u", s->control >> 2 & 7u);
        return false;
    }
}

static void write_control(PMSMBus *s, uint8_t value)
{
    s->control = value & HSTCNT_KEPT;
    if (value & HSTCNT_KILL) {
        s->status |= HSTSTS_FAILED;
    } else if (value & HSTCNT_START) {
        s->status |= transfer(s) ? HSTSTS_INTR : HSTSTS_DEV_ERR;
    }
}

static uint64_t smb_read(void *opaque, hwaddr addr, unsigned size)
{
    PMSMBus *s = opaque;
    uint8_t value;

    switch (addr) {
    case 0:
        return s->status;
    case 2:
        s->index = 0; /* 11.5.3: reading it puts the block pointer back */
        return s->control;
    case 3:
        return s->command;
    case 4:
        return s->address;
    case 5:
        return s->data0;
    case 6:
        return s->data1;
    case 7:
        value = s->block[s->index];
        s->index = (s->index + 1) % sizeof(s->block);
        return value;
    case 8:
        return s->slave_control;
    default:
        return 0;
    }
}

static void smb_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PMSMBus *s = opaque;
    uint8_t value = (uint8_t)data;

    switch (addr) {
    case 0:
        s->status &= (uint8_t) ~(value & HSTSTS_CLEARABLE);
        break;
    case 2:
        write_control(s, value);
        break;
    case 3:
        s->command = value;
        break;
    case 4:
        s->address = value;
        break;
    case 5:
        s->data0 = value;
        break;
    case 6:
        s->data1 = value;
        break;
    case 7:
        s->block[s->index] = value;
        s->index = (s->index + 1) % sizeof(s->block);
        break;
    case 8:
        s->slave_control = value & 0x0f;
        break;
    default:
        break;
    }
    s->update(s->opaque);
}

static const MemoryRegionOps smb_ops = {
    .read = smb_read,
    .write = smb_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

bool pm_smbus_interrupt(const PMSMBus *s)
{
    return (s->control & HSTCNT_INTREN) && (s->status & HSTSTS_CLEARABLE);
}

bool pm_smbus_init(PMSMBus *s, DeviceState *dev, void (*update)(void *opaque), GError **error)
{
    s->bus = smbus_new(dev, "smbus", error);
    s->update = update;
    s->opaque = dev;
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &smb_ops, s, "pm-smbus", PM_SMBUS_SIZE);
    return s->bus != NULL;
}

void pm_smbus_reset(PMSMBus *s)
{
    s->status = s->control = s->command = s->address = s->data0 = s->data1 = 0;
    s->slave_control = s->index = 0;
    memset(s->block, 0, sizeof(s->block));
}

bool pm_smbus_post_load(const PMSMBus *s, GError **error)
{
    return s->index < sizeof(s->block) ||
           error_set(error, ENGINE_ERROR_CORRUPT, "SMBus block index %u", s->index);
}

static const VMStateField fields[] = {
    VMSTATE_UINT8(status, PMSMBus),        VMSTATE_UINT8(control, PMSMBus),
    VMSTATE_UINT8(command, PMSMBus),       VMSTATE_UINT8(address, PMSMBus),
    VMSTATE_UINT8(data0, PMSMBus),         VMSTATE_UINT8(data1, PMSMBus),
    VMSTATE_UINT8(slave_control, PMSMBus), VMSTATE_BYTES(block, PMSMBus),
    VMSTATE_UINT8(index, PMSMBus),         VMSTATE_END(),
};
const VMStateDescription vmstate_pm_smbus = {
    .name = "pm-smbus",
    .version = 1,
    .minimum_version = 1,
    .fields = fields,
};

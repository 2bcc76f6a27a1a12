/*
 * "isa-fdc": the floppy controller of a PC, an Intel 82077AA in PC AT mode (data sheet order
 * 290166), with two drives.
 *
 *   ports  0x3f2  DOR   drive, reset, DMA and interrupt, motors
 *          0x3f3  TDR   kept
 *          0x3f4  MSR (read), DSR (write): phases; data rate, reset
 *          0x3f5  data: commands, results, and bytes of a transfer without DMA
 *          0x3f7  DIR (read), CCR (write): change line; data rate
 *   line   output "irq" (line 6 of a PC); DMA channel 2
 *
 * Disks are images of sectors: block backends, by properties `drive-a` and `drive-b`. Heads move
 * and sectors come by at once (a seek takes 100 us of the machine's time, a sector as long as the
 * block layer needs): software waits for interrupts in any case. The formats are in fd-drive.c,
 * transfers in fdc-transfer.c, other commands in fdc-command.c.
 *
 * Not emulated: what an image cannot hold (deleted data marks, sectors of other sizes, gaps, CRC
 * errors), overruns (the transfer waits for the host), the PS/2 registers 0x3f0 and 0x3f1, and tape
 * drives.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"
#include "engine/hw/floppy/fdc-priv.h"

enum { REG_DOR = 2, REG_TDR, REG_MSR, REG_DATA, REG_DIR = 7 };
enum { MSR_RQM = 0x80, MSR_DIO = 0x40, MSR_NDM = 0x20, MSR_BUSY = 0x10 };
enum { DSR_RESET = 0x80, DIR_CHANGED = 0x80 };
#define RESET_NS (250 * NS_PER_US)

/* ---- the line ------------------------------------------------------------------------------ */

/* Without DMA the host is asked for each byte. */
static bool wants_byte(const Fdc *s)
{
    return s->phase == FDC_PHASE_EXECUTE && !fdc_uses_dma(s) &&
           (s->wait == FDC_WAIT_TO_HOST || s->wait == FDC_WAIT_FROM_HOST);
}

void fdc_update_irq(Fdc *s)
{
    bool level = (s->interrupt || wants_byte(s)) && (s->dor & DOR_DMA);

    if (irq_level(s->irq) != level) {
        irq_set(s->irq, level);
    }
}

void fdc_set_result(Fdc *s, unsigned n, bool interrupt)
{
    s->phase = FDC_PHASE_RESULT;
    s->result_pos = 0;
    s->result_len = (uint8_t)n;
    s->interrupt |= interrupt;
}

/* ---- reset --------------------------------------------------------------------------------- */

/* What the pin, DOR and DSR have in common. */
static void fdc_reset(Fdc *s, bool soft)
{
    fdc_forget_request(s);
    timer_disarm(&s->seek_timer);
    timer_disarm(&s->exec_timer);
    if (s->dma) {
        isa_dma_set_request(s->dma, s->dma_channel, false);
    }
    s->phase = FDC_PHASE_COMMAND;
    s->wait = FDC_WAIT_NONE;
    s->command_pos = s->result_pos = s->result_len = 0;
    s->reset_senses = s->seeking = s->sought = 0;
    s->interrupt = s->in_reset_delay = s->terminal = s->writing = false;
    s->perpendicular &= soft ? 0x3c : 0;
    if (!soft || !s->locked) {
        s->config = CONFIG_EFIFO;
        s->pretrack = 0;
    }
    if (!soft) {
        s->locked = false;
    }
    fdc_update_irq(s);
}

static void leave_reset(Fdc *s)
{
    s->in_reset_delay = true;
    timer_arm(&s->seek_timer, clock_now(device_clock(&s->parent)) + RESET_NS);
}

static void seek_timer(void *opaque)
{
    Fdc *s = opaque;

    if (s->in_reset_delay) {
        s->in_reset_delay = false;
        if (!(s->config & CONFIG_POLL_OFF)) { /* it polls the drives, and each is "changed" */
            s->reset_senses = 4;
            s->interrupt = true;
        }
    } else {
        fdc_seek_done(s);
    }
    fdc_update_irq(s);
}

/* ---- registers ----------------------------------------------------------------------------- */

static FdDrive *selected(Fdc *s)
{
    unsigned n = s->dor & DOR_SELECT;

    return n < FDC_DRIVES && s->drive[n].kind != FD_NONE ? &s->drive[n] : NULL;
}

static uint8_t read_msr(const Fdc *s)
{
    uint8_t value = s->seeking;

    if (!(s->dor & DOR_RUN) || s->in_reset_delay) {
        return 0;
    }
    switch (s->phase) {
    case FDC_PHASE_COMMAND:
        return value | MSR_RQM | (s->command_pos ? MSR_BUSY : 0);
    case FDC_PHASE_RESULT:
        return value | MSR_RQM | MSR_DIO | MSR_BUSY;
    default:
        value |= MSR_BUSY | (fdc_uses_dma(s) ? 0 : MSR_NDM);
        value |= wants_byte(s) ? MSR_RQM : 0;
        return value | (s->wait == FDC_WAIT_TO_HOST && !fdc_uses_dma(s) ? MSR_DIO : 0);
    }
}

static uint8_t read_data(Fdc *s, bool debug)
{
    uint8_t value = 0;

    if (s->phase == FDC_PHASE_RESULT) {
        value = s->result[s->result_pos];
        if (debug) {
            return value;
        }
        s->interrupt = s->sought != 0;
        if (++s->result_pos >= s->result_len) {
            s->phase = FDC_PHASE_COMMAND;
            s->command_pos = 0;
        }
    } else if (wants_byte(s) && s->wait == FDC_WAIT_TO_HOST) {
        value = s->data[s->pos];
        if (!debug && ++s->pos >= s->len) {
            fdc_host_done(s);
        }
    }
    return value;
}

static void write_data(Fdc *s, uint8_t value)
{
    if (!(s->dor & DOR_RUN) || s->in_reset_delay) {
        log_of(s, LOG_GUEST, "isa-fdc: a command while in reset");
    } else if (s->phase == FDC_PHASE_COMMAND) {
        s->command[s->command_pos++] = value;
        if (s->command_pos >= fdc_command_length(s->command[0])) {
            fdc_execute(s);
        }
    } else if (wants_byte(s) && s->wait == FDC_WAIT_FROM_HOST) {
        s->data[s->pos++] = value;
        if (s->pos >= s->len) {
            fdc_host_done(s);
        }
    } else {
        log_of(s, LOG_GUEST, "isa-fdc: a byte that it does not wait for");
    }
}

static void write_dor(Fdc *s, uint8_t value)
{
    bool ran = s->dor & DOR_RUN;

    s->dor = value;
    if (!(value & DOR_RUN)) {
        if (ran) {
            fdc_reset(s, true);
        }
    } else if (!ran) {
        leave_reset(s);
    }
    fdc_pump(s); /* DMA may have been switched on */
}

static MemTxResult fdc_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                            MemTxAttrs attrs)
{
    Fdc *s = opaque;

    switch (addr) {
    case REG_DOR:
        *data = s->dor;
        break;
    case REG_TDR:
        *data = s->tdr;
        break;
    case REG_MSR:
        *data = read_msr(s);
        break;
    case REG_DATA:
        *data = read_data(s, attrs.debug);
        fdc_update_irq(s);
        break;
    default:
        *data = 0xff;
        break;
    }
    return MEMTX_OK;
}

static MemTxResult fdc_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                             MemTxAttrs attrs)
{
    Fdc *s = opaque;
    uint8_t value = (uint8_t)data;

    switch (addr) {
    case REG_DOR:
        write_dor(s, value);
        break;
    case REG_TDR:
        s->tdr = value & 3;
        break;
    case REG_MSR: /* DSR */
        s->rate = value & 3;
        if (value & DSR_RESET) { /* clears itself */
            fdc_reset(s, true);
            if (s->dor & DOR_RUN) {
                leave_reset(s);
            }
        }
        break;
    case REG_DATA:
        write_data(s, value);
        break;
    default:
        break;
    }
    fdc_update_irq(s);
    return MEMTX_OK;
}

static uint64_t dir_read(void *opaque, hwaddr addr, unsigned size)
{
    FdDrive *d = selected(opaque);

    return d && (d->changed || !d->be || !block_inserted(d->be)) ? DIR_CHANGED : 0;
}

static void ccr_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    FDC(opaque)->rate = data & 3;
}

static const MemoryRegionOps fdc_ops = {
    .read_attrs = fdc_read,
    .write_attrs = fdc_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};
static const MemoryRegionOps dir_ops = {
    .read = dir_read,
    .write = ccr_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool fdc_pre_load(void *opaque, GError **error)
{
    Fdc *s = opaque;

    fdc_forget_request(s);
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        if (s->drive[i].be) {
            block_forget_held_back(s->drive[i].be);
        }
    }
    return true;
}

static bool fdc_valid(const Fdc *s)
{
    bool executes = s->phase == FDC_PHASE_EXECUTE;
    bool moves = s->wait == FDC_WAIT_TO_HOST || s->wait == FDC_WAIT_FROM_HOST;

    return s->phase <= FDC_PHASE_RESULT && s->wait <= FDC_WAIT_TIME && s->op < FDC_OP_COUNT &&
           executes == (s->wait != FDC_WAIT_NONE) && s->command_pos <= FDC_COMMAND &&
           (s->phase != FDC_PHASE_COMMAND || s->command_pos == 0 ||
            s->command_pos < fdc_command_length(s->command[0])) &&
           s->result_len <= FDC_RESULT &&
           (s->phase != FDC_PHASE_RESULT || s->result_pos < s->result_len) && s->pos <= s->len &&
           s->len <= FDC_SECTOR && (!moves || s->pos < s->len) &&
           (s->op != FDC_OP_FORMAT || s->len <= 4) && s->reset_senses <= 4 && s->seeking <= 15 &&
           s->sought <= 15 && s->unit <= 3 && s->head <= 1 && s->rate <= 3 && s->tdr <= 3 &&
           s->config <= 0x7f && s->perpendicular <= 0x3f &&
           (!executes || s->wait == FDC_WAIT_TIME || s->unit < FDC_DRIVES);
}

static bool fdc_post_load(void *opaque, unsigned version, GError **error)
{
    Fdc *s = opaque;

    if (!fdc_valid(s)) {
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "the floppy controller is in an impossible state");
    }
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        FdDrive *d = &s->drive[i];

        if (d->next_sector == 0 || d->next_sector > 36) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "drive %u: sector %u", i, d->next_sector);
        }
        fd_drive_look(d);
    }
    if (s->dma && s->phase == FDC_PHASE_EXECUTE && fdc_uses_dma(s)) {
        isa_dma_set_request(s->dma, s->dma_channel,
                            s->wait == FDC_WAIT_TO_HOST || s->wait == FDC_WAIT_FROM_HOST);
    }
    irq_restore_level(s->irq, (s->interrupt || wants_byte(s)) && (s->dor & DOR_DMA));
    fdc_resume_request(s);
    return true;
}

static const VMStateField fd_drive_fields[] = {
    VMSTATE_UINT8(track, FdDrive),
    VMSTATE_UINT8(next_sector, FdDrive),
    VMSTATE_BOOL(changed, FdDrive),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_fd_drive = {
    .name = "floppy-drive",
    .version = 1,
    .minimum_version = 1,
    .fields = fd_drive_fields,
};
static const VMStateField fdc_fields[] = {
    VMSTATE_STRUCT_ARRAY(drive, Fdc, vmstate_fd_drive),
    VMSTATE_TIMER(seek_timer, Fdc),
    VMSTATE_TIMER(exec_timer, Fdc),
    VMSTATE_UINT8(dor, Fdc),
    VMSTATE_UINT8(tdr, Fdc),
    VMSTATE_UINT8(rate, Fdc),
    VMSTATE_UINT8(config, Fdc),
    VMSTATE_UINT8(pretrack, Fdc),
    VMSTATE_UINT8(perpendicular, Fdc),
    VMSTATE_UINT8_ARRAY(specify, Fdc),
    VMSTATE_BOOL(locked, Fdc),
    VMSTATE_BOOL(interrupt, Fdc),
    VMSTATE_UINT8(phase, Fdc),
    VMSTATE_UINT8(wait, Fdc),
    VMSTATE_UINT8(op, Fdc),
    VMSTATE_BYTES(command, Fdc),
    VMSTATE_BYTES(result, Fdc),
    VMSTATE_UINT8(command_pos, Fdc),
    VMSTATE_UINT8(result_pos, Fdc),
    VMSTATE_UINT8(result_len, Fdc),
    VMSTATE_UINT8(reset_senses, Fdc),
    VMSTATE_UINT8(seeking, Fdc),
    VMSTATE_UINT8(sought, Fdc),
    VMSTATE_UINT8_ARRAY(seek_target, Fdc),
    VMSTATE_UINT8_ARRAY(seek_st0, Fdc),
    VMSTATE_BOOL(in_reset_delay, Fdc),
    VMSTATE_UINT8(unit, Fdc),
    VMSTATE_UINT8(head, Fdc),
    VMSTATE_UINT8(cylinder, Fdc),
    VMSTATE_UINT8(side, Fdc),
    VMSTATE_UINT8(sector, Fdc),
    VMSTATE_UINT8(size, Fdc),
    VMSTATE_UINT8(last_sector, Fdc),
    VMSTATE_UINT8(formatted, Fdc),
    VMSTATE_UINT8_ARRAY(st, Fdc),
    VMSTATE_BYTES(data, Fdc),
    VMSTATE_BYTES(other, Fdc),
    VMSTATE_UINT16(pos, Fdc),
    VMSTATE_UINT16(len, Fdc),
    VMSTATE_BOOL(writing, Fdc),
    VMSTATE_BOOL(terminal, Fdc),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_fdc = {
    .name = "isa-fdc",
    .version = 1,
    .minimum_version = 1,
    .pre_load = fdc_pre_load,
    .post_load = fdc_post_load,
    .fields = fdc_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static void dma_ready(void *opaque)
{
    Fdc *s = opaque;

    fdc_pump(s);
    fdc_update_irq(s);
}

/* What an error policy held back is tried again when the machine goes on. */
static void machine_goes_on(Machine *m, RunState state, void *opaque)
{
    Fdc *s = opaque;

    for (unsigned i = 0; state == RUN_STATE_RUNNING && i < FDC_DRIVES; i++) {
        if (s->drive[i].be) {
            block_retry(s->drive[i].be);
        }
    }
}

static void fdc_let_go(Fdc *s)
{
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        fd_drive_detach(&s->drive[i]);
    }
    if (s->dma) {
        isa_dma_detach(s->dma, s->dma_channel);
        object_unref(g_steal_pointer(&s->dma));
    }
}

static bool fdc_realize(DeviceState *dev, GError **error)
{
    Fdc *s = FDC(dev);

    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_finalize(&s->io_dir);
    /* 0x3f6, between the two, is the disk controller's. */
    memory_region_init_io(&s->io, OBJECT(dev), &fdc_ops, s, "fdc", 6);
    memory_region_init_io(&s->io_dir, OBJECT(dev), &dir_ops, s, "fdc-dir", 1);
    timer_setup(&s->seek_timer, device_clock(dev), seek_timer, s);
    timer_setup(&s->exec_timer, device_clock(dev), fdc_exec_timer, s);
    if (s->dma_link) {
        DeviceState *dma = DEVICE(s->dma_link);

        if (!isa_dma_attach(dma, s->dma_channel, dma_ready, s)) {
            return error_set(error, ENGINE_ERROR_INVALID, "%s: DMA channel %u is not free",
                             object_get_name(OBJECT(dev)), s->dma_channel);
        }
        s->dma = (DeviceState *)object_ref(dma);
    }
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        s->drive[i] = (FdDrive){ .fdc = s, .index = i };
        if (!fd_drive_attach(&s->drive[i], s->backend[i], (FdKind)s->kind[i], error)) {
            fdc_let_go(s);
            return false;
        }
    }
    if (!device_map_io(dev, s->iobase, &s->io, error) ||
        !device_map_io(dev, s->iobase + REG_DIR, &s->io_dir, error)) {
        fdc_let_go(s);
        return false;
    }
    machine_add_notify(dev->machine, machine_goes_on, s);
    return true;
}

static void fdc_unrealize(DeviceState *dev)
{
    Fdc *s = FDC(dev);

    machine_remove_notify(dev->machine, machine_goes_on, s);
    timer_disarm(&s->seek_timer);
    timer_disarm(&s->exec_timer);
    fdc_forget_request(s);
    fdc_let_go(s);
}

static void fdc_device_reset(DeviceState *dev)
{
    Fdc *s = FDC(dev);

    s->dor = s->tdr = 0;
    s->rate = FDC_RATE_250;
    s->specify[0] = s->specify[1] = 0;
    fdc_reset(s, false);
}

static bool get_kind(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    Fdc *s = FDC(obj);
    unsigned i = (unsigned)(uintptr_t)prop->opaque;

    *out = (PropValue){ .kind = PROP_STRING, .string = g_strdup(fd_kind_words[s->drive[i].kind]) };
    return true;
}

static const Property fdc_properties[] = {
    DEFINE_PROP_UINT32("iobase", Fdc, iobase, 0x3f0, "first of its ports"),
    DEFINE_PROP_INT32("irq", Fdc, irq_number, 6,
                      "number of the interrupt that the board connects it to"),
    DEFINE_PROP_LINK("dma", Fdc, dma_link, TYPE_ISA_DMA,
                     "the DMA controller; without one only transfers without DMA work"),
    DEFINE_PROP_UINT32("dma-channel", Fdc, dma_channel, 2, "its DMA channel"),
    DEFINE_PROP_LINK("drive-a", Fdc, backend[0], TYPE_BLOCK_BACKEND, "the disk in the first drive"),
    DEFINE_PROP_LINK("drive-b", Fdc, backend[1], TYPE_BLOCK_BACKEND,
                     "the disk in the second drive"),
    DEFINE_PROP_ENUM("type-a", Fdc, kind[0], fd_kind_words, FD_AUTO,
                     "the first drive, by the largest disk it takes; auto: by the image that is in "
                     "it, 1.44M when it is empty, none without drive-a"),
    DEFINE_PROP_ENUM("type-b", Fdc, kind[1], fd_kind_words, FD_AUTO, "the second drive, likewise"),
    { .name = "kind-a",
      .doc = "what the first drive is",
      .kind = PROP_STRING,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_kind,
      .opaque = (const void *)0 },
    { .name = "kind-b",
      .doc = "what the second drive is",
      .kind = PROP_STRING,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_kind,
      .opaque = (const void *)1 },
    DEFINE_PROP_BOOL("check-rate", Fdc, check_rate, true,
                     "a disk is read only at its own data rate"),
};

static void fdc_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", &FDC(obj)->irq, 1);
}

static void fdc_finalize(Object *obj)
{
    memory_region_finalize(&FDC(obj)->io);
    memory_region_finalize(&FDC(obj)->io_dir);
}

static void fdc_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = fdc_realize;
    dc->unrealize = fdc_unrealize;
    dc->reset = fdc_device_reset;
    dc->vmsd = &vmstate_fdc;
    object_class_add_properties(klass, fdc_properties, G_N_ELEMENTS(fdc_properties));
}

static const TypeInfo fdc_info = {
    .name = TYPE_FDC,
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's floppy controller 82077AA with two drives",
    .instance_size = sizeof(Fdc),
    .instance_init = fdc_init,
    .instance_finalize = fdc_finalize,
    .class_init = fdc_class_init,
};

static void register_fdc(void)
{
    type_register_static(&fdc_info);
}
type_init(register_fdc)

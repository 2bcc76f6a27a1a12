/*
 * Devices: objects with a life cycle (made → realized → reset … → unrealized), lines, regions and
 * saved state.
 *
 * A device belongs to one machine from realize to unrealize. All functions: engine lock.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/core/clock.h"
#include "engine/core/irq.h"
#include "engine/machine/machine.h"
#include "engine/memory/memory.h"
#include "engine/qom/object.h"
#include "engine/state/vmstate.h"

#define TYPE_DEVICE "device"
#define TYPE_ISA_DEVICE \
    "isa-device" /* on the I/O space, legacy IRQs; properties iobase, irq where it has them */
#define TYPE_SYS_DEVICE "sys-device" /* at a fixed address in memory */

typedef struct DeviceState {
    Object parent;
    Machine *machine;     /* from realize on */
    char *id;             /* the user's name, NULL if none; the child name in the tree */
    GPtrArray *lines;     /* named GPIO lists; private */
    GPtrArray *mappings;  /* regions mapped with device_map_*, undone at unrealize; private */
    uint32_t instance_id; /* of the saved state */
} DeviceState;
typedef struct DeviceClass {
    ObjectClass parent_class;
    bool (*realize)(DeviceState *dev,
                    GError **error); /* a parent's is called by the child explicitly */
    void (*unrealize)(
        DeviceState *dev); /* undoes realize; also called when a later realize step failed */
    void (*reset)(DeviceState *dev);
    const VMStateDescription *vmsd; /* over the instance struct; NULL only with no_state */
    bool no_state;                  /* nothing that a guest can see changes */
    bool user_creatable;            /* -device may make it */
    /* Finds the description when it depends on the instance (script types); NULL: vmsd. */
    const VMStateDescription *(*get_vmsd)(DeviceState *dev);
} DeviceClass;
OBJECT_DECLARE_TYPE(DeviceState, DeviceClass, DEVICE, TYPE_DEVICE)

/* Puts the device below the machine as `id` (NULL: type name and a number), checks required
 * properties, calls realize, registers saved state and reset. On failure everything is undone and
 * the object is out of the tree. */
bool device_realize(DeviceState *dev, Machine *m, const char *id, GError **error);
/* As above below another object of that machine (a bus or a composite device). */
bool device_realize_at(DeviceState *dev, Machine *m, Object *parent, const char *id,
                       GError **error);
void device_unrealize(
    DeviceState *dev); /* also what object_unparent of a realized device does, first */
void device_reset(DeviceState *dev);

/* Named lines. name NULL: the unnamed list. Inputs are handled by fn(dev, n, level); outputs are
 * pointers in the instance struct that the board connects. */
void device_init_irq_in(DeviceState *dev, const char *name, IrqHandler fn, unsigned n);
void device_init_irq_out(DeviceState *dev, const char *name, Irq **lines, unsigned n);
Irq *device_get_irq_in(DeviceState *dev, const char *name, unsigned n,
                       GError **error); /* borrowed */
bool device_connect_irq_out(DeviceState *dev, const char *name, unsigned n, Irq *irq,
                            GError **error); /* takes a reference; NULL disconnects */
void device_lines_foreach(DeviceState *dev,
                          void (*fn)(const char *name, bool is_input, unsigned count, void *opaque),
                          void *opaque);

/* Maps into the machine's spaces and remembers it for unrealize. Refused with both names on an
 * overlap of equal priority. */
bool device_map_io(DeviceState *dev, uint32_t port, MemoryRegion *mr, GError **error);
bool device_map_memory(DeviceState *dev, hwaddr addr, MemoryRegion *mr, int priority,
                       GError **error);
void device_unmap(DeviceState *dev, MemoryRegion *mr);

static inline Clock *device_clock(DeviceState *dev)
{
    return dev->machine->clock;
}

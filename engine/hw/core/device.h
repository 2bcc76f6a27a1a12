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
    const VMStateDescription *vmsd; /* as registered; NULL: none. Private */
    bool realizing;                 /* between the call of realize and its success; private */
} DeviceState;
typedef struct DeviceClass {
    ObjectClass parent_class;
    /* A parent's is called by the child explicitly. When it fails it has undone what it did itself;
     * regions mapped with device_map_* and lines declared by it are undone for it. */
    bool (*realize)(DeviceState *dev, GError **error);
    /* Undoes realize; also called when a later step of realizing failed. Its regions are out of the
     * address spaces already, but other threads may still look at them: they are finalized in
     * instance_finalize, which runs when nobody does. */
    void (*unrealize)(DeviceState *dev);
    void (*reset)(DeviceState *dev);
    const VMStateDescription *vmsd; /* over the instance struct; NULL only with no_state */
    bool no_state;                  /* nothing that a guest can see changes */
    bool user_creatable;            /* -device may make it */
    /* Finds the description when it depends on the instance (script types); NULL: vmsd. */
    const VMStateDescription *(*get_vmsd)(DeviceState *dev);
} DeviceClass;
OBJECT_DECLARE_TYPE(DeviceState, DeviceClass, DEVICE, TYPE_DEVICE)

/* Puts the device below the machine as `id` (NULL: type name and a number; unused when it is in its
 * place already), checks required properties, calls realize, registers saved state and reset, and
 * resets it. On failure everything is undone and the object is out of the tree, for good. */
bool device_realize(DeviceState *dev, Machine *m, const char *id, GError **error);
/* As above below another object of that machine (a bus or a composite device). */
bool device_realize_at(DeviceState *dev, Machine *m, Object *parent, const char *id,
                       GError **error);
/* Also what object_unparent of a realized device does, first. The device stays in the tree, its
 * outputs are disconnected, its inputs dead. Nothing when it is not realized. */
void device_unrealize(DeviceState *dev);
void device_reset(DeviceState *dev); /* nothing when it is not realized */

/* Named lines. name NULL: the unnamed list. Inputs are handled by fn(dev, n, level); outputs are
 * pointers in the instance struct that the board connects. Declared in instance_init they live as
 * long as the device, in realize until it is unrealized. A name twice is a bug. */
void device_init_irq_in(DeviceState *dev, const char *name, IrqHandler fn, unsigned n);
/* As above with fn(opaque, n, level), which outlives the lines. */
void device_init_irq_in_opaque(DeviceState *dev, const char *name, IrqHandler fn, void *opaque,
                               unsigned n);
void device_init_irq_out(DeviceState *dev, const char *name, Irq **lines, unsigned n);
Irq *device_get_irq_in(DeviceState *dev, const char *name, unsigned n,
                       GError **error); /* borrowed */
bool device_connect_irq_out(DeviceState *dev, const char *name, unsigned n, Irq *irq,
                            GError **error); /* takes a reference; NULL disconnects */
void device_lines_foreach(DeviceState *dev,
                          void (*fn)(const char *name, bool is_input, unsigned count, void *opaque),
                          void *opaque);

/* Maps into the machine's spaces and remembers it for unrealize. Refused with both names on an
 * overlap of equal priority, and beyond the end of the space. From realize on. */
bool device_map_io(DeviceState *dev, uint32_t port, MemoryRegion *mr, GError **error);
bool device_map_memory(DeviceState *dev, hwaddr addr, MemoryRegion *mr, int priority,
                       GError **error);
void device_unmap(DeviceState *dev, MemoryRegion *mr);

static inline Clock *device_clock(DeviceState *dev)
{
    return dev->machine->clock;
}

/*
 * The interface of "isa-dma" to the devices that use its channels.
 *
 * A device moves bytes when it has some and its channel is ready: the controller keeps address and
 * count. Channels 0 to 3 count bytes, 5 to 7 words; 4 is the cascade. Engine lock.
 */
#pragma once

#include "engine/hw/core/device.h"

#define TYPE_ISA_DMA     "isa-dma"
#define ISA_DMA_CHANNELS 8

/* Told when a channel that was not ready is: it was unmasked, or the controller switched on. From
 * the guest's access. NULL: the device leaves. false: somebody has that channel, or there is none.
 */
typedef void (*IsaDmaReadyFn)(void *opaque);
bool isa_dma_attach(DeviceState *dma, unsigned channel, IsaDmaReadyFn ready, void *opaque);
void isa_dma_detach(DeviceState *dma, unsigned channel);
/* The channel's request line: shows in the status register. */
void isa_dma_set_request(DeviceState *dma, unsigned channel, bool level);
bool isa_dma_ready(DeviceState *dma, unsigned channel); /* unmasked, and the controller is on */

typedef enum { ISA_DMA_VERIFY, ISA_DMA_TO_MEMORY, ISA_DMA_FROM_MEMORY } IsaDmaDirection;
IsaDmaDirection isa_dma_direction(DeviceState *dma, unsigned channel); /* as the guest set it */

/* Moves up to len bytes (even for 16-bit channels) and returns how many. Fewer than len: the count
 * ran out (*terminal is set, and the channel masked unless it starts again by itself) or it was not
 * ready (0). A channel that the guest set up for the other direction, or to verify, counts and
 * moves nothing: a read gives `buf` as it was. */
size_t isa_dma_write(DeviceState *dma, unsigned channel, const void *buf, size_t len,
                     bool *terminal); /* device to memory */
size_t isa_dma_read(DeviceState *dma, unsigned channel, void *buf, size_t len,
                    bool *terminal); /* memory to device */

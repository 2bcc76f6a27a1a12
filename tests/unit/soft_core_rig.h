/* A software CPU in flat segments over 8 MiB of RAM and a device behind it. */
#pragma once

#include "engine/accel/soft/soft-priv.h"
#include "engine/core/units.h"

#define RAM  (8 * MiB)
#define MMIO 0x800000 /* a page of device registers behind RAM */

extern MemoryRegion root, ram;
extern AddressSpace *as;
extern SoftCpu *c;
extern uint8_t *mem;
extern uint64_t mmio_last; /* written to the device */
extern unsigned mmio_calls;

/* 32-bit protected mode without paging: what a test starts with. */
void setup(void);
void teardown(void);
void flat_segments(uint8_t code_size, bool long_mode, uint8_t cpl);
void put32(uint64_t at, uint32_t v);
void put64(uint64_t at, uint64_t v);
uint64_t get64(uint64_t at);
/* -1: no fault; otherwise the vector, its error code in c->raised. */
int try_access(uint64_t linear, unsigned len, unsigned access, uint64_t *value);

/*
 * The local APICs of a machine: what the device "apic" offers besides its lines and its page of
 * registers. Processors use the same through VCpu.apic_ops. Engine lock.
 */
#pragma once

#include "engine/cpu/cpu-apic.h"
#include "engine/cpu/pc-chips.h"
#include "engine/hw/core/device.h"

#define TYPE_APIC "apic"

typedef struct LocalApic LocalApic;

/* That of a vCPU; NULL: the machine has no such. Lives as long as the device. */
LocalApic *apic_of_cpu(DeviceState *dev, unsigned cpu);

bool apic_has_interrupt(LocalApic *a);
int apic_get_interrupt(LocalApic *a);
bool apic_has_requests(LocalApic *a);
unsigned apic_take_requests(LocalApic *a, uint8_t *sipi_vector);
bool apic_rdmsr(LocalApic *a, uint32_t index, uint64_t *value);
bool apic_wrmsr(LocalApic *a, uint32_t index, uint64_t value);
uint8_t apic_get_cr8(LocalApic *a);
void apic_set_cr8(LocalApic *a, uint8_t value);
void apic_set_tsc(LocalApic *a, uint32_t khz, uint64_t offset);

/* A message as from a device, by address and data (SDM 3A 11.11). */
void apic_message(DeviceState *dev, uint64_t addr, uint32_t data);

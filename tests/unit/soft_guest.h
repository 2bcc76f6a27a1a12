/*
 * A software CPU over tables made by hand in a small memory, in any mode. Every handler is a HLT at
 * an address that names its vector.
 */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/accel/soft/soft-priv.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define RAM (1 * MiB)
enum {
    GDT = 0x1000,
    IDT = 0x2000,
    TSS = 0x3000,
    TSS_B = 0x3400,
    LDT = 0x3800,
    CODE = 0x8000,
    HANDLER = 0x9000, /* + 16 * vector */
    STACK0 = 0x20000,
    STACK3 = 0x30000,
    PAGES = 0x40000,
};
enum { /* selectors */
       CS0 = 0x08,
       DS0 = 0x10,
       CS3 = 0x1b,
       DS3 = 0x23,
       SEL_TSS = 0x28,
       SEL_TSS_B = 0x38,
       SEL_LDT = 0x48,
       CS64 = 0x58,
       CS64_3 = 0x63,
       ABSENT = 0x68,
       READ_ONLY = 0x70,
       GATE = 0x78, /* two slots */
       CONFORMING = 0x88,
       CS16 = 0x90,
       DS16 = 0x98,
       SMALL = 0xa0, /* data, limit 0xff */
       TASK_GATE = 0xa8,
       EXEC_ONLY = 0xb0,
       GDT_END = 0xc0,
};
typedef enum { REAL, PROT16, PROT32, V86, LONG, COMPAT, MODES } Mode;

extern AddressSpace *as;
extern SoftCpu *c;
extern uint8_t *mem;
extern Mode mode;
extern SoftStop stopped;

void put(uint64_t at, uint64_t v, unsigned len);
uint64_t get(uint64_t at, unsigned len);
void segment(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags);
uint64_t gate(unsigned selector, uint32_t offset, unsigned access, unsigned low);
void idt_entry(unsigned vector, unsigned selector, uint32_t offset, unsigned access);
bool is_long(void);
void tables(void);
void load(unsigned seg, uint16_t selector);
void identity_pages(void);
void begin(Mode m, unsigned cpl);
SoftStop go(void);
void code(const void *bytes, size_t n);
int handler(void);
uint64_t top(unsigned slot, unsigned size);
unsigned slot_size(void);
void guest_setup(void);
void guest_teardown(void);
void expect_fault(unsigned vector, uint32_t error);
#define RUN(...)                                         \
    do {                                                 \
        static const uint8_t bytes_[] = { __VA_ARGS__ }; \
        code(bytes_, sizeof(bytes_));                    \
        stopped = go();                                  \
    } while (0)

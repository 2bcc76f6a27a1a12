/* See soft_core_rig.h. */
#include "tests/unit/soft_core_rig.h"

#include <check.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "engine/accel/soft/soft-translate.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"

MemoryRegion root, ram;
AddressSpace *as;
SoftCpu *c;
uint8_t *mem;
uint64_t mmio_last;
unsigned mmio_calls;
static MemoryRegion mmio;

static uint64_t mmio_read(void *opaque, hwaddr addr, unsigned size)
{
    mmio_calls++;
    return 0x1122334455667788 >> (8 * (addr & 7));
}

static void mmio_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    mmio_calls++;
    mmio_last = data;
}

static const MemoryRegionOps mmio_ops = {
    .read = mmio_read, .write = mmio_write, .valid = { 1, 8, true, NULL }, .impl = { 1, 8, true }
};

void flat_segments(uint8_t code_size, bool long_mode, uint8_t cpl)
{
    for (unsigned i = X86_ES; i <= X86_GS; i++) {
        x86_segment_set_flat(&c->seg[i], (uint16_t)(8 | cpl), i == X86_CS, long_mode, cpl);
    }
    c->cpl = cpl;
    c->mode = (SoftMode){
        .code_size = code_size, .stack_size = 2, .long_mode = long_mode, .cpl = cpl
    };
    c->flat_segments = true;
    c->flags = 2;
    soft_tlb_flush(c, true);
    soft_tlb_select(c);
}

void setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    ck_assert(memory_region_init_ram(&ram, NULL, "ram", RAM, NULL));
    memory_region_init_io(&mmio, NULL, &mmio_ops, NULL, "probe", 0x1000);
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_add_subregion(&root, MMIO, &mmio);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    mem = memory_region_get_ram_ptr(&ram);
    mmio_calls = 0;
    c = soft_cpu_new(NULL);
    c->memory = as;
    if (getenv("VMLUA_TRANSLATE")) {
        c->translator = soft_translator_new(0);
    }
    c->cr0 = CR0_PE;
    c->cr4 = c->efer = 0;
    flat_segments(2, false, 0);
}

void teardown(void)
{
    soft_cpu_free(c);
    address_space_free(as);
    memory_region_del_subregion(&root, &ram);
    memory_region_del_subregion(&root, &mmio);
    memory_region_finalize(&ram);
    memory_region_finalize(&mmio);
    memory_region_finalize(&root);
    memory_reclaim();
}

void put32(uint64_t at, uint32_t v)
{
    memcpy(mem + at, &v, 4);
}

void put64(uint64_t at, uint64_t v)
{
    memcpy(mem + at, &v, 8);
}

uint64_t get64(uint64_t at)
{
    uint64_t v;

    memcpy(&v, mem + at, 8);
    return v;
}

int try_access(uint64_t linear, unsigned len, unsigned access, uint64_t *value)
{
    volatile int vector = -1;

    c->insn = NULL;
    if (sigsetjmp(c->escape, 0)) {
        return c->raised.vector;
    }
    if (access == SOFT_READ) {
        *value = soft_load(c, linear, len);
    } else if (access == SOFT_WRITE) {
        soft_store(c, linear, *value, len);
    } else {
        soft_rcu_enter(c);
        c->rip = linear;
        if (sigsetjmp(c->escape, 0)) {
            vector = c->raised.vector;
        } else {
            soft_block_lookup(c);
        }
        soft_rcu_leave(c);
    }
    return vector;
}

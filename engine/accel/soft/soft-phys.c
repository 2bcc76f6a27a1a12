/*
 * Physical memory of the software CPU: RAM by pointer, everything else as an exit that hooks and
 * devices see; and the RCU section that the guest runs in.
 *
 * The run loop holds a section so that host addresses in the TLB stay good without a lock. Around
 * an exit it is left (a device may change memory, and whoever holds the engine lock may wait for a
 * grace period); coming back the CPU compares the view's generation and forgets its TLB when memory
 * changed.
 */
#include <sched.h>
#include <string.h>

#include "engine/accel/soft/soft-accel.h"
#include "engine/accel/soft/soft-icount.h"
#include "engine/accel/soft/soft-mmu.h"
#include "engine/core/rcu.h"

/* ---- the section ------------------------------------------------------------------------- */

static void soft_catch_up(SoftCpu *c)
{
    uint32_t attention = __atomic_load_n(&c->attention, __ATOMIC_SEQ_CST);
    unsigned long generation = c->memory ? address_space_flat_view(c->memory)->generation : 0;

    if (c->accel) {
        uint64_t mask = __atomic_load_n(&c->accel->a20_closed, __ATOMIC_SEQ_CST)
                            ? ~(UINT64_C(1) << 20)
                            : ~UINT64_C(0);

        if (mask != c->a20_mask) {
            c->a20_mask = mask;
            soft_tlb_flush(c, true);
        }
    }
    if (generation != c->view_generation) {
        c->view_generation = generation;
        soft_tlb_flush(c, true);
    }
    if (attention & (SOFT_ATTN_SHOOT | SOFT_ATTN_SYNC)) {
        soft_tlb_drop_writes(c);
        __atomic_fetch_and(&c->attention, ~(uint32_t)(SOFT_ATTN_SHOOT | SOFT_ATTN_SYNC),
                           __ATOMIC_SEQ_CST);
    }
}

void soft_rcu_enter(SoftCpu *c)
{
    for (;;) {
        rcu_enter();
        c->in_rcu = true;
        /* Either who asks us to drop entries, or to stand still, sees that we run and waits, or we
         * see the request. */
        __atomic_store_n(&c->running, true, __ATOMIC_SEQ_CST);
        if (!c->accel || !__atomic_load_n(&c->accel->alone, __ATOMIC_SEQ_CST) || c->exclusive) {
            break;
        }
        soft_rcu_leave(c);
        pthread_mutex_lock(&c->accel->exclusive);
        pthread_mutex_unlock(&c->accel->exclusive);
    }
    soft_catch_up(c);
}

void soft_rcu_leave(SoftCpu *c)
{
    __atomic_store_n(&c->running, false, __ATOMIC_SEQ_CST);
    c->in_rcu = false;
    rcu_leave();
}

/* ---- alone --------------------------------------------------------------------------------- */

static void wait_standing(SoftCpu *other)
{
    /* VIEW makes it leave the section and come back, where it finds that it has to wait. */
    soft_attention(other, SOFT_ATTN_VIEW);
    for (unsigned n = 0; __atomic_load_n(&other->running, __ATOMIC_SEQ_CST); n++) {
        if (n < 1000) {
            __builtin_ia32_pause();
        } else {
            sched_yield();
        }
    }
}

void soft_exclusive_begin(SoftCpu *c)
{
    SoftAccel *a = c->accel;
    bool was_in = c->in_rcu;

    if (!a || c->exclusive) {
        return;
    }
    if (was_in) {
        soft_rcu_leave(c);
    }
    pthread_mutex_lock(&a->exclusive);
    c->exclusive = true;
    __atomic_store_n(&a->alone, c, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < a->parent.config.max_cpus; i++) {
        SoftCpu *other;

        rcu_enter();
        other = rcu_load(&a->cpus[i]);
        if (other && other != c) {
            wait_standing(other);
        }
        rcu_leave();
    }
    if (was_in) {
        soft_rcu_enter(c);
    }
}

void soft_exclusive_end(SoftCpu *c)
{
    if (c->exclusive) {
        __atomic_store_n(&c->accel->alone, NULL, __ATOMIC_SEQ_CST);
        c->exclusive = false;
        pthread_mutex_unlock(&c->accel->exclusive);
    }
}

/* ---- telling the others ---------------------------------------------------------------------- */

/* Attention of this kind is paid in the middle of a wait too. */
static void serve_shoot(SoftCpu *c)
{
    if (__atomic_load_n(&c->attention, __ATOMIC_SEQ_CST) & SOFT_ATTN_SHOOT) {
        soft_catch_up(c);
    }
}

void soft_shoot_writers(SoftCpu *c)
{
    SoftAccel *a = c->accel;

    soft_tlb_drop_writes(c);
    if (!a) {
        return;
    }
    for (unsigned i = 0; i < a->parent.config.max_cpus; i++) {
        SoftCpu *other = rcu_load(&a->cpus[i]);

        if (other && other != c) {
            soft_attention(other, SOFT_ATTN_SHOOT);
        }
    }
    for (unsigned i = 0; i < a->parent.config.max_cpus; i++) {
        SoftCpu *other = rcu_load(&a->cpus[i]);

        for (unsigned n = 0; other && other != c; n++) {
            if (!__atomic_load_n(&other->running, __ATOMIC_SEQ_CST) ||
                !(__atomic_load_n(&other->attention, __ATOMIC_SEQ_CST) & SOFT_ATTN_SHOOT)) {
                break;
            }
            serve_shoot(c); /* it may be waiting for us */
            if (n < 1000) {
                __builtin_ia32_pause();
            } else {
                sched_yield();
            }
        }
    }
}

/* ---- exits ------------------------------------------------------------------------------- */

bool soft_offer_exit(SoftCpu *c)
{
    VCpu *cpu = c->vcpu;
    bool was_in = c->in_rcu, more;

    if (!cpu) {
        return false;
    }
    if (was_in) {
        soft_rcu_leave(c);
    }
    if (c->accel && c->accel->icount) {
        soft_icount_publish(c);
    }
    /* Several accesses of one instruction: what a hook set stays until the state is put back. */
    cpu->state_valid &= cpu->state_dirty;
    more = cpu_handle_exit(cpu);
    if (was_in) {
        soft_rcu_enter(c);
    }
    if (!more || cpu->exit_modified || cpu->state_dirty) {
        soft_attention(c, SOFT_ATTN_KICK);
    }
    if (__atomic_load_n(&c->attention, __ATOMIC_RELAXED)) {
        soft_cut_block(c);
    }
    return true;
}

static uint64_t ones(unsigned len)
{
    return ~UINT64_C(0) >> (64 - 8 * len);
}

static uint64_t io_access(SoftCpu *c, uint64_t paddr, uint64_t value, unsigned len, bool is_write)
{
    soft_need_exit(c);
    if (c->vcpu) {
        cpu_exit_set_access(&c->vcpu->exit, CPU_EXIT_MMIO, is_write, len, paddr, value);
        soft_offer_exit(c);
        return c->vcpu->exit.value & ones(len);
    }
    if (!c->memory) {
        return ones(len);
    }
    bool was_in = c->in_rcu;
    if (was_in) {
        soft_rcu_leave(c);
    }
    address_space_access(c->memory, NULL, paddr, MEMTXATTRS_NONE, &value, len, is_write);
    if (was_in) {
        soft_rcu_enter(c);
    }
    return value & ones(len);
}

/* In pieces of sizes that devices know. */
static uint64_t io_split(SoftCpu *c, uint64_t paddr, uint64_t value, unsigned len, bool is_write)
{
    uint64_t out = 0;

    for (unsigned at = 0; at < len;) {
        unsigned rest = len - at, n = rest >= 8 ? 8 : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;

        out |= io_access(c, paddr + at, value >> (8 * at), n, is_write) << (8 * at);
        at += n;
    }
    return out;
}

uint32_t soft_port_access(SoftCpu *c, uint16_t port, uint32_t value, unsigned len, bool is_write)
{
    uint64_t v = value;

    soft_need_exit(c);
    if (c->vcpu) {
        cpu_exit_set_access(&c->vcpu->exit, CPU_EXIT_PIO, is_write, len, port, value);
        soft_offer_exit(c);
        return (uint32_t)(c->vcpu->exit.value & ones(len));
    }
    if (!c->io) {
        return (uint32_t)ones(len);
    }
    bool was_in = c->in_rcu;
    if (was_in) {
        soft_rcu_leave(c);
    }
    address_space_access(c->io, &c->io_cache, port, MEMTXATTRS_NONE, &v, len, is_write);
    if (was_in) {
        soft_rcu_enter(c);
    }
    return (uint32_t)(v & ones(len));
}

/* ---- RAM --------------------------------------------------------------------------------- */

/* In a section. */
static const FlatRange *find_range(SoftCpu *c, uint64_t paddr)
{
    const FlatView *view;
    const FlatRange *r = c->memory_cache.range;

    if (!c->memory) {
        return NULL;
    }
    view = address_space_flat_view(c->memory);
    if (c->memory_cache.generation != view->generation || !r || paddr < r->addr ||
        paddr > r->last) {
        r = flat_view_find(view, paddr);
        c->memory_cache = (MemoryCache){ view->generation, r };
    }
    return r;
}

static bool range_direct(const FlatRange *r, bool is_write)
{
    if (!r->ram) {
        return false;
    }
    if (r->kind == MEMORY_ROM_DEVICE) {
        return !is_write && r->romd;
    }
    return !is_write || !r->readonly;
}

/* ---- many accesses as one exit --------------------------------------------------------------- */

/* A hook on one of them may want the guest to stop right behind it. */
static bool string_hooked(const VCpu *cpu, EventSource source, uint64_t addr, unsigned step,
                          const uint8_t *data, unsigned len, uint32_t count, bool is_write)
{
    if (event_hub_armed(cpu->events, EVENT_EXIT)) {
        return true;
    }
    if (!event_hub_armed(cpu->events, source)) {
        return false;
    }
    for (uint32_t n = 0; n < count; n++) {
        uint64_t v = is_write ? soft_host_load(data + (size_t)n * len, len) : 0;

        if (event_hub_wants(cpu->events, source, addr + (uint64_t)n * step, len, is_write, v)) {
            return true;
        }
    }
    return false;
}

static void offer_string(SoftCpu *c, CpuExitKind kind, bool is_write, uint64_t addr, void *data,
                         unsigned len, uint32_t count)
{
    VCpu *cpu = c->vcpu;

    soft_need_exit(c);
    cpu_exit_set_access(&cpu->exit, kind, is_write, len, addr, 0);
    cpu->exit.count = count;
    cpu->exit.data = data;
    soft_offer_exit(c);
}

bool soft_port_string(SoftCpu *c, uint16_t port, void *data, unsigned len, uint32_t count,
                      bool is_write)
{
    VCpu *cpu = c->vcpu;

    if (!cpu || (c->dr7 & 0xff) ||
        string_hooked(cpu, EVENT_PIO, port, 0, data, len, count, is_write)) {
        return false;
    }
    offer_string(c, CPU_EXIT_PIO, is_write, port, data, len, count);
    return true;
}

bool soft_mmio_string(SoftCpu *c, uint64_t paddr, void *data, unsigned len, uint32_t count)
{
    VCpu *cpu = c->vcpu;
    const FlatRange *r = c->in_rcu ? find_range(c, paddr) : NULL;

    if (!cpu || !r || range_direct(r, true) || r->last - paddr < (uint64_t)count * len - 1 ||
        string_hooked(cpu, EVENT_MMIO, paddr, len, data, len, count, true)) {
        return false;
    }
    offer_string(c, CPU_EXIT_MMIO, true, paddr, data, len, count);
    return true;
}

uint8_t *soft_phys_page(SoftCpu *c, uint64_t paddr, unsigned access, RamBlock **ram)
{
    const FlatRange *r = find_range(c, paddr);
    uint8_t *host;

    if (!r || !range_direct(r, access == SOFT_WRITE) || r->addr > paddr ||
        r->last - paddr < SOFT_PAGE - 1) {
        return NULL;
    }
    host = r->ram->host + r->offset + (paddr - r->addr);
    if ((uintptr_t)host & (SOFT_PAGE - 1)) {
        return NULL; /* RAM mapped at an odd offset: code pages are counted in the block's */
    }
    *ram = r->ram;
    return host;
}

/* Host address of len bytes at paddr when they are all in one piece of RAM. */
static uint8_t *phys_host(SoftCpu *c, uint64_t paddr, unsigned len, bool is_write, RamBlock **ram)
{
    const FlatRange *r = find_range(c, paddr);

    if (!r || !range_direct(r, is_write) || r->last - paddr < len - 1) {
        return NULL;
    }
    *ram = r->ram;
    return r->ram->host + r->offset + (paddr - r->addr);
}

uint64_t soft_phys_load(SoftCpu *c, uint64_t paddr, unsigned len)
{
    bool was_in = c->in_rcu;
    RamBlock *ram;
    const uint8_t *p;
    uint64_t v = 0;

    if (!was_in) {
        rcu_enter();
    }
    p = phys_host(c, paddr, len, false, &ram);
    if (p) {
        v = soft_host_load(p, len);
    }
    if (!was_in) {
        rcu_leave();
    }
    return p ? v : io_split(c, paddr, 0, len, false);
}

void soft_phys_store(SoftCpu *c, uint64_t paddr, uint64_t value, unsigned len)
{
    bool was_in = c->in_rcu;
    RamBlock *ram;
    uint8_t *p;

    if (!was_in) {
        rcu_enter();
    }
    p = phys_host(c, paddr, len, true, &ram);
    if (p) {
        soft_host_store(p, value, len);
        ram_block_set_dirty_clients(ram, (uint64_t)(p - ram->host), len, 7);
        if (ram_block_code_written(ram, (uint64_t)(p - ram->host), len)) {
            soft_cut_block(c);
        }
    }
    if (!was_in) {
        rcu_leave();
    }
    if (!p) {
        io_split(c, paddr, value, len, true);
    }
}

bool soft_phys_or(SoftCpu *c, uint64_t paddr, uint64_t old, uint64_t new_, unsigned len)
{
    bool was_in = c->in_rcu, same = true;
    RamBlock *ram;
    uint8_t *p;

    if (!was_in) {
        rcu_enter();
    }
    p = phys_host(c, paddr, len, true, &ram);
    if (p) {
        /* Entries are aligned to their size in any table that CR3 or an entry can name. */
        if (len == 4) {
            uint32_t expected = (uint32_t)old;

            same = __atomic_compare_exchange_n((uint32_t *)(void *)p, &expected, (uint32_t)new_,
                                               false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        } else {
            same = __atomic_compare_exchange_n((uint64_t *)(void *)p, &old, new_, false,
                                               __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        }
        ram_block_set_dirty_clients(ram, (uint64_t)(p - ram->host), len, 7);
        if (ram_block_code_written(ram, (uint64_t)(p - ram->host), len)) {
            soft_cut_block(c);
        }
    }
    if (!was_in) {
        rcu_leave();
    }
    if (!p) {
        io_split(c, paddr, new_, len, true); /* tables in ROM stay as they are */
    }
    return same;
}

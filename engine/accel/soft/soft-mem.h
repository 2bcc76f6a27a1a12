/*
 * Memory as handlers see it: the paths that hit in the software TLB, inline. Included by
 * soft-priv.h.
 */
#pragma once

#include <string.h>

#include "engine/accel/soft/soft-priv.h"

#define SOFT_LIKELY(x) __builtin_expect(!!(x), 1)

uint64_t soft_load_slow(SoftCpu *c, uint64_t linear, unsigned len, bool implicit);
void soft_store_slow(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len, bool implicit);
void *soft_host_slow(SoftCpu *c, uint64_t linear, unsigned len, unsigned access);
uint64_t soft_linear_slow(SoftCpu *c, const SoftInsn *i, uint64_t offset, unsigned len,
                          bool is_write);

/* A page holds the access and its entry is there: the tag is compared with the page of the last
 * byte, which no entry at the first one's index can have when they differ. */
static inline uint8_t *soft_tlb_hit(const SoftTlbEntry *set, uint64_t linear, unsigned len)
{
    const SoftTlbEntry *e = &set[(linear >> 12) & (SOFT_TLB_SIZE - 1)];

    if (SOFT_LIKELY(e->tag == ((linear + (len - 1)) & ~(SOFT_PAGE - 1)))) {
        return (uint8_t *)(linear + e->host);
    }
    return NULL;
}

/* Single accesses when aligned, as the guest expects; the host allows the unaligned ones too. */
typedef struct {
    uint16_t v;
} __attribute__((packed, may_alias)) SoftU16;
typedef struct {
    uint32_t v;
} __attribute__((packed, may_alias)) SoftU32;
typedef struct {
    uint64_t v;
} __attribute__((packed, may_alias)) SoftU64;

static inline uint64_t soft_host_load(const void *p, unsigned len)
{
    uint64_t v = 0;

    switch (len) {
    case 1:
        return *(const volatile uint8_t *)p;
    case 2:
        return ((const volatile SoftU16 *)p)->v;
    case 4:
        return ((const volatile SoftU32 *)p)->v;
    case 8:
        return ((const volatile SoftU64 *)p)->v;
    default:
        memcpy(&v, p, len);
        return v;
    }
}

static inline void soft_host_store(void *p, uint64_t v, unsigned len)
{
    switch (len) {
    case 1:
        *(volatile uint8_t *)p = (uint8_t)v;
        break;
    case 2:
        ((volatile SoftU16 *)p)->v = (uint16_t)v;
        break;
    case 4:
        ((volatile SoftU32 *)p)->v = (uint32_t)v;
        break;
    case 8:
        ((volatile SoftU64 *)p)->v = v;
        break;
    default:
        memcpy(p, &v, len);
        break;
    }
}

/* Accesses at a linear address with the CPL's rights. Values are zero-extended; `len` is 1..8. May
 * leave by soft_raise. */
static inline uint64_t soft_load(SoftCpu *c, uint64_t linear, unsigned len)
{
    const uint8_t *p = soft_tlb_hit(c->tlb_now[SOFT_READ], linear, len);

    return SOFT_LIKELY(p) ? soft_host_load(p, len) : soft_load_slow(c, linear, len, false);
}

static inline void soft_store(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len)
{
    uint8_t *p = soft_tlb_hit(c->tlb_now[SOFT_WRITE], linear, len);

    if (SOFT_LIKELY(p)) {
        soft_host_store(p, value, len);
    } else {
        soft_store_slow(c, linear, value, len, false);
    }
}

static inline void *soft_host(SoftCpu *c, uint64_t linear, unsigned len, unsigned access)
{
    uint8_t *p = soft_tlb_hit(c->tlb_now[access], linear, len);

    return SOFT_LIKELY(p) ? p : soft_host_slow(c, linear, len, access);
}

/* Offset of a memory operand in its segment, of the address size's width. */
static inline uint64_t soft_offset(const SoftCpu *c, const SoftInsn *i)
{
    uint64_t a = c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (uint64_t)i->disp;

    if (__builtin_expect(i->flags & SOFT_I_RIP_RELATIVE, 0)) {
        a += soft_next_rip(c, i);
    }
    return i->addr_size == 3 ? a : i->addr_size == 2 ? (uint32_t)a : (uint16_t)a;
}

/* The paths of operands that are not plain. */
static __attribute__((noinline, unused)) uint64_t soft_linear_segment(SoftCpu *c, const SoftInsn *i,
                                                                      unsigned len, bool is_write)
{
    uint64_t a = soft_offset(c, i);

    /* Whether CS may be read, and that it may not be written, is looked at the slow way; so is an
     * access beyond 4 GiB. */
    if (c->flat_segments && i->seg <= X86_DS && (i->seg != X86_CS || c->mode.long_mode) &&
        (c->mode.long_mode || a + len <= UINT64_C(1) << 32)) {
        return a;
    }
    return soft_linear_slow(c, i, a, len, is_write);
}
/* Linear address of a memory operand: segment base, limit and type checks (#GP, #SS), address size.
 * `len`: bytes accessed. */
static inline __attribute__((always_inline)) uint64_t soft_linear(SoftCpu *c, const SoftInsn *i,
                                                                  unsigned len, bool is_write)
{
    if (SOFT_LIKELY(i->flags & SOFT_I_PLAIN)) {
        return c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (uint64_t)i->disp;
    }
    if (SOFT_LIKELY((i->flags & SOFT_I_FLAT32) && c->flat_segments)) {
        uint64_t a = (uint32_t)(c->gpr[i->base] + (c->gpr[i->index] << i->scale) +
                                (uint64_t)i->disp);

        if (SOFT_LIKELY(a + len <= UINT64_C(1) << 32)) {
            return a;
        }
    }
    return soft_linear_segment(c, i, len, is_write);
}
/* The same for an offset that an instruction implies: stack, strings, XLAT. */
uint64_t soft_segment_linear(SoftCpu *c, unsigned seg, uint64_t offset, unsigned len,
                             bool is_write);

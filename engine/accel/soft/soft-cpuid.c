/*
 * CPUID: what this CPU implements, no bit more. Vector features are those that the host has too: it
 * does their arithmetic.
 */
#include <pthread.h>
#include <string.h>

#include "engine/accel/soft/soft-sys.h"
#include "engine/accel/soft/soft-thunk.h"

#define BIT(n) (1u << (n))

/* Leaf 1. */
#define ECX1_INTEGER                                                                              \
    (BIT(13) /* CMPXCHG16B */ | BIT(17) /* PCID */ | BIT(21) /* x2APIC */ | BIT(22) /* MOVBE */ | \
     BIT(23) /* POPCNT */ | BIT(24) /* TSC deadline */ | BIT(26) /* XSAVE */ |                    \
     BIT(30) /* RDRAND */ | BIT(31) /* hypervisor */)
#define EDX1                                                                                       \
    (BIT(0) /* FPU */ | BIT(2) /* DE */ | BIT(3) /* PSE */ | BIT(4) /* TSC */ | BIT(5) /* MSR */ | \
     BIT(6) /* PAE */ | BIT(7) /* MCE */ | BIT(8) /* CX8 */ | BIT(9) /* APIC */ |                  \
     BIT(11) /* SEP */ | BIT(12) /* MTRR */ | BIT(13) /* PGE */ | BIT(14) /* MCA */ |              \
     BIT(15) /* CMOV */ | BIT(16) /* PAT */ | BIT(17) /* PSE-36 */ | BIT(19) /* CLFSH */ |         \
     BIT(24) /* FXSR */)
/* Leaf 7. */
#define EBX7_INTEGER                                                                           \
    (BIT(0) /* FSGSBASE */ | BIT(1) /* TSC_ADJUST */ | BIT(3) /* BMI1 */ | BIT(7) /* SMEP */ | \
     BIT(8) /* BMI2 */ | BIT(9) /* ERMS */ | BIT(10) /* INVPCID */ |                           \
     BIT(13) /* no FPU CS and DS */ | BIT(18) /* RDSEED */ | BIT(19) /* ADX */ |               \
     BIT(20) /* SMAP */ | BIT(23) /* CLFLUSHOPT */ | BIT(24) /* CLWB */)
#define ECX7 (BIT(2) /* UMIP */ | BIT(22) /* RDPID */)
/* Leaf 0x80000001. */
#define ECX8 (BIT(0) /* LAHF in 64-bit mode */ | BIT(5) /* LZCNT */ | BIT(8) /* PREFETCHW */)
#define EDX8                                                                                       \
    (BIT(11) /* SYSCALL */ | BIT(20) /* NX */ | BIT(26) /* 1 GiB pages */ | BIT(27) /* RDTSCP */ | \
     BIT(29) /* long mode */)

#define SIGNATURE 0x000306a9u /* family 6: what operating systems have seen most */
#define PHYS_BITS 40u
/* The time stamp counter, and the local APICs' timers: Linux takes the latter from the former. */
#define CRYSTAL_HZ 1000000000u
#define TSC_RATIO  1u

/* What the host's CPU does for the guest's. */
static const struct {
    unsigned needs; /* HostFeature, all of them */
    uint8_t leaf;
    CpuidReg reg;
    uint8_t bit;
} host_features[] = {
    { HOST_MMX, 1, CPUID_EDX, 23 },   { HOST_SSE2, 1, CPUID_EDX, 25 }, /* SSE */
    { HOST_SSE2, 1, CPUID_EDX, 26 },  { HOST_SSE3, 1, CPUID_ECX, 0 },
    { HOST_PCLMUL, 1, CPUID_ECX, 1 }, { HOST_SSSE3, 1, CPUID_ECX, 9 },
    { HOST_FMA, 1, CPUID_ECX, 12 },   { HOST_SSE41, 1, CPUID_ECX, 19 },
    { HOST_SSE42, 1, CPUID_ECX, 20 }, { HOST_AES, 1, CPUID_ECX, 25 },
    { HOST_AVX, 1, CPUID_ECX, 28 },   { HOST_F16C, 1, CPUID_ECX, 29 },
    { HOST_AVX2, 7, CPUID_EBX, 5 },   { HOST_SHA, 7, CPUID_EBX, 29 },
};

static void set(CpuidPolicy *p, uint32_t function, uint32_t index, bool has_index, uint32_t a,
                uint32_t b, uint32_t c, uint32_t d)
{
    const CpuidEntry e = { function, index, has_index, a, b, c, d };

    cpuid_policy_set(p, &e, NULL);
}

static void set_text(CpuidPolicy *p)
{
    char text[48] = "vmlua software CPU";
    uint32_t w[12];

    memcpy(w, text, sizeof(w));
    for (unsigned i = 0; i < 3; i++) {
        set(p, 0x80000002 + i, 0, false, w[i * 4], w[i * 4 + 1], w[i * 4 + 2], w[i * 4 + 3]);
    }
}

CpuidPolicy *soft_supported_cpuid(void)
{
    CpuidPolicy *p = cpuid_policy_new();
    unsigned host = soft_thunk_host_features();
    uint32_t c1 = 0, d1 = 0, b7 = 0;
    bool host_avx = host & HOST_AVX;

    for (unsigned i = 0; i < G_N_ELEMENTS(host_features); i++) {
        uint32_t bit = BIT(host_features[i].bit);

        if ((host & host_features[i].needs) != host_features[i].needs) {
            continue;
        }
        if (host_features[i].leaf == 7) {
            b7 |= bit;
        } else if (host_features[i].reg == CPUID_ECX) {
            c1 |= bit;
        } else {
            d1 |= bit;
        }
    }
    /* "GenuineIntel": the behaviour in corners is Intel's. */
    set(p, 0, 0, false, 0x15, 0x756e6547, 0x6c65746e, 0x49656e69);
    set(p, 1, 0, false, SIGNATURE, 0x00010800, ECX1_INTEGER | c1, EDX1 | d1);
    set(p, 2, 0, false, 0x00feff01, 0, 0, 0xf0); /* caches: leaf 4; TLBs: unknown */
    /* Level 1 data and instruction, level 2: sizes that software may tune to. */
    set(p, 4, 0, true, 0x00000121, 0x01c0003f, 0x3f, 1);
    set(p, 4, 1, true, 0x00000122, 0x01c0003f, 0x3f, 1);
    set(p, 4, 2, true, 0x00000143, 0x03c0003f, 0x3ff, 1);
    set(p, 4, 3, true, 0, 0, 0, 0);
    set(p, 6, 0, false, BIT(2) /* the APIC timer never stops */, 0, 0, 0);
    set(p, 7, 0, true, 0, EBX7_INTEGER | b7, ECX7, 0);
    set(p, 0xd, 0, true, host_avx ? 7 : 3, 576, host_avx ? 832 : 576, 0);
    set(p, 0xd, 1, true, BIT(0) /* XSAVEOPT */ | BIT(1) /* XSAVEC */ | BIT(2) /* XGETBV 1 */, 0, 0,
        0);
    if (host_avx) {
        set(p, 0xd, 2, true, 256, 576, 0, 0);
    }
    set(p, 0x15, 0, false, 1, TSC_RATIO, CRYSTAL_HZ, 0);
    set(p, 0x40000000, 0, false, 0x40000000, 0x756c6d76, 0x6d762061, 0x2061756c);
    set(p, 0x80000000, 0, false, 0x80000008, 0, 0, 0);
    set(p, 0x80000001, 0, false, 0, 0, ECX8, EDX8);
    set_text(p);
    set(p, 0x80000006, 0, false, 0, 0, 0x01006040, 0);
    set(p, 0x80000007, 0, false, 0, 0, 0, BIT(8) /* invariant TSC */);
    set(p, 0x80000008, 0, false, PHYS_BITS | 48 << 8, 0, 0, 0);
    return p;
}

static CpuidPolicy *fallback;
static void make_fallback(void)
{
    fallback = soft_supported_cpuid();
}

/* What follows the CPU's state rather than the policy. */
void soft_cpuid(SoftCpu *c, uint32_t leaf, uint32_t index, uint32_t out[4])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const CpuidPolicy *p = c->vcpu ? c->vcpu->cpuid : NULL;

    if (!p) {
        pthread_once(&once, make_fallback);
        p = fallback;
    }
    cpuid_policy_query(p, leaf, index, out);
    if (leaf == 1) {
        out[2] &= ~BIT(27);
        if (c->cr4 & CR4_OSXSAVE) {
            out[2] |= out[2] & BIT(26) ? BIT(27) : 0;
        }
        if (!(c->apic_base & BIT(11))) {
            out[3] &= ~BIT(9);
        }
        if (!c->apic && !c->host_msrs) {
            out[2] &= ~(BIT(21) | BIT(24));
        }
    } else if (leaf == 0xd && index == 0) {
        out[1] = c->xcr0 & 4 ? 832 : 576;
    } else if (leaf == 0xd && index == 1) {
        out[1] = c->xcr0 & 4 ? 832 : 576;
    }
}

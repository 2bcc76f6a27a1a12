/* Whether a state fits a CPUID policy. Intel SDM volume 3A, chapter 2; volume 1, chapter 13. */
#include "engine/cpu/x86-check.h"

#include "engine/core/error.h"

typedef struct Need {
    uint8_t bit;
    const char *name;    /* as the manuals call it */
    const char *feature; /* cpuid_feature_find */
} Need;

static const Need cr4_needs[] = {
    { 0, "CR4.VME", "vme" },
    { 1, "CR4.PVI", "vme" },
    { 3, "CR4.DE", "de" },
    { 4, "CR4.PSE", "pse" },
    { 5, "CR4.PAE", "pae" },
    { 7, "CR4.PGE", "pge" },
    { 9, "CR4.OSFXSR", "fxsr" },
    { 10, "CR4.OSXMMEXCPT", "sse" },
    { 11, "CR4.UMIP", "umip" },
    { 12, "CR4.LA57", "la57" },
    { 13, "CR4.VMXE", "vmx" },
    { 14, "CR4.SMXE", "smx" },
    { 16, "CR4.FSGSBASE", "fsgsbase" },
    { 17, "CR4.PCIDE", "pcid" },
    { 18, "CR4.OSXSAVE", "xsave" },
    { 20, "CR4.SMEP", "smep" },
    { 21, "CR4.SMAP", "smap" },
    { 22, "CR4.PKE", "pku" },
    { 23, "CR4.CET", "shstk" },
    { 24, "CR4.PKS", "pks" },
    { 25, "CR4.UINTR", "uintr" },
    { 27, "CR4.LASS", "lass" },
    { 28, "CR4.LAM_SUP", "lam" },
    { 32, "CR4.FRED", "fred" },
};
static const Need efer_needs[] = {
    { 0, "EFER.SCE", "syscall" },      { 8, "EFER.LME", "lm" },          { 11, "EFER.NXE", "nx" },
    { 12, "EFER.SVME", "svm" },        { 14, "EFER.FFXSR", "fxsr_opt" }, { 15, "EFER.TCE", "tce" },
    { 21, "EFER.AIBRSE", "autoibrs" },
};
static const Need xcr0_needs[] = {
    { 1, "XCR0.SSE", "sse" },           { 2, "XCR0.AVX", "avx" },
    { 3, "XCR0.BNDREGS", "mpx" },       { 4, "XCR0.BNDCSR", "mpx" },
    { 5, "XCR0.opmask", "avx512f" },    { 6, "XCR0.ZMM_Hi256", "avx512f" },
    { 7, "XCR0.Hi16_ZMM", "avx512f" },  { 9, "XCR0.PKRU", "pku" },
    { 17, "XCR0.TILECFG", "amx_tile" }, { 18, "XCR0.TILEDATA", "amx_tile" },
};
static const Need base_needs[] = { { 10, "x2APIC mode", "x2apic" } };

static bool check(uint64_t value, const Need *needs, unsigned n, CpuidPolicy *policy,
                  GError **error)
{
    for (unsigned i = 0; i < n; i++) {
        const CpuidFeature *f;

        if (!(value >> needs[i].bit & 1)) {
            continue;
        }
        f = cpuid_feature_find(needs[i].feature);
        if (f && !cpuid_policy_get_feature(policy, f)) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "the saved guest uses %s, and this machine's processor has no '%s'",
                             needs[i].name, needs[i].feature);
        }
    }
    return true;
}

bool x86_state_check(const X86CPUState *s, CpuidPolicy *policy, GError **error)
{
    return check(s->cr4, cr4_needs, G_N_ELEMENTS(cr4_needs), policy, error) &&
           check(s->efer, efer_needs, G_N_ELEMENTS(efer_needs), policy, error) &&
           check(s->xcr0, xcr0_needs, G_N_ELEMENTS(xcr0_needs), policy, error) &&
           check(s->apic_base, base_needs, G_N_ELEMENTS(base_needs), policy, error);
}

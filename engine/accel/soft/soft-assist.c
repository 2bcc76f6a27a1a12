/* See engine/accel/assist.h. Nothing decoded or translated outlives a run: the accelerator's vCPUs
 * change memory unseen by this one. */
#include "engine/accel/assist.h"

#include <Zydis/Zydis.h>
#include <string.h>
#include <x86intrin.h>

#include "engine/accel/soft/soft-priv.h"

#define FAULTS_MAX 16 /* in one go, where no instruction comes to its end */

#define XCR0_OURS UINT64_C(7)

struct SoftAssist {
    SoftCpu *c;
    SoftHostMsrs msrs;
    X86CPUState old; /* up to the FPU's, which is compared by itself */
};

SoftAssist *soft_assist_new(VCpu *cpu, const SoftHostMsrs *msrs, void *opaque)
{
    SoftAssist *a = g_aligned_alloc0(1, sizeof(SoftAssist), 64);
    uint32_t out[4];
    unsigned bits;

    a->c = soft_cpu_new(cpu);
    a->msrs = *msrs;
    a->c->host_msrs = &a->msrs;
    a->c->host_opaque = opaque;
    if (cpu->cpuid) {
        cpuid_policy_query(cpu->cpuid, 0x80000008, 0, out);
        bits = out[0] & 0xff;
        a->c->phys_bits = bits >= 32 && bits <= 52 ? (uint8_t)bits : a->c->phys_bits;
    }
    return a;
}

void soft_assist_free(SoftAssist *a)
{
    if (a) {
        soft_cpu_free(a->c);
        g_aligned_free(a);
    }
}

/* ---- what it is ------------------------------------------------------------------------------ */

static bool decode(const SoftCpu *c, const SoftAssistRun *run, ZydisDecodedInstruction *insn)
{
    ZydisDecoder decoder;
    bool wide = c->mode.code_size == 2;

    if (c->mode.long_mode) {
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    } else {
        ZydisDecoderInit(&decoder,
                         wide ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16,
                         c->mode.stack_size == 2 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
    }
    return run->code_len && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, run->code,
                                                                       run->code_len, insn));
}

static bool saves_extended_state(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
        return true;
    default:
        return false;
    }
}

/* An instruction that the guest may have by its CPUID, and this CPU has not: it would raise #UD. */
static bool is_foreign(const SoftCpu *c, const SoftAssistRun *run,
                       const ZydisDecodedInstruction *insn)
{
    bool vector = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
                  insn->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
                  insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

    if (saves_extended_state(insn->mnemonic) && (c->xcr0 & ~XCR0_OURS)) {
        return true;
    }
    return (vector || saves_extended_state(insn->mnemonic)) &&
           !soft_decode_known(&c->mode, run->code, run->code_len);
}

/* ---- running --------------------------------------------------------------------------------- */

static void load(SoftCpu *c, const SoftAssistRun *run)
{
    const X86CPUState *s = run->state;

    c->attention = 0;
    c->a20_mask = run->a20_closed ? ~(UINT64_C(1) << 20) : ~UINT64_C(0);
    soft_blocks_flush(c);
    soft_state_load_groups(c, s,
                           X86_STATE_GPR | X86_STATE_SYSTEM | X86_STATE_FPU | X86_STATE_DEBUG |
                               X86_STATE_EVENTS | X86_STATE_MSRS);
    c->tsc_offset = s->tsc - __rdtsc();
    c->tlb_wish = false;
    c->wait_sipi = false;
    c->step = false;
    c->quiet = 0;
}

static unsigned compare(const X86CPUState *s, const X86CPUState *old, bool fpu)
{
    unsigned changed = fpu ? X86_STATE_FPU : 0;

    if (memcmp(s->gpr, old->gpr, sizeof(s->gpr)) != 0 || s->rip != old->rip ||
        s->rflags != old->rflags) {
        changed |= X86_STATE_GPR;
    }
    if (memcmp(s->seg, old->seg, offsetof(X86CPUState, dr) - offsetof(X86CPUState, seg)) != 0) {
        changed |= X86_STATE_SYSTEM;
    }
    if (memcmp(s->dr, old->dr, offsetof(X86CPUState, xcr0) - offsetof(X86CPUState, dr)) != 0) {
        changed |= X86_STATE_DEBUG;
    }
    return changed;
}

static bool may_go_on(const SoftCpu *c)
{
    const VCpu *cpu = c->vcpu;

    return !c->halted && !c->triple_fault && !c->tlb_wish && !cpu->exit_modified &&
           !cpu->state_dirty && !__atomic_load_n(&cpu->requests, __ATOMIC_RELAXED) &&
           !(__atomic_load_n(&c->attention, __ATOMIC_RELAXED) & SOFT_ATTN_KICK);
}

SoftAssistResult soft_assist_run(SoftAssist *a, SoftAssistRun *run)
{
    SoftCpu *c = a->c;
    X86CPUState *s = run->state;
    ZydisDecodedInstruction insn;
    uint8_t fpu[SOFT_FPU_SIZE];
    uint64_t xcr0, before;
    X86Msr *gs;
    SoftStop stop;

    memcpy(&a->old, s, offsetof(X86CPUState, xsave));
    load(c, run);
    run->changed = 0;
    run->ran = 0;
    run->mnemonic = "undecodable";
    if (decode(c, run, &insn)) {
        run->mnemonic = ZydisMnemonicGetString(insn.mnemonic);
        if (is_foreign(c, run, &insn)) {
            return SOFT_ASSIST_CANNOT;
        }
    }
    memcpy(fpu, c->fpu, sizeof(fpu));
    xcr0 = c->xcr0;
    before = c->icount;
    c->step = true;
    /* A fault whose handler begins with a fault ends no instruction: KVM's turn comes all the same.
     */
    stop = soft_run(c, FAULTS_MAX);
    c->step = false;
    if (run->more && stop == SOFT_STOP_DEBUG && may_go_on(c)) {
        c->no_exits = true;
        soft_run(c, run->more);
        c->no_exits = false;
    }
    run->ran = c->icount - before;
    run->flushed = c->tlb_wish;
    soft_state_store_groups(c, s,
                            X86_STATE_GPR | X86_STATE_SYSTEM | X86_STATE_FPU | X86_STATE_DEBUG |
                                X86_STATE_EVENTS);
    run->changed = compare(s, &a->old, memcmp(fpu, c->fpu, sizeof(fpu)) != 0 || xcr0 != c->xcr0) |
                   X86_STATE_EVENTS;
    gs = x86_msr_find(s, 0xc0000102);
    if (gs && gs->value != c->msr.kernel_gs_base) {
        gs->value = c->msr.kernel_gs_base;
        run->changed |= X86_STATE_MSRS;
    }
    if (c->triple_fault) {
        return SOFT_ASSIST_SHUTDOWN;
    }
    return c->halted ? SOFT_ASSIST_HALTED : SOFT_ASSIST_DONE;
}

/*
 * Into a block, out of it, and on to the next one.
 *
 * Before its first instruction a block looks at what the run loop would: whether somebody wants the
 * CPU, whether its code is still what it was, whether the budget lasts. A way out to the same page
 * is a jump through a link, which leads to the run loop until the block there is known: the page
 * cannot have moved in between. Other ways are looked up by address each time (translate-common.c),
 * for only the TLB knows what is there now.
 */
#include "engine/accel/soft/translate.h"

void translate_start(Xlate *x)
{
    SoftBlock *b = x->b;
    size_t fits;

    emit_alu_imm(x, 3, CMP_, rm_cpu(CPU_OFF(wanted)), 0);
    emit_jcc_to(x, 5, x->t->leave);
    emit_imm(x, T1, (uint64_t)(uintptr_t)&b->page->generation);
    emit_op(x, 2, 0x81, 7, rm_mem(T1, 0));
    emit32(x, b->generation);
    emit_jcc_to(x, 5, x->t->leave);
    emit_alu_imm(x, 3, SUB_, rm_cpu(CPU_OFF(budget)), b->n);
    fits = emit_jcc(x, 13);
    emit_alu_imm(x, 3, ADD_, rm_cpu(CPU_OFF(budget)), b->n);
    emit_jmp_to(x, x->t->leave);
    emit_land(x, fits);
    x->host = 0;
}

/* ---- out --------------------------------------------------------------------------------- */

static bool same_page(const SoftBlock *b, uint64_t delta)
{
    uint64_t at = ((uintptr_t)b->host & (SOFT_PAGE - 1)) + delta;

    return at < SOFT_PAGE;
}

static size_t link_offset(unsigned link)
{
    return CODE_SIZE + link * sizeof(Link) + offsetof(Link, target);
}

void translate_exit(Xlate *x, uint64_t delta)
{
    SoftTranslator *t = x->t;
    unsigned link = t->n_links;

    if (delta) {
        emit_alu_imm(x, x->wide ? 3 : 2, ADD_, rm_cpu(CPU_OFF(rip)), delta);
    }
    if (!same_page(x->b, delta)) {
        emit_jmp_to(x, t->lookup);
        return;
    }
    if (link + 1 >= LINKS_MAX || x->n_outs == G_N_ELEMENTS(x->outs)) {
        x->failed = true;
        return;
    }
    t->n_links++;
    t->links[link].host = x->b->host + (ptrdiff_t)delta;
    t->links[link].mode = x->b->mode;
    emit8(x, 0xff); /* JMP [RIP + …] */
    emit8(x, 0x25);
    emit32(x, (uint32_t)(link_offset(link) - (x->at + 4)));
    x->outs[x->n_outs].link = link;
    x->n_outs++;
}

void translate_outs(Xlate *x)
{
    for (unsigned n = 0; n < x->n_outs; n++) {
        unsigned link = x->outs[n].link;

        x->t->links[link].target = x->t->rx + x->at;
        emit_imm(x, T1, link);
        emit_jmp_to(x, x->t->leave_link);
    }
}

/* ---- branches ------------------------------------------------------------------------------ */

/* A target in `reg` that is not canonical is the branch's fault. */
static void check_target(Xlate *x, unsigned reg, unsigned scratch)
{
    if (!x->wide) {
        return;
    }
    emit_store(x, 3, rm_reg(scratch), reg);
    emit_shift_imm(x, 3, 4, rm_reg(scratch), 16);
    emit_shift_imm(x, 3, 7, rm_reg(scratch), 16);
    emit_alu(x, 3, CMP_, scratch, rm_reg(reg));
    slow_jcc(x, 5);
}

static void go_to(Xlate *x, unsigned reg)
{
    emit_store(x, 3, rm_cpu(CPU_OFF(rip)), reg);
    emit_jmp_to(x, x->t->lookup);
}

static unsigned pointer_size(const Xlate *x)
{
    return x->wide ? 3 : 2;
}

/* Where a computed branch goes: into T2. */
static void load_target(Xlate *x)
{
    const SoftInsn *i = x->i;

    if (i->ops == OPS_M) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_READ, 1u << pointer_size(x));
        emit_load(x, pointer_size(x), T2, rm_mem(T1, 0));
    } else {
        emit_load(x, 3, T2, guest_rm(gpr_of(i->dst)));
    }
    check_target(x, T2, T3);
}

static void conditional(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned cc = i->aux & 15;
    size_t taken;

    flags_save(x);
    flags_to_host(x, cond_flags[cc >> 1]);
    taken = emit_jcc(x, cc);
    translate_exit(x, i->off + i->len);
    emit_land(x, taken);
    translate_exit(x, i->imm);
}

/* The return address is stored, the stack pointer moves. */
static void push_return(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = pointer_size(x);
    int32_t len = 1 << size;

    mem_stack(x, -len);
    mem_host_of(x, SOFT_WRITE, (unsigned)len);
    emit_load(x, 3, T2, rm_cpu(CPU_OFF(rip)));
    emit_lea(x, size, T2, (Mem){ T2, NONE, 0, i->off + i->len });
    emit_store(x, size, rm_mem(T1, 0), T2);
    emit_lea(x, size, host_of[X86_RSP], (Mem){ host_of[X86_RSP], NONE, 0, -len });
}

static void call(Xlate *x)
{
    flags_save(x);
    if (x->i->ops == OPS_I) {
        push_return(x);
        translate_exit(x, x->i->imm);
        return;
    }
    load_target(x);
    emit_store(x, 3, rm_cpu(CPU_OFF(pushed)), T2);
    push_return(x);
    emit_load(x, 3, T2, rm_cpu(CPU_OFF(pushed)));
    go_to(x, T2);
}

static void jump(Xlate *x)
{
    flags_save(x);
    if (x->i->ops == OPS_I) {
        translate_exit(x, x->i->imm);
        return;
    }
    load_target(x);
    go_to(x, T2);
}

static void ret(Xlate *x)
{
    unsigned size = pointer_size(x);

    flags_save(x);
    mem_stack(x, 0);
    mem_host_of(x, SOFT_READ, 1u << size);
    emit_load(x, size, T1, rm_mem(T1, 0));
    check_target(x, T1, T2);
    emit_lea(x, size, host_of[X86_RSP],
             (Mem){ host_of[X86_RSP], NONE, 0, (1 << size) + (int32_t)x->i->imm });
    go_to(x, T1);
}

bool translate_is_flow(const SoftInsn *i)
{
    return i->kind >= KIND_JCC && i->kind <= KIND_RET;
}

bool translate_flow(Xlate *x)
{
    const SoftInsn *i = x->i;

    if ((!x->wide && i->op_size != 2) || !translate_is_flow(i) ||
        (i->ops == OPS_I && !fits32(i->imm)) || (i->ops == OPS_M && !mem_simple(x))) {
        return false;
    }
    switch ((SoftKind)i->kind) {
    case KIND_JCC:
        conditional(x);
        break;
    case KIND_JMP:
        jump(x);
        break;
    case KIND_CALL:
        call(x);
        break;
    default:
        ret(x);
        break;
    }
    slow_end(x, true);
    return true;
}

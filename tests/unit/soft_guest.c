/* See soft_guest.h. */
#include "tests/unit/soft_guest.h"

#include "engine/accel/soft/soft-translate.h"

static MemoryRegion root, ram;
AddressSpace *as;
SoftCpu *c;
uint8_t *mem;
Mode mode;

void put(uint64_t at, uint64_t v, unsigned len)
{
    memcpy(mem + at, &v, len);
}
uint64_t get(uint64_t at, unsigned len)
{
    uint64_t v = 0;

    memcpy(&v, mem + at, len);
    return v;
}

void segment(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    put(GDT + (selector & ~7u),
        (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
            (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
            (uint64_t)(base >> 24) << 56,
        8);
}

uint64_t gate(unsigned selector, uint32_t offset, unsigned access, unsigned low)
{
    return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)low << 32 |
           (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48;
}

void idt_entry(unsigned vector, unsigned selector, uint32_t offset, unsigned access)
{
    if (mode == LONG || mode == COMPAT) {
        put(IDT + vector * 16, gate(selector, offset, access, 0), 8);
        put(IDT + vector * 16 + 8, 0, 8);
    } else {
        put(IDT + vector * 8, gate(selector, offset, access, 0), 8);
    }
}

bool is_long(void)
{
    return mode == LONG || mode == COMPAT;
}

void tables(void)
{
    memset(mem + GDT, 0, 0x3000);
    segment(CS0, 0, 0xfffff, 0x9b, 0xc);
    segment(DS0, 0, 0xfffff, 0x93, 0xc);
    segment(CS3, 0, 0xfffff, 0xfb, 0xc);
    segment(DS3, 0, 0xfffff, 0xf3, 0xc);
    segment(SEL_TSS, TSS, 0x3ff, 0x89, 0);
    segment(SEL_TSS_B, TSS_B, 0x67, 0x89, 0);
    segment(SEL_LDT, LDT, 0xff, 0x82, 0);
    segment(CS64, 0, 0xfffff, 0x9b, 0xa);
    segment(CS64_3, 0, 0xfffff, 0xfb, 0xa);
    segment(ABSENT, 0, 0xfffff, 0x13, 0xc);
    segment(READ_ONLY, 0, 0xfffff, 0x91, 0xc);
    segment(CONFORMING, 0, 0xfffff, 0x9f, is_long() ? 0xa : 0xc);
    segment(CS16, 0, 0xffff, 0x9b, 0);
    segment(DS16, 0, 0xffff, 0x93, 0);
    segment(SMALL, 0x100, 0xff, 0x93, 0x4);
    put(GDT + TASK_GATE, gate(SEL_TSS_B, 0, 0x85, 0), 8);
    segment(EXEC_ONLY, 0, 0xfffff, 0x99, 0xc);
    for (unsigned v = 0; v < 256; v++) {
        mem[HANDLER + v * 16] = 0xf4;
        if (mode == REAL) {
            put(IDT + v * 4, HANDLER + v * 16, 4);
        } else {
            idt_entry(v, is_long() ? CS64 : CS0, HANDLER + v * 16, mode == PROT16 ? 0x86 : 0x8e);
        }
    }
    if (is_long()) {
        put(TSS + 4, STACK0, 8);
        put(TSS + 36, 0x28000, 8); /* IST 1 */
    } else {
        put(TSS + 4, STACK0, 4);
        put(TSS + 8, DS0, 4);
    }
    put(TSS + 102, 0x80, 2); /* I/O bitmap */
    memset(mem + TSS + 0x80, 0xff, 0x200);
}

void load(unsigned seg, uint16_t selector)
{
    uint64_t d = get(GDT + (selector & ~7u), 8);
    uint32_t limit = (uint32_t)(d & 0xffff) | (uint32_t)(d >> 32 & 0xf0000);
    bool g = d >> 55 & 1;

    c->seg[seg] = (X86Segment){ .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000u),
                                .limit = g ? limit << 12 | 0xfff : limit,
                                .selector = selector,
                                .type = d >> 40 & 15,
                                .dpl = d >> 45 & 3,
                                .present = d >> 47 & 1,
                                .s = d >> 44 & 1,
                                .db = d >> 54 & 1,
                                .l = d >> 53 & 1,
                                .g = g };
}

void identity_pages(void)
{
    /* One 2 MiB page for all, open to users. */
    put(PAGES, (PAGES + 0x1000) | 7, 8);
    put(PAGES + 0x1000, (PAGES + 0x2000) | 7, 8);
    put(PAGES + 0x2000, 0x87, 8);
    c->cr3 = PAGES;
    c->cr0 |= CR0_PG;
}

void begin(Mode m, unsigned cpl)
{
    mode = m;
    memset(mem, 0, RAM);
    tables();
    memset(c->gpr, 0, sizeof(c->gpr));
    c->cr0 = m == REAL ? CR0_ET : CR0_ET | CR0_PE | CR0_NE;
    c->cr4 = is_long() ? CR4_PAE : 0;
    c->efer = is_long() ? EFER_LME | EFER_LMA | EFER_SCE : 0;
    c->flags = 2;
    c->halted = c->triple_fault = false;
    c->inhibit_interrupts = 0;
    memset(&c->delivering, 0, sizeof(c->delivering));
    c->ext = 0;
    c->dr7 = 0x400;
    c->dr6 = 0xffff0ff0;
    c->gdt = (X86Table){ GDT, GDT_END - 1 };
    c->idt = (X86Table){ IDT, 0xfff };
    soft_msrs_reset(c);
    c->seg[X86_LDT] = (X86Segment){ .unusable = true };
    load(X86_TR, SEL_TSS);
    c->seg[X86_TR].type |= 2;
    put(GDT + SEL_TSS + 5, 0x8b, 1);
    c->cpl = (uint8_t)cpl;
    if (m == REAL || m == V86) {
        for (unsigned i = 0; i < 6; i++) {
            x86_segment_set_real(&c->seg[i], 0, i == X86_CS);
        }
        if (m == V86) {
            c->flags |= FLAG_VM;
            c->cpl = 3;
            for (unsigned i = 0; i < 6; i++) {
                c->seg[i].dpl = 3;
                c->seg[i].type = 3;
            }
        }
    } else {
        load(X86_CS, m == LONG ? (cpl ? CS64_3 : CS64) : m == PROT16 ? CS16 : (cpl ? CS3 : CS0));
        for (unsigned i = 0; i < 6; i++) {
            if (i != X86_CS) {
                load(i, m == PROT16 ? DS16 : cpl ? DS3 : DS0);
            }
        }
    }
    if (is_long()) {
        identity_pages();
    }
    c->gpr[X86_RSP] = m == REAL || m == V86 || m == PROT16 ? 0x7000 : cpl ? STACK3 : STACK0;
    c->rip = CODE;
    soft_mode_changed(c);
    soft_debug_changed(c);
    soft_tlb_flush(c, true);
    soft_blocks_flush(c);
}

SoftStop go(void)
{
    return soft_run(c, 100);
}

void code(const void *bytes, size_t n)
{
    memcpy(mem + CODE, bytes, n);
    soft_blocks_flush(c); /* written behind its back */
}
SoftStop stopped;

/* The vector of the handler that the CPU halted in; -1: elsewhere. */
int handler(void)
{
    uint64_t at = c->seg[X86_CS].base + c->rip - 1;

    if (stopped != SOFT_STOP_HALT || at < HANDLER || at >= HANDLER + 4096 || at % 16) {
        return -1;
    }
    return (int)(at - HANDLER) / 16;
}
uint64_t top(unsigned slot, unsigned size)
{
    return get(c->seg[X86_SS].base + c->gpr[X86_RSP] + slot * size, size);
}
unsigned slot_size(void)
{
    return mode == REAL || mode == PROT16 ? 2 : is_long() ? 8 : 4;
}

void guest_setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    if (!memory_region_init_ram(&ram, NULL, "ram", RAM, NULL)) {
        abort();
    }
    memory_region_add_subregion(&root, 0, &ram);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    mem = memory_region_get_ram_ptr(&ram);
    c = soft_cpu_new(NULL);
    c->memory = as;
    if (getenv("VMLUA_TRANSLATE")) {
        c->translator = soft_translator_new(0);
    }
}

void guest_teardown(void)
{
    soft_cpu_free(c);
    address_space_free(as);
    memory_region_del_subregion(&root, &ram);
    memory_region_finalize(&ram);
    memory_region_finalize(&root);
    memory_reclaim();
}

void expect_fault(unsigned vector, uint32_t error)
{
    ck_assert_int_eq(handler(), (int)vector);
    if (mode != REAL) {
        ck_assert_uint_eq(top(0, slot_size()), error);
        ck_assert_uint_eq(top(1, slot_size()), CODE);
    } else {
        ck_assert_uint_eq(top(0, 2), CODE);
    }
}

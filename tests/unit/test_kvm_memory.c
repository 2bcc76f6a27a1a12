/* Memory slots, dirty logs, ioeventfds and coalesced writes on KVM. */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHECKED_AT    UINT64_C(0x100000) /* what ramcheck.asm reads */
#define CHECKED_PAGES 64u

static void number_pages(uint8_t *host, unsigned first, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint32_t v = 0x600d0000 + first + i;
        memcpy(host + i * 4096, &v, 4);
    }
}

static bool three_rounds(Rig *r)
{
    return rig_peek(r, 0x7f00) >= 3;
}

static uint32_t wanted;

static bool more_rounds(Rig *r)
{
    return rig_peek(r, 0x7f00) > wanted;
}

/* A second RAM with the same numbers in its pages is laid over the first, moved, resized, taken
 * away; the first is logged and not; made read-only and not. The guest, which reads all the time,
 * may not notice. */
START_TEST(changes_of_the_memory_map_never_show_a_running_guest_a_hole)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 4 * MiB);
    MemoryRegion over[2];
    unsigned seed = 12345;
    ck_assert(memory_region_init_ram(&over[0], NULL, "over0", CHECKED_PAGES * 4096, NULL));
    ck_assert(memory_region_init_ram(&over[1], NULL, "over1", CHECKED_PAGES * 4096, NULL));
    rig_start(r, "ramcheck");
    number_pages((uint8_t *)memory_region_get_ram_ptr(&r->ram) + CHECKED_AT, 0, CHECKED_PAGES);
    rig_resume(r);
    rig_until(r, three_rounds);
    bool mapped[2] = { false, false }, logged = false;
    for (unsigned i = 0; i < rig_rounds(10000); i++) {
        unsigned k = (unsigned)rand_r(&seed) % 2, at, pages;
        pages = 1 + (unsigned)rand_r(&seed) % 16;
        at = (unsigned)rand_r(&seed) % (CHECKED_PAGES - pages);
        /* A region that is mapped must show right numbers before, during and after: it is taken
         * out, numbered, and put in elsewhere in one transaction. */
        memory_region_transaction_begin();
        switch (rand_r(&seed) % 5) {
        case 0:
        case 1:
            if (mapped[k]) {
                memory_region_del_subregion(&r->m->memory_root, &over[k]);
                mapped[k] = false;
            }
            break;
        case 2:
            logged = !logged;
            memory_region_set_log(&r->ram, logged, DIRTY_DISPLAY);
            break;
        case 3:
            memory_region_set_readonly(&over[k], rand_r(&seed) & 1);
            break;
        default:
            if (mapped[k]) {
                /* Growing or shrinking where it is keeps the numbers right. */
                uint64_t room = CHECKED_PAGES - (over[k].addr - CHECKED_AT) / 4096;
                memory_region_set_size(&over[k], MIN(pages, room) * 4096);
            }
            break;
        }
        memory_region_transaction_commit();
        if (!mapped[k] && (rand_r(&seed) & 1)) {
            memory_region_set_size(&over[k], CHECKED_PAGES * 4096);
            number_pages(memory_region_get_ram_ptr(&over[k]), at, CHECKED_PAGES);
            memory_region_set_size(&over[k], pages * 4096);
            memory_region_add_subregion_overlap(&r->m->memory_root, CHECKED_AT + at * 4096,
                                                &over[k], 1 + (int)k);
            mapped[k] = true;
        }
        if (i % 16 == 0) {
            main_loop_iterate(false);
        }
        if (r->n || r->m->state != RUN_STATE_RUNNING) {
            break;
        }
    }
    wanted = rig_peek(r, 0x7f00) + 2;
    rig_until(r, more_rounds);
    ck_assert_msg(r->m->state == RUN_STATE_RUNNING, "%s", r->m->reason);
    ck_assert_msg(r->n == 0, "address %#llx read %#llx", (unsigned long long)r->got[0].value,
                  (unsigned long long)r->got[1].value);
    ck_assert_uint_gt(rig_stat(r, "kvm-holds"), 0);
    rig_pause(r);
    for (unsigned k = 0; k < 2; k++) {
        if (mapped[k]) {
            memory_region_del_subregion(&r->m->memory_root, &over[k]);
        }
        memory_region_finalize(&over[k]);
    }
    rig_free(r);
}
END_TEST

START_TEST(the_test_of_holes_sees_a_hole_that_is_there)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 4 * MiB);
    MemoryRegion hole;
    rig_start(r, "ramcheck");
    number_pages((uint8_t *)memory_region_get_ram_ptr(&r->ram) + CHECKED_AT, 0, CHECKED_PAGES);
    memory_region_init_io(&hole, NULL, r->mmio.ops, r, "hole", 4096);
    rig_resume(r);
    rig_until(r, three_rounds);
    ck_assert_uint_eq(r->n, 0);
    memory_region_add_subregion_overlap(&r->m->memory_root, CHECKED_AT + 0x5000, &hole, 1);
    wanted = rig_peek(r, 0x7f00) + 2;
    rig_until(r, more_rounds);
    rig_pause(r);
    ck_assert_uint_ge(r->n, 2);
    ck_assert_uint_eq(r->got[0].value, CHECKED_AT + 0x5000);
    memory_region_del_subregion(&r->m->memory_root, &hole);
    memory_region_finalize(&hole);
    rig_free(r);
}
END_TEST

static void list_pages(Rig *r, const unsigned *pages, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        rig_poke(r, GUEST_LIST + 2 * i, pages[i], 2);
    }
    rig_poke(r, GUEST_LIST + 2 * n, 0, 2);
}

START_TEST(the_dirty_log_names_exactly_the_pages_that_the_guest_wrote)
{
    static const unsigned pages[] = { 0x100, 0x101, 0x13f, 0x140, 0x1ff, 0x3ff };
    Rig *r = rig_new(IRQCHIP_OFF, false, 4 * MiB);
    rig_start(r, "dirty");
    list_pages(r, pages, G_N_ELEMENTS(pages));
    rig_poke(r, GUEST_PARAM, 1, 2);
    memory_region_set_log(&r->ram, true, DIRTY_DISPLAY);
    for (unsigned round = 0; round < 3; round++) {
        memory_region_sync_dirty(&r->ram);
        memory_region_test_and_clear_dirty(&r->ram, 0, 4 * MiB, DIRTY_DISPLAY);
        r->finished = false;
        rig_set_entry(r);
        rig_run(r);
        ck_assert_msg(r->finished, "%s", r->m->reason);
        /* The last round: bits that KVM holds survive the end of their slot. */
        if (round == 2) {
            memory_region_transaction_begin();
            memory_region_set_size(&r->ram, 2 * MiB);
            memory_region_transaction_commit();
            memory_region_set_size(&r->ram, 4 * MiB);
        } else {
            memory_region_sync_dirty(&r->ram);
        }
        for (unsigned p = 0x100; p < 0x400; p++) {
            bool listed = false;
            for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
                listed = listed || pages[i] == p;
            }
            bool dirty = memory_region_test_and_clear_dirty(&r->ram, p * UINT64_C(4096), 4096,
                                                            DIRTY_DISPLAY);
            ck_assert_msg(dirty == listed, "round %u: page %#x: dirty %d, written %d", round, p,
                          dirty, listed);
        }
    }
    memory_region_set_log(&r->ram, false, DIRTY_DISPLAY);
    rig_free(r);
}
END_TEST

START_TEST(rom_is_read_directly_and_writes_to_it_change_nothing)
{
    static const unsigned pages[] = { 0x300, 0x200 };
    Rig *r = rig_new(IRQCHIP_OFF, false, 2 * MiB);
    MemoryRegion rom;
    ck_assert(memory_region_init_rom(&rom, NULL, "rom", 4096, NULL));
    ((uint8_t *)memory_region_get_ram_ptr(&rom))[0] = 0x41;
    memory_region_add_subregion(&r->m->memory_root, 0x300000, &rom);
    rig_start(r, "dirty");
    list_pages(r, pages, 2);
    rig_poke(r, GUEST_PARAM, 3, 2);
    /* Page 0x200 lies behind the RAM: nothing is there. */
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(((uint8_t *)memory_region_get_ram_ptr(&rom))[0], 0x41);
    /* Of ROM only writes exit; of nothing both do. */
    ck_assert_uint_eq(rig_cpu(r, 0)->stats.exits[CPU_EXIT_MMIO], 3 + 2 * 3);
    memory_region_del_subregion(&r->m->memory_root, &rom);
    memory_region_finalize(&rom);
    rig_free(r);
}
END_TEST

static EventAction look(void *opaque, VCpu *cpu, EventRecord *x)
{
    (*(unsigned *)opaque)++;
    return EVENT_CONTINUE;
}

static uint64_t eventfd_count(int fd)
{
    uint64_t v = 0;
    return read(fd, &v, sizeof(v)) == sizeof(v) ? v : 0;
}

static void run_writes(Rig *r, unsigned n)
{
    rig_poke(r, GUEST_PARAM, PORT_VALUE, 2);
    rig_poke(r, GUEST_PARAM + 2, n, 2);
    r->finished = false;
    r->n = 0;
    rig_set_entry(r);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
}

START_TEST(an_ioeventfd_takes_writes_without_exits_until_a_hook_looks)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    unsigned seen = 0;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MemoryRegionIoeventfd ev = { .range = { .addr = 0, .size = 1 }, .fd = fd };
    rig_start(r, "pioloop");
    memory_region_add_eventfd(&r->values, &ev);
    run_writes(r, 50);
    ck_assert_uint_eq(eventfd_count(fd), 50);
    ck_assert_uint_eq(r->n, 0);
    ck_assert_uint_eq(rig_cpu(r, 0)->stats.exits[CPU_EXIT_PIO], 1); /* PORT_DONE */

    EventHook *h = rig_hook(r, EVENT_PIO, PORT_VALUE, 1, look, &seen);
    run_writes(r, 50);
    ck_assert_uint_eq(seen, 50);
    event_hook_remove(h);
    eventfd_count(fd);

    run_writes(r, 50);
    ck_assert_uint_eq(seen, 50);
    ck_assert_uint_eq(eventfd_count(fd), 50);
    memory_region_del_eventfd(&r->values, &ev);
    run_writes(r, 50);
    ck_assert_uint_eq(eventfd_count(fd), 0);
    ck_assert_uint_eq(r->n, 50);
    close(fd);
    rig_free(r);
}
END_TEST

static void check_coalesced(const Rig *r)
{
    unsigned n = 0;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 10; i++, n++) {
            ck_assert_uint_eq(r->got[n].addr, MMIO_DEVICE + 0x100);
            ck_assert_uint_eq(r->got[n].value, i);
        }
        ck_assert_uint_eq(r->got[n].addr, MMIO_DEVICE);
        n++;
    }
    for (unsigned i = 0; i < 10; i++, n++) {
        ck_assert_uint_eq(r->got[n].addr, PORT_COALESCED);
        ck_assert_uint_eq(r->got[n].value, i);
    }
    ck_assert_uint_eq(r->got[n].addr, PORT_VALUE);
    ck_assert_uint_eq(r->n, n + 1);
}

START_TEST(coalesced_writes_reach_the_device_in_order_and_before_any_other)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    unsigned seen = 0;
    rig_start(r, "coalesced");
    memory_region_add_coalescing(&r->mmio, 0x100, 4);
    memory_region_add_coalescing(&r->coalesced, 0, 4);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    check_coalesced(r);
    ck_assert_uint_ge(rig_stat(r, "kvm-coalesced-writes"), 20);
    uint64_t before = rig_stat(r, "kvm-coalesced-writes");

    EventHook *a = rig_hook(r, EVENT_MMIO, MMIO_DEVICE + 0x102, 1, look, &seen);
    EventHook *b = rig_hook(r, EVENT_MMIO, MMIO_DEVICE + 0x100, 4, look, &seen);
    EventHook *c = rig_hook(r, EVENT_PIO, PORT_COALESCED, 1, look, &seen);
    r->n = 0;
    rig_set_entry(r);
    rig_run(r);
    check_coalesced(r);
    ck_assert_uint_ge(seen, 30);
    ck_assert_uint_eq(rig_stat(r, "kvm-coalesced-writes"), before);
    event_hook_remove(a);
    event_hook_remove(b);
    event_hook_remove(c);
    r->n = 0;
    rig_set_entry(r);
    rig_run(r);
    check_coalesced(r);
    ck_assert_uint_gt(rig_stat(r, "kvm-coalesced-writes"), before);
    rig_free(r);
}
END_TEST

START_TEST(ram_that_is_not_on_page_boundaries_still_works_by_exits)
{
    static const unsigned pages[] = { 0x200 };
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    MemoryRegion small, alias;
    ck_assert(memory_region_init_ram(&small, NULL, "small", 8192, NULL));
    memory_region_init_alias(&alias, NULL, "shifted", &small, 0x800, 0x900);
    memory_region_add_subregion(&r->m->memory_root, 0x200000, &alias);
    rig_start(r, "dirty");
    list_pages(r, pages, 1);
    rig_poke(r, GUEST_PARAM, 5, 2);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(((uint8_t *)memory_region_get_ram_ptr(&small))[0x800], 5);
    memory_region_del_subregion(&r->m->memory_root, &alias);
    memory_region_finalize(&alias);
    memory_region_finalize(&small);
    rig_free(r);
}
END_TEST

START_TEST(snapshots_bring_ram_and_registers_back)
{
    static const unsigned pages[] = { 0x100, 0x101, 0x180 };
    Rig *r = rig_new(IRQCHIP_ON, true, 4 * MiB);
    GError *err = NULL;
    rig_start(r, "dirty");
    list_pages(r, pages, 3);
    rig_poke(r, GUEST_PARAM, 7, 2);
    Snapshot *s = machine_snapshot(r->m, &err);
    ck_assert_msg(s != NULL, "%s", err ? err->message : "");
    for (unsigned round = 0; round < 3; round++) {
        rig_run(r);
        ck_assert_msg(r->finished, "%s", r->m->reason);
        ck_assert_uint_eq(rig_peek(r, 0x100000) & 0xff, 7);
        ck_assert_uint_eq(rig_peek(r, 0x7f00), 7);
        ck_assert_msg(machine_restore(r->m, s, &err), "%s", err ? err->message : "");
        ck_assert_uint_eq(rig_peek(r, 0x100000), 0);
        ck_assert_uint_eq(rig_peek(r, 0x7f00), 0);
        ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_GPR, &err));
        ck_assert_uint_eq(rig_cpu(r, 0)->state->rip, GUEST_ADDR);
        r->finished = false;
    }
    snapshot_unref(s);
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, changes_of_the_memory_map_never_show_a_running_guest_a_hole);
    tcase_add_test(tc, the_test_of_holes_sees_a_hole_that_is_there);
    tcase_add_test(tc, the_dirty_log_names_exactly_the_pages_that_the_guest_wrote);
    tcase_add_test(tc, rom_is_read_directly_and_writes_to_it_change_nothing);
    tcase_add_test(tc, an_ioeventfd_takes_writes_without_exits_until_a_hook_looks);
    tcase_add_test(tc, coalesced_writes_reach_the_device_in_order_and_before_any_other);
    tcase_add_test(tc, ram_that_is_not_on_page_boundaries_still_works_by_exits);
    tcase_add_test(tc, snapshots_bring_ram_and_registers_back);
}

int main(void)
{
    return rig_main("kvm memory", add);
}

/* Traps, breakpoints and interrupts that KVM answers with what this host's may never answer with.
 */
#include "tests/unit/kvm_fake.h"

/* ---- debugging --------------------------------------------------------------------------- */

static void point_vectors(Rig *r)
{
    rig_poke(r, 1 * 4, GUEST_ADDR + 0x40, 4);
    rig_poke(r, 3 * 4, GUEST_ADDR + 0x80, 4);
}

static int trap_of_the_guest(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_DEBUG;
    run->debug.arch = (struct kvm_debug_exit_arch){
        .exception = 1, .pc = GUEST_ADDR + 1, .dr6 = 0xffff4ff0, .dr7 = 0x400
    };
    return 0;
}

START_TEST(the_guests_own_trap_is_given_back_to_it_while_breakpoints_are_set)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned hits = 0;
    point_vectors(r);
    rig_hook(r, EVENT_EXEC, 0x5000, 1, count, &hits);
    fake_exit(trap_of_the_guest);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert(fake.debug_controls & KVM_GUESTDBG_INJECT_DB);
    ck_assert_uint_eq(fake.debugregs.dr6 & 0x4000, 0x4000);
    ck_assert_uint_eq(r->n, 1);
    ck_assert_uint_eq(r->got[0].value, 0x11); /* its handler ran */
    ck_assert_uint_eq(hits, 0);
    rig_free(r);
}
END_TEST

static int int3_at_the_start(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_DEBUG;
    run->debug.arch = (struct kvm_debug_exit_arch){ .exception = 3, .pc = GUEST_ADDR };
    return 0;
}

static void set_fillers(Rig *r, unsigned *hits)
{
    ck_assert(object_property_set_bool(OBJECT(r->m->accel), "step-breakpoints", false, NULL));
    for (unsigned i = 0; i < 4; i++) {
        rig_hook(r, EVENT_EXEC, 0x5000 + i, 1, count, hits);
    }
}

START_TEST(a_software_breakpoint_in_real_mode_fires_and_its_instruction_still_runs)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0, hits = 0;
    point_vectors(r);
    set_fillers(r, &others);
    EventHook *h = rig_hook(r, EVENT_EXEC, GUEST_ADDR, 1, count, &hits);
    ck_assert_str_eq(event_hook_how(h), "sw breakpoint");
    fake_exit(int3_at_the_start);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(hits, 1);
    ck_assert_uint_eq(others, 0);
    ck_assert_uint_eq(r->n, 0);
    ck_assert_uint_eq(r->next_source, 1);
    ck_assert(!(fake.debug_controls & KVM_GUESTDBG_INJECT_BP));
    rig_free(r);
}
END_TEST

START_TEST(the_guests_own_int3_is_given_back_to_it_in_real_mode)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0;
    point_vectors(r);
    rig_poke(r, GUEST_ADDR, 0xcc, 1);
    set_fillers(r, &others);
    rig_hook(r, EVENT_EXEC, 0x5010, 1, count, &others);
    fake_exit(int3_at_the_start);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert(fake.debug_controls & KVM_GUESTDBG_INJECT_BP);
    ck_assert_uint_eq(r->n, 1);
    ck_assert_uint_eq(r->got[0].value, 0x33);
    ck_assert_uint_eq(others, 0);
    rig_free(r);
}
END_TEST

START_TEST(an_int3_of_a_breakpoint_that_is_gone_is_not_given_to_the_guest)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0;
    point_vectors(r);
    set_fillers(r, &others);
    fake_exit(int3_at_the_start); /* there is no INT3 at that place now */
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert(!(fake.debug_controls & KVM_GUESTDBG_INJECT_BP));
    ck_assert_uint_eq(r->n, 0);
    rig_free(r);
}
END_TEST

START_TEST(the_guest_with_two_addresses_for_one_page_runs)
{
    Rig *r = make(IRQCHIP_OFF, "alias");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->got[0].value, 2);
    rig_free(r);
}
END_TEST

START_TEST(a_breakpoint_met_by_another_address_of_its_page_is_nobodys_int3)
{
    Rig *r = make(IRQCHIP_OFF, "alias");
    unsigned others = 0, hits = 0;
    set_fillers(r, &others);
    EventHook *h = rig_hook(r, EVENT_EXEC, GUEST_ADDR + 0x200, 1, count, &hits);
    ck_assert_str_eq(event_hook_how(h), "sw breakpoint");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->got[0].value, 2); /* it ran both times */
    ck_assert_uint_eq(hits, 1);            /* and was met once by the address that is watched */
    ck_assert_uint_eq(others, 0);
    rig_free(r);
}
END_TEST

static int halted(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_HLT;
    return 0;
}

/* The other vCPUs are held meanwhile: to ask for the engine lock there is a deadlock with whoever
 * has it and waits for the hold. */
START_TEST(a_step_over_a_halt_with_a_software_breakpoint_on_it_needs_no_lock_in_the_hold)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    unsigned others = 0, hits = 0;
    GError *err = NULL;
    set_fillers(r, &others);
    rig_hook(r, EVENT_EXEC, GUEST_ADDR + 0xc0, 1, count, &hits);
    ck_assert(cpu_modify_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
    rig_cpu(r, 0)->state->rip = GUEST_ADDR + 0xc0;
    fake_exit(halted);
    ck_assert_msg(machine_step(r->m, rig_cpu(r, 0), &err), "%s", err ? err->message : "");
    rig_wait(r);
    ck_assert_str_eq(r->m->reason, "step");
    ck_assert(rig_cpu(r, 0)->halted);
    rig_free(r);
}
END_TEST

/* ---- interrupts -------------------------------------------------------------------------- */

typedef struct Pin {
    Rig *r;
    unsigned asked;
} Pin;

static int give_vector(void *opaque)
{
    Pin *p = opaque;
    p->asked++;
    klass(p->r)->set_intr(rig_cpu(p->r, 0), false, give_vector, p);
    return 0x30;
}

static int ready_and_open(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
    run->ready_for_interrupt_injection = 1;
    run->if_flag = 1;
    return 0;
}

/* Until the pause has been asked for, the vCPU is sent away from the door. */
static void ask_for_pause(void *opaque)
{
    machine_pause(fake.rig->m, "test");
}

static int not_now(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_INTR;
    if (fake.next_exit == 2) {
        bh_once(ask_for_pause, NULL);
    }
    if (!(__atomic_load_n(&rig_cpu(fake.rig, 0)->requests, __ATOMIC_SEQ_CST) & CPU_REQ_STOP)) {
        fake.next_exit = MAX(fake.next_exit, 3) - 1; /* again */
    }
    return EINTR;
}

static void a_vector_that_waits(IrqchipMode mode)
{
    Rig *r = make(mode, "interrupt");
    Pin pin = { .r = r };
    GError *err = NULL;
    rig_poke(r, GUEST_PARAM, 2, 2);
    /* The guest has its table and has opened its interrupts: it runs up to its first halt. */
    klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
    fake_exit(ready_and_open);
    fake_exit(not_now);
    fake_exit(not_now);
    rig_resume(r);
    rig_wait(r);
    ck_assert_str_eq(r->m->reason, "test");
    ck_assert_uint_eq(pin.asked, 1);
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_EVENTS, &err));
    ck_assert(rig_cpu(r, 0)->state->events.interrupt_injected);
    ck_assert_uint_eq(rig_cpu(r, 0)->state->events.interrupt_nr, 0x30);
    ck_assert(!rig_cpu(r, 0)->state->events.interrupt_soft);
    rig_free(r);
}

START_TEST(a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_vcpu_without_a_controller)
{
    a_vector_that_waits(IRQCHIP_OFF);
}
END_TEST

START_TEST(a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_split_controller)
{
    a_vector_that_waits(IRQCHIP_SPLIT);
}
END_TEST

static int ready_then_pause(struct kvm_run *run)
{
    static bool asked;
    if (!asked) {
        asked = true;
        bh_once(ask_for_pause, NULL);
    }
    if (__atomic_load_n(&rig_cpu(fake.rig, 0)->requests, __ATOMIC_SEQ_CST) & CPU_REQ_STOP) {
        fake.next_exit = fake.n_exits;
    } else {
        fake.next_exit = 0;
    }
    return ready_and_open(run);
}

START_TEST(no_vector_is_given_to_a_guest_whose_interrupts_were_closed_in_a_pause)
{
    Rig *r = make(IRQCHIP_OFF, "traps");
    Pin pin = { .r = r };
    fake_exit(ready_then_pause);
    rig_resume(r);
    rig_wait(r);
    ck_assert_str_eq(r->m->reason, "test");
    fake.n_exits = 0;
    ck_assert(cpu_modify_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
    rig_cpu(r, 0)->state->rflags &= ~UINT64_C(0x200);
    klass(r)->set_intr(rig_cpu(r, 0), true, give_vector, &pin);
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(pin.asked, 0);
    ck_assert_uint_eq(fake.interrupts, 0);
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, the_guests_own_trap_is_given_back_to_it_while_breakpoints_are_set);
    tcase_add_test(tc, a_software_breakpoint_in_real_mode_fires_and_its_instruction_still_runs);
    tcase_add_test(tc, the_guests_own_int3_is_given_back_to_it_in_real_mode);
    tcase_add_test(tc, an_int3_of_a_breakpoint_that_is_gone_is_not_given_to_the_guest);
    tcase_add_test(tc, the_guest_with_two_addresses_for_one_page_runs);
    tcase_add_test(tc, a_breakpoint_met_by_another_address_of_its_page_is_nobodys_int3);
    tcase_add_test(tc,
                   a_step_over_a_halt_with_a_software_breakpoint_on_it_needs_no_lock_in_the_hold);
    tcase_add_test(
        tc, a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_vcpu_without_a_controller);
    tcase_add_test(tc, a_vector_that_was_given_and_not_taken_is_in_the_state_of_a_split_controller);
    tcase_add_test(tc, no_vector_is_given_to_a_guest_whose_interrupts_were_closed_in_a_pause);
}

int main(void)
{
    return rig_main("kvm traps", add);
}

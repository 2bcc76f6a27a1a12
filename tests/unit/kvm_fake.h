/*
 * KVM as this host's may never be. The program has its own ioctl(): it hands everything to the
 * kernel but what a test told it to answer itself, and keeps what it was asked.
 */
#pragma once

#include "tests/unit/kvm_rig.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/accel/kvm/kvm_priv.h"
#include "engine/core/irq.h"

#include "engine/core/lock.h"

/* Fills the shared page; returns what KVM_RUN returns, 0 or an errno. */
typedef int (*FakeExit)(struct kvm_run *run);

static struct {
    Rig *rig;
    FakeExit exits[8]; /* of the first entries to come; then the kernel's */
    unsigned n_exits, next_exit;
    int lacks;           /* a KVM_CAP_* */
    int limit, limit_to; /* a KVM_CAP_* and what it says */
    unsigned long fails; /* a request, with errno ENOMEM, from the fails_after-th on */
    unsigned fails_after;
    struct kvm_guest_debug debug; /* the last of each */
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    uint32_t debug_controls; /* of all KVM_SET_GUEST_DEBUG, or-ed */
    unsigned interrupts, runs;
    GArray *ioeventfds; /* of kvm_ioeventfd */
} fake;

static struct kvm_run *run_of(int fd)
{
    KvmAccel *a = KVM_ACCEL(fake.rig->m->accel);
    for (unsigned i = 0; i < a->vcpus->len; i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);
        if (kv && kv->fd == fd) {
            return kv->run;
        }
    }
    ck_abort_msg("KVM_RUN of an unknown vCPU");
    return NULL;
}

static inline void note(unsigned long request, const void *arg)
{
    switch (request) {
    case KVM_SET_GUEST_DEBUG:
        memcpy(&fake.debug, arg, sizeof(fake.debug));
        fake.debug_controls |= fake.debug.control;
        break;
    case KVM_SET_DEBUGREGS:
        memcpy(&fake.debugregs, arg, sizeof(fake.debugregs));
        break;
    case KVM_SET_VCPU_EVENTS:
        memcpy(&fake.events, arg, sizeof(fake.events));
        break;
    case KVM_INTERRUPT:
        fake.interrupts++;
        break;
    case KVM_IOEVENTFD:
        if (fake.ioeventfds) {
            g_array_append_vals(fake.ioeventfds, arg, 1);
        }
        break;
    default:
        break;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (request == KVM_CHECK_EXTENSION) {
        if ((int)(uintptr_t)arg == fake.lacks) {
            return 0;
        }
        if (fake.limit && (int)(uintptr_t)arg == fake.limit) {
            return fake.limit_to;
        }
    }
    if (request == fake.fails && fake.fails) {
        if (fake.fails_after == 0) {
            errno = ENOMEM;
            return -1;
        }
        fake.fails_after--;
    }
    note(request, arg);
    if (request == KVM_RUN) {
        fake.runs++;
        if (fake.next_exit < fake.n_exits) {
            struct kvm_run *run = run_of(fd);
            int err = fake.exits[fake.next_exit++](run);
            errno = err;
            return err ? -1 : 0;
        }
    }
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

static inline void fake_exit(FakeExit fn)
{
    ck_assert_uint_lt(fake.n_exits, G_N_ELEMENTS(fake.exits));
    fake.exits[fake.n_exits++] = fn;
}

static inline Rig *make(IrqchipMode mode, const char *guest)
{
    Rig *r = fake.rig = rig_new(mode, false, 1 * MiB);
    if (guest) {
        rig_start(r, guest);
    }
    return r;
}

static inline void ck_reason(Rig *r, const char *text)
{
    ck_assert_msg(r->m->reason && strstr(r->m->reason, text), "'%s' lacks '%s'",
                  r->m->reason ? r->m->reason : "", text);
}

static inline AccelClass *klass(Rig *r)
{
    return ACCEL_GET_CLASS(r->m->accel);
}

static inline EventAction count(void *opaque, VCpu *cpu, EventRecord *x)
{
    (*(unsigned *)opaque)++;
    return EVENT_CONTINUE;
}

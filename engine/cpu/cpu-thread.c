/*
 * vCPU threads: start, run, stop, end.
 *
 * The thread alternates between a locked part (requests, queued work, waiting) and an unlocked one
 * (guest, exit, guest …). What it is asked for arrives in `requests`:
 *
 *   asker:  set bit → accelerator's kick → if in_guest: signal;  if waiting: lock, broadcast
 *   thread: in_guest = true → test bits → run;   waiting = true → test bits → wait
 *
 * All of these are sequentially consistent, so either the asker sees the flag or the thread sees
 * the bit: a request is never lost, and nobody has to poll.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/rcu.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/cpu_priv.h"

#define SIG_IPI SIGUSR1

enum { REQ_LEAVE = CPU_REQ_STOP | CPU_REQ_QUIT | CPU_REQ_WORK }; /* need the locked part */

typedef struct CpuWork {
    void (*fn)(VCpu *cpu, void *opaque);
    void *opaque;
    bool done;
} CpuWork;

static inline uint32_t cpu_requests(VCpu *cpu)
{
    return __atomic_load_n(&cpu->requests, __ATOMIC_SEQ_CST);
}

static inline void cpu_clear_requests(VCpu *cpu, uint32_t bits)
{
    __atomic_fetch_and(&cpu->requests, ~bits, __ATOMIC_SEQ_CST);
}

/* ---- asking ------------------------------------------------------------------------------ */

/* Runs on the thread that is to leave the guest. The signal may land between the last look at the
 * requests and the entry: then only this makes the entry return at once. */
static void sig_ipi(int sig)
{
    VCpu *cpu = cpu_current();

    if (cpu && __atomic_load_n(&cpu->thread_alive, __ATOMIC_ACQUIRE)) {
        cpu->ops->kick(cpu);
    }
}

static void install_sig_ipi(void)
{
    static gsize once;

    if (g_once_init_enter(&once)) {
        /* SA_RESTART: a signal that comes late must not cut short a device's system call. Entering
         * the guest is interrupted all the same. */
        struct sigaction act = { .sa_handler = sig_ipi, .sa_flags = SA_RESTART };

        sigfillset(&act.sa_mask);
        sigaction(SIG_IPI, &act, NULL);
        g_once_init_leave(&once, 1);
    }
}

void cpu_kick(VCpu *cpu)
{
    if (!__atomic_load_n(&cpu->thread_alive, __ATOMIC_ACQUIRE)) {
        return;
    }
    cpu->ops->kick(cpu);
    if (!cpu->ops->kick_suffices && cpu != cpu_current() &&
        __atomic_load_n(&cpu->in_guest, __ATOMIC_SEQ_CST)) {
        pthread_kill(cpu->thread, SIG_IPI);
    }
}

void cpu_request(VCpu *cpu, uint32_t request)
{
    __atomic_fetch_or(&cpu->requests, request, __ATOMIC_SEQ_CST);
    cpu_kick(cpu);
    if (cpu == cpu_current() || !__atomic_load_n(&cpu->waiting, __ATOMIC_SEQ_CST)) {
        return;
    }
    if (engine_lock_held()) {
        engine_cond_broadcast(&cpu->wake);
    } else {
        /* `waiting` is set before the wait begins; with the lock we come after its beginning. */
        engine_lock();
        engine_cond_broadcast(&cpu->wake);
        engine_unlock();
    }
}

void cpu_request_stop(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    if (cpu->thread_alive && !cpu->stopped) {
        cpu_request(cpu, CPU_REQ_STOP);
    }
}

void cpu_wait_stopped(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    g_assert(cpu != cpu_current());
    while (cpu->thread_alive && !cpu->stopped) {
        engine_cond_wait(&cpu->done);
    }
}

void cpu_resume(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    cpu_clear_requests(cpu, CPU_REQ_STOP);
    if (!cpu->stopped || !cpu->thread_alive) {
        return;
    }
    cpu->stopped = false;
    if (cpu->halted && cpu->ops->has_work) {
        /* Lines may have moved while it could not look. */
        __atomic_fetch_or(&cpu->requests, CPU_REQ_IRQ, __ATOMIC_SEQ_CST);
    }
    engine_cond_broadcast(&cpu->wake);
}

void cpu_run_on(VCpu *cpu, void (*fn)(VCpu *cpu, void *opaque), void *opaque)
{
    CpuWork work = { fn, opaque, false };

    ENGINE_LOCK_ASSERT();
    if (cpu == cpu_current() || !cpu->thread_alive || (cpu->stopped && !engine_may_unlock())) {
        fn(cpu, opaque);
        return;
    }
    g_assert(engine_may_unlock());
    g_queue_push_tail(&cpu->work, &work);
    cpu_request(cpu, CPU_REQ_WORK);
    while (!work.done) {
        engine_cond_wait(&cpu->done);
    }
}

/* ---- the thread -------------------------------------------------------------------------- */

static void run_work(VCpu *cpu)
{
    CpuWork *work;

    cpu_clear_requests(cpu, CPU_REQ_WORK);
    while ((work = g_queue_pop_head(&cpu->work))) {
        work->fn(cpu, work->opaque);
        work->done = true; /* it lives on the stack of a thread that waits for the lock */
    }
    engine_cond_broadcast(&cpu->done);
}

/* Guest, exit, guest …, without the lock, until a request needs the locked part. */
static void run_guest(VCpu *cpu)
{
    const CpuOps *ops = cpu->ops;

    for (;;) {
        uint32_t requests;
        bool more;

        __atomic_store_n(&cpu->in_guest, true, __ATOMIC_SEQ_CST);
        requests = cpu_requests(cpu);
        if (G_UNLIKELY(requests)) {
            if (requests & REQ_LEAVE) {
                __atomic_store_n(&cpu->in_guest, false, __ATOMIC_RELEASE);
                break;
            }
            cpu_clear_requests(cpu, requests);
        }
        cpu->state_valid = 0;
        ops->run(cpu);
        __atomic_store_n(&cpu->in_guest, false, __ATOMIC_RELEASE);
        more = cpu_handle_exit(cpu);
        if (G_UNLIKELY(cpu->exit_modified)) {
            ops->finish_exit(cpu);
            engine_lock();
            cpu_merge_exit_state(cpu);
            engine_unlock();
        }
        if (!more) {
            break;
        }
    }
    /* Whoever looks now finds whole registers: no read waits for its answer. */
    ops->finish_exit(cpu);
}

static void wait_for_request(VCpu *cpu)
{
    /* A halted vCPU is woken by interrupts, a stopped one is not. */
    uint32_t wanted = REQ_LEAVE | (cpu->stopped ? 0 : CPU_REQ_IRQ);

    __atomic_store_n(&cpu->waiting, true, __ATOMIC_SEQ_CST);
    if (!(cpu_requests(cpu) & wanted)) {
        engine_cond_wait(&cpu->wake);
    }
    __atomic_store_n(&cpu->waiting, false, __ATOMIC_SEQ_CST);
}

bool cpu_sleep(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    __atomic_store_n(&cpu->waiting, true, __ATOMIC_SEQ_CST);
    if (!(cpu_requests(cpu) & REQ_LEAVE)) {
        engine_cond_wait(&cpu->wake);
    }
    __atomic_store_n(&cpu->waiting, false, __ATOMIC_SEQ_CST);
    return !(cpu_requests(cpu) & REQ_LEAVE);
}

void cpu_wake(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    engine_cond_broadcast(&cpu->wake);
}

static void cpu_loop(VCpu *cpu)
{
    for (;;) {
        uint32_t requests = cpu_requests(cpu);

        if (requests & CPU_REQ_WORK) {
            run_work(cpu);
            continue;
        }
        if (requests & CPU_REQ_QUIT) {
            return;
        }
        if (requests & CPU_REQ_STOP) {
            cpu_clear_requests(cpu, CPU_REQ_STOP);
            cpu->stopped = true;
            engine_cond_broadcast(&cpu->done);
        }
        if (cpu->stopped) {
            if (cpu->ops->idle) {
                cpu->ops->idle(cpu);
            }
            wait_for_request(cpu);
            continue;
        }
        if (cpu->halted) {
            if (requests & CPU_REQ_IRQ) {
                cpu_clear_requests(cpu, CPU_REQ_IRQ);
                /* The line may be up while IF is clear: then HLT goes on. */
                if (!cpu->ops->has_work || cpu->ops->has_work(cpu)) {
                    cpu->halted = false;
                }
            } else {
                if (cpu->ops->idle) {
                    cpu->ops->idle(cpu);
                }
                wait_for_request(cpu);
            }
            continue;
        }
        engine_unlock();
        run_guest(cpu);
        engine_lock();
    }
}

static void *cpu_thread(void *opaque)
{
    VCpu *cpu = opaque;
    sigset_t set;
    bool created;

    cpu_set_current(cpu);
    sigemptyset(&set);
    sigaddset(&set, SIG_IPI);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    rcu_thread_register();
    engine_lock();
    created = cpu->ops->create(cpu, &cpu->start_error);
    if (created) {
        __atomic_store_n(&cpu->thread_alive, true, __ATOMIC_RELEASE);
        if (cpu->host.thread_started) {
            cpu->host.thread_started(cpu->host.opaque, cpu);
        }
    } else if (!cpu->start_error) {
        error_set(&cpu->start_error, ENGINE_ERROR_UNSUPPORTED,
                  "cpu %d: the accelerator made no vCPU and gave no reason", cpu->index);
    }
    /* The starter waits for one of the two: alive, or an error. */
    engine_cond_broadcast(&cpu->done);
    if (created) {
        cpu_loop(cpu);
        run_work(cpu);
        if (cpu->host.thread_ending) {
            cpu->host.thread_ending(cpu->host.opaque, cpu);
        }
        __atomic_store_n(&cpu->thread_alive, false, __ATOMIC_RELEASE);
        cpu->ops->destroy(cpu);
        cpu->stopped = true;
        cpu->state_valid = cpu->state_dirty = 0;
        engine_cond_broadcast(&cpu->done);
    }
    engine_unlock();
    rcu_thread_unregister();
    cpu_set_current(NULL);
    return NULL;
}

bool cpu_start_thread(VCpu *cpu, GError **error)
{
    sigset_t all, old;
    int err;

    ENGINE_LOCK_ASSERT();
    g_assert(!cpu->thread_alive);
    if (!engine_may_unlock()) {
        return error_set(error, ENGINE_ERROR_BUSY, "cpu %d: a vCPU cannot be made in a callback",
                         cpu->index);
    }
    install_sig_ipi();
    cpu->stopped = true;
    __atomic_store_n(&cpu->requests, 0, __ATOMIC_SEQ_CST);
    g_clear_error(&cpu->start_error);
    /* Signals of the process are for the main thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&cpu->thread, NULL, cpu_thread, cpu);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        errno = err;
        return error_set_errno(error, "cpu %d: cannot start a thread", cpu->index);
    }
    while (!cpu->thread_alive && !cpu->start_error) {
        engine_cond_wait(&cpu->done);
    }
    if (cpu->start_error) {
        bool unlocked = engine_unlocked_begin(NULL);

        g_assert(unlocked);
        pthread_join(cpu->thread, NULL);
        engine_unlocked_end();
        g_propagate_error(error, g_steal_pointer(&cpu->start_error));
        return false;
    }
    {
        char name[16];

        snprintf(name, sizeof(name), "vcpu-%d", cpu->index % 10000);
        pthread_setname_np(cpu->thread, name);
    }
    return true;
}

void cpu_stop_thread(VCpu *cpu)
{
    bool unlocked;

    ENGINE_LOCK_ASSERT();
    if (!cpu->thread_alive) {
        return;
    }
    g_assert(cpu != cpu_current());
    cpu_request(cpu, CPU_REQ_QUIT);
    unlocked = engine_unlocked_begin(NULL);
    g_assert(unlocked);
    pthread_join(cpu->thread, NULL);
    engine_unlocked_end();
}

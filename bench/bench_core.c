/* What the engine's core costs: trace points, log, lock, RCU, timers, bottom halves, saved state.
 */
#include <glib.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "engine/core/clock.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/trace.h"
#include "engine/state/stream.h"
#include "engine/state/vmstate.h"

TRACE_POINT(bench_core_point, "n=%d")

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* The best of a few runs of `n` rounds: the figure least disturbed by others on the host. */
#define BENCH(what, n, ...)                                \
    do {                                                   \
        double best_ = 1e18;                               \
        for (int run_ = 0; run_ < 5; run_++) {             \
            double start_ = now_ns();                      \
            for (int i = 0; i < (n); i++) {                \
                __VA_ARGS__;                               \
                __asm__ volatile("" ::: "memory");         \
            }                                              \
            best_ = MIN(best_, (now_ns() - start_) / (n)); \
        }                                                  \
        printf("%-52s %10.1f ns\n", (what), best_);        \
    } while (0)

static void no_sink(LogMask mask, const char *line, void *opaque)
{
}

static unsigned long calls;

static void count(void *opaque)
{
    calls++;
}

static void iterate_until(unsigned long n)
{
    while (calls < n) {
        main_loop_iterate(true);
    }
}

static int quit;
static BottomHalf *ping;
static int pings;

static void *answer_pings(void *opaque)
{
    while (!__atomic_load_n(&quit, __ATOMIC_ACQUIRE)) {
        if (__atomic_exchange_n(&pings, 0, __ATOMIC_ACQ_REL)) {
            bh_schedule(ping);
        }
    }
    return NULL;
}

static void round_trip(void)
{
    unsigned long n = calls + 1;
    __atomic_store_n(&pings, 1, __ATOMIC_RELEASE);
    iterate_until(n);
}

/* Like a UART: a dozen registers, a FIFO, a timer; as many as a machine has. */
typedef struct Device {
    uint8_t regs[12];
    uint8_t fifo[64];
    uint32_t fifo_n;
    uint64_t base;
    bool irq, dlab;
    Timer timer;
} Device;
static const VMStateField device_fields[] = {
    VMSTATE_UINT8_ARRAY(regs, Device), VMSTATE_UINT8_VARRAY(fifo, Device, fifo_n),
    VMSTATE_UINT32(fifo_n, Device),    VMSTATE_UINT64(base, Device),
    VMSTATE_BOOL(irq, Device),         VMSTATE_BOOL(dlab, Device),
    VMSTATE_TIMER(timer, Device),      VMSTATE_END(),
};
static const VMStateDescription device_vmsd = { .name = "device",
                                                .version = 1,
                                                .fields = device_fields };
#define DEVICES 20
static Device devices[DEVICES];

static GBytes *save_devices(void)
{
    StateWriter *w = state_writer_new();
    for (uint32_t k = 0; k < DEVICES; k++) {
        state_section_begin(w, "device", k, 1);
        vmstate_save(w, &device_vmsd, &devices[k]);
        state_section_end(w);
    }
    return state_writer_finish(w);
}

static void load_devices(GBytes *bytes)
{
    const char *name;
    uint32_t instance, version;
    StateReader *r = state_reader_new(bytes, NULL);
    while (state_next_section(r, &name, &instance, &version)) {
        if (!vmstate_load(r, &device_vmsd, &devices[instance], NULL)) {
            g_error("cannot load what was saved");
        }
    }
    state_reader_free(r);
}

int main(void)
{
    main_loop_init();
    log_set_sink(no_sink, NULL);
    Clock *clock = clock_new_virtual();
    Timer timer, other;
    timer_setup(&timer, clock, count, NULL);
    timer_setup(&other, clock_realtime(), count, NULL);
    clock_start(clock);

    BENCH("empty loop", 10000000, (void)0);
    BENCH("trace point, off", 10000000, TRACE(bench_core_point, i));
    BENCH("log line, off", 10000000, log_mask(LOG_GUEST, "n=%d", i));
    trace_enable("bench_core_*", true);
    log_set_mask(LOG_CPU);
    BENCH("trace point, on, to a sink", 200000, TRACE(bench_core_point, i));
    BENCH("log line, on, to a sink", 200000, log_mask(LOG_CPU, "n=%d", i));
    BENCH("engine_unlock + engine_lock", 2000000, engine_unlock(); engine_lock());
    BENCH("rcu_enter + rcu_leave", 10000000, rcu_enter(); rcu_leave());
    BENCH("clock_now, virtual", 2000000, clock_now(clock));
    BENCH("timer_arm, one timer", 2000000, timer_arm(&timer, INT64_MAX - i));
    BENCH("timer_arm + timer_disarm", 2000000, timer_arm(&timer, i); timer_disarm(&timer));
    BENCH("one round of the loop for a due timer", 200000, unsigned long n = calls + 1;
          timer_arm(&other, 0); iterate_until(n));

    ping = bh_new(count, NULL);
    BENCH("bottom half, scheduled on the main thread", 200000, unsigned long n = calls + 1;
          bh_schedule(ping); iterate_until(n));
    pthread_t thread;
    pthread_create(&thread, NULL, answer_pings, NULL);
    BENCH("bottom half, there and back from another thread", 5000, round_trip());
    __atomic_store_n(&quit, 1, __ATOMIC_RELEASE);
    engine_unlock();
    pthread_join(thread, NULL);
    engine_lock();

    for (int k = 0; k < DEVICES; k++) {
        timer_setup(&devices[k].timer, clock, count, NULL);
        timer_arm(&devices[k].timer, INT64_MAX);
        devices[k].fifo_n = 16;
    }
    GBytes *bytes = save_devices();
    BENCH("saving the state of 20 devices", 20000, g_bytes_unref(save_devices()));
    BENCH("loading it", 20000, load_devices(bytes));
    printf("%-52s %10zu bytes\n", "its size", g_bytes_get_size(bytes));
    g_bytes_unref(bytes);
    BENCH("rcu_defer", 20000, rcu_defer(count, NULL));
    bh_free(ping);
    clock_free(clock);
    timer_disarm(&other);
    main_loop_finalize();
    return 0;
}

/*
 * What a vCPU's exits ask of its machine.
 */
#include "engine/machine/machine_priv.h"

static void triple_fault(Machine *m, const char *message)
{
    switch (m->on_triple_fault) {
    case ON_EVENT_PAUSE:
        machine_pause(m, message);
        break;
    case ON_EVENT_SHUTDOWN:
        machine_request_shutdown(m, message, 0);
        break;
    case ON_EVENT_DEFAULT:
    case ON_EVENT_RESET:
    default:
        machine_request_reset(m, message);
        break;
    }
}

void machine_system_event(void *opaque, VCpu *cpu, CpuSystemEvent event, const char *message)
{
    Machine *m = opaque;

    switch (event) {
    case CPU_SYSTEM_SHUTDOWN:
        machine_request_shutdown(m, message, 0);
        break;
    case CPU_SYSTEM_RESET:
        machine_request_reset(m, message);
        break;
    case CPU_SYSTEM_CRASH:
    case CPU_SYSTEM_PAUSE:
        machine_pause(m, message);
        break;
    case CPU_SYSTEM_TRIPLE_FAULT:
        triple_fault(m, message);
        break;
    case CPU_SYSTEM_ERROR:
    default:
        machine_fail(m, message);
        break;
    }
    /* Whatever comes of it on the main thread, this vCPU goes no further. */
    if (cpu) {
        cpu_request_stop(cpu);
    }
}

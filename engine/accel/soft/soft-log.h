/* Logging of the software CPU: callers ask log_enabled first. */
#pragma once

#include "engine/accel/soft/soft-priv.h"
#include "engine/core/log.h"

/* Before a delivery: LOG_INT. */
void soft_log_interrupt(const SoftCpu *c, unsigned vector, SoftIntKind kind, bool has_error,
                        uint32_t error, uint64_t next_rip);
void soft_log_triple_fault(const SoftCpu *c, unsigned vector);
/* A block at c->rip was decoded from these bytes: LOG_IN_ASM. */
void soft_log_block(const SoftCpu *c, const uint8_t *code, unsigned bytes);
/* The block at c->rip is about to run: LOG_EXEC. */
void soft_log_exec(const SoftCpu *c);

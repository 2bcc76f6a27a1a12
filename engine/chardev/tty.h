/*
 * The process' terminal in raw mode, put back on every way out: tty_leave_raw, exit, and signals
 * that end the process. Engine lock; one user at a time.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* `signals`: Ctrl-C and the like still raise signals. What the terminal prints is still processed,
 * so that lines from others look as ever. In the background nothing changes until the process is
 * in the foreground (SIGCONT). */
bool tty_enter_raw(int fd, bool signals, GError **error);
void tty_leave_raw(void); /* fine when not entered */
/* Async-signal-safe: puts the modes back, for a signal handler that is about to end the process. */
void tty_restore_in_signal(void);

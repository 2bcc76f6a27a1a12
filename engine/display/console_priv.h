/* Between console.c and console-text.c. */
#pragma once

#include "engine/display/surface.h"

void console_watch_due(void *opaque); /* a TimerFn; opaque: Console */
void console_watches_arm(Console *con);
void console_watches_check(Console *con);
void console_watches_soon(Console *con);
void console_watches_gone(Console *con);

/* What the keyboard controller shares with its devices. */
#pragma once

#include <stdint.h>

#define TYPE_I8042 "i8042"

/* Scan code set 2 as set 1: the table in the controller's ROM. Break codes get bit 7 from the F0
 * that comes before them. */
uint8_t i8042_translate(uint8_t code);

/* The interface of "mc146818rtc" besides its registers: what a board and scripts do with it. Engine
 * lock. */
#pragma once

#include "engine/hw/core/device.h"

#define TYPE_RTC       "mc146818rtc"
#define RTC_NVRAM_SIZE 256 /* the bank behind 0x70/0x71, then the one behind 0x72/0x73 */

enum {
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_DAY_OF_WEEK,
    RTC_DAY_OF_MONTH,
    RTC_MONTH,
    RTC_YEAR,
    RTC_REG_A,
    RTC_REG_B,
    RTC_REG_C,
    RTC_REG_D,
    RTC_CENTURY = 0x32,
};

/* A byte as a guest would see it (clock registers are brought up to date); reading has no side
 * effect. index < RTC_NVRAM_SIZE. */
uint8_t rtc_get_nvram(DeviceState *dev, unsigned index);
/* Registers of the clock (0 to 0x0d) are written as a guest would; the rest are bytes. */
void rtc_set_nvram(DeviceState *dev, unsigned index, uint8_t value);
/* The date and time that the registers hold, as seconds since 1970 in the calendar of the guest (no
 * time zone). */
int64_t rtc_get_time(DeviceState *dev);
void rtc_set_time(DeviceState *dev, int64_t seconds);

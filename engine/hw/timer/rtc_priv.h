/*
 * What the files of "mc146818rtc" share: how its registers show dates and times. `cmos` is the bank
 * behind 0x70/0x71.
 */
#pragma once

#include "engine/hw/timer/rtc.h"

#define RTC_DAY 86400 /* seconds */

enum {
    REG_B_SET = 0x80,
    REG_B_PIE = 0x40,
    REG_B_AIE = 0x20,
    REG_B_UIE = 0x10,
    REG_B_SQWE = 0x08,
    REG_B_DM = 0x04,
    REG_B_24H = 0x02,
};

typedef struct RtcDate {
    int64_t year;
    int month, day; /* from 1 */
} RtcDate;

static inline int64_t rtc_floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days since 1970-01-01. */
int64_t rtc_days_of_date(RtcDate d);
RtcDate rtc_date_of_days(int64_t days);

/* The date and time of the registers as seconds since 1970, day of the week included; what a guest
 * left there need not be a date. */
int64_t rtc_get_seconds(const uint8_t *cmos);
void rtc_put_seconds(uint8_t *cmos, int64_t seconds);
/* The clock goes on by n seconds (back, where the host's did). */
void rtc_advance(uint8_t *cmos, int64_t n);
/* From the second after this one to the next that matches the alarm; -1: never. */
int64_t rtc_seconds_to_alarm(const uint8_t *cmos);

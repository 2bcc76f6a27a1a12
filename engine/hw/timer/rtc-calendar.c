/*
 * The calendar of the real-time clock, and its bytes: BCD or binary, 12 or 24 hours, as register B
 * says (MC146818A data sheet, "Time, calendar and alarm locations").
 */
#include "engine/hw/timer/rtc_priv.h"

#define HOUR_PM   0x80
#define ALARM_ANY 0xc0 /* both bits: any value matches */

/* ---- the calendar -------------------------------------------------------------------------- */

/* Days since 1970-01-01; years begin in March, so that the leap day is the last of one. */
int64_t rtc_days_of_date(RtcDate d)
{
    int64_t y = d.year - (d.month <= 2), era = rtc_floor_div(y, 400), of_era = y - era * 400;
    int64_t of_year = (153 * (d.month + (d.month > 2 ? -3 : 9)) + 2) / 5 + d.day - 1;

    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

RtcDate rtc_date_of_days(int64_t days)
{
    int64_t z = days + 719468, era = rtc_floor_div(z, 146097), of_era = z - era * 146097;
    int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * y + y / 4 - y / 100), m = (5 * of_year + 2) / 153;
    RtcDate d = { .month = (int)(m < 10 ? m + 3 : m - 9) };

    d.day = (int)(of_year - (153 * m + 2) / 5 + 1);
    d.year = y + era * 400 + (d.month <= 2);
    return d;
}

/* ---- bytes of the clock --------------------------------------------------------------------- */

static uint8_t to_byte(const uint8_t *cmos, int value)
{
    return (uint8_t)(cmos[RTC_REG_B] & REG_B_DM ? value : value / 10 << 4 | value % 10);
}

static int from_byte(const uint8_t *cmos, uint8_t byte)
{
    return cmos[RTC_REG_B] & REG_B_DM ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t hour_to_byte(const uint8_t *cmos, int hour)
{
    if (cmos[RTC_REG_B] & REG_B_24H) {
        return to_byte(cmos, hour);
    }
    return (uint8_t)(to_byte(cmos, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static int hour_from_byte(const uint8_t *cmos, uint8_t byte)
{
    if (cmos[RTC_REG_B] & REG_B_24H) {
        return from_byte(cmos, byte);
    }
    return from_byte(cmos, byte & (uint8_t)~HOUR_PM) % 12 + (byte & HOUR_PM ? 12 : 0);
}

static int64_t time_of_day(const uint8_t *cmos)
{
    return from_byte(cmos, cmos[RTC_SECONDS]) + 60 * from_byte(cmos, cmos[RTC_MINUTES]) +
           3600 * hour_from_byte(cmos, cmos[RTC_HOURS]);
}

/* What a guest left there need not be a date. */
static int64_t register_days(const uint8_t *cmos)
{
    RtcDate d = {
        .year = from_byte(cmos, cmos[RTC_CENTURY]) * INT64_C(100) + from_byte(cmos, cmos[RTC_YEAR]),
        .month = CLAMP(from_byte(cmos, cmos[RTC_MONTH]), 1, 12),
        .day = CLAMP(from_byte(cmos, cmos[RTC_DAY_OF_MONTH]), 1, 31),
    };

    return rtc_days_of_date(d);
}

static void put_time_of_day(uint8_t *cmos, int64_t tod)
{
    cmos[RTC_SECONDS] = to_byte(cmos, (int)(tod % 60));
    cmos[RTC_MINUTES] = to_byte(cmos, (int)(tod / 60 % 60));
    cmos[RTC_HOURS] = hour_to_byte(cmos, (int)(tod / 3600));
}

static void put_date(uint8_t *cmos, int64_t days)
{
    RtcDate d = rtc_date_of_days(days);
    int64_t year = d.year - rtc_floor_div(d.year, 10000) * 10000;

    cmos[RTC_DAY_OF_MONTH] = to_byte(cmos, d.day);
    cmos[RTC_MONTH] = to_byte(cmos, d.month);
    cmos[RTC_YEAR] = to_byte(cmos, (int)(year % 100));
    cmos[RTC_CENTURY] = to_byte(cmos, (int)(year / 100));
}

static void put_day_of_week(uint8_t *cmos, int64_t from_sunday)
{
    cmos[RTC_DAY_OF_WEEK] = to_byte(cmos,
                                    (int)(from_sunday - rtc_floor_div(from_sunday, 7) * 7 + 1));
}

int64_t rtc_get_seconds(const uint8_t *cmos)
{
    return register_days(cmos) * RTC_DAY + time_of_day(cmos);
}

void rtc_put_seconds(uint8_t *cmos, int64_t seconds)
{
    int64_t days = rtc_floor_div(seconds, RTC_DAY);

    put_time_of_day(cmos, seconds - days * RTC_DAY);
    put_date(cmos, days);
    put_day_of_week(cmos, days + 4); /* 1970 began on a Thursday */
}

/* The clock goes on by n seconds (back, where the host's did). The day of the week is a counter of
 * its own: the guest says which number it begins with. */
void rtc_advance(uint8_t *cmos, int64_t n)
{
    int64_t tod = time_of_day(cmos) + n, days = rtc_floor_div(tod, RTC_DAY);

    put_time_of_day(cmos, tod - days * RTC_DAY);
    if (days) {
        put_day_of_week(cmos, from_byte(cmos, cmos[RTC_DAY_OF_WEEK]) - 1 + days);
        put_date(cmos, register_days(cmos) + days);
    }
}

/* An alarm byte as a value: -1 any, -2 none ever. */
static int alarm_value(const uint8_t *cmos, unsigned reg)
{
    uint8_t byte = cmos[reg];
    int value;

    if ((byte & ALARM_ANY) == ALARM_ANY) {
        return -1;
    }
    if (reg == RTC_HOURS_ALARM) {
        value = hour_from_byte(cmos, byte);
        return value < 24 && hour_to_byte(cmos, value) == byte ? value : -2;
    }
    value = from_byte(cmos, byte);
    return value < 60 && to_byte(cmos, value) == byte ? value : -2;
}

int64_t rtc_seconds_to_alarm(const uint8_t *cmos)
{
    int64_t from = (time_of_day(cmos) % RTC_DAY + 1) % RTC_DAY;
    int hour = alarm_value(cmos, RTC_HOURS_ALARM), minute = alarm_value(cmos, RTC_MINUTES_ALARM);
    int second = alarm_value(cmos, RTC_SECONDS_ALARM);
    int64_t first_minute = from / 60;

    if (hour == -2 || minute == -2 || second == -2) {
        return -1;
    }
    for (int64_t i = 0; i <= RTC_DAY / 60; i++) {
        int64_t at = (first_minute + i) % (RTC_DAY / 60), sec = i ? 0 : from % 60;

        if ((hour >= 0 && at / 60 != hour) || (minute >= 0 && at % 60 != minute)) {
            continue;
        }
        if (second < 0 || second >= sec) {
            return (first_minute + i) * 60 + (second < 0 ? sec : second) - from;
        }
    }
    return -1;
}

/* Shared by the files of the keyboard controller, and nobody else. */
#pragma once

#include "engine/hw/input/i8042.h"

#include "engine/hw/core/device.h"
#include "engine/hw/input/ps2.h"

enum {
    CTR_KBD_INT = 0x01,
    CTR_AUX_INT = 0x02,
    CTR_SYS = 0x04,
    CTR_KBD_OFF = 0x10,
    CTR_AUX_OFF = 0x20,
    CTR_TRANSLATE = 0x40,
    CTR_RESERVED = 0x80,
};
enum {
    CMD_READ_RAM = 0x20,
    CMD_WRITE_RAM = 0x60,
    CMD_PASSWORD_TEST = 0xa4,
    CMD_PASSWORD_LOAD = 0xa5,
    CMD_PASSWORD_ENABLE = 0xa6,
    CMD_AUX_DISABLE = 0xa7,
    CMD_AUX_ENABLE = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KBD_TEST = 0xab,
    CMD_DUMP = 0xac,
    CMD_KBD_DISABLE = 0xad,
    CMD_KBD_ENABLE = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_POLL_INPUT_LOW = 0xc1,
    CMD_POLL_INPUT_HIGH = 0xc2,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_WRITE_KBD_BUFFER = 0xd2,
    CMD_WRITE_AUX_BUFFER = 0xd3,
    CMD_WRITE_AUX = 0xd4,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_READ_TEST = 0xe0,
    CMD_PULSE = 0xf0,
};
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_OBF = 0x10, OUT_AUX_OBF = 0x20, OUT_ONES = 0xcc };
enum {
    TEST_OK = 0x55,
    NO_PASSWORD = 0xf1,
    INPUT_PORT = 0xb0, /* not locked, MDA jumper off, no manufacturing mode, more RAM */
    NO_DEVICE = 0xfe,
};
enum { SOURCE_NONE, SOURCE_CONTROLLER, SOURCE_KBD, SOURCE_AUX };
#define REPLIES 4
#define CTR     0 /* the command byte is the first of the RAM */

typedef struct I8042Reply {
    uint8_t byte;
    bool aux, timeout;
} I8042Reply;

typedef struct I8042State {
    DeviceState parent;
    MemoryRegion io_data, io_command;
    Irq *kbd_irq, *aux_irq, *a20, *key;
    Ps2Keyboard kbd;
    Ps2Mouse mouse;
    Timer throttle_timer; /* armed: the wire is busy with the next byte that nobody asked for */
    uint8_t ram[32];
    uint8_t command; /* the one whose argument is awaited; 0: none */
    uint8_t output;  /* what was last read, or waits to be: port 0x60 */
    uint8_t source;  /* SOURCE_*: whose byte `output` is; NONE: it was read */
    bool aux, timeout, last_was_command;
    bool break_prefix; /* translating: F0 has passed */
    bool polling;      /* C1, C2: bits of the input port in the status */
    uint8_t polled, output_port;
    I8042Reply reply[REPLIES];
    uint32_t reply_count;
    bool working; /* i8042_update is at work further up the stack */
    /* properties */
    uint32_t throttle_us;
    bool has_mouse;
} I8042State;
OBJECT_DECLARE_TYPE(I8042State, DeviceClass, I8042, TYPE_I8042)

/* ---- i8042-command.c ----------------------------------------------------------------------- */

bool i8042_takes_argument(uint8_t command);
void i8042_command(I8042State *s, uint8_t command);
void i8042_argument(I8042State *s, uint8_t value); /* of s->command */
void i8042_set_ctr_bit(I8042State *s, uint8_t bit, bool on);

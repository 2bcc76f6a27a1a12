/* The commands of the keyboard controller: port 0x64, and arguments at port 0x60. See i8042.c. */
#include "engine/hw/input/i8042-priv.h"

#include "engine/core/log.h"

static void reply(I8042State *s, uint8_t byte, bool aux, bool timeout)
{
    if (s->reply_count < REPLIES) {
        s->reply[s->reply_count++] = (I8042Reply){ byte, aux, timeout };
    }
}

static void set_output_port(I8042State *s, uint8_t value)
{
    bool a20 = value & OUT_A20;

    s->output_port = value & (OUT_RESET | OUT_A20);
    if (irq_level(s->a20) != a20) {
        irq_set(s->a20, a20);
    }
    if (!(value & OUT_RESET)) {
        machine_request_reset(s->parent.machine, "keyboard controller reset");
    }
}

static uint8_t get_output_port(const I8042State *s)
{
    uint8_t obf = s->source == SOURCE_NONE ? 0 : s->aux ? OUT_AUX_OBF : OUT_OBF;

    return (uint8_t)(s->output_port | OUT_ONES | obf);
}

void i8042_set_ctr_bit(I8042State *s, uint8_t bit, bool on)
{
    s->ram[CTR] = (uint8_t)(on ? s->ram[CTR] | bit : s->ram[CTR] & ~bit);
}

bool i8042_takes_argument(uint8_t command)
{
    return (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + 32) ||
           command == CMD_PASSWORD_LOAD ||
           (command >= CMD_WRITE_OUTPUT && command <= CMD_WRITE_AUX);
}

void i8042_command(I8042State *s, uint8_t command)
{
    s->command = i8042_takes_argument(command) ? command : 0;
    s->polling = false;
    if (s->command) {
        return;
    }
    if (command >= CMD_READ_RAM && command < CMD_READ_RAM + 32) {
        reply(s, s->ram[command - CMD_READ_RAM], false, false);
        return;
    }
    if (command >= CMD_PULSE) {
        if (!(command & OUT_RESET)) {
            machine_request_reset(s->parent.machine, "keyboard controller reset");
        }
        return;
    }
    switch (command) {
    case CMD_PASSWORD_TEST:
        reply(s, NO_PASSWORD, false, false);
        break;
    case CMD_AUX_DISABLE:
    case CMD_AUX_ENABLE:
        i8042_set_ctr_bit(s, CTR_AUX_OFF, command == CMD_AUX_DISABLE);
        break;
    case CMD_KBD_DISABLE:
    case CMD_KBD_ENABLE:
        i8042_set_ctr_bit(s, CTR_KBD_OFF, command == CMD_KBD_DISABLE);
        break;
    case CMD_AUX_TEST:
    case CMD_KBD_TEST:
        reply(s, 0, false, false);
        break;
    case CMD_SELF_TEST:
        i8042_set_ctr_bit(s, CTR_SYS, true);
        reply(s, TEST_OK, false, false);
        break;
    case CMD_READ_INPUT:
        reply(s, INPUT_PORT, false, false);
        break;
    case CMD_POLL_INPUT_LOW:
    case CMD_POLL_INPUT_HIGH:
        s->polling = true;
        s->polled = (uint8_t)(command == CMD_POLL_INPUT_LOW ? INPUT_PORT << 4 : INPUT_PORT & 0xf0);
        break;
    case CMD_READ_OUTPUT:
        reply(s, get_output_port(s), false, false);
        break;
    case CMD_A20_OFF:
    case CMD_A20_ON:
        set_output_port(s, (uint8_t)(OUT_RESET | (command == CMD_A20_ON ? OUT_A20 : 0)));
        break;
    case CMD_READ_TEST: /* the clock lines: high unless their device is held off */
        reply(s, (s->ram[CTR] & CTR_KBD_OFF ? 0 : 1) | (s->ram[CTR] & CTR_AUX_OFF ? 0 : 2), false,
              false);
        break;
    case CMD_PASSWORD_ENABLE:
    case CMD_DUMP:
        log_of(s, LOG_UNIMP, "i8042: command %#x", command);
        break;
    default:
        log_of(s, LOG_GUEST, "i8042: unknown command %#x", command);
        break;
    }
}

static void write_aux(I8042State *s, uint8_t value)
{
    i8042_set_ctr_bit(s, CTR_AUX_OFF, false);
    if (s->has_mouse) {
        ps2_mouse_write(&s->mouse, value);
    } else {
        reply(s, NO_DEVICE, true, true);
    }
}

void i8042_argument(I8042State *s, uint8_t value)
{
    uint8_t command = s->command;

    s->command = 0;
    switch (command) {
    case CMD_PASSWORD_LOAD: /* up to a zero */
        s->command = value ? command : 0;
        break;
    case CMD_WRITE_OUTPUT:
        set_output_port(s, value);
        break;
    case CMD_WRITE_KBD_BUFFER:
        reply(s, value, false, false);
        break;
    case CMD_WRITE_AUX_BUFFER:
        reply(s, value, true, false);
        break;
    case CMD_WRITE_AUX:
        write_aux(s, value);
        break;
    default:
        s->ram[command - CMD_WRITE_RAM] = value;
        s->ram[CTR] &= (uint8_t)~CTR_RESERVED;
        break;
    }
}

/* The DMA controllers: registers, addresses and pages, modes, masks, terminal count, hostile
 * guests, state. */
#include "engine/hw/dma/isa-dma.h"
#include "tests/unit/intc_rig.h"

static DeviceState *dma;
static MemoryRegion ram;
static unsigned ready_calls;
static uint8_t *memory;

static void on_ready(void *opaque)
{
    ready_calls++;
}

static void setup(void)
{
    machine_setup();
    ck_assert(memory_region_init_ram(&ram, OBJECT(machine), "ram", 16 << 20, NULL));
    memory_region_add_subregion(&machine->memory_root, 0, &ram);
    memory = memory_region_get_ram_ptr(&ram);
    dma = device_make(TYPE_ISA_DMA, "dma");
    ready_calls = 0;
}

static void teardown(void)
{
    memory_region_del_subregion(&machine->memory_root, &ram);
    memory_region_finalize(&ram);
    machine_teardown();
}

static const unsigned page_port[] = { 0x87, 0x83, 0x81, 0x82, 0x8f, 0x8b, 0x89, 0x8a };

static unsigned port(unsigned channel, unsigned reg)
{
    return channel < 4 ? reg : 0xc0 + 2 * reg;
}

static void put16(unsigned channel, unsigned reg, unsigned value)
{
    outb(port(channel, reg), value & 0xff);
    outb(port(channel, reg), value >> 8);
}

static unsigned get16(unsigned channel, unsigned reg)
{
    unsigned low = inb(port(channel, reg));

    return low | inb(port(channel, reg)) << 8;
}

/* address and count in units of the channel. */
static void program(unsigned channel, unsigned mode, unsigned page, unsigned address,
                    unsigned count)
{
    unsigned reg = 2 * (channel & 3);

    outb(port(channel, 10), 4 | (channel & 3));
    outb(port(channel, 12), 0);
    outb(port(channel, 11), mode | (channel & 3));
    outb(page_port[channel], page);
    put16(channel, reg, address);
    put16(channel, reg + 1, count);
    outb(port(channel, 10), channel & 3);
}

START_TEST(address_count_and_pages_read_back)
{
    for (unsigned n = 0; n < 8; n++) {
        unsigned reg = 2 * (n & 3);

        outb(port(n, 12), 0);
        put16(n, reg, 0x1234 + n);
        put16(n, reg + 1, 0x5678 + n);
        outb(page_port[n], 0xa0 + n);
        ck_assert_uint_eq(get16(n, reg), 0x1234 + n);
        ck_assert_uint_eq(get16(n, reg + 1), 0x5678 + n);
        ck_assert_uint_eq(inb(page_port[n]), 0xa0 + n);
    }
    inb(0);
    outb(0x0c, 0); /* the flip-flop is back at the low byte */
    ck_assert_uint_eq(get16(0, 0), 0x1234);
    for (unsigned p = 0x81; p < 0x90; p++) {
        outb(p, p);
        ck_assert_uint_eq(inb(p), p);
    }
}
END_TEST

START_TEST(after_reset_and_master_clear_channels_are_masked)
{
    ck_assert_uint_eq(inb(0x0f) & 15, 15);
    ck_assert_uint_eq(inb(0xde) & 15, 14); /* the cascade is open */
    outb(0x0f, 0x05);
    ck_assert_uint_eq(inb(0x0f) & 15, 5);
    outb(0x0a, 0x00);
    ck_assert_uint_eq(inb(0x0f) & 15, 4);
    outb(0x0a, 0x07);
    ck_assert_uint_eq(inb(0x0f) & 15, 12);
    outb(0x0e, 0);
    ck_assert_uint_eq(inb(0x0f) & 15, 0);
    outb(0x0d, 0);
    ck_assert_uint_eq(inb(0x0f) & 15, 15);
}
END_TEST

START_TEST(a_device_writes_into_memory_until_the_terminal_count)
{
    bool terminal;

    program(2, 0x44, 0x05, 0x1000, 9);
    ck_assert(isa_dma_ready(dma, 2));
    ck_assert_int_eq(isa_dma_direction(dma, 2), ISA_DMA_TO_MEMORY);
    ck_assert_uint_eq(isa_dma_write(dma, 2, "abcdef", 6, &terminal), 6);
    ck_assert(!terminal);
    ck_assert_uint_eq(inb(0x08) & 15, 0);
    ck_assert_uint_eq(get16(2, 4), 0x1006);
    ck_assert_uint_eq(get16(2, 5), 3);
    ck_assert_uint_eq(isa_dma_write(dma, 2, "ghijkl", 6, &terminal), 4);
    ck_assert(terminal);
    ck_assert_mem_eq(memory + 0x51000, "abcdefghij\0", 11);
    ck_assert(!isa_dma_ready(dma, 2)); /* masked by the terminal count */
    ck_assert_uint_eq(isa_dma_write(dma, 2, "x", 1, &terminal), 0);
    ck_assert_uint_eq(inb(0x08) & 15, 4);
    ck_assert_uint_eq(inb(0x08) & 15, 0); /* a read clears it */
    ck_assert_uint_eq(get16(2, 5), 0xffff);
}
END_TEST

START_TEST(a_device_reads_from_memory)
{
    uint8_t buf[8] = { 0 };
    bool terminal;

    memcpy(memory + 0x20010, "12345678", 8);
    program(1, 0x48, 0x02, 0x0010, 7);
    ck_assert_uint_eq(isa_dma_read(dma, 1, buf, 8, &terminal), 8);
    ck_assert(terminal);
    ck_assert_mem_eq(buf, "12345678", 8);
}
END_TEST

START_TEST(words_have_addresses_in_words_and_pages_of_128k)
{
    uint8_t buf[8] = { 0 };
    bool terminal;

    memcpy(memory + 0x68000, "ABCDEFGH", 8);
    program(5, 0x48, 0x07, 0x4000, 3); /* bit 0 of the page does not count */
    ck_assert_uint_eq(isa_dma_read(dma, 5, buf, 4, &terminal), 4);
    ck_assert_uint_eq(get16(5, 3), 1);
    ck_assert_uint_eq(isa_dma_read(dma, 5, buf + 4, 4, &terminal), 4);
    ck_assert(terminal);
    ck_assert_mem_eq(buf, "ABCDEFGH", 8);
}
END_TEST

START_TEST(addresses_wrap_within_their_page_and_count_down_when_told)
{
    bool terminal;

    program(2, 0x44, 0x03, 0xfffe, 3);
    isa_dma_write(dma, 2, "wxyz", 4, &terminal);
    ck_assert_mem_eq(memory + 0x3fffe, "wx", 2);
    ck_assert_mem_eq(memory + 0x30000, "yz", 2);
    program(2, 0x64, 0x04, 0x0001, 3);
    isa_dma_write(dma, 2, "wxyz", 4, &terminal);
    ck_assert(terminal);
    ck_assert_mem_eq(memory + 0x40000, "xw", 2);
    ck_assert_mem_eq(memory + 0x4fffe, "zy", 2);
}
END_TEST

START_TEST(auto_initialise_starts_again)
{
    bool terminal;

    program(3, 0x54, 0x01, 0x0100, 3);
    ck_assert_uint_eq(isa_dma_write(dma, 3, "abcdef", 6, &terminal), 4);
    ck_assert(terminal);
    ck_assert(isa_dma_ready(dma, 3));
    ck_assert_uint_eq(get16(3, 6), 0x0100);
    ck_assert_uint_eq(get16(3, 7), 3);
    isa_dma_write(dma, 3, "EF", 2, &terminal);
    ck_assert_mem_eq(memory + 0x10100, "EFcd", 4);
}
END_TEST

START_TEST(verify_and_the_wrong_direction_count_and_move_nothing)
{
    uint8_t buf[4] = "keep";
    bool terminal;

    program(2, 0x40, 0x01, 0x0200, 3);
    ck_assert_uint_eq(isa_dma_write(dma, 2, "abcd", 4, &terminal), 4);
    ck_assert(terminal);
    ck_assert_mem_eq(memory + 0x10200, "\0\0\0\0", 4);
    program(2, 0x44, 0x01, 0x0200, 3);
    ck_assert_uint_eq(isa_dma_read(dma, 2, buf, 4, &terminal), 4);
    ck_assert_mem_eq(buf, "keep", 4);
}
END_TEST

START_TEST(a_device_is_told_when_its_channel_opens)
{
    ck_assert(isa_dma_attach(dma, 2, on_ready, NULL));
    ck_assert(!isa_dma_attach(dma, 2, on_ready, NULL));
    ck_assert(!isa_dma_attach(dma, 4, on_ready, NULL));
    program(2, 0x44, 1, 0, 9);
    ck_assert_uint_eq(ready_calls, 1);
    outb(0x0a, 0x02); /* it is open already */
    ck_assert_uint_eq(ready_calls, 1);
    outb(0x08, 0x04); /* controller off */
    ck_assert(!isa_dma_ready(dma, 2));
    outb(0x08, 0x00);
    ck_assert_uint_eq(ready_calls, 2);
    outb(0xd4, 0x04); /* the cascade closed */
    ck_assert(!isa_dma_ready(dma, 2));
    outb(0xd4, 0x00);
    ck_assert_uint_eq(ready_calls, 3);
    isa_dma_set_request(dma, 2, true);
    ck_assert_uint_eq(inb(0x08), 0x40);
    isa_dma_detach(dma, 2);
    ck_assert_uint_eq(inb(0x08), 0x00);
}
END_TEST

START_TEST(a_software_request_runs_to_its_end)
{
    program(1, 0x84, 0x01, 0x0300, 1);
    memory[0x10302] = 0x55;
    outb(0x09, 0x05);
    ck_assert_uint_eq(inb(0x08), 0x02);
    ck_assert_uint_eq(memory[0x10300], 0xff);
    ck_assert_uint_eq(memory[0x10301], 0xff);
    ck_assert_uint_eq(memory[0x10302], 0x55);
}
END_TEST

START_TEST(a_debuggers_read_disturbs_nothing)
{
    bool terminal;

    program(2, 0x44, 0x01, 0x1234, 0);
    ck_assert_uint_eq(address_space_ldn(machine->io, 4, 1, MEMTXATTRS_DEBUG, NULL), 0x34);
    ck_assert_uint_eq(get16(2, 4), 0x1234);
    isa_dma_write(dma, 2, "a", 1, &terminal);
    ck_assert_uint_eq(address_space_ldn(machine->io, 8, 1, MEMTXATTRS_DEBUG, NULL), 4);
    ck_assert_uint_eq(inb(8), 4);
}
END_TEST

START_TEST(state_saved_in_the_middle_of_a_transfer_goes_on)
{
    bool terminal;

    program(2, 0x44, 0x06, 0x0000, 7);
    isa_dma_write(dma, 2, "1234", 4, &terminal);
    inb(4);
    g_autoptr(GBytes) saved = save_device(dma);
    device_reset(dma);
    ck_assert(!isa_dma_ready(dma, 2));
    ck_assert(load_device(dma, saved));
    ck_assert_uint_eq(inb(4), 0x00); /* the high byte is next */
    ck_assert_uint_eq(isa_dma_write(dma, 2, "5678", 5, &terminal), 4);
    ck_assert(terminal);
    ck_assert_mem_eq(memory + 0x60000, "12345678", 8);
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    GRand *rand = g_rand_new_with_seed(8237);
    uint8_t buf[600];
    bool terminal;

    for (unsigned n = 0; n < 8; n++) {
        isa_dma_attach(dma, n, on_ready, NULL);
    }
    for (unsigned i = 0; i < 100000; i++) {
        static const unsigned base[] = { 0x00, 0x80, 0xc0 };
        unsigned p = base[g_rand_int(rand) % 3] + g_rand_int(rand) % 32;

        if (g_rand_int(rand) % 3) {
            outb(p, g_rand_int(rand) & 0xff);
        } else {
            address_space_ldn(machine->io, p, 1u << g_rand_int(rand) % 3, MEMTXATTRS_NONE, NULL);
        }
        if (i % 4 == 0) {
            unsigned n = g_rand_int(rand) % 8;
            size_t len = g_rand_int(rand) % sizeof(buf);

            ck_assert_uint_le(isa_dma_write(dma, n, buf, len, &terminal), len);
            ck_assert_uint_le(isa_dma_read(dma, n, buf, len, &terminal), len);
        }
    }
    g_rand_free(rand);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, address_count_and_pages_read_back);
    tcase_add_test(tc, after_reset_and_master_clear_channels_are_masked);
    tcase_add_test(tc, a_device_writes_into_memory_until_the_terminal_count);
    tcase_add_test(tc, a_device_reads_from_memory);
    tcase_add_test(tc, words_have_addresses_in_words_and_pages_of_128k);
    tcase_add_test(tc, addresses_wrap_within_their_page_and_count_down_when_told);
    tcase_add_test(tc, auto_initialise_starts_again);
    tcase_add_test(tc, verify_and_the_wrong_direction_count_and_move_nothing);
    tcase_add_test(tc, a_device_is_told_when_its_channel_opens);
    tcase_add_test(tc, a_software_request_runs_to_its_end);
    tcase_add_test(tc, a_debuggers_read_disturbs_nothing);
    tcase_add_test(tc, state_saved_in_the_middle_of_a_transfer_goes_on);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("isa-dma", setup, teardown, add);
}

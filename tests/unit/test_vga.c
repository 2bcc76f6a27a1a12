/* The standard VGA's registers and memory: read-back, state machines, every write and read mode
 * against a naive model, windows that are plain memory, VBE, hostile guests, state. */
#include "tests/unit/vga_rig.h"

START_TEST(registers_read_back_without_their_reserved_bits)
{
    static const uint8_t seq_bits[] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
    static const uint8_t gc_bits[] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };

    outb(0x3c2, 0x67);
    ck_assert_uint_eq(inb(0x3cc), 0x67);
    for (unsigned i = 0; i < 5; i++) {
        seq(i, 0xff);
        ck_assert_uint_eq(inb(0x3c5), seq_bits[i]);
        seq(i, 0);
        ck_assert_uint_eq(inb(0x3c5), 0);
    }
    for (unsigned i = 0; i < 9; i++) {
        gc(i, 0xff);
        ck_assert_uint_eq(inb(0x3cf), gc_bits[i]);
        gc(i, 0);
    }
    for (unsigned i = 0; i < 25; i++) {
        crtc(0x11, 0);
        crtc(i, 0x5a);
        ck_assert_uint_eq(inb(0x3d5), 0x5a);
    }
    seq(9, 0xff); /* no such register: nothing happens */
    ck_assert_uint_eq(inb(0x3c5), 0);
    outb(0x3da, 0xff);
    ck_assert_uint_eq(inb(0x3ca), 0x0b);
}
END_TEST

START_TEST(only_the_selected_crtc_ports_are_there)
{
    outb(0x3c2, 0x01);
    crtc(0x0f, 0x12);
    ck_assert_uint_eq(inb(0x3d5), 0x12);
    ck_assert_uint_eq(inb(0x3b4), 0xff);
    ck_assert_uint_eq(inb(0x3ba), 0xff);
    outb(0x3c2, 0x00);
    ck_assert_uint_eq(inb(0x3d5), 0xff);
    ck_assert_uint_eq(inb(0x3b4), 0x0f);
    ck_assert_uint_eq(inb(0x3b5), 0x12);
}
END_TEST

START_TEST(a_word_writes_index_and_data)
{
    outb(0x3c2, 0x01);
    address_space_stn(machine->io, 0x3d4, 0x340e, 2, MEMTXATTRS_NONE, NULL);
    address_space_stn(machine->io, 0x3c4, 0x0902, 2, MEMTXATTRS_NONE, NULL);
    outb(0x3d4, 0x0e);
    ck_assert_uint_eq(inb(0x3d5), 0x34);
    ck_assert_uint_eq(inb(0x3c5), 0x09);
}
END_TEST

START_TEST(the_first_crtc_registers_can_be_protected_but_for_line_compare)
{
    outb(0x3c2, 0x01);
    crtc(0x00, 0x5f);
    crtc(0x07, 0x0f);
    crtc(0x11, 0x80);
    crtc(0x00, 0x11);
    ck_assert_uint_eq(inb(0x3d5), 0x5f);
    crtc(0x07, 0xf0);
    ck_assert_uint_eq(inb(0x3d5), 0x1f);
    crtc(0x08, 0x05);
    ck_assert_uint_eq(inb(0x3d5), 0x05);
}
END_TEST

START_TEST(the_attribute_controller_takes_index_and_data_in_turn)
{
    outb(0x3c2, 0x01);
    inb(0x3da);
    outb(0x3c0, 0x10);
    outb(0x3c0, 0x2c);
    outb(0x3c0, 0x13); /* an index again */
    ck_assert_uint_eq(inb(0x3c0), 0x13);
    outb(0x3d4, 0x24);
    ck_assert_uint_eq(inb(0x3d5), 0x80);
    inb(0x3da); /* the next one is an index */
    ck_assert_uint_eq(inb(0x3d5), 0x00);
    outb(0x3c0, 0x30);
    ck_assert_uint_eq(inb(0x3c1), 0x2c);
    outb(0x3c0, 0x0c);
    ck_assert_uint_eq(inb(0x3c1), 0x0c);
    ck_assert_uint_eq(inb(0x3c0), 0x30);
}
END_TEST

START_TEST(the_dac_counts_components_and_entries)
{
    dac(254, 1, 2, 3);
    outb(0x3c9, 0xc4); /* 255; six bits */
    outb(0x3c9, 5);
    outb(0x3c9, 6);
    outb(0x3c9, 7); /* 0 */
    outb(0x3c9, 8);
    ck_assert_uint_eq(inb(0x3c7), 0);
    outb(0x3c7, 254);
    ck_assert_uint_eq(inb(0x3c7), 3);
    for (unsigned i = 1; i <= 6; i++) {
        ck_assert_uint_eq(inb(0x3c9), i);
    }
    ck_assert_uint_eq(inb(0x3c9), 0); /* two of three written: not taken yet */
    ck_assert_uint_eq(address_space_ldn(machine->io, 0x3c9, 1, MEMTXATTRS_DEBUG, NULL), 0);
    dac(0, 7, 8, 9);
    outb(0x3c7, 0);
    ck_assert_uint_eq(address_space_ldn(machine->io, 0x3c9, 1, MEMTXATTRS_DEBUG, NULL), 7);
    ck_assert_uint_eq(inb(0x3c9), 7); /* a debugger's read did not count */
}
END_TEST

static unsigned retraces(int64_t ns)
{
    unsigned n = 0;
    bool was = true;

    for (int64_t t = 0; t < ns; t += 10000) {
        bool is;

        now_ns += 10000;
        is = inb(crtc_base() + 6) & 8;
        n += is && !was;
        was = is;
    }
    return n;
}

START_TEST(the_beam_moves_with_the_machines_clock)
{
    unsigned first;

    set_mode(&mode_03);
    ck_assert_uint_eq(retraces(1000000000), 70);
    set_mode(&mode_12);
    ck_assert_uint_ge(retraces(1000000000), 59);
    first = inb(0x3da);
    ck_assert_uint_eq(inb(0x3da), first); /* the clock stands */
    for (unsigned i = 0; i < 25; i++) {   /* nonsense: a guest that waits gets its retrace */
        crtc(0x11, 0);
        crtc(i, 0xff);
        ck_assert_uint_ge(retraces(200000000), 1);
    }
}
END_TEST

/* ---- memory against a naive model ------------------------------------------------------------ */

typedef struct Model {
    uint8_t plane[4][65536], latch[4];
    uint8_t seq[5], gc[9];
} Model;

static Model model;

static bool in_window(unsigned at)
{
    switch (model.gc[6] >> 2) {
    case 0:
        return true;
    case 1:
        return at < 0x10000;
    case 2:
        return at >= 0x10000 && at < 0x18000;
    default:
        return at >= 0x18000;
    }
}

static unsigned model_offset(unsigned at)
{
    unsigned base[4] = { 0, 0, 0x10000, 0x18000 }, a = at - base[model.gc[6] >> 2];

    if (model.seq[4] & 8) {
        return (a & 0xfffc) + (a / 0x10000);
    }
    if (model.gc[6] & 2) {
        return (a & 0xfffe) + (a / 0x10000);
    }
    return a % 0x10000;
}

static unsigned model_read(unsigned at, bool direct)
{
    unsigned o = model_offset(at), value = 0, plane = model.gc[4];
    uint8_t four[4];

    for (unsigned p = 0; p < 4; p++) {
        four[p] = model.plane[p][o];
    }
    if (!direct) {
        memcpy(model.latch, four, 4);
    }
    if (model.seq[4] & 8) {
        return four[at & 3];
    }
    if (model.gc[5] & 8) {
        for (unsigned bit = 0; bit < 8; bit++) {
            bool same = true;

            for (unsigned p = 0; p < 4; p++) {
                if ((model.gc[7] >> p & 1) && (four[p] >> bit & 1) != (model.gc[2] >> p & 1)) {
                    same = false;
                }
            }
            value |= (unsigned)same << bit;
        }
        return value;
    }
    if (model.gc[5] & 0x10) {
        plane = (plane & 2) + (at & 1);
    }
    return four[plane];
}

static bool model_bit(unsigned p, unsigned bit, unsigned data)
{
    unsigned turned = (data | data << 8) >> (model.gc[3] & 7) & 0xff;
    bool in, old = model.latch[p] >> bit & 1, masked = model.gc[8] >> bit & 1;

    switch (model.gc[5] & 3) {
    case 0:
        in = model.gc[1] >> p & 1 ? model.gc[0] >> p & 1 : turned >> bit & 1;
        break;
    case 1:
        return old;
    case 2:
        in = data >> p & 1;
        break;
    default:
        in = model.gc[0] >> p & 1;
        masked &= turned >> bit & 1;
        break;
    }
    switch (model.gc[3] >> 3) {
    case 1:
        in &= old;
        break;
    case 2:
        in |= old;
        break;
    case 3:
        in ^= old;
        break;
    default:
        break;
    }
    return masked ? in : old;
}

static void model_write(unsigned at, unsigned data)
{
    unsigned o = model_offset(at);

    for (unsigned p = 0; p < 4; p++) {
        unsigned value = 0;

        if (!(model.seq[2] >> p & 1) || ((model.seq[4] & 8) && (at & 3) != p) ||
            (!(model.seq[4] & 12) && (at & 1) != (p & 1))) {
            continue;
        }
        for (unsigned bit = 0; bit < 8; bit++) {
            value |= (unsigned)model_bit(p, bit, data) << bit;
        }
        model.plane[p][o] = (uint8_t)value;
    }
}

static void model_seq(unsigned i, unsigned v)
{
    seq(i, v);
    model.seq[i] = (uint8_t)inb(0x3c5);
}

static void model_gc(unsigned i, unsigned v)
{
    gc(i, v);
    model.gc[i] = (uint8_t)inb(0x3cf);
}

/* Registers as guests have them, with a random one changed now and then. */
static void model_config(GRand *rand)
{
    static const BiosMode *const modes[] = { &mode_03, &mode_07, &mode_04, &mode_06,
                                             &mode_0d, &mode_12, &mode_13 };
    const BiosMode *m = modes[g_rand_int(rand) % G_N_ELEMENTS(modes)];

    switch (g_rand_int(rand) % 8) {
    case 0:
        for (unsigned i = 1; i < 5; i++) {
            model_seq(i, m->seq[i - 1]);
        }
        for (unsigned i = 0; i < 9; i++) {
            model_gc(i, m->gc[i]);
        }
        break;
    case 1:
        model_seq(2, g_rand_int(rand));
        break;
    case 2:
        model_seq(4, g_rand_int(rand));
        break;
    case 3:
        model_gc(8, g_rand_boolean(rand) ? 0xff : g_rand_int(rand));
        break;
    case 4:
        model_gc(3, g_rand_boolean(rand) ? 0 : g_rand_int(rand));
        break;
    default:
        model_gc(g_rand_int(rand) % 9, g_rand_int(rand));
        break;
    }
}

START_TEST(every_read_and_write_mode_does_as_a_naive_model_does)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1987);
    unsigned direct_accesses = 0;

    memset(&model, 0, sizeof(model));
    outb(0x3c2, 0x63);
    for (unsigned i = 0; i < 400000; i++) {
        unsigned at, data = g_rand_int(rand) & 0xff;
        hwaddr addr;
        bool direct;

        if (g_rand_int(rand) % 16 == 0) {
            model_config(rand);
        }
        /* Few addresses, so that what is written is read. */
        at = (g_rand_int(rand) & 0x18000) | (g_rand_int(rand) % 64);
        addr = VGA_WINDOW_BASE + at;
        if (!in_window(at)) {
            ck_assert_uint_eq(readb(addr), 0xff);
            continue;
        }
        direct = is_direct(addr);
        direct_accesses += direct;
        if (g_rand_boolean(rand)) {
            unsigned is = readb(addr), ought = model_read(at, direct);

            ck_assert_msg(is == ought, "access %u, at %#x: %#x instead of %#x", i, at, is, ought);
        } else {
            writeb(addr, data);
            model_write(at, data);
        }
    }
    ck_assert_uint_ge(direct_accesses, 4000); /* both ways are in the test */
    ck_assert_uint_le(direct_accesses, 300000);
    for (unsigned o = 0; o < 65536; o++) {
        uint32_t four = vga_fetch(vga, o);

        for (unsigned p = 0; p < 4; p++) {
            ck_assert_uint_eq(four >> (8 * p) & 0xff, model.plane[p][o]);
        }
    }
}
END_TEST

START_TEST(text_and_chain_4_are_plain_memory_for_the_guest)
{
    set_mode(&mode_03);
    ck_assert(is_direct(0xb8000) && is_direct(0xbffff) && !is_direct(0xb7fff));
    ck_assert(!is_direct(0xa0000));
    writeb(0xb8000, 'A');
    writeb(0xb8001, 0x1e);
    ck_assert_uint_eq(vga_fetch(vga, 0) & 0xffff, 0x1e41);
    /* A font is loaded as the BIOS does it, and text is there again. */
    seq(2, 4);
    seq(4, 7);
    gc(5, 0);
    gc(6, 4);
    ck_assert(!is_direct(0xa0000));
    writeb(0xa0000 + 32 * 'A', 0x18);
    seq(2, 3);
    seq(4, 3);
    gc(5, 0x10);
    gc(6, 0x0e);
    ck_assert(is_direct(0xb8000));
    ck_assert_uint_eq(readb(0xb8000), 'A');
    ck_assert_uint_eq(vga_fetch(vga, 32 * 'A') >> 16 & 0xff, 0x18);
    set_mode(&mode_13);
    ck_assert(is_direct(0xa0000) && is_direct(0xaffff) && !is_direct(0xb0000));
    writeb(0xa0005, 0x77);
    ck_assert_uint_eq(vga_fetch(vga, 4), 0x7700);
    set_mode(&mode_12);
    ck_assert(!is_direct(0xa0000));
    outb(0x3c2, 0x61); /* memory off */
    ck_assert_uint_eq(readb(0xa0000), 0xff);
    outb(0x3c2, 0x63);
    outb(0x3c3, 0); /* all of it off */
    ck_assert_uint_eq(readb(0xa0000), 0xff);
    ck_assert_uint_eq(inb(0x3cc), 0xff);
    outb(0x3c3, 1);
    ck_assert_uint_eq(inb(0x3cc), 0x63);
}
END_TEST

START_TEST(mode_x_writes_four_pixels_at_once)
{
    set_mode(&mode_13);
    seq(4, 6);
    seq(2, 15);
    writeb(0xa0010, 0x42);
    ck_assert_uint_eq(vga_fetch(vga, 0x10), 0x42424242);
    seq(2, 4);
    writeb(0xa0010, 0x01);
    ck_assert_uint_eq(vga_fetch(vga, 0x10), 0x42014242);
    gc(4, 2);
    ck_assert_uint_eq(readb(0xa0010), 0x01);
}
END_TEST

/* ---- VBE --------------------------------------------------------------------------------------
 */

static void vbe_mode(unsigned width, unsigned height, unsigned bpp, unsigned flags)
{
    dispi(VBE_ENABLE, 0);
    dispi(VBE_XRES, width);
    dispi(VBE_YRES, height);
    dispi(VBE_BPP, bpp);
    dispi(VBE_ENABLE, 0x41 | flags);
}

START_TEST(the_dispi_interface_is_found_and_tells_what_it_has)
{
    ck_assert_uint_eq(dispi_in(VBE_ID), 0xb0c5);
    dispi(VBE_ID, 0xb0c2);
    ck_assert_uint_eq(dispi_in(VBE_ID), 0xb0c2);
    dispi(VBE_ID, 0xb0c6);
    ck_assert_uint_eq(dispi_in(VBE_ID), 0xb0c2);
    ck_assert_uint_eq(dispi_in(VBE_MEMORY_64K), 256);
    dispi(VBE_ENABLE, 2);
    ck_assert_uint_eq(dispi_in(VBE_XRES), 8192);
    ck_assert_uint_eq(dispi_in(VBE_YRES), 8192);
    ck_assert_uint_eq(dispi_in(VBE_BPP), 32);
    dispi(VBE_ENABLE, 0);
    ck_assert_uint_eq(dispi_in(VBE_XRES), 0);
    ck_assert_uint_eq(dispi_in(77), 0);
}
END_TEST

START_TEST(a_vbe_mode_is_linear_and_banked)
{
    hwaddr lfb = 0xe0000000;

    writeb(lfb + 100, 0x55);
    vbe_mode(640, 480, 8, 0);
    ck_assert_uint_eq(dispi_in(VBE_ENABLE), 0x41);
    ck_assert_uint_eq(readb(lfb + 100), 0); /* cleared */
    writeb(lfb + 0x30005, 0xab);
    outb(0x3c2, 0x63);
    dispi(VBE_BANK, 3);
    ck_assert(is_direct(0xa0000));
    ck_assert_uint_eq(readb(0xa0005), 0xab);
    dispi(VBE_BANK, 0x103); /* 16 MiB have 256 banks */
    ck_assert_uint_eq(dispi_in(VBE_BANK), 3);
    ck_assert_uint_eq(dispi_in(VBE_VIRT_HEIGHT), 16 * 1024 * 1024 / 640);
    vbe_mode(640, 480, 8, 0x80);
    ck_assert_uint_eq(readb(lfb + 0x30005), 0xab); /* not cleared */
    ck_assert_uint_eq(dispi_in(VBE_BANK), 0);
}
END_TEST

START_TEST(a_vbe_mode_that_does_not_fit_is_not_switched_on)
{
    vbe_mode(4096, 2160, 32, 0); /* 33 of 16 MiB */
    ck_assert_uint_eq(dispi_in(VBE_ENABLE) & 1, 0);
    vbe_mode(0, 480, 8, 0);
    ck_assert_uint_eq(dispi_in(VBE_ENABLE) & 1, 0);
    vbe_mode(1920, 1080, 32, 0);
    ck_assert_uint_eq(dispi_in(VBE_ENABLE) & 1, 1);
    dispi(VBE_BPP, 13);
    ck_assert_uint_eq(dispi_in(VBE_BPP), 32);
    dispi(VBE_VIRT_WIDTH, 65535); /* while it is on */
    ck_assert_uint_eq(dispi_in(VBE_ENABLE) & 1, 0);
}
END_TEST

START_TEST(offsets_beyond_video_memory_are_not_taken)
{
    vbe_mode(1024, 768, 32, 0);
    dispi(VBE_VIRT_WIDTH, 2048);
    dispi(VBE_X_OFFSET, 1024);
    ck_assert_uint_eq(dispi_in(VBE_X_OFFSET), 1024);
    dispi(VBE_X_OFFSET, 1025);
    ck_assert_uint_eq(dispi_in(VBE_X_OFFSET), 1024);
    dispi(VBE_Y_OFFSET, 2048 - 768);
    ck_assert_uint_eq(dispi_in(VBE_Y_OFFSET), 2048 - 768);
    dispi(VBE_Y_OFFSET, 2048 - 767);
    ck_assert_uint_eq(dispi_in(VBE_Y_OFFSET), 2048 - 768);
}
END_TEST

START_TEST(planar_vbe_modes_have_the_graphics_controller)
{
    set_mode(&mode_12);
    vbe_mode(800, 600, 4, 0);
    ck_assert(!is_direct(0xa0000));
    seq(2, 0x05);
    writeb(0xa0000, 0xf0);
    ck_assert_uint_eq(vga_fetch(vga, 0), 0x00f000f0);
    dispi(VBE_BANK, 1);
    seq(2, 0x02);
    writeb(0xa0001, 0x81);
    ck_assert_uint_eq(vga_fetch(vga, 0x10001), 0x8100);
}
END_TEST

START_TEST(memory_of_vga_modes_survives_a_vbe_mode_that_does_not_clear)
{
    set_mode(&mode_03);
    writeb(0xb8000, 'x');
    writeb(0xb8f9e, 'y');
    vbe_mode(640, 480, 32, 0x80);
    dispi(VBE_ENABLE, 0);
    ck_assert_uint_eq(readb(0xb8000), 'x');
    ck_assert_uint_eq(readb(0xb8f9e), 'y');
}
END_TEST

START_TEST(the_dac_keeps_its_colours_when_it_changes_its_width)
{
    dac(1, 63, 32, 0);
    dispi(VBE_ENABLE, 0x20);
    outb(0x3c7, 1);
    ck_assert_uint_eq(inb(0x3c9), 255);
    ck_assert_uint_eq(inb(0x3c9), 130);
    dac(2, 0x81, 0xff, 0x40);
    outb(0x3c7, 2);
    ck_assert_uint_eq(inb(0x3c9), 0x81);
    dispi(VBE_ENABLE, 0);
    outb(0x3c7, 1);
    ck_assert_uint_eq(inb(0x3c9), 63);
    ck_assert_uint_eq(inb(0x3c9), 32);
}
END_TEST

/* ---- state, hostility ---------------------------------------------------------------------------
 */

static void random_access(GRand *rand)
{
    static const unsigned ports[] = { 0x3b4, 0x3b5, 0x3ba, 0x3d4, 0x3d5, 0x3da };
    unsigned what = g_rand_int(rand) % 10, value = g_rand_int(rand);
    unsigned port = 0x3c0 + g_rand_int(rand) % 16, size = 1u << g_rand_int(rand) % 3;

    if (what < 3) {
        outb(port, value & 0xff);
    } else if (what == 3) {
        unsigned i = g_rand_int(rand) % G_N_ELEMENTS(ports);

        address_space_stn(machine->io, ports[i], value, size, MEMTXATTRS_NONE, NULL);
    } else if (what == 4) {
        address_space_ldn(machine->io, port, size, MEMTXATTRS_NONE, NULL);
    } else if (what == 5) {
        dispi(g_rand_int(rand) % 12, g_rand_boolean(rand) ? value & 0x7ff : value & 0xffff);
    } else if (what == 6) {
        outb(0x3c3, g_rand_int(rand) % 16 != 0); /* seldom off */
        seq(g_rand_int(rand) % 5, value);
        gc(g_rand_int(rand) % 9, value >> 8);
    } else if (what < 9) {
        hwaddr addr = VGA_WINDOW_BASE + g_rand_int(rand) % VGA_WINDOW_SIZE;

        address_space_stn(machine->memory, addr, value, size, MEMTXATTRS_NONE, NULL);
    } else {
        hwaddr addr = VGA_WINDOW_BASE + g_rand_int(rand) % VGA_WINDOW_SIZE;

        address_space_ldn(machine->memory, addr, size, MEMTXATTRS_NONE, NULL);
    }
}

START_TEST(a_million_random_accesses_do_no_harm)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(42);

    for (unsigned i = 0; i < 1000000; i++) {
        random_access(rand);
        if (i % 4096 == 0) {
            console_refresh(con);
            console_text_utf8(con);
        }
    }
    device_reset(vga_dev);
    set_mode(&mode_03);
    writeb(0xb8000, 'k');
    ck_assert_uint_eq(readb(0xb8000), 'k');
}
END_TEST

START_TEST(state_in_the_middle_of_everything_comes_back)
{
    g_autoptr(GBytes) bytes = NULL;

    set_mode(&mode_03);
    set_palette();
    writeb(0xb8000, 'q');
    outb(0x3c8, 7);
    outb(0x3c9, 1); /* a third of a colour */
    inb(0x3da);
    outb(0x3c0, 0x13); /* half of an attribute write */
    bytes = save_device(vga_dev);
    device_reset(vga_dev);
    ck_assert(!is_direct(0xb8000));
    ck_assert(load_device(vga_dev, bytes));
    ck_assert(is_direct(0xb8000));
    ck_assert_uint_eq(readb(0xb8000), 'q');
    outb(0x3c9, 2);
    outb(0x3c9, 3);
    outb(0x3c7, 7);
    ck_assert_uint_eq(inb(0x3c9), 1);
    ck_assert_uint_eq(inb(0x3c9), 2);
    outb(0x3c0, 0x05);
    outb(0x3c0, 0x33);
    ck_assert_uint_eq(inb(0x3c1), 0x05);
    vbe_mode(800, 600, 16, 0);
    g_bytes_unref(bytes);
    bytes = save_device(vga_dev);
    dispi(VBE_ENABLE, 0);
    ck_assert(load_device(vga_dev, bytes));
    ck_assert_uint_eq(dispi_in(VBE_ENABLE) & 1, 1);
    console_refresh(con);
    ck_assert_uint_eq(con->width, 800);
}
END_TEST

START_TEST(impossible_state_is_refused)
{
    g_autoptr(GBytes) bytes = NULL;

    vga->layout = 3;
    bytes = save_device(vga_dev);
    vga->layout = 0;
    ck_assert(!load_device(vga_dev, bytes));
}
END_TEST

START_TEST(video_memory_of_an_odd_size_is_refused)
{
    DeviceState *dev = DEVICE(object_new(TYPE_VGA_ISA, NULL));
    GError *error = NULL;

    object_property_set_uint(OBJECT(dev), "vgamem_mb", 3, NULL);
    ck_assert(!device_realize(dev, machine, "second", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "vgamem_mb 3"));
    g_error_free(error);
    object_unref(dev);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, registers_read_back_without_their_reserved_bits);
    tcase_add_test(tc, only_the_selected_crtc_ports_are_there);
    tcase_add_test(tc, a_word_writes_index_and_data);
    tcase_add_test(tc, the_first_crtc_registers_can_be_protected_but_for_line_compare);
    tcase_add_test(tc, the_attribute_controller_takes_index_and_data_in_turn);
    tcase_add_test(tc, the_dac_counts_components_and_entries);
    tcase_add_test(tc, the_beam_moves_with_the_machines_clock);
    tcase_add_test(tc, every_read_and_write_mode_does_as_a_naive_model_does);
    tcase_add_test(tc, text_and_chain_4_are_plain_memory_for_the_guest);
    tcase_add_test(tc, mode_x_writes_four_pixels_at_once);
    tcase_add_test(tc, the_dispi_interface_is_found_and_tells_what_it_has);
    tcase_add_test(tc, a_vbe_mode_is_linear_and_banked);
    tcase_add_test(tc, a_vbe_mode_that_does_not_fit_is_not_switched_on);
    tcase_add_test(tc, offsets_beyond_video_memory_are_not_taken);
    tcase_add_test(tc, planar_vbe_modes_have_the_graphics_controller);
    tcase_add_test(tc, memory_of_vga_modes_survives_a_vbe_mode_that_does_not_clear);
    tcase_add_test(tc, the_dac_keeps_its_colours_when_it_changes_its_width);
    tcase_add_test(tc, a_million_random_accesses_do_no_harm);
    tcase_add_test(tc, state_in_the_middle_of_everything_comes_back);
    tcase_add_test(tc, impossible_state_is_refused);
    tcase_add_test(tc, video_memory_of_an_odd_size_is_refused);
    tcase_set_timeout(tc, 100);
}

int main(void)
{
    return run_tests("vga", vga_setup, machine_teardown, add);
}

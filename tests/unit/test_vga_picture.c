/* What the standard VGA shows: every mode, with random settings of what shapes a picture, against a
 * small renderer that goes dot by dot; the same with only what changed being drawn; text as
 * characters. */
#include "tests/unit/vga_rig.h"

/* ---- the reference: one dot at a time, in the words of the register descriptions ---------------
 */

static unsigned cr(unsigned i)
{
    return vga->crtc[i];
}

static unsigned bit(unsigned value, unsigned n)
{
    return value >> n & 1;
}

static unsigned plane_byte(unsigned plane, unsigned offset)
{
    return vga_fetch(vga, offset & 0xffff) >> (8 * plane) & 0xff;
}

/* The address bits that leave the CRT controller. */
static unsigned address(unsigned ma, unsigned row)
{
    unsigned out = 0;

    for (unsigned i = 0; i < 16; i++) {
        unsigned b;

        if (bit(cr(0x14), 6)) {
            b = i >= 2 ? bit(ma, i - 2) : bit(ma, 14 + i);
        } else if (bit(cr(0x17), 6)) {
            b = bit(ma, i);
        } else if (i > 0) {
            b = bit(ma, i - 1);
        } else {
            b = bit(ma, bit(cr(0x17), 5) ? 15 : 13);
        }
        if (i == 13 && !bit(cr(0x17), 0)) {
            b = bit(row, 0);
        }
        if (i == 14 && !bit(cr(0x17), 1)) {
            b = bit(row, 1);
        }
        out |= b << i;
    }
    return out;
}

static uint32_t dac_rgb(unsigned index)
{
    uint32_t rgb = 0;

    index &= vga->pel_mask;
    for (unsigned i = 0; i < 3; i++) {
        unsigned v = vga->dac[3 * index + i];

        rgb = rgb << 8 | (bit(vga->vbe[4], 5) ? v : v * 4 + v / 16);
    }
    return rgb;
}

static uint32_t color(unsigned pixel)
{
    unsigned v = vga->attr[pixel & vga->attr[0x12] & 15] & 63;

    if (bit(vga->attr[0x10], 7)) {
        v = v % 16 + (vga->attr[0x14] & 3) * 16;
    }
    return dac_rgb(v + (vga->attr[0x14] >> 2 & 3) * 64);
}

static unsigned text_pixel(unsigned ma, unsigned row, unsigned dot)
{
    unsigned o = address(ma, row), ch = plane_byte(0, o), at = plane_byte(1, o);
    unsigned sel = vga->seq[3], fg = at & 15, bg = at >> 4, font, on;
    bool blink = bit(vga->attr[0x10], 3);

    font = bit(at, 3) ? bit(sel, 2) + bit(sel, 3) * 2 + bit(sel, 5) * 4
                      : bit(sel, 0) + bit(sel, 1) * 2 + bit(sel, 4) * 4;
    font = (font & 3) * 16384 + (font / 4) * 8192;
    on = dot < 8 ? bit(plane_byte(2, font + ch * 32 + row), 7 - dot)
         : bit(vga->attr[0x10], 2) && ch >= 0xc0 && ch <= 0xdf
             ? bit(plane_byte(2, font + ch * 32 + row), 0)
             : 0;
    if (bit(vga->attr[0x10], 1) && (at & 7) == 1 && row == (cr(0x14) & 31)) {
        on = 1;
    }
    if (!bit(cr(0x0a), 5) && ma == ((cr(0x0e) * 256 + cr(0x0f) + (cr(0x0b) >> 5 & 3)) & 0xffff) &&
        row >= (cr(0x0a) & 31) && row <= (cr(0x0b) & 31)) {
        on = 1;
    }
    return on ? fg : blink ? bg & 7 : bg;
}

static uint32_t graphics_color(unsigned ma, unsigned row, unsigned dot)
{
    unsigned o = address(ma, row), v = 0;

    if (bit(vga->gc[5], 6)) {
        return dac_rgb(plane_byte(dot, o));
    }
    if (bit(vga->gc[5], 5)) {
        unsigned which = dot / 4, shift = 6 - dot % 4 * 2;

        v = (plane_byte(which, o) >> shift & 3) + (plane_byte(which + 2, o) >> shift & 3) * 4;
    } else {
        for (unsigned p = 0; p < 4; p++) {
            v |= bit(plane_byte(p, o), 7 - dot) << p;
        }
    }
    return color(v);
}

typedef struct Reference {
    unsigned width, height;
    uint32_t *pixels;
} Reference;

static void reference_free(Reference *r)
{
    g_free(r->pixels);
}

static Reference reference_vga(void)
{
    bool graphics = bit(vga->gc[6], 0), wide256 = graphics && bit(vga->gc[5], 6);
    unsigned dots = wide256 ? 4 : graphics || bit(vga->seq[1], 0) ? 8 : 9;
    unsigned scale = (bit(vga->seq[1], 3) ? 2 : 1) * (wide256 ? 2 : 1), columns = cr(1) + 1;
    unsigned vde = cr(0x12) + bit(cr(7), 1) * 256 + bit(cr(7), 6) * 512 + 1;
    unsigned compare = cr(0x18) + bit(cr(7), 4) * 256 + bit(cr(9), 6) * 512;
    unsigned factor = bit(cr(0x17), 2) ? 2 : 1;
    unsigned start = cr(0x0c) * 256 + cr(0x0d) + (cr(8) >> 5 & 3), row = cr(8) & 31, times = 0;
    unsigned pan = vga->attr[0x13];
    Reference r = { columns * dots * scale, vde * factor, NULL };

    r.pixels = g_new(uint32_t, r.width * r.height);
    pan = wide256 ? pan % 8 / 2 : dots == 9 ? (pan < 8 ? pan + 1 : 0) : pan % 8;
    for (unsigned y = 0; y < r.height; y++) {
        for (unsigned x = 0; x < r.width; x++) {
            unsigned d = x / scale + pan, col = d / dots;
            unsigned count = bit(cr(0x14), 5) ? col / 4 : bit(cr(0x17), 3) ? col / 2 : col;

            if (graphics) {
                r.pixels[y * r.width + x] = graphics_color((start + count) & 0xffff, row, d % dots);
            } else {
                /* the cursor is where the character is, whatever is counted */
                r.pixels[y * r.width + x] = color(
                    text_pixel((start + count) & 0xffff, row, d % dots));
            }
        }
        if (y / factor == compare && y % factor == factor - 1) {
            start = row = times = 0;
            if (bit(vga->attr[0x10], 5)) {
                pan = 0;
            }
            continue;
        }
        if (bit(cr(9), 7) && times++ == 0) {
            continue;
        }
        times = 0;
        if (row == (cr(9) & 31)) {
            row = 0;
            start = (start + cr(0x13) * 2) & 0xffff;
        } else {
            row = (row + 1) % 32;
        }
    }
    return r;
}

static uint32_t vbe_color(unsigned x, unsigned y)
{
    unsigned bpp = vga->vbe[VBE_BPP], virt = dispi_in(VBE_VIRT_WIDTH);
    uint64_t at = (uint64_t)(y + vga->vbe[VBE_Y_OFFSET]), px = x + vga->vbe[VBE_X_OFFSET];
    unsigned r, g, b, v;
    const uint8_t *p;

    if (bpp == 4) {
        uint32_t four;

        at = at * ((virt + 7) / 8) + px / 8;
        memcpy(&four, vga->mem + 4 * at, 4);
        v = 0;
        for (unsigned i = 0; i < 4; i++) {
            v |= bit(four >> (8 * i), 7 - px % 8) << i;
        }
        return color(v);
    }
    p = vga->mem + at * virt * ((bpp + 7) / 8) + px * ((bpp + 7) / 8);
    switch (bpp) {
    case 8:
        return dac_rgb(p[0]);
    case 15:
        v = p[0] + p[1] * 256u;
        r = v / 1024 % 32, g = v / 32 % 32, b = v % 32;
        return (r * 8 + r / 4) << 16 | (g * 8 + g / 4) << 8 | (b * 8 + b / 4);
    case 16:
        v = p[0] + p[1] * 256u;
        r = v / 2048, g = v / 32 % 64, b = v % 32;
        return (r * 8 + r / 4) << 16 | (g * 4 + g / 16) << 8 | (b * 8 + b / 4);
    default:
        return (uint32_t)(p[2] << 16 | p[1] << 8 | p[0]);
    }
}

static Reference reference_vbe(void)
{
    Reference r = { vga->vbe[VBE_XRES], vga->vbe[VBE_YRES], NULL };

    r.pixels = g_new(uint32_t, r.width * r.height);
    for (unsigned y = 0; y < r.height; y++) {
        for (unsigned x = 0; x < r.width; x++) {
            r.pixels[y * r.width + x] = vbe_color(x, y);
        }
    }
    return r;
}

static void ck_picture(const char *what, unsigned n)
{
    Reference r = vga->mode.on ? reference_vbe() : reference_vga();

    ck_assert_msg(r.width == con->width && r.height == con->height, "%s %u: %u x %u, not %u x %u",
                  what, n, con->width, con->height, r.width, r.height);
    for (unsigned y = 0; y < r.height; y++) {
        const uint32_t *is = console_pixels(con, y), *ought = r.pixels + (size_t)y * r.width;

        for (unsigned x = 0; x < r.width; x++) {
            if ((is[x] & 0xffffff) != ought[x]) { /* an assertion a dot takes too long */
                ck_abort_msg("%s %u: %06x at %u,%u instead of %06x", what, n, is[x] & 0xffffff, x,
                             y, ought[x]);
            }
        }
    }
    reference_free(&r);
}

/* ---- modes with random settings -----------------------------------------------------------------
 */

static void fill_memory(GRand *rand, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 4) {
        uint32_t v = g_rand_int(rand);

        memcpy(vga->mem + i, &v, 4);
    }
    vga->font_written = true;
    console_invalidate(con);
}

static void set_random_palette(GRand *rand)
{
    for (unsigned i = 0; i < 256; i++) {
        dac(i, g_rand_int(rand) & 63, g_rand_int(rand) & 63, g_rand_int(rand) & 63);
    }
}

/* One thing that shapes the picture. */
static void tweak(GRand *rand, bool text)
{
    unsigned v = g_rand_int(rand);

    switch (g_rand_int(rand) % 18) {
    case 0:
        crtc(0x0c, v);
        crtc(0x0d, v >> 8);
        break;
    case 1:
        crtc(0x08, v & 0x7f);
        break;
    case 2:
        attr(0x13, v & 15);
        break;
    case 3:
        crtc(0x18, v);
        crtc(0x07, vga->crtc[7] & ~0x10);
        crtc(0x09, vga->crtc[9] & ~0x40);
        break;
    case 4:
        crtc(0x09, (vga->crtc[9] & 0x60) | (v & 0x9f));
        break;
    case 5:
        crtc(0x13, v & 0x7f);
        break;
    case 6:
        crtc(0x17, (vga->crtc[0x17] & 0x8f) | (v & 0x60));
        break;
    case 7:
        crtc(0x17, (vga->crtc[0x17] & ~3u) | (v & 3));
        break;
    case 8:
        crtc(0x0e, v & 15);
        crtc(0x0f, v >> 8);
        crtc(0x0a, v >> 16 & 0x3f);
        crtc(0x0b, v >> 24);
        break;
    case 9:
        seq(3, v);
        break;
    case 10:
        attr(0x10, (vga->attr[0x10] & 0x41) | (v & 0xae));
        break;
    case 11:
        attr(0x12, v & 15);
        break;
    case 12:
        attr(0x14, v & 15);
        break;
    case 13:
        outb(0x3c6, v | v >> 8);
        break;
    case 14:
        crtc(0x14, text ? v & 0x1f : v & 0x7f);
        break;
    case 15:
        attr(v & 15, v >> 8 & 63);
        break;
    case 16:
        crtc(0x17, vga->crtc[0x17] ^ (text ? 0 : v & 0x0c));
        break;
    default:
        seq(1, (vga->seq[1] & ~9u) | (v & 9));
        break;
    }
}

static void try_mode(const char *what, const BiosMode *m, bool text)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4711);

    set_mode(m);
    set_random_palette(rand);
    fill_memory(rand, 4 * VGA_UNITS);
    console_refresh(con);
    ck_picture(what, 0);
    for (unsigned n = 1; n < 25; n++) {
        if (n % 8 == 0) {
            set_mode(m);
        }
        tweak(rand, text);
        tweak(rand, text);
        console_refresh(con);
        ck_picture(what, n);
    }
}

START_TEST(text_modes_look_as_they_should)
{
    try_mode("80 columns", &mode_03, true);
    try_mode("40 columns", &mode_01, true);
    try_mode("monochrome", &mode_07, true);
}
END_TEST

START_TEST(cga_modes_look_as_they_should)
{
    try_mode("4 colours", &mode_04, false);
    try_mode("2 colours", &mode_06, false);
}
END_TEST

START_TEST(planar_modes_look_as_they_should)
{
    try_mode("320 x 200 x 16", &mode_0d, false);
    try_mode("640 x 480 x 16", &mode_12, false);
}
END_TEST

START_TEST(modes_of_256_colours_look_as_they_should)
{
    BiosMode x = mode_13;

    try_mode("mode 13h", &mode_13, false);
    x.seq[3] = 0x06; /* chain-4 off, bytes */
    x.crtc[0x14] = 0x00;
    x.crtc[0x17] = 0xe3;
    try_mode("mode X", &x, false);
}
END_TEST

START_TEST(sizes_are_those_of_the_books)
{
    static const struct {
        const BiosMode *mode;
        unsigned width, height;
    } sizes[] = {
        { &mode_03, 720, 400 }, { &mode_01, 720, 400 }, { &mode_07, 720, 400 },
        { &mode_04, 640, 400 }, { &mode_06, 640, 400 }, { &mode_0d, 640, 400 },
        { &mode_12, 640, 480 }, { &mode_13, 640, 400 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        set_mode(sizes[i].mode);
        console_refresh(con);
        ck_assert_uint_eq(con->width, sizes[i].width);
        ck_assert_uint_eq(con->height, sizes[i].height);
    }
}
END_TEST

static void vbe_mode(unsigned width, unsigned height, unsigned bpp)
{
    dispi(VBE_ENABLE, 0);
    dispi(VBE_XRES, width);
    dispi(VBE_YRES, height);
    dispi(VBE_BPP, bpp);
    dispi(VBE_ENABLE, 0x41);
    ck_assert(vga->mode.on);
}

START_TEST(vbe_modes_look_as_they_should)
{
    static const unsigned depths[] = { 4, 8, 15, 16, 24, 32 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(99);

    set_mode(&mode_12);
    set_random_palette(rand);
    for (unsigned i = 0; i < G_N_ELEMENTS(depths); i++) {
        g_autofree char *what = g_strdup_printf("VBE %u", depths[i]);

        vbe_mode(641, 333, depths[i]);
        fill_memory(rand, 4 * 1024 * 1024);
        console_refresh(con);
        ck_picture(what, 0);
        dispi(VBE_VIRT_WIDTH, 1003);
        dispi(VBE_X_OFFSET, 101);
        dispi(VBE_Y_OFFSET, 77);
        console_refresh(con);
        ck_picture(what, 1);
        dispi(VBE_X_OFFSET, 104);
        console_refresh(con);
        ck_picture(what, 2);
    }
    dispi(VBE_ENABLE, 0);
    console_refresh(con);
    ck_picture("VGA again", 0);
}
END_TEST

START_TEST(big_endian_pixels_are_turned_round)
{
    set_mode(&mode_12);
    vbe_mode(640, 480, 32);
    vga->mem[0] = 0x00;
    vga->mem[1] = 0x11;
    vga->mem[2] = 0x22;
    vga->mem[3] = 0x33;
    vga_mmio_ops.write_attrs(vga, 0x604, 0xbebebebe, 4, MEMTXATTRS_NONE);
    console_refresh(con);
    ck_assert_uint_eq(console_pixels(con, 0)[0] & 0xffffff, 0x112233);
    vbe_mode(641, 480, 16);
    memcpy(vga->mem, "\xf8\x1f\x07\xe0", 4);
    vga->mem[2 * 640] = 0x84;
    vga->mem[2 * 640 + 1] = 0x10;
    console_refresh(con);
    ck_assert_uint_eq(console_pixels(con, 0)[0] & 0xffffff, 0xff00ff);
    ck_assert_uint_eq(console_pixels(con, 0)[1] & 0xffffff, 0x00ff00);
    ck_assert_uint_eq(console_pixels(con, 0)[640] & 0xffffff, 0x848284);
    vbe_mode(640, 480, 32);
    memcpy(vga->mem, "\x00\x11\x22\x33", 4);
    vga_mmio_ops.write_attrs(vga, 0x604, 0x1e1e1e1e, 4, MEMTXATTRS_NONE);
    console_refresh(con);
    ck_assert_uint_eq(console_pixels(con, 0)[0] & 0xffffff, 0x221100);
}
END_TEST

START_TEST(a_screen_that_is_off_is_black)
{
    set_mode(&mode_13);
    set_palette();
    memset(vga->mem, 5, 65536);
    console_refresh(con);
    ck_assert_uint_ne(console_pixels(con, 7)[7] & 0xffffff, 0);
    seq(1, 0x21);
    console_refresh(con);
    ck_assert_uint_eq(console_pixels(con, 7)[7] & 0xffffff, 0);
    seq(1, 0x01);
    inb(0x3da);
    outb(0x3c0, 0x00); /* the palette is the CPU's */
    console_refresh(con);
    ck_assert_uint_eq(console_pixels(con, 7)[7] & 0xffffff, 0);
    outb(0x3c0, 0x00);
    outb(0x3c0, 0x20);
    console_refresh(con);
    ck_assert_uint_ne(console_pixels(con, 7)[7] & 0xffffff, 0);
}
END_TEST

/* ---- only what changed ------------------------------------------------------------------------
 */

static pixman_region32_t told;
static unsigned resizes;

static void on_resized(ConsoleListener *l, Console *c)
{
    resizes++;
}

static void on_updated(ConsoleListener *l, Console *c, const pixman_region32_t *damage)
{
    pixman_region32_union(&told, &told, (pixman_region32_t *)(uintptr_t)damage);
}

static ConsoleListener listener = { .resized = on_resized,
                                    .updated = on_updated,
                                    .interval_ns = 1000000000 };

static void write_somewhere(GRand *rand)
{
    unsigned n = g_rand_int(rand) % 20;

    for (unsigned i = 0; i < n; i++) {
        hwaddr addr = vga->mode.on ? 0xe0000000 + g_rand_int(rand) % (1024 * 1024)
                                   : VGA_WINDOW_BASE + g_rand_int(rand) % VGA_WINDOW_SIZE;

        address_space_stn(machine->memory, addr, g_rand_int(rand), 4, MEMTXATTRS_NONE, NULL);
    }
}

static void follow_mode(const char *what, GRand *rand)
{
    g_autofree uint32_t *before = NULL;
    unsigned drawn = 0;

    console_refresh(con);
    before = g_new(uint32_t, con->width * con->height);
    for (unsigned n = 0; n < 10; n++) {
        uint64_t generation = con->generation;

        for (unsigned y = 0; y < con->height; y++) {
            memcpy(before + y * con->width, console_pixels(con, y), con->width * 4);
        }
        pixman_region32_clear(&told);
        if (n != 5) {
            write_somewhere(rand);
        }
        console_refresh(con);
        ck_picture(what, n);
        if (n == 5) {
            ck_assert_uint_eq(con->generation, generation); /* nothing was written */
        }
        for (unsigned y = 0; y < con->height; y++) {
            for (unsigned x = 0; x < con->width; x++) {
                bool changed = console_pixels(con, y)[x] != before[y * con->width + x];

                drawn += changed;
                if (changed && !pixman_region32_contains_point(&told, (int)x, (int)y, NULL)) {
                    ck_abort_msg("%s %u: a change at %u,%u is not told of", what, n, x, y);
                }
            }
        }
    }
    ck_assert_uint_gt(drawn, 0);
}

START_TEST(a_listener_is_told_of_all_that_changes)
{
    static const BiosMode *const modes[] = { &mode_03, &mode_04, &mode_0d, &mode_12, &mode_13 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);

    pixman_region32_init(&told);
    resizes = 0;
    console_add_listener(con, &listener);
    ck_assert_uint_eq(resizes, 1);
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        set_mode(modes[i]);
        set_random_palette(rand);
        fill_memory(rand, 4 * VGA_UNITS);
        follow_mode("followed", rand);
    }
    vbe_mode(800, 300, 32);
    follow_mode("followed VBE 32", rand);
    vbe_mode(800, 600, 16);
    follow_mode("followed VBE 16", rand);
    ck_assert_uint_gt(resizes, 3);
    console_remove_listener(con, &listener);
    pixman_region32_fini(&told);
}
END_TEST

START_TEST(things_blink_only_for_those_who_follow)
{
    uint32_t first, lit = 0, dark = 0;

    set_mode(&mode_03);
    set_palette();
    crtc(0x0a, 0);
    crtc(0x0b, 15); /* a block at 0 */
    writeb(0xb8001, 0x07);
    console_refresh(con);
    first = console_pixels(con, 0)[0];
    for (unsigned i = 0; i < 60; i++) {
        now_ns += 1000000000 / 70;
        console_refresh(con);
        ck_assert_uint_eq(console_pixels(con, 0)[0], first);
    }
    console_add_listener(con, &listener);
    for (unsigned i = 0; i < 64; i++) {
        now_ns += 1000000000 / 70;
        console_refresh(con);
        if (console_pixels(con, 0)[0] == first) {
            lit++;
        } else {
            dark++;
        }
    }
    console_remove_listener(con, &listener);
    ck_assert_uint_ge(lit, 28);
    ck_assert_uint_ge(dark, 28);
}
END_TEST

/* ---- as characters ------------------------------------------------------------------------------
 */

START_TEST(characters_follow_start_address_and_split_screen)
{
    set_mode(&mode_03);
    for (unsigned i = 0; i < 0x4000; i++) {
        writeb(0xb8000 + 2 * i, i / 80 % 64 + 0x30);
        writeb(0xb8001 + 2 * i, 7);
    }
    crtc(0x0c, (80 * 10) >> 8);
    crtc(0x0d, (80 * 10) & 0xff);
    crtc(0x18, 20 * 16 - 1); /* the last five rows begin at 0 */
    crtc(0x07, 0x0f | 0x10);
    crtc(0x09, 0x0f);
    crtc(0x07, 0x0f);
    crtc(0x18, 239);
    const char *text = console_text_utf8(con);
    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(text[0], 0x3a);
    ck_assert_int_eq(text[81 * 14], 0x3a + 14);
    ck_assert_int_eq(text[81 * 15], 0x30);
    ck_assert_int_eq(text[81 * 24], 0x30 + 9);
    ck_assert_uint_eq(console_text(con)->rows, 25);
}
END_TEST

START_TEST(a_font_of_512_has_a_second_half)
{
    const ConsoleText *text;

    set_mode(&mode_03);
    writeb(0xb8000, 'a');
    writeb(0xb8001, 0x0f);
    text = console_text(con);
    ck_assert_uint_eq(text->cells[0].code, 'a');
    seq(3, 0x01); /* another font where bit 3 is clear */
    text = console_text(con);
    ck_assert_uint_eq(text->cells[0].code, 0x100 + 'a');
    ck_assert_uint_eq(console_cell_unicode(con, &text->cells[0]), 0xfffd);
}
END_TEST

START_TEST(two_machines_do_not_share_a_screen)
{
    VgaCore *first = vga;
    Console *first_con = con;
    Machine *first_machine = machine;

    set_mode(&mode_03);
    writeb(0xb8000, '1');
    machine = machine_new("test-board", "m1", NULL);
    object_ref(machine);
    clock_set_source(machine->clock, test_now, NULL, NULL);
    vga_dev = vga_make("vga", 1);
    con = CONSOLE(object_get_child(OBJECT(vga_dev), "console"));
    vga = con->opaque;
    set_mode(&mode_03);
    writeb(0xb8000, '2');
    ck_assert_int_eq(console_text_utf8(con)[0], '2');
    ck_assert_int_eq(console_text_utf8(first_con)[0], '1');
    machine_close(machine);
    settle();
    object_unref(machine);
    machine = first_machine;
    vga = first;
    con = first_con;
    console_refresh(con);
    ck_assert_int_eq(console_text_utf8(con)[0], '1');
}
END_TEST

static void add(TCase *tc)
{
    tcase_set_timeout(tc, 200);
    tcase_add_test(tc, text_modes_look_as_they_should);
    tcase_add_test(tc, cga_modes_look_as_they_should);
    tcase_add_test(tc, planar_modes_look_as_they_should);
    tcase_add_test(tc, modes_of_256_colours_look_as_they_should);
    tcase_add_test(tc, sizes_are_those_of_the_books);
    tcase_add_test(tc, vbe_modes_look_as_they_should);
    tcase_add_test(tc, big_endian_pixels_are_turned_round);
    tcase_add_test(tc, a_screen_that_is_off_is_black);
    tcase_add_test(tc, a_listener_is_told_of_all_that_changes);
    tcase_add_test(tc, things_blink_only_for_those_who_follow);
    tcase_add_test(tc, characters_follow_start_address_and_split_screen);
    tcase_add_test(tc, a_font_of_512_has_a_second_half);
    tcase_add_test(tc, two_machines_do_not_share_a_screen);
}

int main(void)
{
    return run_tests("vga-picture", vga_setup, machine_teardown, add);
}

/* What the VGA costs: the guest's writes, and pictures into the surface. Without a CPU: writes are
 * made through the machine's address space, as a device model sees them. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tests/unit/vga_rig.h"

static double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The best of five runs, in microseconds a round. */
#define BENCH(what, n, ...)                                                     \
    do {                                                                        \
        double best_ = 1e18;                                                    \
        for (int run_ = 0; run_ < 5; run_++) {                                  \
            double start_ = seconds();                                          \
            for (unsigned i = 0; i < (n); i++) {                                \
                __VA_ARGS__;                                                    \
            }                                                                   \
            best_ = MIN(best_, (seconds() - start_) / (n));                     \
        }                                                                       \
        printf("%-52s %10.2f us %10.0f/s\n", (what), best_ * 1e6, 1.0 / best_); \
    } while (0)

static void heard_size(ConsoleListener *l, Console *c)
{
}

static void heard_damage(ConsoleListener *l, Console *c, const pixman_region32_t *damage)
{
}

static ConsoleListener follower = { .resized = heard_size,
                                    .updated = heard_damage,
                                    .interval_ns = 1000000000 };

static uint8_t *direct(hwaddr addr)
{
    uint64_t len = 1;
    uint8_t *p = address_space_translate_ram(machine->memory, addr, &len, true);

    g_assert(p);
    return p;
}

static void scroll(uint8_t *text, unsigned n)
{
    memmove(text, text + 160, 160 * 24);
    for (unsigned i = 0; i < 80; i++) {
        text[160 * 24 + 2 * i] = (uint8_t)(33 + (i + n) % 90);
        text[160 * 24 + 2 * i + 1] = 7;
    }
    address_space_mark_dirty(machine->memory, 0xb8000, 4000);
}

static void found(void *opaque)
{
}

static void bench_text(void)
{
    ConsoleWatch *w;
    uint8_t *text;

    set_mode(&mode_03);
    set_palette();
    for (unsigned i = 0; i < 0x2000; i++) { /* some font */
        vga->mem[0x20000 + 2 * (i / 2) + i % 2] = (uint8_t)(i * 37);
    }
    text = direct(0xb8000);
    BENCH("text, a line scrolled, drawn", 300, scroll(text, i); console_refresh(con));
    BENCH("text, nothing changed", 3000, console_refresh(con));
    BENCH("text, all of it drawn", 100, console_invalidate(con); console_refresh(con));
    BENCH("text as UTF-8 after a scroll", 1000, scroll(text, i); console_text_utf8(con));
    w = console_watch_text(con, "no such text", false, found, NULL, NULL);
    BENCH("a look of one who waits, nothing changed", 1000, run_until(now_ns + 10000000));
    console_watch_free(w);
}

static void bench_vga_modes(void)
{
    uint8_t *pixels;

    set_mode(&mode_12);
    BENCH("640 x 480 x 16: a planar write", 100000, writeb(0xa0000 + i % 38400, i));
    BENCH("640 x 480 x 16: a frame, all changed", 50, memset(vga->mem, (int)i, 4 * VGA_UNITS);
          console_invalidate(con); console_refresh(con));
    set_mode(&mode_13);
    pixels = direct(0xa0000);
    BENCH("320 x 200 x 256: a frame, all changed", 100, memset(pixels, (int)i, 64000);
          address_space_mark_dirty(machine->memory, 0xa0000, 64000); console_refresh(con));
}

static void bench_vbe(unsigned width, unsigned height, unsigned bpp)
{
    size_t bytes = (size_t)width * height * ((bpp + 7) / 8);
    g_autofree char *frame = g_strdup_printf("%u x %u x %u: a frame, all changed", width, height,
                                             bpp);
    g_autofree char *line = g_strdup_printf("%u x %u x %u: a frame, 16 lines changed", width,
                                            height, bpp);
    g_autofree char *none = g_strdup_printf("%u x %u x %u: nothing changed", width, height, bpp);

    dispi(VBE_ENABLE, 0);
    dispi(VBE_XRES, width);
    dispi(VBE_YRES, height);
    dispi(VBE_BPP, bpp);
    dispi(VBE_ENABLE, 0x41);
    g_assert(vga->mode.on);
    BENCH(frame, 10, memset(vga->mem, (int)(i + 1), bytes);
          memory_region_set_dirty(&vga->vram, 0, bytes); console_refresh(con));
    BENCH(line, 50, memset(vga->mem + bytes / 2, (int)i, bytes / height * 16);
          memory_region_set_dirty(&vga->vram, bytes / 2, bytes / height * 16);
          console_refresh(con));
    BENCH(none, 200, console_refresh(con));
}

int main(void)
{
    machine_setup();
    vga_dev = DEVICE(object_new(TYPE_VGA_ISA, NULL));
    if (!object_property_set_uint(OBJECT(vga_dev), "vgamem_mb", 64, NULL) ||
        !device_realize(vga_dev, machine, "vga", NULL)) {
        return 1;
    }
    object_unref(vga_dev);
    con = CONSOLE(object_get_child(OBJECT(vga_dev), "console"));
    vga = con->opaque;
    console_add_listener(con, &follower);
    bench_text();
    bench_vga_modes();
    bench_vbe(1024, 768, 8);
    bench_vbe(1024, 768, 16);
    bench_vbe(1024, 768, 32);
    bench_vbe(1920, 1080, 32);
    bench_vbe(3840, 2160, 32);
    console_remove_listener(con, &follower);
    machine_teardown();
    return 0;
}

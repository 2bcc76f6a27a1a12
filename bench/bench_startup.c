/*
 * From exec to the guest's first instruction, and resident memory at that moment, for vmlua and
 * whatever else is installed.
 *
 * The guest's first instruction that is not a jump writes a byte to port 0xe9; the port's back end
 * is an inherited pipe, so the clock stops when the byte can be read here. Rows: a bare C program
 * on /dev/kvm (bench-kvm-floor), vmlua on bare.lua, QEMU's microvm and pc. Run from the build
 * folder's parent or anywhere: paths come from the program's own location.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RUNS       15
#define PIPE_CHILD 3

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* Rss of a process in KiB, without mappings of exactly `guest_kib` (its RAM) */
static long rss_kib(pid_t pid, long guest_kib)
{
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "r");
    long total = 0, size = 0;
    while (f && fgets(line, sizeof(line), f)) {
        long v;
        if (sscanf(line, "Size: %ld kB", &v) == 1) {
            size = v;
        } else if (sscanf(line, "Rss: %ld kB", &v) == 1 && size != guest_kib) {
            total += v;
        }
    }
    if (f) {
        fclose(f);
    }
    return total;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One start; false when no byte came. */
static bool run_once(const char *const *argv, double *ms, long *kib, long guest_kib)
{
    int p[2];
    if (pipe(p) < 0) {
        return false;
    }
    const double start = now_ms();
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], PIPE_CHILD);
        if (p[0] != PIPE_CHILD) {
            close(p[0]);
        }
        const int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execvp(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    close(p[1]);
    char byte;
    const bool ok = pid > 0 && read(p[0], &byte, 1) == 1;
    *ms = now_ms() - start;
    *kib = ok ? rss_kib(pid, guest_kib) : 0;
    close(p[0]);
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    return ok;
}

static void row(const char *name, const char *const *argv, long guest_kib)
{
    double ms[RUNS];
    long kib = 0;
    char *found = g_find_program_in_path(argv[0]);
    if (!found) {
        printf("%-34s not installed\n", name);
        return;
    }
    g_free(found);
    for (int i = 0; i < RUNS; i++) {
        if (!run_once(argv, &ms[i], &kib, guest_kib)) {
            printf("%-34s did not reach its first instruction\n", name);
            return;
        }
    }
    qsort(ms, RUNS, sizeof(ms[0]), compare);
    printf("%-34s %8.2f %8.2f %8.2f %10.1f\n", name, ms[0], ms[RUNS / 2], ms[RUNS - 1],
           (double)kib / 1024.0);
    fflush(stdout);
}

/* A 64 KiB ROM for QEMU: reset vector at its end, jumps to code that writes the byte and halts. */
static char *write_rom(const char *dir, bool flat)
{
    static uint8_t rom[65536];
    static const uint8_t code[] = {
        0xb0, 'x', 0xe6, 0xe9, 0xf4, 0xeb, 0xfd
    }; /* mov al; out; hlt; jmp */
    memset(rom, 0x90, sizeof(rom));
    memcpy(rom, code, sizeof(code));
    static const uint8_t reset[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 }; /* jmp f000:0000 */
    memcpy(rom + 0xfff0, reset, sizeof(reset));
    char *path = g_build_filename(dir, flat ? "guest.bin" : "rom.bin", NULL);
    if (!g_file_set_contents(path, (const char *)rom,
                             flat ? (gssize)sizeof(code) : (gssize)sizeof(rom), NULL)) {
        fprintf(stderr, "cannot write %s\n", path);
        exit(1);
    }
    return path;
}

int main(void)
{
    char *self = g_file_read_link("/proc/self/exe", NULL);
    char *here = g_path_get_dirname(self);
    char *vmlua = g_build_filename(here, "..", "bindings", "vmlua", NULL);
    char *floor_program = g_build_filename(here, "bench-kvm-floor", NULL);
    char *dir = g_dir_make_tmp("vmlua-bench-XXXXXX", NULL);
    char *rom = write_rom(dir, false), *flat = write_rom(dir, true);

    printf("exec to first guest instruction, %d runs\n%-34s %8s %8s %8s %10s\n", RUNS, "", "min ms",
           "median", "max", "RSS MiB");
    row("bare C program on KVM", (const char *[]){ floor_program, "--first", NULL }, 16384);
    row("vmlua bare.lua",
        (const char *[]){ vmlua, "bare.lua", "-accel", "kvm", "-m", "16", "-kernel", flat,
                          "-debugcon", "file:/proc/self/fd/3", NULL },
        16384);
    row("qemu -M microvm -accel kvm",
        (const char *[]){ "qemu-system-x86_64", "-M", "microvm", "-accel", "kvm", "-m", "16",
                          "-nodefaults", "-display", "none", "-bios", rom, "-debugcon",
                          "file:/proc/self/fd/3", NULL },
        16384);
    row("qemu -M pc -accel kvm",
        (const char *[]){ "qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-m", "16",
                          "-nodefaults", "-display", "none", "-bios", rom, "-debugcon",
                          "file:/proc/self/fd/3", NULL },
        16384);
    printf("RSS is without the mapping of guest RAM (16 MiB)\n");
    remove(rom);
    remove(flat);
    rmdir(dir);
    return 0;
}

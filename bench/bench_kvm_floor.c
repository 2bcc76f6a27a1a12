/*
 * The floor: a bare C loop around KVM_RUN, without the engine. What an exit costs here is what the
 * kernel costs; what the engine adds stands beside it in bench-kvm.
 *
 *   bench-kvm-floor            figures: a port write, a memory-mapped write, start to first
 * instruction bench-kvm-floor --first    writes one byte to file descriptor 3 at the guest's first
 * exit and waits to be killed (for bench-startup)
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define RAM_SIZE  (16u << 20)
#define EXITS     40000
#define MMIO_ADDR 0xd0000000u

typedef struct Vm {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    uint8_t *ram;
} Vm;

static void check(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static Vm vm_new(const uint8_t *code, size_t len)
{
    Vm v;
    v.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    check(v.kvm >= 0, "/dev/kvm");
    v.vm = ioctl(v.kvm, KVM_CREATE_VM, 0);
    check(v.vm >= 0, "KVM_CREATE_VM");
    v.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(v.ram != MAP_FAILED, "mmap");
    memcpy(v.ram + 0x1000, code, len);
    struct kvm_userspace_memory_region r = { .memory_size = RAM_SIZE,
                                             .userspace_addr = (uintptr_t)v.ram };
    check(ioctl(v.vm, KVM_SET_USER_MEMORY_REGION, &r) == 0, "KVM_SET_USER_MEMORY_REGION");
    v.vcpu = ioctl(v.vm, KVM_CREATE_VCPU, 0);
    check(v.vcpu >= 0, "KVM_CREATE_VCPU");
    int size = ioctl(v.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    v.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, v.vcpu, 0);
    check(v.run != MAP_FAILED, "mmap of the run area");
    struct kvm_sregs s;
    check(ioctl(v.vcpu, KVM_GET_SREGS, &s) == 0, "KVM_GET_SREGS");
    s.cs.base = s.cs.selector = 0;
    /* "Unreal" data segment: real-mode code reaches device memory. */
    s.ds.base = 0;
    s.ds.limit = 0xffffffff;
    s.ds.g = 1;
    check(ioctl(v.vcpu, KVM_SET_SREGS, &s) == 0, "KVM_SET_SREGS");
    struct kvm_regs g = { .rip = 0x1000, .rflags = 2, .rbx = MMIO_ADDR };
    check(ioctl(v.vcpu, KVM_SET_REGS, &g) == 0, "KVM_SET_REGS");
    return v;
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double tv_us(struct timeval t)
{
    return (double)t.tv_sec * 1e6 + (double)t.tv_usec;
}

static void row(const char *name, const uint8_t *code, size_t len, uint32_t reason)
{
    Vm v = vm_new(code, len);
    struct rusage u0, u1;
    for (int i = 0; i < 1000; i++) {
        check(ioctl(v.vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
    }
    getrusage(RUSAGE_THREAD, &u0);
    double t0 = now_us();
    for (int i = 0; i < EXITS; i++) {
        check(ioctl(v.vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
        if (v.run->exit_reason != reason) {
            fprintf(stderr, "%s: exit reason %u\n", name, v.run->exit_reason);
            exit(1);
        }
    }
    double t1 = now_us();
    getrusage(RUSAGE_THREAD, &u1);
    printf("%-28s %10.0f %10.0f %10.0f\n", name, (t1 - t0) * 1e3 / EXITS,
           (tv_us(u1.ru_utime) - tv_us(u0.ru_utime)) * 1e3 / EXITS,
           (tv_us(u1.ru_stime) - tv_us(u0.ru_stime)) * 1e3 / EXITS);
    close(v.vcpu);
    close(v.vm);
    close(v.kvm);
}

static const uint8_t port_loop[] = { 0xe6, 0xe9, 0xeb, 0xfc };             /* out 0xe9, al; jmp */
static const uint8_t mmio_loop[] = { 0x67, 0x66, 0x89, 0x03, 0xeb, 0xfa }; /* mov [ebx], eax; jmp */

static void __attribute__((noreturn)) first(void)
{
    Vm v = vm_new(port_loop, sizeof(port_loop));
    check(ioctl(v.vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
    check(v.run->exit_reason == KVM_EXIT_IO, "the first exit");
    check(write(3, "x", 1) == 1, "file descriptor 3");
    for (;;) {
        pause();
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--first") == 0) {
        first();
    }
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        perror("/dev/kvm");
        return 0;
    }
    printf("bare KVM_RUN loop, %d exits, ns an exit\n%-28s %10s %10s %10s\n", EXITS, "", "wall",
           "user", "system");
    row("port write", port_loop, sizeof(port_loop), KVM_EXIT_IO);
    row("memory-mapped write", mmio_loop, sizeof(mmio_loop), KVM_EXIT_MMIO);
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double t0 = now_us();
        Vm v = vm_new(port_loop, sizeof(port_loop));
        check(ioctl(v.vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
        double t = now_us() - t0;
        best = t < best ? t : best;
        munmap(v.ram, RAM_SIZE);
        close(v.vcpu);
        close(v.vm);
        close(v.kvm);
    }
    printf("start to first instruction, without exec: %.0f us (best of 20)\n", best);
    return 0;
}

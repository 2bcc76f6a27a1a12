/*
 * The 8259A pair and the 8254 of ours against those in the kernel: the same random accesses and
 * line changes to both, the same bytes read from both.
 *
 * The accesses are made first to ours, then by a guest to the kernel's. Left out is what the kernel
 * does not follow the data sheets in: poll, special mask and special fully nested mode, and what a
 * second initialization keeps; and whatever depends on the time of a count.
 */
#include <sys/ioctl.h>

#include "engine/accel/kvm/kvm_priv.h"
#include "engine/hw/intc/pic.h"
#include "engine/hw/timer/pit.h"
#include "tests/unit/kvm_rig.h"

enum { LIST = 0x2000, OPS = 1000 };
enum { OP_END, OP_OUT, OP_IN, OP_TELL };
enum { TELL_ACKNOWLEDGE = 0x40, TELL_LEVEL = 0x80 };

typedef struct Op {
    uint8_t what, value;
    uint16_t port;
} Op;
G_STATIC_ASSERT(sizeof(Op) == 4);

typedef struct Acknowledge {
    uint8_t served[2], gone[2]; /* bits of ISR that it set, of IRR that it cleared */
} Acknowledge;

typedef struct Pair {
    Rig *rig;
    DeviceState *dev;
    GRand *rand;
    GArray *ops;          /* of Op: what ours did and read */
    GArray *acknowledged; /* of Acknowledge */
    unsigned next_acknowledge;
    uint32_t lines;
    Irq *intr;
} Pair;

static void pair_in(Pair *p, uint16_t port)
{
    Op op = { OP_IN, (uint8_t)address_space_ldn(p->rig->m->io, port, 1, MEMTXATTRS_NONE, NULL),
              port };

    g_array_append_val(p->ops, op);
}

static void pair_out(Pair *p, uint16_t port, uint8_t value)
{
    Op op = { OP_OUT, value, port };

    address_space_stn(p->rig->m->io, port, value, 1, MEMTXATTRS_NONE, NULL);
    g_array_append_val(p->ops, op);
}

static void pair_tell(Pair *p, uint8_t value)
{
    Op op = { OP_TELL, value, 0 };

    g_array_append_val(p->ops, op);
}

static uint8_t ours(Pair *p, uint16_t port, uint8_t ocw3)
{
    address_space_stn(p->rig->m->io, port, ocw3, 1, MEMTXATTRS_NONE, NULL);
    return (uint8_t)address_space_ldn(p->rig->m->io, port, 1, MEMTXATTRS_NONE, NULL);
}

/* Leaves both chips with IRR selected, which is then told to the kernel's as well. */
static void pair_acknowledge(Pair *p)
{
    static const uint16_t ports[2] = { 0x20, 0xa0 };
    uint8_t irr[2], isr[2];
    Acknowledge a;

    for (unsigned i = 0; i < 2; i++) {
        isr[i] = ours(p, ports[i], 0x0b);
        irr[i] = ours(p, ports[i], 0x0a);
    }
    pic_acknowledge(p->dev);
    for (unsigned i = 0; i < 2; i++) {
        a.served[i] = ours(p, ports[i], 0x0b) & ~isr[i];
        a.gone[i] = irr[i] & ~ours(p, ports[i], 0x0a);
    }
    g_array_append_val(p->acknowledged, a);
    pair_tell(p, TELL_ACKNOWLEDGE);
    pair_out(p, 0x20, 0x0a);
    pair_out(p, 0xa0, 0x0a);
}

static void kernel_acknowledge(Pair *p)
{
    const Acknowledge *a = &g_array_index(p->acknowledged, Acknowledge, p->next_acknowledge++);
    int fd = KVM_ACCEL(p->rig->m->accel)->vm_fd;

    /* The slave first: each set looks at its output again. */
    for (int i = 1; i >= 0; i--) {
        struct kvm_irqchip chip = { .chip_id = (unsigned)i };

        ck_assert_int_eq(ioctl(fd, KVM_GET_IRQCHIP, &chip), 0);
        chip.chip.pic.isr |= a->served[i];
        chip.chip.pic.irr &= ~a->gone[i];
        ck_assert_int_eq(ioctl(fd, KVM_SET_IRQCHIP, &chip), 0);
    }
}

static EventAction told(void *opaque, VCpu *cpu, EventRecord *x)
{
    Pair *p = opaque;

    if (x->value & TELL_ACKNOWLEDGE) {
        kernel_acknowledge(p);
    } else {
        irq_set(machine_gsi(p->rig->m, x->value & 15), (x->value & TELL_LEVEL) != 0);
    }
    return EVENT_CONTINUE;
}

static void pair_new(Pair *p, const char *type, bool pit, unsigned seed)
{
    GError *error = NULL;

    *p = (Pair){ .rig = rig_new(IRQCHIP_ON, pit, 1 << 20) };
    p->rand = g_rand_new_with_seed(seed);
    p->ops = g_array_new(FALSE, FALSE, sizeof(Op));
    p->acknowledged = g_array_new(FALSE, FALSE, sizeof(Acknowledge));
    p->dev = DEVICE(object_new(type, NULL));
    ck_assert_msg(device_realize(p->dev, p->rig->m, "ours", &error), "%s",
                  error ? error->message : "");
    object_unref(p->dev);
    rig_start(p->rig, "portlist");
}

/* Lets the guest do what was done to ours, and compares what was read. */
static void pair_compare(Pair *p, uint8_t mask, unsigned seed)
{
    Op end = { OP_END };

    g_array_append_val(p->ops, end);
    address_space_write(p->rig->m->memory, LIST, MEMTXATTRS_NONE, p->ops->data,
                        p->ops->len * sizeof(Op));
    rig_hook(p->rig, EVENT_PIO, PORT_VALUE, 1, told, p);
    rig_run(p->rig);
    ck_assert(p->rig->finished);
    for (unsigned i = 0; i < p->ops->len; i++) {
        const Op *op = &g_array_index(p->ops, Op, i);
        Op kernel;

        address_space_read(p->rig->m->memory, LIST + i * sizeof(Op), MEMTXATTRS_NONE, &kernel,
                           sizeof(kernel));
        if (op->what == OP_IN) {
            ck_assert_msg((op->value & mask) == (kernel.value & mask),
                          "seed %u, access %u, port %#x: ours reads %#x, the kernel's %#x", seed, i,
                          op->port, op->value, kernel.value);
        }
    }
    ck_assert_uint_eq(p->next_acknowledge, p->acknowledged->len);
    rig_free(p->rig);
    g_rand_free(p->rand);
    g_array_free(p->ops, TRUE);
    g_array_free(p->acknowledged, TRUE);
}

static void random_pic_access(Pair *p)
{
    static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
    static const uint8_t ocw3[] = { 0x08, 0x0a, 0x0b };
    uint32_t r = g_rand_int(p->rand), n = g_rand_int(p->rand) % 16;
    uint16_t chip = r & 0x100 ? 0xa0 : 0x20;

    switch (r % 10) {
    case 0:
    case 1:
        if (n != 2) {
            bool level = !(p->lines >> n & 1);

            p->lines ^= 1u << n;
            irq_set(device_get_irq_in(p->dev, NULL, n, NULL), level);
            pair_tell(p, (uint8_t)(n | (level ? TELL_LEVEL : 0)));
        }
        break;
    case 2:
        pair_acknowledge(p);
        break;
    case 3:
        pair_out(p, chip, (uint8_t)((r >> 10 & 7) << 5 | n % 8)); /* OCW2 */
        break;
    case 4:
        pair_out(p, chip + 1, (uint8_t)(r >> 16 & r >> 24)); /* the mask */
        break;
    case 5:
        pair_out(p, chip, ocw3[n % 3]);
        break;
    default:
        pair_in(p, ports[n % G_N_ELEMENTS(ports)]);
        break;
    }
}

START_TEST(the_pic_reads_as_the_kernels_after_any_accesses)
{
    for (unsigned seed = 1; seed <= rig_rounds(100); seed++) {
        Pair p;

        pair_new(&p, TYPE_ISA_PIC, false, seed);
        for (unsigned i = 0; i < 2; i++) {
            uint16_t port = i ? 0xa0 : 0x20;

            pair_in(&p, port);
            pair_in(&p, port + 1);
            pair_out(&p, 0x4d0 + i, (uint8_t)g_rand_int(p.rand));
            pair_out(&p, port, 0x11);
            pair_out(&p, port + 1, (uint8_t)g_rand_int(p.rand));
            pair_out(&p, port + 1, i ? 2 : 4);
            pair_out(&p, port + 1, 1);
        }
        while (p.ops->len < OPS) {
            random_pic_access(&p);
        }
        pair_compare(&p, 0xff, seed);
    }
}
END_TEST

/* Mode, access and number base; OUT depends on time, and the kernel knows no null count. */
START_TEST(the_pit_shows_the_kernels_modes_after_any_accesses)
{
    for (unsigned seed = 1; seed <= rig_rounds(50); seed++) {
        Pair p;

        pair_new(&p, TYPE_ISA_PIT, true, seed);
        for (unsigned i = 0; i < 3; i++) {
            pair_out(&p, 0x43, (uint8_t)(i << 6 | 0x30));
        }
        while (p.ops->len < OPS) {
            uint32_t r = g_rand_int(p.rand);
            unsigned channel = r % 3;

            switch (r >> 8 & 3) {
            case 0:
                pair_out(&p, 0x43,
                         (uint8_t)(channel << 6 | (1 + (r >> 10) % 3) << 4 | (r >> 12) % 6 << 1 |
                                   (r >> 16 & 1)));
                break;
            case 1:
                /* Counts that end long after the test: the kernel may otherwise be kept busy. */
                pair_out(&p, 0x40 + channel, (uint8_t)(r >> 20) | 0x80);
                break;
            default:
                pair_out(&p, 0x43, (uint8_t)(0xe0 | 2u << channel));
                pair_in(&p, 0x40 + channel);
                break;
            }
        }
        pair_compare(&p, 0x3f, seed);
    }
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, the_pic_reads_as_the_kernels_after_any_accesses);
    tcase_add_test(tc, the_pit_shows_the_kernels_modes_after_any_accesses);
}

int main(void)
{
    return rig_main("kvm-intc", add);
}

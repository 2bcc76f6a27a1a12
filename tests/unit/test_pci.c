/* PCI core: configuration space, BARs, capabilities, INTx, MSI, MSI-X, DMA, bridges, saved state,
 * hostile accesses. */
#include "engine/hw/pci/msi.h"
#include "pc_rig.h"

#define TYPE_TEST_PCI "test-pci"

typedef struct TestPCI {
    PCIDevice parent;
    MemoryRegion io, mmio, wide, msix_bar;
    uint32_t reg;
} TestPCI;
OBJECT_DECLARE_TYPE(TestPCI, PCIDeviceClass, TEST_PCI, TYPE_TEST_PCI)

static uint64_t test_read(void *opaque, hwaddr addr, unsigned size)
{
    return ((TestPCI *)opaque)->reg + addr;
}

static void test_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    ((TestPCI *)opaque)->reg = (uint32_t)data;
}

static const MemoryRegionOps test_ops = {
    .read = test_read,
    .write = test_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .impl = { .min_access_size = 4, .max_access_size = 4 },
};

static bool test_realize(PCIDevice *dev, GError **error)
{
    TestPCI *s = TEST_PCI(dev);
    MemoryRegion *regions[] = { &s->io, &s->mmio, &s->wide };

    for (unsigned i = 0; i < 3; i++) {
        memory_region_finalize(regions[i]);
    }
    memory_region_init_io(&s->io, OBJECT(dev), &test_ops, s, "test-io", 32);
    memory_region_init_io(&s->mmio, OBJECT(dev), &test_ops, s, "test-mmio", 0x1000);
    memory_region_init_io(&s->wide, OBJECT(dev), &test_ops, s, "test-wide", 1u << 20);
    pci_register_bar(dev, 0, PCI_BAR_IO, &s->io);
    pci_register_bar(dev, 1, PCI_BAR_MEM32, &s->mmio);
    pci_register_bar(dev, 2, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &s->wide);
    dev->config[PCI_INTERRUPT_PIN] = 1;
    return msi_init(dev, 0, 4, true, true, error) && msix_init_exclusive_bar(dev, 40, 4, error);
}

static void test_finalize(Object *obj)
{
    TestPCI *s = TEST_PCI(obj);

    memory_region_finalize(&s->io);
    memory_region_finalize(&s->mmio);
    memory_region_finalize(&s->wide);
}

static const VMStateField test_fields[] = { VMSTATE_PCI_DEVICE(parent, TestPCI),
                                            VMSTATE_UINT32(reg, TestPCI), VMSTATE_END() };
static const VMStateDescription vmstate_test = {
    .name = TYPE_TEST_PCI, .version = 1, .minimum_version = 1, .fields = test_fields
};

static void test_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = test_realize;
    pc->vendor_id = 0x1234;
    pc->device_id = 0xabcd;
    pc->revision = 7;
    pc->class_code = 0x0c0310;
    DEVICE_CLASS(klass)->vmsd = &vmstate_test;
}

static const TypeInfo test_info = {
    .name = TYPE_TEST_PCI,
    .parent = TYPE_PCI_DEVICE,
    .doc = "A device for tests",
    .instance_size = sizeof(TestPCI),
    .instance_finalize = test_finalize,
    .class_init = test_class_init,
};

static void register_test(void)
{
    type_register_static(&test_info);
}
type_init(register_test)

#define DEVFN 0x18 /* slot 3 */
static PCIDevice *add(void)
{
    return PCI_DEVICE(rig_add(TYPE_TEST_PCI, "3", "dut"));
}

/* ---- configuration space ------------------------------------------------------------------- */

START_TEST(the_header_says_who_it_is_and_most_of_it_is_read_only)
{
    add();
    ck_assert_uint_eq(conf_read(DEVFN, 0, 4), 0xabcd1234);
    ck_assert_uint_eq(conf_read(DEVFN, 8, 4), 0x0c031007);
    ck_assert_uint_eq(conf_read(DEVFN, 0x2c, 4), 0x11001af4);
    for (unsigned reg = 0; reg < 0x10; reg += 4) {
        conf_write(DEVFN, reg, 0xffffffff, 4);
    }
    ck_assert_uint_eq(conf_read(DEVFN, 0, 4), 0xabcd1234);
    ck_assert_uint_eq(conf_read(DEVFN, 8, 4), 0x0c031007);
    ck_assert_uint_eq(conf_read(DEVFN, PCI_COMMAND, 2), 0x507);
    ck_assert_uint_eq(conf_read(DEVFN, PCI_CACHE_LINE_SIZE, 1), 0xff);
    conf_write(DEVFN, PCI_INTERRUPT_LINE, 0x1234, 2);
    ck_assert_uint_eq(conf_read(DEVFN, PCI_INTERRUPT_LINE, 2), 0x0134);
}
END_TEST

START_TEST(nothing_answers_with_ones_and_swallows_writes)
{
    ck_assert_uint_eq(conf_read(0xf8, 0, 4), 0xffffffff);
    ck_assert_uint_eq(conf_read(0xf8, 0, 2), 0xffff);
    ck_assert_uint_eq(conf_read(0xf8, 1, 1), 0xff);
    conf_write(0xf8, 0, 0, 4);
    select_config(7, 0, 0);
    ck_assert_uint_eq(in(0xcfc, 4), 0xffffffff);
    out(0xcf8, 0x00000000, 4); /* not enabled */
    ck_assert_uint_eq(in(0xcfc, 4), 0xffffffff);
}
END_TEST

START_TEST(the_address_register_takes_whole_words_only)
{
    out(0xcf8, 0x80001804, 4);
    out(0xcf8, 0x12, 1);
    out(0xcfa, 0x1234, 2);
    ck_assert_uint_eq(in(0xcf8, 4), 0x80001804);
    ck_assert_uint_eq(in(0xcf8, 1), 0xff);
}
END_TEST

START_TEST(slots_are_given_in_order_and_taken_ones_refused)
{
    g_autoptr(GError) error = NULL;
    PCIDevice *a = PCI_DEVICE(rig_add(TYPE_TEST_PCI, NULL, "a"));
    PCIDevice *b = PCI_DEVICE(rig_add(TYPE_TEST_PCI, NULL, "b"));
    DeviceState *c;
    static const char *const bad[] = { "20", "1.8", "x", "1.", "", "1.0", "-1", " 1", "1.1" };

    ck_assert_int_eq(a->devfn, 0x08);
    ck_assert_int_eq(b->devfn, 0x10);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        if (!bad[i][0]) {
            continue; /* the same as none */
        }
        c = DEVICE(object_new(TYPE_TEST_PCI, NULL));
        ck_assert(object_property_set_str(OBJECT(c), "addr", bad[i], NULL));
        ck_assert_msg(!device_realize(c, machine, "c", &error), "addr %s was taken", bad[i]);
        ck_assert_ptr_nonnull(error);
        g_clear_error(&error);
        object_unref(c);
    }
}
END_TEST

/* ---- BARs ---------------------------------------------------------------------------------- */

START_TEST(sizing_a_bar_shows_its_size_and_kind)
{
    add();
    conf_write(DEVFN, 0x10, 0xffffffff, 4);
    conf_write(DEVFN, 0x14, 0xffffffff, 4);
    conf_write(DEVFN, 0x18, 0xffffffff, 4);
    conf_write(DEVFN, 0x1c, 0xffffffff, 4);
    ck_assert_uint_eq(conf_read(DEVFN, 0x10, 4), 0xffffffe1);
    ck_assert_uint_eq(conf_read(DEVFN, 0x14, 4), 0xfffff000);
    ck_assert_uint_eq(conf_read(DEVFN, 0x18, 4), 0xfff0000c);
    ck_assert_uint_eq(conf_read(DEVFN, 0x1c, 4), 0xffffffff);
    ck_assert_uint_eq(conf_read(DEVFN, 0x24, 4), 0);
    conf_write(DEVFN, 0x24, 0xffffffff, 4);
    ck_assert_uint_eq(conf_read(DEVFN, 0x24, 4), 0);
    ck_assert_uint_eq(conf_read(DEVFN, PCI_ROM_ADDRESS, 4), 0);
}
END_TEST

START_TEST(a_bar_is_where_it_was_put_while_the_command_register_allows_it)
{
    PCIDevice *dev = add();

    conf_write(DEVFN, 0x10, 0xc001, 4);
    conf_write(DEVFN, 0x14, 0xfe000000, 4);
    conf_write(DEVFN, 0x18, 0x0000000c, 4);
    conf_write(DEVFN, 0x1c, 0x00000012, 4);
    ck_assert_uint_eq(in(0xc000, 4), 0xffffffff);
    ck_assert_uint_eq(mem(0xfe000000, 4), 0xffffffff);
    conf_write(DEVFN, PCI_COMMAND, PCI_COMMAND_IO, 2);
    out(0xc000, 0x1000, 4);
    ck_assert_uint_eq(in(0xc004, 4), 0x1004);
    ck_assert_uint_eq(mem(0xfe000000, 4), 0xffffffff);
    conf_write(DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    ck_assert_uint_eq(in(0xc000, 4), 0xffffffff);
    ck_assert_uint_eq(mem(0xfe000010, 4), 0x1010);
    ck_assert_uint_eq(mem(UINT64_C(0x1200000020), 4), 0x1020);
    conf_write(DEVFN, 0x14, 0xfd000000, 4);
    ck_assert_uint_eq(mem(0xfe000010, 4), 0xffffffff);
    ck_assert_uint_eq(mem(0xfd000010, 4), 0x1010);
    device_reset(DEVICE(dev));
    ck_assert_uint_eq(mem(0xfd000010, 4), 0xffffffff);
    ck_assert_uint_eq(pci_bar_address(dev, 1), PCI_UNMAPPED);
    ck_assert_uint_eq(conf_read(DEVFN, 0x10, 4), 1);
    ck_assert_uint_eq(conf_read(DEVFN, 0x18, 4), 0xc);
}
END_TEST

START_TEST(a_bar_at_zero_or_left_at_all_ones_hides_nothing)
{
    add();
    mem_write(0x1000, 0x5a, 1);
    conf_write(DEVFN, PCI_COMMAND, 3, 2);
    conf_write(DEVFN, 0x14, 0, 4);
    ck_assert_uint_eq(mem(0x1000, 1), 0x5a);
    conf_write(DEVFN, 0x14, 0xffffffff, 4);
    ck_assert_uint_eq(mem(0xfffff000, 4), 0xffffffff);
    conf_write(DEVFN, 0x14, 0x1000, 4); /* RAM lies above what a BAR could put there */
    ck_assert_uint_eq(mem(0x1000, 1), 0x5a);
}
END_TEST

/* ---- interrupts ---------------------------------------------------------------------------- */

START_TEST(an_intx_line_arrives_where_the_router_sends_it)
{
    PCIDevice *dev = add();

    rig_add("piix3", "1", "piix3");
    pci_set_irq(dev, 1);
    ck_assert_uint_eq(conf_read(DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
    ck_assert_int_eq(rig_level[11], 0);
    conf_write(0x08, 0x62, 11, 1); /* slot 3, pin A: PIRQ C */
    ck_assert_int_eq(rig_level[11], 1);
    conf_write(DEVFN, PCI_COMMAND, PCI_COMMAND_INTX_OFF, 2);
    ck_assert_int_eq(rig_level[11], 0);
    ck_assert_uint_eq(conf_read(DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
    conf_write(DEVFN, PCI_COMMAND, 0, 2);
    ck_assert_int_eq(rig_level[11], 1);
    conf_write(0x08, 0x62, 0x80 | 11, 1);
    ck_assert_int_eq(rig_level[11], 0);
    conf_write(0x08, 0x62, 13, 1); /* not one that can be routed to */
    ck_assert_int_eq(rig_level[13], 0);
    conf_write(0x08, 0x62, 5, 1);
    ck_assert_int_eq(rig_level[5], 1);
    device_reset(DEVICE(dev));
    ck_assert_int_eq(rig_level[5], 0);
}
END_TEST

START_TEST(two_devices_on_one_line_are_or_ed)
{
    PCIDevice *a = PCI_DEVICE(rig_add(TYPE_TEST_PCI, "3", "a"));
    PCIDevice *b = PCI_DEVICE(rig_add(TYPE_TEST_PCI, "7", "b"));

    rig_add("piix3", "1", "piix3");
    conf_write(0x08, 0x62, 10, 1);
    pci_set_irq(a, 1);
    pci_set_irq(b, 1);
    pci_set_irq(a, 0);
    ck_assert_int_eq(rig_level[10], 1);
    object_unparent(OBJECT(b));
    ck_assert_int_eq(rig_level[10], 0);
}
END_TEST

START_TEST(msi_messages_go_out_masked_ones_wait)
{
    PCIDevice *dev = add();
    unsigned cap = dev->msi_cap;

    ck_assert_uint_eq(pci_find_capability(dev, PCI_CAP_MSI), cap);
    ck_assert_uint_eq(conf_read(DEVFN, cap + 2, 2), 0x0184);
    msi_notify(dev, 0);
    ck_assert_uint_eq(rig_messages, 0);
    conf_write(DEVFN, cap + 4, 0xfee01000, 4);
    conf_write(DEVFN, cap + 12, 0x4040, 2);
    conf_write(DEVFN, cap + 2, 0x0021, 2); /* four vectors granted */
    conf_write(DEVFN, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    ck_assert(msi_enabled(dev));
    msi_notify(dev, 2);
    ck_assert_uint_eq(rig_messages, 1);
    ck_assert_uint_eq(rig_message_addr, 0xfee01000);
    ck_assert_uint_eq(rig_message_data, 0x4042);
    conf_write(DEVFN, cap + 16, 0xffffffff, 4);
    ck_assert_uint_eq(conf_read(DEVFN, cap + 16, 4), 0xf);
    msi_notify(dev, 1);
    msi_notify(dev, 1);
    ck_assert_uint_eq(rig_messages, 1);
    ck_assert_uint_eq(conf_read(DEVFN, cap + 20, 4), 2);
    conf_write(DEVFN, cap + 16, 0, 4);
    ck_assert_uint_eq(rig_messages, 2);
    ck_assert_uint_eq(rig_message_data, 0x4041);
    ck_assert_uint_eq(conf_read(DEVFN, cap + 20, 4), 0);
    conf_write(DEVFN, cap + 2, 0x0071, 2); /* more than it has */
    ck_assert_uint_eq(msi_vectors_granted(dev), 4);
    msi_notify(dev, 31);
    ck_assert_uint_eq(rig_message_data, 0x4043);
}
END_TEST

static unsigned usable, unusable;
static void vector_told(PCIDevice *dev, unsigned vector, bool is_usable, uint64_t addr,
                        uint32_t data, void *opaque)
{
    *(is_usable ? &usable : &unusable) += 1;
}

START_TEST(msix_vectors_are_masked_one_by_one_and_together)
{
    PCIDevice *dev = add();
    unsigned cap = dev->msix_cap;
    hwaddr table = 0xfc000000, pba = table + 0x800;

    usable = unusable = 0;
    ck_assert_uint_eq(conf_read(DEVFN, cap + 2, 2), 39);
    ck_assert_uint_eq(conf_read(DEVFN, cap + 4, 4), 4);
    ck_assert_uint_eq(conf_read(DEVFN, cap + 8, 4), 0x800 | 4);
    conf_write(DEVFN, 0x20, (uint32_t)table, 4);
    conf_write(DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    msix_set_vector_notify(dev, vector_told, NULL);
    mem_write(table + 16 * 33, 0xfee02000, 4);
    mem_write(table + 16 * 33 + 8, 0x55, 4);
    ck_assert_uint_eq(mem(table + 16 * 33 + 12, 4), 1);
    conf_write(DEVFN, cap + 2, 0x8000, 2);
    msix_notify(dev, 33);
    ck_assert_uint_eq(rig_messages, 0);
    ck_assert_uint_eq(mem(pba, 8), UINT64_C(1) << 33);
    mem_write(table + 16 * 33 + 12, 0, 4);
    ck_assert_uint_eq(rig_messages, 1);
    ck_assert_uint_eq(rig_message_addr, 0xfee02000);
    ck_assert_uint_eq(rig_message_data, 0x55);
    ck_assert_uint_eq(mem(pba, 8), 0);
    ck_assert_uint_eq(usable, 1);
    conf_write(DEVFN, cap + 2, 0xc000, 2);
    ck_assert_uint_eq(unusable, 1);
    msix_notify(dev, 33);
    ck_assert_uint_eq(rig_messages, 1);
    conf_write(DEVFN, cap + 2, 0x8000, 2);
    ck_assert_uint_eq(rig_messages, 2);
    mem_write(table + 16 * 33 + 8, 0x66, 4);
    ck_assert_uint_eq(usable, 3);
    msix_notify(dev, 40);
    msix_notify(dev, 5);
    ck_assert_uint_eq(rig_messages, 2);
    device_reset(DEVICE(dev));
    ck_assert(!msix_enabled(dev));
    ck_assert_uint_eq(unusable, 3);
}
END_TEST

/* ---- DMA, bridges -------------------------------------------------------------------------- */

START_TEST(dma_needs_the_bus_master_bit)
{
    PCIDevice *dev = add();
    uint8_t buf[4] = { 1, 2, 3, 4 };

    ck_assert_int_ne(pci_dma_write(dev, 0x1000, buf, 4), MEMTX_OK);
    ck_assert_uint_eq(mem(0x1000, 4), 0);
    conf_write(DEVFN, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    ck_assert_int_eq(pci_dma_write(dev, 0x1000, buf, 4), MEMTX_OK);
    ck_assert_uint_eq(mem(0x1000, 4), 0x04030201);
    ck_assert_uint_eq(pci_requester(dev), DEVFN);
}
END_TEST

START_TEST(a_device_behind_a_bridge_is_found_mapped_and_heard)
{
    DeviceState *bridge = rig_add("pci-bridge", "4", "br");
    PCIBus *bus = (PCIBus *)object_get_child(OBJECT(bridge), "br");
    DeviceState *dev = DEVICE(object_new(TYPE_TEST_PCI, NULL));
    uint8_t byte = 9;

    rig_add("piix3", "1", "piix3");
    ck_assert(object_property_set_link(OBJECT(dev), "bus", (Object *)bus, NULL));
    ck_assert(device_realize(dev, machine, "far", NULL));
    object_unref(dev);
    ck_assert_uint_eq(conf_read(0x20, 0xe, 1), 1);
    conf_write(0x20, PCI_PRIMARY_BUS, 0x00010100, 4);
    select_config(1, 0x08, 0);
    ck_assert_uint_eq(in(0xcfc, 4), 0xabcd1234);
    ck_assert_uint_eq(pci_requester(PCI_DEVICE(dev)), 0x108);
    pci_default_config_write(PCI_DEVICE(dev), 0x14, 0xe0000000, 4);
    pci_default_config_write(PCI_DEVICE(dev), PCI_COMMAND, 7, 2);
    ck_assert_uint_eq(mem(0xe0000004, 4), 0xffffffff);
    conf_write(0x20, PCI_MEMORY_BASE, 0xe000e000, 4);
    conf_write(0x20, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    ck_assert_uint_eq(mem(0xe0000004, 4), 4);
    ck_assert_int_ne(pci_dma_write(PCI_DEVICE(dev), 0x1000, &byte, 1), MEMTX_OK);
    conf_write(0x20, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    ck_assert_int_eq(pci_dma_write(PCI_DEVICE(dev), 0x1000, &byte, 1), MEMTX_OK);
    /* Slot 1, pin A behind slot 4: pin B there, which is PIRQ (4 + 1 - 1) % 4. */
    conf_write(0x08, 0x60, 9, 1);
    pci_set_irq(PCI_DEVICE(dev), 1);
    ck_assert_int_eq(rig_level[9], 1);
    conf_write(0x20, PCI_BRIDGE_CONTROL, 0x40, 2);
    ck_assert_int_eq(rig_level[9], 0);
    ck_assert_uint_eq(mem(0xe0000004, 4), 0xffffffff);
    object_unparent(OBJECT(bridge));
    select_config(1, 0x08, 0);
    ck_assert_uint_eq(in(0xcfc, 4), 0xffffffff);
}
END_TEST

/* ---- saved state, hostile guests ----------------------------------------------------------- */

START_TEST(saved_state_brings_back_mappings_lines_and_vectors)
{
    PCIDevice *dev = add();
    g_autoptr(GBytes) bytes = NULL, again = NULL;
    g_autoptr(GError) error = NULL;

    conf_write(DEVFN, 0x14, 0xfe000000, 4);
    conf_write(DEVFN, 0x20, 0xfc000000, 4);
    conf_write(DEVFN, PCI_COMMAND, 7, 2);
    mem_write(0xfc000000 + 16, 0x12345678, 4);
    pci_set_irq(dev, 1);
    bytes = rig_save(DEVICE(dev));
    device_reset(DEVICE(dev));
    ck_assert_uint_eq(mem(0xfe000000, 4), 0xffffffff);
    ck_assert_msg(rig_load(DEVICE(dev), bytes, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(mem(0xfe000000, 4), 0);
    ck_assert_uint_eq(mem(0xfc000000 + 16, 4), 0x12345678);
    ck_assert_int_eq(pci_bus_device(rig_bus, DEVFN)->irq_state, 1);
    again = rig_save(DEVICE(dev));
    ck_assert(g_bytes_equal(bytes, again));
}
END_TEST

START_TEST(a_state_of_another_device_is_refused)
{
    PCIDevice *dev = add();
    static const unsigned fixed[] = { 0, 2, 9, 0xe, 0x2c, 0x34 };

    for (unsigned i = 0; i < G_N_ELEMENTS(fixed); i++) {
        g_autoptr(GBytes) bytes = NULL;
        g_autoptr(GError) error = NULL;

        dev->config[fixed[i]] ^= 0x40;
        bytes = rig_save(DEVICE(dev));
        dev->config[fixed[i]] ^= 0x40;
        ck_assert(!rig_load(DEVICE(dev), bytes, &error));
        ck_assert_ptr_nonnull(strstr(error->message, "configuration byte"));
    }
}
END_TEST

START_TEST(random_configuration_and_bar_accesses_do_no_harm)
{
    uint64_t seed = 1;

    add();
    rig_add("piix3", "1", "piix3");
    rig_add("piix4-pm", "2", "pm");
    rig_add("pci-bridge", "4", "br");
    for (unsigned i = 0; i < 20000; i++) {
        static const unsigned devfns[] = { 0, 8, 0x10, 0x18, 0x20 };
        unsigned devfn = devfns[rig_random(&seed) % 5], reg = rig_random(&seed) % 256;
        unsigned size = 1u << rig_random(&seed) % 3;
        uint32_t value = rig_random(&seed) ^ rig_random(&seed) << 8;

        reg &= ~(size - 1);
        conf_write(devfn, reg, value, size);
        conf_read(devfn, reg, size);
        if (i % 8 == 0) {
            mem_write(value, value, size);
            mem(value ^ 0xfff00000, size);
            out(value & 0xffff, value, size);
        }
    }
    settle();
}
END_TEST

RIG_MAIN("pci", the_header_says_who_it_is_and_most_of_it_is_read_only,
         nothing_answers_with_ones_and_swallows_writes, the_address_register_takes_whole_words_only,
         slots_are_given_in_order_and_taken_ones_refused, sizing_a_bar_shows_its_size_and_kind,
         a_bar_is_where_it_was_put_while_the_command_register_allows_it,
         a_bar_at_zero_or_left_at_all_ones_hides_nothing,
         an_intx_line_arrives_where_the_router_sends_it, two_devices_on_one_line_are_or_ed,
         msi_messages_go_out_masked_ones_wait, msix_vectors_are_masked_one_by_one_and_together,
         dma_needs_the_bus_master_bit, a_device_behind_a_bridge_is_found_mapped_and_heard,
         saved_state_brings_back_mappings_lines_and_vectors, a_state_of_another_device_is_refused,
         random_configuration_and_bar_accesses_do_no_harm)

/*
 * PCI configuration space by number: registers, their bits, capability layouts.
 *
 * PCI Local Bus Specification 3.0 (chapter 6), PCI-to-PCI Bridge Architecture Specification 1.2
 * (chapter 3), PCI Code and ID Assignment Specification.
 */
#pragma once

#define PCI_CONFIG_SIZE     256
#define PCIE_CONFIG_SIZE    4096
#define PCI_CONFIG_HEADER   64 /* what the specification lays out */
#define PCI_SLOTS           32
#define PCI_FUNCTIONS       8
#define PCI_DEVFN(slot, fn) ((uint8_t)(((slot)&0x1f) << 3 | ((fn)&7)))
#define PCI_SLOT(devfn)     ((devfn) >> 3 & 0x1f)
#define PCI_FUNCTION(devfn) ((devfn)&7)

/* ---- header, common ---------------------------------------------------------------------- */
#define PCI_VENDOR_ID         0x00
#define PCI_DEVICE_ID         0x02
#define PCI_COMMAND           0x04
#define PCI_COMMAND_IO        0x0001
#define PCI_COMMAND_MEMORY    0x0002
#define PCI_COMMAND_MASTER    0x0004
#define PCI_COMMAND_PARITY    0x0040
#define PCI_COMMAND_SERR      0x0100
#define PCI_COMMAND_INTX_OFF  0x0400
#define PCI_STATUS            0x06
#define PCI_STATUS_INTERRUPT  0x0008
#define PCI_STATUS_CAP_LIST   0x0010
#define PCI_STATUS_66MHZ      0x0020
#define PCI_STATUS_FAST_BACK  0x0080
#define PCI_STATUS_PARITY     0x0100
#define PCI_STATUS_DEVSEL_MED 0x0200
#define PCI_STATUS_SIG_TABORT 0x0800
#define PCI_STATUS_REC_TABORT 0x1000
#define PCI_STATUS_REC_MABORT 0x2000
#define PCI_STATUS_SIG_SERR   0x4000
#define PCI_STATUS_DET_PARITY 0x8000
#define PCI_STATUS_W1C        0xf900 /* errors, which software clears by writing ones */
#define PCI_REVISION_ID       0x08
#define PCI_CLASS_PROG        0x09
#define PCI_CLASS_DEVICE      0x0a
#define PCI_CACHE_LINE_SIZE   0x0c
#define PCI_LATENCY_TIMER     0x0d
#define PCI_HEADER_TYPE       0x0e
#define PCI_HEADER_NORMAL     0x00
#define PCI_HEADER_BRIDGE     0x01
#define PCI_HEADER_MULTI      0x80
#define PCI_BIST              0x0f
#define PCI_BASE_ADDRESS(n)   (0x10 + 4 * (n))
#define PCI_BAR_IO            0x01 /* kinds of BAR, as pci_register_bar takes them */
#define PCI_BAR_MEM32         0x00
#define PCI_BAR_MEM64         0x04
#define PCI_BAR_PREFETCH      0x08
#define PCI_BAR_TYPE_MASK     0x0f
#define PCI_CAPABILITY_LIST   0x34

/* ---- header, ordinary devices ------------------------------------------------------------ */
#define PCI_CARDBUS_CIS         0x28
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID        0x2e
#define PCI_ROM_ADDRESS         0x30
#define PCI_ROM_ENABLE          0x01
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_INTERRUPT_PIN       0x3d /* 0: none, 1: INTA# … 4: INTD# */
#define PCI_MIN_GNT             0x3e
#define PCI_MAX_LAT             0x3f

/* ---- header, bridges --------------------------------------------------------------------- */
#define PCI_PRIMARY_BUS        0x18
#define PCI_SECONDARY_BUS      0x19
#define PCI_SUBORDINATE_BUS    0x1a
#define PCI_SEC_LATENCY_TIMER  0x1b
#define PCI_IO_BASE            0x1c
#define PCI_IO_LIMIT           0x1d
#define PCI_SEC_STATUS         0x1e
#define PCI_MEMORY_BASE        0x20
#define PCI_MEMORY_LIMIT       0x22
#define PCI_PREF_BASE          0x24
#define PCI_PREF_LIMIT         0x26
#define PCI_PREF_BASE_UPPER    0x28
#define PCI_PREF_LIMIT_UPPER   0x2c
#define PCI_IO_BASE_UPPER      0x30
#define PCI_IO_LIMIT_UPPER     0x32
#define PCI_BRIDGE_ROM_ADDRESS 0x38
#define PCI_BRIDGE_CONTROL     0x3e
#define PCI_BRIDGE_CTL_PARITY  0x0001
#define PCI_BRIDGE_CTL_SERR    0x0002
#define PCI_BRIDGE_CTL_ISA     0x0004
#define PCI_BRIDGE_CTL_VGA     0x0008
#define PCI_BRIDGE_CTL_VGA16   0x0010
#define PCI_BRIDGE_CTL_MABORT  0x0020
#define PCI_BRIDGE_CTL_RESET   0x0040
#define PCI_BRIDGE_CTL_FAST    0x0080

/* ---- capabilities ------------------------------------------------------------------------ */
#define PCI_CAP_ID     0 /* offsets in each */
#define PCI_CAP_NEXT   1
#define PCI_CAP_PM     0x01
#define PCI_CAP_SLOTID 0x04
#define PCI_CAP_MSI    0x05
#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_SSVID  0x0d
#define PCI_CAP_EXP    0x10
#define PCI_CAP_MSIX   0x11
#define PCI_CAP_AF     0x13

#define PCI_MSI_FLAGS        2
#define PCI_MSI_FLAGS_ENABLE 0x0001
#define PCI_MSI_FLAGS_QMASK  0x000e /* log2 of vectors the device has */
#define PCI_MSI_FLAGS_QSIZE  0x0070 /* log2 of vectors software grants */
#define PCI_MSI_FLAGS_64BIT  0x0080
#define PCI_MSI_FLAGS_MASK   0x0100
#define PCI_MSI_ADDRESS_LO   4
#define PCI_MSI_ADDRESS_HI   8 /* with 64BIT; what follows then is 4 further on */
#define PCI_MSI_DATA_32      8
#define PCI_MSI_DATA_64      12
#define PCI_MSI_MASK_32      12
#define PCI_MSI_MASK_64      16
#define PCI_MSI_PENDING_32   16
#define PCI_MSI_PENDING_64   20

#define PCI_MSIX_FLAGS        2
#define PCI_MSIX_FLAGS_QSIZE  0x07ff
#define PCI_MSIX_FLAGS_MASK   0x4000 /* all vectors */
#define PCI_MSIX_FLAGS_ENABLE 0x8000
#define PCI_MSIX_TABLE        4
#define PCI_MSIX_PBA          8
#define PCI_MSIX_BIR_MASK     0x7
#define PCI_MSIX_CAP_LENGTH   12
#define PCI_MSIX_ENTRY_SIZE   16 /* table entries: address low and high, data, vector control */
#define PCI_MSIX_ENTRY_ADDR   0
#define PCI_MSIX_ENTRY_DATA   8
#define PCI_MSIX_ENTRY_CTRL   12
#define PCI_MSIX_CTRL_MASK    0x1
#define PCI_MSIX_MAX          2048

/* ---- who and what ------------------------------------------------------------------------ */
#define PCI_VENDOR_INTEL     0x8086
#define PCI_VENDOR_REDHAT    0x1af4 /* legacy virtio, and the subsystem of emulated boards */
#define PCI_VENDOR_REDHAT2   0x1b36
#define PCI_VENDOR_QEMU      0x1234
#define PCI_SUBDEVICE_QEMU   0x1100
#define PCI_DEVICE_82441     0x1237
#define PCI_DEVICE_82371SB_0 0x7000 /* PIIX3: ISA */
#define PCI_DEVICE_82371SB_1 0x7010 /* IDE */
#define PCI_DEVICE_82371AB_3 0x7113 /* PIIX4: power management */

/* class code: base class << 16 | subclass << 8 | programming interface */
#define PCI_CLASS_STORAGE_IDE  0x010100
#define PCI_CLASS_STORAGE_SCSI 0x010000
#define PCI_CLASS_NETWORK      0x020000
#define PCI_CLASS_DISPLAY_VGA  0x030000
#define PCI_CLASS_BRIDGE_HOST  0x060000
#define PCI_CLASS_BRIDGE_ISA   0x060100
#define PCI_CLASS_BRIDGE_PCI   0x060400
#define PCI_CLASS_BRIDGE_OTHER 0x068000
#define PCI_CLASS_SYSTEM_OTHER 0x088000

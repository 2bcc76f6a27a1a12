/*
 * fw_cfg: how firmware asks its virtual board what it is: numbered items of bytes, some of them
 * named files in a directory. See fw_cfg.c for the ports and docs/pc.md for what a PC has in it.
 * Engine lock.
 */
#pragma once

#include "engine/hw/core/device.h"

#define TYPE_FW_CFG "fw_cfg"

/* Keys. */
enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_MACHINE_ID = 0x06,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_KERNEL_CMDLINE = 0x09,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH_LOCAL = 0x8000,
    FW_CFG_FILE_SLOTS = 0x100, /* files that there is room for */
    FW_CFG_ARCH_SLOTS = 0x20,
    FW_CFG_NAME_MAX = 56, /* with the NUL */
};

typedef struct FWCfg FWCfg;

/* Makes the bytes of an item when firmware reads the directory and whenever it selects the item; a
 * later answer is cut or filled with zeros to the length of the first. NULL + error: the machine
 * fails. */
typedef GBytes *(*FWCfgFn)(void *opaque, GError **error);
/* Told when firmware has written to an item; `data` is all of it. */
typedef void (*FWCfgWritten)(void *opaque, const uint8_t *data, uint32_t len);

/* An item by number; replaces what was there. Keys that the device itself answers (signature, id,
 * directory) are refused. */
bool fw_cfg_set(FWCfg *s, uint16_t key, GBytes *bytes, GError **error);
/* A file, or what replaces one of that name. Takes `opaque` over with its free function. */
bool fw_cfg_add_file(FWCfg *s, const char *name, GBytes *bytes, GError **error);
bool fw_cfg_add_file_fn(FWCfg *s, const char *name, FWCfgFn fn, void *opaque, GDestroyNotify free,
                        GError **error);
/* Lets firmware write to a file (through DMA). */
bool fw_cfg_set_writable(FWCfg *s, const char *name, FWCfgWritten fn, void *opaque, GError **error);
/* The present bytes of a file or (name NULL) key; NULL when there is none. The caller unrefs. */
GBytes *fw_cfg_get(FWCfg *s, const char *name, uint16_t key, GError **error);
unsigned fw_cfg_file_count(const FWCfg *s);
const char *fw_cfg_file_name(const FWCfg *s, unsigned n);
/* The first fw_cfg device of a machine; NULL. */
FWCfg *fw_cfg_of_machine(Machine *m);

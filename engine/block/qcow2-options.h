/* What an image can be created with, or changed to. */
#pragma once

#include "engine/block/qcow2_priv.h"

typedef struct Qcow2Options {
    uint64_t size, cluster_size, refcount_bits;
    bool has_size, lazy, extended_l2, data_raw, nocow;
    unsigned version;
    uint8_t compression;
    const char *preallocation, *backing, *backing_format, *data_file;
} Qcow2Options;

bool qcow2_option_parse(const BlockCreateOption *o, Qcow2Options *out, GError **error);

/* Nodes from a description in JSON, as image names and headers of images have it ("json:{…}"). */
#pragma once

#include "engine/block/block_priv.h"

#define BLOCK_JSON_PREFIX "json:"

/* One that is open, with those below it. Options count where the description says nothing else;
 * where it names no driver at the top, the format is the one of the options, or is found by
 * looking. Nested objects and keys with points are the same: {"file": {"driver": "file"}},
 * {"file.driver": "file"}. Names of files are taken as they are (not relative to an image). */
BlockNode *block_open_json(const char *name, const BlockOpenOptions *o, GError **error);

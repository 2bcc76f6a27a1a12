/*
 * Between the files on memory: vm.memory and vm.io (memory.c), regions that scripts make
 * (region.c).
 */
#pragma once

#include "bindings/binding.h"
#include "engine/memory/memory.h"

/* container:add(addr, region[, priority]) for spaces and for container regions: arguments 2 to 4.
 */
int script_region_add_to(lua_State *L, MemoryRegion *container, const char *container_name);
MemoryRegion *script_check_region(lua_State *L, int arg);

void binding_open_region(lua_State *L); /* part of binding_open_memory */

/*
 * libnbd, loaded when it is needed.
 */
#include <dlfcn.h>

#include "engine/block/nbd-library.h"
#include "engine/core/error.h"

#define SONAME "libnbd.so.0"

NbdLibrary libnbd;

static bool find(void *handle, const char *name, void *function, GError **error)
{
    void *found = dlsym(handle, name);

    if (!found) {
        return error_set(error, ENGINE_ERROR_INVALID, "nbd: " SONAME " has no %s", name);
    }
    *(void **)function = found;
    return true;
}

bool nbd_library_load(GError **error)
{
    static GMutex lock;
    static bool loaded;
    bool ok = true;

    g_mutex_lock(&lock);
    if (!loaded) {
        void *handle = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);

        if (!handle) {
            error_set(error, ENGINE_ERROR_INVALID, "nbd: libnbd cannot be loaded: %s", dlerror());
            ok = false;
        }
#define NBD_FIND(name) ok = ok && find(handle, "nbd_" #name, &libnbd.name, error);
        NBD_FUNCTIONS(NBD_FIND)
#undef NBD_FIND
        loaded = ok;
        if (handle && !ok) {
            dlclose(handle);
        }
    }
    g_mutex_unlock(&lock);
    return ok;
}

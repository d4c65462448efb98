/* Android's libdl.so for a glibc process. */
#define _GNU_SOURCE
#include <dlfcn.h>

static int (*real_dlclose)(void *);

__attribute__((constructor)) static void find_real(void) {
  real_dlclose = dlsym(dlopen("libc.so.6", RTLD_NOW), "dlclose");
}

int shim_dlclose(void *handle) { return real_dlclose(handle); }
__asm__(".symver shim_dlclose,dlclose@@LIBC");

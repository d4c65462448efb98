/* Android's libc.so for a glibc process: the functions that the AAR's x86-64 libonnxruntime4j_jni.so needs.
 *
 * Each one is taken from glibc by dlsym. Calling it by name would find this library's own symbol again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static void *(*real_malloc)(size_t), *(*real_realloc)(void *, size_t);
static void *(*real_memcpy)(void *, const void *, size_t);
static void (*real_free)(void *), (*real_abort)(void);
static size_t (*real_strlen)(const char *);

__attribute__((constructor)) static void find_real(void) {
  void *glibc = dlopen("libc.so.6", RTLD_NOW);
  real_malloc = dlsym(glibc, "malloc");
  real_realloc = dlsym(glibc, "realloc");
  real_memcpy = dlsym(glibc, "memcpy");
  real_free = dlsym(glibc, "free");
  real_abort = dlsym(glibc, "abort");
  real_strlen = dlsym(glibc, "strlen");
}

void *shim_malloc(size_t size) { return real_malloc(size); }
void *shim_realloc(void *block, size_t size) { return real_realloc(block, size); }
void *shim_memcpy(void *to, const void *from, size_t size) { return real_memcpy(to, from, size); }
void shim_free(void *block) { real_free(block); }
size_t shim_strlen(const char *text) { return real_strlen(text); }
void shim_stack_check_failed(void) { real_abort(); }

/* The process ends with the JVM: nothing has to be run at exit or before a fork. */
int shim_atexit(void (*function)(void *), void *argument, void *library) {
  (void)function, (void)argument, (void)library;
  return 0;
}
void shim_finalize(void *library) { (void)library; }
int shim_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *library) {
  (void)prepare, (void)parent, (void)child, (void)library;
  return 0;
}

#define EXPORT(function, name) __asm__(".symver " #function "," #name "@@LIBC")
EXPORT(shim_malloc, malloc);
EXPORT(shim_realloc, realloc);
EXPORT(shim_memcpy, memcpy);
EXPORT(shim_free, free);
EXPORT(shim_strlen, strlen);
EXPORT(shim_atexit, __cxa_atexit);
EXPORT(shim_finalize, __cxa_finalize);
EXPORT(shim_atfork, __register_atfork);
EXPORT(shim_stack_check_failed, __stack_chk_fail);

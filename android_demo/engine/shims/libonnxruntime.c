/* libonnxruntime.so as the JNI library expects it, in front of the library that ORT_REAL names: that of the Python
 * wheel, so that Kotlin and Python run the same kernels. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *real(const char *name) {
  static void *library;
  if (!library) {
    const char *path = getenv("ORT_REAL");
    library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
      fprintf(stderr, "set ORT_REAL to a libonnxruntime.so: %s\n", path ? dlerror() : "it is not set");
      abort();
    }
  }
  return dlsym(library, name);
}

const void *OrtGetApiBase(void) { return ((const void *(*)(void))real("OrtGetApiBase"))(); }

/* The JNI library refers to both; the engine calls neither. */
void *OrtSessionOptionsAppendExecutionProvider_CPU(void *options, int arena) {
  void *(*append)(void *, int) = (void *(*)(void *, int))real("OrtSessionOptionsAppendExecutionProvider_CPU");
  return append ? append(options, arena) : NULL;
}
void *OrtSessionOptionsAppendExecutionProvider_Nnapi(void *options, unsigned flags) {
  (void)options, (void)flags;
  return NULL;
}

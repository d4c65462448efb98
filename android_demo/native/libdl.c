/* A stand-in for Android's libdl.so at link time: the functions that zig's unwinder takes from it. */
int dladdr(const void *address, void *info) { return address != info; }
int dl_iterate_phdr(int (*visit)(void *, unsigned long, void *), void *data) { return visit(0, 0, data); }

/* Android's libm.so: the JNI library names it and uses none of its functions. */
typedef int nothing;

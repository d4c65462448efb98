"""The command line. Thin: it reads arguments, calls the library and draws what comes back."""

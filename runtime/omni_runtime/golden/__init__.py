"""Golden vectors: inputs and outputs of every part of a bundle, for tests of other runtimes."""

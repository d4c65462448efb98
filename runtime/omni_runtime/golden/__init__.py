"""Golden vectors of a bundle: inputs and outputs of every part, to test another runtime with."""

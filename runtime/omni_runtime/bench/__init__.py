"""What a bundle costs on this machine: each component and whole replies. Prints nothing."""

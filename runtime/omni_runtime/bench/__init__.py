"""What a bundle costs on this machine: each part, whole replies, rivals. Draws no text."""

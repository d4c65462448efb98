"""The networks, one file each, written as modules whose attributes carry the checkpoint's names."""

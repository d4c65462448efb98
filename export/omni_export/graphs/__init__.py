"""The networks, one per file, as modules whose attributes have the names of the checkpoint."""

"""The bundle on disk: its manifest, its files, its graph contracts. Knows nothing of inference."""

"""The bundle on disk: manifest, files and graph contracts. No inference."""

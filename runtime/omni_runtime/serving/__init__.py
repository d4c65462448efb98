"""One thread that owns a model, and several conversations that take turns on it."""

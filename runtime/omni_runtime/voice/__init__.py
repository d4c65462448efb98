"""Live voice: voice activity, turns, and the session that holds a spoken conversation."""

"""Tokens and arrays: sessions, KV caches, the decoders, the speech path. No messages, no text."""

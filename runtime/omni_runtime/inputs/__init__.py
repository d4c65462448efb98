"""From files and messages to arrays: media decoding, mel, pixels, token ids, TMRoPE positions.

Everything here is numpy and equals the reference preprocessing; nothing here runs a graph.
"""

"""Preprocessing: media decoding, log-mel, pixels, token ids and TMRoPE positions.

Pure numpy, equal to the reference preprocessing. Nothing here runs a graph.
"""

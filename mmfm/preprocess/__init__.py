"""Bytes, files and strings in; checked RGB pictures, normalised arrays and texts out.

Nothing here imports torch, so that reading and checking pictures costs no start-up time.
"""

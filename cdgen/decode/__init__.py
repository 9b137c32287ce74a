"""Two-model decoding. Importing this package loads nothing heavy: name the module you need."""

ENGINE_VERSION = 1
"""Part of the decode digest: raised by every change that can change a token."""

"""Decoding with two models: `contrast` (the maths), `sampling`, `models`, `engine` (the loop), `reference`.

Import the modules themselves: this package imports nothing, so that naming it costs nothing.
"""

ENGINE_VERSION = 2
"""Part of the decode digest: raised by every change that can change a token."""

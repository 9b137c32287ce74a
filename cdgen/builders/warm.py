"""Imported once by the process that a sweep's jobs are forked from: each begins warm, and has nothing of the others.

Importing torch starts no threads and no GPU; nothing here may compute.
"""

from cdgen.builders.process import prepare_process

prepare_process()  # before torch

import torch  # noqa: E402, F401
import transformers  # noqa: E402, F401

import cdgen.builders.run  # noqa: E402
import cdgen.training.pretrain  # noqa: E402, F401

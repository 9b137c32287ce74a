"""Workers as Ray actors: the only package that imports ray.

One named actor is one worker, in a process of its own with its own models. Actors are never restarted by Ray and calls
are never retried by it: the scheduler decides, and a new worker has a new name. Answers come through callbacks into one
queue, so the driver never asks Ray which of many calls are done.

`session` connects, `actor` is what runs on a worker, `crew` is all of them as the driver sees them, `decoding` is the
stage of a build.
"""

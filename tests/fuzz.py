"""How many hostile inputs each fuzz test tries: together over 10^4 in CI, ten times as many in the soak tier.

The soak tier is `CDGEN_FUZZ_FACTOR=10 pytest -m "soak or not soak"`.
"""

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("CDGEN_FUZZ_FACTOR", "1"))


def cases(count: int) -> settings:
    """Settings for `count` cases in CI."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count * FACTOR, deadline=None, suppress_health_check=slow)

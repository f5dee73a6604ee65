"""Seeds that derive from names, so that a new generator never moves an old one."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed for the generator called `names` within everything seeded by `seed`.

    Args:
        seed: The parent seed.
        names: The path of the generator, such as ``"batches", "target"``.

    Returns:
        An integer in [0, 2**63), equal for equal arguments on every machine and version.
    """
    path = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1

"""What every configuration model shares: frozen, typed, exact, with a canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


def canonical_text(mapping: Mapping[str, Any]) -> str:
    """The one text of JSON-like data: keys sorted, no spaces."""
    return json.dumps(mapping, sort_keys=True, separators=(",", ":"))


class ConfigModel(BaseModel):
    """A frozen model that refuses unknown keys and silent conversions (``"3"`` is not 3)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        serialize_by_alias=True,
    )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build the model from plain JSON-like data (lists stand for tuples).

        Raises:
            pydantic.ValidationError: With one entry for each problem found.
        """
        return cls.model_validate_json(json.dumps(mapping))

    def to_mapping(self) -> dict[str, Any]:
        """The model as plain JSON-like data, defaults included."""
        return self.model_dump(mode="json")

    def canonical(self) -> str:
        """The one text of this configuration: JSON, keys sorted, defaults included."""
        return canonical_text(self.to_mapping())

    def key(self) -> str:
        """Sixteen hex digits of SHA-256 over `canonical`: equal settings, equal key."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

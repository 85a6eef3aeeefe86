"""hwc: compile a PyTorch model once and ship it, verified and profiled, to every chip in a mixed fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwc.api import Model as Model
    from hwc.api import Sampling as Sampling
    from hwc.api import open as open

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for, so that the command line starts fast."""
    if name in ("open", "Model", "Sampling"):
        from hwc import api

        return getattr(api, name)
    raise AttributeError(name)

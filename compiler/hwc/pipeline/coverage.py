"""Coverage of a model by a target, asked before anything is built: its work, shape by shape, held to the descriptor."""

from __future__ import annotations

from hwc.events import Listener
from hwc.lower import coverage, legality
from hwc.lower.coverage import Coverage
from hwc.lower.placing import uses_host
from hwc.lower.pricing import pricing
from hwc.pipeline import dispatches
from hwc.spec.project import Found, Project, find_target


def of_model(
    project: Project, found: Found, target_name: str, scheme_name: str, listen: Listener
) -> tuple[Coverage, ...]:
    """Return the coverage of each static shape of a model, in a scheme, by a target; raises as dispatches.of_model."""
    target = find_target(project, target_name)
    traced = dispatches.of_model(project, found, target_name, scheme_name, listen)
    host = find_target(project, target.placement.host) if uses_host(target.legality, target.placement) else None
    price, unpriced = pricing(target, host)
    return tuple(
        coverage.cover(
            bucket, legality.judge(operations, target.legality, target.placement),
            gate=target.placement.coverage_gate, sources=traced.modules.get(bucket, {}),
            price=price, unpriced=unpriced,
        )
        for bucket, operations in traced.workload.items()
    )

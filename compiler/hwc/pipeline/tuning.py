"""Tuning: make a variant's code in every way its descriptor declares, hold each to its parity, measure, choose."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from hwc.errors import StepError
from hwc.events import Event, Listener
from hwc.measure import contest, tune
from hwc.pipeline import stages
from hwc.pipeline.outcome import Outcome
from hwc.pipeline.plan import Plan, VariantPlan
from hwc.pipeline.step import Step, make_step
from hwc.pipeline.store import Artifact
from hwc.runtime.contest import Turns
from hwc.spec.tuning import DEFAULT, Candidate

MIN_ROUNDS, ROUNDS = 9, 60
"""Least and most rounds; with fewer than nine, eight challengers' intervals would have no end."""
TRYING = 0.5
"""Share of the time budget after which no further candidate is compiled and checked; the rest is for measuring."""

PlanOf = Callable[[Mapping[str, str]], Plan]
"""Plans the build anew with a candidate for some variants, by name."""


class Run(Protocol):
    """Runs steps, each after those it reads, and tells ``listen``."""

    def __call__(self, steps: Sequence[Step], /, *, listen: Listener) -> dict[str, Artifact]:
        """Return their outputs by key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A way to make a variant's code that compiles and computes the right numbers."""

    variant: VariantPlan
    code_sha256: str


class Tuner:
    """Tunes the variants of one build."""

    def __init__(self, plan_of: PlanOf, run: Run, listen: Listener, budget_s: float) -> None:
        self.plan_of, self.run, self.listen, self.budget_s = plan_of, run, listen, budget_s

    def tune(self) -> dict[str, dict[str, Any]]:
        """Return, by variant, what was tried, how it did and what was chosen; variants with no choice are left out."""
        plan = self.plan_of({})
        found = {variant.name: self._variant(plan, variant) for variant in plan.variants}
        return {name: record for name, record in found.items() if record is not None}

    def _variant(self, plan: Plan, variant: VariantPlan) -> dict[str, Any] | None:
        target = variant.target.spec
        if not target.tune or variant.profile is None or target.execution.functional_only:
            reason = "its descriptor has no [[tune]]" if not target.tune else "its times are not measured here"
            self._note(variant, f"is not tuned: {reason}")
            return None
        entrants, refused = {DEFAULT: self._entrant(plan, variant)}, dict[str, str]()
        deadline = time.monotonic() + TRYING * self.budget_s
        for candidate in target.tune:
            try:
                if time.monotonic() > deadline:
                    raise _LeftOut("not tried: the time for trying was spent; give more with --tune-budget-s")
                entrants[candidate.name] = self._challenger(variant, candidate, entrants)
            except _LeftOut as reason:
                refused[candidate.name] = str(reason)
                self._note(variant, f"candidate `{candidate.name}` is left out: {reason}")
        return self._judged(variant, entrants, refused)

    def _challenger(self, variant: VariantPlan, candidate: Candidate, entrants: Mapping[str, Entrant]) -> Entrant:
        """Return a candidate that may be measured; raise _LeftOut with the reason for any other."""
        plan = self.plan_of({variant.name: candidate.name})
        other = next(one for one in plan.variants if one.name == variant.name)
        try:
            found = self._entrant(plan, other)
        except StepError as error:
            raise _LeftOut(error.what) from error
        same = next((name for name, one in entrants.items() if one.code_sha256 == found.code_sha256), None)
        if same is not None:
            raise _LeftOut(f"makes the same code as `{same}`")
        return found

    def _entrant(self, plan: Plan, variant: VariantPlan) -> Entrant:
        steps = Plan(found=plan.found, variants=(replace(variant, profile=None),)).steps()
        done = self.run(steps, listen=self._changes)
        outcome = Outcome(plan, variant, done)
        assert outcome.check is not None
        worst = outcome.check["parity"]["max_abs"]
        if not worst <= outcome.parity_max_abs:
            raise StepError(
                f"max abs {worst:.2e} to ONNX Runtime is past the parity of {outcome.parity_max_abs:.2e}",
                where=variant.name,
            )
        return Entrant(variant=variant, code_sha256=done[variant.lower.key].sha256["module.vmfb"])

    def _judged(
        self, variant: VariantPlan, entrants: Mapping[str, Entrant], refused: Mapping[str, str]
    ) -> dict[str, Any]:
        step = _step(variant, entrants, self.budget_s * (1 - TRYING))
        done = self.run([*_before(step), step], listen=self._changes)
        facts = json.loads((done[step.key].path / tune.FILE).read_text())
        measured = facts.pop("times_ms")
        times = {name: measured[name] for name in entrants}  # in the order of the declaration
        best, ratios = contest.choose(times)
        self._note(variant, f"is made by `{best}`" + (f", {_told(ratios[best])}" if best != DEFAULT else ""))
        rows = [
            _row(candidate, times.get(candidate.name), ratios.get(candidate.name), refused.get(candidate.name, ""))
            for candidate in variant.target.spec.tune
        ]
        default = {"name": DEFAULT, "shapes": _shapes(times[DEFAULT])}
        return {"chosen": best, "rule": RULE, "candidates": [default, *rows], **facts}

    def _changes(self, event: Event, /) -> None:
        """Tell what is done, and not again what was there for every candidate."""
        if event.kind not in ("hit", "warn"):
            self.listen(event)

    def _note(self, variant: VariantPlan, text: str) -> None:
        self.listen(Event(kind="note", step=variant.name, text=text))


RULE = (
    f"the geometric mean over shapes of the median ratio to the default, shapes alike; taken if its whole interval "
    f"({1 - contest.ERROR:.0%} for all candidates together) is faster by more than {contest.LEAST_GAIN:.0%}"
)


class _LeftOut(Exception):
    """A candidate is not measured; the message says why."""


def _step(variant: VariantPlan, entrants: Mapping[str, Entrant], budget_s: float) -> Step:
    assert variant.profile is not None
    params = {
        "candidates": list(entrants), "method": asdict(Turns(min_rounds=MIN_ROUNDS, rounds=ROUNDS, budget_s=budget_s)),
        **{
            name: variant.profile.params[name] for name in ("device", "device_name", "machine", "context_tokens")
            if name in variant.profile.params
        },
    }
    inputs = {"cases": variant.cases}
    for name, entrant in entrants.items():
        inputs |= {f"encode {name}": entrant.variant.encode, f"lower {name}": entrant.variant.lower}
    return make_step(stages.TUNE, f"tune {variant.name}", params, inputs, variant.profile.local)


def _before(step: Step) -> list[Step]:
    """Return every step that a step needs, each after those it reads."""
    ordered: dict[str, Step] = {}

    def visit(one: Step) -> None:
        for parent in one.inputs.values():
            visit(parent)
        ordered[one.key] = one

    for parent in step.inputs.values():
        visit(parent)
    return list(ordered.values())


def _row(candidate: Candidate, times: contest.Times | None, ratio: contest.Ratio | None, reason: str) -> dict[str, Any]:
    told = candidate.model_dump(mode="json", exclude_defaults=True)
    measured = {"shapes": _shapes(times)} if times is not None else {"left_out": reason}
    return {**told, **measured, **({"ratio": asdict(ratio)} if ratio is not None else {})}


def _shapes(times: contest.Times) -> dict[str, dict[str, float]]:
    return {
        shape: {
            "median_ms": statistics.median(values), "min_ms": min(values), "n": len(values),
            "iqr_ms": (quarters := statistics.quantiles(values, n=4, method="inclusive"))[2] - quarters[0],
        }
        for shape, values in times.items()
    }


def _told(ratio: contest.Ratio) -> str:
    return f"{ratio.value:.3f} of the default's time ({ratio.low:.3f} to {ratio.high:.3f})"

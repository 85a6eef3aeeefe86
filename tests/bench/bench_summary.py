"""All chips' goals and portability beside each other: docs/reference/bench.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import chips
from bench_page import ABOUT, TITLES
from compared import portability
from goals_page import aim, plain, reason, spread, unit

Row = Mapping[str, Any]
Records = Mapping[str, Row]
"""Records by slug, their goals judged."""


def page(records: Records) -> str:
    """Return docs/reference/bench.md."""
    names = {slug: chips.title(_sections(facts)[0][2]) for slug, facts in records.items()}
    lines = [
        "# Bench: speed beside hand-tuned libraries", "",
        "<!-- Written by tests/bench/bench.py (`make bench`); measure again, do not edit. Reasons: goals.toml. -->", "",
        f"{ABOUT} Every figure, pictures and predictions are on a page for each chip:", "",
        *_chips(records, names), "",
        "## Goals", "", *_goals(records, names), "",
        "## Why goals are missed", "",
    ]
    for slug, facts in records.items():
        lines += [f"### {names[slug]}", "", *_missed(facts["goals"]), ""]
    return "\n".join([*lines, "## Portability", "", *_portability(records, names), ""])


def _sections(facts: Row) -> list[tuple[str, str, Row]]:
    """Return part, threads and section, in the order of the pages."""
    return [
        (part, threads, section)
        for part in TITLES for threads, section in sorted(facts["parts"].get(part, {}).items())
    ]


def _chips(records: Records, names: Mapping[str, str]) -> list[str]:
    lines = [
        "| Chip | Linux calls it | Cores | Memory, GiB | Measured | While busy, not worth quoting | Goals met |",
        "|---|---|---:|---:|---|---|---:|",
    ]
    for slug, facts in records.items():
        sections, goals = _sections(facts), facts["goals"]
        machines = [section["machine"] for _, _, section in sections]
        days = sorted(section["measured_utc"][:10] for _, _, section in sections)
        busy = [f"{part} ({threads})" for part, threads, section in sections if not section["quiet"]]
        lines.append(
            f"| [{names[slug]}](bench/{slug}.md) | {_each(machines, 'cpu_model')} | {_each(machines, 'cpu_count')} | "
            f"{_each(machines, 'memory_gib')} | {' to '.join(dict.fromkeys((days[0], days[-1])))} | "
            f"{', '.join(busy) or '–'} | "
            f"**{sum(row['met'] for row in goals)}** of {len(goals)} |"
        )
    return lines


def _each(machines: Sequence[Row], fact: str) -> str:
    return plain(", ".join(str(value) for value in dict.fromkeys(machine[fact] for machine in machines)))


def _goals(records: Records, names: Mapping[str, str]) -> list[str]:
    lines = [
        "Measured [p10, p90], and whether that meets the aim; –: not measured. Speed-ups are of the fastest peer that",
        "the goal names, which the chips' own pages tell.", "",
        f"| Goal | Model, case | Threads | Aim | {' | '.join(names.values())} |",
        f"|---|---|---:|---:|{'---|' * len(names)}",
    ]
    for rows in zip(*(facts["goals"] for facts in records.values()), strict=True):
        one = rows[0]
        lines.append(
            f"| {one['title']} | {one['part']}, {one['case']} | {one['threads']} | {aim(one)} {unit(one)} | "
            f"{' | '.join(map(_verdict, rows))} |"
        )
    return lines


def _verdict(row: Row) -> str:
    if row["found"] is None:
        return "–"
    return f"{row['found']['value']:.3g}{spread(row)} {'met' if row['met'] else '**missed**'}"


def _missed(goals: Sequence[Row]) -> list[str]:
    """Return what is missed with its reason, goals of one reason together, and what was not measured."""
    places: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in goals:
        if row["found"] is not None and not row["met"]:
            cases = places.setdefault((row["title"], reason(row)), {})
            cases.setdefault(f"{row['part']}, {row['case']}", []).append(str(row["threads"]))
    lines = ["| Goal | Missed at (threads) | Reason |", "|---|---|---|"] if places else []
    for (title, why), cases in places.items():
        where = "; ".join(f"{case} ({', '.join(threads)})" for case, threads in cases.items())
        lines.append(f"| {title} | {where} | {plain(why)} |")
    absent = Counter(row["missing"] for row in goals if row["found"] is None)
    told = [f"- {count} not measured: {plain(why)}" for why, count in absent.items()]
    return [*lines, *([""] if lines and told else []), *told] or ["None."]


def _portability(records: Records, names: Mapping[str, str]) -> list[str]:
    told = {
        slug: {
            (part, row["precision"], threads): f"**{row['mean']:.2f}** | {row['worst']:.2f}"
            for part, threads, section in _sections(facts) for row in portability(section)
        }
        for slug, facts in records.items()
    }
    heads = " | ".join(f"{name}: mean | worst" for name in names.values())
    lines = [
        "Time of hwc's fastest artefact ÷ that of the fastest hand-tuned library on the same chip, at weights of one",
        "precision: geometric mean over the cases that both have, and the worst of them. Below 1: hwc is faster.", "",
        f"| Model | Weights | Threads | {heads} |",
        f"|---|---|---:|{'---:|---:|' * len(names)}",
    ]
    order = list(TITLES)
    keys = sorted(dict.fromkeys(key for rows in told.values() for key in rows), key=lambda key: order.index(key[0]))
    for part, precision, threads in keys:
        cells = " | ".join(rows.get((part, precision, threads), "– | –") for rows in told.values())
        lines.append(f"| {TITLES[part]} | {precision} | {threads} | {cells} |")
    return lines

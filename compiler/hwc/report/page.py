"""The whole page, from records alone; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hwc import digest as digests
from hwc.bundle.serving_cells import cells_of
from hwc.report import plots, provenance, roofline, tables
from hwc.report.html import Html, details, element, joined, listing, of_class
from hwc.report.records import BundleReport, Left, Page, VariantReport
from hwc.report.style import CSS

# Nothing in the page may run or be fetched, whatever a bundle managed to put into it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_METHODS = (
    ("measured", "taken on a machine, under the conditions that are told"),
    ("estimated", "worked out from a name, a shape or a model of the machine"),
    ("assumed", "put in by hand, with its source; no measurement stands behind it"),
)
MOST_PLOTS = 6


def draw(page: Page) -> str:
    """Return the HTML document."""
    head = element(
        "head",
        [
            element("meta", "", {"charset": "utf-8"}),
            element("meta", "", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
            element("meta", "", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
            element("meta", "", {"name": "color-scheme", "content": "light dark"}),
            element("title", page.title),
            element("style", Html(CSS)),
        ],
    )
    sections = [_bundle(one, index) for index, one in enumerate(page.bundles)]
    body = element("body", [_header(page), element("main", [*sections, *_left(page.left)]), _footer(page)])
    return "<!doctype html>\n" + element("html", [head, body], {"lang": "en"}) + "\n"


def _header(page: Page) -> Html:
    every = [one for bundle in page.bundles for one in bundle.variants]
    verified = sum(one.verified for one in every)
    noisy, cells = _cells(every)
    tiles = [
        _tile(str(len(page.bundles)), "bundles"),
        _tile(str(len(every)), "variants"),
        _tile(f"{verified} of {len(every)}", "verified on their device"),
        _tile(f"{noisy} of {cells}", "latency cells flagged as noisy"),
    ]
    links = [
        element("li", element("a", ", ".join(one.tags), {"href": f"#bundle-{index}"}))
        for index, one in enumerate(page.bundles)
    ]
    contents = element("nav", element("ul", links), {"aria-label": "Bundles"}) if len(links) > 1 else Html("")
    return element(
        "header",
        [element("h1", page.title), of_class("p", "sub", f"{page.tool} · {page.created_utc}"),
         of_class("div", "tiles", tiles), contents],
    )


def _tile(figure: str, label: str) -> Html:
    return of_class("div", "tile", [element("b", figure), element("span", label)])


def _cells(rows: Iterable[VariantReport]) -> tuple[int, int]:
    """Return how many latency cells are noisy, and how many there are."""
    valid = [cell.valid for one in rows if one.verified and one.serving for cell in cells_of(one.serving)]
    return valid.count(False), len(valid)


def _bundle(found: BundleReport, index: int) -> Html:
    told = " · ".join(filter(None, (found.title, found.licence, f"built {found.created_utc}")))
    rows = found.variants
    heading = f"bundle-{index}"
    parts = [
        element("h2", ", ".join(found.tags), {"id": heading}),
        of_class("p", "sub", [told, " · ", of_class("code", "digest", digests.short(found.digest))]),
        tables.variants(rows),
        *_unverified(rows),
        element("h3", "Quality, latency and cost"),
        *_plots(rows),
        *([tables.latency(rows)] if any(plots.shapes_of([one]) for one in rows) else []),
        details("All quality metrics", [tables.quality(rows)]),
        element("h3", "Time by dispatch, against the roofline"),
        *roofline.section(rows),
        element("h3", "Memory"),
        tables.memory(rows),
        element("h3", "Cost"),
        tables.per_million(rows),
        details("What an hour costs, and what that assumes", [tables.per_hour(rows)]),
        element("h3", "Provenance"),
        *provenance.section(rows),
    ]
    return element("section", parts, {"aria-labelledby": heading})


def _unverified(rows: Sequence[VariantReport]) -> list[Html]:
    names = ", ".join(one.name for one in rows if not one.verified)
    told = f"Unverified, so without latency, quality or claims: {names}. They never ran on the device they are for."
    return [of_class("p", "note", told)] if names else []


def _plots(rows: Sequence[VariantReport]) -> list[Html]:
    metric = plots.metric_of(rows)
    drawn = [(shape, plots.points_of(rows, shape, metric)) for shape in plots.shapes_of(rows)]
    figures = [
        element("figure", [element("figcaption", f"Shape {shape}"), plots.plot(points, shape, metric)])
        for shape, points in drawn
        if points
    ]
    if not figures:
        return [of_class("p", "note", "Nothing to draw: no variant has both a latency and a quality.")]
    rest = f"{len(figures) - MOST_PLOTS} more shapes stand in the table alone." if len(figures) > MOST_PLOTS else ""
    return [of_class("div", "plots", figures[:MOST_PLOTS]), plots.legend(rows), of_class("p", "note", rest)]


def _left(rows: Sequence[Left]) -> list[Html]:
    if not rows:
        return []
    items = [
        element("div", [element("dt", one.tag), element("dd", [_reason(one), " ", one.reason])]) for one in rows
    ]
    return [element("section", [element("h2", "Not shown"), element("dl", items)])]


def _reason(one: Left) -> Html:
    return tables.pill("damaged", "bad") if one.damaged else tables.pill("not a bundle of hwc", "warn")


def _footer(page: Page) -> Html:
    return element(
        "footer",
        joined(
            [
                element("p", "What the methods mean"),
                listing(_METHODS),
                element("p", f"Written by {page.tool}. The page fetches nothing and runs no script."),
            ]
        ),
    )

"""The page shows what is known, says what is not, and lets nothing in a bundle become markup."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from report_parts import PROFILE, page, unverified, variant, verified_serving

from hwc.report import html
from hwc.report.html import Html, element, number
from hwc.report.page import draw
from hwc.report.records import Left

HOSTILE = "<script>alert(1)</script>\"'><img src=//evil.test/x onerror=alert(2)>&amp;"
VOID = {"meta"}
ROW = PROFILE["dispatches"]["functions"]["b1"][0]


class Outline(HTMLParser):
    """Reads the page as a browser would: text, elements, and whether every element is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(*variants: Any, **changes: Any) -> Outline:
    read = Outline(draw(page(*variants, **changes)))
    assert read.open == []
    return read


def test_a_verified_variant_is_told_with_its_latency_quality_cost_and_methods() -> None:
    told = outline(variant()).text
    for expected in ("cpu/w4a16", "verified", "10.2", "0.99870 ± 0.0007", "too few", "measured", "assumed", "a guess"):
        assert expected in told


def test_a_language_model_is_told_by_prompts_and_tokens_with_what_a_million_tokens_cost() -> None:
    serving = verified_serving()
    (request,) = serving["profile"].pop("request")
    rest = {"batch": 1, "tok_s": 97.5, "valid": False, "method": "measured"}
    serving["profile"] |= {
        "prefill": [{"isl": 64, "calls": 4, "ttft_ms": request["latency_ms"], **rest}],
        "decode": [{"context": 512, "itl_ms": request["latency_ms"], **rest}],
    }
    serving["cost"] |= {
        "usd_per_million_items": [],
        "usd_per_million_tokens": [
            {"phase": "decode", "batch": 1, "tokens": 512, "utilisation": 0.5, "usd": {"low": 3, "base": 4, "high": 5}}
        ],
    }
    profile = {**PROFILE, "cells": [{"function": "decode_b1_n512", "noise": ["too much else ran"]}]}
    told = outline(variant(serving, profile=profile)).text
    for expected in (
        "TTFT, batch 1, prompt 64 in 4 calls", "ITL, batch 1, 512 tokens in the cache", "97.5 tokens",
        "2 of 2latency cells flagged as noisy", "512 tokens in the cache is noisy: too much else ran",
        "$4 per million tokens",
    ):
        assert expected in told


def test_a_hostile_string_stays_text_wherever_it_stands() -> None:
    serving = verified_serving()
    serving["identity"]["bundle_id"] = serving["target"]["device"] = serving["target"]["compiler"] = HOSTILE
    serving["definitions"] |= {"percentile_method": HOSTILE, "latency": HOSTILE}
    serving["quality"][0] |= {"metric": HOSTILE, "reference": HOSTILE}
    serving["cost"]["assumptions"] = [HOSTILE]
    serving["provenance"] |= {"tools": {HOSTILE: HOSTILE}}
    serving["profile"]["request"][0] |= {"bucket": HOSTILE, "dims": {HOSTILE: 1}, "valid": False}
    serving["cost"]["usd_per_million_items"][0]["bucket"] = HOSTILE
    row = ROW | {"dispatch": HOSTILE}
    profile = PROFILE | {
        "dispatches": {"functions": {HOSTILE: [row]}},
        "peaks": PROFILE["peaks"] | {"how": HOSTILE},
        "cells": [{"function": HOSTILE, "noise": [HOSTILE]}],
        "machine": {"cpu_model": HOSTILE},
    }
    left = (Left(tag=HOSTILE, reason=HOSTILE, damaged=True),)
    read = outline(variant(serving, profile=profile, name=HOSTILE), tags=(HOSTILE,), left=left)
    assert read.text.count(HOSTILE) >= 15
    assert not {"script", "img"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on") or name in ("src", "srcset", "style")]


def test_the_page_refers_to_nothing_outside_itself_and_forbids_it_too() -> None:
    text = draw(page(variant(), unverified()))
    assert "default-src &#x27;none&#x27;" in text
    links = [str(value) for name, value in Outline(text).attributes if name == "href"]
    assert [link for link in links if not link.startswith("#")] == []
    assert "url(" not in text
    assert "@import" not in text


def test_an_unverified_variant_is_told_as_such_and_without_latency() -> None:
    read = outline(unverified())
    assert "unverified" in read.text
    assert "never ran on the device" in read.text
    assert "Nothing to draw" in read.text
    assert "Latency of one call" not in read.text
    assert "circle" not in read.tags


def test_a_profile_that_an_unverified_variant_smuggles_in_is_not_shown() -> None:
    serving = verified_serving()
    smuggler = variant(serving, verified=False, name="gpu/fp8")
    read = outline(smuggler)
    assert "10.2" not in read.text
    assert "0.9987" not in read.text


def test_a_missing_price_is_told_and_drawn_grey() -> None:
    serving = verified_serving(cost=None)
    serving["provenance"]["tier"].pop("cost")
    read = outline(variant(serving))
    assert "No price is known for cpu" in read.text
    assert "$ per million items" not in read.text.replace("Disc area: $ per million items", "")
    assert ("class", "disc s0") in read.attributes


def test_a_profile_without_dispatches_says_why() -> None:
    profile = PROFILE | {"dispatches": {"available": False, "reason": "the tool is not here"}}
    assert "no dispatches (the tool is not here)" in outline(variant(profile=profile)).text


def test_dispatches_are_set_against_the_roofline() -> None:
    told = outline(variant()).text
    flops, best_us, bound_us = 2 * 16 * 512 * 256, 50.0, 2 * 16 * 512 * 256 / 100e3
    assert number(flops / best_us / 1e3) in told
    assert number(bound_us) in told
    assert "84% of the best time" in told
    assert "arithmetic" in told
    assert "The names of 1 of 2 tell no work" in told


def test_without_peaks_times_are_told_and_the_roofline_is_not() -> None:
    read = outline(variant(profile={key: value for key, value in PROFILE.items() if key != "peaks"}))
    assert "no roofline" in read.text
    assert "of the best time" not in read.text
    assert "0_matmul_16x512x256_f32" in read.text


@pytest.mark.parametrize(
    "profile",
    [
        {}, {"dispatches": []}, {"dispatches": {"functions": {"b1": {"dispatch": 1}}}}, {"peaks": {"gflop_per_s": "9"}},
        {"dispatches": {"functions": {"b1": [1, None, {"dispatch": "x"}, {"dispatch": "y", "count": -1}]}}},
        {"dispatches": {"functions": {"b1": [ROW | {"mean_us": float("inf")}]}}},
        {"memory": {"peak_rss_bytes": 10**400}, "cells": [3], "machine": "x", "conditions": {"before": 7}},
    ],
)
def test_a_profile_of_any_form_gives_a_page(profile: dict[str, Any]) -> None:
    assert "no dispatches" in outline(variant(profile=profile)).text


def test_a_bundle_that_could_not_be_read_is_listed() -> None:
    read = outline(variant(), left=(Left(tag="broken:dev", reason="blob is missing", damaged=True),))
    assert "Not shown" in read.text
    assert "broken:dev" in read.text
    assert "blob is missing" in read.text


def test_text_is_escaped_once_and_markup_not_again() -> None:
    inner = element("b", "1 < 2 & 3", {"title": '"'})
    assert element("p", [inner, "<"]) == '<p><b title="&quot;">1 &lt; 2 &amp; 3</b>&lt;</p>'


def test_characters_that_mislead_or_cannot_be_written_are_replaced() -> None:
    told = html.escaped("a\u202eb\x00c\ud800d")
    assert told == "a\ufffdb\ufffdc\ufffdd"
    assert isinstance(told, Html)
    told.encode()


def test_a_long_text_is_cut() -> None:
    assert len(html.escaped("x" * 10**6)) == html.MAX_TEXT + 1


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "–"), (0, "0"), (0.00123456, "0.00123"), (12.3456, "12.3"), (123456.7, "123,457"), (1e-7, "1.00e-07")],
)
def test_a_number_is_told_with_three_digits(value: float | None, told: str) -> None:
    assert number(value) == told

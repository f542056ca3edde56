"""The page of all names: the numbers of its table, and its filter as somebody in a browser uses it.

What needs Playwright and Chromium skips without them: ``pip install playwright``.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import NAMES as ALL, ROOT, tried

import unetzoo

sys.path.insert(0, str(ROOT / "docs"))
import _tables
import _zoo

STATIC = ROOT / "docs" / "_static"
RECORDED = json.loads((ROOT / "tests" / "parameter_counts.json").read_text(encoding="utf-8"))
ALIASES = {"resunet18": "unet_resnet18", "resunet101": "unet_resnet101"}
NAMES = (
    *("unet", "resunet101", "resunet18", "unet_mobilenet_v3_large", "unet_valid", "unetpp", "unetpp_resnext50_32x4d"),
    *("unet3p_resnet18", "unetpp_lite_resnet18", "unet3p_lite_resnet18"),
)
"""Of the table in these tests, in its order: each is counted in a fraction of a second."""


@pytest.fixture(scope="module")
def fragment() -> str:
    return _zoo.page([_tables.counted(name) for name in NAMES])


def rows(html: str) -> dict[str, list[str]]:
    """Return name → the numbers that a script reads, in the order of the columns."""
    body = html.partition("<tbody>")[2]
    return {
        re.findall("<code[^>]*>(.*?)</code>", row)[0]: re.findall('data-value="(.*?)"', row)
        for row in body.splitlines()
        if row.startswith("<tr>")
    }


# The table


def test_scripts_read_the_recorded_numbers(fragment: str) -> None:
    found = rows(fragment)
    assert list(found) == list(NAMES)
    for name, (parameters, _, *published) in found.items():
        recorded = RECORDED[name]
        assert int(parameters) == recorded["parameters"]
        assert published == ([recorded["published"]] if "published" in recorded else [])


def test_gflops_of_the_u_net_in_closed_form(fragment: str) -> None:
    widths, pixels = (64, 128, 256, 512, 1024), [256**2 // 4**level for level in range(5)]
    into = (3, *widths)
    macs = sum(9 * (into[i] + widths[i]) * widths[i] * pixels[i] for i in range(5))  # down
    for wide, narrow, below, at in zip(widths[1:], widths, pixels[1:], pixels, strict=False):
        macs += 4 * wide * narrow * below + 9 * 3 * narrow * narrow * at  # up, and two convolutions of [up, skip]
    macs += 64 * pixels[0]
    assert rows(fragment)["unet"][1] == f"{2 * macs / 1e9:.1f}"


@pytest.mark.parametrize("name", tried(ALL, ("unet3p_lite_resnet18", "unet_valid")))
def test_gflops_are_those_of_compare(name: str) -> None:
    (row,) = unetzoo.compare(name).rows
    assert _tables.counted(name)[1] == row.gflops


def test_a_family_is_a_title_without_its_size() -> None:
    titles = ("plain", "ResNet-18", "ResEnc", "ResEnc small", "ResNeXt-50 32×4d", "Wide ResNet-50-2", "RegNetY-1.6GF")
    assert [*map(_zoo.family, titles)] == ["plain", "ResNet", "ResEnc", "ResEnc", "ResNeXt", "Wide ResNet", "RegNetY"]


def test_nothing_comes_from_elsewhere(fragment: str) -> None:
    script = (STATIC / "zoo.js").read_text(encoding="utf-8")
    style = (STATIC / "unetzoo.css").read_text(encoding="utf-8")
    assert not re.search(r"https?:|\bsrc=|\bhref=|url\(|@import", fragment + script + style)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\b|WebSocket|sendBeacon|eval\(|innerHTML", script)


# The filter, in a browser


class Visitor:
    """Somebody at the page, which lies on the disk."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            field = self.page.locator(f"[name={name}]")
            field.select_option(value) if name in ("architecture", "encoders") else field.fill(value)

    def shown(self) -> list[str]:
        """Return the names that are seen, from the top down; the count above them is theirs."""
        seen = self.page.locator("#zoo tbody tr:visible").all()
        if self.page.locator("#zoo-filter").is_visible():
            said = self.page.locator("output[aria-live=polite]").inner_text()
            assert said == f"{len(seen)} of {len(NAMES)} names"
        return [row.locator("code").first.inner_text() for row in seen]


@pytest.fixture
def visit(browser: Any, fragment: str, tmp_path: Path) -> Iterator[Callable[..., Visitor]]:
    for name in ("zoo.js", "unetzoo.css"):
        shutil.copy(STATIC / name, tmp_path)
    head = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="unetzoo.css">'
    script = '<script defer src="zoo.js"></script>'
    path = tmp_path / "zoo.html"
    path.write_text(f'{head}{script}<h2 id="the-table">The table</h2>{fragment}', encoding="utf-8")
    visitors: list[Visitor] = []

    def arrive(place: str = "", **options: Any) -> Visitor:
        visitors.append(Visitor(browser.new_page(**options), path.as_uri() + place))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.page.close()
        assert not visitor.errors
        assert all(url.startswith(tmp_path.as_uri()) for url in visitor.asked)


def test_wildcards_are_those_of_list_models(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    for pattern in ("*", "unetpp*", "*resnet18", "unet_resnet18", "unet?p*", "[!u]*", "*resnet1[0-7]*", "[z-a]*", "*."):
        visitor.fill(name=pattern)
        fits = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
        assert visitor.shown() == [name for name in NAMES if name in unetzoo.list_models(fits)], pattern


def test_other_text_stands_anywhere_in_a_name_or_an_alias(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    for text in ("resnet18", " UNETPP ", "unet_res", "lite", "(", "[", "nothing"):
        visitor.fill(name=text)
        part = text.strip().lower()
        assert visitor.shown() == [name for name in NAMES if part in name or part in ALIASES.get(name, "")], text


def test_numbers_and_lists_hold_together(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.fill(parameters="20.777345")  # as many as resunet18 has
    small = [name for name in NAMES if RECORDED[name]["parameters"] <= 20777345]
    assert visitor.shown() == small
    assert "resunet18" in small
    visitor.fill(parameters="", gflops="96.3")  # as the table says of U-Net, which has 96.33
    assert set(NAMES) - set(visitor.shown()) == {"unet_valid"}
    visitor.fill(parameters="20", encoders="ResNet")
    assert visitor.shown() == [name for name in small if fnmatch.fnmatch(name, "*_resnet18")]
    visitor.fill(architecture="UNet 3+ light")
    assert visitor.shown() == ["unet3p_lite_resnet18"]
    visitor.fill(gflops="0")
    assert visitor.shown() == []


def test_a_click_sorts_and_another_turns_about(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    head = visitor.page.locator("#zoo th", has_text="Parameters")
    expected = sorted(NAMES, key=lambda name: RECORDED[name]["parameters"])
    for order, state in ((expected, "ascending"), (expected[::-1], "descending")):
        head.locator("button").focus()
        visitor.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == state
        assert visitor.shown() == order
    published = [name for name in expected if "published" in RECORDED[name]]
    for order in (published, published[::-1]):
        visitor.page.click("#zoo th:has-text('Published') button")
        assert visitor.shown()[: len(published)] == order  # and what has none behind it
    assert head.get_attribute("aria-sort") is None
    visitor.page.click("#zoo th:has-text('Name') button")
    assert visitor.shown()[:4] == ["resunet18", "resunet101", "unet", "unet_mobilenet_v3_large"]


def test_the_address_links_to_what_is_seen(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.fill(name="u*", encoders="ResNet", parameters="40")
    visitor.page.click("#zoo th:has-text('GFLOPs') button")
    visitor.page.click("#zoo th:has-text('GFLOPs') button")
    seen = visitor.shown()
    assert seen == ["unet3p_resnet18", "unetpp_lite_resnet18", "resunet18", "unet3p_lite_resnet18"]
    other = visit("#" + visitor.page.url.partition("#")[2])
    assert other.shown() == seen
    assert other.page.locator("[name=name]").input_value() == "u*"
    other.page.evaluate("location.hash = 'the-table'")  # a link to a section changes nothing
    assert other.shown() == seen
    visitor.page.click("[type=reset]")
    visitor.page.wait_for_function("location.hash === ''")
    assert visitor.page.url == visitor.url
    assert visitor.shown() == list(NAMES)
    assert visit("#architecture=nonsense&gflops=many&sort=colour").shown() == list(NAMES)


def test_without_javascript_the_table_is_whole(visit: Callable[..., Visitor]) -> None:
    visitor = visit(java_script_enabled=False)
    assert visitor.shown() == list(NAMES)
    assert not visitor.page.locator("#zoo-filter").is_visible()

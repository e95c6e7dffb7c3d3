"""Every page in the looks that people choose: light, dark, narrow, and other themes of the admin."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support import accessibility
from tests.support.browsing import logged_in, open_tab
from tests.support.every_page import addresses, fill, one_of_each_kind
from tests.support.site import Site, serve_site
from tests.support.workers import Workers

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.postgresql]

LAPTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}
# What Django's own templates draw around the app's content, or in its lists and forms.
OF_DJANGO = ["#header", "#nav-sidebar", "#footer", ".object-tools", ".paginator", "#toolbar", ".timezonewarning"]

IN_THEME = {
    "unfold": "[class*=unfold], #nav-sidebar, .bg-base-50",
    "jazzmin": ".jazzmin-login-page, #jazzy-sidebar",
    "grappelli": "[id^=grp-]",
}


CONTRAST = {"type": "rule", "values": ["color-contrast"]}
# Rules that depend on the width of the window.
LAYOUT = {"type": "rule", "values": ["color-contrast", "scrollable-region-focusable", "target-size"]}


def violations(page: Page, within: str, rules: dict[str, Any] = accessibility.ALL) -> list[str]:
    """The serious findings of axe-core, without those in Django's own elements."""
    found = accessibility.violations(page, within, rules, OF_DJANGO)
    return [one for one in found if ": .results " not in one]  # Django's box around a list


# How many pixels the page is wider than the window, or a list wider than the box around it, which then scrolls.
OVERFLOW = """() => {
    const list = document.querySelector("#result_list")
    const ofList = list ? list.scrollWidth - list.parentElement.clientWidth : 0
    return Math.max(document.documentElement.scrollWidth - window.innerWidth, ofList)
}"""


# Returns each control that the page shows. ``seen`` has the places of the controls that get the focus, and whether it
# changes their look.
CONTROLS = """(within) => {
    const look = (one) => {
        const style = getComputedStyle(one)
        const names = ["outline", "boxShadow", "borderColor", "backgroundColor", "color", "textDecoration"]
        return names.map((name) => style[name]).join()
    }
    const start = document.querySelector(within)
    const selector = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
    const isOffered = (one) => one.checkVisibility({visibilityProperty: true}) && !one.disabled && one.tabIndex >= 0
    const controls = [...start.querySelectorAll(selector)].filter(isOffered)
    const looks = controls.map(look)
    window.seen = {}
    document.addEventListener("focusin", ({target}) => {
        const place = controls.indexOf(target)
        window.seen[place] = place >= 0 && look(target) !== looks[place]
    })
    start.tabIndex = -1
    start.focus()
    return controls.map((one) => one.outerHTML.slice(0, 120))
}"""
# A field for a time has a stop for each of its parts.
PARTS_OF_A_TIME = 8

MOVING = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const style = getComputedStyle(one)
    return style.animationName !== "none" || style.transitionDuration.split(", ").some((time) => time !== "0s")
}).map((one) => one.outerHTML.slice(0, 80))"""


# The first marks each visible element. In a narrow window, the second leaves only the marks of the hidden ones, and
# counts them. The other elements have the same colours in both windows.
MARK_VISIBLE = """() => document.querySelectorAll("#content *").forEach((one) => {
    one.toggleAttribute("data-hidden", one.checkVisibility({visibilityProperty: true}))
})"""
COUNT_HIDDEN = """() => [...document.querySelectorAll("[data-hidden]")].filter((one) => {
    return one.toggleAttribute("data-hidden", !one.checkVisibility({visibilityProperty: true}))
}).length"""


def _unreached(page: Page, within: str) -> list[str]:
    """The controls that Tab does not reach, or with an invisible focus."""
    controls = page.evaluate(CONTROLS, within)
    for presses in (len(controls), PARTS_OF_A_TIME):
        for _ in range(presses):
            page.keyboard.down("Tab")  # held down, it repeats itself
        page.keyboard.up("Tab")
        seen = page.evaluate("window.seen")
        problems = [
            f"{'the focus is invisible' if str(place) in seen else 'not reached'}: {control}"
            for place, control in enumerate(controls)
            if not seen.get(str(place))
        ]
        if not problems:
            break
    return problems


def _tab_to(page: Page, control: Locator) -> None:
    for _ in range(300):
        page.keyboard.press("Tab")
        if control.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {control}")


def _report(problems: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(f"{name}: {problem}" for name, found in problems.items() for problem in found)


def test_every_page_is_accessible_by_keyboard_and_whether_light_dark_or_narrow(page: Page) -> None:
    fill()
    _stop_the_status_page(page)
    problems = defaultdict[str, list[str]](list)
    for address in addresses():
        is_index = address == reverse("admin:index")  # of which only the notice is ours
        within = ".wh-notice" if is_index else "#content"
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        page.set_viewport_size(LAPTOP)
        page.goto(address)
        if not is_index and page.locator("link[href*='webhooks/admin']").count():  # else it is Django's own page
            problems[f"{address} reduced motion"] += page.evaluate(MOVING)
        page.add_style_tag(content="* { transition: none !important }")  # or axe may see a colour on its way
        if address != reverse("admin:rq_webhooks_webhook_add"):  # the page of a webhook has the same form
            problems[f"{address} keyboard"] += _unreached(page, within)
            page.evaluate("document.activeElement.blur()")
        problems[f"{address} light"] += violations(page, within)
        page.emulate_media(color_scheme="dark")
        page.evaluate(MARK_VISIBLE)
        page.set_viewport_size(PHONE)
        problems[f"{address} dark and narrow"] += violations(page, within, LAYOUT)
        if (wide := page.evaluate(OVERFLOW)) > 0:
            problems[f"{address} narrow"].append(f"{wide} px too wide")
        if page.evaluate(COUNT_HIDDEN):
            page.set_viewport_size(LAPTOP)
            problems[f"{address} dark"] += violations(page, "[data-hidden]", CONTRAST)
    assert not (report := _report(problems)), report


def _stop_the_status_page(page: Page) -> None:
    """Stop its refresh in this tab. It would replace the controls meanwhile."""
    page.goto(reverse("webhooks_backend_status"))
    page.get_by_role("button", name="Stop refreshing").click()


def test_the_keyboard_starts_an_act(page: Page) -> None:
    fill()
    _stop_the_status_page(page)
    group = page.locator(".wh-groups summary").first
    _tab_to(page, group)
    page.keyboard.press("Enter")
    retry = page.get_by_role("button", name=re.compile("^Retry Amsterdam")).first
    _tab_to(page, retry)
    page.keyboard.press("Enter")
    expect(page.locator(".messagelist .success")).to_contain_text("1 delivery")


# tests/admin/test_status.py reads the pages in a theme, too.
@pytest.fixture(
    params=["unfold", *(pytest.param(theme, marks=pytest.mark.storm) for theme in ("jazzmin", "grappelli"))]
)
def themed(
    request: pytest.FixtureRequest, django_db_setup: str, redis_url: str, tmp_path: Path
) -> Iterator[tuple[str, Site]]:
    workers = Workers(tmp_path, redis_url)
    workers.is_forking = False  # other settings
    with serve_site(workers, f"tests.themes.{request.param}") as site:
        yield request.param, site


def _without_heading(page: Page, theme: str, is_ours: bool) -> list[str]:
    """Whether a first heading names the page. Jazzmin's own templates have none."""
    if theme == "jazzmin" and not (is_ours or page.locator("#result_list, .submit-row, #jazzy-actions").count()):
        return []
    shown = " ".join(one.inner_text() for one in page.locator("h1:visible").all())
    title = page.title().partition(" | ")[0]
    names_page = is_ours and "chevron_right" not in shown  # django-unfold writes the breadcrumbs of a row
    return [] if (title in shown if names_page else shown) else [f"its first headings are “{shown}”"]


def test_every_page_is_whole_in_other_themes(
    themed: tuple[str, Site], database: str, redis: Any, browser: Browser, is_long: bool
) -> None:
    """Without --long, each theme leaves out a third of the pages, and each page is shown in two themes."""
    theme, site = themed
    left_out = None if is_long else [*IN_THEME].index(theme)
    fill()
    problems = defaultdict[str, list[str]](list)
    with open_tab(browser, site.url) as tab, logged_in(tab, site.url) as page:
        for number, address in enumerate(one_of_each_kind()):
            if number % len(IN_THEME) == left_out:
                continue
            page.set_viewport_size(LAPTOP)
            page.goto(address)
            if not page.locator(IN_THEME[theme]).count():
                problems[address].append("is not in the look of the theme")
            is_ours = page.locator("#content-main.wh").count()  # else the theme lays out a list or a form
            for size in (LAPTOP, PHONE) if is_ours or page.locator("#result_list").count() else (LAPTOP,):
                page.set_viewport_size(size)
                if size == PHONE and page.locator(".select2").count():
                    page.reload()  # it chooses its width once
                if (wide := page.evaluate(OVERFLOW)) > 0:
                    problems[address].append(f"{wide} px too wide for {size['width']} px")
            if is_ours:
                problems[address] += violations(page, ".wh", CONTRAST)
            if page.locator("#result_list").count():
                problems[address] += violations(page, "#result_list", CONTRAST)
            problems[address] += _without_heading(page, theme, is_ours=bool(is_ours))
            if theme == "unfold":
                problems[address] += violations(page, "body", {"type": "rule", "values": ["listitem"]})
                if page.get_by_text("Show all").count():
                    problems[address].append("offers to show all")
        for address in (reverse("admin:index"), reverse("admin:app_list", args=["rq_webhooks"])):
            page.goto(address)
            expect(page.locator(".wh-notice")).to_contain_text("No worker is running")
            problems[address] += violations(page, ".wh-notice", CONTRAST)
        for query in ("", "?user=nobody"):
            page.goto(reverse("admin:rq_webhooks_delivery_changelist") + query)
            expect(page.locator(".wh-filters").get_by_role("button", name="Search")).to_be_visible()
            expect(page.locator("#wh-pager")).to_contain_text("deliveries")
    assert not (report := _report(problems)), report

"""A browser that is logged in to the demo, and takes pictures of its admin pages."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from django.urls import reverse
from playwright.sync_api import Page, sync_playwright

from demo.startup import EMAIL, PASSWORD
from webhooks.models import Delivery, Event, Run, State, Webhook

FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


@dataclass(frozen=True)
class Look:
    """How a page is shown: the size of the window, and the colours."""

    width: int
    height: int
    scheme: str = "light"


LOOKS = {"light": Look(1366, 900), "dark": Look(1366, 900, "dark"), "narrow": Look(375, 812)}


@dataclass(frozen=True)
class Picture:
    """A picture of the docs: the upper part of a page."""

    page: str
    height: int
    width: int = 1200
    part: str = "#content"
    """The element that is shown."""
    prepare: Callable[[Page], None] = lambda page: None


def _fill_form(page: Page) -> None:
    """A new webhook that is tried on a site."""
    page.fill("#id_name", "Inventory")
    page.fill("#id_payload_url", "https://inventory.example.com/hooks/{{ model }}")
    page.get_by_label("Sites", exact=True).check()
    page.locator("#id_try_object").wait_for()
    page.get_by_role("button", name="Show the request").click()
    page.locator("#wh-try-request").wait_for()


# The pictures of the docs by the names of their files.
IN_DOCS = {
    "status-page": Picture("status", 1000, part="body"),
    "delivery": Picture("delivery-failed", 1150, 1360),
    "list-narrow": Picture("delivery-list", 812, 375, "body"),
    "webhook-form": Picture("webhook-add", 1500, 1360, prepare=_fill_form),
    "why": Picture("why-event", 800, 1360),
    "run": Picture("run", 400, 1360),
}

QUALITY = 0.8  # of WebP
TO_WEBP = """async ([picture, quality]) => {
    const image = new Image()
    image.src = "data:image/png;base64," + picture
    await image.decode()
    const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height})
    canvas.getContext("2d").drawImage(image, 0, 0)
    return canvas.toDataURL("image/webp", quality).split(",")[1]
}"""


class Camera:
    """A context manager. It closes the browser at the end."""

    def __init__(self, chromium: str, url: str, language: str) -> None:
        self._chromium, self._url, self._language = chromium, url, language
        self._pages = dict(pages())  # now: Django refuses the database while Playwright runs

    def __enter__(self) -> Self:
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=self._chromium, args=FLAGS)
        return self

    def __exit__(self, *error: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def all_pages(self, folder: Path, only: str) -> None:
        """One PNG for each page and look."""
        folder.mkdir(parents=True, exist_ok=True)
        addresses = {name: address for name, address in self._pages.items() if only in name}
        for look_name, look in LOOKS.items():
            page = self._open(look)
            for name, address in addresses.items():
                self._show(page, address)
                page.screenshot(path=folder / f"{name}-{look_name}.png", full_page=True)
            page.context.close()
        print(f"{len(addresses) * len(LOOKS)} pictures are in {folder}.", flush=True)

    def for_docs(self, folder: Path, only: str) -> None:
        """The pictures of the docs, as WebP."""
        for file, picture in IN_DOCS.items():
            if only not in file:
                continue
            page = self._open(Look(picture.width, picture.height))
            self._show(page, self._pages[picture.page])
            picture.prepare(page)
            box: Any = page.locator(picture.part).first.bounding_box()
            clip = box | {"height": min(box["height"], picture.height)}
            png = base64.b64encode(page.screenshot(full_page=True, clip=clip)).decode()
            page.goto("about:blank")
            webp = base64.b64decode(page.evaluate(TO_WEBP, [png, QUALITY]))
            (folder / f"{file}.webp").write_bytes(webp)
            print(f"{folder / file}.webp: {len(webp) // 1000} kB", flush=True)
            page.context.close()

    def _open(self, look: Look) -> Page:
        scheme: Any = look.scheme
        context = self._browser.new_context(
            base_url=self._url, locale=self._language, color_scheme=scheme, reduced_motion="reduce",
            viewport={"width": look.width, "height": look.height},
        )  # fmt: skip
        page = context.new_page()
        page.goto("/admin/login/")
        page.fill("#id_username", EMAIL)
        page.fill("#id_password", PASSWORD)
        page.click("[type=submit]")
        return page

    def _show(self, page: Page, address: str) -> None:
        answer = page.goto(address)
        if answer is None or not answer.ok:
            raise RuntimeError(f"{address} answers {answer and answer.status}")


def pages() -> Iterator[tuple[str, str]]:
    """The name and the address of each page."""
    webhook, firewall = (Webhook.objects.get(name=name) for name in ("CMDB sync", "Firewall rules"))
    deliveries, events = Delivery.objects.order_by("-pk"), Event.objects.order_by("-pk")
    named: list[tuple[str, str, list[Any]]] = [
        ("index", "admin:index", []),
        ("app", "admin:app_list", ["rq_webhooks"]),
        ("status", "webhooks_backend_status", []),
        ("why", "webhooks_why", []),
        ("webhook-add", "admin:rq_webhooks_webhook_add", []),
        ("webhook", "admin:rq_webhooks_webhook_change", [webhook.pk]),
        ("webhook-history", "admin:rq_webhooks_webhook_history", [webhook.pk]),
        ("webhook-delete", "admin:rq_webhooks_webhook_delete", [webhook.pk]),
        *((f"{model}-list", f"admin:rq_webhooks_{model}_changelist", []) for model in MODELS),
    ]
    rows = {
        "delivery-failed": deliveries.failed().filter(webhook=firewall).first(),
        "delivery-refused": deliveries.filter(webhook=webhook, queued__failures__gt=0).first(),
        "delivery-succeeded": deliveries.in_states(State.SUCCEEDED).filter(webhook__name="DNS updater").last(),
        "delivery-waiting": deliveries.in_states(State.WAITING).first(),
        "event": events.filter(object_type="dcim.site", action="updated").first(),
        "event-failed": events.exclude(error="").first(),
        "run": Run.objects.order_by("-pk").first(),
    }
    for name, row in rows.items():
        if row is not None:
            named.append((name, f"admin:rq_webhooks_{row._meta.model_name}_change", [row.pk]))
    for name, view, arguments in named:
        yield name, reverse(view, args=arguments)
    yield "recover", f"{reverse('admin:rq_webhooks_webhook_recover', args=[firewall.pk])}?hours=24"
    yield "run-start", f"{reverse('admin:rq_webhooks_run_add')}?kind=discard&state=failed"
    if event := rows["event"]:
        yield "why-event", f"{reverse('webhooks_why')}?event={event.pk}"


MODELS = ("webhook", "delivery", "event", "skip", "run")

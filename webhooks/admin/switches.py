"""Enable, disable and resume webhooks: each with a log entry, and told in words."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest

from webhooks.admin.display import count_of
from webhooks.capture import recording
from webhooks.models import Webhook
from webhooks.operations import history


def turn(request: HttpRequest, chosen: QuerySet[Webhook], enabled: bool) -> None:
    """Enable or disable them. What is on file for those that are enabled goes out."""
    # Counted before: a list may show only those that are not yet what they become.
    already = chosen.filter(enabled=enabled).count()
    changed = [webhook for webhook in chosen.filter(enabled=not enabled) if _is_turned(webhook, enabled)]
    if enabled and changed:
        recording.wake_on_commit()
    word = "enabled" if enabled else "disabled"
    _finish(request, changed, f"{word.capitalize()}.", f"{word} now", already, f"{word} already")


def _is_turned(webhook: Webhook, enabled: bool) -> bool:
    webhook.enabled = enabled
    try:
        webhook.save_settings(["enabled"])
    except Webhook.DoesNotExist:
        return False  # deleted meanwhile
    return True


def tell_of_another(request: HttpRequest, webhook: Webhook) -> None:
    """A worker, or somebody else, switched it while somebody had its form open and left the switch alone."""
    state = "enabled" if webhook.enabled else "disabled"
    reason = f" ({webhook.disabled_reason})" if webhook.disabled_reason else ""
    told = f"“{webhook}” was {state} while its form was open, and stays so{reason}. Look at it again, and change that "
    messages.warning(request, f"{told} if you want it otherwise.")


def resume(request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Send to paused ones again at once, without waiting for their next probe."""
    count = chosen.count()
    paused = list(Webhook.objects.filter(pk__in=chosen.values("pk")).paused())
    Webhook.objects.filter(pk__in=[webhook.pk for webhook in paused]).resume()
    if paused:
        recording.wake_on_commit()
    _finish(request, paused, "Resumed.", "sent to again", count - len(paused), "not paused")


def _finish(
    request: HttpRequest, changed: Sequence[Webhook], logged: str, done: str, left: int, otherwise: str
) -> None:
    history.record(request.user, changed, history.CHANGE, logged)
    parts = [_sentence(len(changed), "is", "are", done)] if changed or not left else []
    parts += [_sentence(left, "was", "were", otherwise)] if left else []
    messages.add_message(request, messages.SUCCESS if changed else messages.WARNING, f"{'; '.join(parts)}.")


def _sentence(count: int, one: str, many: str, what: str) -> str:
    return f"{count_of(count, 'webhook')} {one if count == 1 else many} {what}"

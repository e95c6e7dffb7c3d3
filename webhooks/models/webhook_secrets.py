"""The secrets of webhooks: encrypted columns, and the overlap of a new secret with the one before."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.core.validators import MaxLengthValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.ground.security.encryption import EncryptedTextField, Secret
from webhooks.models.columns import EMPTY, alters_data, secret_fields

# The secrets that users enter, each with the label and the help of the box that clears it. The form, the REST API, the
# history, the import and copies follow this list: a new secret needs a column below, and its place in
# ``models.webhook.SECTIONS``.
CLEAR_BOXES: dict[str, tuple[Any, Any]] = {
    "secret": (_("Clear the secret"), _("Requests are no longer signed.")),
    "secret_headers": (_("Clear the secret headers"), ""),
}
CREDENTIAL_FIELDS = tuple(CLEAR_BOXES)

# The ones that requests carry. If another receiver got them, it could use them.
SENT_CREDENTIALS = ("secret_headers",)


class WebhookSecrets(models.Model):
    """The secret that signs the requests of a webhook, the one before it, and headers that stay hidden."""

    secret = EncryptedTextField(
        _("secret"),
        max_length=255,
        **EMPTY,
        validators=[MaxLengthValidator(255)],
        help_text=_("Signs each request, so that the receiver can verify the sender."),
    )
    previous_secret = EncryptedTextField(**EMPTY, editable=False)
    previous_secret_until = models.DateTimeField(
        _("previous secret until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Until then the previous secret signs, too."),
    )
    secret_headers = EncryptedTextField(
        _("secret headers"),
        max_length=8192,
        **EMPTY,
        validators=[MaxLengthValidator(8192)],
        help_text=_("Headers that stay hidden, such as Authorization. One “Name: value” a line."),
    )

    class Meta:
        abstract = True

    @alters_data
    def replace_secret(self, secret: Secret) -> None:
        """Sign with this secret from now on. Does not save.

        The previous secret signs, too, for ``SECRET_OVERLAP`` seconds, so that receivers can change without a gap. An
        empty secret ends all signing at once.
        """
        previous, self.secret = self.secret, secret
        if secret == previous:
            return
        self.forget_previous_secret()
        if secret and previous and not previous.problem and conf.secret_overlap:
            self.previous_secret = previous
            self.previous_secret_until = timezone.now() + timedelta(seconds=conf.secret_overlap)

    @alters_data
    def forget_previous_secret(self) -> None:
        """Sign with the current secret only. To save it, give "previous_secret" to ``save_settings``."""
        self.previous_secret, self.previous_secret_until = Secret(), None

    @alters_data  # as ``Secret.reveal``
    def overlapping_secret(self, now: datetime) -> str:
        """The previous secret if it still signs at the aware time ``now``, or "".

        If it cannot be decrypted, the current secret still signs. The check ``webhooks.E010`` reports the previous one.
        """
        is_over = self.previous_secret_until is None or to_utc(self.previous_secret_until) <= now
        return "" if is_over or self.previous_secret.problem else self.previous_secret.reveal()

    @property
    def unreadable(self) -> list[str]:
        """The secrets that no key decrypts, such as "secret headers". Nothing is sent until that is repaired."""
        return [name.replace("_", " ") for name in CREDENTIAL_FIELDS if getattr(self, name).problem]


SECRET_FIELDS = tuple(secret_fields(WebhookSecrets))

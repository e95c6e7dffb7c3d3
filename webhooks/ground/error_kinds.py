"""Why attempts fail: each kind of error, with a sentence about its cause and one about the remedy. Pure.

Pages, the REST API, e-mails and statistics use these kinds and texts. They contain no text from receivers, templates or
objects, so every user may read them. The kind is stored, and its texts are translated when they are shown.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto

from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _

# Translators: what the texts below call a receiver if its host is not known.
RECEIVER = _("the receiver")


class FaultOf(Enum):
    """Whose fault an error is. It decides what counts against a webhook, and when a worker stops sending."""

    RECEIVER = auto()
    """Of the receiver or of the webhook's settings: the failure counts."""
    RECEIVER_OR_CUT_OFF = auto()
    """Of the receiver, unless a fault of our own cut the request off."""
    OURS = auto()
    """Of our own, so the worker stops sending, and no attempt is counted."""
    OURS_IF_MANY = auto()
    """Of our own, if several hosts fail alike. Else of the receiver."""
    OURS_FOR_WEBHOOK = auto()
    """Of our own, for one webhook: this worker avoids it, and no attempt is counted."""
    DELIVERY = auto()
    """Of this one delivery: the failure says nothing about the receiver, and uses up no schedule."""


class ErrorKind(StrEnum):
    """The value is stored, and part of the REST API. ``label`` is a short text, and ``english`` the same for logs and
    stored reasons. ``{host}`` in the sentences is the receiver."""

    english: str
    fault: FaultOf
    _cause: str
    _remedy: str

    def __new__(cls, value: str, fault: FaultOf, label: str, cause: str, remedy: str) -> ErrorKind:
        member = str.__new__(cls, value)
        member._value_ = value
        member.fault, member.english, member._cause, member._remedy = fault, label, cause, remedy
        return member

    @property
    def label(self) -> str:
        return gettext(self.english)

    def cause(self, host: str = "") -> str:
        return _sentence(self._cause, host)

    def remedy(self, host: str = "") -> str:
        return _sentence(self._remedy, host)

    # fmt: off

    # No connection

    # Translators: {host} in the texts below is "https://cmdb.example.com", or the words for "the receiver". Choose
    # sentences that have it in the nominative.
    REFUSED = ("refused", FaultOf.RECEIVER, _("connection refused"),
        _("Nothing listens at {host}, or a firewall refuses the connection."),
        _("Start the receiver, or correct the host and port of the webhook's URL."))
    NAME_UNKNOWN = ("name_unknown", FaultOf.RECEIVER, _("the name does not resolve"),
        _("The name servers know no address for the name of {host}."),
        _("Correct the webhook's URL, or add the name to the DNS."))
    RESOLVER = ("resolver", FaultOf.OURS_FOR_WEBHOOK, _("name resolution failed"),
        _("The name of {host} could not be looked up: a name server failed or did not answer in time."),
        _("Check the name servers in /etc/resolv.conf of the worker's machine, then those of the receiver's domain."))
    UNREACHABLE = ("unreachable", FaultOf.OURS_IF_MANY, _("no route to the receiver"),
        _("The worker's machine has no network route to {host}."),
        _("Check the network and the firewall of the worker's machine, then those of the receiver."))
    CONNECT_TIMEOUT = ("connect_timeout", FaultOf.RECEIVER_OR_CUT_OFF, _("no connection in time"),
        _("{host} did not accept a connection in time."),
        _("Check that the machine of the receiver is up, and that no firewall drops the connection."))
    CONNECTION_FAILED = ("connection_failed", FaultOf.RECEIVER, _("connection failed"),
        _("The worker's system could not connect to {host}."),
        _("Look up the system's error in the reason of the attempt."))
    BLOCKED = ("blocked", FaultOf.RECEIVER, _("blocked destination"),
        _("The settings forbid requests to {host} or to one of its addresses."),
        _("If it may get requests, allow it in the settings, for example in ALLOW_NETWORKS."))

    # The proxy

    PROXY = ("proxy", FaultOf.OURS, _("the proxy does not work"),
        _("The proxy in the setting PROXY cannot be reached, or refuses the worker."),
        _("Start the proxy, or correct its address and password in the setting PROXY."))
    PROXY_TARGET = ("proxy_target", FaultOf.OURS_IF_MANY, _("the proxy did not connect"),
        _("The proxy in the setting PROXY answers, and did not connect to {host}."),
        _("Check that the receiver is up, and that the proxy may connect to it."))

    # TLS

    TLS_CERTIFICATE = ("tls_certificate", FaultOf.RECEIVER, _("TLS certificate not trusted"),
        _("The worker does not trust the certificate of {host}."),
        _("Renew the certificate if it has expired. For a private authority, enter its CA file in the webhook."))
    TLS = ("tls", FaultOf.RECEIVER, _("TLS failed"),
        _("{host} and the worker could not agree on an encrypted connection."),
        _("Check that the port of the webhook's URL serves HTTPS, and the TLS versions of the receiver."))
    TLS_TIMEOUT = ("tls_timeout", FaultOf.RECEIVER_OR_CUT_OFF, _("no TLS handshake in time"),
        _("{host} accepted the connection, but the TLS handshake did not end in time."),
        _("Check that the port of the webhook's URL serves HTTPS, and the load of the receiver."))
    CA_FILE = ("ca_file", FaultOf.RECEIVER, _("the CA file cannot be used"),
        _("The CA file of the webhook cannot be read on the worker's machine."),
        _("Put the file there, on the machine of each worker, or correct its path in the webhook."))

    # The answer

    ANSWER_TIMEOUT = ("answer_timeout", FaultOf.RECEIVER_OR_CUT_OFF, _("no answer in time"),
        _("{host} accepted the connection, but its answer did not end in time."),
        _("Let the receiver answer first and do its work afterwards, or raise the timeout of the webhook."))
    CLOSED = ("closed", FaultOf.RECEIVER_OR_CUT_OFF, _("connection closed by the receiver"),
        _("{host} closed the connection before its answer was complete."),
        _("Look into the log of the receiver, or of the load balancer before it, at the time of the attempt."))
    INVALID_HTTP = ("invalid_http", FaultOf.RECEIVER, _("the answer is no valid HTTP"),
        _("{host} answered something that is not HTTP."),
        _("Check the port of the webhook's URL. If an HTTPS server listens there, the URL must begin with https://."))
    ANSWER_TOO_LARGE = ("answer_too_large", FaultOf.RECEIVER, _("the answer is too large"),
        _("{host} answered with more than the worker reads."),
        _("Let the receiver answer briefly. The status is enough."))
    REDIRECT = ("redirect", FaultOf.RECEIVER, _("redirects are not followed"),
        _("{host} redirects to another URL, and redirects are not followed."),
        _("Enter the URL that the receiver redirects to in the webhook."))
    HTTP_401 = ("http_401", FaultOf.RECEIVER, _("HTTP 401 Unauthorized"),
        _("{host} does not accept the credentials, or there are none."),
        _("Compare the secret and the secret headers of the webhook with those of the receiver."))
    HTTP_403 = ("http_403", FaultOf.RECEIVER, _("HTTP 403 Forbidden"),
        _("{host} refuses this sender."),
        _("Check the permissions of the credentials at the receiver, and whether it allows the worker's address."))
    HTTP_404 = ("http_404", FaultOf.RECEIVER, _("HTTP 404 Not Found"),
        _("{host} does not know the path of the URL."),
        _("Correct the path in the webhook's URL."))
    HTTP_410 = ("http_410", FaultOf.RECEIVER, _("HTTP 410 Gone"),
        _("{host} wants no more deliveries, so the webhook was disabled."),
        _("Delete the webhook, or enter the new URL of the receiver and enable it."))
    HTTP_413 = ("http_413", FaultOf.RECEIVER, _("HTTP 413 Content Too Large"),
        _("The body is larger than {host} accepts."),
        _("Raise the receiver's limit, or send less: exclude fields, or write a body template."))
    HTTP_429 = ("http_429", FaultOf.RECEIVER, _("HTTP 429 Too Many Requests"),
        _("{host} accepts fewer requests than the webhook sends."),
        _("The worker sends as much as is accepted. Raise the receiver's limit, or send less with conditions."))
    HTTP_4XX = ("http_4xx", FaultOf.RECEIVER, _("HTTP 4xx"),
        _("{host} does not accept the request."),
        _("Read the receiver's answer. Often the method, the content type or the body differ from what it expects."))
    HTTP_500 = ("http_500", FaultOf.RECEIVER, _("HTTP 500 Internal Server Error"),
        _("{host} failed while it handled the request."),
        _("Look into the log of the receiver at the time of the attempt."))
    HTTP_502 = ("http_502", FaultOf.RECEIVER, _("HTTP 502 Bad Gateway"),
        _("The load balancer at {host} gets no valid answer from the receiver behind it."),
        _("Check that the receiver behind the load balancer runs."))
    HTTP_503 = ("http_503", FaultOf.RECEIVER, _("HTTP 503 Service Unavailable"),
        _("{host} is overloaded, or down for maintenance."),
        _("Wait for the receiver, or look at its load."))
    HTTP_504 = ("http_504", FaultOf.RECEIVER, _("HTTP 504 Gateway Timeout"),
        _("The load balancer at {host} gets no answer in time from the receiver behind it."),
        _("Look at the load of the receiver. Let it answer first and do its work afterwards."))
    HTTP_5XX = ("http_5xx", FaultOf.RECEIVER, _("HTTP 5xx"),
        _("{host} could not handle the request."),
        _("Read the receiver's answer, and its log at the time of the attempt."))
    HTTP_OTHER = ("http_other", FaultOf.RECEIVER, _("an HTTP status without success"),
        _("{host} answered with a status that is no success."),
        _("Read the receiver's answer. A receiver must answer with a status from 200 to 299."))

    # No request

    TEMPLATE = ("template", FaultOf.RECEIVER, _("a template failed"),
        _("A template of the webhook could not be rendered for this event, or its result cannot be sent."),
        _("Correct the template. The delivery shows its error to users who may change the webhook."))
    INVALID_URL = ("invalid_url", FaultOf.RECEIVER, _("the URL cannot be used"),
        _("Nothing can be sent to the URL of the webhook."),
        _("Correct the webhook's URL."))
    BODY_TOO_LARGE = ("body_too_large", FaultOf.RECEIVER, _("the body is too large"),
        _("The body of the request is larger than the app sends."),
        _("Let the body template write less, or exclude fields."))
    SECRET = ("secret", FaultOf.OURS_FOR_WEBHOOK, _("a secret cannot be decrypted"),
        _("The worker cannot decrypt the secret or the secret headers of the webhook with its keys."),
        _("Give each worker the same keys as the site, in ENCRYPTION_KEYS or SECRET_KEY, or enter the secret again."))
    INVALID_SECRET = ("invalid_secret", FaultOf.RECEIVER, _("a secret is invalid"),
        _("The secret or a secret header of the webhook does not have a valid form."),
        _("Enter the secret and the secret headers of the webhook again."))
    AUTH = ("auth", FaultOf.RECEIVER, _("the credentials could not be added"),
        _("The code in the setting AUTH that adds credentials for {host} failed, or a hook did not return in time."),
        _("Look for its error in the worker's log."))
    VETOED = ("vetoed", FaultOf.DELIVERY, _("a hook vetoed the request"),
        _("A hook of the project, from the setting HOOKS, refused to send this to {host}."),
        _("Read the reason of the attempt. If the cause is gone, retry the delivery."))
    SETTINGS = ("settings", FaultOf.OURS, _("the settings are invalid"),
        _("A setting of the worker that limits destinations is invalid, so the worker sends nothing."),
        _("Run manage.py check with the worker's settings, correct the setting and restart the worker."))
    RESOURCES = ("resources", FaultOf.OURS, _("the worker's system has no resources left"),
        _("The worker's system has no more threads, files or memory for it, so the worker could not send this."),
        _("Raise the limits of the worker's system, such as LimitNOFILE and TasksMax of systemd, or lower SENDERS."))
    WORKER_ENDED = ("worker_ended", FaultOf.DELIVERY, _("the worker ended while sending this, three times"),
        _("Three workers ended or stalled while they sent this delivery."),
        _("Look for a crash or a memory limit in the log of the worker and of its system."))
    OTHER = ("other", FaultOf.RECEIVER, _("another error"),
        _("The attempt failed for an unusual reason."),
        _("See the reason of the attempt, and the worker's log at that time."))

    # fmt: on


# The kinds by their stored values.
KINDS = {kind.value: kind for kind in ErrorKind}


def kind_of_status(status: int) -> ErrorKind:
    """The kind of an HTTP status that is no success."""
    if exact := KINDS.get(f"http_{status}"):
        return exact
    return {4: ErrorKind.HTTP_4XX, 5: ErrorKind.HTTP_5XX}.get(status // 100, ErrorKind.HTTP_OTHER)


def _sentence(template: str, host: str) -> str:
    text = gettext(template).replace("{host}", host or gettext(RECEIVER))
    return text if host else capfirst(text)

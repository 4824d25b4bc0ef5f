"""The targets of notifications, by apprise: https://appriseit.com. Their URLs hold secrets (promise F).

Apprise masks only some parts of a URL, and its log quotes servers. So of all that, only the name of the
service and an HTTP status are passed on.
"""

import logging
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import SecretStr

from batchlic.errors import UsageError
from batchlic.monitoring.alerts.bounded import Problem
from batchlic.monitoring.alerts.message import Message

if TYPE_CHECKING:
    from apprise import Apprise, AppriseResult

_STATUS = re.compile(r"\berror=([1-5]\d\d)\b")
"""How apprise quotes an HTTP status."""
_TALKATIVE = ("apprise", "paho", "pika", "requests", "slixmpp", "smpplib", "urllib3")
"""Loggers whose texts may hold a URL. Without handlers of their own, Python would print them."""


class Service:
    """One target. `label` is its setting, with a number if the setting has several URLs."""

    def __init__(self, label: str, apprise: "Apprise", name: str) -> None:
        self.label = label
        self.name = name
        self._apprise = apprise

    def __str__(self) -> str:
        return f"{self.name} ({self.label})"

    def send(self, message: Message) -> Problem:
        """Send a message; why it was not sent, or None."""
        from apprise import NotifyFormat, NotifyType  # noqa: PLC0415 - an extra

        result = self._apprise.notify(
            body=message.body,
            title=message.title,
            notify_type=NotifyType(message.level),
            body_format=NotifyFormat.TEXT.value,  # apprise escapes it where a service wants HTML
        )
        return None if result else _problem(result)


def services_of(targets: Mapping[str, SecretStr]) -> list[Service]:
    """The targets of these URLs, by label. Raises UsageError without apprise, or if it can't use a URL."""
    _silence()
    try:
        import apprise  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "the job's [notify] needs apprise, which is not installed: pip install 'batchlic[notify]'"
        ) from None

    asset = apprise.AppriseAsset(
        app_id="batchlic",
        app_desc="batchlic",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        interpret_emojis=False,
        service_timeout=0,  # with one, threads of a pool would keep the process from ending
        storage_mode="memory",
        pgp_autogen=False,
        pem_autogen=False,
    )
    services = []
    for label, url in targets.items():
        with warnings.catch_warnings(action="ignore"):  # its modules import deprecated ones
            plugin = apprise.Apprise.instantiate(url.get_secret_value(), asset=asset)
        if plugin is None:
            raise UsageError(
                f"{label}: apprise can't use this URL: https://appriseit.com/services shows the form of each "
                "service's URL. Try it with `batchlic notify-test JOB.toml`"
            )
        manager = apprise.Apprise(asset=asset)
        manager.add(plugin)
        services.append(Service(label, manager, str(plugin.service_name)))
    return services


def _problem(result: "AppriseResult") -> str:
    found = {match[1] for entry in result.logs() for match in _STATUS.finditer(entry.message)}
    if found:
        return f"HTTP {', '.join(sorted(found))}"
    return "it can't be reached, or it refuses the message"


def _silence() -> None:
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.propagate = False
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())

"""Colors on terminals, drawn by Rich. NO_COLOR turns them off, FORCE_COLOR on; TERM=dumb has none."""

import os
from typing import TextIO

_WITHOUT_COLORS = {"", "dumb", "unknown"}
"""Values of TERM for terminals that only show text."""


def shows_colors(stream: TextIO) -> bool:
    """Whether text in `stream` may have colors: by https://no-color.org, then https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "") not in _WITHOUT_COLORS


def paint(text: str, style: str, stream: TextIO) -> str:
    """Text for `stream` in a style of Rich, such as `bold red`; as it is if the stream has no colors."""
    if not text or not shows_colors(stream):
        return text
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

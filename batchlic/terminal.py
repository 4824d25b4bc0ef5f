"""What may reach a terminal: text from inventories and carrier is shown as data, never obeyed."""


def printable(text: str) -> str:
    """Text from outside on one line, control characters as escapes: they could rewrite the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))

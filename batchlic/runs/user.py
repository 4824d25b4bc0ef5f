"""Who runs this process."""

import os
import pwd


def user_name() -> str:
    """The user of the operating system."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"uid {os.getuid()}"

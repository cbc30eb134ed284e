"""Settings that nobody is to read over a shoulder."""

import os
from pathlib import Path
from typing import Final

SIZE_MAX_BYTES: Final = 65_536
MASK: Final = "***"


class Secret(str):
    """A text that is shown as `***`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret({MASK!r})" if self else "Secret('')"

    @classmethod
    def read(cls, given: str) -> "Secret":
        """The secret itself; `file:PATH` is the file's content without its last line break, `env:NAME` a variable's.

        :raises ValueError: there is no such file or variable.
        """
        if given.startswith("file:"):
            path = Path(given.removeprefix("file:"))
            try:
                with path.open("rb") as file:
                    text = file.read(SIZE_MAX_BYTES).decode()
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ValueError(f"{path}: is not UTF-8") from None
            return cls(text.removesuffix("\n").removesuffix("\r"))
        if given.startswith("env:"):
            name = given.removeprefix("env:")
            if name not in os.environ:
                raise ValueError(f"there is no environment variable {name}")
            return cls(os.environ[name])
        return cls(given)

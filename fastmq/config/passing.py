"""The settings on their way from a parent to its workers, in a file without a name.

A worker that is started again must not read them itself: what was changed meanwhile may need a restart of all, or be
wrong.
"""

import os
import pickle
import tempfile
from typing import BinaryIO

from fastmq.config.schema import Config


def passed(config: Config, folder: str) -> BinaryIO:
    """The file, for the descriptor that a worker inherits; it lies in `folder`, where nobody sees it."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    pickle.dump(config, file)
    file.flush()
    return file


def received(descriptor: int) -> Config:
    """What is in the file of that descriptor, which is then closed."""
    # From the parent alone: the file never had a name that anybody else could open it by.
    with os.fdopen(os.dup(descriptor), "rb") as file:
        os.close(descriptor)
        found = pickle.loads(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
    assert isinstance(found, Config)
    return found

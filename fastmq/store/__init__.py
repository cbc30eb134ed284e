"""The store room: what must outlive the broker, on a disk (`sqlite.py`) or in memory (`memory.py`), as records."""

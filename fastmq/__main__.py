"""`python -m fastmq` is the `fastmq` command."""

from fastmq.cli import main

if __name__ == "__main__":
    main()

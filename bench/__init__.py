"""Load benches: fastmq and its rivals under the same load, side by side. `python -m bench --help`; see README.md."""

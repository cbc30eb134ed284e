"""Brokers of several workers, and of several hosts."""

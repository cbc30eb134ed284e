"""The uvloop shell of one worker: what needs Python, the clock, the log or the network's names."""

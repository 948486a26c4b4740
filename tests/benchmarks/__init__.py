"""Measurements of what the project claims: ``python -m tests.benchmarks [NAME ...]`` prints one line per claim.

A *claim* has a name, our number, a peer's number, their ratio, and the bar that the project set itself. Ours and the
peer's are measured in turns, so that a machine that slows down slows both; a ratio is the median of the turns' ratios.
What was timed in part and multiplied is said on the line.
"""

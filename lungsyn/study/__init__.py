"""A study as a whole, before and while it runs: its start from a folder of data, what it will cost, its one line."""

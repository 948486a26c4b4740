"""Folders for a repository of data or models: what was found of a set or a generator, told to strangers."""

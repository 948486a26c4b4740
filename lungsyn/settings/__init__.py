"""The study's configuration, a file for each section of ``config.yaml``: frozen, checked models. No torch."""

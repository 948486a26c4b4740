"""Datasets: how their cases are found and read. One module here is one dataset; see ``lungsyn.registry``."""

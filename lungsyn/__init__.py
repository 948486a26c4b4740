"""Does synthetic data help my nodule segmenter, by how much, and can I share it?"""

__version__ = "0.1.0"

"""What finds nodules: one file for each kind of segmenter (see ``lungsyn.registry``), and what they share in ``core``.

Every arm is trained by the same code for the same time. No family's module loads torch before it trains or predicts,
so that a config can be checked without it.
"""

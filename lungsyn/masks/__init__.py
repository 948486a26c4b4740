"""Sources of masks: what a synthetic volume is made from. One module here is one kind; see ``lungsyn.registry``."""

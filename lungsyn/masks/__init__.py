"""Sources of masks: which masks a synthetic volume is made from. One module here is one kind; see ``lungsyn.registry``."""

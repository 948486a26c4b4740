"""What generators share that learn from patches and make volumes of them.

Terms and symbols. ``x_0`` clean values in the model range, ``x_t`` the same at timestep ``t`` (1 ... T; 0 is clean),
``abar`` (alphas_cumprod) the share of signal left: ``x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise``. A *denoiser* is
any callable ``(x_t, t) -> x_0``: an exact one in a test, a network on a patch, many patches blended into a volume.
Samplers see nothing else. Axes are ``[b c x y z]`` for batches of patches and ``[x y z]`` for volumes.
"""

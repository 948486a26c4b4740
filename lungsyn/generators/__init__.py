"""Generators: families that make the CT of a scene. One module here is one kind; see ``lungsyn.registry``.

``core``: what the families that learn from patches share; it names none of them. ``networks``: their networks.
"""

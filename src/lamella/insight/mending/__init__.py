"""Mending, by the place of the damage; each module says how, ``heal`` says when."""

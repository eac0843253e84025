"""How fast: the op and the models beside their peers, on the machine at hand. What `halonet bench` runs."""

"""Training on Lightning. Only the modules that run a trainer import it; `config` and `predict` do not."""

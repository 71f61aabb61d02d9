"""How other frameworks are told where a model is cut."""

"""Files of models and clusters: layers, decoders by their shape, profiles of PipeDream."""

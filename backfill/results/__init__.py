"""What the verbs answer: frozen, typed, with as_dict()."""

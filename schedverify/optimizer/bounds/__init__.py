"""Lower bounds that need no search, with what each is made of."""

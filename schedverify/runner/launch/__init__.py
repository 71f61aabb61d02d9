"""How a run begins: a model from its function, cut by the plan, in processes of this machine or of many."""

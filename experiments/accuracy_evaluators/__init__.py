"""How well cheap evaluators of accuracy rank candidates."""

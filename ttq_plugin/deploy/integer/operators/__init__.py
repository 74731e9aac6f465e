"""Operators of sequences on integers: one family a module, from the program's step to the integers."""

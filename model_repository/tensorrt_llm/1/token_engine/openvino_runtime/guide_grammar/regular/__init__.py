"""Parts of regexes, and the automaton of a list of strings."""

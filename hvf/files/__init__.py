"""Files from outside: what reading one may cost, parsers tried in a process of their own, what was found out before."""

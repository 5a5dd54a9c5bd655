"""The data manager's decisions as named strategies: which task next, and how many episodes it gets.

Each is a pure function of recorded state, so that a simulator can drive the very objects that run.
"""

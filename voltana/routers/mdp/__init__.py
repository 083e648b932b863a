"""MDPRouter: a look at all that follows, by value iteration over the pool of instances."""

from voltana.routers.mdp.router import MDPRouter, at_once, in_background

__all__ = ["MDPRouter", "at_once", "in_background"]

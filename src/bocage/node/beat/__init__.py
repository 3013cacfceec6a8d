"""The beat: a small process of its own that tells the store that this host lives, and the guard what was confirmed.

It has no other duty: a daemon that is down, upgraded or slow is no dead host.
"""

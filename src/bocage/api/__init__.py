"""REST, events, authentication: what programs and people ask, answered from the store and by the node."""

"""A ground of several hosts on one machine, each a set of namespaces with a BMC outside of them: see script/cluster."""

"""The engine for many hosts: the contract over etcd, through the HTTP gateway of its members.

`engine` is the store: its `pen` writes, its `reader` reads, its `feed` watches. `gateway` speaks to the members that
`access` names; `records` knows what lies where in etcd; `founding` says which store it is.
"""

"""Being part of a cluster: certificates, etcd's process on this host, how a cluster begins and how a host joins it."""
